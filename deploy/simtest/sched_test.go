//go:build !race

package simtest

import (
	"cmp"
	"context"
	"fmt"
	"hash"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sync"
	"testing/synctest"
	"time"
)

// sched gives the turn: one goroutine at a time goes on from a seam, chosen by
// the seed. What happens between two seams is done by the one that has the turn;
// others at most wake up and come to their own next seam.
type sched struct {
	rng     *rand.Rand // used only by who has the turn
	start   time.Time
	arrived chan struct{} // holds one: somebody waits

	mu      sync.Mutex // protects what follows
	waiting []*turn
	over    bool

	picks int
	hash  hash.Hash64
	lines []string
	keep  bool // the trace's lines, not only their hash
}

// actor is the key of a context's name, where a process does several things at
// once that would be taken for each other.
type actor struct{}

func as(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, actor{}, name)
}

func named(ctx context.Context) string {
	name, _ := ctx.Value(actor{}).(string)
	return name
}

// turn is somebody who waits at a seam.
type turn struct {
	who, what string
	mine      chan struct{}
}

func newSched(seed uint64, keep bool) *sched {
	return &sched{rng: rand.New(rand.NewPCG(seed, 17)), start: time.Now(), arrived: make(chan struct{}, 1), hash: fnv.New64a(), keep: keep}
}

// step is a seam: it returns when the scheduler has picked it. When ctx ends
// first it returns its error, without the turn.
func (s *sched) step(ctx context.Context, who, what string) error {
	if name := named(ctx); name != "" && name != who {
		who += "/" + name
	}
	t := &turn{who, what, make(chan struct{})}
	if !s.enqueue(t) {
		return ctx.Err()
	}
	select {
	case <-t.mine:
		return nil
	case <-ctx.Done():
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waiting = slices.DeleteFunc(s.waiting, func(x *turn) bool { return x == t })
		return ctx.Err()
	}
}

func (s *sched) enqueue(t *turn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	s.waiting = append(s.waiting, t)
	select {
	case s.arrived <- struct{}{}:
	default:
	}
	return true
}

// run picks until done says so; it is asked when all is quiet.
func (s *sched) run(done func() bool) {
	for {
		synctest.Wait()
		if done() {
			return
		}
		t := s.pick()
		if t == nil {
			select { // time passes
			case <-s.arrived:
			case <-time.After(time.Second):
			}
			continue
		}
		s.note(t.who, t.what)
		close(t.mine)
	}
}

// pick takes one of those who wait. Some are late: a message that takes its
// time. nil: nobody waits, or a little time shall pass.
func (s *sched) pick() *turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 {
		return nil
	}
	// The order in which they came is the Go scheduler's; theirs is by name.
	slices.SortStableFunc(s.waiting, func(a, b *turn) int {
		return cmp.Or(cmp.Compare(a.who, b.who), cmp.Compare(a.what, b.what))
	})
	i := s.rng.IntN(len(s.waiting))
	t := s.waiting[i]
	if s.rng.IntN(12) == 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		late := time.Duration(1+s.rng.IntN(50)) * time.Millisecond
		if s.rng.IntN(10) == 0 {
			late = time.Duration(1+s.rng.IntN(6000)) * time.Millisecond
		}
		time.AfterFunc(late, func() {
			if !s.enqueue(t) {
				close(t.mine)
			}
		})
		select {
		case s.arrived <- struct{}{}:
		default:
		}
		return nil
	}
	s.waiting = slices.Delete(s.waiting, i, i+1)
	return t
}

// finish lets everybody go on who waits, from now on without turns.
func (s *sched) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	for _, t := range s.waiting {
		close(t.mine)
	}
	s.waiting = nil
}

// note writes the trace. Only who has the turn calls it, or the scheduler.
func (s *sched) note(who, what string) {
	s.picks++
	line := fmt.Sprintf("%9.3f %s: %s", time.Since(s.start).Seconds(), who, what)
	s.hash.Write([]byte(line))
	if s.keep {
		s.lines = append(s.lines, line)
	}
}

// chance is one in n. Once it is over, and everybody goes at once, nothing happens by chance.
func (s *sched) chance(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.over && s.rng.IntN(n) == 0
}

// upTo is a time below d; none once it is over.
func (s *sched) upTo(d time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return 0
	}
	return time.Duration(s.rng.Int64N(int64(d) + 1))
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
