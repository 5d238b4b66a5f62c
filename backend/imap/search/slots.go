package search

import (
	"context"
	"sync"
)

// Slots bounds how many messages searches have open at a time, over all sessions and for each
// user: one user has half of them at most, and waits among his own searches before he waits among
// all, so that a hundred of his searches keep another's from reading no longer than two do. It is
// safe for concurrent use.
type Slots struct {
	all  chan struct{}
	mine int // a user's

	mu    sync.Mutex
	users map[string]*Share
}

// NewSlots makes n slots.
func NewSlots(n int) *Slots {
	return &Slots{all: make(chan struct{}, n), mine: max(1, n/2), users: make(map[string]*Share)}
}

// Share is what a user's searches have of Slots.
type Share struct {
	of   *Slots
	user string
	mine chan struct{}
	refs int // of Slots.mu
}

// Of gives a user's share to a search, which gives it back by Close.
func (s *Slots) Of(user string) *Share {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.users[user]
	if h == nil {
		h = &Share{of: s, user: user, mine: make(chan struct{}, s.mine)}
		s.users[user] = h
	}
	h.refs++
	return h
}

// Close gives back what Of gave.
func (h *Share) Close() {
	h.of.mu.Lock()
	defer h.of.mu.Unlock()
	if h.refs--; h.refs == 0 {
		delete(h.of.users, h.user)
	}
}

// take waits for leave to open a message. Who wait get it in their order.
func (h *Share) take(ctx context.Context) error {
	select {
	case h.mine <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case h.of.all <- struct{}{}:
		return nil
	case <-ctx.Done():
		<-h.mine
		return ctx.Err()
	}
}

// give is said when the message is closed.
func (h *Share) give() {
	<-h.of.all
	<-h.mine
}
