package backend

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestLatency(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	l := &latency{now: func() time.Time { return now }}
	if r := l.report(); r.P95MS != 0 || r.PerSecond != 0 {
		t.Errorf("nothing yet: %+v", r)
	}
	for range 94 {
		l.add(10 * time.Millisecond)
	}
	for range 6 {
		l.add(time.Second)
	}
	r := l.report()
	if r.PerSecond != 10 || r.P95MS < 1000 || r.P95MS > 1200 || r.MeanMS < 10 || r.MeanMS > 1000 {
		t.Errorf("%+v", r)
	}
	now = now.Add(9 * time.Second)
	for range 300 {
		l.add(10 * time.Millisecond)
	}
	if r := l.report(); r.P95MS < 10 || r.P95MS > 12 || r.MeanMS > 11 {
		t.Errorf("what is slow is rare by now: %+v", r)
	}
	now = now.Add(time.Minute)
	if r := l.report(); r.PerSecond != 0 || r.P95MS != 0 {
		t.Errorf("long over: %+v", r)
	}
}

// TestLatencyBound: the hundredth told is never below the true one, and at most a
// fifth above it.
func TestLatencyBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &latency{now: func() time.Time { return time.Unix(5, 0) }}
		d := time.Duration(rapid.Int64Range(int64(time.Millisecond), int64(time.Minute)).Draw(t, "d"))
		l.add(d)
		ms := float64(d) / float64(time.Millisecond)
		if got := l.report().P95MS; got < ms*0.999 || got > ms*1.201 {
			t.Fatalf("%v is told as %.3f ms", d, got)
		}
	})
}
