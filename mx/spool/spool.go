// Package spool is the durable store of the mail that an mx has accepted and
// could not deliver yet.
//
// It owns its folder, exclusively, with what package entries keeps in it: an
// entry of the queue is a message that waits, one among the dead is for
// recipients who are gone.
//
// Promises:
//   - An entry is there wholly or not at all, and after Add returned it outlives
//     kill -9 and power loss.
//   - A recipient leaves an entry only when it was delivered, moved to dead/, or
//     dropped by the operator; that change is durable before it is reported. A
//     crash in between delivers or buries again; the delivery id makes the first
//     a no-op, and the second is one by itself.
//   - Nothing expires. Entries older than Options.HoldAfter wait for the
//     operator, because backends may have forgotten their delivery ids (I3).
//   - How often and why attempts failed is kept in memory only, so that a dead
//     backend costs no writes.
//
// Memory: an envelope per entry, and Options.MemoryBytes per open Draft.
// Safe for concurrent use. Only mx may use it.
package spool

import (
	"container/heap"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"waypost/director"
	"waypost/mx/spool/entries"
)

// Errors; test with errors.Is.
var (
	// ErrNotFound: no entry has this id.
	ErrNotFound = errors.New("no such spool entry")
	// ErrBusy: the entry is being delivered at this moment; try again.
	ErrBusy = errors.New("the spool entry is being delivered")
	// ErrFull: the spool holds Options.MaxEntries.
	ErrFull = errors.New("the spool is full")
)

// Recipient is one mailbox that an entry is for.
type Recipient struct {
	User director.User `json:"user"`
	// Folder is the sub-address, or empty.
	Folder string `json:"folder,omitempty"`
	// Home is where it was last known to live; a hint for waking.
	Home director.BackendID `json:"home,omitempty"`
	// AccountCreated tells the person from a later one of the same name
	// (R12). Zero: not known.
	AccountCreated time.Time `json:"account_created,omitzero"`
	// Epoch is of the record by which it was accepted (R12). Zero: not known.
	Epoch director.Epoch `json:"epoch,omitempty"`
	// Refused, if set, is why this recipient must be called dead: its home
	// refused it for good, and the sender was not told.
	Refused string `json:"refused,omitempty"`
	// Error is what the last attempt said, or why it is dead.
	Error string `json:"error,omitempty"`
}

// Envelope is what is kept with a message.
type Envelope struct {
	Version int `json:"v"`
	// ID is the delivery id; it names the entry.
	ID         string      `json:"id"`
	Sender     string      `json:"sender"` // empty: the null reverse-path
	Recipients []Recipient `json:"recipients"`
	// Received is when the message was accepted.
	Received time.Time `json:"received"`
	Client   string    `json:"client"` // "ip:port"
	Helo     string    `json:"helo,omitempty"`
	EightBit bool      `json:"eight_bit,omitempty"`
	UTF8     bool      `json:"utf8,omitempty"`
	Size     int64     `json:"size"` // bytes of the message
}

const envelopeVersion = 1

// State says what becomes of an entry.
type State string

const (
	// Queued: it is tried again by itself.
	Queued State = "queued"
	// Held: too old; the operator retries or drops it.
	Held State = "held"
	// Dead: its recipients are gone; the operator decides.
	Dead State = "dead"
)

// Entry is an envelope and how it stands.
type Entry struct {
	Envelope
	State    State
	Attempts int       // since this process started
	Next     time.Time // of Queued ones
	Error    string    // of the last attempt
}

// Options of Open; zero values mean the defaults.
type Options struct {
	Log *slog.Logger
	// MemoryBytes is how much of a message stays in memory before its draft
	// becomes a file. Default 256 KiB.
	MemoryBytes int
	// MaxEntries bounds the spool. Default 1,000,000.
	MaxEntries int
	// Concurrency is how many entries are tried at once. Default 16.
	Concurrency int
	// MinBackoff and MaxBackoff bound the wait between attempts, which doubles.
	// Defaults 5 s and 5 min.
	MinBackoff, MaxBackoff time.Duration
	// WakeJitter spreads what one event wakes. Default 1 s.
	WakeJitter time.Duration
	// HoldAfter is the age at which entries wait for the operator. Default 30
	// days, for as long as backends remember delivery ids.
	HoldAfter time.Duration
	// Random gives a number below n, to spread attempts; nil: math/rand's.
	Random func(n int64) int64
}

func (o *Options) defaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	num := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	if o.Random == nil {
		o.Random = rand.Int64N
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	num(&o.MemoryBytes, 256<<10)
	num(&o.MaxEntries, 1_000_000)
	num(&o.Concurrency, 16)
	def(&o.MinBackoff, 5*time.Second)
	def(&o.MaxBackoff, 5*time.Minute)
	def(&o.WakeJitter, time.Second)
	def(&o.HoldAfter, 30*24*time.Hour)
}

// Spool is an open spool. Close it.
type Spool struct {
	store *entries.Store
	o     Options
	kick  chan struct{} // holds one: the schedule changed

	mu     sync.Mutex // protects what follows; never held during disk writes
	queue  map[string]*item
	dead   map[string]*item
	byUser map[director.User]map[*item]bool // of queue
	due    schedule
	adding int // Adds under way, counted against MaxEntries
}

// item is an entry in memory. Its fields belong to Spool.mu, but while running
// is set the envelope is replaced only by whoever set it.
type item struct {
	env      Envelope
	attempts int
	lastErr  string
	next     time.Time
	index    int // in due; -1: not there
	running  bool
	// woken while running: try again at once if something is left.
	woken bool
	// dirty: the envelope on disk still names recipients who are done with.
	dirty bool
	// forced by the operator: be tried although held.
	forced bool
}

// Open takes the folder, which it makes if it is absent, brings it in order
// after a crash, and reads the envelopes. ErrLocked of durable: another
// process has it.
func Open(dir string, o Options) (*Spool, error) {
	o.defaults()
	store, err := entries.Open(dir, o.MemoryBytes, o.Log)
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	s := &Spool{
		store: store, o: o, kick: make(chan struct{}, 1),
		queue: map[string]*item{}, dead: map[string]*item{}, byUser: map[director.User]map[*item]bool{},
	}
	if err := s.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("open spool %s: %w", dir, err), store.Close())
	}
	return s, nil
}

// Close gives the folder back. Run must have returned.
func (s *Spool) Close() error { return s.store.Close() }

// Add makes an entry of a draft and its envelope, to be tried after delay.
// When it returns nil the entry is durable; with an error there is none, but a
// crash may yet show it: the sender was told nothing, so that is no harm. The
// draft is used up in either case. An entry with that id must not exist.
func (s *Spool) Add(d *Draft, e Envelope, delay time.Duration) error {
	r, err := s.Reserve(d, e)
	if err != nil {
		return err
	}
	return r.Commit(nil, delay)
}

// Reservation is an entry that is durable and not tried yet, since more may be
// added to it or all of it be taken back. It must end by Commit or Cancel; a
// crash before leaves the entry.
type Reservation struct {
	s *Spool
	e Envelope
}

// Reserve makes an entry of a draft and its envelope, as Add does, for Commit
// or Cancel to decide. It is listed from Commit on.
func (s *Spool) Reserve(d *Draft, e Envelope) (*Reservation, error) {
	defer d.Discard()
	e.Version, e.Size = envelopeVersion, d.Size()
	if !entries.ValidID(e.ID) || len(e.Recipients) == 0 {
		return nil, fmt.Errorf("spool %q: not a usable envelope", e.ID)
	}
	s.mu.Lock()
	full := len(s.queue)+s.adding >= s.o.MaxEntries
	if !full {
		s.adding++
	}
	s.mu.Unlock()
	if full {
		return nil, fmt.Errorf("spool %s: %w", e.ID, ErrFull)
	}
	if err := s.store.Put(d, e.ID, e); err != nil {
		s.unreserve()
		return nil, fmt.Errorf("spool %s: %w", e.ID, err)
	}
	return &Reservation{s, e}, nil
}

func (s *Spool) unreserve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adding--
}

// Commit adds more recipients, durably, and has the entry tried after delay.
// With an error there is no entry, as after Cancel.
func (r *Reservation) Commit(more []Recipient, delay time.Duration) error {
	if len(more) > 0 {
		e := r.e
		e.Recipients = slices.Concat(r.e.Recipients, more)
		if err := r.s.store.Write(entries.Queue, e.ID, e); err != nil {
			return errors.Join(fmt.Errorf("spool %s: %w", e.ID, err), r.Cancel())
		}
		r.e = e
	}
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.s.adding--
	r.s.insert(&item{env: r.e, index: -1}, delay)
	return nil
}

// Cancel takes the entry back. With an error it may be there again after the
// next Open.
func (r *Reservation) Cancel() error {
	defer r.s.unreserve()
	if err := r.s.store.Remove(entries.Queue, r.e.ID); err != nil {
		return fmt.Errorf("take back spool entry %s: %w", r.e.ID, err)
	}
	return nil
}

// insert puts an item into the queue's indexes; mu is held.
func (s *Spool) insert(it *item, delay time.Duration) {
	s.queue[it.env.ID] = it
	s.indexUsers(it, nil)
	it.next = time.Now().Add(delay)
	heap.Push(&s.due, it)
	s.kicked()
}

// indexUsers brings byUser from before to what it.env has; mu is held.
func (s *Spool) indexUsers(it *item, before []Recipient) {
	for _, r := range before {
		delete(s.byUser[r.User], it)
		if len(s.byUser[r.User]) == 0 {
			delete(s.byUser, r.User)
		}
	}
	for _, r := range it.env.Recipients {
		if s.byUser[r.User] == nil {
			s.byUser[r.User] = map[*item]bool{}
		}
		s.byUser[r.User][it] = true
	}
}

func (s *Spool) kicked() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// List gives all entries, the oldest first.
func (s *Spool) List() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var out []Entry
	for _, it := range s.queue {
		e := s.entry(it, now)
		out = append(out, e)
	}
	for _, it := range s.dead {
		e := s.entry(it, now)
		e.State = Dead
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return cmpOr(a.Received.Compare(b.Received), strings.Compare(a.ID, b.ID), strings.Compare(string(a.State), string(b.State)))
	})
	return out
}

func cmpOr(vs ...int) int {
	for _, v := range vs {
		if v != 0 {
			return v
		}
	}
	return 0
}

func (s *Spool) entry(it *item, now time.Time) Entry {
	e := Entry{Envelope: it.env, State: Queued, Attempts: it.attempts, Next: it.next, Error: it.lastErr}
	e.Recipients = slices.Clone(it.env.Recipients)
	if s.held(it, now) {
		e.State, e.Next = Held, time.Time{}
	}
	return e
}

func (s *Spool) held(it *item, now time.Time) bool {
	return !it.forced && now.Sub(it.env.Received) > s.o.HoldAfter
}

// Stats are counts for metrics.
type Stats struct {
	Queued, Held, Dead int
	// Oldest is when the oldest entry of the queue was accepted; zero: none.
	Oldest time.Time
}

// Stats counts the entries.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	st := Stats{Dead: len(s.dead)}
	for _, it := range s.queue {
		if s.held(it, now) {
			st.Held++
		} else {
			st.Queued++
		}
		if st.Oldest.IsZero() || it.env.Received.Before(st.Oldest) {
			st.Oldest = it.env.Received
		}
	}
	return st
}
