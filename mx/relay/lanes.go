package relay

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// laneID is one of the two lines that entries wait in.
type laneID int

const (
	inward  laneID = iota // new recipients: what do they mean?
	outward               // for the smarthost
	laneCount
)

// inwardWorkers is how many entries are looked up at once.
const inwardWorkers = 4

// lane is the entries that wait, by time; its heap belongs to Queue.mu.
type lane struct {
	workers int
	kick    chan struct{} // holds one: the heap changed
	due     schedule
}

func newLane(workers int) *lane { return &lane{workers: workers, kick: make(chan struct{}, 1)} }

func (l *lane) kicked() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// schedule is a heap by time.
type schedule []*item

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].next.Before(s[j].next) }
func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].index, s[j].index = i, j
}
func (s *schedule) Push(x any) {
	it := x.(*item)
	it.index = len(*s)
	*s = append(*s, it)
}
func (s *schedule) Pop() any {
	old := *s
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*s = old[:len(old)-1]
	it.index = -1
	return it
}

// insert puts a new item into its lane; mu is held, or nobody else is there yet.
func (q *Queue) insert(it *item, delay time.Duration) {
	q.queue[it.env.ID] = it
	it.next, it.lane = time.Now().Add(delay), it.env.lane()
	q.push(it)
}

func (q *Queue) push(it *item) {
	l := q.lanes[it.lane]
	heap.Push(&l.due, it)
	l.kicked()
}

// lane is where the entry waits: what is not known is found out first.
func (e Envelope) lane() laneID {
	for _, r := range e.Recipients {
		if !r.Outside {
			return inward
		}
	}
	return outward
}

func (e Envelope) anyOutside() bool {
	for _, r := range e.Recipients {
		if r.Outside {
			return true
		}
	}
	return false
}

// Run works on the queue until ctx ends and all attempts have returned. It may
// be called once.
func (q *Queue) Run(ctx context.Context) {
	var running sync.WaitGroup
	for id := range laneCount {
		running.Go(func() { q.runLane(ctx, id) })
	}
	running.Wait()
}

func (q *Queue) runLane(ctx context.Context, id laneID) {
	l := q.lanes[id]
	var running sync.WaitGroup
	slots := make(chan struct{}, l.workers)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		wait := q.startDue(l, func(it *item) bool {
			select {
			case slots <- struct{}{}:
			default:
				return false
			}
			running.Go(func() {
				q.attempt(ctx, it, id)
				<-slots
				l.kicked()
			})
			return true
		})
		timer.Reset(wait)
		select {
		case <-l.kick:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	running.Wait()
}

// startDue starts what is due as long as start takes it, and tells how long
// there is nothing to do.
func (q *Queue) startDue(l *lane, start func(*item) bool) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for len(l.due) > 0 {
		it := l.due[0]
		if wait := it.next.Sub(now); wait > 0 {
			return wait
		}
		if !start(it) {
			return time.Hour // the end of any attempt kicks
		}
		heap.Pop(&l.due)
		it.running, it.forced = true, false
	}
	return time.Hour
}

// steps are the waits between attempts; the last one repeats.
var steps = [...]time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour}

// backoff is the wait after so many attempts, give or take a tenth.
func backoff(attempts int) time.Duration {
	d := steps[min(max(attempts, 1), len(steps))-1]
	return d*9/10 + rand.N(d/5+1)
}

// attemptsBy guesses how often an entry of an age was tried, for a process that
// does not know.
func attemptsBy(age time.Duration) int {
	n := 0
	for _, s := range steps {
		if age -= s; age < 0 {
			return n
		}
		n++
	}
	return n
}
