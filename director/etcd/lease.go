package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"waypost/director"
)

// lease implements director.Lease.
type lease struct {
	s    *Store
	c    *clientv3.Client
	id   clientv3.LeaseID
	stop context.CancelFunc // ends the keeping
	done chan struct{}
}

// Grant implements director.Store. etcd counts in seconds, and makes no lease
// shorter than its election takes (two seconds by default): ttl is rounded up.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (director.Lease, error) {
	if ttl <= 0 {
		return nil, fmt.Errorf("lease of %v: %w", ttl, director.ErrInvalid)
	}
	c, call, cancel, err := s.begin(ctx, callLimit)
	if err != nil {
		return nil, err
	}
	defer cancel()
	r, err := c.Grant(call, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return nil, fmt.Errorf("grant a lease: %w", readError(err))
	}
	l := &lease{s: s, c: c, id: r.ID, done: make(chan struct{})}
	keep, stop := s.until(ctx)
	l.stop = stop
	alive, err := c.KeepAlive(keep, r.ID)
	if err != nil {
		stop()
		return nil, fmt.Errorf("keep lease %d: %w", r.ID, readError(err))
	}
	s.mu.Lock() // against Close, which waits for running
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		stop()
		return nil, errClosed()
	}
	s.running.Go(func() {
		defer close(l.done)
		defer stop()
		for range alive { // closed when the lease is lost or keep ends
		}
	})
	return l, nil
}

// ID implements director.Lease.
func (l *lease) ID() director.LeaseID { return director.LeaseID(l.id) }

// Done implements director.Lease.
func (l *lease) Done() <-chan struct{} { return l.done }

// Revoke implements director.Lease. If it fails the lease expires by itself:
// it is not kept any more.
func (l *lease) Revoke(ctx context.Context) error {
	l.stop()
	c, ctx, cancel, err := l.s.begin(ctx, callLimit)
	if err != nil {
		return fmt.Errorf("revoke lease %d: %w", l.id, err)
	}
	defer cancel()
	if _, err := c.Revoke(ctx, l.id); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("revoke lease %d: %w", l.id, readError(err))
	}
	return nil
}
