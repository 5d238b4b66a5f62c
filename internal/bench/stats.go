package bench

import (
	"math"
	"slices"
	"time"
)

// Latencies are how long single messages took, in any order.
type Latencies []time.Duration

// Quantile gives the smallest latency that at least the share q of all do not
// exceed (nearest rank); 0 where there are none.
func (l Latencies) Quantile(q float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(l))
	return s[min(len(s)-1, max(0, int(math.Ceil(q*float64(len(s))))-1))]
}

// perMessage is d for each of n, in milliseconds.
func perMessage(d time.Duration, n int64) float64 {
	if n == 0 {
		return 0
	}
	return Millis(d) / float64(n)
}

// Millis is d in milliseconds.
func Millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Ratio is a to b; 0 where there is none.
func Ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}
