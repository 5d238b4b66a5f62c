package rebalance

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/director"
)

// TestPlansUnderFailures runs random schedules of two owners at once (one that does
// not know yet that it is none), owners that die, operators who pause, resume and
// abort, and movers whose moves succeed or are undone at any point. Whatever happens:
// a user's move begins once, nothing begins while the plan does not run, no group ends
// up apart, and the plan ends.
func TestPlansUnderFailures(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newPlanWorld(context.Background(), t, "b1", "b2", "b3")
		w.users(t, rapid.IntRange(1, 12).Draw(t, "users"), "u", "b1")
		for i := range rapid.IntRange(0, 4).Draw(t, "members") {
			w.user(t, fmt.Sprintf("g%d", i), "b1", 100, director.Account{Group: "team"})
		}
		drain := rapid.Bool().Draw(t, "drain")
		if drain {
			err := w.dir.PutBackend(w.ctx, "b1", func(b *director.Backend, _ bool) error { b.State = director.BackendDraining; return nil })
			if err != nil {
				t.Fatal(err)
			}
		}
		ps := []*planner{w.planner(t, "r1"), w.planner(t, "r2")}
		w.request(t, "p1", director.PlanPolicy{Concurrency: rapid.IntRange(1, 5).Draw(t, "concurrency"), PerBackend: 3}, true)
		undone := map[director.User]bool{}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				ps[0] = w.planner(t, "r3") // an owner died; what it knew is gone
			case 1, 2, 3:
				w.leadQuietly(t, ps[rapid.IntRange(0, 1).Draw(t, "who")])
			case 4:
				verb := rapid.SampledFrom([]director.PlanVerb{director.VerbPause, director.VerbResume, director.VerbResume, director.VerbAbort}).Draw(t, "verb")
				_, _ = w.dir.SteerPlan(w.ctx, "", verb, w.clock) // refused where it does not start
			default:
				ms := w.moves(t)
				if len(ms) == 0 {
					continue
				}
				m := rapid.SampledFrom(ms).Draw(t, "move")
				if rapid.IntRange(0, 4).Draw(t, "fails") == 0 && m.Phase != director.PhaseFlipped {
					undone[m.User] = true
					w.undo(t, ps[0], m)
				} else {
					w.step(t, m)
				}
			}
		}
		if _, err := w.dir.SteerPlan(w.ctx, "", director.VerbResume, w.clock); err != nil {
			t.Log("not resumed:", err)
		}
		h := w.toEnd(t, ps[1])
		w.checkEnd(t, h, undone, drain)
	})
}

// leadQuietly is lead, and checks that nothing begins while the plan does not run but
// the rest of a group.
func (w *planWorld) leadQuietly(t fataler, p *planner) {
	before := map[string]bool{}
	for _, m := range w.moves(t) {
		before[m.ID] = true
	}
	state := w.head(t).State
	w.lead(t, p)
	for _, m := range w.moves(t) {
		if !before[m.ID] && state != director.PlanRunning && m.User[0] != 'g' {
			t.Fatalf("%s begins while the plan is %s", m.User, state)
		}
	}
}

func (w *planWorld) checkEnd(t *rapid.T, h director.Plan, undone map[director.User]bool, drain bool) {
	for u, n := range w.begun {
		if n > 1 && (u[0] != 'g' || n > groupTries) {
			t.Fatalf("%s began %d times", u, n)
		}
	}
	if len(w.moves(t)) != 0 {
		t.Fatalf("the plan is %s, and moves are on their way", h.State)
	}
	at := map[director.BackendID]int{}
	retried := true
	for u := range w.size {
		rec, err := w.dir.Location(w.ctx, u)
		if err != nil || rec.Value.State != director.Active {
			t.Fatalf("%s: %+v, %v", u, rec.Value, err)
		}
		if u[0] == 'g' {
			at[rec.Value.Home]++
			retried = retried && w.begun[u] < groupTries
		}
	}
	if len(at) > 1 && retried {
		t.Fatalf("the group is apart: %v (plan %+v)", at, h)
	}
	if h.State == director.PlanDone {
		if h.Done+h.Undone+h.Skipped != h.Moves || h.Skipped != 0 {
			t.Fatalf("%+v", h)
		}
		if n := w.homes(t)["b1"]; drain && n != h.Undone {
			t.Fatalf("%d are left on the backend that drains, %d were undone", n, h.Undone)
		}
	}
}

// The plans of a mover that dies go on within its lease's time: one that neither
// gives its lease back nor keeps it.
func TestPlansAreTakenOver(t *testing.T) {
	w := newPlanWorld(t.Context(), t, "b1", "b2")
	w.users(t, 10, "u", "b1")
	w.request(t, "p1", director.PlanPolicy{Concurrency: 2}, true)
	w.clock = time.Now()
	first := w.planner(t, "r1")
	alive, die := context.WithCancel(t.Context())
	lease, err := w.store.Grant(alive, 300*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if mine, err := w.dir.ClaimPlans(t.Context(), "r1", lease.ID()); err != nil || !mine {
		t.Fatal(mine, err)
	}
	w.lead(t, first)
	if h := w.lead(t, first); h.Owner != "r1" || len(w.moves(t)) != 2 {
		t.Fatalf("%+v", h)
	}
	second := w.planner(t, "r2")
	second.tick = 20 * time.Millisecond
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	ended := make(chan struct{})
	go func() { defer close(ended); second.run(ctx) }()
	defer func() { stop(); <-ended }()
	for _, m := range w.moves(t) {
		w.finish(t, m)
	}
	if other, err := w.dir.ClaimPlans(t.Context(), "r3", 0); err != nil || other {
		t.Fatal("two owners", err)
	}
	die()
	for batch := range w.store.Watch(ctx, director.KeyPlan, 1) {
		for _, c := range batch.Changes {
			h, err := director.DecodePlan(c.Value)
			if err == nil && h.Owner == "r2" && h.Done >= 2 {
				return
			}
		}
	}
	t.Fatalf("nobody goes on: %+v", w.head(t))
}
