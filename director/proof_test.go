package director_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"waypost/director"
)

// TestProofs: what was done stays known when a later move is undone, and goes with
// the user.
func TestProofs(t *testing.T) {
	d, ctx := limitsWorld(t)
	const u = director.User("cy@example.test")
	rec, err := director.Create(nil, "b1")
	if err == nil {
		err = d.CreateUser(ctx, u, rec, director.Account{})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.LastMove(ctx, u); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("before any move: %v", err)
	}
	move := func(to director.BackendID, id string, done bool) {
		t.Helper()
		m, err := d.PlanMove(ctx, u, to, id, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		v, _ := d.Location(ctx, u)
		from := v.Value
		if _, _, err := d.LastMove(ctx, u); !errors.Is(err, director.ErrConflict) {
			t.Errorf("during a move: %v", err)
		}
		if done {
			busy, _ := from.MarkBusy(to)
			m.Phase = director.PhaseBusy
			if err := d.Advance(ctx, m, from, &busy); err != nil {
				t.Fatal(err)
			}
			if from, err = busy.Flip(); err != nil {
				t.Fatal(err)
			}
			m.Phase, m.Receipt = director.PhaseFlipped, "digest of "+id
			if err := d.Advance(ctx, m, busy, &from); err != nil {
				t.Fatal(err)
			}
			m.Phase = director.PhaseDone
		} else {
			m.Phase, m.Receipt = director.PhaseUndone, "of no use"
		}
		m.Finished = time.Now()
		for range 2 { // the second time, its answer was lost
			if err := d.Advance(ctx, m, from, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	move("b2", "m1", true)
	move("b3", "m2", false)
	p, r, err := d.LastMove(ctx, u)
	if err != nil || p.Source != "b1" || p.Target != "b2" || p.Receipt != "digest of m1" || r.Home != "b2" {
		t.Errorf("last move %+v, record %s, %v", p, r, err)
	}
	move("b1", "m3", true)
	all, err := d.Proofs(ctx, u)
	if err != nil || len(all.Done) != 2 {
		t.Fatalf("proofs %+v, %v", all, err)
	}
	if one, ok := all.Of("b2", all.Done[1].Epoch+1); !ok || one.Receipt != "digest of m3" {
		t.Errorf("proof of the way back: %+v, %v", one, ok)
	}
	if _, ok := all.Of("b1", all.Done[1].Epoch+1); ok {
		t.Error("a proof of another source was taken")
	}
	if _, err := d.DeleteUser(ctx, u); err != nil {
		t.Fatal(err)
	}
	if all, err := d.Proofs(ctx, u); err != nil || len(all.Done) != 0 {
		t.Errorf("after the deletion: %+v, %v", all, err)
	}
}

func TestSetLimit(t *testing.T) {
	d, ctx := limitsWorld(t)
	if v, err := d.Limits(ctx); err != nil || v.Value.Moves != 0 {
		t.Errorf("none set: %+v, %v", v, err)
	}
	set := func(id director.BackendID, l director.Limit) error {
		_, err := d.SetLimit(ctx, id, func(have *director.Limit) { *have = l })
		return err
	}
	if err := set("", director.Limit{BytesPerSecond: 100}); err != nil {
		t.Fatal(err)
	}
	if err := set("b2", director.Limit{Moves: 3}); err != nil {
		t.Fatal(err)
	}
	v, err := d.Limits(ctx)
	if err != nil || v.Value.BytesPerSecond != 100 || v.Value.Backends["b2"].Moves != 3 {
		t.Errorf("%+v, %v", v, err)
	}
	if err := set("b2", director.Limit{}); err != nil {
		t.Fatal(err)
	}
	if v, _ := d.Limits(ctx); len(v.Value.Backends) != 0 || v.Value.BytesPerSecond != 100 {
		t.Errorf("after it was taken away: %+v", v)
	}
	if err := set("b9", director.Limit{Moves: 1}); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("an unknown backend: %v", err)
	}
	if err := set("", director.Limit{Moves: -1}); !errors.Is(err, director.ErrInvalid) {
		t.Errorf("below 0: %v", err)
	}
}

func limitsWorld(t *testing.T) (*director.Directory, context.Context) {
	t.Helper()
	_, d := directory(t)
	ctx := t.Context()
	for _, id := range []director.BackendID{"b1", "b2", "b3"} {
		err := d.PutBackend(ctx, id, func(b *director.Backend, _ bool) error {
			b.Kind, b.State = director.KindWaypost, director.BackendActive
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return d, ctx
}
