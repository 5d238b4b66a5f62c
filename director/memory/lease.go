package memory

import (
	"context"
	"fmt"
	"sync"
	"time"

	"waypost/director"
)

// lease has two ends: done is what its holder sees, gone is what the store has
// done. done comes first when the keeper goes, and ttl later the keys go.
type lease struct {
	s    *Store
	id   director.LeaseID
	ttl  time.Duration
	done chan struct{}
	gone chan struct{}
	lose func()             // closes done, once
	stop context.CancelFunc // ends the keeping

	keys map[string]struct{} // protected by s.mu
}

// Grant implements director.Store.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (director.Lease, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("lease of %v: %w", ttl, director.ErrInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	s.lastLease++
	l := &lease{s: s, id: s.lastLease, ttl: ttl, done: make(chan struct{}), gone: make(chan struct{}), keys: map[string]struct{}{}}
	l.lose = sync.OnceFunc(func() { close(l.done) })
	ctx, l.stop = context.WithCancel(ctx)
	s.leases[l.id] = l
	s.running.Go(func() { l.keep(ctx) })
	return l, nil
}

// keep is the keeper: it lets the lease expire ttl after ctx ended, or after
// the store went down, which it cannot tell from being cut off.
func (l *lease) keep(ctx context.Context) {
	defer l.stop()
	defer l.lose()
	tick := time.NewTicker(l.ttl / 3)
	defer tick.Stop()
	alive := time.Now()
	for {
		select {
		case <-l.gone:
			return
		case <-l.s.closed:
			return
		case <-ctx.Done():
			l.lose()
			l.linger()
			return
		case <-tick.C:
			if !l.s.isDown() {
				alive = time.Now()
			} else if time.Since(alive) >= l.ttl {
				l.s.ExpireLease(l.id)
			}
		}
	}
}

// linger is the time between the keeper's end and the expiry.
func (l *lease) linger() {
	t := time.NewTimer(l.ttl)
	defer t.Stop()
	select {
	case <-t.C:
		l.s.ExpireLease(l.id)
	case <-l.gone:
	case <-l.s.closed:
	}
}

// ID implements director.Lease.
func (l *lease) ID() director.LeaseID { return l.id }

// Done implements director.Lease.
func (l *lease) Done() <-chan struct{} { return l.done }

// Revoke implements director.Lease. Revoking twice is no error. If it fails the
// lease expires by itself: it is not kept any more.
func (l *lease) Revoke(ctx context.Context) error {
	l.s.mu.Lock()
	err := l.s.usable(ctx)
	l.s.mu.Unlock()
	if err != nil {
		l.stop()
		return fmt.Errorf("revoke lease %d: %w", l.id, err)
	}
	l.s.ExpireLease(l.id)
	return nil
}

// ExpireLease makes a lease expire now, as if its keeper were long gone: its
// keys are deleted in one revision and Done is closed. False: no such lease.
func (s *Store) ExpireLease(id director.LeaseID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.leases[id]
	if l == nil {
		return false
	}
	delete(s.leases, id)
	if len(l.keys) > 0 {
		s.rev++
		for k := range l.keys {
			s.apply(director.Op{Key: k, Delete: true}, s.rev)
		}
		s.trim(historyLimit)
		s.wakeAll()
	}
	close(l.gone)
	l.lose()
	return true
}

func (s *Store) isDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}
