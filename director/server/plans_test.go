package server

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/admin"
)

func TestPlanFromRequestToAbort(t *testing.T) {
	w := newWorld(t)
	if _, err := w.client.Plan(t.Context(), true); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("no plan: %v", err)
	}
	if _, err := w.client.SteerPlan(t.Context(), director.VerbApply, ""); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("no plan: %v", err)
	}
	p, err := w.client.RequestPlan(t.Context(), admin.RequestPlan{Policy: director.PlanPolicy{By: "users", Window: "01:00-05:00"}})
	if err != nil || p.State != director.PlanRequested || p.Policy.Band != 0.1 {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, err := w.client.RequestPlan(t.Context(), admin.RequestPlan{}); !errors.Is(err, director.ErrConflict) {
		t.Errorf("a second plan: %v", err)
	}
	w.made(t, p.ID)
	full, err := w.client.Plan(t.Context(), true)
	if err != nil || full.State != director.PlanProposed || full.Summary == nil || full.Summary.Backends[0].ID != "b1" || full.Moves != 2 {
		t.Fatalf("%+v, %v", full, err)
	}
	var moves []admin.PlanMove
	if err := w.client.PlanMoves(t.Context(), func(m admin.PlanMove) error { moves = append(moves, m); return nil }); err != nil || len(moves) != 2 || moves[0].To != "b2" {
		t.Fatalf("%+v, %v", moves, err)
	}
	if _, err := w.client.SteerPlan(t.Context(), director.VerbApply, "another"); !errors.Is(err, director.ErrConflict) {
		t.Errorf("apply of another plan: %v", err)
	}
	for _, step := range []struct {
		verb director.PlanVerb
		want director.PlanState
	}{
		{director.VerbApply, director.PlanRunning}, {director.VerbApply, director.PlanRunning}, {director.VerbPause, director.PlanPaused},
		{director.VerbResume, director.PlanRunning}, {director.VerbAbort, director.PlanAborting},
	} {
		if p, err := w.client.SteerPlan(t.Context(), step.verb, full.ID); err != nil || p.State != step.want {
			t.Fatalf("%s: %+v, %v", step.verb, p, err)
		}
	}
	if _, err := w.client.SteerPlan(t.Context(), director.VerbPause, ""); !errors.Is(err, director.ErrIllegal) {
		t.Errorf("pause while aborting: %v", err)
	}
	if !strings.Contains(w.log.String(), "/v1/plan/{verb}") {
		t.Error("no audit line")
	}
}

// made does what a mover does.
func (w *world) made(t *testing.T, id string) {
	t.Helper()
	entries := []director.PlanEntry{{User: "a@example.test", From: "b1", To: "b2", Why: "over"}, {User: "b@example.test", From: "b1", To: "b2", Why: "over"}}
	if err := w.dir.PutPlanEntries(t.Context(), id+".s", entries, director.PlanSummary{Backends: []director.PlanBackend{{ID: "b1"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.dir.PlanMade(t.Context(), id, id+".s", len(entries), 0, "", time.Now()); err != nil {
		t.Fatal(err)
	}
}

func TestPlanRefusesBadPolicies(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		p    director.PlanPolicy
		want error
	}{
		{director.PlanPolicy{By: "colour"}, director.ErrInvalid},
		{director.PlanPolicy{Goal: "fill"}, director.ErrInvalid},
		{director.PlanPolicy{Goal: "fill", Fill: "b9"}, director.ErrNotFound},
		{director.PlanPolicy{Window: "25:00-26:00"}, director.ErrInvalid},
		{director.PlanPolicy{Concurrency: 100000}, director.ErrInvalid},
		{director.PlanPolicy{Band: 7}, director.ErrInvalid},
	} {
		if _, err := w.client.RequestPlan(t.Context(), admin.RequestPlan{Policy: c.p}); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c.p, err)
		}
	}
}

func TestPlanAuto(t *testing.T) {
	w := newWorld(t)
	if a, err := w.client.PlanAuto(t.Context()); err != nil || a.On || a.Policy.Band != 0.1 {
		t.Fatalf("%+v, %v", a, err)
	}
	a, err := w.client.PutPlanAuto(t.Context(), admin.PlanAuto{On: true, Policy: director.PlanPolicy{Band: 0.05}})
	if err != nil || !a.On || a.EverySeconds != 600 || a.Changed.IsZero() {
		t.Fatalf("%+v, %v", a, err)
	}
	if again, err := w.client.PlanAuto(t.Context()); err != nil || again != a {
		t.Errorf("%+v, %v", again, err)
	}
	for _, bad := range []admin.PlanAuto{{On: true, EverySeconds: 1}, {On: true, Policy: director.PlanPolicy{Goal: "fill", Fill: "b1"}}} {
		if _, err := w.client.PutPlanAuto(t.Context(), bad); !errors.Is(err, director.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestTags(t *testing.T) {
	w := newWorld(t)
	if err := w.dir.CreateDomain(t.Context(), "example.test", time.Now()); err != nil {
		t.Fatal(err)
	}
	err := w.dir.PutBackend(t.Context(), "b1", func(b *director.Backend, _ bool) error {
		b.Kind, b.State = director.KindWaypost, director.BackendActive
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.dir.CreateUser(t.Context(), "a@example.test", director.Record{Home: "b1", Epoch: 1, State: director.Active}, director.Account{}); err != nil {
		t.Fatal(err)
	}
	if got, err := w.client.PutBackendTags(t.Context(), "b1", []string{"ssd", "eu"}); err != nil || !slices.Equal(got.Tags, []string{"eu", "ssd"}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := w.client.BackendTags(t.Context(), "b1"); err != nil || !slices.Equal(got.Tags, []string{"eu", "ssd"}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := w.client.PutUserTags(t.Context(), "a@example.test", []string{"eu"}); err != nil {
		t.Error(err)
	}
	if got, err := w.client.UserTags(t.Context(), "a@example.test"); err != nil || !slices.Equal(got.Tags, []string{"eu"}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := w.client.PutUserTags(t.Context(), "a@example.test", nil); err != nil || len(got.Tags) != 0 || got.Tags == nil {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range [][]string{{"EU"}, {"a", "a"}, {""}, {"1", "2", "3", "4", "5", "6", "7", "8", "9"}} {
		if _, err := w.client.PutUserTags(t.Context(), "a@example.test", bad); !errors.Is(err, director.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := w.client.PutBackendTags(t.Context(), "b9", []string{"eu"}); !errors.Is(err, director.ErrNotFound) {
		t.Error(err)
	}
	if _, err := w.client.UserTags(t.Context(), "z@example.test"); !errors.Is(err, director.ErrNotFound) {
		t.Error(err)
	}
}
