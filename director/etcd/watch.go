package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"waypost/director"
)

const (
	// progressEvery is how often watches are told that they are current.
	progressEvery = time.Second
	// watchPause is the pause before a watch that etcd ended is made again.
	watchPause = 250 * time.Millisecond
	// batchBuffer is how many batches wait for their reader, here; the client
	// library behind has no bound.
	batchBuffer = 16
)

// errCompacted ends a watch for good.
var errCompacted = errors.New("the revision is compacted away")

// Watch implements director.Store. from 0 is "from now on". Lost connections
// and leaders are healed within.
func (s *Store) Watch(ctx context.Context, prefix string, from int64) <-chan director.Batch {
	ch := make(chan director.Batch, batchBuffer)
	s.mu.Lock() // against Close, which waits for running
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		ch <- director.Batch{Err: errClosed()}
		close(ch)
		return ch
	}
	w := &watch{s: s, key: s.prefix + prefix, next: from, ch: ch}
	s.watches.Add(1)
	s.running.Go(func() {
		defer s.watches.Add(-1)
		defer close(ch)
		ctx, cancel := s.until(ctx)
		defer cancel()
		w.run(ctx)
	})
	return ch
}

// watch is one watch; its goroutine alone uses it.
type watch struct {
	s    *Store
	key  string
	next int64 // the first revision not sent yet; 0: whatever is next
	told int64 // the last revision told
	ch   chan<- director.Batch
}

func (w *watch) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := w.follow(ctx)
		if errors.Is(err, errCompacted) {
			w.send(ctx, director.Batch{Err: fmt.Errorf("watch %q from %d: %w", w.key, w.next, err)})
			return
		}
		if ctx.Err() != nil {
			return
		}
		w.s.log.Debug("etcd watch is made again", "key", w.key, "revision", w.next, "err", err)
		t := time.NewTimer(watchPause)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// follow is one watch of the client, which mends lost connections itself and
// ends when its member has no leader.
func (w *watch) follow(ctx context.Context) error {
	c, err := w.s.connect(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	responses := c.Watch(clientv3.WithRequireLeader(ctx), w.key, clientv3.WithPrefix(), clientv3.WithRev(w.next),
		clientv3.WithCreatedNotify(), clientv3.WithProgressNotify())
	for r := range responses {
		if r.CompactRevision != 0 {
			return errCompacted
		}
		if err := r.Err(); err != nil {
			return err
		}
		if b, ok := w.batch(r); ok && !w.send(ctx, b) {
			return ctx.Err()
		}
	}
	return errors.New("the watch ended")
}

// batch takes a response. The header's revision is the member's, which may be
// ahead of what this watch was sent when it catches up, and behind when the
// member is; only a progress notice promises that all up to it was sent.
func (w *watch) batch(r clientv3.WatchResponse) (director.Batch, bool) {
	b := director.Batch{Revision: w.told}
	for _, e := range r.Events {
		if e.Kv.ModRevision < w.next {
			continue // sent before the connection was made again
		}
		ch := director.Change{Entry: w.s.entry(e.Kv)}
		if e.Type == clientv3.EventTypeDelete {
			ch.Deleted, ch.Value = true, nil
		}
		b.Changes = append(b.Changes, ch)
		b.Revision = e.Kv.ModRevision
	}
	switch {
	case len(b.Changes) > 0:
	case r.Created && w.next == 0:
		b.Revision = r.Header.Revision
	case (r.Created && r.Header.Revision < w.next || r.IsProgressNotify()) && r.Header.Revision >= w.told:
		b.Revision = r.Header.Revision
	default:
		return b, false
	}
	w.told = b.Revision
	w.next = max(w.next, b.Revision+1)
	return b, true
}

func (w *watch) send(ctx context.Context, b director.Batch) bool {
	select {
	case w.ch <- b:
		return true
	case <-ctx.Done():
		return false
	}
}

// askProgress has etcd tell all watches of this client their revision: by
// itself it does so every ten minutes.
func (s *Store) askProgress() {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		c := s.client.Load()
		if c == nil || s.watches.Load() == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(s.ctx, progressEvery)
		// An error only says that there is no stream now; the next tick asks again.
		if err := c.RequestProgress(clientv3.WithRequireLeader(ctx)); err != nil {
			s.log.Debug("etcd watches cannot be asked for progress", "err", err)
		}
		cancel()
	}
}
