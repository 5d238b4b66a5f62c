package spool

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"waypost/director"
	"waypost/mx/spool/entries"
)

// Attempt is one try to deliver an entry. Its fields are the deliverer's.
type Attempt struct {
	Envelope Envelope
	Attempts int // tries before this one
	s        *Spool
}

// Open opens the message.
func (a Attempt) Open() (Message, error) {
	return a.s.store.Message(entries.Queue, a.Envelope.ID)
}

// Result is what became of an attempt. Recipients it does not name stay as
// they are.
type Result struct {
	// Done were delivered.
	Done []director.User
	// Dead are gone; the value says why.
	Dead map[director.User]string
	// Later stay; what is new of them.
	Later map[director.User]Later
	// Soon, above zero: try again after this time and do not count the attempt.
	Soon time.Duration
}

// Later is what an attempt learned of a recipient that stays.
type Later struct {
	Home  director.BackendID
	Error string
}

// Run delivers what is due by deliver, Options.Concurrency at once, until ctx
// ends and all attempts have returned. It may be called once.
func (s *Spool) Run(ctx context.Context, deliver func(context.Context, Attempt) Result) {
	var running sync.WaitGroup
	slots := make(chan struct{}, s.o.Concurrency)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		wait := s.startDue(func(it *item) bool {
			select {
			case slots <- struct{}{}:
			default:
				return false
			}
			running.Go(func() {
				s.attempt(ctx, it, deliver)
				<-slots
				s.kicked()
			})
			return true
		})
		timer.Reset(wait)
		select {
		case <-s.kick:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	running.Wait()
}

// startDue starts what is due as long as start takes it, and tells how long
// there is nothing to do.
func (s *Spool) startDue(start func(*item) bool) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for len(s.due) > 0 {
		it := s.due[0]
		if wait := it.next.Sub(now); wait > 0 {
			return wait
		}
		if s.held(it, now) {
			heap.Pop(&s.due)
			s.o.Log.Warn("spool entry is held for the operator", "delivery", it.env.ID, "received", it.env.Received)
			continue
		}
		if !start(it) {
			return time.Hour // the end of any attempt kicks
		}
		heap.Pop(&s.due)
		it.running, it.woken, it.forced = true, false, false
	}
	return time.Hour
}

func (s *Spool) attempt(ctx context.Context, it *item, deliver func(context.Context, Attempt) Result) {
	s.mu.Lock()
	a := Attempt{Envelope: it.env, Attempts: it.attempts, s: s}
	s.mu.Unlock()
	var res Result
	if len(a.Envelope.Recipients) > 0 {
		res = deliver(ctx, a)
	}
	next, dead := split(a.Envelope, res)
	next, err := s.settle(it, next, dead)
	if err != nil {
		s.o.Log.Error("spool entry cannot be changed", "delivery", next.ID, "err", err)
	}
	s.finish(it, next, res, err)
}

// split takes an envelope apart by a result. Neither half shares memory with e.
func split(e Envelope, res Result) (next, dead Envelope) {
	gone := make(map[director.User]bool, len(res.Done))
	for _, u := range res.Done {
		gone[u] = true
	}
	next, dead = e, e
	next.Recipients, dead.Recipients = nil, nil
	for _, r := range e.Recipients {
		if why, ok := res.Dead[r.User]; ok {
			r.Error, r.Refused = why, "" // revived by the operator it is delivered
			dead.Recipients = append(dead.Recipients, r)
			continue
		}
		if gone[r.User] {
			continue
		}
		if l, ok := res.Later[r.User]; ok {
			r.Error = l.Error
			if l.Home != "" {
				r.Home = l.Home
			}
		}
		next.Recipients = append(next.Recipients, r)
	}
	return next, dead
}

// settle makes a result durable: the dead first, so that a crash buries twice
// rather than never. It gives what stays: those who could not be buried too.
func (s *Spool) settle(it *item, next, dead Envelope) (Envelope, error) {
	if len(dead.Recipients) > 0 {
		merged, err := s.merge(entries.Queue, entries.Dead, dead, s.deadEnvelope(dead.ID))
		if err != nil {
			next.Recipients = append(next.Recipients, dead.Recipients...)
			return next, err
		}
		s.mu.Lock()
		s.dead[dead.ID] = &item{env: merged, index: -1}
		s.mu.Unlock()
	}
	switch {
	case len(next.Recipients) == 0:
		return next, s.store.Remove(entries.Queue, next.ID)
	case len(next.Recipients) == len(it.env.Recipients) && !it.dirty:
		return next, nil
	}
	return next, s.store.Write(entries.Queue, next.ID, next)
}

func (s *Spool) deadEnvelope(id string) *Envelope {
	s.mu.Lock()
	defer s.mu.Unlock()
	if it := s.dead[id]; it != nil {
		e := it.env
		return &e
	}
	return nil
}

// finish puts the item back into the schedule, or forgets it. After an error
// the disk may name recipients who are done with: memory knows better, and
// writes again at the next attempt, if need be for nobody.
func (s *Spool) finish(it *item, next Envelope, res Result, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := it.env.Recipients
	it.env, it.running, it.dirty = next, false, err != nil
	s.indexUsers(it, before)
	if len(next.Recipients) == 0 && err == nil {
		delete(s.queue, next.ID)
		return
	}
	if err != nil {
		it.lastErr = err.Error()
	}
	for _, r := range next.Recipients {
		if r.Error != "" {
			it.lastErr = r.Error
		}
	}
	wait := res.Soon
	if wait <= 0 {
		it.attempts++
		wait = s.backoff(it.attempts)
	}
	if it.woken {
		wait = min(wait, s.jitter())
	}
	it.next = time.Now().Add(wait)
	heap.Push(&s.due, it)
}

// backoff doubles from MinBackoff to MaxBackoff, give or take a fifth.
func (s *Spool) backoff(attempts int) time.Duration {
	d := s.o.MaxBackoff
	if shift := attempts - 1; shift < 20 && s.o.MinBackoff<<shift < d {
		d = s.o.MinBackoff << shift
	}
	return d*4/5 + time.Duration(s.o.Random(int64(d)*2/5+1))
}

func (s *Spool) jitter() time.Duration { return time.Duration(s.o.Random(int64(s.o.WakeJitter) + 1)) }

// Wake has a user's entries tried now: the directory says something new of it.
func (s *Spool) Wake(u director.User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for it := range s.byUser[u] {
		s.wake(it)
	}
}

// WakeHome has the entries tried that wait for a backend which is up again.
func (s *Spool) WakeHome(id director.BackendID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range s.queue {
		for _, r := range it.env.Recipients {
			if r.Home == id {
				s.wake(it)
				break
			}
		}
	}
}

// WakeAll has everything tried that is not held: anything may be different.
func (s *Spool) WakeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range s.queue {
		s.wake(it)
	}
}

// wake brings an item forward; mu is held. One that was held and popped stays.
func (s *Spool) wake(it *item) {
	it.woken = true
	next := time.Now().Add(s.jitter())
	if it.index < 0 || !next.Before(it.next) {
		return
	}
	it.next = next
	heap.Fix(&s.due, it.index)
	s.kicked()
}

// schedule is a heap by time, and by id where that is the same.
type schedule []*item

func (q schedule) Len() int { return len(q) }
func (q schedule) Less(i, j int) bool {
	if c := q[i].next.Compare(q[j].next); c != 0 {
		return c < 0
	}
	return q[i].env.ID < q[j].env.ID
}
func (q schedule) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *schedule) Push(x any) {
	it := x.(*item)
	it.index = len(*q)
	*q = append(*q, it)
}
func (q *schedule) Pop() any {
	old := *q
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	it.index = -1
	return it
}
