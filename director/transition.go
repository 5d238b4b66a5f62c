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
