package director_test

import (
	"errors"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/memory"
)

func declare(t *testing.T, d *director.Directory, id director.BackendID, state director.BackendState) {
	t.Helper()
	must(t, d.PutBackend(t.Context(), id, func(b *director.Backend, _ bool) error { b.State = state; return nil }))
}

// TestReassign: only from a home that is declared lost, to a waypost backend that
// is not, never beside a move, and only from the very record that was read.
func TestReassign(t *testing.T) {
	_, d := directory(t)
	ctx, from := t.Context(), active("b1", 1)
	refused := func(what string, from director.Record, to director.BackendID, want error) {
		t.Helper()
		if _, err := d.Reassign(ctx, ann, from, to); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	refused("a home that is not lost", from, "b2", director.ErrIllegal)
	declare(t, d, "b1", director.BackendLost)
	if lost, err := d.IsLost(ctx, "b1"); !lost || err != nil {
		t.Errorf("b1 is lost: %v, %v", lost, err)
	}
	refused("to a dovecot", from, "d1", director.ErrIllegal)
	refused("to nobody", from, "b9", director.ErrNotFound)
	refused("from another record", active("b1", 2), "b2", director.ErrConflict)
	declare(t, d, "b2", director.BackendLost)
	refused("to a lost one", from, "b2", director.ErrIllegal)
	declare(t, d, "b2", director.BackendActive)
	m, err := d.PlanMove(ctx, ann, "b2", "m1", time.Unix(1, 0))
	must(t, err)
	refused("beside a move", from, "b2", director.ErrConflict)
	m.Phase = director.PhaseUndone
	must(t, d.Advance(ctx, m, from, nil))
	for range 2 { // repeated after a lost answer, it is the same
		next, err := d.Reassign(ctx, ann, from, "b2")
		must(t, err)
		if next != active("b2", 3) || location(t, d, ann) != next {
			t.Errorf("reassigned to %q", next)
		}
	}
	if _, err := d.Reassign(ctx, bob, from, "b2"); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
}

// TestReassignUnknown: a transaction whose outcome is not known is read back.
func TestReassignUnknown(t *testing.T) {
	for _, outcome := range []memory.Outcome{memory.UnknownDone, memory.UnknownNotDone} {
		s, d := directory(t)
		declare(t, d, "b1", director.BackendLost)
		first := true
		s.SetCommitHook(func([]director.Guard, []director.Op) memory.Outcome {
			if first {
				first = false
				return outcome
			}
			return memory.Normal
		})
		next, err := d.Reassign(t.Context(), ann, active("b1", 1), "b2")
		must(t, err)
		if location(t, d, ann) != next {
			t.Errorf("the record is %q, not %q", location(t, d, ann), next)
		}
	}
}

// TestHold: a user is held for an exchange only as it is, and not beside a move.
func TestHold(t *testing.T) {
	_, d := directory(t)
	ctx, from := t.Context(), active("b1", 1)
	if _, err := d.Hold(ctx, ann, active("b1", 2), "b2"); !errors.Is(err, director.ErrConflict) {
		t.Errorf("another record: %v", err)
	}
	for range 2 {
		busy, err := d.Hold(ctx, ann, from, "b2")
		must(t, err)
		if busy.State != director.Busy || busy.Epoch != 2 || location(t, d, ann) != busy {
			t.Errorf("held as %q", busy)
		}
	}
	back, err := d.Rollback(ctx, ann, director.Record{Home: "b1", Epoch: 2, State: director.Busy, Peer: "b2"})
	must(t, err)
	_, err = d.PlanMove(ctx, ann, "b2", "m1", time.Unix(1, 0))
	must(t, err)
	if _, err := d.Hold(ctx, ann, back, "b2"); !errors.Is(err, director.ErrConflict) {
		t.Errorf("beside a move: %v", err)
	}
}
