// Package memory keeps mailboxes in memory: a mailbox.Store for the tests of
// the protocols, and for whoever wants a backend without a disk.
//
// It owns its mailboxes alone and keeps the contract of package mailbox in
// all but durability: nothing survives the process. Fencing is real in
// miniature: Serve, Freeze and Refuse set a user's fence, and a handle of
// another epoch fails and has its Done closed. Everything is safe for
// concurrent use.
package memory

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/feed"
	"waypost/director"
)

// Store is a set of mailboxes. The zero value is not usable; see New.
type Store struct {
	mu    sync.Mutex // guards users; never held while a user's is taken
	users map[director.User]*user
}

// New makes a store without users.
func New() *Store { return &Store{users: make(map[director.User]*user)} }

// user is one mailbox and its fence.
type user struct {
	name director.User

	mu          sync.Mutex // guards all below, and all folders
	home        director.BackendID
	epoch       director.Epoch
	fence       error // nil: serving at home, epoch
	fault       error // what tests let every operation fail with
	limit       mailbox.Limit
	folders     map[string]*folder
	subscribed  map[string]bool
	delivered   map[string]bool
	memories    map[string]time.Time // until when
	outbound    []mailbox.Outbound
	boxes       map[*box]struct{}
	uidValidity uint32            // the last one given out
	guid        uint64            // the last one given out
	metadata    map[string]string // the account's
	feed        feed.Feed
}

// Serve creates the mailbox if there is none, and serves it at (home, epoch).
// Handles of another epoch end.
func (s *Store) Serve(u director.User, home director.BackendID, epoch director.Epoch) {
	s.mu.Lock()
	usr := s.users[u]
	if usr == nil {
		usr = &user{
			name: u, folders: make(map[string]*folder), subscribed: make(map[string]bool),
			delivered: make(map[string]bool), memories: make(map[string]time.Time), boxes: make(map[*box]struct{}),
			metadata: make(map[string]string),
		}
		usr.folders[mailbox.Inbox] = usr.newFolder(mailbox.Inbox)
		s.users[u] = usr
	}
	s.mu.Unlock()
	usr.setFence(home, epoch, nil)
}

// Freeze lets the user's handles end with mailbox.ErrFrozen until Serve.
func (s *Store) Freeze(u director.User) { s.stop(u, mailbox.ErrFrozen) }

// Refuse lets the user's handles end with mailbox.ErrRefused until Serve.
func (s *Store) Refuse(u director.User) { s.stop(u, mailbox.ErrRefused) }

func (s *Store) stop(u director.User, fence error) {
	if usr := s.user(u); usr != nil {
		usr.mu.Lock()
		home, epoch := usr.home, usr.epoch
		usr.mu.Unlock()
		usr.setFence(home, epoch, fence)
	}
}

// SetLimit sets the user's quota.
func (s *Store) SetLimit(u director.User, l mailbox.Limit) {
	if usr := s.user(u); usr != nil {
		usr.mu.Lock()
		usr.limit = l
		usr.mu.Unlock()
	}
}

// Fail lets every operation on the user's mailbox fail with err until it is
// nil again: the disk that does not answer.
func (s *Store) Fail(u director.User, err error) {
	if usr := s.user(u); usr != nil {
		usr.mu.Lock()
		usr.fault = err
		usr.mu.Unlock()
	}
}

// Renumber gives a folder a new UIDVALIDITY and its messages new UIDs, from 1: a
// disk whose UID list was lost.
func (s *Store) Renumber(u director.User, folder string) {
	usr := s.user(u)
	if usr == nil {
		return
	}
	usr.mu.Lock()
	defer usr.mu.Unlock()
	f := usr.folders[folder]
	if f == nil {
		return
	}
	usr.uidValidity++
	f.uidValidity, f.uidNext, f.recentFrom = usr.uidValidity, 1, 1
	f.history, f.forgot = nil, f.modSeq
	f.fill(f.empty())
}

func (s *Store) user(u director.User) *user {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users[u]
}

// Open implements mailbox.Store. A user never served is refused.
func (s *Store) Open(ctx context.Context, u director.User, home director.BackendID, epoch director.Epoch) (mailbox.Box, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	usr := s.user(u)
	if usr == nil {
		return nil, fmt.Errorf("open %s: %w", u, mailbox.ErrRefused)
	}
	usr.mu.Lock()
	defer usr.mu.Unlock()
	b := &box{user: usr, epoch: epoch, done: make(chan struct{})}
	if usr.home != home {
		return nil, fmt.Errorf("open %s: %w", u, mailbox.ErrStale)
	}
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("open %s: %w", u, err)
	}
	usr.boxes[b] = struct{}{}
	return b, nil
}

func (usr *user) setFence(home director.BackendID, epoch director.Epoch, fence error) {
	usr.mu.Lock()
	defer usr.mu.Unlock()
	usr.home, usr.epoch, usr.fence = home, epoch, fence
	for b := range maps.Keys(usr.boxes) {
		if fence != nil || b.epoch != epoch {
			delete(usr.boxes, b)
			close(b.done)
		}
	}
	usr.feed.Wake()
}

// usage sums all folders. The caller holds mu.
func (usr *user) usage() mailbox.Usage {
	var u mailbox.Usage
	for _, f := range usr.folders {
		for _, m := range f.msgs.All() {
			u.Bytes += m.Size
		}
		u.Messages += int64(f.msgs.Len())
	}
	return u
}

// fits tells whether size bytes in n messages more are within the quota.
func (usr *user) fits(size, n int64) error {
	l := usr.limit
	if l == (mailbox.Limit{}) {
		return nil
	}
	u := usr.usage()
	if l.Bytes > 0 && u.Bytes+size > l.Bytes || l.Messages > 0 && u.Messages+n > l.Messages {
		return fmt.Errorf("%s: %w", usr.name, mailbox.ErrOverQuota)
	}
	return nil
}
