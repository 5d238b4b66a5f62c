package rebalance

import (
	"errors"
	"fmt"
	"math"
	"time"

	"waypost/backend/control"
	"waypost/director"
)

// forecast predicts from the hot passes how long a user would be busy if that began
// now: the freeze and the seal look the tree through as a pass does that moves
// nothing, and what came meanwhile is moved at the speed of the passes before.
type forecast struct {
	// fixed is the shortest pass: what looking through costs.
	fixed time.Duration
	// moving, files and bytes are of all passes that moved something.
	moving       time.Duration
	files, bytes int64
	last, before passed
	passes       int
}

// passed is one pass.
type passed struct {
	took         time.Duration
	files, bytes int64
}

// unpaced gives the time a pass would have taken without its pace, 0 for none: the
// busy time knows no pace.
func unpaced(took time.Duration, bytes, pace int64) time.Duration {
	if pace <= 0 {
		return took
	}
	paced := time.Duration(float64(bytes) / float64(pace) * float64(time.Second))
	return max(took-paced, took/10)
}

func (f *forecast) add(took time.Duration, p control.PullProgress) {
	f.before, f.last = f.last, passed{took, p.Files + p.Renamed + p.Removed, p.Bytes}
	if f.passes++; f.passes == 1 || took < f.fixed {
		f.fixed = took
	}
	if f.last.files > 0 {
		f.moving += took
		f.files += f.last.files
		f.bytes += f.last.bytes
	}
}

// busy is the prediction. After a single pass nothing is known of how fast the user
// changes things: only one that was quick, looking and moving together, tells.
func (f *forecast) busy() time.Duration {
	if f.passes < 2 {
		return 2*f.fixed + f.last.took
	}
	// What the last pass moved came while the one before it ran; as much will have
	// come, for its own time, when the user is busy.
	share := float64(f.last.took) / float64(max(f.before.took, time.Millisecond))
	delta := max(f.cost(float64(f.last.files)*share, f.files), f.cost(float64(f.last.bytes)*share, f.bytes))
	return 2*f.fixed + time.Duration(math.Min(delta, float64(math.MaxInt64/4)))
}

// cost is the time for n of what took moving for all.
func (f *forecast) cost(n float64, all int64) float64 {
	if all == 0 {
		return 0
	}
	return n * float64(f.moving) / float64(all)
}

// errTooLong: the user would be busy for longer than the budget.
var errTooLong = errors.New("the user would be busy for too long")

// enough decides behind a hot pass: go on to busy, make another pass, or, with
// errTooLong, put the move off.
func (s *Server) enough(f *forecast, p control.PullProgress) (bool, error) {
	want := f.busy()
	few := p.Files <= s.cfg.DeltaFiles && p.Bytes <= s.cfg.DeltaBytes
	switch {
	case want <= s.cfg.BusyAim && (few || f.passes > 1):
		return true, nil
	case f.passes < s.cfg.MaxPasses:
		return false, nil
	case want > s.cfg.BusyBudget/2:
		// A prediction is no promise: half the budget is left for its error.
		return false, fmt.Errorf("%w: %v are expected after %d passes, the budget is %v", errTooLong, want.Round(time.Millisecond), f.passes, s.cfg.BusyBudget)
	}
	return true, nil
}

// backoff is how long a move that was put off waits for its next try: longer each
// time, and at most maxBackoff, within which the target keeps what was copied.
func (s *Server) backoff(tries int) time.Duration {
	d := s.cfg.RetryWait
	for range tries - 1 {
		if d = 4 * d; d >= maxBackoff {
			return maxBackoff
		}
	}
	return min(d, maxBackoff)
}

const maxBackoff = 30 * time.Minute

// notYet tells whether a move waits for its next try.
func notYet(m director.Move, now time.Time) bool {
	return m.Phase == director.PhasePlanned && now.Before(m.NotBefore)
}
