package fulltext

import (
	"context"
	"sync"
	"time"

	"waypost/backend/mailbox"
	"waypost/director"
)

const (
	// maxWaiting bounds the queue. What does not fit in is done at the next search.
	maxWaiting = 10_000
	// deliveriesTogether is after how many deliveries into a folder they are taken in.
	deliveriesTogether = 64
	// atOnce is how many messages are looked for at a time.
	atOnce = 4096
	// minRest is the least pause of the worker after a batch.
	minRest = 20 * time.Millisecond
)

// task is a folder that has messages to take in.
type task struct {
	user   director.User
	folder string
}

// queue has each task once.
type queue struct {
	mu      sync.Mutex
	order   []task
	waiting map[task]bool
	// fresh counts deliveries since a folder was last put in.
	fresh map[task]int
	wake  chan struct{}
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.order)
}

func (q *queue) put(t task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.add(t)
}

func (q *queue) add(t task) {
	if q.waiting[t] || len(q.order) >= maxWaiting {
		return
	}
	if q.waiting == nil {
		q.waiting = make(map[task]bool)
	}
	q.waiting[t] = true
	q.order = append(q.order, t)
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) take() (t task, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return t, false
	}
	t, q.order = q.order[0], q.order[1:]
	delete(q.waiting, t)
	return t, true
}

// Delivered counts a message that came into a folder. Once there are some, Run takes
// them in.
func (s *Store) Delivered(user director.User, folder string) {
	q, t := &s.queue, task{user, folder}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.fresh == nil || len(q.fresh) >= maxWaiting {
		q.fresh = make(map[task]int) // those forgotten are found by the next search
	}
	if q.fresh[t]++; q.fresh[t] >= deliveriesTogether {
		delete(q.fresh, t)
		q.add(t)
	}
}

// Opener opens a user's mailbox for Run; closing the Box ends the Lease, too. Without an error
// the Lease may be nil: the user has no index.
type Opener func(ctx context.Context, user director.User) (mailbox.Box, *Lease, error)

// Run takes messages in, until ctx ends.
func (s *Store) Run(ctx context.Context, open Opener) {
	idle := time.NewTicker(idleTime / 4)
	defer idle.Stop()
	for ctx.Err() == nil {
		t, ok := s.queue.take()
		if ok {
			s.do(ctx, open, t)
			continue
		}
		select {
		case <-s.queue.wake:
		case <-idle.C:
			s.closeIdle(time.Now().Add(-idleTime))
		case <-ctx.Done():
		}
	}
}

// do takes in what a folder has. A user or folder that is gone has nothing.
func (s *Store) do(ctx context.Context, open Opener, t task) {
	box, l, err := open(ctx, t.user)
	if err != nil {
		return // the user is elsewhere, or the next search tries again
	}
	defer box.Close()
	if l == nil {
		return
	}
	ix, err := l.index()
	if err != nil {
		return
	}
	if all, f, err := peek(box, t.folder); err == nil {
		s.takeAll(ctx, ix, f, all)
	}
	began := time.Now()
	err = ix.compact()
	if err == nil {
		err = s.sweepIfDue(ctx, box, ix)
	}
	if err != nil && !isClosed(err) {
		s.o.Log.Warn("text index not tidied up", "user", t.user, "error", err)
	}
	rest(ctx, time.Since(began))
}

// peek looks at a folder without showing its messages to anybody.
func peek(box mailbox.Box, folder string) (mailbox.Messages, mailbox.Folder, error) {
	f, err := box.Folder(folder)
	if err != nil {
		return mailbox.Messages{}, nil, err
	}
	snap, err := f.Peek()
	return snap.Messages, f, err
}

func (s *Store) takeAll(ctx context.Context, ix *userIndex, f mailbox.Folder, all mailbox.Messages) {
	for ctx.Err() == nil {
		some, _ := ix.missing(all, atOnce)
		had := ix.size()
		for len(some) > 0 && ctx.Err() == nil {
			n := min(len(some), batchMessages)
			began := time.Now()
			s.takeIn(ctx, ix, f, some[:n], time.Time{})
			some = some[n:]
			rest(ctx, time.Since(began))
		}
		if ix.size() <= had || ix.compact() != nil {
			return // the rest cannot be read, or not now
		}
	}
}

// rest lets others have the machine for as long as the worker has had it.
func rest(ctx context.Context, worked time.Duration) {
	t := time.NewTimer(max(worked, minRest))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// sweepIfDue drops what is in no folder any more, if that is much.
func (s *Store) sweepIfDue(ctx context.Context, box mailbox.Box, ix *userIndex) error {
	usage, err := box.Usage()
	if err != nil {
		return err
	}
	if int64(ix.size()) <= usage.Messages+usage.Messages/4+1000 {
		return nil
	}
	return s.sweep(ctx, box, ix)
}

func (s *Store) sweep(ctx context.Context, box mailbox.Box, ix *userIndex) error {
	folders, err := box.Folders()
	if err != nil {
		return err
	}
	live := make(map[key]struct{})
	for _, info := range folders {
		if info.NoSelect {
			continue
		}
		all, _, err := peek(box, info.Name)
		if err != nil {
			return err
		}
		for _, m := range all.All() {
			live[keyOf(m)] = struct{}{}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return ix.sweep(live)
}
