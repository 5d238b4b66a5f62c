package spool

import (
	"container/heap"
	"fmt"
	"slices"
	"time"

	"waypost/director"
	"waypost/mx/spool/entries"
)

// Retry has one entry tried now, held or dead ones too. ErrNotFound, ErrBusy.
func (s *Spool) Retry(id string) error {
	s.mu.Lock()
	dead, queued := s.dead[id], s.queue[id]
	if dead == nil && queued == nil {
		s.mu.Unlock()
		return fmt.Errorf("retry %s: %w", id, ErrNotFound)
	}
	if queued != nil && queued.running || dead != nil && dead.running {
		s.mu.Unlock()
		return fmt.Errorf("retry %s: %w", id, ErrBusy)
	}
	if dead == nil {
		s.force(queued)
		s.mu.Unlock()
		return nil
	}
	s.reserve(dead, queued)
	s.mu.Unlock()
	return s.revive(dead, queued)
}

// reserve keeps items to the caller; mu is held.
func (s *Spool) reserve(items ...*item) {
	for _, it := range items {
		if it == nil {
			continue
		}
		it.running = true
		if it.index >= 0 {
			heap.Remove(&s.due, it.index)
		}
	}
}

// revive brings a dead entry back into the queue: there first, so that a crash
// leaves both rather than none.
func (s *Spool) revive(dead, queued *item) error {
	var have *Envelope
	if queued != nil {
		have = &queued.env
	}
	merged, err := s.merge(entries.Dead, entries.Queue, dead.env, have)
	var rmErr error
	if err == nil {
		rmErr = s.store.Remove(entries.Dead, dead.env.ID)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dead.running = false
	if err == nil && rmErr == nil {
		delete(s.dead, dead.env.ID)
	}
	switch {
	case queued != nil:
		queued.running = false
		before := queued.env.Recipients
		if err == nil {
			queued.env = merged
			s.indexUsers(queued, before)
		}
		heap.Push(&s.due, queued)
		s.force(queued)
	case err == nil:
		it := &item{env: merged, index: -1}
		s.insert(it, 0)
		s.force(it)
	}
	if err == nil {
		err = rmErr
	}
	if err != nil {
		return fmt.Errorf("retry %s: %w", dead.env.ID, err)
	}
	return nil
}

// force makes an item due now, held or not; mu is held.
func (s *Spool) force(it *item) {
	it.forced, it.next = true, time.Now()
	if it.index < 0 {
		heap.Push(&s.due, it)
	} else {
		heap.Fix(&s.due, it.index)
	}
	s.kicked()
}

// RetryUser and RetryAll have what is queued or held tried now, and count it.
// The dead stay where they are.
func (s *Spool) RetryUser(u director.User) int {
	return s.retryIf(func(it *item) bool {
		return slices.ContainsFunc(it.env.Recipients, func(r Recipient) bool { return r.User == u })
	})
}

// RetryAll: see RetryUser.
func (s *Spool) RetryAll() int { return s.retryIf(func(*item) bool { return true }) }

func (s *Spool) retryIf(match func(*item) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, it := range s.queue {
		if !match(it) {
			continue
		}
		n++
		if it.running {
			it.woken = true
			continue
		}
		s.force(it)
	}
	return n
}

// Drop removes an entry for good, in the queue and among the dead.
// ErrNotFound, ErrBusy.
func (s *Spool) Drop(id string) error {
	s.mu.Lock()
	dead, queued := s.dead[id], s.queue[id]
	switch {
	case dead == nil && queued == nil:
		s.mu.Unlock()
		return fmt.Errorf("drop %s: %w", id, ErrNotFound)
	case queued != nil && queued.running || dead != nil && dead.running:
		s.mu.Unlock()
		return fmt.Errorf("drop %s: %w", id, ErrBusy)
	}
	s.reserve(dead, queued)
	s.mu.Unlock()
	if queued != nil {
		if err := s.drop(entries.Queue, queued); err != nil {
			s.release(dead)
			return err
		}
	}
	if dead != nil {
		return s.drop(entries.Dead, dead)
	}
	return nil
}

// release gives back a dead item that was reserved.
func (s *Spool) release(dead *item) {
	if dead == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dead.running = false
}

func (s *Spool) drop(dir entries.Folder, it *item) error {
	err := s.store.Remove(dir, it.env.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	it.running = false
	switch {
	case err != nil && dir == entries.Queue:
		heap.Push(&s.due, it)
	case err != nil:
	case dir == entries.Queue:
		delete(s.queue, it.env.ID)
		before := it.env.Recipients
		it.env.Recipients = nil
		s.indexUsers(it, before)
	default:
		delete(s.dead, it.env.ID)
	}
	if err != nil {
		return fmt.Errorf("drop %s: %w", it.env.ID, err)
	}
	return nil
}

// Message opens the message of an entry, for the operator to read.
func (s *Spool) Message(id string) (Message, error) {
	s.mu.Lock()
	var dir entries.Folder
	if s.queue[id] != nil {
		dir = entries.Queue
	} else if s.dead[id] != nil {
		dir = entries.Dead
	}
	s.mu.Unlock()
	if dir == "" {
		return nil, fmt.Errorf("entry %s: %w", id, ErrNotFound)
	}
	return s.store.Message(dir, id)
}
