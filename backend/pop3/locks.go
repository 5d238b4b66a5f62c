package pop3

import (
	"sync"

	"waypost/director"
)

// Locks are the maildrop locks of a backend (RFC 1939, Section 4): one POP3
// session for each user. They live in memory: at most one backend serves a
// user, and a session ends with its process. The zero value is ready for use.
type Locks struct {
	mu   sync.Mutex // guards held, for moments
	held map[director.User]struct{}
}

// TryLock takes the user's lock. Where another session has it, ok is false:
// the caller answers wire.StatusInUse. release may be called more than once.
func (l *Locks) TryLock(u director.User) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, taken := l.held[u]; taken {
		return nil, false
	}
	if l.held == nil {
		l.held = map[director.User]struct{}{}
	}
	l.held[u] = struct{}{}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, u)
	}), true
}
