package director

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The directory's side of plans. All changes of the head are guarded by the head
// itself, so that a verb and the owner's progress never overwrite each other.

// Plan reads the plan's head linearizably; ErrNotFound before the first.
func (d *Directory) Plan(ctx context.Context) (Versioned[Plan], error) {
	return read(ctx, d.store, KeyPlan, DecodePlan)
}

// RequestPlan asks for a new plan. One that has ended or was only proposed gives
// way; ErrPlanUnderWay (and ErrConflict) else. The same ID asks once.
func (d *Directory) RequestPlan(ctx context.Context, p Plan) error {
	p.State = PlanRequested
	return update(ctx, d, KeyPlan, DecodePlan, func(have Plan, exists bool) (Plan, bool, error) {
		switch {
		case exists && have.ID == p.ID:
			return have, true, nil
		case exists && have.State.UnderWay():
			return have, true, fmt.Errorf("plan %s is %s: %w: %w", have.ID, have.State, ErrPlanUnderWay, ErrConflict)
		}
		p.Version = valueVersion
		return p, true, nil
	})
}

// SteerPlan does what an operator says to the plan with that id; ErrConflict when
// there is another one by now. An empty id means whichever there is.
func (d *Directory) SteerPlan(ctx context.Context, id string, verb PlanVerb, now time.Time) (Plan, error) {
	return d.AdvancePlan(ctx, id, func(p *Plan) error {
		to, err := p.State.After(verb)
		if err != nil || to == p.State {
			return err
		}
		if p.State == PlanProposed && to == PlanRunning {
			p.Started = now
		}
		if to.Ended() {
			p.Ended = now
		}
		p.State, p.Waiting = to, ""
		return nil
	})
}

// PlanMade gives a requested plan its entries, which must have been written under
// set. It runs at once if that was asked for and there is anything to do.
func (d *Directory) PlanMade(ctx context.Context, id, set string, moves int, bytes int64, reason string, now time.Time) (Plan, error) {
	return d.AdvancePlan(ctx, id, func(p *Plan) error {
		if p.Set == set && p.State != PlanRequested {
			return nil // our own change, seen after an unknown result
		}
		to, err := p.State.After(verbMade)
		if err != nil {
			return err
		}
		p.Set, p.Moves, p.Bytes, p.Reason, p.Made = set, moves, bytes, reason, now
		p.State = to
		switch {
		case p.Apply && moves == 0:
			p.State, p.Ended = PlanDone, now
		case p.Apply:
			p.State, p.Started = PlanRunning, now
		}
		return nil
	})
}

// PlanFail ends a plan that could not be made.
func (d *Directory) PlanFail(ctx context.Context, id, reason string, now time.Time) (Plan, error) {
	return d.endPlan(ctx, id, verbFail, now, func(p *Plan) { p.Reason = reason })
}

// PlanEnded ends a plan of which nothing is left to do: done, or aborted.
func (d *Directory) PlanEnded(ctx context.Context, id string, now time.Time, last func(*Plan)) (Plan, error) {
	return d.endPlan(ctx, id, verbEnded, now, last)
}

func (d *Directory) endPlan(ctx context.Context, id string, verb PlanVerb, now time.Time, last func(*Plan)) (Plan, error) {
	return d.AdvancePlan(ctx, id, func(p *Plan) error {
		if p.State.Ended() {
			return nil
		}
		to, err := p.State.After(verb)
		if err != nil {
			return err
		}
		last(p)
		p.State, p.Ended, p.Waiting = to, now, ""
		return nil
	})
}

// AdvancePlan changes the head of the plan with that id; ErrConflict when there is
// another one by now.
func (d *Directory) AdvancePlan(ctx context.Context, id string, change func(*Plan) error) (Plan, error) {
	var out Plan
	err := update(ctx, d, KeyPlan, DecodePlan, func(p Plan, exists bool) (Plan, bool, error) {
		switch {
		case !exists:
			return p, true, fmt.Errorf("no plan: %w", ErrNotFound)
		case id != "" && p.ID != id:
			return p, true, fmt.Errorf("the plan is %s by now, not %s: %w", p.ID, id, ErrConflict)
		}
		err := change(&p)
		p.Version = valueVersion
		out = p
		return p, true, err
	})
	return out, err
}

// PutPlanEntries writes entries and summary under a set that no head names yet.
func (d *Directory) PutPlanEntries(ctx context.Context, set string, entries []PlanEntry, sum PlanSummary) error {
	for n := 0; n*PlanChunkEntries < len(entries); n++ {
		part := entries[n*PlanChunkEntries : min((n+1)*PlanChunkEntries, len(entries))]
		if err := d.put(ctx, planChunkKey(set, n), encode(planChunk{valueVersion, part})); err != nil {
			return fmt.Errorf("write the plan's entries: %w", err)
		}
	}
	sum.Version = valueVersion
	if err := d.put(ctx, planSummaryKey(set), encode(sum)); err != nil {
		return fmt.Errorf("write the plan's summary: %w", err)
	}
	return nil
}

func (d *Directory) put(ctx context.Context, key string, value []byte) error {
	return d.change(ctx, []string{key}, func(es []Entry) ([]Op, error) {
		if string(es[0].Value) == string(value) {
			return nil, nil
		}
		return []Op{{Key: key, Value: value}}, nil
	})
}

// PlanEntries reads the n-th chunk; nil after the last.
func (d *Directory) PlanEntries(ctx context.Context, set string, n int) ([]PlanEntry, error) {
	v, err := read(ctx, d.store, planChunkKey(set, n), func(b []byte) (planChunk, error) { return decode[planChunk]("plan entries", b) })
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return v.Value.Entries, err
}

// PlanSummary reads what PutPlanEntries wrote.
func (d *Directory) PlanSummary(ctx context.Context, set string) (PlanSummary, error) {
	v, err := read(ctx, d.store, planSummaryKey(set), func(b []byte) (PlanSummary, error) { return decode[PlanSummary]("plan summary", b) })
	return v.Value, err
}

// DropPlanSets removes the entries of all sets but keep.
func (d *Directory) DropPlanSets(ctx context.Context, keep string) error {
	var keys []string
	_, err := d.store.List(ctx, prefixPlanChunk, func(e Entry) error {
		if keep == "" || !strings.HasPrefix(e.Key, prefixPlanChunk+keep+"/") {
			keys = append(keys, e.Key)
		}
		return nil
	})
	for _, key := range keys {
		if err != nil {
			break
		}
		err = d.change(ctx, []string{key}, func(es []Entry) ([]Op, error) {
			if es[0].Rev == 0 {
				return nil, nil
			}
			return []Op{{Key: key, Delete: true}}, nil
		})
	}
	if err != nil {
		return fmt.Errorf("remove the entries of former plans: %w", err)
	}
	return nil
}

// ErrPlanStopped: the plan does not run any more, so that no move may begin for it.
var ErrPlanStopped = errors.New("the plan does not run")

// PlannedMove writes the journal of an entry's move, once: in one transaction with
// the plan's state, so that nothing begins after a pause was answered, and with
// the user's receipt, so that a second owner of the plan begins nothing again. It
// gives the move, ended or not, if it has begun before. finishing lets a move begin
// while the plan is paused or being aborted: the rest of a group that has begun.
// ErrIllegal, ErrNotFound and ErrConflict say that this user cannot be moved so.
func (d *Directory) PlannedMove(ctx context.Context, planID string, e PlanEntry, id string, finishing bool, now time.Time) (Move, error) {
	var m Move
	keys := []string{LocationKey(e.User), MoveKey(e.User), ReceiptKey(e.User), BackendKey(e.To), BackendKey(e.From), KeyPlan}
	err := d.change(ctx, keys, func(es []Entry) ([]Op, error) {
		for _, x := range es[1:3] {
			if x.Rev == 0 {
				continue
			}
			old, err := DecodeMove(x.Value)
			if err != nil {
				return nil, err
			}
			if old.ID == id {
				m = old
				return nil, nil
			}
			if x.Key == MoveKey(e.User) {
				return nil, fmt.Errorf("a move to %s is %s already: %w", old.Target, old.Phase, ErrConflict)
			}
		}
		if err := planRuns(es[5], planID, finishing); err != nil {
			return nil, err
		}
		if err := mayMoveTo(e, es[3], es[4]); err != nil {
			return nil, err
		}
		if es[0].Rev == 0 {
			return nil, ErrNotFound
		}
		r, err := DecodeRecord(es[0].Value)
		switch {
		case err != nil:
			return nil, err
		case r.State == Deleted:
			return nil, ErrNotFound
		case r.Home != e.From || r.State != Active:
			return nil, fmt.Errorf("the record is %q, not active at %s: %w", r, e.From, ErrIllegal)
		}
		if _, err := r.MarkBusy(e.To); err != nil {
			return nil, err
		}
		m = Move{Version: valueVersion, ID: id, User: e.User, Source: r.Home, Target: e.To, Epoch: r.Epoch, Phase: PhasePlanned, Created: now}
		return []Op{{Key: es[1].Key, Value: encode(m)}}, nil
	})
	if err != nil {
		return Move{}, fmt.Errorf("move %s to %s: %w", e.User, e.To, err)
	}
	return m, nil
}

func planRuns(head Entry, id string, finishing bool) error {
	if head.Rev == 0 {
		return ErrPlanStopped
	}
	p, err := DecodePlan(head.Value)
	switch {
	case err != nil:
		return err
	case p.ID != id:
		return fmt.Errorf("there is another one: %w", ErrPlanStopped)
	case p.State == PlanRunning, finishing && (p.State == PlanPaused || p.State == PlanAborting):
		return nil
	}
	return fmt.Errorf("it is %s: %w", p.State, ErrPlanStopped)
}

// ErrTargetClosed: the target takes nobody now, or a backend is of a kind that
// moves do not know.
var ErrTargetClosed = errors.New("the backend takes no moves")

func mayMoveTo(e PlanEntry, target, source Entry) error {
	for _, x := range []Entry{target, source} {
		if x.Rev == 0 {
			return fmt.Errorf("%s: %w: %w", x.Key, ErrTargetClosed, ErrNotFound)
		}
		b, err := DecodeBackend(x.Value)
		switch {
		case err != nil:
			return err
		case b.Kind != KindWaypost:
			return fmt.Errorf("%s is of kind %s: %w: %w", x.Key, b.Kind, ErrTargetClosed, ErrIllegal)
		case x.Key == BackendKey(e.To) && b.State != BackendActive:
			return fmt.Errorf("backend %s is %s: %w", e.To, b.State, ErrTargetClosed)
		}
	}
	return nil
}

// ClaimPlans makes the lease's holder the owner of plans; false when there is a live
// one already.
func (d *Directory) ClaimPlans(ctx context.Context, owner string, l LeaseID) (bool, error) {
	mine := owner + " " + fmt.Sprint(int64(l))
	got := false
	err := d.change(ctx, []string{KeyPlanOwner}, func(es []Entry) ([]Op, error) {
		if es[0].Rev != 0 {
			got = string(es[0].Value) == mine
			return nil, nil
		}
		got = true
		return []Op{{Key: KeyPlanOwner, Value: []byte(mine), Lease: l}}, nil
	})
	if err != nil {
		return false, fmt.Errorf("claim the plans: %w", err)
	}
	return got, nil
}

// PlanAuto reads the continuous mode; off where it was never set.
func (d *Directory) PlanAuto(ctx context.Context) (PlanAuto, error) {
	v, err := read(ctx, d.store, KeyPlanAuto, DecodePlanAuto)
	if errors.Is(err, ErrNotFound) {
		return PlanAuto{Policy: PlanPolicy{}.WithDefaults()}, nil
	}
	return v.Value, err
}

// PutPlanAuto sets the continuous mode.
func (d *Directory) PutPlanAuto(ctx context.Context, a PlanAuto) error {
	return update(ctx, d, KeyPlanAuto, DecodePlanAuto, func(PlanAuto, bool) (PlanAuto, bool, error) {
		a.Version = valueVersion
		return a, true, nil
	})
}
