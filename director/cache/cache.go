// Package cache is the directory client that every tier embeds: it holds all
// locations, accounts, addresses, domains and backends in memory, and one watch
// keeps them right.
//
// Promises:
//   - A look-up never returns an older state of a user than one returned
//     before, within an era: by epoch, whoever brought the newer one, the watch
//     or a Fresh read. It lags the store by the watch's latency.
//   - A change of era (R10: the directory was restored) drops everything, and
//     all is read anew. Nothing of the former era is returned after that.
//   - With the store away, what is known is still answered, marked stale. A
//     snapshot file lets the process even start without the store.
//   - Nothing permanent is said from a stale memory: that a user or domain is
//     unknown is answered only after a linearizable read (Resolve), which is
//     remembered for a short time.
//
// Correctness of the cluster does not rest on this cache: backends' fences
// refuse what a stale tier sends (R1). The snapshot is the only thing that
// survives the process; it is versioned and checksummed, of mode 0600 since it
// holds password hashes, and ignored when damaged.
//
// Any tier may use it. All methods are safe for concurrent use.
package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/director"
)

const (
	// staleAfter is how long the watch may say nothing, not even its progress,
	// before answers are called stale.
	staleAfter = 5 * time.Second
	// probeEvery is how often the era is read linearizably: a watch of a
	// restored store may be silent for ever.
	probeEvery = 5 * time.Second
	// callLimit bounds each read that no caller waits for.
	callLimit = 5 * time.Second
	// snapshotEvery is the default of Options.SnapshotEvery.
	snapshotEvery = 5 * time.Minute
	// eraTries bounds how often one read meets a change of era.
	eraTries = 8
)

// Options of Open. Store is needed, the rest is optional.
type Options struct {
	// Store is not closed by the client.
	Store director.Store
	// Snapshot is the file that survives the process; "" is none.
	Snapshot string
	// SnapshotEvery is the least time between two snapshots; 0 is 5 minutes.
	SnapshotEvery time.Duration
	// PostmasterDomain is the domain of an address "postmaster" that has none
	// (RFC 5321, Section 4.5.1); "" is the first domain by name.
	PostmasterDomain string
	Log              *slog.Logger
	Metrics          prometheus.Registerer
	// Now is the clock of lags and expiries; nil is time.Now.
	Now func() time.Time
}

// Client is a cache. Close it.
type Client struct {
	opts  Options
	store director.Store
	log   *slog.Logger
	neg   *negatives

	shared *shared

	// st is the memory of one era; never nil. Whoever reads another era in the
	// store swaps it (adopt).
	st atomic.Pointer[state]
	// complete is the state that all of the store was last read into.
	complete atomic.Pointer[state]
	resync   chan struct{} // holds one: st was swapped
	ready    chan struct{} // closed when there is something to answer from
	setReady func()

	stale       atomic.Bool
	unreachable atomic.Bool
	confirmed   atomic.Int64 // unix nanoseconds when the memory was last known to be current
	dirty       atomic.Bool  // there is something that the snapshot has not
	restarts    atomic.Uint64
	accounts    decodedAccounts

	mu      sync.Mutex // protects what follows
	lastErr error
	subs    []*subscription
	closed  bool

	ended   <-chan struct{} // closed when Close or ctx ends the client
	stop    context.CancelFunc
	running sync.WaitGroup
	closing sync.Once
}

// Open starts a client that reads everything in the background, and lives until
// Close or until ctx ends. It fails only when its metrics cannot be registered.
func Open(ctx context.Context, o Options) (*Client, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.SnapshotEvery == 0 {
		o.SnapshotEvery = snapshotEvery
	}
	c := &Client{
		opts: o, store: o.Store, log: o.Log,
		shared: newShared(), neg: newNegatives(),
		resync: make(chan struct{}, 1), ready: make(chan struct{}),
	}
	c.setReady = sync.OnceFunc(func() { close(c.ready) })
	c.st.Store(newState("", c.shared))
	c.stale.Store(true)
	c.confirmed.Store(o.Now().UnixNano())
	unregister, err := c.register(o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("directory cache: %w", err)
	}
	ctx, c.stop = context.WithCancel(ctx)
	c.ended = ctx.Done()
	c.running.Go(func() { defer unregister(); c.run(ctx) })
	c.running.Go(func() { c.monitor(ctx) })
	return c, nil
}

// Close ends the client and writes the last snapshot. Look-ups go on being
// answered from memory, stale.
func (c *Client) Close() error {
	var err error
	c.closing.Do(func() {
		c.stop()
		c.running.Wait()
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		c.updateStale()
		err = c.saveSnapshot()
	})
	return err
}

// WaitReady waits until look-ups can be answered: from the store, or, when that
// cannot be read, from the snapshot. Its error says what the store said.
func (c *Client) WaitReady(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", c.Ready(), ctx.Err())
	case <-c.ended:
		return errClosed()
	}
}

func errClosed() error {
	return fmt.Errorf("%w: the directory cache is closed", director.ErrUnavailable)
}

// Ready is nil when look-ups can be answered, be it stale; else it wraps
// ErrUnavailable and says why not.
func (c *Client) Ready() error {
	select {
	case <-c.ready:
		return nil
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lastErr == nil {
		return fmt.Errorf("%w: it is being read", director.ErrUnavailable)
	}
	if errors.Is(c.lastErr, director.ErrUnavailable) {
		return c.lastErr
	}
	return fmt.Errorf("%w: %w", director.ErrUnavailable, c.lastErr)
}

// Stale reports whether answers may lag the store by more than the watch's
// latency: it cannot be reached, or has not been read yet.
func (c *Client) Stale() bool { return c.stale.Load() }

// Lag is how long ago the memory was last known to be current.
func (c *Client) Lag() time.Duration {
	return max(0, c.opts.Now().Sub(time.Unix(0, c.confirmed.Load())))
}

// Era is the era of what is in memory; "" before anything is.
func (c *Client) Era() string { return c.st.Load().era }

// Location looks a user up in memory. A tombstone is known. Not known does not
// mean that there is no such user: Fresh and Resolve can tell.
func (c *Client) Location(u director.User) (r director.Record, known, stale bool) {
	stale = c.stale.Load()
	r, known = c.st.Load().location(u)
	return r, known, stale
}

// Account gives a user's account and its version, which rises at each change. What
// it points to is shared: nobody writes to it.
func (c *Client) Account(u director.User) (a director.Account, version int64, known bool) {
	row := c.st.Load().account(u)
	if row == nil {
		return a, 0, false
	}
	if a, known := c.accounts.get(u, row.rev); known {
		return a, row.rev, true
	}
	a, err := director.DecodeAccount([]byte(row.raw))
	if err != nil {
		c.log.Warn("account cannot be read", "user", u, "err", err)
		return director.Account{}, 0, false
	}
	c.accounts.put(u, row.rev, a)
	return a, row.rev, true
}

// Group gives the sharing group of a user, "" for none.
func (c *Client) Group(u director.User) string {
	a, _, _ := c.Account(u)
	return a.Group
}

// Members gives the users whose accounts name a sharing group, by name: as many as
// there are, be it more than director.MaxGroupMembers.
func (c *Client) Members(group string) []director.User { return c.st.Load().groups.members(group) }

// Backend gives a backend's record.
func (c *Client) Backend(id director.BackendID) (director.Backend, bool) {
	return c.st.Load().backend(id)
}

// Backends gives all backends; the map is the caller's.
func (c *Client) Backends() map[director.BackendID]director.Backend {
	return c.st.Load().allBackends()
}

// Domain reports whether the memory knows a domain as ours; name is lower case.
func (c *Client) Domain(name string) bool { return c.st.Load().domain(name) }

// Users calls fn with every user in memory, tombstones included, until it
// returns false. Each record is one that was current during the call.
func (c *Client) Users(fn func(director.User, director.Record) bool) { c.st.Load().each(fn) }

// subscription is one Subscribe.
type subscription struct{ fn func(director.Change) }

// Subscribe has fn called with every change of the directory, of whatever key,
// in the order of the watch, after the memory has it. After all was read anew
// (at the start, after a broken watch, in a new era) fn gets a change for which
// IsReload is true: anything may be different. fn must not block: all changes
// wait for it. It may be running yet when cancel returns.
func (c *Client) Subscribe(fn func(director.Change)) (cancel func()) {
	s := &subscription{fn}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs = append(c.subs[:len(c.subs):len(c.subs)], s)
	return func() { c.unsubscribe(s) }
}

func (c *Client) unsubscribe(s *subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := make([]*subscription, 0, len(c.subs))
	for _, have := range c.subs {
		if have != s {
			kept = append(kept, have)
		}
	}
	c.subs = kept
}

// IsReload tells the synthetic change of Subscribe from real ones.
func IsReload(ch director.Change) bool { return ch.Key == "" }

// announce calls the subscribers; only the goroutine of run does.
func (c *Client) announce(ch director.Change) {
	c.mu.Lock()
	subs := c.subs
	c.mu.Unlock()
	for _, s := range subs {
		s.fn(ch)
	}
}
