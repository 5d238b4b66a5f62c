package rebalance

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/backend/control"
	"waypost/director"
)

func latency(perSecond, p95 float64) control.Latency {
	return control.Latency{PerSecond: perSecond, MeanMS: p95 / 2, P95MS: p95}
}

func TestStrain(t *testing.T) {
	cfg, err := Config{ID: "r1", Listen: "x:1"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		l    control.LoadReply
		want float64
		kind string
	}{
		"idle":                    {control.LoadReply{}, 0, ""},
		"quick":                   {control.LoadReply{Deliveries: latency(10, 25)}, 0.1, "b1 deliveries"},
		"slow deliveries":         {control.LoadReply{Deliveries: latency(10, 1000), Commands: latency(10, 500)}, 4, "b1 deliveries"},
		"slow commands":           {control.LoadReply{Deliveries: latency(10, 10), Commands: latency(10, 500)}, 2, "b1 commands"},
		"a single slow one":       {control.LoadReply{Commands: latency(0.1, 5000)}, 0, ""},
		"a busy disk for nobody":  {control.LoadReply{IOPressurePercent: 100, DiskPercent: 100, NetworkPercent: 100}, 0, ""},
		"waiting for a disk":      {control.LoadReply{Commands: latency(5, 10), IOPressurePercent: 84}, 1.2, "b1 disk"},
		"a disk without pressure": {control.LoadReply{Commands: latency(5, 10), DiskPercent: 100}, 100. / 70, "b1 disk"},
		"a full network":          {control.LoadReply{Commands: latency(5, 10), NetworkPercent: 91}, 1.3, "b1 network"},
	} {
		v, why := cfg.strain("b1", c.l)
		if v < c.want-0.01 || v > c.want+0.01 || why.kind != c.kind || (why.text == "") != (c.kind == "") {
			t.Errorf("%s: strain %.2f for %+v, want %.2f for %s", name, v, why, c.want, c.kind)
		}
	}
}

// TestYielder: under strain the pace falls, in the end to a pause; when users are well
// it rises until it bounds nothing.
func TestYielder(t *testing.T) {
	var y yielder
	const speed = 100 << 20
	if y.look(0.5, speed, 0) || y.pace(0) != 0 {
		t.Errorf("without strain: %+v", y)
	}
	looks, paused := 0, false
	for last := int64(1 << 60); !paused && looks < 100; looks++ {
		paused = y.look(3, speed, 0)
		if p := y.pace(0); p == 0 || p > last {
			t.Fatalf("under strain the pace went from %d to %d", last, p)
		} else {
			last = p
		}
	}
	if !paused || y.pace(0) != slowest {
		t.Errorf("after %d looks: %+v", looks, y)
	}
	y = yielder{rate: slowest}
	for range 2 * patientFor {
		if y.look(1.5, slowest, 0) {
			t.Error("a strain that is not worth a pause pauses")
		}
	}
	for looks = 0; y.pace(0) != 0 && looks < 100; looks++ {
		y.look(0.2, min(max(y.rate, 1), speed), 0)
	}
	if looks == 100 {
		t.Errorf("the pace never became free: %+v", y)
	}
}

// TestYielderKeepsTheLimit: whatever users and limits do, the pace is within the limit.
func TestYielderKeepsTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var y yielder
		for range rapid.IntRange(1, 50).Draw(t, "looks") {
			most := rapid.SampledFrom([]int64{0, 1, 1 << 20, 50 << 20}).Draw(t, "most")
			y.look(rapid.Float64Range(0, 5).Draw(t, "strain"), rapid.Int64Range(0, 1<<30).Draw(t, "speed"), most)
			if p := y.pace(most); p < 0 || most > 0 && (p == 0 || p > most) {
				t.Fatalf("pace %d, limit %d: %+v", p, most, y)
			}
		}
	})
}

// TestCopyYields: a copy slows down, pauses, and says why, while users wait; it goes on
// when they do not, and the last pass is as fast as can be.
func TestCopyYields(t *testing.T) {
	w, err := newWorld("b1", "b2")
	if err != nil {
		t.Fatal(err)
	}
	source, target := w.nodes["b1"], w.nodes["b2"]
	var free atomic.Bool
	cut := make(chan struct{})
	cutOnce := sync.OnceFunc(func() { close(cut) })
	target.onPull = func(ctx context.Context, req control.PullRequest, progress func(control.PullProgress)) error {
		progress(control.PullProgress{TotalBytes: 1 << 30})
		if req.Final || free.Load() {
			return nil
		}
		<-ctx.Done() // it takes for ever
		cutOnce()
		return ctx.Err()
	}
	source.load.Deliveries = latency(10, 5000)
	w.plan(t, "b2", "m1")
	w.moverWith(t, Config{ID: "r1", YieldEvery: 5 * time.Millisecond}, new(atomic.Int32), 0)
	m, _ := w.wait(t, "the copy pauses", func(m director.Move, _ director.Record) bool {
		return strings.HasPrefix(m.Waiting, "paused: b1: deliveries take 5000 ms") || m.Phase.Finished()
	})
	if m.Phase != director.PhaseCopying {
		t.Errorf("journal %+v", m)
	}
	select {
	case <-cut:
	case <-time.After(20 * time.Second):
		t.Error("the pass goes on, though the move pauses")
	}
	free.Store(true)
	source.set(func() { source.load.Deliveries = latency(10, 20) })
	m, _ = w.wait(t, "the move", finished)
	if m.Phase != director.PhaseDone || m.Waiting != "" {
		t.Errorf("journal %+v", m)
	}
	source.set(func() {
		if !slices.Contains(source.paces, slowest) || source.paces[len(source.paces)-1] != 0 {
			t.Errorf("paces %v", source.paces)
		}
	})
	w.check(t, []string{"first"})
}

// TestPauseHasAnEnd: users who wait for something else do not hold a move for ever.
func TestPauseHasAnEnd(t *testing.T) {
	w, err := newWorld("b1", "b2")
	if err != nil {
		t.Fatal(err)
	}
	var pulls atomic.Int32
	w.nodes["b2"].onPull = func(ctx context.Context, req control.PullRequest, _ func(control.PullProgress)) error {
		if pulls.Add(1) > 2 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
	w.nodes["b2"].load.Commands = latency(10, 5000)
	w.plan(t, "b2", "m1")
	w.moverWith(t, Config{ID: "r1", YieldEvery: time.Millisecond, YieldWait: 20 * time.Millisecond}, new(atomic.Int32), 0)
	if m, _ := w.wait(t, "the move", finished); m.Phase != director.PhaseDone {
		t.Errorf("journal %+v", m)
	}
	w.check(t, []string{"first"})
}

// TestRateLimit: the source is told the move's share of the limits, before the first
// pass, and the new one when they change.
func TestRateLimit(t *testing.T) {
	w, err := newWorld("b1", "b2")
	if err != nil {
		t.Fatal(err)
	}
	limit := func(id director.BackendID, rate int64) {
		t.Helper()
		if _, err := w.dir.SetLimit(t.Context(), id, func(l *director.Limit) { l.BytesPerSecond = rate }); err != nil {
			t.Fatal(err)
		}
	}
	limit("", 9_000_000)
	limit("b2", 5_000_000)
	source := w.nodes["b1"]
	told := make(chan int64, 1)
	w.nodes["b2"].onPull = func(ctx context.Context, req control.PullRequest, _ func(control.PullProgress)) error {
		if req.Final {
			return nil
		}
		for changed := false; ; {
			var last int64
			source.set(func() {
				if n := len(source.paces); n > 0 {
					last = source.paces[n-1]
				}
			})
			switch {
			case last == 5_000_000 && !changed:
				changed = true
				told <- last
			case last == 2_000_000:
				return nil
			case ctx.Err() != nil:
				return ctx.Err()
			}
			pause(ctx, time.Millisecond)
		}
	}
	// The limits are known before anything begins.
	w.moverWith(t, Config{ID: "r1", YieldEvery: 5 * time.Millisecond}, new(atomic.Int32), 0)
	w.plan(t, "b2", "m1")
	select {
	case <-told:
	case <-time.After(10 * time.Second):
		t.Fatal("the source was never told its pace")
	}
	limit("b2", 2_000_000)
	if m, _ := w.wait(t, "the move", finished); m.Phase != director.PhaseDone {
		t.Errorf("journal %+v", m)
	}
	w.check(t, []string{"first"})
}
