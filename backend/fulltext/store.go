package fulltext

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"waypost/backend/mailbox"
	"waypost/director"
)

const (
	// DefaultMaxOpen is how many indexes are open at once.
	DefaultMaxOpen = 64
	// idleTime is how long one that nobody asks stays open.
	idleTime = 10 * time.Minute
	// batchMessages and batchTerms bound what is taken in at once.
	batchMessages = 64
	batchTerms    = 200_000
	// foregroundTime is how long a search takes messages in, foregroundTakers how many
	// searches do so at once.
	foregroundTime   = 300 * time.Millisecond
	foregroundTakers = 2
	foregroundLimit  = 1024
)

// Options are a Store's.
type Options struct {
	Log *slog.Logger
	// MaxOpen bounds the open indexes; 0 stands for DefaultMaxOpen.
	MaxOpen int
	// Room says whether the disk has place for more; nil: always. It must not block.
	Room func() bool
}

// Store has the indexes of a backend's users. It is safe for concurrent use.
type Store struct {
	o       Options
	takers  chan struct{}
	batches sync.Pool
	queue   queue
	taken   atomic.Uint64
	dropped atomic.Uint64

	mu    sync.Mutex // guards users, and refs, used and open of each; taken after entry.mu
	users map[director.User]*entry
}

// entry is one user's place. mu guards ix and failed, and is held while an index is
// opened or closed. gen changes under mu, and the user's lock.
type entry struct {
	user   director.User
	gen    atomic.Uint64
	mu     sync.Mutex
	ix     *userIndex
	failed time.Time // no opening before

	refs int
	used time.Time
	open bool
}

// Lease is a user's index for as long as the fence stays.
type Lease struct {
	s    *Store
	e    *entry
	gen  uint64
	root string
	once sync.Once
}

var _ mailbox.TextIndex = (*Lease)(nil)

// Stats are for metrics.
type Stats struct {
	// Open are the open indexes, Waiting the folders in the queue of Run.
	Open, Waiting int
	// Taken are messages taken in, Dropped indexes that could not be read, since the start.
	Taken, Dropped uint64
}

// New makes a Store. Close it.
func New(o Options) *Store {
	if o.MaxOpen == 0 {
		o.MaxOpen = DefaultMaxOpen
	}
	s := &Store{o: o, takers: make(chan struct{}, foregroundTakers), users: make(map[director.User]*entry)}
	s.batches.New = func() any { return &batch{take: newTaker(), names: make(map[uint32]string)} }
	s.queue.wake = make(chan struct{}, 1)
	return s
}

// Stats gives them as they are now.
func (s *Store) Stats() Stats {
	out := Stats{Waiting: s.queue.len(), Taken: s.taken.Load(), Dropped: s.dropped.Load()}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.users {
		if e.open {
			out.Open++
		}
	}
	return out
}

// Lease gives the index under a user's folder. The caller holds the user's lock, and the
// fence lets the user be served; it calls Release at last.
func (s *Store) Lease(user director.User, root string) *Lease {
	s.mu.Lock()
	e := s.users[user]
	if e == nil {
		e = &entry{user: user}
		s.users[user] = e
	}
	e.refs++
	s.mu.Unlock()
	return &Lease{s: s, e: e, gen: e.gen.Load(), root: root}
}

// Release ends the Lease; further calls do nothing.
func (l *Lease) Release() {
	l.once.Do(func() {
		l.s.mu.Lock()
		defer l.s.mu.Unlock()
		l.e.refs--
		l.s.forget(l.e)
	})
}

// forget takes an entry away that nobody needs. s.mu is held.
func (s *Store) forget(e *entry) {
	if e.refs == 0 && !e.open {
		delete(s.users, e.user)
	}
}

// Revoke ends all Leases of a user: when it returns nothing is written for them any more. The
// caller holds the user's lock.
func (s *Store) Revoke(user director.User) {
	s.mu.Lock()
	e := s.users[user]
	if e != nil {
		e.refs++ // stays where it is meanwhile
	}
	s.mu.Unlock()
	if e == nil {
		return
	}
	e.mu.Lock()
	e.gen.Add(1)
	s.shut(e)
	e.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	e.refs--
	s.forget(e)
}

// shut closes an index. e.mu is held.
func (s *Store) shut(e *entry) {
	if e.ix == nil {
		return
	}
	e.ix.interrupt()
	e.ix.close()
	e.ix = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	e.open = false
}

// Close closes all indexes. Run has returned before.
func (s *Store) Close() {
	for _, e := range s.entries(func(*entry) bool { return true }) {
		e.mu.Lock()
		e.gen.Add(1)
		s.shut(e)
		e.mu.Unlock()
	}
}

func (s *Store) entries(keep func(*entry) bool) (out []*entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.users {
		if keep(e) {
			out = append(out, e)
		}
	}
	return out
}

// closeIdle closes indexes that were not used since.
func (s *Store) closeIdle(since time.Time) {
	for _, e := range s.entries(func(e *entry) bool { return e.open && e.used.Before(since) }) {
		s.evict(e)
	}
}

// evict closes an index unless somebody is just opening or closing it.
func (s *Store) evict(e *entry) {
	if !e.mu.TryLock() {
		return
	}
	s.shut(e)
	e.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(e)
}

// spare gives the longest unused of the indexes, besides e, if too many are open; else nil.
func (s *Store) spare(e *entry) (oldest *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, o := range s.users {
		if !o.open {
			continue
		}
		n++
		if o != e && (oldest == nil || o.used.Before(oldest.used)) {
			oldest = o
		}
	}
	if n <= s.o.MaxOpen {
		return nil
	}
	return oldest
}

// index opens the index if need be.
func (l *Lease) index() (*userIndex, error) {
	e := l.e
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gen.Load() != l.gen {
		return nil, errClosed
	}
	if e.ix == nil {
		if time.Now().Before(e.failed) {
			return nil, errClosed
		}
		ix, err := openIndex(l.root, l.s.o.Log.With("user", e.user), l.s.o.Room)
		if err != nil {
			e.failed = time.Now().Add(pauseWriting)
			l.s.o.Log.Warn("no text index; searches read messages", "user", e.user, "pause", pauseWriting, "error", err)
			return nil, err
		}
		e.ix = ix
	}
	l.s.mu.Lock()
	e.open, e.used = true, time.Now()
	l.s.mu.Unlock()
	if o := l.s.spare(e); o != nil {
		l.s.evict(o)
	}
	return e.ix, nil
}

// drop removes an index that cannot be read; the next use begins another.
func (l *Lease) drop(ix *userIndex, why error) {
	e := l.e
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gen.Load() != l.gen || e.ix != ix {
		return
	}
	l.s.dropped.Add(1)
	l.s.shut(e)
	err := os.RemoveAll(filepath.Join(l.root, Dir))
	l.s.o.Log.Warn("text index dropped; it is made anew", "user", e.user, "error", errors.Join(why, err))
}

// Candidates implements mailbox.TextIndex.
func (l *Lease) Candidates(ctx context.Context, f mailbox.Folder, all mailbox.Messages, needle string, body bool) (uids []mailbox.UID, ok bool) {
	terms := gramsOf(needle)
	if len(terms) == 0 {
		return nil, false
	}
	ix, err := l.index()
	if err != nil {
		return nil, false
	}
	l.foreground(ctx, ix, f, all)
	if uids, err = ix.candidates(ctx, all, terms, body); err != nil {
		if ctx.Err() == nil && !errors.Is(err, errClosed) {
			l.drop(ix, err)
		}
		return nil, false
	}
	return uids, true
}

// foreground takes in what is missing, for a moment, and leaves the rest to Run.
func (l *Lease) foreground(ctx context.Context, ix *userIndex, f mailbox.Folder, all mailbox.Messages) {
	missing, total := ix.missing(all, foregroundLimit)
	if total == 0 {
		return
	}
	select {
	case l.s.takers <- struct{}{}:
		defer func() { <-l.s.takers }()
		if ix.count() <= maxSegments {
			until := time.Now().Add(foregroundTime)
			missing = l.s.takeIn(ctx, ix, f, missing, until)
		}
	default:
	}
	if total > foregroundLimit || len(missing) > 0 {
		l.s.queue.put(task{l.e.user, f.Name()})
	}
}

// takeIn takes messages in until a time (zero: all), and gives those that were not looked
// at. What cannot be read is passed over.
func (s *Store) takeIn(ctx context.Context, ix *userIndex, f mailbox.Folder, some []mailbox.Message, until time.Time) []mailbox.Message {
	b := s.batches.Get().(*batch)
	defer s.batches.Put(b)
	defer b.reset()
	over := func() bool { return ctx.Err() != nil || !until.IsZero() && time.Now().After(until) }
	for len(some) > 0 && !over() && ix.ready() {
		b.reset()
		n := 0
		for n < len(some) && len(b.docs) < batchMessages && b.terms < batchTerms && !over() {
			err := b.read(f, &some[n])
			n++
			if fatal(err) {
				return nil
			}
		}
		some = some[n:]
		if err := ix.add(b); err != nil {
			return nil
		}
		s.taken.Add(uint64(len(b.docs)))
	}
	return some
}

// fatal tells errors after which no other message can be read either.
func fatal(err error) bool {
	for _, end := range []error{
		mailbox.ErrStale, mailbox.ErrFrozen, mailbox.ErrRefused, mailbox.ErrClosed, mailbox.ErrRenumbered, mailbox.ErrNoFolder,
	} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}
