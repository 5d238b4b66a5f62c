package simtest

import (
	"cmp"
	"context"
	"fmt"
	"hash"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
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
	// from is where in the code it waits: two goroutines of one process that ask for
	// the same at one moment are told apart by it.
	from []uintptr
	// void: nobody waits any more. prompt: it is never late.
	void, prompt bool
}

// compare orders those who wait, by what is the same each time.
func (t *turn) compare(o *turn) int {
	if c := cmp.Or(cmp.Compare(t.who, o.who), cmp.Compare(t.what, o.what)); c != 0 {
		return c
	}
	return cmp.Compare(t.place(), o.place())
}

// place names the calls on the way to the seam, the innermost first.
func (t *turn) place() string {
	var text strings.Builder
	for frames := runtime.CallersFrames(t.from); ; {
		f, more := frames.Next()
		fmt.Fprintf(&text, "%s:%d ", f.Function, f.Line)
		if !more {
			return text.String()
		}
	}
}

func newSched(seed uint64, keep bool) *sched {
	return &sched{rng: rand.New(rand.NewPCG(seed, 17)), start: time.Now(), arrived: make(chan struct{}, 1), hash: fnv.New64a(), keep: keep}
}

// step is a seam: it returns when the scheduler has picked it. Where ctx ends first
// it returns its error, and that in its turn, too: what the caller does then it does alone.
func (s *sched) step(ctx context.Context, who, what string) error {
	if name := named(ctx); name != "" && name != who {
		who += "/" + name
	}
	from := make([]uintptr, 32)
	from = from[:runtime.Callers(2, from)]
	if ctx.Err() == nil {
		t := &turn{who: who, what: what, mine: make(chan struct{}), from: from}
		s.enqueue(t)
		select {
		case <-t.mine:
			return nil
		case <-ctx.Done():
			s.void(t)
		}
	}
	t := &turn{who: who, what: what + " given up", mine: make(chan struct{}), from: from, prompt: true}
	s.enqueue(t)
	<-t.mine
	return ctx.Err()
}

func (s *sched) enqueue(t *turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.void {
		return
	}
	s.waiting = append(s.waiting, t)
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// void takes back what nobody waits for any more, now or when it was to come late.
func (s *sched) void(t *turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.void = true
	s.waiting = slices.DeleteFunc(s.waiting, func(x *turn) bool { return x == t })
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
	slices.SortStableFunc(s.waiting, (*turn).compare)
	i := s.rng.IntN(len(s.waiting))
	t := s.waiting[i]
	if !t.prompt && s.rng.IntN(12) == 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		late := time.Duration(1+s.rng.IntN(50)) * time.Millisecond
		if s.rng.IntN(10) == 0 {
			late = time.Duration(1+s.rng.IntN(6000)) * time.Millisecond
		}
		time.AfterFunc(late, func() { s.enqueue(t) })
		select {
		case s.arrived <- struct{}{}:
		default:
		}
		return nil
	}
	s.waiting = slices.Delete(s.waiting, i, i+1)
	return t
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

// chance is one in n.
func (s *sched) chance(n int) bool { return s.rng.IntN(n) == 0 }

// upTo is a time below d.
func (s *sched) upTo(d time.Duration) time.Duration { return time.Duration(s.rng.Int64N(int64(d) + 1)) }

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
