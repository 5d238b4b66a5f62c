package director

import (
	"context"
	"errors"
	"fmt"
)

// The directory's side of restoring users: of a home that is lost, and in place.

// Reassign gives a user of a lost home to target, which has sealed a restored
// tree (Record.Reassign). One transaction, guarded by the record being exactly
// from, both backends' records, the era, and that no move is on its way:
// ErrConflict while one is, which its mover ends. ErrIllegal unless the home is
// declared lost.
func (d *Directory) Reassign(ctx context.Context, u User, from Record, target BackendID) (Record, error) {
	var next Record
	err := d.change(ctx, []string{LocationKey(u), MoveKey(u), BackendKey(from.Home), BackendKey(target)}, func(es []Entry) ([]Op, error) {
		home, err := backendOf(es[2])
		if err != nil {
			return nil, fmt.Errorf("home %s: %w", from.Home, err)
		}
		to, err := backendOf(es[3])
		if err != nil {
			return nil, fmt.Errorf("backend %s: %w", target, err)
		}
		if to.Kind != KindWaypost || to.State == BackendLost {
			return nil, fmt.Errorf("backend %s is of kind %s, %s: %w", target, to.Kind, to.State, ErrIllegal)
		}
		if next, err = from.Reassign(home.State, target); err != nil {
			return nil, err
		}
		same, err := isRecord(es[0], from, next)
		if err != nil || same {
			return nil, err
		}
		if es[1].Rev != 0 {
			return nil, fmt.Errorf("a move is on its way; reassign when it has ended: %w", ErrConflict)
		}
		return []Op{{Key: es[0].Key, Value: next.Encode()}}, nil
	})
	if err != nil {
		return Record{}, fmt.Errorf("reassign %s: %w", u, err)
	}
	return next, nil
}

// Hold marks a user busy without a move, so that its home may exchange the tree
// under a freeze; Rollback ends it, by whoever held or, if that died, by the home
// (R7). peer is any other backend: it has nothing to do with the user. ErrConflict
// when the record is not exactly from, or a move is on its way.
func (d *Directory) Hold(ctx context.Context, u User, from Record, peer BackendID) (Record, error) {
	next, err := from.MarkBusy(peer)
	if err != nil {
		return Record{}, err
	}
	err = d.change(ctx, []string{LocationKey(u), MoveKey(u)}, func(es []Entry) ([]Op, error) {
		same, err := isRecord(es[0], from, next)
		if err != nil || same {
			return nil, err
		}
		if es[1].Rev != 0 {
			return nil, fmt.Errorf("a move is on its way: %w", ErrConflict)
		}
		return []Op{{Key: es[0].Key, Value: next.Encode()}}, nil
	})
	if err != nil {
		return Record{}, fmt.Errorf("hold %s: %w", u, err)
	}
	return next, nil
}

// isRecord tells whether e is next already, ErrConflict unless it is from.
func isRecord(e Entry, from, next Record) (done bool, err error) {
	if e.Rev == 0 {
		return false, ErrNotFound
	}
	r, err := DecodeRecord(e.Value)
	switch {
	case err != nil:
		return false, err
	case r == next:
		return true, nil
	case r != from:
		return false, fmt.Errorf("record is %q, not %q: %w", r, from, ErrConflict)
	}
	return false, nil
}

func backendOf(e Entry) (Backend, error) {
	if e.Rev == 0 {
		return Backend{}, ErrNotFound
	}
	return DecodeBackend(e.Value)
}

// IsLost reports linearizably whether a backend was declared lost. One that the
// directory does not know is not.
func (d *Directory) IsLost(ctx context.Context, id BackendID) (bool, error) {
	v, err := d.Backend(ctx, id)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return v.Value.State == BackendLost, err
}

// IsNew reports linearizably whether nobody has begun a directory in this store.
func (d *Directory) IsNew(ctx context.Context) (bool, error) {
	e, err := d.store.Get(ctx, keySchema)
	return err == nil && e.Rev == 0, err
}
