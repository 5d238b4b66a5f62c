package simtest

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/fence"
	"waypost/director"
	"waypost/director/cache"
	"waypost/director/memory"
	"waypost/internal/vfs/crashfs"
	"waypost/proxy"
	"waypost/rebalance"
)

const (
	// The home's limits of R7, above the movers' own.
	busyLimit  = 12 * time.Second
	ownerGrace = 4 * time.Second
	// settleWithin is how long after the last failure all must have ended (I6): a move that
	// was put off waits for half an hour at most.
	settleWithin = 40 * time.Minute
)

// world is one simulated cluster and what is known of it.
type world struct {
	*sched
	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
	store   *memory.Store
	admin   *director.Directory // without failures, for the checks
	nodes   map[director.BackendID]*node
	ids     []director.BackendID
	mx      *post
	proxy   *proxy.Server
	memory  *cache.Client
	movers  []*mover

	// off is the rule that is switched off; "" none.
	off string
	// chaos: calls fail and disks crash; crashes bounds the latter.
	chaos   bool
	crashes int
	cut     map[string]bool // node: from the directory; node/net: from the others
	living  int             // senders, clients, the planner

	// What happened.
	clock    int64
	history  []event
	open     map[string]int64 // messages whose delivery began, and when
	acked    map[string]bool
	uids     map[string]uint32
	places   map[string]map[*proc]bool
	lastTo   director.BackendID // of the last write
	lastAt   director.Epoch
	handoffs int
	// Persons: how often the user was deleted or made (odd: deleted), who each
	// message was begun for, and what had been accepted for a former one.
	person    int
	deletions int
	begunFor  map[string]int
	former    map[string]uint32 // by the UIDVALIDITY of his mailbox
	validity  uint32            // of the present one
	boots     int
	seen      map[string]int
	bad       []string
	// mended is when the last harm ended; zero before.
	mended time.Time
}

// event is one operation of the history.
type event struct {
	who        string
	begin, end int64 // end 0: it may still come
	name       string
	box        uint32   // by its UIDVALIDITY
	read       []string // nil: a delivery
	isRead     bool
}

func (w *world) rule(off string) bool { return w.off == off }
func (w *world) saw(what string)      { w.seen[what]++ }

// fail notes a violation.
func (w *world) fail(format string, a ...any) {
	text := fmt.Sprintf(format, a...)
	w.note("CHECK", text)
	w.bad = append(w.bad, text)
}

func (w *world) now() int64 { w.clock++; return w.clock }

// newWorld makes a cluster of three backends at rest.
func newWorld(s *sched, dir, off string) (*world, error) {
	w := &world{
		sched: s, store: memory.New(), nodes: map[director.BackendID]*node{}, ids: []director.BackendID{"b1", "b2", "b3"}, off: off,
		cut: map[string]bool{}, open: map[string]int64{}, acked: map[string]bool{}, uids: map[string]uint32{},
		places: map[string]map[*proc]bool{}, seen: map[string]int{}, begunFor: map[string]int{}, former: map[string]uint32{}, validity: 7,
	}
	w.ctx, w.stop = context.WithCancel(context.Background())
	w.admin = director.New(w.store)
	ctx := w.ctx
	if err := w.admin.Init(ctx, func() string { return "era1" }); err != nil {
		return nil, err
	}
	if err := w.admin.CreateDomain(ctx, "example.test", time.Unix(1, 0)); err != nil {
		return nil, err
	}
	for _, id := range w.ids {
		err := w.admin.PutBackend(ctx, id, func(b *director.Backend, _ bool) error {
			b.Kind, b.State, b.Node = director.KindWaypost, director.BackendActive, string(id)+":1"
			return nil
		})
		if err != nil {
			return nil, err
		}
		w.nodes[id] = &node{w: w, id: id, disk: crashfs.New(w.rng.Uint64())}
	}
	if err := w.settleIn(ctx); err != nil {
		return nil, err
	}
	var err error
	if w.proxy, w.memory, err = newProxy(w); err != nil {
		return nil, err
	}
	w.mx = &post{w: w, dir: filepath.Join(dir, "spool0")}
	return w, nil
}

// settleIn makes the user, at b1, with a mailbox that has seen something.
func (w *world) settleIn(ctx context.Context) error {
	rec, err := director.Create(nil, "b1")
	if err != nil {
		return err
	}
	home := w.nodes["b1"]
	if err := writeBox(home.disk, "/users/alice", box{Validity: 7, UIDNext: 4, Messages: []message{{"first", 3}}}); err != nil {
		return err
	}
	fences, err := fence.OpenDirOn(home.disk, "/fences")
	if err != nil {
		return err
	}
	if err := fences.Put(alice, fence.Fence{State: fence.Serving, Epoch: rec.Epoch}); err != nil {
		return err
	}
	w.uids["7/first"], w.acked["first"] = 3, true
	return w.admin.CreateUser(ctx, alice, rec, director.Account{})
}

// oneWriter is I1, looked at whenever a fence changes.
func (w *world) oneWriter() {
	var serving []string
	for _, id := range w.ids {
		if p := w.nodes[id].proc; p != nil && p.fence.State == fence.Serving {
			serving = append(serving, string(id)+" "+p.fence.String())
		}
	}
	if len(serving) > 1 {
		w.fail("I1: %s", strings.Join(serving, " and "))
	}
}

// begins tells that a message may be delivered from now on.
func (w *world) begins(name string) { w.open[name], w.begunFor[name] = w.now(), w.person }

// wrote tells of a durable write: it was in its epoch's turn, and it is there
// for all who read from now on.
func (w *world) wrote(p *proc, e director.Epoch, b box, name string, uid uint32) {
	if e < w.lastAt || e == w.lastAt && w.lastTo != p.n.id {
		w.fail("I1: %s writes at %d after %s wrote at %d", p.n.id, e, w.lastTo, w.lastAt)
	}
	w.lastTo, w.lastAt = p.n.id, e
	if was := w.former[name]; was != 0 && was != b.Validity {
		w.fail("R12: %s was accepted for a former person", name)
	}
	if had, ok := w.uids[b.of(name)]; ok && had != uid {
		w.fail("I4: %s is UID %d, and was %d", name, uid, had)
	}
	w.uids[b.of(name)] = uid
	w.history = append(w.history, event{who: "write " + name, begin: w.open[name], end: w.now(), name: name, box: b.Validity})
	delete(w.open, name)
}

func (w *world) didRead(who string, begin int64, b box) {
	names := []string{}
	for _, m := range b.Messages {
		names = append(names, m.Name)
		if had, ok := w.uids[b.of(m.Name)]; ok && had != m.UID {
			w.fail("I4: %s reads %s as UID %d, and it was %d", who, m.Name, m.UID, had)
		}
		w.uids[b.of(m.Name)] = m.UID
	}
	slices.Sort(names)
	w.history = append(w.history, event{who: who, begin: begin, end: w.now(), read: names, isRead: true, box: b.Validity})
}

// arrived, left: where a client's session lives. Nowhere twice.
func (w *world) arrived(session string, p *proc, e director.Epoch) {
	if w.places[session] == nil {
		w.places[session] = map[*proc]bool{}
	}
	w.places[session][p] = true
	p.places[session] = true
	if len(w.places[session]) > 1 {
		w.fail("I5: session %s lives at %d places", session, len(w.places[session]))
	}
	if p.fence.Epoch != e || p.fence.State != fence.Serving {
		w.fail("I5: session %s at %s, asked for epoch %d, fence %s", session, p.n.id, e, p.fence)
	}
}

func (w *world) left(session string, p *proc) {
	delete(w.places[session], p)
	delete(p.places, session)
}

// haunts is a session that a backend took and that its proxy does not know of:
// it does what was pending, before it notices.
func (w *world) haunts(ctx context.Context, c *client, p *proc, e director.Epoch) {
	if c.state.Pending != "" {
		if _, err := p.commit(ctx, e, c.state.Pending, ""); err == nil {
			w.saw("a lost session did its command")
		}
	}
}

// end stops all, in turns as ever, and without further harm.
func (w *world) end() {
	w.chaos = false
	clear(w.cut)
	w.stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.running.Wait()
		_ = w.memory.Close() // has no snapshot to write
		_ = w.store.Close()  // never fails
	}()
	w.run(func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
}

// mover is one mover's machine.
type mover struct {
	w    *world
	id   string
	dead *atomic.Bool // of the process; nil: none runs
	stop context.CancelFunc
}

func (m *mover) boot() error {
	w := m.w
	dead := new(atomic.Bool)
	port := &port{w: w, who: m.id}
	s, err := rebalance.New(rebalance.Config{ID: m.id, Listen: "127.0.0.1:0", BusyBudget: 6 * time.Second, CopyPatience: 20 * time.Second}, rebalance.Deps{
		Directory: director.New(port), Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Jitter: func(d time.Duration) time.Duration { return d },
		Dial: func(_ context.Context, id director.BackendID) (rebalance.Backend, string, error) {
			return &remote{w: w, who: m.id, dead: dead, n: w.nodes[id]}, string(id) + ":1", nil
		},
		At: func(_ director.User, point string) { w.saw("mover at " + point) },
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(w.ctx)
	m.dead, m.stop = dead, func() { dead.Store(true); port.dead.Store(true); stop() }
	w.running.Go(func() { _ = s.Work(ctx) })
	return nil
}

func (m *mover) kill() {
	m.w.note(m.id, "killed")
	m.stop()
	m.dead = nil
}

// wakeRestart brings a crashed machine back after a while.
func (w *world) wakeRestart(n *node) {
	after := 50*time.Millisecond + w.upTo(8*time.Second)
	w.running.Go(func() {
		if sleep(w.ctx, after) == nil && w.step(w.ctx, string(n.id), "boot") == nil && n.proc == nil {
			n.boot()
		}
	})
}
