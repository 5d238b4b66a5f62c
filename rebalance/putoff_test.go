package rebalance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/director"
)

// impatient is a mover whose budget is soon over.
func impatient(id string) Config {
	return Config{ID: id, BusyBudget: 300 * time.Millisecond, RetryWait: 20 * time.Millisecond, CopyPatience: 5 * time.Second, MaxTries: 3}
}

// TestPutOff: a move that is over its budget rolls back by itself and is tried again:
// the same move, at the record's epoch of then. What was taken meanwhile is kept.
func TestPutOff(t *testing.T) {
	w, err := newWorld("b1", "b2")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	var seals atomic.Int32
	acked := []string{"first"}
	w.nodes["b2"].onSeal = func() error {
		if seals.Add(1) < 4 { // some within the first try's budget
			return errDown
		}
		return nil
	}
	w.nodes["b1"].onFreeze = func() error {
		if seals.Load() > 0 && seals.Load() < 3 {
			return errDown
		}
		return nil
	}
	w.plan(t, "b2", "m1")
	w.moverWith(t, impatient("r1"), new(atomic.Int32), 0)
	m, r := w.wait(t, "the first try is rolled back", func(m director.Move, r director.Record) bool {
		return m.Tries == 1 || m.Phase.Finished()
	})
	if m.ID != "m1" || m.Phase.Finished() || !strings.Contains(m.Waiting, "try 2") || m.NotBefore.IsZero() || m.Receipt != "" {
		t.Errorf("journal %+v, record %s", m, r)
	}
	seals.Store(3)
	if w.deliver(ctx, "between") {
		acked = append(acked, "between")
	}
	m, r = w.wait(t, "the move", finished)
	if m.ID != "m1" || m.Phase != director.PhaseDone || r.Home != "b2" || m.Epoch+2 != r.Epoch || m.Waiting != "" {
		t.Errorf("journal %+v, record %s", m, r)
	}
	if m.BusyMS < 300 {
		t.Errorf("busy for %d ms, although a try took the whole budget", m.BusyMS)
	}
	w.check(t, acked)
}

// TestPutOffForGood: after its last try a move is undone, with the reason.
func TestPutOffForGood(t *testing.T) {
	w, err := newWorld("b1", "b2")
	if err != nil {
		t.Fatal(err)
	}
	w.nodes["b2"].onSeal = func() error { return errDown }
	w.plan(t, "b2", "m1")
	w.moverWith(t, impatient("r1"), new(atomic.Int32), 0)
	m, r := w.wait(t, "the end", finished)
	if m.Phase != director.PhaseUndone || m.Tries != 2 || !strings.Contains(m.Reason, "the last of 3 tries") || r.Home != "b1" {
		t.Errorf("journal %+v, record %s", m, r)
	}
	w.check(t, []string{"first"})
}

// TestPutOffByAnother: whatever point a mover dies at on the way to the next try,
// another one goes on with it.
func TestPutOffByAnother(t *testing.T) {
	for at := int32(1); at <= 16; at++ {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			t.Parallel()
			w, err := newWorld("b1", "b2")
			if err != nil {
				t.Fatal(err)
			}
			// The first seal takes the whole budget, the others are well.
			var seals atomic.Int32
			begun := make(chan struct{})
			w.nodes["b2"].onSeal = func() error {
				if seals.Add(1) == 1 {
					close(begun)
					timer := time.NewTimer(400 * time.Millisecond)
					defer timer.Stop()
					<-timer.C
					return errDown
				}
				return nil
			}
			cfg, n := impatient("r1"), new(atomic.Int32)
			cfg.LeaseTTL = 200 * time.Millisecond
			w.plan(t, "b2", "m1")
			w.moverWith(t, cfg, n, at)
			second := cfg
			second.ID = "r2"
			w.moverWith(t, second, n, at)
			m, r := w.wait(t, "the end", finished)
			if m.Phase != director.PhaseDone || r.Home != "b2" {
				t.Errorf("journal %+v, record %s", m, r)
			}
			w.check(t, []string{"first"})
		})
	}
}

// TestTakeOver: two movers run; one is killed at each point that a move comes to. The
// other takes over as soon as the lease is lost, and the user is not busy for longer
// than that takes.
func TestTakeOver(t *testing.T) {
	w, err := newWorld("b1", "b2")
	if err != nil {
		t.Fatal(err)
	}
	_, points := w.mover(t, "r1", 0)
	w.plan(t, "b2", "m0")
	w.wait(t, "move", finished)
	all := points.Load()
	const lease = 300 * time.Millisecond
	for at := int32(1); at <= all; at++ {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			t.Parallel()
			w, err := newWorld("b1", "b2")
			if err != nil {
				t.Fatal(err)
			}
			n := new(atomic.Int32)
			cfg := Config{ID: "r1", LeaseTTL: lease}
			one, _ := w.moverWith(t, cfg, n, at)
			cfg.ID = "r2"
			two, _ := w.moverWith(t, cfg, n, at)
			w.plan(t, "b2", "m1")
			select {
			case <-one:
			case <-two:
			case <-time.After(10 * time.Second):
				t.Fatal("nobody died")
			}
			killed := time.Now()
			m, _ := w.wait(t, "take-over", finished)
			if took := time.Since(killed); took > lease+3*time.Second {
				t.Errorf("taken over after %v", took)
			}
			if m.Phase != director.PhaseDone {
				t.Errorf("the move became %s: %s", m.Phase, m.Reason)
			}
			w.check(t, []string{"first"})
		})
	}
}

// TestForecast: what the prediction does with passes.
func TestForecast(t *testing.T) {
	const s = time.Second
	pass := func(files, bytes int64) control.PullProgress { return control.PullProgress{Files: files, Bytes: bytes} }
	cfg, err := Config{ID: "r1", Listen: "x:1"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	srv := &Server{cfg: cfg}
	type step struct {
		took time.Duration
		p    control.PullProgress
		done bool
		long bool
	}
	for name, steps := range map[string][]step{
		"tiny":             {{50 * time.Millisecond, pass(3, 1000), true, false}},
		"empty":            {{10 * time.Millisecond, pass(0, 0), true, false}},
		"few, but slow":    {{2 * s, pass(3, 1000), false, false}, {100 * time.Millisecond, pass(0, 0), true, false}},
		"large":            {{600 * s, pass(100_000, 1<<30), false, false}, {3 * s, pass(200, 1<<20), false, false}, {200 * time.Millisecond, pass(2, 1000), true, false}},
		"quick, and many":  {{300 * time.Millisecond, pass(1000, 1<<20), false, false}, {20 * time.Millisecond, pass(0, 0), true, false}},
		"one large letter": {{300 * time.Millisecond, pass(1, 50<<20), false, false}, {20 * time.Millisecond, pass(0, 0), true, false}},
		"slow to look through": {
			{9 * s, pass(9, 9), false, false}, {4 * s, pass(0, 0), false, false}, {4 * s, pass(0, 0), false, false}, {4 * s, pass(0, 0), false, false},
			{4 * s, pass(0, 0), false, false}, {4 * s, pass(0, 0), false, false}, {4 * s, pass(0, 0), false, false}, {4 * s, pass(0, 0), true, false},
		},
		"hopeless": {
			{60 * s, pass(9, 9), false, false}, {20 * s, pass(9, 9), false, false}, {20 * s, pass(9, 9), false, false}, {20 * s, pass(9, 9), false, false},
			{20 * s, pass(9, 9), false, false}, {20 * s, pass(9, 9), false, false}, {20 * s, pass(9, 9), false, false}, {20 * s, pass(9, 9), false, true},
		},
	} {
		var f forecast
		for i, st := range steps {
			f.add(st.took, st.p)
			done, err := srv.enough(&f, st.p)
			if done != st.done || errors.Is(err, errTooLong) != st.long {
				t.Errorf("%s, pass %d: done %v, %v; predicted %v", name, i+1, done, err, f.busy())
			}
		}
	}
}

func TestBackoffGrows(t *testing.T) {
	s := &Server{cfg: Config{RetryWait: 30 * time.Second}}
	var last time.Duration
	for tries := 1; tries < 50; tries++ {
		d := s.backoff(tries)
		if d < last || d > maxBackoff || tries < 4 && d == last {
			t.Errorf("try %d waits %v after %v", tries, d, last)
		}
		last = d
	}
	if last != maxBackoff {
		t.Errorf("the longest wait is %v", last)
	}
}

// TestTooLongToBegin: a user whose busy time cannot fit is not made busy at all.
func TestTooLongToBegin(t *testing.T) {
	w, err := newWorld("b1", "b2")
	if err != nil {
		t.Fatal(err)
	}
	w.nodes["b2"].onPull = func(ctx context.Context, _ control.PullRequest, _ func(control.PullProgress)) error {
		pause(ctx, 30*time.Millisecond) // how long a pass takes
		return nil
	}
	cfg := impatient("r1")
	cfg.BusyAim, cfg.BusyBudget, cfg.MaxPasses, cfg.MaxTries = time.Millisecond, 50*time.Millisecond, 2, 2
	w.plan(t, "b2", "m1")
	w.moverWith(t, cfg, new(atomic.Int32), 0)
	m, r := w.wait(t, "the end", finished)
	if m.Phase != director.PhaseUndone || !strings.Contains(m.Reason, errTooLong.Error()) || r.Epoch != 1 || m.BusyMS != 0 {
		t.Errorf("journal %+v, record %s", m, r)
	}
	w.check(t, []string{"first"})
}
