package fence

import (
	"context"
	"errors"
	"sync"
	"time"

	"waypost/director"
)

// BusyUsers are the records that are busy with one backend as home (R7). Time
// is local and monotonic; it decides when to try, never whether it is right:
// that is the guarded transaction's. The zero value is ready.
type BusyUsers struct {
	mu    sync.Mutex
	users map[director.User]BusyUser
}

// BusyUser is one of them.
type BusyUser struct {
	Record director.Record
	// Since is when it became so, as seen here; Owned when an owner was last seen, or Since.
	Since, Owned time.Time
}

// Note tells of a record as it is now.
func (q *BusyUsers) Note(u director.User, r director.Record, me director.BackendID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if r.State != director.Busy || r.Home != me {
		delete(q.users, u)
		return
	}
	if q.users == nil {
		q.users = make(map[director.User]BusyUser)
	}
	if q.users[u].Record != r {
		now := time.Now()
		q.users[u] = BusyUser{Record: r, Since: now, Owned: now}
	}
}

// Snapshot gives those that are busy now.
func (q *BusyUsers) Snapshot() map[director.User]BusyUser {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make(map[director.User]BusyUser, len(q.users))
	for u, v := range q.users {
		out[u] = v
	}
	return out
}

func (q *BusyUsers) sawOwner(u director.User, r director.Record) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if v, ok := q.users[u]; ok && v.Record == r {
		v.Owned = time.Now()
		q.users[u] = v
	}
}

// TakeBack returns a user to active whose move is over limit, or has had no
// live owner for grace, by the guarded transaction. why is "" when there is no
// reason to. look tells that the record is another than v's now, be it by this
// call or because somebody was first: obey what is there.
func (q *BusyUsers) TakeBack(ctx context.Context, dir *director.Directory, u director.User, v BusyUser, limit, grace time.Duration) (why string, rec director.Record, look bool, err error) {
	if time.Since(v.Since) > limit {
		why = "over the busy limit"
	} else {
		owned, err := dir.Owned(ctx, u)
		if err != nil {
			return "", rec, false, err
		}
		if owned {
			q.sawOwner(u, v.Record)
			return "", rec, false, nil
		}
		if time.Since(v.Owned) <= grace {
			return "", rec, false, nil
		}
		why = "no live mover"
	}
	rec, err = dir.Rollback(ctx, u, v.Record)
	if errors.Is(err, director.ErrConflict) {
		return "", rec, true, nil
	}
	return why, rec, err == nil, err
}
