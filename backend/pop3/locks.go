package pop3

import (
	"context"
	"sync"
	"time"

	"waypost/director"
)

// lockWait is how long Lock waits: longer than a session takes to end whose
// client has gone, and which holds the lock that the client wants again.
const lockWait = 2 * time.Second

// Locks are the maildrop locks of a backend (RFC 1939, Section 4): one POP3
// session for each user. They live in memory: at most one backend serves a
// user, and a session ends with its process. The zero value is ready for use.
type Locks struct {
	mu sync.Mutex // guards held, for moments
	// held has a channel for each lock, which its release closes.
	held map[director.User]chan struct{}
}

// Lock is TryLock that waits a little, until ctx ends at most: a client that
// lost its connection and comes back at once finds its former session ending.
func (l *Locks) Lock(ctx context.Context, u director.User) (release func(), ok bool) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for {
		release, freed := l.try(u)
		if release != nil {
			return release, true
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// TryLock takes the user's lock. Where another session has it, ok is false:
// the caller answers wire.StatusInUse. release may be called more than once.
func (l *Locks) TryLock(u director.User) (release func(), ok bool) {
	release, _ = l.try(u)
	return release, release != nil
}

// try gives the lock, or what is closed when it is free.
func (l *Locks) try(u director.User) (release func(), freed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if freed, taken := l.held[u]; taken {
		return nil, freed
	}
	if l.held == nil {
		l.held = map[director.User]chan struct{}{}
	}
	mine := make(chan struct{})
	l.held[u] = mine
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, u)
		close(mine)
	}), nil
}
