package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"time"

	"waypost/director"
)

// errAgain means that all is to be read anew at once: another era took over.
var errAgain = errors.New("another era")

const (
	// retryFirst and retryMost bound the pause between failed tries, which
	// doubles: many tiers lose the store at one time.
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
)

// run reads everything and follows the watch, again and again until ctx ends.
// It alone applies the watch and calls the subscribers.
func (c *Client) run(ctx context.Context) {
	snapshot := c.loadSnapshot()
	pause := retryFirst
	for first := true; ctx.Err() == nil; first = false {
		if !first {
			c.restarts.Add(1)
		}
		read, err := c.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errAgain) {
			c.log.Warn("directory era changed: all is read anew", "era", c.Era())
			continue
		}
		c.note(err)
		if read {
			pause = retryFirst
		} else if snapshot {
			c.setReady()
		}
		c.log.Warn("directory watch ended: all is read anew", "err", err, "pause", pause)
		if !sleep(ctx, pause/2+rand.N(pause)) {
			return
		}
		pause = min(2*pause, retryMost)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// follow reads everything and applies the watch until it breaks. read tells
// whether everything was read.
func (c *Client) follow(ctx context.Context) (read bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := c.load(ctx)
	if err != nil {
		return false, err
	}
	c.announce(director.Change{})
	batches := c.store.Watch(ctx, "", l.from)
	for {
		select {
		case <-ctx.Done():
			return true, ctx.Err()
		case <-c.resync:
		case b, ok := <-batches:
			if !ok {
				return true, errors.New("the watch ended")
			}
			if b.Err != nil {
				return true, b.Err
			}
			if err := c.applyBatch(l, b); err != nil {
				return true, err
			}
		}
		if c.st.Load() != l.st {
			return true, errAgain
		}
	}
}

// loaded is what load read, and at which revisions.
type loaded struct {
	st    *state
	from  int64 // the watch's first revision
	revs  map[*kind]int64
	known int64 // the last revision the watch told
}

// load reads everything into the state of the store's era. Each kind is read
// at a revision of its own: the watch starts after the oldest of them, and
// applyBatch skips what a kind has already.
func (c *Client) load(ctx context.Context) (*loaded, error) {
	start := c.opts.Now()
	st, rev, err := c.readEra(ctx)
	if err != nil {
		return nil, err
	}
	l := &loaded{st: st, from: rev + 1, known: rev, revs: map[*kind]int64{}}
	st.gen++
	for i := range kinds {
		k := &kinds[i]
		rev, err := c.store.List(ctx, k.prefix, func(e director.Entry) error {
			c.put(st, k, e)
			if c.st.Load() != st {
				return errAgain
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", k.prefix, err)
		}
		k.sweep(st)
		l.revs[k] = rev
	}
	if c.st.Load() != st {
		return nil, errAgain
	}
	c.complete.Store(st)
	c.dirty.Store(true)
	c.unreachable.Store(false)
	c.confirm(start)
	c.setReady()
	c.log.Info("directory read", "era", st.era, "users", countLocations(st), "took", c.opts.Now().Sub(start))
	return l, nil
}

// readEra reads the era and makes its state the current one.
func (c *Client) readEra(ctx context.Context) (*state, int64, error) {
	for range eraTries {
		base := c.st.Load()
		era := ""
		rev, err := c.store.List(ctx, director.KeyEra, func(e director.Entry) error {
			if e.Key == director.KeyEra {
				era = string(e.Value)
			}
			return nil
		})
		if err != nil {
			return nil, 0, fmt.Errorf("read era: %w", err)
		}
		if era == "" {
			return nil, 0, errNoEra()
		}
		if st, ok := c.adopt(base, era); ok {
			return st, rev, nil
		}
	}
	return nil, 0, fmt.Errorf("the era keeps changing: %w", director.ErrUnavailable)
}

func errNoEra() error {
	return fmt.Errorf("the directory has no era: it was never initialised, or is being restored: %w", director.ErrUnavailable)
}

// adopt makes the state of era current. base is what was current before era was
// read, linearizably: so another era than base's is a newer one. False: someone
// else changed the state meanwhile; read again.
func (c *Client) adopt(base *state, era string) (*state, bool) {
	if base.era == era {
		return base, c.st.Load() == base
	}
	next := newState(era, c.shared)
	if !c.st.CompareAndSwap(base, next) {
		return nil, false
	}
	close(base.dropped)
	c.neg.clear()
	c.updateStale()
	select {
	case c.resync <- struct{}{}:
	default:
	}
	return next, true
}

func (c *Client) put(st *state, k *kind, e director.Entry) {
	if err := k.put(st, e.Key[len(k.prefix):], e.Value, e.Rev); err != nil {
		c.log.Warn("directory entry cannot be used", "key", e.Key, "revision", e.Rev, "err", err)
	}
}

// applyBatch brings the memory to the batch's revision.
func (c *Client) applyBatch(l *loaded, b director.Batch) error {
	for _, ch := range b.Changes {
		if ch.Key == director.KeyEra {
			if ch.Deleted {
				return errNoEra()
			}
			if _, ok := c.adopt(l.st, string(ch.Value)); !ok || c.st.Load() != l.st {
				return errAgain
			}
		}
		if k, rest := kindOf(ch.Key); k != nil {
			if ch.Rev <= l.revs[k] {
				continue // read already, and the subscribers were told to reload
			}
			c.apply(l.st, k, rest, ch)
		}
		c.announce(ch)
	}
	if b.Revision >= l.known {
		l.known = b.Revision
		c.unreachable.Store(false)
		c.confirm(c.opts.Now())
	}
	return nil
}

func (c *Client) apply(st *state, k *kind, key string, ch director.Change) {
	if ch.Deleted {
		k.del(st, key)
	} else {
		c.put(st, k, ch.Entry)
	}
	c.neg.changed(k, key)
	c.dirty.Store(true)
}

// confirm notes that the memory was current at t.
func (c *Client) confirm(t time.Time) {
	c.confirmed.Store(t.UnixNano())
	c.updateStale()
}

// note keeps what a call to the store said, for Ready and Stale.
func (c *Client) note(err error) {
	if err == nil {
		c.unreachable.Store(false)
	} else {
		c.mu.Lock()
		c.lastErr = err
		c.mu.Unlock()
		if errors.Is(err, director.ErrUnavailable) {
			c.unreachable.Store(true)
		}
	}
	c.updateStale()
}

// updateStale works it out under the lock, so that the last word is the newest.
func (c *Client) updateStale() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale.Store(c.closed || c.complete.Load() != c.st.Load() || c.unreachable.Load() || c.Lag() > staleAfter)
}

// monitor probes the era, since a watch on a restored store may say nothing for
// ever, marks answers stale when the watch falls silent, and saves snapshots.
func (c *Client) monitor(ctx context.Context) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	save := time.NewTicker(c.opts.SnapshotEvery)
	defer save.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-second.C:
			c.updateStale()
		case <-probe.C:
			_, _, err := c.readAll(ctx, nil)
			if err != nil && ctx.Err() == nil {
				c.log.Warn("directory era cannot be read", "err", err)
			}
		case <-save.C:
			if err := c.saveSnapshot(); err != nil {
				c.log.Warn("directory snapshot not saved", "err", err)
			}
		}
	}
}

// loadSnapshot reports whether there is something to answer from.
func (c *Client) loadSnapshot() bool {
	if c.opts.Snapshot == "" {
		return false
	}
	base := c.st.Load()
	st, err := readSnapshot(c.opts.Snapshot, c.shared)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false
	case err != nil:
		c.log.Warn("directory snapshot is ignored", "err", err)
		return false
	case base.era != "" || !c.st.CompareAndSwap(base, st):
		return false // a Fresh read was faster: what it found is newer
	}
	close(base.dropped)
	c.log.Info("directory snapshot read", "era", st.era, "users", countLocations(st))
	return true
}

func (c *Client) saveSnapshot() error {
	st := c.st.Load()
	if c.opts.Snapshot == "" || c.complete.Load() != st || !c.dirty.Swap(false) {
		return nil
	}
	if err := writeSnapshot(c.opts.Snapshot, st); err != nil {
		c.dirty.Store(true)
		return fmt.Errorf("directory snapshot: %w", err)
	}
	return nil
}
