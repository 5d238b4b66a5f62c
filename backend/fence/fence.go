// Package fence keeps, for each user of a backend, the small durable record
// that decides whether requests are served, and holds the one pure function,
// Reconcile, that decides every change of it (design R1 to R4).
//
// A fence lies outside the tree that moves and is never copied with it (R2).
// It is replaced durably. Only the backend that owns the disk calls this
// package; what it is told by others are hints that make it read the directory.
package fence

import (
	"fmt"

	"waypost/director"
)

// State is what a fence says of a user's trees on this backend.
type State string

const (
	// Missing: there is no fence. Never served, never creates a mailbox.
	Missing State = ""
	// Serving: the live tree is served at exactly Epoch.
	Serving State = "serving"
	// Frozen: the live tree is complete and closed to writes; a move that made
	// the record busy at Epoch reads it.
	Frozen State = "frozen"
	// Incoming: staging is being filled for the move that is busy at Epoch.
	Incoming State = "incoming"
	// Sealed: staging is complete, verified, durable, and never changes; it is
	// adopted when the directory names this backend at a higher epoch.
	Sealed State = "sealed"
	// Gone: there is no tree; Epoch is the highest that is known of.
	Gone State = "gone"
	// Unreadable: a fence file that could not be read. It is never on a disk;
	// the user is refused until somebody has looked.
	Unreadable State = "unreadable"
)

// Fence is one user's fence. The zero value is a missing one.
type Fence struct {
	State State          `json:"state"`
	Epoch director.Epoch `json:"epoch"`
	// Digest is the manifest that Sealed staging was verified against, in hex.
	Digest string `json:"digest,omitempty"`
}

// String is for logs and errors.
func (f Fence) String() string {
	if f.State == Missing {
		return "missing"
	}
	return fmt.Sprintf("%s %d", f.State, f.Epoch)
}

// Action is what a backend does to obey the directory. Each is idempotent and
// finishes after a crash at any point.
type Action string

const (
	// Keep: nothing changes.
	Keep Action = "keep"
	// Serve: set the fence to Serving at Next.Epoch; the live tree stays.
	Serve Action = "serve"
	// Adopt: staging becomes the live tree by rename, then the fence is set.
	Adopt Action = "adopt"
	// Trash: the live tree is claimed by a rename into the trash, then the
	// fence is set to Gone.
	Trash Action = "trash"
	// Drop: staging is removed, then the fence is set to Gone.
	Drop Action = "drop"
	// Refuse: answer every request "temporarily not", raise an alarm, touch
	// nothing. An operator, or a later record, must resolve it.
	Refuse Action = "refuse"
)

// Decision is what Reconcile decided.
type Decision struct {
	Action Action
	// Next is the fence after the action. For Keep and Refuse it is the fence
	// as it was.
	Next Fence
	// Why explains Refuse to the operator.
	Why string
}

// Reconcile decides what becomes of a user's fence on backend me, given the
// record that me has just read linearizably; rec is nil when the directory has
// none. It is the only way out of Frozen, Incoming and Sealed (R3), and
// follows the table of R4.
func Reconcile(me director.BackendID, f Fence, rec *director.Record) Decision {
	keep := Decision{Action: Keep, Next: f}
	refuse := func(why string) Decision { return Decision{Action: Refuse, Next: f, Why: why} }
	if f.State == Unreadable {
		return refuse("the fence file cannot be read")
	}
	if rec == nil {
		return withoutRecord(f, keep, refuse)
	}
	if rec.State == director.Deleted {
		return deleted(me, f, *rec, keep, refuse)
	}
	if rec.Home == me {
		return home(f, *rec, keep, refuse)
	}
	return elsewhere(f, *rec, keep, refuse)
}

// withoutRecord: a new user's tree is sealed at 0 before its record is
// published (R12). Anything else without a record is a directory that lost
// something.
func withoutRecord(f Fence, keep Decision, refuse func(string) Decision) Decision {
	switch {
	case f.State == Missing, f.State == Gone, f.State == Sealed && f.Epoch == 0:
		return keep
	default:
		return refuse("the directory has no record of this user")
	}
}

func home(f Fence, rec director.Record, keep Decision, refuse func(string) Decision) Decision {
	if f.Epoch > rec.Epoch {
		return refuse("the fence is above the directory's record: the directory went back")
	}
	switch f.State {
	case Serving, Frozen:
		if rec.State == director.Active && rec.Epoch > f.Epoch {
			return Decision{Action: Serve, Next: Fence{State: Serving, Epoch: rec.Epoch}}
		}
		if rec.State == director.Active && f.State == Frozen {
			// Frozen at the very epoch of an active record: only busy records
			// freeze, so somebody lied about the epoch.
			return refuse("frozen at the epoch of an active record")
		}
		return keep
	case Sealed:
		if rec.Epoch <= f.Epoch {
			return refuse("sealed, but the record that names this home is not above it")
		}
		serve := rec.Epoch
		if rec.State == director.Busy {
			// Flipped to us and already on the way to the next home: serve at
			// the epoch before busy, so that the ordinary freeze finds it.
			serve--
		}
		return Decision{Action: Adopt, Next: Fence{State: Serving, Epoch: serve}}
	case Incoming:
		return refuse("the directory names this home, but its copy was never sealed")
	default:
		return refuse("the directory names this home, but there is no mailbox here")
	}
}

func elsewhere(f Fence, rec director.Record, keep Decision, refuse func(string) Decision) Decision {
	over := rec.Epoch > f.Epoch || rec.Epoch == f.Epoch && rec.State != director.Busy
	switch f.State {
	case Missing, Gone:
		return keep
	case Frozen:
		if rec.Epoch > f.Epoch {
			return Decision{Action: Trash, Next: Fence{State: Gone, Epoch: rec.Epoch}}
		}
		return refuse("frozen for a move that the directory does not know of")
	case Incoming, Sealed:
		if over {
			return Decision{Action: Drop, Next: Fence{State: Gone, Epoch: rec.Epoch}}
		}
		return keep
	default: // Serving: a flip without a freeze cannot be
		return refuse("the directory names another home, but this one was never frozen")
	}
}

// deleted: the tombstone takes the tree from whatever backend still has it.
// A tree sealed at the tombstone's own epoch waits for a re-created user (R12).
func deleted(me director.BackendID, f Fence, rec director.Record, keep Decision, refuse func(string) Decision) Decision {
	gone := Fence{State: Gone, Epoch: rec.Epoch}
	switch f.State {
	case Missing, Gone:
		return keep
	case Serving, Frozen:
		if rec.Epoch <= f.Epoch {
			return refuse("the fence is not below the tombstone: the directory went back")
		}
		if f.State == Serving && rec.Home != me {
			return refuse("the tombstone names another home, but this one was never frozen")
		}
		return Decision{Action: Trash, Next: gone}
	default: // Incoming, Sealed
		if rec.Epoch > f.Epoch || rec.Epoch == f.Epoch && f.State == Incoming {
			return Decision{Action: Drop, Next: gone}
		}
		return keep
	}
}

// Abandon decides about an Incoming fence that Reconcile keeps because the
// record is still below it: a move that was undone before it made the user
// busy changes no record. mv is this backend's own read of the user's journal,
// nil when there is none. A journal that is finished, or of another move, will
// never flip to this staging.
func Abandon(me director.BackendID, f Fence, rec *director.Record, mv *director.Move) Decision {
	keep := Decision{Action: Keep, Next: f}
	switch {
	case f.State != Incoming || rec == nil || rec.State != director.Active || rec.Home == me || rec.Epoch >= f.Epoch:
		return keep
	case mv != nil && !mv.Phase.Finished() && mv.Target == me && mv.Epoch+1 == f.Epoch:
		return keep
	}
	return Decision{Action: Drop, Next: Fence{State: Gone, Epoch: f.Epoch}}
}
