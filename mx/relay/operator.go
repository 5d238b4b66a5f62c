package relay

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"slices"
	"time"

	"waypost/director"
	"waypost/mx/spool/entries"
)

// State says what becomes of an entry.
type State string

const (
	// Queued: it is tried again by itself.
	Queued State = "queued"
	// Dead: its recipients have failed; the operator decides.
	Dead State = "dead"
)

// Entry is an envelope and how it stands.
type Entry struct {
	Envelope
	State    State
	Attempts int       // that counted, since this process started
	Next     time.Time // of Queued ones
	Error    string    // of the last attempt
}

// List gives all entries, the oldest first.
func (q *Queue) List() []Entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make([]Entry, 0, len(q.queue)+len(q.dead))
	for _, it := range q.queue {
		e := Entry{Envelope: it.env, State: Queued, Attempts: it.attempts, Next: it.next, Error: it.lastErr}
		e.Recipients = slices.Clone(it.env.Recipients)
		out = append(out, e)
	}
	for _, d := range q.dead {
		e := Entry{Envelope: *d, State: Dead, Error: d.Recipients[0].Error}
		e.Recipients = slices.Clone(d.Recipients)
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(a.Received.Compare(b.Received), cmp.Compare(a.ID, b.ID), cmp.Compare(a.State, b.State))
	})
	return out
}

// force makes an item due now; mu is held.
func (q *Queue) force(it *item) {
	if it.forced = true; it.running {
		return
	}
	it.next = time.Now()
	heap.Fix(&q.lanes[it.lane].due, it.index)
	q.lanes[it.lane].kicked()
}

// unschedule keeps an item to the caller; mu is held, and it is not running.
func (q *Queue) unschedule(it *item) {
	it.running = true
	if it.index >= 0 {
		heap.Remove(&q.lanes[it.lane].due, it.index)
	}
}

// RetryUser and RetryAll have what is queued tried now, and count it: while the
// smarthost's trouble holds everything back, by one that looks whether it is
// over. The dead stay where they are.
func (q *Queue) RetryUser(u director.User) int {
	return q.retryIf(func(it *item) bool { return it.env.User == u })
}

// RetryAll: see RetryUser.
func (q *Queue) RetryAll() int { return q.retryIf(func(*item) bool { return true }) }

func (q *Queue) retryIf(match func(*item) bool) (n int) {
	q.hosts.probe() // before anything is due
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, it := range q.queue {
		if match(it) {
			n++
			q.force(it)
		}
	}
	return n
}

// Drop removes an entry for good, in the queue and among the dead; its id stays
// known. ErrNotFound, ErrBusy.
func (q *Queue) Drop(id string) error {
	q.mu.Lock()
	it, dead := q.queue[id], q.dead[id]
	switch {
	case it == nil && dead == nil:
		q.mu.Unlock()
		return fmt.Errorf("drop %s: %w", id, ErrNotFound)
	case it != nil && it.running || q.changing[id]:
		q.mu.Unlock()
		return fmt.Errorf("drop %s: %w", id, ErrBusy)
	}
	q.changing[id] = true
	if it != nil {
		q.unschedule(it)
	}
	q.mu.Unlock()
	var queueErr, deadErr error
	if it != nil {
		queueErr = q.endOf(it.env)
	}
	if dead != nil && queueErr == nil {
		deadErr = q.store.Remove(entries.Dead, id)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.changing, id)
	if it != nil && queueErr == nil {
		delete(q.queue, id)
	} else if it != nil {
		it.running = false
		q.push(it)
	}
	if dead != nil && queueErr == nil && deadErr == nil {
		delete(q.dead, id)
	}
	if err := errors.Join(queueErr, deadErr); err != nil {
		return fmt.Errorf("drop %s: %w", id, err)
	}
	return nil
}

// Message opens the message of an entry, for the operator to read.
func (q *Queue) Message(id string) (entries.Message, error) {
	q.mu.Lock()
	queued, dead := q.queue[id] != nil, q.dead[id] != nil
	q.mu.Unlock()
	switch {
	case queued:
		return q.store.Message(entries.Queue, id)
	case dead:
		return q.store.Message(entries.Dead, id)
	}
	return nil, fmt.Errorf("entry %s: %w", id, ErrNotFound)
}

// Stats are counts for metrics.
type Stats struct {
	Queued, Dead int
	// Oldest is when the oldest entry of the queue was accepted; zero: none.
	Oldest time.Time
}

// Stats counts the entries.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	st := Stats{Queued: len(q.queue), Dead: len(q.dead)}
	for _, it := range q.queue {
		if st.Oldest.IsZero() || it.env.Received.Before(st.Oldest) {
			st.Oldest = it.env.Received
		}
	}
	return st
}
