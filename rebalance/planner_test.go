package rebalance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/census"
	"waypost/director/memory"
)

// planWorld is a directory with users on backends that tell what they hold, and
// movers that do as the test says. Nothing runs by itself.
type planWorld struct {
	ctx   context.Context
	dir   *director.Directory
	store *memory.Store
	size  map[director.User]int64
	away  map[director.BackendID]bool
	old   map[director.BackendID]bool
	clock time.Time
	// begun counts the journals that were written, by user.
	begun map[director.User]int
	ids   map[string]bool
	// stale, where not nil, is what backends tell as their totals since staleAt.
	stale   map[director.BackendID]census.Totals
	staleAt time.Time
}

type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func newPlanWorld(ctx context.Context, t fataler, backends ...director.BackendID) *planWorld {
	t.Helper()
	w := &planWorld{ctx: ctx, store: memory.New(), size: map[director.User]int64{}, away: map[director.BackendID]bool{}, old: map[director.BackendID]bool{},
		clock: time.Now(), begun: map[director.User]int{}, ids: map[string]bool{}}
	w.dir = director.New(w.store)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(w.dir.Init(ctx, func() string { return "era1" }))
	must(w.dir.CreateDomain(ctx, "x.test", time.Unix(1, 0)))
	for _, id := range backends {
		must(w.dir.PutBackend(ctx, id, func(b *director.Backend, _ bool) error {
			*b = director.Backend{Kind: director.KindWaypost, State: director.BackendActive, Weight: 100, Node: string(id) + ":1"}
			return nil
		}))
	}
	return w
}

func (w *planWorld) user(t fataler, name string, home director.BackendID, size int64, acct director.Account) director.User {
	t.Helper()
	u := director.User(name + "@x.test")
	rec, err := director.Create(nil, home)
	if err == nil {
		err = w.dir.CreateUser(w.ctx, u, rec, acct)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.size[u] = size
	return u
}

func (w *planWorld) users(t fataler, n int, prefix string, home director.BackendID) {
	t.Helper()
	for i := range n {
		w.user(t, fmt.Sprintf("%s%02d", prefix, i), home, 100, director.Account{})
	}
}

// planner makes one that has everything of a mover's but the loop.
func (w *planWorld) planner(t fataler, id string) *planner {
	t.Helper()
	s := &Server{cfg: Config{ID: id, LeaseTTL: 5 * time.Second}, dir: w.dir, log: slog.New(slog.DiscardHandler), at: func(director.User, string) {}}
	s.dial = func(_ context.Context, id director.BackendID) (Backend, string, error) {
		return teller{w: w, id: id}, "", nil
	}
	m, err := newMetrics(prometheus.NewRegistry(), s)
	if err != nil {
		t.Fatal(err)
	}
	s.metrics = m
	p, err := newPlanner(s, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	p.now = func() time.Time { return w.clock }
	return p
}

// teller is a backend that tells what the directory says it holds.
type teller struct {
	*node // only for the calls of moves, which nobody makes
	w     *planWorld
	id    director.BackendID
}

func (b teller) Look(context.Context, control.LookRequest) (control.FenceReply, error) {
	return control.FenceReply{}, errDown
}

func (b teller) Census(ctx context.Context, req census.Request) (census.Reply, error) {
	switch {
	case b.w.away[b.id]:
		return census.Reply{}, errDown
	case b.w.old[b.id]:
		return census.Reply{}, errNoCensus
	}
	var r census.Reply
	r.Totals.CapacityBytes = 1 << 30
	names := slices.Sorted(maps.Keys(b.w.size))
	for _, u := range names {
		rec, err := b.w.dir.Location(ctx, u)
		if err != nil || rec.Value.Home != b.id || rec.Value.State == director.Deleted {
			continue
		}
		r.Totals.Users++
		r.Totals.Bytes += b.w.size[u]
		if u > req.After && len(r.Users) < min(req.Limit, 3) { // small pages, to have many
			r.Users = append(r.Users, census.User{User: u, Bytes: b.w.size[u]})
		} else if u > req.After {
			r.More = true
		}
	}
	if old, ok := b.w.stale[b.id]; ok {
		old.Users, old.AsOf = r.Totals.Users, b.w.staleAt.UnixMilli()
		r.Totals = old
	}
	return r, nil
}

func (w *planWorld) request(t fataler, id string, pol director.PlanPolicy, apply bool) {
	t.Helper()
	if err := w.dir.RequestPlan(w.ctx, director.Plan{ID: id, Policy: pol.WithDefaults(), Apply: apply, Created: w.clock}); err != nil {
		t.Fatal(err)
	}
}

func (w *planWorld) head(t fataler) director.Plan {
	t.Helper()
	h, err := w.dir.Plan(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	return h.Value
}

func (w *planWorld) lead(t fataler, p *planner) director.Plan {
	t.Helper()
	if err := p.lead(w.ctx); err != nil {
		t.Fatal(err)
	}
	for _, m := range w.moves(t) {
		if !w.ids[m.ID] {
			w.ids[m.ID] = true
			w.begun[m.User]++
		}
	}
	return w.head(t)
}

func (w *planWorld) moves(t fataler) []director.Move {
	t.Helper()
	var out []director.Move
	_, err := w.store.List(w.ctx, director.PrefixMove, func(e director.Entry) error {
		m, err := director.DecodeMove(e.Value)
		out = append(out, m)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(out, func(a, b director.Move) int { return strings.Compare(string(a.User), string(b.User)) })
	return out
}

// step brings a move on as a mover would, to the next phase that matters.
func (w *planWorld) step(t fataler, m director.Move) {
	t.Helper()
	rec, err := w.dir.Location(w.ctx, m.User)
	if err != nil {
		t.Fatal(err)
	}
	var to *director.Record
	switch Next(m, rec.Value) {
	case StepCopy:
		r, err := rec.Value.MarkBusy(m.Target)
		if err != nil {
			t.Fatal(err)
		}
		to, m.Phase = &r, director.PhaseSealed
	case StepFlip:
		r, err := rec.Value.Flip()
		if err != nil {
			t.Fatal(err)
		}
		to, m.Phase = &r, director.PhaseFlipped
	case StepFinish:
		m.Phase, m.Finished, m.Bytes = director.PhaseDone, w.clock, w.size[m.User]
	}
	if err := w.dir.Advance(w.ctx, m, rec.Value, to); err != nil {
		t.Fatal(err)
	}
}

func (w *planWorld) finish(t fataler, m director.Move) {
	t.Helper()
	for range 3 {
		w.step(t, m)
		v, err := w.dir.Move(w.ctx, m.User)
		if err != nil {
			t.Fatal(err)
		}
		m = v.Value
	}
	if m.Phase != director.PhaseDone {
		t.Fatalf("%+v", m)
	}
}

func (w *planWorld) undo(t fataler, p *planner, m director.Move) {
	t.Helper()
	rec, err := w.dir.Location(w.ctx, m.User)
	if err == nil {
		err = p.s.undone(w.ctx, m, rec.Value, "the disk is full")
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (w *planWorld) homes(t fataler) map[director.BackendID]int {
	t.Helper()
	n := map[director.BackendID]int{}
	for u := range w.size {
		rec, err := w.dir.Location(w.ctx, u)
		if err != nil {
			t.Fatal(err)
		}
		n[rec.Value.Home]++
	}
	return n
}

// toEnd lets every move succeed until the plan has ended.
func (w *planWorld) toEnd(t fataler, p *planner) director.Plan {
	t.Helper()
	for range 1000 {
		if h := w.lead(t, p); h.State.Ended() {
			return h
		}
		for _, m := range w.moves(t) {
			w.finish(t, m)
		}
	}
	t.Fatal("the plan does not end")
	return director.Plan{}
}

func TestPlanFromRequestToEnd(t *testing.T) {
	w := newPlanWorld(t.Context(), t, "b1", "b2", "b3")
	w.users(t, 30, "u", "b1")
	p := w.planner(t, "r1")
	w.request(t, "p1", director.PlanPolicy{Concurrency: 4, PerBackend: 3}, false)
	h := w.lead(t, p)
	if h.State != director.PlanProposed || h.Moves < 17 || h.Bytes != int64(h.Moves)*100 {
		t.Fatalf("%+v", h)
	}
	if h = w.lead(t, p); len(w.moves(t)) != 0 {
		t.Fatal("a proposed plan moves")
	}
	if _, err := w.dir.SteerPlan(t.Context(), "p1", director.VerbApply, w.clock); err != nil {
		t.Fatal(err)
	}
	h = w.lead(t, p)
	if ms := w.moves(t); len(ms) != 3 || !strings.Contains(h.Waiting, "3 moves on their way") || h.Owner != "r1" {
		t.Fatalf("%d moves, %+v", len(ms), h)
	}
	if h = w.toEnd(t, p); h.State != director.PlanDone || h.Done != h.Moves || h.DoneBytes != h.Bytes || h.Low != h.Moves {
		t.Fatalf("%+v", h)
	}
	for u, n := range w.begun {
		if n != 1 {
			t.Errorf("%s began %d times", u, n)
		}
	}
	if n := w.homes(t); n["b2"] < 9 || n["b3"] < 9 {
		t.Errorf("%v", n)
	}
	// The next one finds nothing to do.
	w.request(t, "p2", director.PlanPolicy{}, true)
	if h = w.lead(t, p); h.State != director.PlanDone || h.Moves != 0 || !strings.Contains(h.Reason, "within") {
		t.Errorf("%+v", h)
	}
}

func TestPlanPauseAndAbort(t *testing.T) {
	w := newPlanWorld(t.Context(), t, "b1", "b2")
	w.users(t, 20, "u", "b1")
	p := w.planner(t, "r1")
	w.request(t, "p1", director.PlanPolicy{Concurrency: 4, PerBackend: 4}, true)
	w.lead(t, p)
	w.lead(t, p)
	ms := w.moves(t)
	if len(ms) != 4 {
		t.Fatalf("%d moves", len(ms))
	}
	if _, err := w.dir.SteerPlan(t.Context(), "", director.VerbPause, w.clock); err != nil {
		t.Fatal(err)
	}
	w.finish(t, ms[0])
	if h := w.lead(t, p); h.State != director.PlanPaused || len(w.moves(t)) != 3 || h.Done != 1 || h.Waiting != "paused by the operator" {
		t.Fatalf("%d moves, %+v", len(w.moves(t)), h)
	}
	// Not even a planner that has not heard of it begins another.
	entries, err := w.dir.PlanEntries(t.Context(), w.head(t).Set, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.dir.PlannedMove(t.Context(), "p1", entries[5], "x", false, w.clock); !errors.Is(err, director.ErrPlanStopped) {
		t.Fatal(err)
	}
	if _, err := w.dir.SteerPlan(t.Context(), "", director.VerbResume, w.clock); err != nil {
		t.Fatal(err)
	}
	if w.lead(t, p); len(w.moves(t)) != 4 {
		t.Fatalf("%d moves", len(w.moves(t)))
	}
	// One is busy, one has flipped, two are planned: all but the flipped one go back.
	ms = w.moves(t)
	w.step(t, ms[0])
	w.step(t, ms[1])
	busy, err := w.dir.Move(t.Context(), ms[1].User)
	if err != nil {
		t.Fatal(err)
	}
	w.step(t, busy.Value)
	if _, err := w.dir.SteerPlan(t.Context(), "p1", director.VerbAbort, w.clock); err != nil {
		t.Fatal(err)
	}
	other := w.planner(t, "r2") // and another mover goes on with it
	h := w.lead(t, other)
	left := w.moves(t)
	if len(left) != 1 || left[0].User != ms[1].User || h.State != director.PlanAborting {
		t.Fatalf("%+v, %+v", left, h)
	}
	w.step(t, left[0])
	if h = w.lead(t, other); h.State != director.PlanAborted || h.Undone != 3 {
		t.Fatalf("%+v", h)
	}
	rec, err := w.dir.Location(t.Context(), ms[0].User)
	if err != nil || rec.Value.Home != "b1" || rec.Value.State != director.Active {
		t.Errorf("%+v, %v", rec.Value, err)
	}
	if n := w.homes(t); n["b2"] != 2 {
		t.Errorf("%v", n)
	}
}

func TestPlanWindow(t *testing.T) {
	w := newPlanWorld(t.Context(), t, "b1", "b2")
	w.users(t, 20, "u", "b1")
	p := w.planner(t, "r1")
	w.clock = time.Date(2026, 3, 2, 23, 0, 0, 0, time.Local)
	w.request(t, "p1", director.PlanPolicy{Window: "01:00-05:00", Concurrency: 2}, true)
	w.lead(t, p)
	if h := w.lead(t, p); len(w.moves(t)) != 0 || !strings.Contains(h.Waiting, "opens at 2026-03-03 01:00") {
		t.Fatalf("%+v", h)
	}
	w.clock = w.clock.Add(2 * time.Hour)
	w.lead(t, p)
	if len(w.moves(t)) != 2 {
		t.Fatalf("%d moves", len(w.moves(t)))
	}
	w.clock = w.clock.Add(4 * time.Hour)
	for _, m := range w.moves(t) {
		w.finish(t, m) // what has begun ends outside of it, too
	}
	if h := w.lead(t, p); len(w.moves(t)) != 0 || h.Done != 2 {
		t.Fatalf("%+v", h)
	}
}

func TestPlanSkipsWhatChanged(t *testing.T) {
	w := newPlanWorld(t.Context(), t, "b1", "b2")
	w.users(t, 10, "u", "b1")
	p := w.planner(t, "r1")
	w.request(t, "p1", director.PlanPolicy{}, false)
	h := w.lead(t, p)
	entries, err := w.dir.PlanEntries(t.Context(), h.Set, 0)
	if err != nil || len(entries) < 3 {
		t.Fatal(entries, err)
	}
	if _, err := w.dir.DeleteUser(t.Context(), entries[0].User); err != nil {
		t.Fatal(err)
	}
	m, err := w.dir.PlanMove(t.Context(), entries[1].User, "b2", "other", w.clock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.dir.SteerPlan(t.Context(), "p1", director.VerbApply, w.clock); err != nil {
		t.Fatal(err)
	}
	w.lead(t, p)
	w.finish(t, m)
	if h = w.toEnd(t, p); h.Skipped != 2 || h.Done != h.Moves-2 || len(h.Failures) != 2 || !strings.Contains(h.Failures[0].Reason, "not begun") {
		t.Errorf("%+v", h)
	}
}

func TestPlanUndoneIsCountedNotRepeated(t *testing.T) {
	w := newPlanWorld(t.Context(), t, "b1", "b2")
	w.users(t, 10, "u", "b1")
	p := w.planner(t, "r1")
	w.request(t, "p1", director.PlanPolicy{}, true)
	w.lead(t, p)
	w.lead(t, p)
	w.undo(t, p, w.moves(t)[0])
	h := w.toEnd(t, p)
	if h.Undone != 1 || h.Done != h.Moves-1 || h.Failures[0].Reason != "the disk is full" {
		t.Errorf("%+v", h)
	}
}

func TestPlanGroupIsFinished(t *testing.T) {
	w := newPlanWorld(t.Context(), t, "b1", "b2")
	w.users(t, 6, "u", "b2")
	for i := range 4 {
		w.user(t, fmt.Sprintf("g%d", i), "b1", 100, director.Account{Group: "team"})
	}
	if err := w.dir.PutBackend(t.Context(), "b1", func(b *director.Backend, _ bool) error { b.State = director.BackendDraining; return nil }); err != nil {
		t.Fatal(err)
	}
	p := w.planner(t, "r1")
	w.request(t, "p1", director.PlanPolicy{Concurrency: 1, PerBackend: 1, Goal: director.GoalDrain}, true)
	w.lead(t, p)
	w.lead(t, p)
	ms := w.moves(t)
	if len(ms) != 4 {
		t.Fatalf("%d of 4 began", len(ms))
	}
	// One arrives, one is undone; then the plan is aborted, and its owner dies.
	w.finish(t, ms[0])
	w.undo(t, p, ms[1])
	if _, err := w.dir.SteerPlan(t.Context(), "p1", director.VerbAbort, w.clock); err != nil {
		t.Fatal(err)
	}
	h := w.toEnd(t, w.planner(t, "r2"))
	if n := w.homes(t); n["b1"] != 0 || h.State != director.PlanAborted || h.Done != 4 || w.begun[ms[1].User] != 2 {
		t.Errorf("%v, %+v, %v", n, h, w.begun)
	}
}

func TestPlanGroupThatGrewStays(t *testing.T) {
	w := newPlanWorld(t.Context(), t, "b1", "b2")
	w.users(t, 4, "u", "b1")
	w.user(t, "g1", "b1", 100, director.Account{Group: "team"})
	w.user(t, "g2", "b1", 100, director.Account{Group: "team"})
	if err := w.dir.PutBackend(t.Context(), "b1", func(b *director.Backend, _ bool) error { b.State = director.BackendDraining; return nil }); err != nil {
		t.Fatal(err)
	}
	p := w.planner(t, "r1")
	w.request(t, "p1", director.PlanPolicy{Concurrency: 50, PerBackend: 50}, false)
	w.lead(t, p)
	w.user(t, "g3", "b1", 100, director.Account{Group: "team"})
	if _, err := w.dir.SteerPlan(t.Context(), "p1", director.VerbApply, w.clock); err != nil {
		t.Fatal(err)
	}
	if h := w.toEnd(t, p); h.Done != 4 || h.Skipped != 2 || w.homes(t)["b1"] != 3 {
		t.Errorf("%+v", h)
	}
}

func TestPlanOldBackends(t *testing.T) {
	w := newPlanWorld(t.Context(), t, "b1", "b2")
	w.users(t, 10, "u", "b1")
	w.old["b1"] = true
	p := w.planner(t, "r1")
	w.request(t, "p1", director.PlanPolicy{}, false)
	if h := w.lead(t, p); h.State != director.PlanFailed || !strings.Contains(h.Reason, "older version") {
		t.Fatalf("%+v", h)
	}
	w.request(t, "p2", director.PlanPolicy{By: director.ByUsers}, true)
	if h := w.toEnd(t, p); h.Done < 4 || h.State != director.PlanDone {
		t.Errorf("%+v", h)
	}
}

func TestPlanWithABackendAway(t *testing.T) {
	w := newPlanWorld(t.Context(), t, "b1", "b2", "b3")
	w.users(t, 20, "u", "b1")
	w.away["b3"] = true
	p := w.planner(t, "r1")
	w.request(t, "p1", director.PlanPolicy{}, true)
	h := w.toEnd(t, p)
	if n := w.homes(t); n["b3"] != 0 || n["b2"] < 9 {
		t.Errorf("%v, %+v", n, h)
	}
	sum, err := w.dir.PlanSummary(t.Context(), h.Set)
	if err != nil || len(sum.Notes) == 0 || !strings.Contains(sum.Notes[0], "b3") {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestContinuousMode(t *testing.T) {
	w := newPlanWorld(t.Context(), t, "b1", "b2")
	w.users(t, 10, "a", "b1")
	w.users(t, 10, "b", "b2")
	p := w.planner(t, "r1")
	if err := w.dir.PutPlanAuto(t.Context(), director.PlanAuto{On: true, Policy: director.PlanPolicy{Band: 0.1}.WithDefaults(), EverySeconds: 60}); err != nil {
		t.Fatal(err)
	}
	quiet := func(what string) {
		t.Helper()
		for range 5 {
			w.clock = w.clock.Add(2 * time.Minute)
			if err := p.lead(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := len(w.moves(t)); n != 0 {
				t.Fatalf("%s: %d moves", what, n)
			}
		}
	}
	quiet("within the band")
	w.users(t, 10, "c", "b1")
	w.clock = w.clock.Add(2 * time.Minute)
	if err := p.lead(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h := w.toEnd(t, p); h.State != director.PlanDone || !h.Auto || h.Done < 4 || h.Done > 5 {
		t.Fatalf("%+v", h)
	}
	quiet("level again")
	// An operator's plan that waits for approval is not replaced at once.
	w.request(t, "mine", director.PlanPolicy{By: director.ByUsers, Band: 0.01}, false)
	if h := w.lead(t, p); h.ID != "mine" {
		t.Fatalf("%+v", h)
	}
	w.users(t, 20, "d", "b2")
	w.clock = w.clock.Add(2 * time.Minute)
	if h := w.lead(t, p); h.ID != "mine" || h.State != director.PlanProposed {
		t.Errorf("%+v", h)
	}
}

// Totals that were added up before the last plan's moves do not make the next plan
// move as many again.
func TestPlanWithOldTotals(t *testing.T) {
	w := newPlanWorld(t.Context(), t, "b1", "b2")
	w.users(t, 20, "u", "b1")
	w.stale = map[director.BackendID]census.Totals{"b1": {Bytes: 2000, CapacityBytes: 1 << 30}, "b2": {CapacityBytes: 1 << 30}}
	w.staleAt, w.clock = w.clock, w.clock.Add(time.Minute)
	p := w.planner(t, "r1")
	w.request(t, "p1", director.PlanPolicy{CoolDownSeconds: 1}, true)
	if h := w.toEnd(t, p); h.Done < 9 || h.Done > 10 {
		t.Fatalf("%+v", h)
	}
	w.clock = w.clock.Add(time.Minute)
	w.request(t, "p2", director.PlanPolicy{CoolDownSeconds: 1}, true)
	if h := w.toEnd(t, p); h.Moves != 0 || !strings.Contains(h.Reason, "within") {
		t.Errorf("%+v", h)
	}
}
