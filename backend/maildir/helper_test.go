package maildir

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
	"waypost/director"
)

// guard is a user's lock with a fence that serves epochs from the one it holds.
type guard struct {
	mu    sync.Mutex
	epoch atomic.Uint64
}

func (g *guard) Enter(epoch director.Epoch) (func(), error) {
	g.mu.Lock()
	if uint64(epoch) != g.epoch.Load() {
		g.mu.Unlock()
		return nil, mailbox.ErrStale
	}
	return g.mu.Unlock, nil
}

// setup is one user's mailbox for a test.
type setup struct {
	t      testing.TB
	root   string
	guard  *guard
	limit  mailbox.Limit
	stager *Stager
	a      *Account
	b      mailbox.Box
	opts   func(*Options)
}

func newSetup(t testing.TB, change func(*Options)) *setup {
	t.Helper()
	base := t.TempDir()
	s := &setup{t: t, root: filepath.Join(base, "user"), guard: &guard{}, opts: change}
	must(t, os.Mkdir(filepath.Join(base, "incoming"), 0o700))
	must(t, Create(s.root))
	var err error
	s.stager, err = NewStager(filepath.Join(base, "incoming"))
	must(t, err)
	s.open(false)
	t.Cleanup(func() { _ = s.a.Close() })
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *setup) options(recovering bool) Options {
	o := Options{
		Root: s.root, Guard: s.guard, Limit: func() mailbox.Limit { return s.limit },
		Log: slog.New(slog.NewTextHandler(s.t.Output(), nil)), Now: time.Now, Host: "test", Recover: recovering,
	}
	if s.opts != nil {
		s.opts(&o)
	}
	return o
}

func (s *setup) open(recovering bool) {
	s.t.Helper()
	a, err := Open(s.options(recovering))
	must(s.t, err)
	s.a = a
	s.b = a.Box("u@example.test", 0, nil)
}

func (s *setup) reopen() {
	s.t.Helper()
	s.b.Close()
	must(s.t, s.a.Close())
	s.open(false)
}

func (s *setup) stage(text string) mailbox.Staged {
	s.t.Helper()
	m, err := s.stager.Stage(context.Background(), "", strings.NewReader(text), 0)
	must(s.t, err)
	return m
}

func (s *setup) deliver(id, text, folder string) {
	s.t.Helper()
	m := s.stage(text)
	defer m.Discard()
	must(s.t, s.b.Deliver(context.Background(), id, m, folder, false))
}

func (s *setup) append(folder, text string, flags mailbox.Flags) mailbox.UID {
	s.t.Helper()
	m := s.stage(text)
	defer m.Discard()
	_, uid, err := s.b.Append(folder, m, flags, time.Time{})
	must(s.t, err)
	return uid
}

func (s *setup) folder(folder string) mailbox.Folder {
	s.t.Helper()
	f, err := s.b.Folder(folder)
	must(s.t, err)
	return f
}

func (s *setup) snapshot(f mailbox.Folder) mailbox.Snapshot {
	s.t.Helper()
	snap, err := f.Snapshot()
	must(s.t, err)
	return snap
}

func (s *setup) read(f mailbox.Folder, uid mailbox.UID) string {
	s.t.Helper()
	b, err := f.Open(uid)
	must(s.t, err)
	defer b.Close()
	data, err := io.ReadAll(b)
	must(s.t, err)
	if int64(len(data)) != b.WireSize() {
		s.t.Fatalf("%d bytes, said %d", len(data), b.WireSize())
	}
	return string(data)
}

// uids gives the UIDs of a snapshot.
func uids(s mailbox.Snapshot) []mailbox.UID {
	var all []mailbox.UID
	for _, m := range s.Messages {
		all = append(all, m.UID)
	}
	return all
}

func same[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func sameList[T comparable](t testing.TB, what string, got []T, want ...T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// path is a path in the Maildir.
func (s *setup) path(parts ...string) string {
	return filepath.Join(append([]string{s.root, maildirName}, parts...)...)
}

// files lists the names in a folder of the Maildir that can be messages.
func (s *setup) files(parts ...string) []string {
	s.t.Helper()
	var list []string
	must(s.t, eachMessage(s.path(parts...), func(file string, _ name.Name) error {
		list = append(list, file)
		return nil
	}))
	slices.Sort(list)
	return list
}

// quotaIsExact compares the quota log with the names.
func (s *setup) quotaIsExact() {
	s.t.Helper()
	logged, err := s.b.Usage()
	must(s.t, err)
	counted, err := s.a.count()
	must(s.t, err)
	if logged != counted {
		s.t.Fatalf("quota log says %+v, names say %+v", logged, counted)
	}
}

func words(words ...string) mailbox.Flags { return mailbox.Flags{Keywords: words} }

func system(flags mailbox.System) mailbox.Flags { return mailbox.Flags{System: flags} }

func text(i int) string { return fmt.Sprintf("Subject: %d\r\n\r\nbody %d\r\n", i, i) }
