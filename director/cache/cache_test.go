package cache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/director"
	"waypost/director/memory"
)

const patience = 20 * time.Second

// fixture is a directory in memory with a domain, two backends and a client.
type fixture struct {
	*Client
	t     *testing.T
	ctx   context.Context
	store *memory.Store
	dir   *director.Directory
}

func newDirectory(t *testing.T) (*memory.Store, *director.Directory) {
	t.Helper()
	s := memory.New()
	t.Cleanup(func() { _ = s.Close() })
	d := director.New(s)
	must(t, d.Init(t.Context(), func() string { return "era-1" }))
	must(t, d.CreateDomain(t.Context(), "example.test", time.Unix(1, 0)))
	for _, id := range []director.BackendID{"b1", "b2"} {
		must(t, d.PutBackend(t.Context(), id, func(b *director.Backend, _ bool) error {
			*b = director.Backend{Kind: director.KindWaypost, State: director.BackendActive, Weight: 100}
			return nil
		}))
	}
	return s, d
}

func open(t *testing.T, s director.Store, o Options) *Client {
	t.Helper()
	o.Store = s
	c, err := Open(t.Context(), o)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, c.WaitReady(ctx))
	return c
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	s, d := newDirectory(t)
	f := &fixture{t: t, store: s, dir: d, Client: open(t, s, Options{})}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	f.ctx = ctx
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func addUser(t testing.TB, d *director.Directory, u director.User) {
	t.Helper()
	must(t, d.CreateUser(t.Context(), u, director.Record{Home: "b1", Epoch: 1, State: director.Active}, director.Account{Hash: "{PLAIN}x"}))
}

// settle waits until the watch has brought everything committed so far.
func (f *fixture) settle() {
	f.t.Helper()
	settle(f.t, f.ctx, f.Client, f.dir)
}

var settled atomic.Int64

func settle(t testing.TB, ctx context.Context, c *Client, d *director.Directory) {
	t.Helper()
	id := director.BackendID(fmt.Sprintf("settle-%d", settled.Add(1)))
	seen := make(chan struct{}, 1)
	defer c.Subscribe(func(director.Change) {
		select {
		case seen <- struct{}{}:
		default:
		}
	})()
	must(t, d.PutBackend(ctx, id, func(*director.Backend, bool) error { return nil }))
	for {
		if _, ok := c.Backend(id); ok {
			return
		}
		select {
		case <-seen:
		case <-ctx.Done():
			t.Fatal("the cache does not follow")
		}
	}
}

// rewrite changes a location by one legal transition.
func rewrite(ctx context.Context, s director.Store, u director.User, next func(director.Record) (director.Record, error)) error {
	for {
		e, err := s.Get(ctx, director.LocationKey(u))
		if err != nil {
			return err
		}
		r, err := director.DecodeRecord(e.Value)
		if err != nil {
			return err
		}
		if r, err = next(r); err != nil {
			return err
		}
		_, done, err := s.Commit(ctx, []director.Guard{{Key: e.Key, Rev: e.Rev}}, []director.Op{{Key: e.Key, Value: r.Encode()}})
		if done || err != nil {
			return err
		}
	}
}

func step(r director.Record) (director.Record, error) {
	if r.State == director.Busy {
		return r.Flip()
	}
	if r.Home == "b1" {
		return r.MarkBusy("b2")
	}
	return r.MarkBusy("b1")
}

// restore does what R10 does to the store: other epochs, another era.
func restore(t *testing.T, s director.Store, era string, recs map[director.User]director.Record) {
	t.Helper()
	ops := []director.Op{{Key: director.KeyEra, Value: []byte(era)}}
	for u, r := range recs {
		ops = append(ops, director.Op{Key: director.LocationKey(u), Value: r.Encode()})
	}
	if _, done, err := s.Commit(t.Context(), nil, ops); err != nil || !done {
		t.Fatal(done, err)
	}
}

func TestFollowsTheDirectory(t *testing.T) {
	f := newFixture(t)
	if _, known, stale := f.Location("ann@example.test"); known || stale {
		t.Fatalf("known %v, stale %v", known, stale)
	}
	addUser(t, f.dir, "ann@example.test")
	r, err := f.WaitChange(f.ctx, "ann@example.test", 0)
	if want := (director.Record{Home: "b1", Epoch: 1, State: director.Active}); err != nil || r != want {
		t.Fatalf("%v, %v", r, err)
	}
	f.settle()
	a, v1, known := f.Account("ann@example.test")
	if !known || a.Hash != "{PLAIN}x" || v1 == 0 {
		t.Fatalf("account %+v, version %d, %v", a, v1, known)
	}
	must(t, f.dir.UpdateAccount(f.ctx, "ann@example.test", func(a *director.Account) error { a.Disabled = true; return nil }))
	f.settle()
	if a, v2, _ := f.Account("ann@example.test"); !a.Disabled || v2 <= v1 {
		t.Fatalf("account %+v, version %d after %d", a, v2, v1)
	}
	if b, ok := f.Backend("b1"); !ok || b.Kind != director.KindWaypost || len(f.Backends()) < 2 {
		t.Fatalf("backends %+v", f.Backends())
	}
	if !f.Domain("example.test") || f.Domain("other.test") || f.Era() != "era-1" {
		t.Fatal("domain or era")
	}
	if _, err := f.dir.DeleteUser(f.ctx, "ann@example.test"); err != nil {
		t.Fatal(err)
	}
	if r, err := f.WaitChange(f.ctx, "ann@example.test", 1); err != nil || r.State != director.Deleted {
		t.Fatalf("%v, %v", r, err)
	}
	f.settle()
	if _, _, known := f.Account("ann@example.test"); known {
		t.Fatal("the account of a deleted user is known")
	}
	n := 0
	f.Users(func(director.User, director.Record) bool { n++; return true })
	if n != 1 {
		t.Fatalf("%d users", n)
	}
}

func TestFresh(t *testing.T) {
	f := newFixture(t)
	if _, err := f.Fresh(f.ctx, "ann@example.test"); !errors.Is(err, director.ErrNotFound) {
		t.Fatalf("absent: %v", err)
	}
	f.store.PauseWatches(true)
	addUser(t, f.dir, "ann@example.test")
	must(t, rewrite(f.ctx, f.store, "ann@example.test", step))
	r, err := f.Fresh(f.ctx, "ann@example.test")
	if err != nil || r.Epoch != 2 || r.State != director.Busy || r.Peer != "b2" {
		t.Fatalf("%v, %v", r, err)
	}
	if have, known, _ := f.Location("ann@example.test"); !known || have != r {
		t.Fatalf("the memory has %v", have)
	}
	f.store.PauseWatches(false)
	f.settle() // the watch brings epochs 1 and 2 now
	if have, _, _ := f.Location("ann@example.test"); have != r {
		t.Fatalf("the memory went from %v to %v", r, have)
	}
	f.store.SetDown(true)
	if _, err := f.Fresh(f.ctx, "ann@example.test"); !errors.Is(err, director.ErrUnavailable) {
		t.Fatalf("store down: %v", err)
	}
	if have, known, stale := f.Location("ann@example.test"); !known || !stale || have != r {
		t.Fatalf("store down: %v, known %v, stale %v", have, known, stale)
	}
}

func TestNeverOlder(t *testing.T) {
	st := newState("e", newShared())
	r5 := director.Record{Home: "b1", Epoch: 5, State: director.Active}
	r4 := director.Record{Home: "b2", Epoch: 4, State: director.Busy, Peer: "b1"}
	for _, r := range []director.Record{r5, r4} {
		if now, ok := st.putLocation("u@d", r); !ok || now != r5 {
			t.Fatalf("put %v: %v, %v", r, now, ok)
		}
	}
	if r, _ := st.location("u@d"); r != r5 {
		t.Fatalf("%v", r)
	}
}

func TestEraChangeDropsEverything(t *testing.T) {
	f := newFixture(t)
	addUser(t, f.dir, "ann@example.test")
	addUser(t, f.dir, "bob@example.test")
	f.settle()
	reloads := make(chan struct{}, 10)
	defer f.Subscribe(func(ch director.Change) {
		if IsReload(ch) {
			reloads <- struct{}{}
		}
	})()
	restore(t, f.store, "era-2", map[director.User]director.Record{"ann@example.test": {Home: "b2", Epoch: 1, State: director.Active}})
	select {
	case <-reloads:
	case <-f.ctx.Done():
		t.Fatal("no reload")
	}
	if r, known, _ := f.Location("ann@example.test"); !known || r.Home != "b2" || f.Era() != "era-2" {
		t.Fatalf("%v, %v, era %s", r, known, f.Era())
	}
	if _, known, _ := f.Location("bob@example.test"); !known {
		t.Fatal("bob is not known after the reload")
	}
}

// TestFreshSeesEraFirst: a restored store whose watch says nothing.
func TestFreshSeesEraFirst(t *testing.T) {
	f := newFixture(t)
	addUser(t, f.dir, "ann@example.test")
	addUser(t, f.dir, "bob@example.test")
	must(t, rewrite(f.ctx, f.store, "ann@example.test", step))
	f.settle()
	f.store.PauseWatches(true)
	restored := director.Record{Home: "b2", Epoch: 1, State: director.Active}
	restore(t, f.store, "era-2", map[director.User]director.Record{"ann@example.test": restored, "bob@example.test": restored})
	if r, err := f.Fresh(f.ctx, "ann@example.test"); err != nil || r != restored {
		t.Fatalf("%v, %v", r, err)
	}
	// Whatever is known of bob now, it is not of the former era.
	if r, known, _ := f.Location("bob@example.test"); known && r != restored {
		t.Fatalf("bob is %v", r)
	}
	if r, err := f.WaitChange(f.ctx, "bob@example.test", 0); err != nil || r != restored {
		t.Fatalf("%v, %v", r, err)
	}
}

func TestProbeFindsEraThatTheWatchMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newDirectory(t)
		c, err := Open(t.Context(), Options{Store: s})
		must(t, err)
		defer func() { must(t, c.Close()); must(t, s.Close()) }()
		must(t, c.WaitReady(t.Context()))
		s.PauseWatches(true)
		restore(t, s, "era-2", map[director.User]director.Record{"u@example.test": {Home: "b2", Epoch: 9, State: director.Active}})
		before := time.Now()
		r, err := c.WaitChange(t.Context(), "u@example.test", 8)
		if err != nil || r.Home != "b2" || c.Era() != "era-2" || time.Since(before) > probeEvery {
			t.Fatalf("%v, %v, era %s after %v", r, err, c.Era(), time.Since(before))
		}
	})
}

func TestStaleAndLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newDirectory(t)
		c, err := Open(t.Context(), Options{Store: s})
		must(t, err)
		defer func() { must(t, c.Close()); must(t, s.Close()) }()
		must(t, c.WaitReady(t.Context()))
		wait := func(d time.Duration) {
			<-time.After(d) // the bubble's clock: this takes no time
			synctest.Wait()
		}
		wait(time.Hour)
		if c.Stale() || c.Lag() > 2*time.Second {
			t.Fatalf("a quiet hour: stale %v, lag %v", c.Stale(), c.Lag())
		}
		s.PauseWatches(true)
		wait(10 * time.Second)
		if !c.Stale() || c.Lag() < 9*time.Second {
			t.Fatalf("a silent watch: stale %v, lag %v", c.Stale(), c.Lag())
		}
		s.PauseWatches(false)
		wait(2 * time.Second)
		if c.Stale() {
			t.Fatal("stale with the watch back")
		}
		s.SetDown(true)
		wait(time.Minute)
		if !c.Stale() || c.Ready() != nil {
			t.Fatalf("store down: stale %v, ready %v", c.Stale(), c.Ready())
		}
		s.SetDown(false)
		wait(10 * time.Second)
		if c.Stale() {
			t.Fatal("stale with the store back")
		}
	})
}

func TestBrokenAndCompactedWatch(t *testing.T) {
	f := newFixture(t)
	addUser(t, f.dir, "ann@example.test")
	must(t, f.dir.PutAddress(f.ctx, "info", "example.test", director.Address{Members: []string{"ann@example.test"}}))
	must(t, f.dir.CreateDomain(f.ctx, "gone.test", time.Unix(1, 0)))
	f.settle()
	f.store.PauseWatches(true)
	if _, err := f.dir.DeleteUser(f.ctx, "ann@example.test"); err != nil {
		t.Fatal(err)
	}
	must(t, f.dir.DeleteAddress(f.ctx, "info", "example.test"))
	must(t, f.dir.DeleteDomain(f.ctx, "gone.test"))
	f.store.Compact() // the watch never tells of these
	f.store.PauseWatches(false)
	f.settle()
	if _, _, known := f.Account("ann@example.test"); known || f.Domain("gone.test") {
		t.Fatal("what was deleted behind a broken watch is still there")
	}
	if r, _, _ := f.Location("ann@example.test"); r.State != director.Deleted {
		t.Fatalf("ann is %v", r)
	}
	if _, ok := f.st.Load().address("example.test/info"); ok {
		t.Fatal("the address is still there")
	}
	f.store.BreakWatches()
	for deadline := time.Now().Add(10 * time.Second); f.restarts.Load() < 2; f.settle() {
		if time.Now().After(deadline) {
			t.Fatalf("%d restarts", f.restarts.Load())
		}
	}
}

func TestSubscribeOrder(t *testing.T) {
	f := newFixture(t)
	var mu sync.Mutex
	var got []director.Change
	cancel := f.Subscribe(func(ch director.Change) {
		mu.Lock()
		defer mu.Unlock()
		if ch.Key == director.LocationKey("ann@example.test") {
			r, _ := director.DecodeRecord(ch.Value)
			if have, _, _ := f.Location("ann@example.test"); have.Epoch < r.Epoch {
				t.Errorf("told of %v before the memory had it: %v", r, have)
			}
		}
		got = append(got, ch)
	})
	addUser(t, f.dir, "ann@example.test")
	for range 20 {
		must(t, rewrite(f.ctx, f.store, "ann@example.test", step))
	}
	f.settle()
	cancel()
	must(t, rewrite(f.ctx, f.store, "ann@example.test", step))
	f.settle()
	mu.Lock()
	defer mu.Unlock()
	epoch := director.Epoch(0)
	for i, ch := range got {
		if i > 0 && ch.Rev < got[i-1].Rev {
			t.Fatalf("%+v after %+v", ch, got[i-1])
		}
		if ch.Key == director.LocationKey("ann@example.test") {
			r, err := director.DecodeRecord(ch.Value)
			if err != nil || r.Epoch != epoch+1 {
				t.Fatalf("epoch %d after %d (%v)", r.Epoch, epoch, err)
			}
			epoch = r.Epoch
		}
	}
	if epoch != 21 {
		t.Fatalf("told up to epoch %d, want 21", epoch)
	}
}

func TestWaitChangeEnds(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(f.ctx)
	ended := make(chan error)
	for range 2 {
		go func() { _, err := f.WaitChange(ctx, "nobody@example.test", 0); ended <- err }()
	}
	cancel()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	sh := f.st.Load().shard("nobody@example.test")
	if len(sh.waiters) != 0 {
		t.Fatal("a waiter is left behind")
	}
	go func() { _, err := f.WaitChange(f.ctx, "nobody@example.test", 0); ended <- err }()
	must(t, f.Close())
	if err := <-ended; !errors.Is(err, director.ErrUnavailable) {
		t.Fatal(err)
	}
}

func TestNotReadyWithoutStoreAndSnapshot(t *testing.T) {
	s, _ := newDirectory(t)
	s.SetDown(true)
	c, err := Open(t.Context(), Options{Store: s})
	must(t, err)
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.WaitReady(ctx); !errors.Is(err, director.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := c.Resolve(t.Context(), "ann@example.test"); !errors.Is(err, director.ErrUnavailable) {
		t.Fatal(err)
	}
	if _, err := c.Resolve(t.Context(), "postmaster"); !errors.Is(err, director.ErrUnavailable) {
		t.Fatal(err)
	}
}

func TestUninitialisedDirectory(t *testing.T) {
	s := memory.New()
	defer s.Close()
	c, err := Open(t.Context(), Options{Store: s})
	must(t, err)
	defer c.Close()
	if _, err := c.Fresh(t.Context(), "ann@example.test"); !errors.Is(err, director.ErrUnavailable) {
		t.Fatal(err)
	}
	must(t, director.New(s).Init(t.Context(), func() string { return "era-1" }))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, c.WaitReady(ctx))
}

func TestBadEntriesAreSkipped(t *testing.T) {
	f := newFixture(t)
	addUser(t, f.dir, "ann@example.test")
	f.settle()
	for _, key := range []string{director.LocationKey("ann@example.test"), director.LocationKey("bad@example.test"),
		director.AddressKey("x", "example.test"), director.BackendKey("b1"), director.AccountKey("bad@example.test")} {
		_, _, err := f.store.Commit(f.ctx, nil, []director.Op{{Key: key, Value: []byte("{nonsense")}})
		must(t, err)
	}
	f.settle()
	if r, known, _ := f.Location("ann@example.test"); !known || r.Epoch != 1 {
		t.Fatalf("ann is %v", r)
	}
	if _, _, known := f.Account("bad@example.test"); known {
		t.Fatal("a bad account is known")
	}
	if b, ok := f.Backend("b1"); !ok || b.Kind != director.KindWaypost {
		t.Fatalf("b1 is %+v", b)
	}
}

func TestMetrics(t *testing.T) {
	s, d := newDirectory(t)
	addUser(t, d, "ann@example.test")
	reg := prometheus.NewPedanticRegistry()
	c := open(t, s, Options{Metrics: reg})
	c.Location("ann@example.test")
	c.Location("bob@example.test")
	c.Location("bob@example.test")
	want := map[string]float64{
		"waypost_directory_stale": 0, "waypost_directory_watch_restarts_total": 0,
		"waypost_directory_records{account}": 1, "waypost_directory_records{location}": 1,
		"waypost_directory_records{address}": 0, "waypost_directory_records{domain}": 1, "waypost_directory_records{backend}": 2,
		"waypost_directory_lookups_total{hit}": 1, "waypost_directory_lookups_total{miss}": 2,
	}
	mfs, err := reg.Gather()
	must(t, err)
	for _, mf := range mfs {
		for _, m := range mf.Metric {
			name := mf.GetName()
			for _, l := range m.Label {
				name += "{" + l.GetValue() + "}"
			}
			v := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			if w, ok := want[name]; ok && w != v {
				t.Errorf("%s is %v, want %v", name, v, w)
			}
			delete(want, name)
		}
	}
	if len(want) != 0 {
		t.Errorf("missing: %v", want)
	}
	if _, err := Open(t.Context(), Options{Store: s, Metrics: reg}); err == nil {
		t.Fatal("metrics registered twice")
	}
	must(t, c.Close())
	c2 := open(t, s, Options{Metrics: reg}) // Close has taken them away
	must(t, c2.Close())
}

// TestFreshUser: record and account are of one moment, whatever the watch has
// brought.
func TestFreshUser(t *testing.T) {
	f := newFixture(t)
	const ann = "ann@example.test"
	if _, _, _, err := f.FreshUser(f.ctx, ann); !errors.Is(err, director.ErrNotFound) {
		t.Fatalf("absent: %v", err)
	}
	first, second := time.Unix(10, 0).UTC(), time.Unix(20, 0).UTC()
	create := func(e director.Epoch, at time.Time) {
		t.Helper()
		must(t, f.dir.CreateUser(f.ctx, ann, director.Record{Home: "b1", Epoch: e, State: director.Active}, director.Account{Created: at}))
	}
	create(1, first)
	f.settle()
	f.store.PauseWatches(true)
	if _, err := f.dir.DeleteUser(f.ctx, ann); err != nil {
		t.Fatal(err)
	}
	r, _, exists, err := f.FreshUser(f.ctx, ann)
	if err != nil || exists || r.State != director.Deleted {
		t.Fatalf("tombstone: %v, %v, %v", r, exists, err)
	}
	create(3, second)
	r, a, exists, err := f.FreshUser(f.ctx, ann)
	if err != nil || !exists || r.Epoch != 3 || !a.Created.Equal(second) {
		t.Fatalf("%v, %+v, %v, %v", r, a, exists, err)
	}
	if have, known, _ := f.Location(ann); !known || have != r {
		t.Fatalf("the memory has %v", have)
	}
	f.store.PauseWatches(false)
	f.settle()
	if have, _, _ := f.Account(ann); !have.Created.Equal(second) {
		t.Fatalf("the memory has %+v", have)
	}
	f.store.SetDown(true)
	if _, _, _, err := f.FreshUser(f.ctx, ann); !errors.Is(err, director.ErrUnavailable) {
		t.Fatalf("store down: %v", err)
	}
}
