package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/cache"
	"waypost/director/memory"
)

const (
	ann = director.User("ann@example.test")
	bob = director.User("bob@example.test")
	eve = director.User("eve@example.test")
)

// rig is a directory that went back, and backends that know more.
type rig struct {
	t      *testing.T
	store  *memory.Store
	dir    *director.Directory
	fences map[director.BackendID]map[director.User]Fence
	disks  map[director.BackendID]director.Incarnation
	away   map[director.BackendID]bool
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, store: memory.New(), away: map[director.BackendID]bool{}, disks: map[director.BackendID]director.Incarnation{}}
	t.Cleanup(func() { _ = r.store.Close() })
	r.dir = director.New(r.store)
	ctx := t.Context()
	r.must(r.dir.Init(ctx, func() string { return "old" }))
	r.must(r.dir.CreateDomain(ctx, "example.test", time.Unix(1, 0)))
	for _, id := range []director.BackendID{"b1", "b2"} {
		r.disks[id] = director.Incarnation{Disk: "disk-" + string(id), Count: 9}
		r.must(r.dir.PutBackend(ctx, id, func(b *director.Backend, _ bool) error {
			b.Kind, b.State, b.Node = director.KindWaypost, director.BackendActive, string(id)+":1"
			return nil
		}))
		r.must(r.dir.PutIncarnation(ctx, id, director.Incarnation{Disk: "disk-" + string(id), Count: 5}))
	}
	for _, u := range []director.User{ann, bob, eve} {
		r.must(r.dir.CreateUser(ctx, u, director.Record{Home: "b1", Epoch: 1, State: director.Active}, director.Account{Hash: "h"}))
	}
	_, err := r.dir.PlanMove(ctx, eve, "b2", "m1", time.Unix(1, 0))
	r.must(err)
	r.fences = map[director.BackendID]map[director.User]Fence{
		"b1": {ann: {Gone, 3}, bob: {Serving, 1}, eve: {Serving, 4}},
		"b2": {ann: {Serving, 3}, eve: {Serving, 4}},
	}
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) options() Options {
	return Options{Store: r.store, NewEra: func() string { return "new" }, Log: slog.New(slog.DiscardHandler),
		Sweep: func(_ context.Context, id director.BackendID, node string, fn func(director.User, Fence) error) (director.Incarnation, error) {
			if r.away[id] || node != string(id)+":1" {
				return director.Incarnation{}, fmt.Errorf("%s at %s is away", id, node)
			}
			for u, f := range r.fences[id] {
				if err := fn(u, f); err != nil {
					return r.disks[id], err
				}
			}
			return r.disks[id], nil
		}}
}

func (r *rig) record(u director.User) string {
	r.t.Helper()
	v, err := r.dir.Location(r.t.Context(), u)
	if errors.Is(err, director.ErrNotFound) {
		return "none"
	}
	r.must(err)
	return v.Value.String()
}

func (r *rig) era() string {
	r.t.Helper()
	e, err := r.store.Get(r.t.Context(), director.KeyEra)
	r.must(err)
	return string(e.Value)
}

func TestRun(t *testing.T) {
	r := newRig(t)
	c, err := cache.Open(t.Context(), cache.Options{Store: r.store})
	r.must(err)
	defer c.Close()
	r.must(c.WaitReady(t.Context()))
	if got, _, _ := c.Location(eve); got.Home != "b1" {
		t.Fatalf("the cache has %q", got)
	}

	dry := r.options()
	dry.DryRun = true
	report, err := Run(t.Context(), dry)
	r.must(err)
	if report.Decided != 2 || report.Closed != 1 || report.Moved != 1 || r.era() != "old" || r.record(ann) != "1 b1 1 active" {
		t.Errorf("dry: %+v, era %q, %s", report, r.era(), r.record(ann))
	}

	report, err = Run(t.Context(), r.options())
	r.must(err)
	if report.Decided != 2 || report.Closed != 1 || report.Moved != 1 || len(report.Notes) != 1 || report.Notes[0].User != eve {
		t.Errorf("%+v", report)
	}
	for u, want := range map[director.User]string{ann: "1 b2 4 active", bob: "1 b1 2 active", eve: "1 _undecided 4 busy _nobody"} {
		if got := r.record(u); got != want {
			t.Errorf("%s: %s, want %s", u, got, want)
		}
	}
	if _, err := r.dir.Move(t.Context(), eve); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("a move is left: %v", err)
	}
	// What is remembered of another era goes, though epochs went up only here.
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for c.Era() != "new" {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the cache stays in the old era")
		}
	}

	// The operator decides, and only that user changes homes.
	again := r.options()
	again.Homes = map[director.User]director.BackendID{eve: "b2"}
	report, err = Run(t.Context(), again)
	r.must(err)
	if report.Closed != 0 || r.record(eve) != "1 b2 5 active" || r.record(bob) != "1 b1 3 active" {
		t.Errorf("%+v: %s, %s", report, r.record(eve), r.record(bob))
	}
}

// TestRunSilent: a backend that is away, or whose disk went back, stops a restore
// before anything was changed, unless the operator says otherwise.
func TestRunSilent(t *testing.T) {
	r := newRig(t)
	refused := func(what string) {
		t.Helper()
		if _, err := Run(t.Context(), r.options()); !errors.Is(err, ErrSilent) || r.era() != "old" {
			t.Errorf("%s: %v, era %q", what, err, r.era())
		}
	}
	r.disks["b2"] = director.Incarnation{Disk: "disk-b2", Count: 4}
	refused("a disk that went back")
	r.disks["b2"] = director.Incarnation{Disk: "other", Count: 40}
	refused("another disk")
	r.away["b2"] = true
	refused("away")
	partial := r.options()
	partial.Partial = true
	report, err := Run(t.Context(), partial)
	r.must(err)
	// ann is gone from b1, and where it is nobody says.
	if r.record(ann) != "1 _undecided 1 busy _nobody" || r.record(bob) != "1 b1 2 active" || report.Closed != 1 {
		t.Errorf("%+v: %s, %s", report, r.record(ann), r.record(bob))
	}
	// Once it answers, another run puts that right.
	r.away["b2"], r.disks["b2"] = false, director.Incarnation{Disk: "disk-b2", Count: 40}
	_, err = Run(t.Context(), r.options())
	r.must(err)
	if r.record(ann) != "1 b2 4 active" {
		t.Errorf("ann: %s", r.record(ann))
	}
}

// TestRunFromNothing: etcd is empty; homes come from the fences, all else from a
// node's copy.
func TestRunFromNothing(t *testing.T) {
	r := newRig(t)
	copied := map[string][]byte{}
	for _, prefix := range []string{director.PrefixLocation, director.PrefixAccount, director.PrefixDomain, director.PrefixBackend} {
		_, err := r.store.List(t.Context(), prefix, func(e director.Entry) error { copied[e.Key] = e.Value; return nil })
		r.must(err)
	}
	delete(copied, director.AccountKey(bob))
	r.store = memory.New()
	defer r.store.Close()
	r.dir = director.New(r.store)
	if _, err := Run(t.Context(), r.options()); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("without any backend: %v", err)
	}
	o := r.options()
	o.Import = copied
	report, err := Run(t.Context(), o)
	r.must(err)
	if r.record(ann) != "1 b2 4 active" || r.era() != "new" || len(report.NoAccount) != 1 || report.NoAccount[0] != bob {
		t.Errorf("%+v: %s, era %q", report, r.record(ann), r.era())
	}
	if _, err := r.dir.Domain(t.Context(), "example.test"); err != nil {
		t.Error(err)
	}
	if a, err := r.dir.Account(t.Context(), ann); err != nil || a.Value.Hash != "h" {
		t.Errorf("ann's account: %+v, %v", a, err)
	}
	if inc, err := r.dir.Incarnation(t.Context(), "b1"); err != nil || inc != r.disks["b1"] {
		t.Errorf("the disk of b1: %+v, %v", inc, err)
	}
	// Backends named by hand are in the directory afterwards.
	r.store = memory.New()
	defer r.store.Close()
	r.dir = director.New(r.store)
	o = r.options()
	o.Nodes = map[director.BackendID]string{"b1": "b1:1", "b2": "b2:1"}
	_, err = Run(t.Context(), o)
	r.must(err)
	if b, err := r.dir.Backend(t.Context(), "b2"); err != nil || b.Value.Node != "b2:1" || b.Value.Kind != director.KindWaypost {
		t.Errorf("b2: %+v, %v", b, err)
	}
}

// TestRunNewerCopy: a node's copy of the directory is newer than the snapshot of etcd.
// Its records above the store's count, with the accounts that belong to them.
func TestRunNewerCopy(t *testing.T) {
	r := newRig(t)
	o := r.options()
	account := func(hash string) []byte { return []byte(`{"version":1,"hash":"` + hash + `"}`) }
	o.Import = map[string][]byte{
		director.LocationKey(ann): []byte("1 b2 3 active"), director.AccountKey(ann): account("the next ann's"),
		director.LocationKey(bob): []byte("1 b1 2 deleted"),
		director.LocationKey(eve): []byte("1 b1 1 active"), director.AccountKey(eve): account("not newer"),
	}
	r.fences = map[director.BackendID]map[director.User]Fence{
		"b1": {ann: {Gone, 2}, bob: {Gone, 2}, eve: {Serving, 1}}, "b2": {ann: {Serving, 3}},
	}
	report, err := Run(t.Context(), o)
	r.must(err)
	if report.Decided != 2 || report.Deleted != 1 || report.Closed != 0 || len(report.NoAccount) != 0 {
		t.Errorf("%+v", report)
	}
	for u, want := range map[director.User]string{ann: "1 b2 4 active", bob: "1 b1 3 deleted", eve: "1 b1 2 active"} {
		if got := r.record(u); got != want {
			t.Errorf("%s: %s, want %s", u, got, want)
		}
	}
	for u, want := range map[director.User]string{ann: "the next ann's", eve: "h"} {
		if a, err := r.dir.Account(t.Context(), u); err != nil || a.Value.Hash != want {
			t.Errorf("account of %s: %+v, %v", u, a, err)
		}
	}
	if _, err := r.dir.Account(t.Context(), bob); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("bob was deleted and has an account: %v", err)
	}
	// A copy that is older gives nothing back to who was deleted.
	o.Import[director.LocationKey(bob)], o.Import[director.AccountKey(bob)] = []byte("1 b1 1 active"), account("h")
	_, err = Run(t.Context(), o)
	r.must(err)
	if _, err := r.dir.Account(t.Context(), bob); r.record(bob) != "1 b1 4 deleted" || !errors.Is(err, director.ErrNotFound) {
		t.Errorf("bob: %s, %v", r.record(bob), err)
	}
}

// TestRunBrokenOff: broken off before or behind any transaction the directory stays
// closed, and another run opens it.
func TestRunBrokenOff(t *testing.T) {
	for n := 0; ; n++ {
		broken := false
		for _, outcome := range []memory.Outcome{memory.Unavailable, memory.UnknownDone, memory.UnknownNotDone} {
			r := newRig(t)
			i := 0
			r.store.SetCommitHook(func([]director.Guard, []director.Op) memory.Outcome {
				i++
				if i == n+1 {
					return outcome
				}
				return memory.Normal
			})
			_, err := Run(t.Context(), r.options())
			broken = broken || i > n
			r.store.SetCommitHook(nil)
			if err != nil && r.era() == "" {
				if _, err := r.dir.DeleteUser(t.Context(), bob); !errors.Is(err, director.ErrUnavailable) {
					t.Errorf("transaction %d: a closed directory was changed: %v", n, err)
				}
			}
			if _, err := Run(t.Context(), r.options()); err != nil || r.era() != "new" {
				t.Errorf("transaction %d, outcome %d: the second run: %v, era %q", n, outcome, err, r.era())
			}
			if v, err := r.dir.Location(t.Context(), ann); err != nil || v.Value.Home != "b2" || v.Value.Epoch < 4 {
				t.Errorf("transaction %d: ann: %q, %v", n, v.Value, err)
			}
		}
		if !broken {
			return
		}
	}
}
