// Package memory is a director.Store in this process's memory: for tests, and
// for programs that want a directory without etcd.
//
// It behaves as etcd does: one revision per changing transaction, guards on a
// key's last revision, leases that expire, watches over a bounded history of
// which the oldest part is compacted away. Nothing survives the process.
//
// It can be told to fail: SetDown, PauseWatches, BreakWatches, Compact,
// ExpireLease and SetCommitHook make what a remote store does on a bad day.
// All methods are safe for concurrent use, and share no memory with callers.
package memory

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"waypost/director"
)

const (
	// maxKeys is director.Store's limit of GetAll.
	maxKeys = 100
	// maxOps is etcd's default limit of compares and of operations in one
	// transaction; a caller that exceeds it here would fail there.
	maxOps = 128
	// historyLimit is how many changes watches can be behind.
	historyLimit = 100_000
)

// Outcome is what a commit hook makes of a transaction.
type Outcome int

const (
	// Normal: the transaction is run and its result is given.
	Normal Outcome = iota
	// Unavailable: it is not run; ErrUnavailable.
	Unavailable
	// UnknownDone: it is run, and the caller gets ErrUnknown.
	UnknownDone
	// UnknownNotDone: it is not run, and the caller gets ErrUnknown.
	UnknownNotDone
)

// Hook decides the outcome of a transaction that is about to run. It is called
// without a lock held, and may use the store.
type Hook func(guards []director.Guard, ops []director.Op) Outcome

// Store implements director.Store.
type Store struct {
	closed  chan struct{}
	running sync.WaitGroup // watches' and leases' goroutines

	mu        sync.Mutex // protects what follows; held for work in memory only
	isClosed  bool
	rev       int64
	data      map[string]item
	history   []director.Change // in order of Rev
	compacted int64             // changes up to this revision are not in history
	leases    map[director.LeaseID]*lease
	lastLease director.LeaseID
	wake      chan struct{} // closed and replaced when watches have something to look at
	down      bool
	paused    bool
	breakGen  int // counts BreakWatches
	breakErr  error
	hook      Hook
}

type item struct {
	value []byte
	rev   int64
	lease director.LeaseID
}

var _ director.Store = (*Store)(nil)

// New gives an empty store at revision 1.
func New() *Store {
	return &Store{
		closed: make(chan struct{}),
		rev:    1,
		data:   map[string]item{},
		leases: map[director.LeaseID]*lease{},
		wake:   make(chan struct{}),
	}
}

// usable says why a call cannot be served. The caller holds mu.
func (s *Store) usable(ctx context.Context) error {
	switch {
	case s.isClosed:
		return fmt.Errorf("%w: the store is closed", director.ErrUnavailable)
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", director.ErrUnavailable, ctx.Err())
	case s.down:
		return fmt.Errorf("%w: set down", director.ErrUnavailable)
	}
	return nil
}

// Get implements director.Store.
func (s *Store) Get(ctx context.Context, key string) (director.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return director.Entry{}, err
	}
	return s.entry(key), nil
}

// GetAll implements director.Store.
func (s *Store) GetAll(ctx context.Context, keys []string) ([]director.Entry, error) {
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("read %d keys at once, at most %d: %w", len(keys), maxKeys, director.ErrInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	es := make([]director.Entry, len(keys))
	for i, k := range keys {
		es[i] = s.entry(k)
	}
	return es, nil
}

func (s *Store) entry(key string) director.Entry {
	it, ok := s.data[key]
	if !ok {
		return director.Entry{Key: key}
	}
	return director.Entry{Key: key, Value: clone(it.value), Rev: it.rev, Leased: it.lease != 0}
}

// List implements director.Store.
func (s *Store) List(ctx context.Context, prefix string, fn func(director.Entry) error) (int64, error) {
	s.mu.Lock()
	if err := s.usable(ctx); err != nil {
		s.mu.Unlock()
		return 0, err
	}
	rev := s.rev
	var es []director.Entry
	for k := range s.data {
		if strings.HasPrefix(k, prefix) {
			es = append(es, s.entry(k))
		}
	}
	s.mu.Unlock()
	for _, e := range es { // without the lock: fn may use the store
		if err := fn(e); err != nil {
			return 0, err
		}
	}
	return rev, nil
}

// Commit implements director.Store.
func (s *Store) Commit(ctx context.Context, guards []director.Guard, ops []director.Op) (int64, bool, error) {
	if err := validTransaction(guards, ops); err != nil {
		return 0, false, err
	}
	s.mu.Lock()
	hook, err := s.hook, s.usable(ctx)
	s.mu.Unlock()
	if err != nil {
		return 0, false, err
	}
	outcome := Normal
	if hook != nil {
		outcome = hook(guards, ops)
	}
	switch outcome {
	case Unavailable:
		return 0, false, fmt.Errorf("%w: by the commit hook", director.ErrUnavailable)
	case UnknownNotDone:
		return 0, false, fmt.Errorf("%w: by the commit hook", director.ErrUnknown)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return 0, false, err
	}
	rev, done, err := s.commit(guards, ops)
	if outcome == UnknownDone {
		return 0, false, fmt.Errorf("%w: by the commit hook", director.ErrUnknown)
	}
	return rev, done, err
}

func validTransaction(guards []director.Guard, ops []director.Op) error {
	if len(guards) > maxOps || len(ops) > maxOps {
		return fmt.Errorf("transaction of %d guards and %d operations, at most %d: %w", len(guards), len(ops), maxOps, director.ErrInvalid)
	}
	seen := make(map[string]bool, len(ops))
	for _, op := range ops {
		if seen[op.Key] {
			return fmt.Errorf("transaction changes %s twice: %w", op.Key, director.ErrInvalid)
		}
		seen[op.Key] = true
	}
	return nil
}

// commit runs the transaction. The caller holds mu.
func (s *Store) commit(guards []director.Guard, ops []director.Op) (int64, bool, error) {
	for _, g := range guards {
		if s.data[g.Key].rev != g.Rev {
			return s.rev, false, nil
		}
	}
	for _, op := range ops {
		if op.Lease != 0 && !op.Delete && s.leases[op.Lease] == nil {
			return 0, false, fmt.Errorf("lease %d: %w", op.Lease, director.ErrNotFound)
		}
	}
	next := s.rev + 1
	changed := false
	for _, op := range ops {
		changed = s.apply(op, next) || changed
	}
	if changed {
		s.rev = next
		s.trim(historyLimit)
		s.wakeAll()
	}
	return s.rev, true, nil
}

// apply makes one change at revision rev; deleting what is absent is none.
func (s *Store) apply(op director.Op, rev int64) bool {
	old, existed := s.data[op.Key]
	if op.Delete && !existed {
		return false
	}
	if l := s.leases[old.lease]; l != nil {
		delete(l.keys, op.Key)
	}
	change := director.Change{Entry: director.Entry{Key: op.Key, Rev: rev}, Deleted: op.Delete}
	if op.Delete {
		delete(s.data, op.Key)
	} else {
		s.data[op.Key] = item{value: clone(op.Value), rev: rev, lease: op.Lease}
		if l := s.leases[op.Lease]; l != nil {
			l.keys[op.Key] = struct{}{}
		}
		change.Entry = s.entry(op.Key)
	}
	s.history = append(s.history, change)
	return true
}

// trim forgets the oldest changes when there are a quarter more than limit.
func (s *Store) trim(limit int) {
	if len(s.history) <= limit+limit/4 {
		return
	}
	cut := len(s.history) - limit
	s.compacted = s.history[cut-1].Rev
	for cut < len(s.history) && s.history[cut].Rev == s.compacted {
		cut++ // a revision is kept as a whole or not at all
	}
	s.history = append([]director.Change(nil), s.history[cut:]...)
}

// wakeAll makes every watch look again. The caller holds mu.
func (s *Store) wakeAll() {
	close(s.wake)
	s.wake = make(chan struct{})
}

// Close implements director.Store. Every later call fails.
func (s *Store) Close() error {
	s.mu.Lock()
	if !s.isClosed {
		s.isClosed = true
		close(s.closed)
	}
	s.mu.Unlock()
	s.running.Wait()
	return nil
}

// clone copies a value; a value that is there is never nil.
func clone(b []byte) []byte { return append(make([]byte, 0, len(b)), b...) }
