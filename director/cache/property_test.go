package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/director"
	"waypost/director/memory"
)

// TestNeverReturnsAnOlderState is promise 1: while writers move users about,
// the watch is paused, broken and compacted away, the store goes down and the
// directory is restored, no call returns an older state than a call that had
// ended before it began.
func TestNeverReturnsAnOlderState(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, rapid.IntRange(1, 4).Draw(rt, "users"))
		defer w.close()
		var wg sync.WaitGroup
		for i := range rapid.IntRange(1, 3).Draw(rt, "writers") {
			seed := rapid.Int64().Draw(rt, fmt.Sprint("writer", i))
			wg.Go(func() { w.write(rand.New(rand.NewSource(seed))) })
		}
		for i := range rapid.IntRange(1, 4).Draw(rt, "readers") {
			seed := rapid.Int64().Draw(rt, fmt.Sprint("reader", i))
			wg.Go(func() { w.read(rand.New(rand.NewSource(seed))) })
		}
		faults := rapid.SliceOfN(rapid.SampledFrom([]string{"pause", "resume", "break", "compact", "down", "up", "restore", "pass"}), 0, 12).Draw(rt, "faults")
		for _, fault := range faults {
			w.fault(fault)
		}
		wg.Wait()
		w.fault("up")
		w.fault("resume")
		w.converge()
		for _, e := range w.errors() {
			rt.Error(e)
		}
	})
}

// world is one run of the property. Versions make eras comparable: an era's
// name is its number, and the version of a record is era<<32 + epoch.
type world struct {
	t     *testing.T
	ctx   context.Context
	stop  func()
	store *memory.Store
	c     *Client
	users []director.User
	seen  []atomic.Uint64 // highest version returned per user

	mu   sync.Mutex
	errs []string
}

func newWorld(t *testing.T, users int) *world {
	w := &world{t: t, store: memory.New(), seen: make([]atomic.Uint64, users)}
	w.ctx, w.stop = context.WithTimeout(context.Background(), patience)
	d := director.New(w.store)
	must(t, d.Init(w.ctx, func() string { return "1" }))
	must(t, d.CreateDomain(w.ctx, "example.test", time.Unix(1, 0)))
	for i := range users {
		u := director.User(fmt.Sprintf("u%d@example.test", i))
		w.users = append(w.users, u)
		must(t, d.CreateUser(w.ctx, u, director.Record{Home: home(1), Epoch: 1, State: director.Active}, director.Account{}))
	}
	c, err := Open(w.ctx, Options{Store: w.store})
	must(t, err)
	w.c = c
	return w
}

func (w *world) close() {
	must(w.t, w.c.Close())
	must(w.t, w.store.Close())
	w.stop()
}

func (w *world) fail(format string, a ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, fmt.Sprintf(format, a...))
}

func (w *world) errors() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.errs
}

// home carries the era, so that a record's version can be told from itself.
func home(era uint64) director.BackendID { return director.BackendID(fmt.Sprintf("e%d", era)) }

func version(r director.Record) uint64 {
	var era uint64
	_, _ = fmt.Sscanf(string(r.Home), "e%d", &era)
	return era<<32 + uint64(r.Epoch)
}

// write makes transitions that keep the home: busy and back.
func (w *world) write(rnd *rand.Rand) {
	for range 60 {
		u := w.users[rnd.Intn(len(w.users))]
		err := rewrite(w.ctx, w.store, u, func(r director.Record) (director.Record, error) {
			if r.State == director.Busy {
				return r.Rollback()
			}
			return r.MarkBusy("other")
		})
		if err != nil && !errors.Is(err, director.ErrUnavailable) {
			w.fail("write: %v", err)
		}
	}
}

func (w *world) read(rnd *rand.Rand) {
	for range 200 {
		i := rnd.Intn(len(w.users))
		before := w.seen[i].Load()
		var r director.Record
		known := true
		switch rnd.Intn(5) {
		case 0:
			var err error
			if r, err = w.c.Fresh(w.ctx, w.users[i]); err != nil {
				known = false
				if !errors.Is(err, director.ErrUnavailable) {
					w.fail("fresh: %v", err)
				}
			}
		case 1:
			w.c.Users(func(u director.User, rec director.Record) bool {
				if u == w.users[i] {
					w.check(i, before, rec, "Users")
				}
				return true
			})
			continue
		default:
			r, known, _ = w.c.Location(w.users[i])
		}
		if known {
			w.check(i, before, r, "Location or Fresh")
		}
	}
}

// check compares what a call returned with what others had before it began.
func (w *world) check(i int, before uint64, r director.Record, call string) {
	v := version(r)
	if v < before {
		w.fail("%s: %s is %v (version %x) after version %x was returned", call, w.users[i], r, v, before)
	}
	for have := w.seen[i].Load(); v > have && !w.seen[i].CompareAndSwap(have, v); have = w.seen[i].Load() {
	}
}

func (w *world) fault(name string) {
	switch name {
	case "pause":
		w.store.PauseWatches(true)
	case "resume":
		w.store.PauseWatches(false)
	case "break":
		w.store.BreakWatches()
	case "compact":
		w.store.Compact()
	case "down":
		w.store.SetDown(true)
	case "up":
		w.store.SetDown(false)
	case "restore":
		w.restore()
	case "pass":
		_, _ = w.c.Fresh(w.ctx, w.users[0]) // others run meanwhile
	}
}

// restore sets the next era and gives every user an epoch that may be lower.
func (w *world) restore() {
	e, err := w.store.Get(w.ctx, director.KeyEra)
	if err != nil {
		return // it is down
	}
	var era uint64
	_, _ = fmt.Sscan(string(e.Value), &era)
	era++
	ops := []director.Op{{Key: director.KeyEra, Value: fmt.Append(nil, era)}}
	for _, u := range w.users {
		r := director.Record{Home: home(era), Epoch: 1, State: director.Active}
		ops = append(ops, director.Op{Key: director.LocationKey(u), Value: r.Encode()})
	}
	_, _, _ = w.store.Commit(w.ctx, nil, ops)
}

// converge waits until the memory has what the store has.
func (w *world) converge() {
	for _, u := range w.users {
		e, err := w.store.Get(w.ctx, director.LocationKey(u))
		must(w.t, err)
		want, err := director.DecodeRecord(e.Value)
		must(w.t, err)
		changed := make(chan struct{}, 1)
		cancel := w.c.Subscribe(func(director.Change) {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		for {
			if r, known, _ := w.c.Location(u); known && r == want {
				break
			}
			select {
			case <-changed:
			case <-w.ctx.Done():
				w.t.Fatalf("the memory never has %s at %v", u, want)
			}
		}
		cancel()
	}
}
