package maildir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/backend/mailbox"
	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

// watchedFS calls seen at each name of a message that is listed.
type watchedFS struct {
	vfs.FS
	seen func(dir string) error
}

func (w *watchedFS) ReadDir(dir string, visit func(fs.DirEntry) error) error {
	return w.FS.ReadDir(dir, func(e fs.DirEntry) error {
		if strings.HasSuffix(dir, "/cur") || strings.HasSuffix(dir, "/new") {
			if err := w.seen(dir); err != nil {
				return err
			}
		}
		return visit(e)
	})
}

// TestDeliveryWhileCounting has a recount stand still in the middle of a folder.
func TestDeliveryWhileCounting(t *testing.T) {
	held, release := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	hold := false
	w := &watchedFS{FS: vfs.OS}
	w.seen = func(dir string) error {
		if hold && strings.HasSuffix(dir, "user/Maildir/cur") {
			stand(&once, held, release)
		}
		return nil
	}
	s := newSetupOn(t, w, t.TempDir(), nil)
	for i := range 10 {
		s.append("INBOX", text(i), mailbox.Flags{})
	}
	must(t, s.b.CreateFolder("A", ""))
	f := s.folder("INBOX")
	s.snapshot(f)
	s.limit = mailbox.Limit{Messages: 20}
	s.a.mu.Lock()
	hold = true // before the recount begins, and unchanged from here on
	s.a.recount = true
	s.a.mu.Unlock()
	counted := make(chan error, 1)
	go func() {
		_, err := s.b.Usage()
		counted <- err
	}()
	await(t, "the recount lists INBOX", held)
	done := make(chan struct{})
	var err error
	m := s.stage(text(11))
	defer m.Discard()
	go func() {
		defer close(done)
		deliver := func() error { return s.b.Deliver(context.Background(), one("d", m, "", false)) }
		_, appendErr := appendOne(s.b, "A", m, mailbox.Flags{}, time.Time{})
		_, flagErr := f.SetFlags([]mailbox.UID{2}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: system(mailbox.Seen)})
		_, expungeErr := f.Expunge([]mailbox.UID{1, 5})
		_, moveErr := f.Move([]mailbox.UID{3}, "A")
		err = errors.Join(deliver(), appendErr, flagErr, expungeErr, moveErr, s.b.RenameFolder("A", "B"))
	}()
	await(t, "operations beside a recount", done)
	must(t, err)
	// Who would be turned away waits for what is counted, and nobody else.
	s.limit.Messages = 5
	refused := make(chan error, 1)
	go func() { refused <- s.b.Fits(1) }()
	deferred, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.b.Deliver(deferred, one("e", m, "", false)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	must(t, s.b.Deliver(context.Background(), one("f", m, "", true)))
	close(release)
	if err := <-refused; !errors.Is(err, mailbox.ErrOverQuota) {
		t.Error(err)
	}
	must(t, <-counted)
	s.quotaIsExact()
}

// stand has the first that comes wait for release.
func stand(once *atomic.Bool, held, release chan struct{}) {
	if once.CompareAndSwap(false, true) {
		close(held)
		<-release
	}
}

func await(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatal("waited too long: ", what)
	}
}

// TestCloseWhileCounting: what has not been counted is counted then.
func TestCloseWhileCounting(t *testing.T) {
	held, release := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	hold := false
	w := &watchedFS{FS: vfs.OS}
	w.seen = func(string) error {
		if hold {
			stand(&once, held, release)
		}
		return nil
	}
	s := newSetupOn(t, w, t.TempDir(), nil)
	s.deliver("1", text(1), "")
	s.a.mu.Lock()
	hold = true
	must(t, s.a.quota.Add(1000, 7)) // wrong
	r := s.a.startRecount()
	s.a.mu.Unlock()
	await(t, "the recount lists INBOX", held)
	must(t, s.a.Flushed())
	closed := make(chan error, 1)
	go func() { closed <- s.a.Close() }()
	close(release)
	must(t, <-closed)
	if !errors.Is(r.err, errStopped) {
		t.Error(r.err)
	}
	s.open()
	s.quotaIsExact()
}

// TestRecountFails: a mailbox that cannot be counted says so, and is counted later.
func TestRecountFails(t *testing.T) {
	clock := time.Now()
	bad := error(syscall.EIO)
	w := &watchedFS{FS: vfs.OS, seen: func(string) error { return nil }}
	s := newSetupOn(t, w, t.TempDir(), func(o *Options) { o.Now = func() time.Time { return clock } })
	s.deliver("1", text(1), "")
	s.limit = mailbox.Limit{Messages: 5}
	s.a.mu.Lock()
	w.seen = func(string) error { return bad }
	s.a.recount = true
	s.a.mu.Unlock()
	if _, err := s.b.Usage(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if err := s.b.Fits(1); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	bad = nil
	s.quotaIsExact()
	must(t, s.b.Fits(1))
}

// meddler does what sessions do, from within the listing of a recount.
type meddler struct {
	*setup
	rng    *rand.Rand
	steps  atomic.Int64 // how many are still to be done in this recount
	random int          // of so many names, one makes it do a step
	count  int
	err    error
	// down: the disk is.
	down atomic.Bool
}

// seen is called at each name; who lists without the lock is a recount.
func (m *meddler) seen(string) error {
	if m.steps.Load() == 0 || m.rng.IntN(m.random) > 0 || !m.a.mu.TryLock() {
		return nil
	}
	m.a.mu.Unlock()
	for n := 1 + m.rng.IntN(3); n > 0 && m.steps.Load() > 0; n-- {
		m.steps.Add(-1)
		if err := m.step(); err != nil && !m.down.Load() {
			m.err = err
			m.steps.Store(0)
		}
	}
	return nil
}

func (m *meddler) step() error {
	names := []string{"INBOX", "A", "B"}
	from, to := names[m.rng.IntN(3)], names[m.rng.IntN(3)]
	m.count++
	text := fmt.Sprint("Subject: ", m.count, "\n\n", strings.Repeat("x", m.rng.IntN(99)), "\n")
	s, err := m.stager.Stage(context.Background(), "", strings.NewReader(text), 0)
	if err != nil {
		return err
	}
	defer s.Discard()
	what := m.rng.IntN(11)
	var some []mailbox.UID
	f, err := m.b.Folder(from)
	if what >= 3 && what < 8 && err == nil {
		snap, snapErr := f.Snapshot() // collects
		for _, x := range snap.Messages.All() {
			if m.rng.IntN(3) == 0 {
				some = append(some, x.UID)
			}
		}
		err = snapErr
	}
	if err == nil {
		switch what {
		case 0, 1:
			err = m.b.Deliver(context.Background(), one(fmt.Sprint(m.count), s, from, false))
		case 2:
			_, err = appendOne(m.b, from, s, mailbox.Flags{}, time.Time{})
		case 3, 4:
			_, err = f.SetFlags(some, mailbox.FlagChange{Op: mailbox.FlagOp(1 + m.rng.IntN(2)), Flags: system(mailbox.Flagged)})
		case 5:
			_, err = f.Expunge(some)
		case 6:
			_, err = f.Move(some, to)
		case 7:
			_, err = f.Copy(some, to)
		}
	}
	switch what {
	case 8:
		err = m.b.CreateFolder(to, "")
	case 9:
		err = m.b.RenameFolder(from, to)
	case 10:
		if m.rng.IntN(2) == 0 {
			err = m.b.DeleteFolder(from)
		}
	}
	for _, is := range []error{mailbox.ErrNoFolder, mailbox.ErrFolderExists, mailbox.ErrBadName} {
		if errors.Is(err, is) {
			return nil
		}
	}
	return err
}

// exact checks that all went well so far.
func (m *meddler) exact() {
	m.t.Helper()
	_, err := m.b.Usage() // when the recount has ended
	must(m.t, err)
	m.steps.Store(0)
	m.quotaIsExact()
	must(m.t, m.err)
}

// TestRecountAmidChanges has deliveries, appends, flag changes, expunges, moves,
// copies, and changes of folders happen between any two names that a recount lists,
// and crashes. The log is what the names say whenever a recount has ended.
func TestRecountAmidChanges(t *testing.T) {
	checks(t, "30")
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		rounds := rapid.SliceOfN(rapid.Int64Range(0, 30), 1, 6).Draw(rt, "steps")
		m := &meddler{rng: rand.New(rand.NewPCG(seed, 1)), random: rapid.IntRange(1, 5).Draw(rt, "random")}
		disk := crashfs.New(seed)
		w := &watchedFS{FS: disk, seen: m.seen}
		m.setup = &setup{t: t, fs: w, base: "/data", root: "/data/user", guard: &guard{}}
		m.opts = func(o *Options) { o.Log = slog.New(slog.DiscardHandler) }
		must(t, vfs.MkdirAll(disk, "/data/incoming", 0o700))
		must(t, Create(disk, m.root))
		m.boot()
		m.open()
		for range 30 {
			must(t, m.step())
		}
		for _, steps := range rounds {
			m.a.mu.Lock()
			m.a.recount = true
			m.a.mu.Unlock()
			if m.rng.IntN(2) == 0 {
				must(t, m.step()) // before anybody asks
			}
			m.steps.Store(steps)
			m.exact()
			if m.rng.IntN(3) > 0 {
				continue
			}
			// A crash amid a recount that changes happen in.
			m.a.mu.Lock()
			m.steps.Store(steps)
			r := m.a.startRecount()
			m.a.mu.Unlock()
			m.down.Store(true)
			after := disk.Crash(rand.New(rand.NewPCG(seed, 3)))
			<-r.ended
			m.steps.Store(0)
			dead := m.journal.Append("x", 0, nil, []byte{0})
			_ = dead.Wait() // the disk is down
			dead.Applied()
			_ = m.a.Close()
			_ = m.journal.Close()
			disk, m.a = after, nil
			m.down.Store(false)
			w.FS = disk
			m.boot()
			m.open()
			m.exact()
		}
		m.shut()
	})
}

// TestRecountBesideSessions is the same with true concurrency.
func TestRecountBesideSessions(t *testing.T) {
	s := newSetup(t, func(o *Options) { o.Log = slog.New(slog.DiscardHandler) })
	must(t, s.b.CreateFolder("A", ""))
	for i := range 50 {
		s.append("INBOX", text(i), mailbox.Flags{})
	}
	stop := make(chan struct{})
	var sessions, counter sync.WaitGroup
	for k := range 3 {
		sessions.Go(func() {
			m := &meddler{setup: s, rng: rand.New(rand.NewPCG(uint64(k), 2)), count: k * 1000}
			for range 30 {
				if err := m.step(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	counter.Go(func() {
		for {
			s.a.mu.Lock()
			r := s.a.startRecount()
			s.a.mu.Unlock()
			<-r.ended
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	sessions.Wait()
	close(stop)
	counter.Wait()
	s.quotaIsExact()
}
