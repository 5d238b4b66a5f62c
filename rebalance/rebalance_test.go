package rebalance

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/director"
	"waypost/internal/cluster"
)

// mover starts one that dies, with its lease lost, at the nth point it comes
// to; 0 never. died is closed then.
func (w *world) mover(t *testing.T, id string, dieAt int32) (died <-chan struct{}, points *atomic.Int32) {
	t.Helper()
	return w.moverWith(t, Config{ID: id, BusyBudget: 5 * time.Second, CopyPatience: 5 * time.Second}, new(atomic.Int32), dieAt)
}

// moverWith starts one that counts the points it comes to in n, and dies at the
// dieAt-th of all that count there.
func (w *world) moverWith(t *testing.T, cfg Config, n *atomic.Int32, dieAt int32) (died <-chan struct{}, points *atomic.Int32) {
	t.Helper()
	store := &mortal{Store: w.store}
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	cfg.Listen = "127.0.0.1:0"
	s, err := New(cfg, Deps{
		Identity: identity(t, cfg.ID), Directory: director.New(store), Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Dial: func(_ context.Context, id director.BackendID) (Backend, string, error) {
			if store.dead.Load() {
				return nil, "", errDown
			}
			return w.nodes[id], string(id) + ":1", nil
		},
		At: func(director.User, string) {
			if n.Add(1) == dieAt {
				store.dead.Store(true)
				cancel()
				close(gone)
				runtime.Goexit()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Serve(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return gone, n
}

func identity(t *testing.T, id string) *cluster.Identity {
	t.Helper()
	dir := t.TempDir()
	a, err := cluster.CreateAuthority(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	p := cluster.Peer{Role: cluster.RoleRebalance, ID: id}
	if err := a.IssueTo(dir, p, []string{"127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	ident, err := cluster.LoadIdentity(dir+"/ca.crt", cluster.CertPath(dir, p), cluster.KeyPath(dir, p))
	if err != nil {
		t.Fatal(err)
	}
	return ident
}

// wait polls the directory until ok or a deadline; it is the directory's watch.
func (w *world) wait(t *testing.T, what string, ok func(director.Move, director.Record) bool) (director.Move, director.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	changes := w.store.Watch(ctx, "", 1)
	for range changes {
		m, err1 := w.dir.Move(ctx, alice)
		r, err2 := w.dir.Location(ctx, alice)
		if err1 == nil && err2 == nil && ok(m.Value, r.Value) {
			return m.Value, r.Value
		}
	}
	m, _ := w.dir.Move(context.Background(), alice)
	r, _ := w.dir.Location(context.Background(), alice)
	t.Fatalf("%s: not within 20 s; journal %+v, record %s", what, m.Value, r.Value)
	return director.Move{}, director.Record{}
}

func (w *world) plan(t *testing.T, to director.BackendID, id string) {
	t.Helper()
	if _, err := w.dir.PlanMove(context.Background(), alice, to, id, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// check is what must hold when all is quiet: the home serves everything that
// was acknowledged, and nobody else serves (I1, I2, I6).
func (w *world) check(t *testing.T, acked []string) {
	t.Helper()
	ctx := context.Background()
	v, err := w.dir.Location(ctx, alice)
	if err != nil {
		t.Fatal(err)
	}
	if v.Value.State != director.Active {
		t.Errorf("the record stays %s", v.Value)
	}
	for _, n := range w.nodes {
		if _, err := n.Look(ctx, control.LookRequest{User: alice}); err != nil {
			t.Fatal(err)
		}
		// A mover may still be telling backends of the end.
		n.set(func() { n.check(t, v.Value, acked) })
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.bad {
		t.Error(b)
	}
}

// check looks at one backend, under its lock.
func (n *node) check(t *testing.T, rec director.Record, acked []string) {
	t.Helper()
	serves := n.fence.State == fence.Serving
	if serves != (n.id == rec.Home) {
		t.Errorf("%s: fence %s, record %s", n.id, n.fence, rec)
	}
	if !serves {
		return
	}
	if n.fence.Epoch != rec.Epoch {
		t.Errorf("%s serves %s, record %s", n.id, n.fence, rec)
	}
	for _, m := range acked {
		if !n.live[m] {
			t.Errorf("message %s was acknowledged and is not at the home %s", m, n.id)
		}
	}
}

func finished(m director.Move, _ director.Record) bool { return m.Phase.Finished() }

func TestMove(t *testing.T) {
	w, err := newWorld("b1", "b2")
	if err != nil {
		t.Fatal(err)
	}
	w.mover(t, "r1", 0)
	w.plan(t, "b2", "m1")
	m, r := w.wait(t, "move", finished)
	if m.Phase != director.PhaseDone || r.Home != "b2" || r.Epoch != 3 || m.Messages != 1 || m.Receipt == "" {
		t.Errorf("journal %+v, record %s", m, r)
	}
	w.check(t, []string{"first"})
}

// TestFewTransactionsWhileBusy: between the one that makes a user busy and the one that
// flips there is none.
func TestFewTransactionsWhileBusy(t *testing.T) {
	w, err := newWorld("b1", "b2")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	changes := w.store.Watch(ctx, director.PrefixMove, 1)
	w.mover(t, "r1", 0)
	w.plan(t, "b2", "m1")
	var phases []director.MovePhase
	for batch := range changes {
		for _, c := range batch.Changes {
			if c.Deleted {
				want := []director.MovePhase{director.PhaseBusy, director.PhaseFlipped}
				if n := len(phases); n < 2 || !slices.Equal(phases[n-2:], want) || slices.Index(phases, director.PhaseBusy) != n-2 {
					t.Errorf("the journal was %v", phases)
				}
				return
			}
			m, err := director.DecodeMove(c.Value)
			if err != nil {
				t.Fatal(err)
			}
			phases = append(phases, m.Phase)
		}
	}
	t.Fatalf("no end: %v", phases)
}

// TestMoverDiesAtEveryPoint: whatever the point, another mover finishes or
// undoes the move, and mail that was taken meanwhile is at the home.
func TestMoverDiesAtEveryPoint(t *testing.T) {
	w, err := newWorld("b1", "b2")
	if err != nil {
		t.Fatal(err)
	}
	_, points := w.mover(t, "r1", 0)
	w.plan(t, "b2", "m0")
	w.wait(t, "move", finished)
	all := points.Load()
	if all < 10 {
		t.Fatalf("only %d points", all)
	}
	for at := int32(1); at <= all; at++ {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			w, err := newWorld("b1", "b2", "b3")
			if err != nil {
				t.Fatal(err)
			}
			ctx := context.Background()
			died, _ := w.mover(t, "r1", at)
			w.plan(t, "b2", "m1")
			<-died
			acked := []string{"first"}
			if w.deliver(ctx, "meanwhile") {
				acked = append(acked, "meanwhile")
			}
			if e, _ := w.store.Get(ctx, director.MoveOwnerKey(alice)); e.Rev != 0 {
				expireOwner(t, w, string(e.Value))
			}
			w.mover(t, "r2", 0)
			m, _ := w.wait(t, "take-over", finished)
			if m.Phase != director.PhaseDone {
				t.Errorf("the move became %s: %s", m.Phase, m.Reason)
			}
			if !w.deliver(ctx, "after") {
				t.Error("the home does not take mail after the move")
			}
			w.check(t, append(acked, "after"))
		})
	}
}

func expireOwner(t *testing.T, w *world, owner string) {
	t.Helper()
	var name string
	var lease int64
	if _, err := fmt.Sscan(owner, &name, &lease); err != nil {
		t.Fatal(err)
	}
	w.store.ExpireLease(director.LeaseID(lease))
}

// TestHomeTakesBack: R7 wins against a mover that has stopped in the middle;
// the mover obeys the record.
func TestHomeTakesBack(t *testing.T) {
	w, err := newWorld("b1", "b2")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	w.nodes["b2"].mu.Lock()
	w.nodes["b2"].down = false
	w.nodes["b2"].mu.Unlock()
	died, _ := w.mover(t, "r1", 7) // in the middle of busy
	w.plan(t, "b2", "m1")
	<-died
	if err := w.takeBack(ctx); err != nil {
		t.Fatal(err)
	}
	if e, _ := w.store.Get(ctx, director.MoveOwnerKey(alice)); e.Rev != 0 {
		expireOwner(t, w, string(e.Value))
	}
	w.mover(t, "r2", 0)
	m, r := w.wait(t, "undo", finished)
	if m.Phase != director.PhaseUndone || r.Home != "b1" || m.Reason == "" {
		t.Errorf("journal %+v, record %s", m, r)
	}
	w.check(t, []string{"first"})
}

// TestTargetDies: before the flip the move is undone within its budget, and a
// later move to the same, restarted target succeeds over the stale staging.
func TestTargetDies(t *testing.T) {
	w, err := newWorld("b1", "b2")
	if err != nil {
		t.Fatal(err)
	}
	n := w.nodes["b2"]
	n.down = true
	s, points := w.mover(t, "r1", 0)
	_, _ = s, points
	w.plan(t, "b2", "m1")
	m, _ := w.wait(t, "undo", finished)
	if m.Phase != director.PhaseUndone {
		t.Fatalf("journal %+v", m)
	}
	n.mu.Lock()
	n.down, n.fence, n.staging = false, fence.Fence{State: fence.Incoming, Epoch: 2}, map[string]bool{"stale": true}
	n.mu.Unlock()
	w.plan(t, "b2", "m2")
	if m, _ := w.wait(t, "second move", func(m director.Move, _ director.Record) bool { return m.ID == "m2" && m.Phase.Finished() }); m.Phase != director.PhaseDone {
		t.Fatalf("journal %+v", m)
	}
	if n.live["stale"] {
		t.Error("what an aborted move left behind came to life")
	}
	w.check(t, []string{"first"})
}
