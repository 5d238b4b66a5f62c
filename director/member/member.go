// Package member tells which nodes of the cluster are alive, and how loaded the
// backends are, by gossip between all nodes (hashicorp/memberlist).
//
// It is a hint and nothing more. All nodes share one key and none proves its
// name: what is read here may wake a retry, choose a backend for a new user, or
// fill a status page, but truth is in the directory and trust in certificates.
//
// Promises: a crash is seen by the others within some seconds, a Leave at once;
// a name may come back at another address; nodes that were parted find each
// other again by their seeds. Packets are encrypted and authenticated with the
// key (AES-256-GCM); who has another key is not heard. Nothing survives the
// process but the key's file.
//
// Every role may use it; all methods are safe for concurrent use.
package member

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"waypost/internal/cluster"
)

// Load is what a backend tells of itself.
type Load struct {
	Users         int   `json:"u"`
	Sessions      int   `json:"s"`
	UsedBytes     int64 `json:"b"`
	CapacityBytes int64 `json:"c"`
}

// Member is one node, this one included.
type Member struct {
	Role cluster.Role
	ID   string
	// Node is host:port of its node listener; empty if it has none.
	Node string
	// Load is nil where none is told.
	Load *Load
	// Alive is false for a node that left or crashed; it is remembered for a
	// day.
	Alive bool
	// Since is when Alive last changed, by this node's clock.
	Since time.Time
}

// Peer is the member's name.
func (m Member) Peer() cluster.Peer { return cluster.Peer{Role: m.Role, ID: m.ID} }

// Options of Join.
type Options struct {
	// Name is "role/id", like "backend/b1": unique in the cluster.
	Name string
	// Node is the host:port at which others reach the node listener.
	Node string
	// Bind is host:port, UDP and TCP; port 0 is any free one.
	Bind string
	// Advertise is the host:port that others reach Bind at; empty: Bind, or a
	// private address of this machine where Bind names none.
	Advertise string
	// Seeds are gossip addresses of some other nodes.
	Seeds []string
	// Key is the cluster's, of KeyBytes.
	Key []byte
	Log *slog.Logger
	// Load, where not nil, is asked every few seconds; backends have it.
	Load func() Load
}

const (
	// loadEvery is how often a changed load is told.
	loadEvery = 3 * time.Second
	// seedsEvery is how often seeds are asked again: parted halves forget each
	// other after GossipToTheDeadTime. While this node is alone it asks more
	// often.
	seedsEvery = 15 * time.Second
	aloneEvery = time.Second
	// leaveWait bounds the wait for a last message to go out; gossip goes out ten
	// times a second.
	leaveWait = time.Second
)

// Node is this process's place in the membership. Leave it.
type Node struct {
	opts  Options
	log   *slog.Logger
	table *table
	list  *memberlist.Memberlist
	meta  *metaBox
	addr  string

	stop    context.CancelFunc
	running sync.WaitGroup
	leaving sync.Once
	leftErr error
}

// Join listens and begins to look for the seeds; that none answers is no error,
// it goes on looking until Leave. ctx bounds Join only.
func Join(ctx context.Context, o Options) (*Node, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	self, err := parseName(o.Name)
	if err != nil {
		return nil, fmt.Errorf("join the membership: %w", err)
	}
	cfg, err := config(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("join the membership as %s: %w", self, err)
	}
	n := &Node{opts: o, log: o.Log, table: newTable(o.Log), meta: &metaBox{node: o.Node}}
	if err := n.meta.fits(); err != nil {
		return nil, fmt.Errorf("join the membership as %s: %w", self, err)
	}
	if o.Load != nil {
		n.meta.set(o.Load())
	}
	cfg.Delegate, cfg.Events, cfg.Conflict = delegate{n.meta}, n.table, n.table
	if n.list, err = memberlist.Create(cfg); err != nil {
		return nil, fmt.Errorf("join the membership as %s: %w", self, err)
	}
	// Read before anything can change it: LocalNode is memberlist's own memory.
	n.addr = n.list.LocalNode().Address()
	var run context.Context
	run, n.stop = context.WithCancel(context.Background())
	n.running.Go(func() { n.keepSeeds(run) })
	n.running.Go(func() { n.table.announce(run) })
	if o.Load != nil {
		n.running.Go(func() { n.tellLoad(run) })
	}
	return n, nil
}

// config is memberlist's own for local networks, tuned to see a crash in a few
// seconds: a probe of 250 ms in each half second, then 2 to 4 s of suspicion.
func config(ctx context.Context, o Options) (*memberlist.Config, error) {
	if len(o.Key) != KeyBytes {
		return nil, fmt.Errorf("the gossip key has %d bytes: want %d", len(o.Key), KeyBytes)
	}
	bind, err := resolve(ctx, o.Bind)
	if err != nil {
		return nil, fmt.Errorf("bind address: %w", err)
	}
	for _, s := range o.Seeds {
		if _, _, err := splitHostPort(s); err != nil {
			return nil, fmt.Errorf("seed: %w", err)
		}
	}
	c := memberlist.DefaultLANConfig()
	c.Name = o.Name
	c.BindAddr, c.BindPort, c.AdvertisePort = bind.Addr().String(), int(bind.Port()), int(bind.Port())
	if o.Advertise != "" {
		adv, err := resolve(ctx, o.Advertise)
		if err != nil {
			return nil, fmt.Errorf("advertised address: %w", err)
		}
		c.AdvertiseAddr, c.AdvertisePort = adv.Addr().String(), int(adv.Port())
	}
	c.SecretKey = o.Key
	c.ProbeInterval, c.ProbeTimeout = 500*time.Millisecond, 250*time.Millisecond
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = 4, 2
	c.GossipInterval = 100 * time.Millisecond
	c.PushPullInterval = 15 * time.Second
	c.TCPTimeout = 3 * time.Second
	// With 0 a dead node's name could not come back at another address.
	c.DeadNodeReclaimTime = time.Millisecond
	c.LogOutput, c.Logger = nil, log.New(debugWriter{o.Log}, "", 0)
	return c, nil
}

// debugWriter passes memberlist's own lines on.
type debugWriter struct{ log *slog.Logger }

func (w debugWriter) Write(b []byte) (int, error) {
	w.log.Debug("gossip", "line", strings.TrimSpace(string(b)))
	return len(b), nil
}

// keepSeeds asks the seeds at once, and again from time to time.
func (n *Node) keepSeeds(ctx context.Context) {
	if len(n.opts.Seeds) == 0 {
		return
	}
	warned := false
	for {
		reached, err := n.askSeeds(ctx)
		alone := n.list.NumMembers() < 2
		switch {
		case alone && reached == 0 && !warned && ctx.Err() == nil:
			n.log.Warn("no seed of the membership answers; trying on", "error", err)
			warned = true
		case !alone:
			warned = false
		}
		wait := seedsEvery
		if alone {
			wait = aloneEvery
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

// askSeeds exchanges all state with each seed in turn; a Leave waits for one of
// them at most.
func (n *Node) askSeeds(ctx context.Context) (reached int, err error) {
	for _, s := range n.opts.Seeds {
		if ctx.Err() != nil {
			return reached, ctx.Err()
		}
		k, seedErr := n.list.Join([]string{s})
		reached += k
		if seedErr != nil {
			err = seedErr
		}
	}
	return reached, err
}

// tellLoad spreads the load when it has changed.
func (n *Node) tellLoad(ctx context.Context) {
	for sleep(ctx, loadEvery) {
		if !n.meta.set(n.opts.Load()) {
			continue
		}
		// Its only error is that the message has not gone out to anybody yet; it
		// stays in the queue, and full exchanges of state carry it, too.
		if err := n.list.UpdateNode(loadEvery); err != nil {
			n.log.Debug("load not told yet", "error", err)
		}
	}
}

// sleep reports false when ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Addr is the gossip address that others reach this node at.
func (n *Node) Addr() string { return n.addr }

// Members gives all nodes known, the dead of the last day included, ordered by
// role and id.
func (n *Node) Members() []Member { return n.table.members() }

// Alive reports whether a node is alive; known is false for one that was never
// seen, or not for a day.
func (n *Node) Alive(role cluster.Role, id string) (alive, known bool) {
	m, known := n.table.get(cluster.Peer{Role: role, ID: id})
	return m.Alive, known
}

// Member gives one node.
func (n *Node) Member(role cluster.Role, id string) (Member, bool) {
	return n.table.get(cluster.Peer{Role: role, ID: id})
}

// Subscribe calls fn with each change from now on, one at a time and in order
// for each member. A member that changed more than once before fn could be
// called is told once, as it is by then; but that it was down in between is
// told. fn must not block for long, for all changes wait for it; it may be
// running yet when cancel returns.
func (n *Node) Subscribe(fn func(Event)) (cancel func()) { return n.table.subscribe(fn) }

// Leave tells the others that this node goes, waits until that was sent, or ctx
// ends, and ends everything. Further calls give the first one's result.
func (n *Node) Leave(ctx context.Context) error {
	n.leaving.Do(func() {
		wait := leaveWait
		if deadline, ok := ctx.Deadline(); ok {
			wait = min(wait, time.Until(deadline))
		}
		if ctx.Err() == nil && wait > 0 {
			// That nobody heard is no error: who is left sees the silence.
			if err := n.list.Leave(wait); err != nil {
				n.log.Debug("nobody was told of the leaving", "error", err)
			}
		}
		n.leftErr = n.end()
	})
	if n.leftErr != nil {
		return fmt.Errorf("leave the membership: %w", n.leftErr)
	}
	return nil
}

// end stops without a word, as a crash would.
func (n *Node) end() error {
	n.stop()
	err := n.list.Shutdown()
	n.running.Wait()
	return err
}

// parseName reads "role/id".
func parseName(name string) (cluster.Peer, error) {
	role, id, _ := strings.Cut(name, "/")
	p := cluster.Peer{Role: cluster.Role(role), ID: id}
	if err := p.Validate(); err != nil {
		return p, fmt.Errorf("member name %q: %w", name, err)
	}
	return p, nil
}

func sortMembers(ms []Member) {
	slices.SortFunc(ms, func(a, b Member) int {
		if c := strings.Compare(string(a.Role), string(b.Role)); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
}
