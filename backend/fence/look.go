package fence

import (
	"context"
	"errors"
	"fmt"

	"waypost/director"
)

// Decide is the whole decision about a fence: Reconcile, and where that keeps
// it, Abandon.
func Decide(me director.BackendID, f Fence, rec *director.Record, mv *director.Move) Decision {
	d := Reconcile(me, f, rec)
	if d.Action == Keep {
		d = Abandon(me, f, rec, mv)
	}
	return d
}

// Obey does what a record demands, under the user's lock. again is true when
// the fence is no longer before: the reads may be older than that change.
type Obey func(before Fence, rec *director.Record, mv *director.Move) (again bool, err error)

// Look is the one way a fence follows the directory: this backend's own
// linearizable reads, then obey, anew when the fence has changed meanwhile
// (R3). now gives the fence as it is.
func Look(ctx context.Context, dir *director.Directory, u director.User, now func() Fence, obey Obey) error {
	const tries = 4
	for range tries {
		before := now()
		rec, err := ReadRecord(ctx, dir, u)
		if err != nil {
			return fmt.Errorf("look at %s: %w", u, err)
		}
		mv, err := ReadJournal(ctx, dir, u, before)
		if err != nil {
			return fmt.Errorf("look at %s: %w", u, err)
		}
		again, err := obey(before, rec, mv)
		if err != nil {
			return fmt.Errorf("look at %s: %w", u, err)
		}
		if !again {
			return nil
		}
	}
	return fmt.Errorf("look at %s: the fence changes all the time", u)
}

// ReadRecord reads a user's record linearizably; nil when there is none.
func ReadRecord(ctx context.Context, dir *director.Directory, u director.User) (*director.Record, error) {
	v, err := dir.Location(ctx, u)
	if errors.Is(err, director.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &v.Value, nil
}

// ReadJournal reads the user's journal where the fence may hang on it; nil
// where it does not, or there is none.
func ReadJournal(ctx context.Context, dir *director.Directory, u director.User, f Fence) (*director.Move, error) {
	if f.State != Incoming {
		return nil, nil
	}
	v, err := dir.Move(ctx, u)
	if errors.Is(err, director.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &v.Value, nil
}
