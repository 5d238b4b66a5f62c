package rebalance

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/director"
)

// TestAdmit: however many movers look, what goes on stays within the limits, nobody
// waits without a limit that says so, and who is older goes first.
func TestAdmit(t *testing.T) {
	now := time.Unix(10_000, 0)
	ids := []director.BackendID{"b1", "b2", "b3"}
	phases := []director.MovePhase{director.PhasePlanned, director.PhasePlanned, director.PhaseCopying, director.PhaseFrozen, director.PhaseFlipped}
	rapid.Check(t, func(t *rapid.T) {
		limit := func(name string) director.Limit {
			return director.Limit{Moves: rapid.IntRange(0, 4).Draw(t, name), BytesPerSecond: rapid.Int64Range(0, 1000).Draw(t, name+" rate")}
		}
		l := director.Limits{Limit: limit("all"), Backends: map[director.BackendID]director.Limit{"b1": limit("b1"), "b2": limit("b2")}}
		var moves []director.Move
		for i := range rapid.IntRange(0, 12).Draw(t, "moves") {
			from := rapid.IntRange(0, 2).Draw(t, "from")
			m := director.Move{
				User: director.User(fmt.Sprintf("u%d@example.test", i)), Source: ids[from], Target: ids[(from+1)%3],
				Phase: rapid.SampledFrom(phases).Draw(t, "phase"), Created: now.Add(-time.Duration(rapid.IntRange(0, 9).Draw(t, "age")) * time.Second),
			}
			if m.Phase == director.PhasePlanned && rapid.Bool().Draw(t, "put off") {
				m.NotBefore = now.Add(time.Second)
			}
			moves = append(moves, m)
		}
		before := countMoves(moves)
		run, wait := admit(moves, l, now)
		after, off := countMoves(nil), 0
		for _, m := range run {
			if notYet(m, now) {
				t.Fatalf("%s goes on before its time", m.User)
			}
			if m.Phase == director.PhasePlanned {
				m.Phase = director.PhaseCopying
			}
			after.count(m)
		}
		for _, m := range moves {
			if notYet(m, now) {
				off++
			}
		}
		if len(run)+len(wait)+off != len(moves) {
			t.Fatalf("%d of %d moves go on, %d wait, %d are put off", len(run), len(moves), len(wait), off)
		}
		for _, id := range []director.BackendID{"", "b1", "b2", "b3"} {
			most := limitOf(l, id).Moves
			if most > 0 && after.begun[id] > max(most, before.begun[id]) {
				t.Fatalf("%d moves at %q, limit %d, begun before %d", after.begun[id], id, most, before.begun[id])
			}
		}
		for _, h := range wait {
			if after.full(h.Move, l) == "" || h.why == "" {
				t.Fatalf("%s waits for nothing", h.User)
			}
		}
		for _, id := range []director.BackendID{"", "b1", "b2"} {
			rate, sum := limitOf(l, id).BytesPerSecond, int64(0)
			for _, m := range run {
				if m.Phase == director.PhaseCopying && (id == "" || m.Source == id || m.Target == id) {
					sum += before.share(m, l)
				}
			}
			if n := int64(before.copying[id]); rate > 0 && sum > max(rate, n) {
				t.Fatalf("%d bytes/s at %q, limit %d", sum, id, rate)
			}
		}
	})
}

// TestLimitsOverAllMovers: a move waits, and says why, while another mover's takes the
// only place; it begins when the limit is raised.
func TestLimitsOverAllMovers(t *testing.T) {
	w, err := newWorld("b1", "b2", "b3")
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	const bob = director.User("bob@example.test")
	rec, err := director.Create(nil, "b3")
	if err == nil {
		err = w.dir.CreateUser(ctx, bob, rec, director.Account{})
	}
	if err != nil {
		t.Fatal(err)
	}
	lease, err := w.store.Grant(ctx, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	other, err := w.dir.PlanMove(ctx, bob, "b2", "other", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := w.dir.Claim(ctx, bob, "r9", lease.ID()); !got || err != nil {
		t.Fatal(got, err)
	}
	other.Phase = director.PhaseCopying
	if err := w.dir.Advance(ctx, other, rec, nil); err != nil {
		t.Fatal(err)
	}
	limit := func(n int) {
		t.Helper()
		if _, err := w.dir.SetLimit(ctx, "b2", func(l *director.Limit) { l.Moves = n }); err != nil {
			t.Fatal(err)
		}
	}
	limit(1)
	w.plan(t, "b2", "m1")
	n := new(atomic.Int32)
	w.moverWith(t, Config{ID: "r1"}, n, 0)
	w.moverWith(t, Config{ID: "r2"}, n, 0)
	m, _ := w.wait(t, "it says why it waits", func(m director.Move, _ director.Record) bool { return m.Waiting != "" || m.Phase.Finished() })
	if m.Phase != director.PhasePlanned || m.Waiting != "for its turn: b2 takes part in no more than 1 moves at once" {
		t.Errorf("journal %+v", m)
	}
	limit(2)
	m, _ = w.wait(t, "the move", finished)
	if m.Phase != director.PhaseDone || m.Waiting != "" {
		t.Errorf("journal %+v", m)
	}
	w.check(t, []string{"first"})
}
