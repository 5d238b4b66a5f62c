package pop3

import (
	"context"
	"maps"
	"sync"
	"time"

	"waypost/director"
)

// lockWait is how long Lock waits: longer than a session takes to end whose
// client has gone, and which holds the lock that the client wants again.
const lockWait = 2 * time.Second

// ReserveTime is how long a maildrop is kept for a session that no backend has: longer than
// its proxy keeps it. Nobody takes a reservation away whose session has ended meanwhile.
const ReserveTime = 2 * time.Minute

// Locks are the maildrop locks of a backend (RFC 1939, Section 4): one POP3
// session for each user. They live in memory: at most one backend serves a
// user, and a session ends with its process. A maildrop can be reserved for a session
// that is on its way here. The zero value is ready for use.
type Locks struct {
	mu sync.Mutex // guards held, for moments
	// held has each lock, and each reservation.
	held map[director.User]*hold
}

// hold is a maildrop that is not free.
type hold struct {
	session string
	// until is when a reservation ends; zero for one that is held.
	until time.Time
	// freed is closed when it is no more.
	freed chan struct{}
}

func (h *hold) over(now time.Time) bool { return !h.until.IsZero() && !now.Before(h.until) }

// Lock is TryLock that waits a little, until ctx ends at most: a client that
// lost its connection and comes back at once finds its former session ending.
func (l *Locks) Lock(ctx context.Context, u director.User, session string) (release func(), ok bool) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for {
		release, other := l.try(u, session)
		if release != nil {
			return release, true
		}
		var expired <-chan time.Time
		if !other.until.IsZero() {
			t := time.NewTimer(time.Until(other.until))
			defer t.Stop()
			expired = t.C
		}
		select {
		case <-other.freed:
		case <-expired:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// TryLock takes the user's lock. Where another session has it, or has it reserved, ok is
// false: the caller answers wire.StatusInUse. release may be called more than once.
func (l *Locks) TryLock(u director.User, session string) (release func(), ok bool) {
	release, _ = l.try(u, session)
	return release, release != nil
}

// try gives the lock, or who has it.
func (l *Locks) try(u director.User, session string) (release func(), other *hold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.held[u]; h != nil && !h.over(time.Now()) && (h.until.IsZero() || h.session != session) {
		return nil, &hold{until: h.until, freed: h.freed}
	}
	mine := l.put(u, &hold{session: session})
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.held[u] == mine && mine.until.IsZero() {
			l.free(u)
		}
	}, nil
}

// put replaces what there is. The caller holds mu.
func (l *Locks) put(u director.User, h *hold) *hold {
	l.free(u)
	if l.held == nil {
		l.held = map[director.User]*hold{}
	}
	h.freed = make(chan struct{})
	l.held[u] = h
	return h
}

// free wakes who waits. The caller holds mu.
func (l *Locks) free(u director.User) {
	if h := l.held[u]; h != nil {
		close(h.freed)
		delete(l.held, u)
	}
}

// Reserve keeps the user's maildrop for a session for ReserveTime, or until it locks it.
// It takes the place of an earlier reservation, and of that session's own lock, whose
// release then does nothing; a lock of another one stays. Session "" ends a reservation.
func (l *Locks) Reserve(u director.User, session string) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.held, func(_ director.User, h *hold) bool {
		over := h.over(now)
		if over {
			close(h.freed)
		}
		return over
	})
	switch h := l.held[u]; {
	case h != nil && h.until.IsZero() && h.session != session:
	case session == "":
		l.free(u)
	default:
		l.put(u, &hold{session: session, until: now.Add(ReserveTime)})
	}
}

// Holder is the session that has the user's maildrop, or has it reserved; "" for none.
func (l *Locks) Holder(u director.User) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.held[u]; h != nil && !h.over(time.Now()) {
		return h.session
	}
	return ""
}
