package rebalance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/director"
	"waypost/director/memory"
)

const alice = director.User("alice@example.test")

// world is a cluster of fake backends that follow the real fence rules over
// the real directory, each tree a set of message names. It checks I1 at every
// fence change.
type world struct {
	store *memory.Store
	dir   *director.Directory
	nodes map[director.BackendID]*node

	mu  sync.Mutex
	bad []string
}

type node struct {
	w  *world
	id director.BackendID

	mu      sync.Mutex
	down    bool
	fence   fence.Fence
	live    map[string]bool
	staging map[string]bool

	// onPull, onFreeze and onSeal, where not nil, run before the call; an error ends it.
	onPull   func(context.Context, control.PullRequest, func(control.PullProgress)) error
	onFreeze func() error
	onSeal   func() error
	load     control.LoadReply
	// onSending, where not nil, answers who is sending.
	onSending func() (control.SendingReply, error)
	paces     []int64
}

// Load implements Watched.
func (n *node) Load(context.Context) (control.LoadReply, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.load, nil
}

// Sending implements Listening.
func (n *node) Sending(context.Context, director.User) (control.SendingReply, error) {
	if n.onSending == nil {
		return control.SendingReply{}, errors.New("answer 404 Not Found")
	}
	return n.onSending()
}

// Pace implements Watched.
func (n *node) Pace(_ context.Context, req control.PaceRequest) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.paces = append(n.paces, req.BytesPerSecond)
	return nil
}

func (n *node) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

func newWorld(ids ...director.BackendID) (*world, error) {
	s := memory.New()
	w := &world{store: s, dir: director.New(s), nodes: make(map[director.BackendID]*node)}
	ctx := context.Background()
	if err := w.dir.Init(ctx, func() string { return "era1" }); err != nil {
		return nil, err
	}
	if err := w.dir.CreateDomain(ctx, "example.test", time.Unix(1, 0)); err != nil {
		return nil, err
	}
	for _, id := range ids {
		w.nodes[id] = &node{w: w, id: id}
		err := w.dir.PutBackend(ctx, id, func(b *director.Backend, _ bool) error {
			b.Kind, b.State, b.Node = director.KindWaypost, director.BackendActive, string(id)+":1"
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	rec, err := director.Create(nil, ids[0])
	if err != nil {
		return nil, err
	}
	home := w.nodes[ids[0]]
	home.fence, home.live = fence.Fence{State: fence.Serving, Epoch: rec.Epoch}, map[string]bool{"first": true}
	return w, w.dir.CreateUser(ctx, alice, rec, director.Account{})
}

func (w *world) fail(format string, a ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bad = append(w.bad, fmt.Sprintf(format, a...))
}

var errDown = errors.New("connection refused")

func (n *node) enter() (func(), error) {
	n.mu.Lock()
	if n.down {
		n.mu.Unlock()
		return nil, errDown
	}
	return n.mu.Unlock, nil
}

func (n *node) record(ctx context.Context) (*director.Record, error) {
	v, err := n.w.dir.Location(ctx, alice)
	if errors.Is(err, director.ErrNotFound) {
		return nil, nil
	}
	return &v.Value, err
}

// reconcile is look under the lock.
func (n *node) reconcile(ctx context.Context) error {
	rec, err := n.record(ctx)
	if err != nil {
		return err
	}
	d := fence.Reconcile(n.id, n.fence, rec)
	switch d.Action {
	case fence.Refuse:
		if rec != nil && rec.State != director.Deleted {
			n.w.fail("%s refuses: fence %s, record %s: %s", n.id, n.fence, rec, d.Why)
		}
	case fence.Adopt:
		n.live, n.staging = n.staging, nil
	case fence.Trash:
		n.live = nil
	case fence.Drop:
		n.staging = nil
	}
	n.fence = d.Next
	return nil
}

func (n *node) reply() control.FenceReply {
	return control.FenceReply{State: string(n.fence.State), Epoch: n.fence.Epoch}
}

func no(code string) error { return &control.Error{Code: code, Text: "test"} }

func (n *node) Look(ctx context.Context, _ control.LookRequest) (control.FenceReply, error) {
	leave, err := n.enter()
	if err != nil {
		return control.FenceReply{}, err
	}
	defer leave()
	err = n.reconcile(ctx)
	return n.reply(), err
}

func (n *node) Stage(ctx context.Context, req control.MoveRequest) (control.FenceReply, error) {
	leave, err := n.enter()
	if err != nil {
		return control.FenceReply{}, err
	}
	defer leave()
	if err := n.reconcile(ctx); err != nil {
		return n.reply(), err
	}
	switch f := n.fence; {
	case (f.State == fence.Incoming || f.State == fence.Sealed) && f.Epoch == req.Epoch:
	case (f.State == fence.Missing || f.State == fence.Gone || f.State == fence.Incoming) && f.Epoch <= req.Epoch:
		n.fence = fence.Fence{State: fence.Incoming, Epoch: req.Epoch}
	default:
		return n.reply(), no(control.CodeFence)
	}
	return n.reply(), nil
}

func (n *node) Pull(ctx context.Context, req control.PullRequest, progress func(control.PullProgress)) (control.PullProgress, error) {
	if n.onPull != nil {
		if err := n.onPull(ctx, req, progress); err != nil {
			return control.PullProgress{}, err
		}
	}
	source := n.w.nodes[req.Source]
	leaveSource, err := source.enter()
	if err != nil {
		return control.PullProgress{}, err
	}
	tree, state := maps.Clone(source.live), source.fence
	leaveSource()
	if req.Final && (state.State != fence.Frozen || state.Epoch != req.Epoch) {
		return control.PullProgress{}, no(control.CodeFence)
	}
	leave, err := n.enter()
	if err != nil {
		return control.PullProgress{}, err
	}
	defer leave()
	if n.fence.State == fence.Sealed && n.fence.Epoch == req.Epoch {
		return control.PullProgress{Done: true}, nil
	}
	if n.fence.State != fence.Incoming || n.fence.Epoch != req.Epoch {
		return control.PullProgress{}, no(control.CodeFence)
	}
	n.staging = tree
	p := control.PullProgress{Files: int64(len(tree)), Done: true}
	progress(p)
	return p, nil
}

func (n *node) Freeze(ctx context.Context, req control.MoveRequest) (control.ManifestSummary, error) {
	if n.onFreeze != nil {
		if err := n.onFreeze(); err != nil {
			return control.ManifestSummary{}, err
		}
	}
	leave, err := n.enter()
	if err != nil {
		return control.ManifestSummary{}, err
	}
	defer leave()
	if err := n.reconcile(ctx); err != nil {
		return control.ManifestSummary{}, err
	}
	rec, err := n.record(ctx)
	if err != nil || rec == nil || rec.Home != n.id || rec.State != director.Busy || rec.Epoch != req.Epoch {
		return control.ManifestSummary{}, no(control.CodeEpoch)
	}
	f := n.fence
	if !(f.State == fence.Frozen && f.Epoch <= req.Epoch || f.State == fence.Serving && f.Epoch < req.Epoch) {
		return control.ManifestSummary{}, no(control.CodeFence)
	}
	n.fence = fence.Fence{State: fence.Frozen, Epoch: req.Epoch}
	return control.ManifestSummary{Digest: digest(n.live), Messages: int64(len(n.live)), Maildrop: maildrop}, nil
}

func (n *node) Seal(ctx context.Context, req control.SealRequest) (control.ManifestSummary, error) {
	if n.onSeal != nil {
		if err := n.onSeal(); err != nil {
			return control.ManifestSummary{}, err
		}
	}
	leave, err := n.enter()
	if err != nil {
		return control.ManifestSummary{}, err
	}
	defer leave()
	again := n.fence.State == fence.Sealed && n.fence.Epoch == req.Epoch
	if !again && (n.fence.State != fence.Incoming || n.fence.Epoch != req.Epoch) {
		return control.ManifestSummary{}, no(control.CodeFence)
	}
	if digest(n.staging) != req.Digest || req.Maildrop != maildrop {
		return control.ManifestSummary{}, no(control.CodeDiffers)
	}
	n.fence = fence.Fence{State: fence.Sealed, Epoch: req.Epoch, Digest: req.Digest}
	return control.ManifestSummary{Digest: req.Digest}, nil
}

// maildrop is the session that every freeze names, and that every seal must.
const maildrop = "pop3-session"

func digest(tree map[string]bool) string {
	return fmt.Sprint(slices.Sorted(maps.Keys(tree)))
}

// deliver is an mx: it delivers at the home, or says that it must wait.
func (w *world) deliver(ctx context.Context, name string) bool {
	v, err := w.dir.Location(ctx, alice)
	if err != nil || v.Value.State != director.Active {
		return false
	}
	n := w.nodes[v.Value.Home]
	leave, err := n.enter()
	if err != nil {
		return false
	}
	defer leave()
	if n.fence.Epoch < v.Value.Epoch {
		if n.reconcile(ctx) != nil {
			return false
		}
	}
	if n.fence != (fence.Fence{State: fence.Serving, Epoch: v.Value.Epoch}) {
		return false
	}
	n.live[name] = true
	return true
}

// takeBack is R7, done by hand.
func (w *world) takeBack(ctx context.Context) error {
	v, err := w.dir.Location(ctx, alice)
	if err != nil || v.Value.State != director.Busy {
		return err
	}
	if _, err := w.dir.Rollback(ctx, alice, v.Value); err != nil && !errors.Is(err, director.ErrConflict) {
		return err
	}
	_, err = w.nodes[v.Value.Home].Look(ctx, control.LookRequest{User: alice})
	return err
}

// mortal is a mover's way to the directory; a dead mover's goes nowhere, and its
// lease is not given back: it expires.
type mortal struct {
	director.Store
	dead atomic.Bool
}

func (m *mortal) Grant(ctx context.Context, ttl time.Duration) (director.Lease, error) {
	l, err := m.Store.Grant(ctx, ttl)
	return &mortalLease{l, m}, err
}

type mortalLease struct {
	director.Lease
	of *mortal
}

func (l *mortalLease) Revoke(ctx context.Context) error {
	if l.of.dead.Load() {
		return director.ErrUnavailable
	}
	return l.Lease.Revoke(ctx)
}

func (m *mortal) Commit(ctx context.Context, g []director.Guard, ops []director.Op) (int64, bool, error) {
	if m.dead.Load() {
		return 0, false, director.ErrUnavailable
	}
	return m.Store.Commit(ctx, g, ops)
}
