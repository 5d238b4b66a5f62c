package backend

import (
	"math"
	"sync"
	"time"

	"waypost/backend/control"
)

// latency remembers how long something took, over the last ten seconds, in fixed
// memory and without a goroutine. Safe for concurrent use.
type latency struct {
	now func() time.Time

	mu    sync.Mutex
	slots [latencySlots]latencySlot
	mean  float64 // milliseconds, exponentially weighted
	at    time.Time
}

// latencySlot is one second.
type latencySlot struct {
	second int64 // of the Unix clock
	n      int64
	counts [latencyBuckets]uint32
}

const (
	latencySlots = 10
	// latencyBuckets grow by a fifth each, from a tenth of a millisecond to about
	// five minutes.
	latencyBuckets = 82
	latencyFirst   = 0.1 // milliseconds
	latencyGrowth  = 1.2
	// latencyHalf is the age at which a measurement weighs half in the mean.
	latencyHalf = 3 * time.Second
)

func newLatency() *latency { return &latency{now: time.Now} }

// since notes what began at begun and ends now.
func (l *latency) since(begun time.Time) { l.add(l.now().Sub(begun)) }

func (l *latency) add(d time.Duration) {
	ms := float64(d) / float64(time.Millisecond)
	b := 0
	if ms > latencyFirst {
		b = min(int(math.Ceil(math.Log(ms/latencyFirst)/math.Log(latencyGrowth))), latencyBuckets-1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	s := &l.slots[now.Unix()%latencySlots]
	if s.second != now.Unix() {
		*s = latencySlot{second: now.Unix()}
	}
	s.n++
	s.counts[b]++
	// A burst must not weigh as much as the seconds before it: each measurement
	// takes at least a tenth.
	w := max(1-math.Exp2(-float64(now.Sub(l.at))/float64(latencyHalf)), 0.1)
	if l.at.IsZero() {
		w = 1
	}
	l.mean += w * (ms - l.mean)
	l.at = now
}

// report tells of the last ten seconds.
func (l *latency) report() control.Latency {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now().Unix()
	var n int64
	var counts [latencyBuckets]int64
	for i := range l.slots {
		s := &l.slots[i]
		if s.n == 0 || now-s.second >= latencySlots || s.second > now {
			continue
		}
		n += s.n
		for b, c := range s.counts {
			counts[b] += int64(c)
		}
	}
	if n == 0 {
		return control.Latency{}
	}
	out := control.Latency{PerSecond: float64(n) / latencySlots, MeanMS: l.mean}
	for b, seen := 0, int64(0); b < latencyBuckets; b++ {
		if seen += counts[b]; seen*100 >= n*95 {
			out.P95MS = latencyFirst * math.Pow(latencyGrowth, float64(b))
			break
		}
	}
	return out
}
