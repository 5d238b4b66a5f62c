package fence

import "waypost/director"

// The calls of a move, as rules. Each names the exact epoch of the move's busy
// record (R3). The record is this backend's own read; the fence is checked
// under the user's lock, later.

// Prepare gives the fence of an empty mailbox for a user whose record comes
// next (R12): sealed at the tombstone's epoch at, 0 without one.
func Prepare(f Fence, at director.Epoch) (next Fence, ok bool) {
	switch {
	case f.State == Sealed && f.Epoch == at:
		return f, true
	case (f.State == Missing || f.State == Gone) && f.Epoch <= at:
		return Fence{State: Sealed, Epoch: at}, true
	}
	return f, false
}

// MayStage: the record lets me be the target of the move that is, or will be,
// busy at epoch.
func MayStage(me director.BackendID, rec *director.Record, epoch director.Epoch) bool {
	switch {
	case rec == nil || rec.Home == me:
		return false
	case rec.State == director.Active:
		return rec.Epoch+1 == epoch
	}
	return rec.State == director.Busy && rec.Epoch == epoch && rec.Peer == me
}

// Stage gives the fence of a target that gets ready for epoch; ok is false
// when f does not let it. Next may be f: it is ready already.
func Stage(f Fence, epoch director.Epoch) (next Fence, ok bool) {
	switch {
	case (f.State == Incoming || f.State == Sealed) && f.Epoch == epoch:
		return f, true
	case (f.State == Missing || f.State == Gone || f.State == Incoming) && f.Epoch <= epoch:
		return Fence{State: Incoming, Epoch: epoch}, true
	}
	return f, false
}

// MayFreeze: the record is busy for exactly the move that asks.
func MayFreeze(me director.BackendID, rec *director.Record, epoch director.Epoch) bool {
	return rec != nil && rec.Home == me && rec.State == director.Busy && rec.Epoch == epoch
}

// Freeze gives the fence of a source that stops writes for the move that is
// busy at epoch.
func Freeze(f Fence, epoch director.Epoch) (next Fence, ok bool) {
	switch {
	case f.State == Frozen && f.Epoch == epoch:
		return f, true
	case (f.State == Serving || f.State == Frozen) && f.Epoch < epoch:
		return Fence{State: Frozen, Epoch: epoch}, true
	}
	return f, false
}

// MaySeal: staging of exactly this move may be sealed, or was already with
// this digest (again).
func MaySeal(f Fence, epoch director.Epoch, digest string) (again, ok bool) {
	again = f.State == Sealed && f.Epoch == epoch && f.Digest == digest
	return again, again || f.State == Incoming && f.Epoch == epoch
}
