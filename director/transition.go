package director

import "fmt"

// The transitions of a location record, as pure functions. There are no
// others. Each either gives the one legal next record or ErrIllegal.

// Create publishes a new user at home, or a deleted one again: its epoch goes
// on from the tombstone, so that nothing addressed to the former person
// reaches the next (R12). prev is nil when there was no record.
func Create(prev *Record, home BackendID) (Record, error) {
	next := Record{Home: home, Epoch: 1, State: Active}
	if prev != nil {
		if prev.State != Deleted {
			return Record{}, fmt.Errorf("create over %q: %w", prev, ErrIllegal)
		}
		next.Epoch = prev.Epoch + 1
	}
	return next, next.valid()
}

// MarkBusy holds new work for the user while it moves to target.
func (r Record) MarkBusy(target BackendID) (Record, error) {
	if r.State != Active || target == r.Home || target == "" {
		return Record{}, fmt.Errorf("busy for %q from %q: %w", target, r, ErrIllegal)
	}
	next := Record{Home: r.Home, Epoch: r.Epoch + 1, State: Busy, Peer: target}
	return next, next.valid()
}

// Flip makes the move's target the home: the only commit point of a move. The
// caller must know that the target has sealed for exactly r.Epoch (R5).
func (r Record) Flip() (Record, error) {
	if r.State != Busy {
		return Record{}, fmt.Errorf("flip from %q: %w", r, ErrIllegal)
	}
	return Record{Home: r.Peer, Epoch: r.Epoch + 1, State: Active}, nil
}

// Rollback ends a move before its flip: the source serves again.
func (r Record) Rollback() (Record, error) {
	if r.State != Busy {
		return Record{}, fmt.Errorf("rollback from %q: %w", r, ErrIllegal)
	}
	return Record{Home: r.Home, Epoch: r.Epoch + 1, State: Active}, nil
}

// Delete leaves the tombstone. It is refused while busy (R12). The home stays
// in the record, so that the backend that must let go of the tree sees it.
func (r Record) Delete() (Record, error) {
	if r.State != Active {
		return Record{}, fmt.Errorf("delete from %q: %w", r, ErrIllegal)
	}
	return Record{Home: r.Home, Epoch: r.Epoch + 1, State: Deleted}, nil
}

// RestoreEpoch is the epoch at which a tree restored from a backup is sealed for
// Reassign: above whatever a lost home or its move's target may have a fence of.
func (r Record) RestoreEpoch() Epoch { return r.Epoch + 1 }

// Reassign gives a user of a home that is lost for good to target, which has
// sealed a restored tree for exactly r.RestoreEpoch() (R5). home is the state of
// the old home's backend record: it must have been declared lost, which is the
// operator's word that it serves nobody. The epoch rises by two, as in a move
// whose busy time nobody saw: so whatever fence the lost home, or the target of
// a move from it, comes back with is below it, and by R4 it serves nobody.
func (r Record) Reassign(home BackendState, target BackendID) (Record, error) {
	if home != BackendLost || r.State == Deleted || target == r.Home || target == "" {
		return Record{}, fmt.Errorf("reassign %q, whose home is %s, to %q: %w", r, home, target, ErrIllegal)
	}
	next := Record{Home: target, Epoch: r.RestoreEpoch() + 1, State: Active}
	return next, next.valid()
}
