package etcd

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"waypost/director"
)

// partLimit is the deadline of each part of a List but a stream's first.
const partLimit = 30 * time.Second

// paging is for members before 3.7, which cannot stream. A page's request makes
// them count all that is left of its range, so ranges with more than wide
// entries are cut up by their next byte: else ten million entries take hours.
type paging struct {
	always bool // for tests: as if no member could stream
	page   int64
	wide   int64
}

var defaultPaging = paging{page: 10_000, wide: 200_000}

// List implements director.Store. It holds no more than a page in memory.
func (s *Store) List(ctx context.Context, prefix string, fn func(director.Entry) error) (int64, error) {
	l := &listing{s: s, fn: fn}
	var err error
	if !s.pages.always {
		err = l.stream(ctx, prefix)
	}
	if s.pages.always || status.Code(err) == codes.Unimplemented {
		err = l.byPages(ctx, s.prefix+prefix)
	}
	switch {
	case l.stopped != nil:
		return 0, l.stopped
	case err != nil:
		return 0, fmt.Errorf("list %q: %w", prefix, readError(err))
	}
	return l.rev, nil
}

// listing is one List.
type listing struct {
	s       *Store
	fn      func(director.Entry) error
	rev     int64
	stopped error // what fn returned
}

func (l *listing) give(kvs []*mvccpb.KeyValue) error {
	for _, kv := range kvs {
		if l.stopped = l.fn(l.s.entry(kv)); l.stopped != nil {
			return l.stopped
		}
	}
	return nil
}

// stream reads everything in one call, which etcd cuts into parts of about a
// megabyte and sends as fast as they are taken. Its deadline moves on with them.
func (l *listing) stream(ctx context.Context, prefix string) error {
	c, err := l.s.connect(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := l.s.until(ctx)
	defer cancel()
	idle := time.AfterFunc(callLimit, cancel) // until the first part
	defer idle.Stop()
	parts, err := c.GetStream(ctx, l.s.prefix+prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	defer func() {
		cancel()
		for range parts { // its sender must not be left blocked
		}
	}()
	for part := range parts {
		if err := part.Err(); err != nil {
			return err
		}
		idle.Stop() // fn may take its time
		if err := l.give(part.Kvs); err != nil {
			return err
		}
		idle.Reset(partLimit)
		if part.Header != nil { // the last one
			l.rev = part.Header.Revision
		}
	}
	if l.rev == 0 {
		return fmt.Errorf("%w: the stream ended too early", director.ErrUnavailable)
	}
	return nil
}

// byPages reads everything under key at the revision of the first page.
func (l *listing) byPages(ctx context.Context, key string) error {
	from, end := key, clientv3.GetPrefixRangeEnd(key)
	for first := true; ; first = false {
		r, err := l.part(ctx, from, end)
		if err != nil {
			return err
		}
		if l.rev == 0 {
			l.rev = r.Header.Revision
		}
		if first && r.Count > l.s.pages.wide {
			return l.cutUp(ctx, key, r)
		}
		if err := l.give(r.Kvs); err != nil || !r.More {
			return err
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

func (l *listing) part(ctx context.Context, from, end string) (*clientv3.GetResponse, error) {
	c, ctx, cancel, err := l.s.begin(ctx, partLimit)
	if err != nil {
		return nil, err
	}
	defer cancel()
	return c.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(l.rev), clientv3.WithLimit(l.s.pages.page))
}

// cutUp reads the range of a key by its next byte. r is its first page, of
// which only the key itself is in none of the smaller ranges.
func (l *listing) cutUp(ctx context.Context, key string, r *clientv3.GetResponse) error {
	if string(r.Kvs[0].Key) == key {
		if err := l.give(r.Kvs[:1]); err != nil {
			return err
		}
	}
	for b := range 256 {
		if err := l.byPages(ctx, key+string([]byte{byte(b)})); err != nil {
			return err
		}
	}
	return nil
}

// entry makes a director.Entry of what etcd keeps.
func (s *Store) entry(kv *mvccpb.KeyValue) director.Entry {
	e := director.Entry{Key: string(kv.Key[len(s.prefix):]), Value: kv.Value, Rev: kv.ModRevision, Leased: kv.Lease != 0}
	if e.Value == nil {
		e.Value = []byte{}
	}
	return e
}

// until gives a context that also ends with the store.
func (s *Store) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}
