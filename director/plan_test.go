package director_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/memory"
)

func TestPlanTransitions(t *testing.T) {
	states := []director.PlanState{director.PlanRequested, director.PlanProposed, director.PlanRunning, director.PlanPaused,
		director.PlanAborting, director.PlanDone, director.PlanAborted, director.PlanFailed}
	verbs := []director.PlanVerb{director.VerbApply, director.VerbPause, director.VerbResume, director.VerbAbort}
	// A row for each state: what apply, pause, resume, abort lead to; - is refused.
	for i, row := range []string{
		"- - - aborted", "running - - aborted", "running paused running aborting", "- paused running aborting",
		"- - - aborting", "- - - -", "- - - aborted", "- - - -",
	} {
		for j, want := range strings.Fields(row) {
			got, err := states[i].After(verbs[j])
			if want == "-" {
				if !errors.Is(err, director.ErrIllegal) {
					t.Errorf("%s %s: %s, %v", verbs[j], states[i], got, err)
				}
				continue
			}
			if err != nil || string(got) != want {
				t.Errorf("%s %s: %s, %v; want %s", verbs[j], states[i], got, err, want)
			}
		}
		if ended := i >= 5; states[i].Ended() != ended || states[i].UnderWay() != (!ended && states[i] != director.PlanProposed) {
			t.Errorf("%s: ended %v, under way %v", states[i], states[i].Ended(), states[i].UnderWay())
		}
	}
}

func TestWindow(t *testing.T) {
	at := func(s string) time.Time {
		x, err := time.Parse("2006-01-02 15:04", "2026-05-04 "+s)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for _, c := range []struct {
		window, now string
		open        bool
		next        string
	}{
		{"", "12:00", true, "2026-05-04 12:00"},
		{"01:00-05:00", "00:59", false, "2026-05-04 01:00"},
		{"01:00-05:00", "01:00", true, "2026-05-04 01:00"},
		{"01:00-05:00", "05:00", false, "2026-05-05 01:00"},
		{"22:00-06:00", "23:30", true, "2026-05-04 23:30"},
		{"22:00-06:00", "05:59", true, "2026-05-04 05:59"},
		{"22:00-06:00", "06:00", false, "2026-05-04 22:00"},
	} {
		w, err := director.ParseWindow(c.window)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.Next(at(c.now)).Format("2006-01-02 15:04"); w.Open(at(c.now)) != c.open || got != c.next {
			t.Errorf("%+v: open %v, next %s", c, w.Open(at(c.now)), got)
		}
	}
	for _, bad := range []string{"1", "01:00", "01:00-25:00", "01:00-01:00", "a-b", "01:00-05:00-06:00"} {
		if _, err := director.ParseWindow(bad); !errors.Is(err, director.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzParseWindow(f *testing.F) {
	for _, s := range []string{"", "01:00-05:00", "22:00-06:00", "24:00-01:00", "-"} {
		f.Add(s)
	}
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		w, err := director.ParseWindow(s)
		if err != nil {
			return
		}
		if next := w.Next(now); !w.Open(next) || next.Before(now) || next.Sub(now) > 24*time.Hour || w.Part() <= 0 || w.Part() > 1 {
			t.Errorf("%q: %+v, next %v", s, w, next)
		}
	})
}

func TestMayLive(t *testing.T) {
	for _, c := range []struct {
		user, backend string
		may           bool
	}{{"", "", true}, {"", "eu", true}, {"eu", "", false}, {"eu", "eu ssd", true}, {"eu ssd", "eu", false}} {
		if got := director.MayLive(strings.Fields(c.user), strings.Fields(c.backend)); got != c.may {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestPolicyDefaultsAreValid(t *testing.T) {
	if err := (director.PlanPolicy{}).WithDefaults().Validate(); err != nil {
		t.Error(err)
	}
}

// planned is a directory with a running plan of one user.
func planned(t *testing.T) (*memory.Store, *director.Directory, director.PlanEntry) {
	t.Helper()
	s := memory.New()
	t.Cleanup(func() { _ = s.Close() })
	d := director.New(s)
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(d.Init(ctx, func() string { return "era1" }))
	must(d.CreateDomain(ctx, "x.test", time.Unix(1, 0)))
	for _, id := range []director.BackendID{"b1", "b2"} {
		must(d.PutBackend(ctx, id, func(b *director.Backend, _ bool) error {
			b.Kind, b.State = director.KindWaypost, director.BackendActive
			return nil
		}))
	}
	must(d.CreateUser(ctx, "a@x.test", director.Record{Home: "b1", Epoch: 1, State: director.Active}, director.Account{}))
	e := director.PlanEntry{User: "a@x.test", From: "b1", To: "b2", Why: director.WhyOver}
	must(d.RequestPlan(ctx, director.Plan{ID: "p1", Apply: true, Policy: director.PlanPolicy{}.WithDefaults()}))
	must(d.PutPlanEntries(ctx, "p1.s", []director.PlanEntry{e}, director.PlanSummary{}))
	p, err := d.PlanMade(ctx, "p1", "p1.s", 1, 0, "", time.Unix(2, 0))
	must(err)
	if p.State != director.PlanRunning {
		t.Fatalf("%+v", p)
	}
	return s, d, e
}

func TestPlannedMoveBeginsOnce(t *testing.T) {
	_, d, e := planned(t)
	ctx, now := t.Context(), time.Unix(3, 0)
	m, err := d.PlannedMove(ctx, "p1", e, "p1.0.0", false, now)
	if err != nil || m.Target != "b2" || m.Epoch != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	if again, err := d.PlannedMove(ctx, "p1", e, "p1.0.0", false, now); err != nil || again.ID != m.ID {
		t.Fatalf("%+v, %v", again, err)
	}
	if _, err := d.PlannedMove(ctx, "p1", e, "other", false, now); !errors.Is(err, director.ErrConflict) {
		t.Fatal(err)
	}
	// It is undone; a second owner that has not seen that begins nothing.
	rec, err := d.Location(ctx, e.User)
	if err != nil {
		t.Fatal(err)
	}
	m.Phase, m.Reason = director.PhaseUndone, "test"
	if err := d.Advance(ctx, m, rec.Value, nil); err != nil {
		t.Fatal(err)
	}
	if again, err := d.PlannedMove(ctx, "p1", e, "p1.0.0", false, now); err != nil || again.Phase != director.PhaseUndone {
		t.Fatalf("%+v, %v", again, err)
	}
}

func TestPlannedMoveRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(d *director.Directory, e *director.PlanEntry) error
		want error
	}{
		"paused": {func(d *director.Directory, _ *director.PlanEntry) error {
			_, err := d.SteerPlan(t.Context(), "p1", director.VerbPause, time.Now())
			return err
		}, director.ErrPlanStopped},
		"the target drains": {func(d *director.Directory, _ *director.PlanEntry) error {
			return d.PutBackend(t.Context(), "b2", func(b *director.Backend, _ bool) error { b.State = director.BackendDraining; return nil })
		}, director.ErrTargetClosed},
		"the target is gone": {func(_ *director.Directory, e *director.PlanEntry) error { e.To = "b9"; return nil }, director.ErrTargetClosed},
		"the target is a dovecot": {func(d *director.Directory, e *director.PlanEntry) error {
			e.To = "d1"
			return d.PutBackend(t.Context(), "d1", func(b *director.Backend, _ bool) error {
				b.Kind, b.State = director.KindDovecot, director.BackendActive
				return nil
			})
		}, director.ErrIllegal},
		"deleted": {func(d *director.Directory, e *director.PlanEntry) error {
			_, err := d.DeleteUser(t.Context(), e.User)
			return err
		}, director.ErrNotFound},
		"never there":     {func(_ *director.Directory, e *director.PlanEntry) error { e.User = "z@x.test"; return nil }, director.ErrNotFound},
		"lives elsewhere": {func(_ *director.Directory, e *director.PlanEntry) error { e.From, e.To = "b2", "b1"; return nil }, director.ErrIllegal},
		"there already":   {func(_ *director.Directory, e *director.PlanEntry) error { e.To = "b1"; return nil }, director.ErrIllegal},
	} {
		_, d, e := planned(t)
		if err := c.do(d, &e); err != nil {
			t.Fatal(name, err)
		}
		if m, err := d.PlannedMove(t.Context(), "p1", e, "p1.0.0", false, time.Now()); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
		if m, err := d.Move(t.Context(), e.User); !errors.Is(err, director.ErrNotFound) {
			t.Errorf("%s: there is a journal: %+v, %v", name, m.Value, err)
		}
	}
	_, d, e := planned(t)
	if _, err := d.PlannedMove(t.Context(), "p0", e, "p0.0.0", false, time.Now()); !errors.Is(err, director.ErrPlanStopped) {
		t.Error(err)
	}
}

func TestPlanGivesWay(t *testing.T) {
	_, d, _ := planned(t)
	ctx := t.Context()
	if err := d.RequestPlan(ctx, director.Plan{ID: "p2"}); !errors.Is(err, director.ErrPlanUnderWay) || !errors.Is(err, director.ErrConflict) {
		t.Fatal(err)
	}
	if _, err := d.PlanEnded(ctx, "p1", time.Now(), func(p *director.Plan) { p.Done = 1 }); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the same ID asks once
		if err := d.RequestPlan(ctx, director.Plan{ID: "p2"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.PlanEnded(ctx, "p1", time.Now(), func(*director.Plan) {}); !errors.Is(err, director.ErrConflict) {
		t.Errorf("the end of another plan: %v", err)
	}
	if p, err := d.PlanFail(ctx, "p2", "why", time.Now()); err != nil || p.State != director.PlanFailed || p.Reason != "why" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestPlanEntriesInChunks(t *testing.T) {
	s, d, _ := planned(t)
	ctx := t.Context()
	long := strings.Repeat("x", director.MaxUser-7)
	var es []director.PlanEntry
	for i := range 2*director.PlanChunkEntries + 1 {
		es = append(es, director.PlanEntry{User: director.User(fmt.Sprintf("%06d%s", i, long)), From: "b-with-a-long-name-of-32-characte", To: "b-with-a-long-name-of-32-charactf",
			Bytes: 1 << 60, Messages: 1 << 60, Group: strings.Repeat("g", 64), Why: director.WhyDrain, When: director.WhenActive})
	}
	if err := d.PutPlanEntries(ctx, "p2.s", es, director.PlanSummary{Messages: 7}); err != nil {
		t.Fatal(err)
	}
	n := 0
	_, err := s.List(ctx, "plan/chunk/p2.s/", func(e director.Entry) error {
		if n++; len(e.Value) > 1_000_000 {
			t.Errorf("%s has %d bytes", e.Key, len(e.Value))
		}
		return nil
	})
	if err != nil || n != 4 {
		t.Fatalf("%d keys, %v", n, err)
	}
	var got []director.PlanEntry
	for n := 0; ; n++ {
		part, err := d.PlanEntries(ctx, "p2.s", n)
		if err != nil {
			t.Fatal(err)
		}
		if len(part) == 0 {
			break
		}
		got = append(got, part...)
	}
	if len(got) != len(es) || got[len(es)-1] != es[len(es)-1] {
		t.Errorf("%d entries", len(got))
	}
	if err := d.DropPlanSets(ctx, "p2.s"); err != nil {
		t.Fatal(err)
	}
	if part, err := d.PlanEntries(ctx, "p1.s", 0); err != nil || part != nil {
		t.Errorf("%v, %v", part, err)
	}
	if sum, err := d.PlanSummary(ctx, "p2.s"); err != nil || sum.Messages != 7 {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestPlanOwner(t *testing.T) {
	s, d, _ := planned(t)
	ctx := t.Context()
	var leases [2]director.Lease
	for i := range leases {
		l, err := s.Grant(ctx, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		leases[i] = l
	}
	for i, want := range []bool{true, false, true} {
		if got, err := d.ClaimPlans(ctx, fmt.Sprintf("r%d", i%2), leases[i%2].ID()); err != nil || got != want {
			t.Errorf("claim %d: %v, %v", i, got, err)
		}
	}
	if err := leases[0].Revoke(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := d.ClaimPlans(ctx, "r1", leases[1].ID()); err != nil || !got {
		t.Errorf("%v, %v", got, err)
	}
}
