package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"waypost/backend/fence"
	"waypost/director"
)

// reconcileAll is R9: every fence of the disk is brought up to date before
// anything is served. The records come from one linearizable listing; only
// those that do not agree cost a read of their own.
func (b *Server) reconcileAll(ctx context.Context) error {
	records := make(map[director.User]director.Record)
	rev, err := b.dir.Store().List(ctx, director.PrefixLocation, func(e director.Entry) error {
		r, err := director.DecodeRecord(e.Value)
		if err != nil {
			b.log.Error("unreadable record", "key", e.Key, "error", err)
			return nil
		}
		name := director.User(strings.TrimPrefix(e.Key, director.PrefixLocation))
		if _, mine := b.users.fences[name]; mine || r.Home == b.cfg.ID {
			records[name] = r
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the directory: %w", err)
	}
	names := make(map[director.User]bool, len(records))
	for name := range records {
		names[name] = true
	}
	for name := range b.users.fences {
		names[name] = true
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	looked := 0
	for name := range names {
		rec, ok := records[name]
		var p *director.Record
		if ok {
			p = &rec
			b.busy.Note(name, rec, b.cfg.ID)
		}
		f := b.fenceOf(name)
		if f.State != fence.Incoming && fence.Reconcile(b.cfg.ID, f, p).Action == fence.Keep {
			continue
		}
		looked++
		g.Go(func() error {
			u := b.use(name)
			defer b.release(u)
			if err := b.look(gctx, u); errors.Is(err, director.ErrUnavailable) {
				return err
			}
			return nil // logged; the others must not wait for one bad tree
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	b.log.Info("fences reconciled", "fences", len(names), "changed", looked, "revision", rev)
	return nil
}

func (b *Server) fenceOf(name director.User) fence.Fence {
	b.users.mu.Lock()
	defer b.users.mu.Unlock()
	return b.users.fences[name]
}

// observe is told every change of the directory by the cache, in order, and
// must not block. It queues a look for what concerns this backend.
func (b *Server) observe(c director.Change) {
	if c.Key == director.BackendKey(b.cfg.ID) && !c.Deleted {
		b.observeSelf(c.Value)
	}
	name, ok := strings.CutPrefix(c.Key, director.PrefixLocation)
	if !ok || c.Deleted {
		return
	}
	r, err := director.DecodeRecord(c.Value)
	if err != nil {
		return
	}
	u := director.User(name)
	b.busy.Note(u, r, b.cfg.ID)
	if fence.Reconcile(b.cfg.ID, b.fenceOf(u), &r).Action != fence.Keep {
		b.looks.add(u)
	}
}

// reobserve goes through everything the cache knows, after it loaded anew.
func (b *Server) reobserve() {
	if me, ok := b.cache.Backend(b.cfg.ID); ok && me.State == director.BackendLost {
		b.sayLost()
	}
	b.cache.Users(func(u director.User, r director.Record) bool {
		b.observe(director.Change{Entry: director.Entry{Key: director.LocationKey(u), Value: r.Encode()}})
		return true
	})
}

// lookQueue holds each user once. Its size is bounded by the number of users.
type lookQueue struct {
	mu     sync.Mutex
	queued map[director.User]bool
	signal chan struct{}
}

func newLookQueue() *lookQueue {
	return &lookQueue{queued: make(map[director.User]bool), signal: make(chan struct{}, 1)}
}

func (q *lookQueue) add(u director.User) {
	q.mu.Lock()
	q.queued[u] = true
	q.mu.Unlock()
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

func (q *lookQueue) take() []director.User {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make([]director.User, 0, len(q.queued))
	for u := range q.queued {
		all = append(all, u)
	}
	clear(q.queued)
	return all
}

// lookers is how many looks run at once.
const lookers = 8

// runLooks does queued looks until ctx ends. One that failed, because the
// directory or the disk is away, is queued again after a while.
func (b *Server) runLooks(ctx context.Context) {
	const retry = time.Second
	var wg sync.WaitGroup
	defer wg.Wait()
	work := make(chan director.User)
	defer close(work)
	for range lookers {
		wg.Go(func() {
			for name := range work {
				u := b.use(name)
				err := b.look(ctx, u)
				b.release(u)
				if err != nil {
					pause(ctx, retry)
					b.looks.add(name)
				}
			}
		})
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.looks.signal:
		}
		for _, name := range b.looks.take() {
			select {
			case work <- name:
			case <-ctx.Done():
				return
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// watchBusy takes users back whose move is over the limit or has no owner.
func (b *Server) watchBusy(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		var g errgroup.Group
		g.SetLimit(lookers)
		for u, v := range b.busy.Snapshot() {
			g.Go(func() error {
				if err := b.checkBusy(ctx, u, v); err != nil && ctx.Err() == nil {
					b.log.Warn("busy user not taken back yet", "user", u, "error", err)
				}
				return nil
			})
		}
		_ = g.Wait() // the functions return no errors
	}
}

func (b *Server) checkBusy(ctx context.Context, u director.User, v fence.BusyUser) error {
	why, rec, look, err := b.busy.TakeBack(ctx, b.dir, u, v, b.cfg.BusyLimit, b.cfg.OwnerGrace)
	if look {
		b.looks.add(u)
	}
	if err == nil && why != "" {
		b.log.Warn("took a busy user back", "user", u, "why", why, "record", rec.String())
		b.metrics.takenBack.Inc()
	}
	return err
}
