package imap

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"waypost/backend/journal"
	"waypost/backend/mailbox"
	"waypost/backend/mailbox/memory"
	"waypost/backend/maildir"
	"waypost/director"
	"waypost/internal/handoff"
	"waypost/internal/vfs"
)

// leg is a session's connection as long as it is at one place: the client's connection goes on
// without it.
type leg struct {
	net.Conn
	refuses bool
	over    atomic.Bool
	// dead: nothing that the place does reaches the client any more.
	dead    atomic.Bool
	in, out atomic.Int64 // bytes
	handed  chan []byte
	// old: the other end does not know of points.
	old bool

	mu    sync.Mutex // guards what follows
	last  point
	base  []byte
	tip   []byte
	count int // of points
	bases int
	bytes int // of points
}

// point is a checkpoint.
type point struct {
	read, written uint64
	state         []byte
}

func newLeg(nc net.Conn) *leg {
	return &leg{Conn: nc, handed: make(chan []byte, 1)}
}

func (l *leg) CanHandOff() bool { return !l.refuses }

func (l *leg) HandOff(state []byte) error {
	if l.over.Swap(true) {
		return errors.New("handed off twice")
	}
	l.handed <- state
	return nil
}

func (l *leg) Checkpoint(consumed, sent uint64, state []byte) error {
	return l.point(consumed, sent, state, nil)
}

func (l *leg) CanPoint() bool { return !l.old }

func (l *leg) Point(consumed, sent uint64, state, tip []byte) error {
	if l.old || consumed != uint64(l.in.Load()) {
		return errors.New("no point")
	}
	return l.point(consumed, sent, state, tip)
}

func (l *leg) point(consumed, sent uint64, state, tip []byte) error {
	if l.dead.Load() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if state != nil {
		l.base, l.tip = state, nil
		l.bases++
	}
	if tip != nil {
		l.tip = tip
	}
	l.last = point{consumed, sent, nil}
	l.count++
	l.bytes += len(state) + len(tip)
	return nil
}

// known is the last checkpoint, and how many there were.
func (l *leg) known() (point, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.last
	p.state = slices.Concat(l.base, l.tip)
	return p, l.count
}

func (l *leg) Write(p []byte) (int, error) {
	if l.over.Load() {
		return 0, errors.New("written behind the hand-off")
	}
	if l.dead.Load() {
		return len(p), nil
	}
	n, err := l.Conn.Write(p)
	l.out.Add(int64(n))
	return n, err
}

func (l *leg) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	l.in.Add(int64(n))
	return n, err
}

func (l *leg) SetReadDeadline(t time.Time) error {
	if l.over.Load() {
		return nil
	}
	return l.Conn.SetReadDeadline(t)
}

func (l *leg) Close() error {
	if l.over.Load() || l.dead.Load() {
		return nil
	}
	return l.Conn.Close()
}

// world is a mailbox that moves.
type world interface {
	// box gives a handle at the present place, store stages messages for it.
	box() mailbox.Box
	store() mailbox.Store
	// freeze fences the place; move makes the next one.
	freeze()
	move()
}

// memoryWorld is a world in memory.
type memoryWorld struct {
	t     testing.TB
	s     *memory.Store
	epoch director.Epoch
}

func newMemoryWorld(t testing.TB) world {
	w := &memoryWorld{t, memory.New(), 1}
	w.s.Serve(ann, "b1", 1)
	return w
}

func (w *memoryWorld) box() mailbox.Box {
	b, err := w.s.Open(context.Background(), ann, "b1", w.epoch)
	must(w.t, err)
	return b
}

func (w *memoryWorld) store() mailbox.Store { return w.s }
func (w *memoryWorld) freeze()              { w.s.Freeze(ann) }

func (w *memoryWorld) move() {
	w.epoch++
	w.s.Serve(ann, "b1", w.epoch)
}

// maildirWorld is a world on the disk.
type maildirWorld struct {
	t      testing.TB
	root   string
	j      *journal.Journal
	stager *maildir.Stager
	a      *maildir.Account
	guard  *fenceGuard
	done   chan struct{}
	epoch  director.Epoch
}

// fenceGuard is a user's lock and fence.
type fenceGuard struct {
	mu    sync.Mutex
	fence error
}

func (g *fenceGuard) Enter(director.Epoch) (func(), error) {
	g.mu.Lock()
	if g.fence != nil {
		defer g.mu.Unlock()
		return nil, g.fence
	}
	return g.mu.Unlock, nil
}

func newMaildirWorld(t testing.TB) world {
	base := t.TempDir()
	w := &maildirWorld{t: t, root: filepath.Join(base, "user")}
	must(t, os.Mkdir(filepath.Join(base, "incoming"), 0o700), os.Mkdir(filepath.Join(base, "staged"), 0o700), maildir.Create(vfs.OS, w.root))
	var err error
	w.j, err = journal.Open(journal.Options{FS: vfs.OS, Dir: filepath.Join(base, "journal"), Sync: base})
	must(t, err)
	must(t, w.j.Replay(func(journal.Record) error { return nil }))
	must(t, w.j.Start())
	w.stager, err = maildir.NewStager(vfs.OS, w.j, filepath.Join(base, "staged"))
	must(t, err)
	w.open()
	t.Cleanup(func() {
		_ = w.a.Close()
		_ = w.j.Close()
	})
	return w
}

func (w *maildirWorld) open() {
	w.epoch++
	w.guard, w.done = &fenceGuard{}, make(chan struct{})
	var err error
	w.a, err = maildir.Open(maildir.Options{
		FS: vfs.OS, Journal: w.j, User: ann, Root: w.root, Guard: w.guard, Limit: func() mailbox.Limit { return mailbox.Limit{} },
		Log: slog.New(slog.DiscardHandler), Now: time.Now, Host: "test",
	})
	must(w.t, err)
}

func (w *maildirWorld) box() mailbox.Box     { return w.a.Box(ann, w.epoch, w.done) }
func (w *maildirWorld) store() mailbox.Store { return stagingOnly{w.stager} }

func (w *maildirWorld) freeze() {
	w.guard.mu.Lock()
	must(w.t, w.a.Flushed())
	w.guard.fence = mailbox.ErrFrozen
	w.guard.mu.Unlock()
	close(w.done)
}

func (w *maildirWorld) move() {
	must(w.t, w.a.Close())
	w.open()
}

// stagingOnly is the part of a mailbox.Store that sessions use.
type stagingOnly struct{ *maildir.Stager }

func (stagingOnly) Open(context.Context, director.User, director.BackendID, director.Epoch) (mailbox.Box, error) {
	return nil, mailbox.ErrRefused
}

// worlds runs a test in each kind of world.
func worlds(t *testing.T, test func(*testing.T, world)) {
	t.Run("memory", func(t *testing.T) { test(t, newMemoryWorld(t)) })
	t.Run("maildir", func(t *testing.T) { test(t, newMaildirWorld(t)) })
}

// modelled runs a model in each kind of world, each run of it in a world of its own, which ends
// with the run.
func modelled(t *testing.T, model func(rt *rapid.T, r *rig, w world)) {
	worlds := map[string]func(testing.TB) world{"memory": newMemoryWorld, "maildir": newMaildirWorld}
	for _, kind := range []string{"memory", "maildir"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			rapid.Check(t, func(rt *rapid.T) {
				run := scope{TB: t, dir: dir}
				defer run.ends.run()
				r := newRig(&run, Limits{})
				w := worlds[kind](&run)
				r.staging = w.store()
				model(rt, r, w)
			})
		})
	}
}

// scope is a part of a test that cleans up at its own end.
type scope struct {
	testing.TB
	dir  string
	ends cleanups
}

// Cleanup implements testing.TB.
func (s *scope) Cleanup(f func()) { s.ends.add(f) }

// TempDir implements testing.TB.
func (s *scope) TempDir() string {
	s.Helper()
	dir, err := os.MkdirTemp(s.dir, "")
	must(s, err)
	s.ends.add(func() { must(s, os.RemoveAll(dir)) })
	return dir
}

func newServer(t testing.TB, limits Limits) *Server {
	srv := New(Options{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Limits: limits})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return srv
}

// traveller is a client whose session goes from place to place.
type traveller struct {
	*client
	w       world
	srv     *Server
	nc      net.Conn // the server's end
	leg     *leg
	running *Running
	cancel  context.CancelCauseFunc
	cleanup func(func())
	// wrap, if not nil, stands before the mailbox.
	wrap func(mailbox.Box) mailbox.Box
	// client's is the client's end, and heard and said are the bytes there since the session came here.
	counted *counted
	old     bool // see leg
}

// counted counts what the client has read and written.
type counted struct {
	net.Conn
	heard, said atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.heard.Add(int64(n))
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.said.Add(int64(n))
	return n, err
}

func (c *counted) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// travel begins a session and reads the greeting.
func travel(t testing.TB, w world, limits Limits) *traveller {
	t.Helper()
	return travelOn(t, w, newServer(t, limits), t.Cleanup)
}

// travelOn is travel on a server, with what is to be done at the end.
func travelOn(t testing.TB, w world, srv *Server, cleanup func(func())) *traveller {
	t.Helper()
	c, s := loopback(t)
	k := &counted{Conn: c}
	tr := &traveller{client: newRaw(t, k, nil), w: w, nc: s, srv: srv, cleanup: cleanup, counted: k}
	cleanup(func() {
		c.Close()
		s.Close()
	})
	must(t, tr.begin(nil))
	if g := tr.line(); !strings.HasPrefix(g, "* PREAUTH ") {
		t.Fatalf("greeting %q", g)
	}
	return tr
}

// begin has the session go on at the present place.
func (tr *traveller) begin(state []byte) error {
	return tr.beginOn(state, func(l *leg) { l.old = tr.old })
}

func (tr *traveller) beginOn(state []byte, as func(*leg)) error {
	box := tr.w.box()
	l := newLeg(tr.nc)
	as(l)
	tr.counted.heard.Store(0)
	tr.counted.said.Store(0)
	ctx, cancel := context.WithCancelCause(context.Background())
	shown := box
	if tr.wrap != nil {
		shown = tr.wrap(box)
	}
	r, err := tr.srv.Begin(ctx, l, Session{Box: shown, Store: tr.w.store(), Client: "192.0.2.1:1", ID: "s", State: state})
	if err != nil {
		box.Close()
		cancel(nil)
		return err
	}
	done := make(chan error, 1)
	tr.leg, tr.cancel, tr.done, tr.running = l, cancel, done, r
	tr.cleanup(func() { cancel(handoff.ErrKicked) })
	go func() {
		defer box.Close()
		done <- r.Run()
	}()
	return nil
}

// state waits for the hand-off.
func (tr *traveller) state() []byte {
	tr.t.Helper()
	if err := tr.ended(); err != nil {
		tr.t.Fatalf("Serve: %v", err)
	}
	select {
	case state := <-tr.leg.handed:
		return state
	default:
		tr.t.Fatalf("the session was not handed off: %q", tr.line())
		return nil
	}
}

// hopAll moves the mailbox of several sessions at once.
func hopAll(w world, all []*traveller, meanwhile func(mailbox.Box)) {
	w.freeze()
	var states [][]byte
	for _, tr := range all {
		states = append(states, tr.state())
	}
	w.move()
	for i, tr := range all {
		tr.arrive(states[i], meanwhile)
		meanwhile = nil
	}
}

// hop moves the mailbox; meanwhile, at the next place, things happen.
func (tr *traveller) hop(meanwhile func(mailbox.Box)) {
	tr.t.Helper()
	tr.w.freeze()
	state := tr.state()
	tr.w.move()
	tr.arrive(state, meanwhile)
}

func (tr *traveller) arrive(state []byte, meanwhile func(mailbox.Box)) {
	tr.t.Helper()
	if meanwhile != nil {
		b := tr.w.box()
		meanwhile(b)
		b.Close()
	}
	if err := tr.begin(state); err != nil {
		tr.t.Fatalf("not resumed: %v", err)
	}
}

// put delivers messages.
func put(t testing.TB, w world, b mailbox.Box, folder string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		m, err := w.store().Stage(context.Background(), "", strings.NewReader(text), 0)
		must(t, err)
		_, err = appendOne(b, folder, m, mailbox.Flags{}, time.Date(2025, 11, 3, 12, 0, 0, 0, time.UTC))
		must(t, err)
		m.Discard()
	}
}

func folderOf(t testing.TB, b mailbox.Box, name string) mailbox.Folder {
	t.Helper()
	f, err := b.Folder(name)
	must(t, err)
	return f
}

func setFlags(t testing.TB, b mailbox.Box, name string, uid mailbox.UID, s mailbox.System) {
	t.Helper()
	_, err := folderOf(t, b, name).SetFlags([]mailbox.UID{uid}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: s}})
	must(t, err)
}

func expunge(t testing.TB, b mailbox.Box, name string, uids ...mailbox.UID) {
	t.Helper()
	_, err := folderOf(t, b, name).Expunge(uids)
	must(t, err)
}

// cleanups are what is done at an end, the last one first.
type cleanups struct{ all []func() }

func (c *cleanups) add(f func()) { c.all = append(c.all, f) }

func (c *cleanups) run() {
	for _, f := range slices.Backward(c.all) {
		f()
	}
}

// meanwhile does things in INBOX.
func meanwhile(t tb, r *rig, b mailbox.Box, what []string) {
	folder, err := b.Folder("INBOX")
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, action := range what {
		if action == "deliver" {
			r.deliver(b, "INBOX", letter)
			continue
		}
		snap, err := folder.Snapshot()
		if err != nil {
			t.Fatalf("%v", err)
		}
		n := snap.Messages.Len()
		if n == 0 {
			continue
		}
		switch action {
		case "flag":
			_, err = folder.SetFlags([]mailbox.UID{snap.Messages.At(n / 2).UID}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{Keywords: []string{"other"}}})
		case "expunge":
			_, err = folder.Expunge([]mailbox.UID{snap.Messages.At(n / 2).UID})
		case "first":
			_, err = folder.Expunge([]mailbox.UID{snap.Messages.At(0).UID, snap.Messages.At(n - 1).UID})
		}
		if err != nil {
			t.Fatalf("%v", err)
		}
	}
}
