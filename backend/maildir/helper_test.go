package maildir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waypost/backend/journal"
	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
	"waypost/director"
	"waypost/internal/vfs"
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

// testUser is whose mailbox most tests are about.
const testUser = "u@example.test"

// setup is one user's mailbox for a test.
type setup struct {
	t       testing.TB
	fs      vfs.FS
	base    string
	root    string
	guard   *guard
	limit   mailbox.Limit
	journal *journal.Journal
	stager  *Stager
	a       *Account
	b       mailbox.Box
	opts    func(*Options)
}

// newSetup makes one on the machine's file system.
func newSetup(t testing.TB, change func(*Options)) *setup {
	t.Helper()
	return newSetupOn(t, vfs.OS, t.TempDir(), change)
}

func newSetupOn(t testing.TB, fsys vfs.FS, base string, change func(*Options)) *setup {
	t.Helper()
	s := &setup{t: t, fs: fsys, base: base, root: filepath.Join(base, "user"), guard: &guard{}, opts: change}
	must(t, vfs.MkdirAll(fsys, filepath.Join(base, "incoming"), 0o700))
	must(t, Create(fsys, s.root))
	s.boot()
	s.open()
	t.Cleanup(func() {
		_ = s.a.Close()
		_ = s.journal.Close()
	})
	return s
}

// bootJournal does what a backend does before it serves: it replays the journal
// in base for the users in base, and starts it.
func bootJournal(fsys vfs.FS, base string, segment int64, outbox Outbox, log *slog.Logger, users ...director.User) (*journal.Journal, *Stager, error) {
	j, err := journal.Open(journal.Options{
		FS: fsys, Dir: filepath.Join(base, "journal"), SegmentBytes: segment, Interval: time.Hour, Sync: base, Log: log,
	})
	if err != nil {
		return nil, nil, err
	}
	var r Replay
	err = j.Replay(func(rec journal.Record) error {
		if rec.User == "" {
			return nil
		}
		return r.Add(director.User(rec.User), rec)
	})
	p := Replayer{FS: fsys, Incoming: filepath.Join(base, "incoming"), Read: j.Read, Outbox: outbox, Log: log, Now: time.Now}
	for _, u := range users {
		if err == nil {
			err = p.Apply(&r, u, rootOf(base, u))
		}
	}
	if err == nil {
		err = j.Start()
	}
	var stager *Stager
	if err == nil {
		stager, err = NewStager(fsys, j, filepath.Join(base, "incoming"))
	}
	if err != nil {
		return nil, nil, errors.Join(err, j.Close())
	}
	return j, stager, nil
}

// rootOf is the folder of a user in base.
func rootOf(base string, u director.User) string {
	if u == testUser {
		return filepath.Join(base, "user")
	}
	return filepath.Join(base, string(u))
}

// boot starts the journal, which is replayed first.
func (s *setup) boot() {
	s.t.Helper()
	var err error
	s.journal, s.stager, err = bootJournal(s.fs, s.base, 1<<20, nil, s.log(), testUser)
	must(s.t, err)
}

func (s *setup) log() *slog.Logger { return slog.New(slog.NewTextHandler(s.t.Output(), nil)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *setup) options() Options {
	o := Options{
		FS: s.fs, Journal: s.journal, User: testUser,
		Root: s.root, Guard: s.guard, Limit: func() mailbox.Limit { return s.limit },
		Log: s.log(), Now: time.Now, Host: "test", Recount: !s.journal.Clean(), Views: "test",
	}
	if !s.journal.Clean() {
		o.Killed = time.Now()
	}
	if s.opts != nil {
		s.opts(&o)
	}
	return o
}

func (s *setup) open() {
	s.t.Helper()
	a, err := Open(s.options())
	must(s.t, err)
	a.viewLeast = 0 // so that all tests meet views
	s.a = a
	s.b = a.Box(testUser, 0, nil)
	// Some tests reach into it without its lock.
	a.counters.Wait()
}

// one is a delivery to one place.
func one(id string, m mailbox.Staged, folder string, force bool) mailbox.Delivery {
	return mailbox.Delivery{ID: id, Message: m, Places: []mailbox.Place{{Folder: folder}}, Force: force}
}

func (s *setup) reopen() {
	s.t.Helper()
	s.b.Close()
	must(s.t, s.a.Close())
	s.open()
}

// shut ends everything cleanly, the journal too.
func (s *setup) shut() {
	s.t.Helper()
	s.b.Close()
	must(s.t, s.a.Close())
	must(s.t, s.journal.Close())
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
	must(s.t, s.b.Deliver(context.Background(), one(id, m, folder, false)))
}

func (s *setup) append(folder, text string, flags mailbox.Flags) mailbox.UID {
	s.t.Helper()
	m := s.stage(text)
	defer m.Discard()
	uid, err := appendOne(s.b, folder, m, flags, time.Time{})
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
	for _, m := range s.Messages.All() {
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

// files lists the names in a folder of the Maildir that can be messages, in the
// order in which they came.
func (s *setup) files(parts ...string) []string {
	s.t.Helper()
	var list []string
	must(s.t, eachMessage(s.fs, s.path(parts...), func(file string, _ name.Name) error {
		list = append(list, file)
		return nil
	}))
	slices.Sort(list)
	name.Sort(list, func(file string) string {
		n, _ := name.Parse(file)
		return n.Base
	})
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

// appendOne appends one message and gives its UID.
func appendOne(b mailbox.Box, folder string, m mailbox.Staged, flags mailbox.Flags, date time.Time) (mailbox.UID, error) {
	r, err := b.Append(folder, []mailbox.NewMessage{{Message: m, Flags: flags, Date: date}})
	if err != nil {
		return 0, err
	}
	return r.UIDs[0], nil
}
