package director

import (
	"context"
	"fmt"
	"time"
)

// The directory's side of a move: the journal, its owner, and the transactions
// that change record and journal together.

// PlanMove writes the journal of a new move of u to target, from the record as
// it is. ErrConflict while another move is unfinished; ErrIllegal if the user
// is not active or lives there already.
func (d *Directory) PlanMove(ctx context.Context, u User, target BackendID, id string, now time.Time) (Move, error) {
	var m Move
	err := d.change(ctx, []string{LocationKey(u), MoveKey(u), BackendKey(target)}, func(es []Entry) ([]Op, error) {
		if es[0].Rev == 0 {
			return nil, ErrNotFound
		}
		r, err := DecodeRecord(es[0].Value)
		if err != nil {
			return nil, err
		}
		if r.State == Deleted {
			return nil, ErrNotFound
		}
		if es[1].Rev != 0 {
			old, err := DecodeMove(es[1].Value)
			if err != nil {
				return nil, err
			}
			if old.ID == id {
				m = old
				return nil, nil
			}
			return nil, fmt.Errorf("a move to %s is %s already: %w", old.Target, old.Phase, ErrConflict)
		}
		if es[2].Rev == 0 {
			return nil, fmt.Errorf("backend %s: %w", target, ErrNotFound)
		}
		b, err := DecodeBackend(es[2].Value)
		if err != nil {
			return nil, err
		}
		if b.Kind != KindWaypost {
			return nil, fmt.Errorf("backend %s is of kind %s: moves go between waypost backends: %w", target, b.Kind, ErrIllegal)
		}
		// A backend never changes its kind, so that this needs no guard.
		home, err := d.Backend(ctx, r.Home)
		if err != nil {
			return nil, err
		}
		if home.Value.Kind != KindWaypost {
			return nil, fmt.Errorf("the home %s is of kind %s: moves go between waypost backends: %w", r.Home, home.Value.Kind, ErrIllegal)
		}
		if _, err := r.MarkBusy(target); err != nil {
			if r.Home == target {
				return nil, fmt.Errorf("the user lives on %s already: %w", target, ErrIllegal)
			}
			return nil, err
		}
		m = Move{Version: valueVersion, ID: id, User: u, Source: r.Home, Target: target, Epoch: r.Epoch, Phase: PhasePlanned, Created: now}
		return []Op{{Key: es[1].Key, Value: encode(m)}}, nil
	})
	if err != nil {
		return Move{}, fmt.Errorf("move %s to %s: %w", u, target, err)
	}
	return m, nil
}

// Advance writes the next form of a journal and, where to is not nil, the
// record's transition, in one transaction guarded by the journal's id, the
// record being exactly from, and the era. ErrConflict when either is another
// by now; the caller then reads both and decides anew.
func (d *Directory) Advance(ctx context.Context, next Move, from Record, to *Record) error {
	next.Version = valueVersion
	err := d.change(ctx, []string{LocationKey(next.User), MoveKey(next.User), ReceiptKey(next.User), ProofKey(next.User)}, func(es []Entry) ([]Op, error) {
		nb := encode(next)
		if next.Phase.Finished() && es[1].Rev == 0 && string(es[2].Value) == string(nb) {
			return nil, nil // our own change, seen after an unknown result
		}
		if es[0].Rev == 0 || es[1].Rev == 0 {
			return nil, fmt.Errorf("record or journal is gone: %w", ErrConflict)
		}
		r, err := DecodeRecord(es[0].Value)
		if err != nil {
			return nil, err
		}
		have, err := DecodeMove(es[1].Value)
		if err != nil {
			return nil, err
		}
		if have.ID != next.ID {
			return nil, fmt.Errorf("the journal is of another move: %w", ErrConflict)
		}
		if string(nb) == string(es[1].Value) && (to == nil || r == *to) {
			return nil, nil
		}
		if r != from {
			return nil, fmt.Errorf("record is %q, not %q: %w", r, from, ErrConflict)
		}
		ops := []Op{{Key: es[1].Key, Value: nb}}
		if next.Phase.Finished() {
			// The journal becomes the receipt.
			ops = []Op{{Key: es[1].Key, Delete: true}, {Key: es[2].Key, Value: nb}}
		}
		if next.Phase == PhaseDone {
			var p Proofs
			if es[3].Rev != 0 {
				if p, err = DecodeProofs(es[3].Value); err != nil {
					return nil, err
				}
			}
			ops = append(ops, Op{Key: es[3].Key, Value: encode(p.withProof(next))})
		}
		if to != nil {
			ops = append(ops, Op{Key: es[0].Key, Value: to.Encode()})
		}
		return ops, nil
	})
	if err != nil {
		return fmt.Errorf("move %s: %w", next.User, err)
	}
	return nil
}

// NoteWaiting says in a journal why its move waits, by whoever knows: it changes
// nothing when the journal is not as in m any more.
func (d *Directory) NoteWaiting(ctx context.Context, m Move, why string) error {
	m.Version = valueVersion
	was := string(encode(m))
	m.Waiting = why
	err := d.change(ctx, []string{MoveKey(m.User)}, func(es []Entry) ([]Op, error) {
		if string(es[0].Value) != was {
			return nil, nil
		}
		return []Op{{Key: es[0].Key, Value: encode(m)}}, nil
	})
	if err != nil {
		return fmt.Errorf("move %s: %w", m.User, err)
	}
	return nil
}

// Owner is the value of move-owner/<user> that a claim writes.
func Owner(name string, l LeaseID) string { return name + " " + fmt.Sprint(int64(l)) }

// Claim makes the lease's holder the owner of u's move; false when it has a
// live owner already. owner is a node's name, for people.
func (d *Directory) Claim(ctx context.Context, u User, owner string, l LeaseID) (bool, error) {
	mine := Owner(owner, l)
	got := false
	err := d.change(ctx, []string{MoveOwnerKey(u)}, func(es []Entry) ([]Op, error) {
		if es[0].Rev != 0 {
			got = string(es[0].Value) == mine
			return nil, nil
		}
		got = true
		return []Op{{Key: es[0].Key, Value: []byte(mine), Lease: l}}, nil
	})
	if err != nil {
		return false, fmt.Errorf("claim the move of %s: %w", u, err)
	}
	return got, nil
}

// Release gives a claim back; it deletes nobody else's.
func (d *Directory) Release(ctx context.Context, u User, owner string, l LeaseID) error {
	mine := Owner(owner, l)
	return d.change(ctx, []string{MoveOwnerKey(u)}, func(es []Entry) ([]Op, error) {
		if es[0].Rev == 0 || string(es[0].Value) != mine {
			return nil, nil
		}
		return []Op{{Key: es[0].Key, Delete: true}}, nil
	})
}

// Owned reports linearizably whether u's move has a live owner.
func (d *Directory) Owned(ctx context.Context, u User) (bool, error) {
	e, err := d.store.Get(ctx, MoveOwnerKey(u))
	return e.Rev != 0, err
}
