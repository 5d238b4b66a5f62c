package rebalance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"waypost/backend/control"
	"waypost/director"
)

// run brings one move to its end: done or undone. It returns early only when
// ctx ends, or when the directory is away; then any mover goes on later.
func (s *Server) run(ctx context.Context, u director.User) error {
	log := s.log.With("user", u)
	tries := newPatience(s.cfg.CopyPatience, s.jitter)
	var st *standing // nil: to be read
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if st == nil {
			mv, rec, err := s.read(ctx, u)
			if errors.Is(err, director.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			st = &standing{mv, rec, make(map[director.BackendID]reached)}
		}
		step := Next(st.mv, st.rec)
		switch {
		case step == StepNone:
			return nil
		case step == StepCopy && notYet(st.mv, time.Now()):
			return errNotYet
		}
		log.Info("move step", "move", st.mv.ID, "step", string(step), "record", st.rec.String())
		s.at(u, string(step))
		mv, rec := st.mv, st.rec
		err := s.do(ctx, step, st, tries)
		if err == nil {
			// Each transaction was guarded by the record: nothing has changed but by it.
			tries.progress()
			continue
		}
		st = nil
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, director.ErrConflict):
			continue // somebody was first: obey what is there now
		case errors.Is(err, director.ErrUnavailable), errors.Is(err, director.ErrUnknown):
			return err
		}
		log.Warn("move step failed", "move", mv.ID, "step", string(step), "error", err)
		if step == StepFinish {
			return err // only forward, but not at the cost of the others: later again
		}
		if err := s.failed(ctx, step, mv, rec, err, tries); err != nil && !errors.Is(err, director.ErrConflict) {
			return err
		}
	}
}

func (s *Server) do(ctx context.Context, step Step, st *standing, tries *patience) error {
	if st.rec.State == director.Busy && step != StepFinish && step != StepUndone {
		// The budget counts from the transaction, whoever made it; a clock that
		// jumped costs a rollback at worst.
		left := s.cfg.BusyBudget - time.Since(st.mv.BusySince)
		if left <= 0 {
			return errOverBudget
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, left, errOverBudget)
		defer cancel()
	}
	switch step {
	case StepCopy:
		return s.copy(ctx, st, tries)
	case StepFreeze:
		return s.freeze(ctx, st)
	case StepSeal:
		return s.seal(ctx, st, tries)
	case StepFlip:
		return s.flip(ctx, st)
	case StepFinish:
		return s.finish(ctx, st)
	case StepUndone:
		st.mv.Phase = director.PhaseUndone
		return s.undone(ctx, st.mv, st.rec, "")
	}
	return fmt.Errorf("no step %q", step)
}

var (
	// errOverBudget: the user was busy for longer than the budget.
	errOverBudget = errors.New("the user was busy for longer than the budget")
	// errNotYet: the move waits for its next try.
	errNotYet = errors.New("not yet")
)

// failed decides after a step's error before the flip: try again, now or later, or
// undo.
func (s *Server) failed(ctx context.Context, step Step, mv director.Move, rec director.Record, err error, tries *patience) error {
	if control.IsCode(err, control.CodeDiffers) {
		if tries.differed++; tries.differed > 1 {
			err = fmt.Errorf("%w, for the second time", err)
			return s.undone(ctx, mv, rec, err.Error())
		}
	}
	switch step {
	case StepCopy:
		if errors.Is(err, errTooLong) {
			return s.putOff(ctx, mv, rec, err)
		}
		if tries.more() && !hopeless(err) {
			pause(ctx, tries.wait())
			return nil
		}
	case StepFreeze, StepSeal, StepFlip:
		switch {
		case hopeless(err):
		case time.Since(mv.BusySince) < s.cfg.BusyBudget:
			pause(ctx, s.jitter(200*time.Millisecond))
			return nil
		case errors.Is(err, errOverBudget):
			return s.putOff(ctx, mv, rec, err)
		default:
			return s.putOff(ctx, mv, rec, fmt.Errorf("%w of %v: %w", errOverBudget, s.cfg.BusyBudget, err))
		}
	}
	return s.undone(ctx, mv, rec, err.Error())
}

// hopeless errors do not go away by trying again.
func hopeless(err error) bool {
	return control.IsCode(err, control.CodeEpoch) || control.IsCode(err, control.CodeNoRoom) ||
		control.IsCode(err, control.CodeForbidden) || control.IsCode(err, control.CodeBad) || control.IsCode(err, control.CodeFence)
}

// copy makes hot passes until little is left, then marks the user busy.
func (s *Server) copy(ctx context.Context, st *standing, tries *patience) error {
	mv := &st.mv
	target, err := s.reach(ctx, st, mv.Target)
	if err != nil {
		return err
	}
	source, err := s.reach(ctx, st, mv.Source)
	if err != nil {
		return err
	}
	if mv.Phase == director.PhasePlanned || mv.Waiting != "" {
		mv.Phase, mv.Waiting = director.PhaseCopying, ""
		if err := s.advance(ctx, st, nil); err != nil {
			return err
		}
	}
	if _, err := target.Stage(ctx, control.MoveRequest{User: mv.User, Epoch: mv.Epoch + 1}); err != nil {
		return err
	}
	c := &copying{s: s, writing: make(chan struct{}, 1), target: target, rec: st.rec, node: source.node, tries: tries, told: -1, mv: mv, move: *mv, seen: mv.CopiedBytes}
	for patience, again := *s.cfg.SendingWait, true; again; {
		if err := s.hotPasses(ctx, c); err != nil {
			return err
		}
		took, err := c.unsent(ctx, source.Backend, patience)
		if err != nil {
			return err
		}
		patience, again = patience-took, took > 0 // what came meanwhile is copied first
	}
	busy, err := st.rec.MarkBusy(mv.Target)
	if err != nil {
		return err
	}
	s.at(mv.User, "busy")
	mv.Phase, mv.BusySince, mv.Waiting = director.PhaseBusy, time.Now(), ""
	return s.advance(ctx, st, &busy)
}

// hotPasses repeats passes until little enough is left. Behind them the source sends
// as fast as it can.
func (s *Server) hotPasses(ctx context.Context, c *copying) error {
	var f forecast
	for done := false; !done; {
		s.at(c.move.User, "pass")
		p, took, err := c.hot(ctx)
		if err != nil {
			return err
		}
		f.add(took, p)
		if done, err = s.enough(&f, p); err != nil {
			return err
		}
		s.log.Info("move pass", "user", c.move.User, "move", c.move.ID, "pass", f.passes, "files", p.Files, "bytes", p.Bytes,
			"renamed", p.Renamed, "removed", p.Removed, "took", took, "busy_predicted", f.busy())
	}
	c.setPace(ctx, 0)
	return nil
}

func (s *Server) freeze(ctx context.Context, st *standing) error {
	mv := &st.mv
	source, err := s.reach(ctx, st, mv.Source)
	if err != nil {
		return err
	}
	sum, err := source.Freeze(ctx, control.MoveRequest{User: mv.User, Epoch: st.rec.Epoch})
	if err != nil {
		return err
	}
	mv.Phase, mv.Receipt, mv.Messages, mv.Bytes, mv.Maildrop = director.PhaseFrozen, sum.Digest, sum.Messages, sum.Bytes, sum.Maildrop
	s.at(mv.User, "frozen")
	return nil
}

func (s *Server) seal(ctx context.Context, st *standing, tries *patience) error {
	mv := &st.mv
	target, err := s.reach(ctx, st, mv.Target)
	if err != nil {
		return err
	}
	source, err := s.reach(ctx, st, mv.Source)
	if err != nil {
		return err
	}
	c := &copying{s: s, writing: make(chan struct{}, 1), target: target, rec: st.rec, node: source.node, tries: tries, mv: mv, move: *mv}
	p, err := c.pull(ctx, true)
	if err != nil {
		return err
	}
	s.log.Info("last pass", "user", mv.User, "move", mv.ID, "files", p.Files, "bytes", p.Bytes, "renamed", p.Renamed, "removed", p.Removed)
	s.at(mv.User, "pulled")
	if _, err := target.Seal(ctx, control.SealRequest{User: mv.User, Epoch: st.rec.Epoch, Digest: mv.Receipt, Maildrop: mv.Maildrop}); err != nil {
		return err
	}
	mv.Phase = director.PhaseSealed
	s.at(mv.User, "sealed")
	return nil
}

func (s *Server) flip(ctx context.Context, st *standing) error {
	to, err := st.rec.Flip()
	if err != nil {
		return err
	}
	st.mv.Phase = director.PhaseFlipped
	if err := s.advance(ctx, st, &to); err != nil {
		return err
	}
	s.at(st.mv.User, "flipped")
	return nil
}

// finish waits until the target serves. The source is told to let go; if it is
// away, it does so by itself when it starts (R9).
func (s *Server) finish(ctx context.Context, st *standing) error {
	mv, rec := st.mv, st.rec
	target, err := s.reach(ctx, st, mv.Target)
	if err != nil {
		return err
	}
	f, err := target.Look(ctx, control.LookRequest{User: mv.User})
	if err != nil {
		return err
	}
	over := rec.Epoch > mv.Epoch+2 || rec.Home != mv.Target // moved on, or deleted, since
	if f.State != control.FenceServing && !over {
		return fmt.Errorf("target %s does not serve yet: fence is %s %d", mv.Target, f.State, f.Epoch)
	}
	mv = busyOver(mv)
	s.tell(ctx, mv.Source, mv.User)
	mv.Phase, mv.Finished, mv.Waiting = director.PhaseDone, time.Now(), ""
	st.mv = mv
	s.at(mv.User, "done")
	if err := s.advance(ctx, st, nil); err != nil {
		return err
	}
	s.metrics.ended.WithLabelValues("done").Inc()
	s.metrics.busySeconds.Observe(float64(mv.BusyMS) / 1000)
	s.log.Info("move done", "user", mv.User, "move", mv.ID, "from", string(mv.Source), "to", string(mv.Target),
		"messages", mv.Messages, "bytes", mv.Bytes, "busy_ms", mv.BusyMS, "receipt", mv.Receipt)
	return nil
}

// undone closes the journal of a move that did not happen, with the rollback
// of the record where it is still busy for this move.
func (s *Server) undone(ctx context.Context, mv director.Move, rec director.Record, why string) error {
	var to *director.Record
	if rec.State == director.Busy && rec.Epoch == mv.Epoch+1 && rec.Home == mv.Source && rec.Peer == mv.Target {
		back, err := rec.Rollback()
		if err != nil {
			return err
		}
		to = &back
	}
	if why == "" {
		why = fmt.Sprintf("the record became %q: the home took the user back, or somebody changed it", rec)
	}
	mv = busyOver(mv)
	mv.Phase, mv.Reason, mv.Finished, mv.Waiting = director.PhaseUndone, why, time.Now(), ""
	s.at(mv.User, "undo")
	if err := s.dir.Advance(ctx, mv, rec, to); err != nil {
		return err
	}
	s.metrics.ended.WithLabelValues("undone").Inc()
	s.log.Warn("move undone", "user", mv.User, "move", mv.ID, "reason", why)
	s.tell(ctx, mv.Source, mv.User)
	s.tell(ctx, mv.Target, mv.User)
	return nil
}

// busyOver counts the busy time that ends here.
func busyOver(mv director.Move) director.Move {
	if !mv.BusySince.IsZero() {
		mv.BusyMS += time.Since(mv.BusySince).Milliseconds()
	}
	return mv
}

// putOff rolls a move back that takes too long, and leaves it to a later try: the same
// move, from the record as it is then. After the last try it is undone.
func (s *Server) putOff(ctx context.Context, mv director.Move, rec director.Record, why error) error {
	if mv.Tries+1 >= s.cfg.MaxTries {
		return s.undone(ctx, mv, rec, fmt.Sprintf("%v, in the last of %d tries", why, mv.Tries+1))
	}
	var to *director.Record
	next := busyOver(mv)
	if rec.State == director.Busy {
		back, err := rec.Rollback()
		if err != nil {
			return err
		}
		to, next.Epoch = &back, back.Epoch
	}
	next.Phase, next.Receipt, next.BusySince = director.PhasePlanned, "", time.Time{}
	next.Tries++
	next.NotBefore = time.Now().Add(s.jitter(s.backoff(next.Tries)))
	next.Waiting = fmt.Sprintf("for try %d: %v", next.Tries+1, why)
	s.at(mv.User, "put off")
	if err := s.dir.Advance(ctx, next, rec, to); err != nil {
		return err
	}
	s.metrics.putOff.Inc()
	s.log.Warn("move put off", "user", mv.User, "move", mv.ID, "tries", next.Tries, "not_before", next.NotBefore, "reason", why)
	s.tell(ctx, mv.Source, mv.User)
	s.tell(ctx, mv.Target, mv.User)
	return nil
}

// tell hints a backend to look at once; its watch tells it as well.
func (s *Server) tell(ctx context.Context, id director.BackendID, u director.User) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	b, _, err := s.dial(ctx, id)
	if err == nil {
		_, err = b.Look(ctx, control.LookRequest{User: u})
	}
	if err != nil {
		s.log.Info("a backend was not told; it will look by itself", "backend", string(id), "user", u, "error", err)
	}
}

// patience bounds retries in time, counted from the last progress.
type patience struct {
	limit  time.Duration
	jitter func(time.Duration) time.Duration
	since  time.Time
	n      int
	// differed counts seals that were refused because staging was not equal.
	differed int
}

func newPatience(limit time.Duration, jitter func(time.Duration) time.Duration) *patience {
	return &patience{limit: limit, jitter: jitter, since: time.Now()}
}

func (p *patience) progress()  { p.since, p.n = time.Now(), 0 }
func (p *patience) more() bool { return time.Since(p.since) < p.limit }

// wait grows from a quarter of a second to 15 s.
func (p *patience) wait() time.Duration {
	p.n++
	return p.jitter(min(250*time.Millisecond<<min(p.n, 6), 15*time.Second))
}
