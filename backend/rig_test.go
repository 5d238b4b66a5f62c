package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/mailbox"
	"waypost/director"
	"waypost/director/cache"
	"waypost/director/memory"
	"waypost/internal/cluster"
)

const alice = director.User("alice@example.test")

// rig is real backends over a directory in memory, with a mover played by the
// test: every call goes over mutual TLS.
type rig struct {
	t     *testing.T
	ca    *cluster.Authority
	pki   string
	store *memory.Store
	dir   *director.Directory
	nodes map[director.BackendID]*node
	log   slog.Handler // of backends that are started
	mover *cluster.Identity
	admin *cluster.Identity
}

type node struct {
	*Server
	cfg  Config
	stop func()
	// ignore waits for the end of a node that ends by itself, with an error.
	ignore func()
}

func newRig(t *testing.T, ids ...director.BackendID) *rig {
	t.Helper()
	r := &rig{t: t, pki: t.TempDir(), store: memory.New(), nodes: make(map[director.BackendID]*node), log: slog.DiscardHandler}
	var err error
	if r.ca, err = cluster.CreateAuthority(r.pki, "test"); err != nil {
		t.Fatal(err)
	}
	r.dir = director.New(r.store)
	ctx := context.Background()
	if err := r.dir.Init(ctx, func() string { return "era" }); err != nil {
		t.Fatal(err)
	}
	if err := r.dir.CreateDomain(ctx, "example.test", time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	r.mover = r.identity(cluster.Peer{Role: cluster.RoleRebalance, ID: "r1"})
	r.admin = r.identity(cluster.Peer{Role: cluster.RoleDirector, ID: "d1"})
	for _, id := range ids {
		r.start(Config{ID: id, Listen: "127.0.0.1:0", Data: t.TempDir(), Hostname: string(id), OwnerGrace: time.Hour, CreateFolders: true})
	}
	return r
}

func (r *rig) identity(p cluster.Peer) *cluster.Identity {
	r.t.Helper()
	if err := r.ca.IssueTo(r.pki, p, []string{"127.0.0.1"}); err != nil {
		r.t.Fatal(err)
	}
	id, err := cluster.LoadIdentity(r.pki+"/ca.crt", cluster.CertPath(r.pki, p), cluster.KeyPath(r.pki, p))
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

// start starts a backend; its address is in the directory once it serves.
func (r *rig) start(cfg Config) *node {
	r.t.Helper()
	n, err := r.tryStart(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

func (r *rig) tryStart(cfg Config) (*node, error) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c, err := cache.Open(ctx, cache.Options{Store: r.store})
	if err != nil {
		r.t.Fatal(err)
	}
	id := r.identity(cluster.Peer{Role: cluster.RoleBackend, ID: string(cfg.ID)})
	s, err := New(cfg, Deps{Identity: id, Directory: r.dir, Cache: c, Log: slog.New(r.log), Metrics: prometheus.NewRegistry()})
	if err != nil {
		cancel()
		return nil, err
	}
	s.cfg.Advertise = s.Addr() // port 0 is known by now
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	n := &node{Server: s, cfg: cfg}
	stopped := false
	n.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-ended; err != nil {
				r.t.Errorf("%s: %v", cfg.ID, err)
			}
			c.Close()
		}
	}
	n.ignore = func() {
		stopped = true
		<-ended
		cancel()
		c.Close()
	}
	select {
	case <-s.Ready():
	case err := <-ended:
		stopped = true
		cancel()
		c.Close()
		return nil, err
	case <-time.After(20 * time.Second):
		r.t.Fatalf("%s is not ready", cfg.ID)
	}
	r.t.Cleanup(n.stop)
	r.nodes[cfg.ID] = n
	return n, nil
}

// call is one control call.
func call[Reply any](r *rig, as *cluster.Identity, id director.BackendID, path string, req any) (Reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c := control.NewClient(as, r.nodes[id].Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: string(id)})
	return control.Call[Reply](ctx, c, path, req)
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// create makes alice on id, by R12.
func (r *rig) create(id director.BackendID) director.Record {
	r.t.Helper()
	ctx := context.Background()
	var prev *director.Record
	var epoch director.Epoch
	if v, err := r.dir.Location(ctx, alice); err == nil {
		prev, epoch = &v.Value, v.Value.Epoch
	}
	_, err := call[control.FenceReply](r, r.admin, id, control.PathPrepare, control.PrepareRequest{User: alice, Epoch: epoch})
	r.must(err)
	rec, err := director.Create(prev, id)
	r.must(err)
	r.must(r.dir.CreateUser(ctx, alice, rec, director.Account{Created: time.Now()}))
	return rec
}

// deliver delivers at (home, epoch), as an mx that looked it up.
func (r *rig) deliver(id director.BackendID, epoch director.Epoch, delivery, body string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	b := r.nodes[id]
	box, err := b.Open(ctx, alice, id, epoch)
	if err != nil {
		return err
	}
	defer box.Close()
	m, err := b.Stage(ctx, "", strings.NewReader(body), 0)
	if err != nil {
		return err
	}
	defer m.Discard()
	return box.Deliver(ctx, mailbox.Delivery{ID: delivery, Message: m, Places: []mailbox.Place{{}}})
}

// count counts INBOX at (home, epoch).
func (r *rig) count(id director.BackendID, epoch director.Epoch) int {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	box, err := r.nodes[id].Open(ctx, alice, id, epoch)
	r.must(err)
	defer box.Close()
	f, err := box.Folder("INBOX")
	r.must(err)
	s, err := f.Snapshot()
	r.must(err)
	return s.Messages.Len()
}

// plan writes the journal and gives the busy epoch.
func (r *rig) plan(to director.BackendID, id string) (director.Move, director.Record) {
	r.t.Helper()
	m, err := r.dir.PlanMove(context.Background(), alice, to, id, time.Now())
	r.must(err)
	v, err := r.dir.Location(context.Background(), alice)
	r.must(err)
	return m, v.Value
}

func (r *rig) pull(m director.Move, final bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c := control.NewClient(r.mover, r.nodes[m.Target].Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: string(m.Target)})
	_, err := c.Pull(ctx, control.PullRequest{User: alice, Epoch: m.Epoch + 1, Source: m.Source, Node: r.nodes[m.Source].Addr(), Final: final}, func(control.PullProgress) {})
	return err
}

// toSealed plays a move up to the seal.
func (r *rig) toSealed(to director.BackendID, id string) (director.Move, director.Record) {
	r.t.Helper()
	m, rec := r.plan(to, id)
	req := control.MoveRequest{User: alice, Epoch: m.Epoch + 1}
	_, err := call[control.FenceReply](r, r.mover, to, control.PathStage, req)
	r.must(err)
	r.must(r.pull(m, false))
	busy, err := rec.MarkBusy(to)
	r.must(err)
	r.must(r.dir.Advance(context.Background(), m, rec, &busy))
	sum, err := call[control.ManifestSummary](r, r.mover, m.Source, control.PathFreeze, req)
	r.must(err)
	r.must(r.pull(m, true))
	_, err = call[control.ManifestSummary](r, r.mover, to, control.PathSeal, control.SealRequest{User: alice, Epoch: req.Epoch, Digest: sum.Digest, Maildrop: sum.Maildrop})
	r.must(err)
	m.Receipt, m.Messages, m.Bytes = sum.Digest, sum.Messages, sum.Bytes
	return m, busy
}

func (r *rig) flip(m director.Move, busy director.Record) director.Record {
	r.t.Helper()
	to, err := busy.Flip()
	r.must(err)
	m.Phase = director.PhaseFlipped
	r.must(r.dir.Advance(context.Background(), m, busy, &to))
	return to
}

func (r *rig) finish(m director.Move, rec director.Record) {
	r.t.Helper()
	m.Phase, m.Finished = director.PhaseDone, time.Now()
	r.must(r.dir.Advance(context.Background(), m, rec, nil))
}

// fenceIs waits until a backend's fence is as wanted.
func (r *rig) fenceIs(id director.BackendID, want fence.Fence) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("fence of %s is %s", id, want), func() error {
		f := r.nodes[id].fenceOf(alice)
		if f.State != want.State || f.Epoch != want.Epoch {
			return errors.New("it is " + f.String())
		}
		return nil
	})
}

func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		<-tick.C
	}
}
