package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/director"
	"waypost/mx/spool"
	"waypost/mx/spool/entries"
)

// Errors; test with errors.Is.
var (
	// ErrKnown: an entry of this id was taken before. No harm.
	ErrKnown = errors.New("already taken")
	// ErrBusy: the entry is being worked on at this moment; try again.
	ErrBusy = errors.New("the entry is being worked on")
	// ErrFull: the queue holds Config.MaxEntries.
	ErrFull = errors.New("the relay queue is full")
	// ErrNotFound: no entry has this id.
	ErrNotFound = errors.New("no such relay entry")
	// ErrUnknown is of Deps.Resolve: the address leads to nobody, for good.
	ErrUnknown = errors.New("no such user")
	// ErrNoRoute: no smarthost is configured.
	ErrNoRoute = errors.New("no smarthost is configured")
)

// Meaning is what an address means to this cluster.
type Meaning struct {
	// Foreign: its domain is not ours.
	Foreign bool
	// Users are the mailboxes it leads to.
	Users []spool.Recipient
	// Outside are the addresses of other domains that it leads to.
	Outside []string
}

// Inward is the spool, by which mail gets to mailboxes; *spool.Spool is it.
type Inward interface {
	Draft() *spool.Draft
	// Add makes an entry durable; fs.ErrExist if one of its id is there.
	Add(d *spool.Draft, e spool.Envelope, delay time.Duration) error
}

var _ Inward = (*spool.Spool)(nil)

// Route says where mail for a domain goes.
type Route struct{ Addr string } // host:port

// Deps are the queue's surroundings; all but Route, Dial and Metrics are
// required.
type Deps struct {
	// Hostname is the name in EHLO and in reports.
	Hostname string
	Inward   Inward
	// Resolve says what an address means. ErrUnknown is for good; any other
	// error is temporary.
	Resolve func(ctx context.Context, address string) (Meaning, error)
	// Route chooses where mail for a domain goes; nil: to the smarthost. An
	// error is temporary.
	Route func(ctx context.Context, domain string) (Route, error)
	// Dial connects; nil: by TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	Log  *slog.Logger
	// Metrics gets the waypost_relay_ metrics; nil: nowhere.
	Metrics prometheus.Registerer
	// MemoryBytes is as the spool's.
	MemoryBytes int
}

// Queue is an open queue. Close it.
type Queue struct {
	cfg    Config
	deps   Deps
	log    *slog.Logger
	store  *entries.Store
	done   *doneIDs
	limits *limits
	hosts  *hosts
	met    *metrics
	lanes  [laneCount]*lane

	mu     sync.Mutex // protects what follows, and the lanes' heaps; never held during disk writes
	queue  map[string]*item
	dead   map[string]*Envelope
	adding map[string]bool // ids that are being made durable
	// changing are dead letters that the operator's hand is on.
	changing map[string]bool
}

// item is an entry in memory. Its fields belong to Queue.mu, but while running
// is set the envelope is replaced only by whoever set it.
type item struct {
	env      Envelope
	attempts int // that counted, since this process started
	lastErr  string
	next     time.Time
	lane     laneID
	index    int // in its lane; -1: not there
	running  bool
	// dirty: the envelope on disk still names recipients who are done with.
	dirty bool
	// forced while running: try again at once.
	forced bool
}

// Open takes the folder, which it makes if it is absent, brings it in order
// after a crash, and reads the envelopes. ErrLocked of durable: another process
// has it.
func Open(dir string, cfg Config, deps Deps) (*Queue, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	if deps.Hostname == "" || deps.Inward == nil || deps.Resolve == nil || deps.Log == nil {
		return nil, errors.New("relay: a dependency is missing")
	}
	q := &Queue{cfg: cfg, deps: deps, log: deps.Log, queue: map[string]*item{}, dead: map[string]*Envelope{},
		adding: map[string]bool{}, changing: map[string]bool{}, limits: newLimits(cfg.UserPerHour, cfg.UserPerDay, time.Now)}
	if q.deps.Route == nil {
		q.deps.Route = q.toSmarthost
	}
	if q.deps.MemoryBytes <= 0 {
		q.deps.MemoryBytes = 256 << 10
	}
	q.lanes = [laneCount]*lane{inward: newLane(inwardWorkers), outward: newLane(cfg.MaxConnections)}
	q.hosts = newHosts(cfg, deps)
	var err error
	if q.store, err = entries.Open(dir, q.deps.MemoryBytes, deps.Log); err != nil {
		return nil, fmt.Errorf("open relay queue: %w", err)
	}
	if err := q.recover(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("open relay queue %s: %w", dir, err), q.store.Close())
	}
	q.met = newMetrics(deps.Metrics, q)
	return q, nil
}

func (q *Queue) toSmarthost(context.Context, string) (Route, error) {
	if !q.cfg.Enabled() {
		return Route{}, ErrNoRoute
	}
	return Route{q.cfg.Smarthost}, nil
}

// recover fills the indexes. An entry whose id is among those that have ended
// was on its way out when the process died, unless the operator revived it.
func (q *Queue) recover(dir string) (err error) {
	if q.done, err = openDone(filepath.Join(dir, "done"), q.cfg.RememberIDs, maxDone); err != nil {
		return err
	}
	var queued []Envelope
	read := func(f entries.Folder, take func(Envelope)) error {
		return q.store.Read(f, func(id string, b []byte) error {
			e, err := decodeEnvelope(id, b)
			if err == nil {
				take(e)
			}
			return err
		})
	}
	if err := read(entries.Queue, func(e Envelope) { queued = append(queued, e) }); err != nil {
		return err
	}
	if err := read(entries.Dead, func(e Envelope) { q.dead[e.ID] = &e }); err != nil {
		return err
	}
	spread := min(time.Minute, time.Duration(len(queued))*10*time.Millisecond)
	now := time.Now()
	for _, e := range queued {
		if e.Remember && e.Revived.IsZero() && q.done.has(e.ID) {
			if err := q.store.Remove(entries.Queue, e.ID); err != nil {
				return err
			}
			continue
		}
		it := &item{env: e, index: -1, attempts: attemptsBy(now.Sub(e.started()))}
		q.insert(it, time.Duration(rand.Int64N(int64(spread)+1)))
	}
	return nil
}

// Close gives the folder back. Run must have returned.
func (q *Queue) Close() error {
	q.hosts.close()
	return errors.Join(q.done.close(), q.store.Close())
}

// Enabled reports whether mail can leave.
func (q *Queue) Enabled() bool { return q.cfg.Enabled() }

// Draft begins a message for Reserve or Add, which may be of another store on
// the same file system as well.
func (q *Queue) Draft() *entries.Draft { return q.store.Draft() }

// Check says whether a user may send to n more recipients outside; *LimitError.
// It counts nothing.
func (q *Queue) Check(u director.User, n int) error { return q.limits.check(u, n) }

// Known reports whether an entry of this id was taken before.
func (q *Queue) Known(id string) bool {
	q.mu.Lock()
	known := q.queue[id] != nil || q.dead[id] != nil
	q.mu.Unlock()
	return known || q.done.has(id)
}

// Reservation is an entry that is durable and not tried yet, since it may be
// taken back. It must end by Commit or Cancel; a crash before leaves the entry.
type Reservation struct {
	q *Queue
	e Envelope
}

// Add is Reserve and Commit.
func (q *Queue) Add(d *entries.Draft, e Envelope) error {
	r, err := q.Reserve(d, e)
	if err == nil {
		r.Commit()
	}
	return err
}

// Reserve makes an entry of a draft and its envelope, durably, and counts it
// against the user's limits. The draft stays the caller's. ErrKnown, ErrBusy
// (the same id is being taken at this moment), ErrFull, *LimitError.
func (q *Queue) Reserve(d *entries.Draft, e Envelope) (*Reservation, error) {
	e.Version, e.Size = envelopeVersion, d.Size()
	if e.Kind.Automatic() {
		e.From = ""
	}
	e.Reports = e.Reports && e.From != "" && e.User != ""
	e.Recipients = distinct(e.Recipients)
	if !entries.ValidID(e.ID) || len(e.Recipients) == 0 || !e.Kind.Valid() {
		return nil, fmt.Errorf("relay %q: not a usable envelope", e.ID)
	}
	if err := q.begin(e.ID); err != nil {
		return nil, fmt.Errorf("relay %s: %w", e.ID, err)
	}
	if e.User != "" {
		if err := q.limits.take(e.User, toCount(e.Recipients)); err != nil {
			q.end(e.ID)
			q.met.limited.Inc()
			return nil, err
		}
	}
	if err := q.store.Put(d, e.ID, e); err != nil {
		q.end(e.ID)
		return nil, fmt.Errorf("relay %s: %w", e.ID, err)
	}
	return &Reservation{q, e}, nil
}

// toCount is how many recipients count against the limits.
func toCount(rs []Recipient) (n int) {
	for _, r := range rs {
		if !r.Taken {
			n++
		}
	}
	return n
}

func distinct(rs []Recipient) (out []Recipient) {
	for _, r := range rs {
		if !slices.ContainsFunc(out, func(x Recipient) bool { return x.To == r.To }) {
			out = append(out, r)
		}
	}
	return out
}

func (q *Queue) begin(id string) error {
	if q.done.has(id) {
		return ErrKnown
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.queue[id] != nil, q.dead[id] != nil:
		return ErrKnown
	case q.adding[id]:
		return ErrBusy
	case len(q.queue)+len(q.adding) >= q.cfg.MaxEntries:
		return ErrFull
	}
	q.adding[id] = true
	return nil
}

func (q *Queue) end(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.adding, id)
}

// Commit has the entry tried.
func (r *Reservation) Commit() {
	q := r.q
	q.log.Info("relay entry queued", "relay", r.e.ID, "kind", r.e.Kind, "user", r.e.User, "from", r.e.From, "rcpts", len(r.e.Recipients), "bytes", r.e.Size)
	q.met.accepted.WithLabelValues(string(r.e.Kind)).Inc()
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.adding, r.e.ID)
	q.insert(&item{env: r.e, index: -1}, 0)
}

// Cancel takes the entry back. With an error it may be there again after the
// next Open.
func (r *Reservation) Cancel() error {
	defer r.q.end(r.e.ID)
	if err := r.q.store.Remove(entries.Queue, r.e.ID); err != nil {
		return fmt.Errorf("take back relay entry %s: %w", r.e.ID, err)
	}
	return nil
}

// exists is for what is no error when it is done twice.
func exists(err error) bool { return errors.Is(err, fs.ErrExist) }
