package rebalance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"waypost/backend/control"
	"waypost/director"
)

// Hot passes yield to users: while they run, the mover asks both backends how their
// users fare, slows the copy down by half each time they have to wait, gives it
// speed again when they do not, and pauses where slowing down does not help.

// Watched is a Backend that tells of its load and keeps a pace; one of an older
// version does not, and is copied from without regard.
type Watched interface {
	Load(ctx context.Context) (control.LoadReply, error)
	Pace(ctx context.Context, req control.PaceRequest) error
}

// reason is why a copy yields: what to whom. kind tells two reasons apart whose
// figures differ.
type reason struct{ kind, text string }

// few is below what latencies tell nothing: deliveries or commands in ten seconds.
const few = 3

// strain is how hard the copy is on one backend's users: up to 1 is none of their
// business.
func (c Config) strain(id director.BackendID, l control.LoadReply) (worst float64, why reason) {
	note := func(v float64, kind, format string, a ...any) {
		if v > worst {
			worst, why = v, reason{string(id) + " " + kind, fmt.Sprintf("%s: ", id) + fmt.Sprintf(format, a...)}
		}
	}
	limit := float64(c.YieldLatency.Milliseconds())
	if n := l.Deliveries.PerSecond * 10; n >= few {
		note(l.Deliveries.P95MS/limit, "deliveries", "deliveries take %.0f ms", l.Deliveries.P95MS)
	}
	if n := l.Commands.PerSecond * 10; n >= few {
		note(l.Commands.P95MS/limit, "commands", "commands take %.0f ms", l.Commands.P95MS)
	}
	if (l.Deliveries.PerSecond+l.Commands.PerSecond)*10 < few {
		return worst, why // a busy disk or network hurts nobody
	}
	// They slow the copy down, and never stop it: it may be the cause, or not.
	const most = 1.5
	percent := float64(c.YieldPercent)
	if l.IOPressurePercent > 0 {
		note(min(l.IOPressurePercent/percent, most), "disk", "somebody waits for a disk in %.0f %% of the time", l.IOPressurePercent)
	} else {
		note(min(l.DiskPercent/percent, most), "disk", "the disk is at work in %.0f %% of the time", l.DiskPercent)
	}
	note(min(l.NetworkPercent/percent, most), "network", "the network is used to %.0f %%", l.NetworkPercent)
	return worst, why
}

const (
	// slowest is the pace below which a copy is rather paused.
	slowest = 256 << 10
	// firstPace is where slowing down begins if the speed is not known yet.
	firstPace = 16 << 20
	// pauseAt is the strain that pauses the slowest copy, resumeAt the one below
	// which it goes on.
	pauseAt, resumeAt = 2, 0.7
	// patientFor is how many looks in a row the strain must be that high.
	patientFor = 3
)

// yielder holds the pace of one move. It is pure: look gives it the time.
type yielder struct {
	rate  int64 // bytes a second; 0 does not bound
	bad   int   // looks in a row with strain
	quiet int   // looks in a row without
}

// look decides by what is seen: speed is what the copy makes, most its share of the
// limits (0: none). pause says that slowing down is not enough.
func (y *yielder) look(strain float64, speed, most int64) (pause bool) {
	if strain > 1 {
		y.bad, y.quiet = y.bad+1, 0
		if y.rate == 0 {
			y.rate = firstPace
			if speed > 0 {
				y.rate = speed
			}
			if most > 0 {
				y.rate = min(y.rate, most)
			}
		}
		y.rate = max(y.rate/2, slowest)
		return strain >= pauseAt && y.bad >= patientFor && y.rate == slowest
	}
	y.bad = 0
	y.quiet++
	if y.rate == 0 {
		return false
	}
	y.rate += y.rate/4 + slowest
	// Twice what it makes bounds nothing any more.
	if y.quiet >= patientFor && (most > 0 && y.rate >= most || most == 0 && speed > 0 && y.rate > 2*speed) {
		y.rate = 0
	}
	return false
}

// pace is what the source is told.
func (y *yielder) pace(most int64) int64 {
	if y.rate == 0 || most > 0 && most < y.rate {
		return most
	}
	return y.rate
}

// errPaused ends a pass that yields altogether.
var errPaused = errors.New("the copy is paused")

// strainOf asks both sides of a move. Who does not answer has no strain: whether it
// is there at all is for the pass to find out.
func (s *Server) strainOf(ctx context.Context, mv director.Move) (worst float64, why reason) {
	for _, id := range []director.BackendID{mv.Source, mv.Target} {
		l, err := s.load(ctx, id)
		if err != nil {
			s.log.Debug("load not known", "backend", string(id), "error", err)
			continue
		}
		if v, r := s.cfg.strain(id, l); v > worst {
			worst, why = v, r
		}
	}
	return worst, why
}

// asked is a backend's load as last told.
type asked struct {
	at    time.Time
	reply control.LoadReply
	err   error
}

// errUnwatched: the backend is of a version that tells no load.
var errUnwatched = errors.New("the backend tells no load")

// load asks a backend, once for all moves that want to know at about that time.
func (s *Server) load(ctx context.Context, id director.BackendID) (control.LoadReply, error) {
	s.mu.Lock()
	a := s.loads[id]
	s.mu.Unlock()
	if time.Since(a.at) < s.cfg.YieldEvery*3/4 {
		return a.reply, a.err
	}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	b, _, err := s.dial(ctx, id)
	a = asked{err: err}
	if err == nil {
		if w, ok := b.(Watched); ok {
			a.reply, a.err = w.Load(ctx)
		} else {
			a.err = errUnwatched
		}
	}
	a.at = time.Now()
	s.mu.Lock()
	s.loads[id] = a
	s.mu.Unlock()
	return a.reply, a.err
}

// askWait bounds a question about load, or an order about pace.
const askWait = 2 * time.Second

// setPace tells the source; one that cannot keep a pace is let be.
func (s *Server) setPace(ctx context.Context, mv director.Move, rate int64) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	b, _, err := s.dial(ctx, mv.Source)
	if err == nil {
		w, ok := b.(Watched)
		if !ok {
			return
		}
		err = w.Pace(ctx, control.PaceRequest{User: mv.User, Epoch: mv.Epoch + 1, BytesPerSecond: rate})
	}
	if err != nil && ctx.Err() == nil {
		s.log.Info("the source keeps no pace", "backend", string(mv.Source), "user", mv.User, "error", err)
	}
}
