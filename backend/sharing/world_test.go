package sharing

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/memory"
	"waypost/director"
)

const (
	ann = director.User("ann@example.test")
	bob = director.User("bob@example.test")
	cy  = director.User("cy@example.test")
)

// world is a backend in small: who shares with whom, and where they are.
type world struct {
	*memory.Store
	t      testing.TB
	shares *Shares

	mu     sync.Mutex
	epochs map[director.User]director.Epoch // 0: elsewhere
	coming map[director.User]bool
	asked  int // whether somebody comes
	opened int
}

func newWorld(t testing.TB, users ...director.User) *world {
	w := &world{Store: memory.New(), t: t, shares: NewShares(nil), epochs: map[director.User]director.Epoch{}, coming: map[director.User]bool{}}
	for _, u := range users {
		w.serve(u, 1)
	}
	return w
}

// serve has a user served here at an epoch, 0 for not.
func (w *world) serve(u director.User, epoch director.Epoch) {
	w.mu.Lock()
	w.epochs[u] = epoch
	w.mu.Unlock()
	if epoch == 0 {
		w.Freeze(u)
	} else {
		w.Serve(u, "b1", epoch)
	}
}

func (w *world) Others(viewer director.User) (all []director.User) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for u, epoch := range w.epochs {
		if u != viewer && epoch != 0 {
			all = append(all, u)
		}
	}
	slices.Sort(all)
	return all
}

func (w *world) Epoch(_, owner director.User) (director.Epoch, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.epochs[owner], w.epochs[owner] != 0
}

func (w *world) Shares(_, owner director.User) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, is := w.epochs[owner]
	return is
}

func (w *world) Coming(_, owner director.User) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	return w.coming[owner]
}

// asksFor waits until it was asked n times more whether somebody comes.
func (w *world) asksFor(n int) {
	asks := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.asked
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for from, end := asks(), time.Now().Add(patience); asks() < from+n && time.Now().Before(end); {
		<-tick.C
	}
}

// expect has an owner come, or not any more.
func (w *world) expect(u director.User, coming bool) {
	w.mu.Lock()
	w.coming[u] = coming
	w.mu.Unlock()
}

func (w *world) Open(owner director.User, epoch director.Epoch) (mailbox.Box, error) {
	w.mu.Lock()
	w.opened++
	w.mu.Unlock()
	b, err := w.Store.Open(context.Background(), owner, "b1", epoch)
	if err != nil {
		return nil, err
	}
	return Told(b, w.shares), nil
}

func (w *world) opens() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.opened
}

// own is a user's own mailbox.
func (w *world) own(u director.User) mailbox.Box {
	w.t.Helper()
	b, err := w.Open(u, 1)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(b.Close)
	return b
}

// view is what others share with a user.
func (w *world) view(u director.User) *Box {
	b := New(u, w, w.shares, slog.New(slog.DiscardHandler))
	w.t.Cleanup(b.Close)
	return b
}

func (w *world) stage(text string) mailbox.Staged {
	w.t.Helper()
	m, err := w.Stage(context.Background(), "", strings.NewReader(text), 0)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(m.Discard)
	return m
}

var _ interface {
	Stage(context.Context, string, io.Reader, int64) (mailbox.Staged, error)
} = (*world)(nil)

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// put appends a message as its owner.
func (w *world) put(b mailbox.Box, folder string, flags mailbox.Flags) mailbox.UID {
	w.t.Helper()
	r, err := b.Append(folder, []mailbox.NewMessage{{Message: w.stage("Subject: x\n\ny\n"), Flags: flags, Date: time.Unix(1e9, 0)}})
	w.must(err)
	return r.UIDs[0]
}

func is(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}
