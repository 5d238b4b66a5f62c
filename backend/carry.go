package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"waypost/backend/control"
	"waypost/internal/frames"
	"waypost/internal/handoff"
	"waypost/internal/wire"
)

// Sessions that survive: how a session leaves this backend and how it comes here.
//
// A session leaves because its user's `left` is closed: the fence left its epoch, the mailbox
// was closed under it, or the backend stops. The engine then hands it off by its connection, and
// nothing of it stays here but the maildrop, which is reserved for it.
//
// A session comes with a State in place of a greeting. It is taken in this order: the mailbox is
// opened at (home, epoch), so that a proxy that came too early, or to the wrong place, tries again
// with a hand-off that is not used up; the engine proves that the state is what the mailbox has;
// the hand-off's id, if it is not a quiet one, is accepted, durably, once; only then the Welcome is said, and the session runs.
// A crash before the acceptance leaves a hand-off that can be used again, one after it a session
// that nobody has: its proxy cannot know which of them it was, and ends it.

// framed is a session's stream that tells how it was let go.
type framed struct {
	*frames.Stream
	s *served
}

// HandOff counts what the stream's does.
func (f *framed) HandOff(state []byte) error {
	if err := f.Stream.HandOff(state); err != nil {
		return err
	}
	s := f.s
	s.handedOff = s.whyLeft()
	s.b.metrics.handedOff.WithLabelValues(s.handedOff).Inc()
	return nil
}

// Checkpoint counts what the stream's does.
func (f *framed) Checkpoint(consumed, sent uint64, state []byte) error {
	if err := f.Stream.Checkpoint(consumed, sent, state); err != nil {
		return err
	}
	b := f.s.b
	b.metrics.checkpoints.Inc()
	b.log.LogAttrs(f.s.ctx, slog.LevelDebug, checkpointMade, slog.String("session", f.s.h.Session),
		slog.Uint64("consumed", consumed), slog.Uint64("sent", sent), slog.Int("bytes", len(state)))
	return nil
}

// Point counts what the stream's does.
func (f *framed) Point(consumed, sent uint64, state, tip []byte) error {
	if err := f.Stream.Point(consumed, sent, state, tip); err != nil {
		return err
	}
	b := f.s.b
	b.metrics.checkpoints.Inc()
	if b.log.Enabled(f.s.ctx, slog.LevelDebug) {
		b.log.LogAttrs(f.s.ctx, slog.LevelDebug, checkpointMade, slog.String("session", f.s.h.Session),
			slog.Uint64("consumed", consumed), slog.Uint64("sent", sent), slog.Int("bytes", len(state)+len(tip)))
	}
	return nil
}

const checkpointMade = "session checkpoint"

// whyLeft is why the session had to go.
func (s *served) whyLeft() string {
	u := s.box.(*handle).u // as Open gives it
	u.mu.Lock()
	defer u.mu.Unlock()
	return cmp.Or(u.why, leftClosed)
}

// The words of sessions_handed_off_total.
const (
	leftMoving   = "moving"         // the fence left the session's epoch
	leftStopping = "stopping"       // the backend stops
	leftClosed   = "mailbox_closed" // the mailbox was closed, to be read anew
)

// carries tells whether the session can be handed off.
func (s *served) carries(conn sessionConn) bool {
	c, ok := conn.(interface{ CanHandOff() bool })
	return ok && c.CanHandOff()
}

// arrives looks at what a session is resumed with; nothing, for a new one.
func (s *served) arrives(conn sessionConn) error {
	c, ok := conn.(interface{ State() []byte })
	if !ok {
		return nil
	}
	if s.state = c.State(); s.state == nil {
		return nil
	}
	var err error
	s.handOff, _, _, err = handoff.OpenBase(s.state, s.h.Protocol)
	if err != nil {
		return refused(err)
	}
	return nil
}

// endFormer ends what is left here of the session that is resumed, or whose beginning is tried
// again: its proxy has lost it, which it may not have noticed. One that the proxy asked for
// later is not left over: then this one is, which was opened for longer than the proxy waited.
func (s *served) endFormer() error {
	if s.h.Session == "" {
		return nil
	}
	x := s.b.sessions.before(s.session)
	switch {
	case x == nil || x.info.User != s.session.info.User:
		return nil
	case x.try > s.session.try && s.session.try != 0:
		return errOvertaken
	}
	x.cancel(handoff.ErrKicked)
	return nil
}

// errOvertaken: its proxy has asked for the session again, and has it.
var errOvertaken = errors.New("a later try of this session has begun")

// accept uses the hand-off up, unless that is quiet: then there is nothing that could be done twice.
func (s *served) accept() error {
	if s.state == nil || s.handOff.Quiet() {
		return nil
	}
	first, err := s.b.handed.Accept(s.handOff)
	if err != nil {
		return refused(fmt.Errorf("accept the hand-off: %w", err))
	}
	if !first {
		return refused(&handoff.Error{Reason: handoff.Twice})
	}
	return nil
}

// unresumable makes the answer to a session that cannot go on, for good.
func unresumable(r handoff.Reason, err error) error {
	return &refusedError{status: wire.StatusUnresumable, reason: r, err: err}
}

// drainTime is how long deliveries under way have to finish, behind handOffTime at most.
const drainTime = 10 * time.Second

func (b *Server) drain(ctx context.Context) error {
	b.log.Info("backend stops", "sessions", b.sessions.count())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handOffTime+drainTime)
	defer cancel()
	b.stopping.Store(true)
	drained := make(chan error, 1)
	go func() { drained <- b.mux.Shutdown(ctx) }()
	b.letGo(ctx)
	left := b.sessions.match(everySession)
	if len(left) > 0 {
		b.log.Warn("sessions that could not be handed off are ended", "sessions", len(left))
	}
	for _, x := range left {
		x.cancel(handoff.ErrKicked)
	}
	stop := time.AfterFunc(drainTime, cancel)
	defer stop.Stop()
	if err := <-drained; err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// handOffTime is how long sessions have, when the backend stops, to finish what they are sending
// and to be handed off.
const handOffTime = 25 * time.Second

// letGo has all sessions handed off, and returns when none is left, or it took too long.
func (b *Server) letGo(ctx context.Context) {
	for _, u := range b.users.all() {
		u.mu.Lock()
		u.hangUp(leftStopping)
		u.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(ctx, handOffTime)
	defer cancel()
	for _, x := range b.sessions.match(everySession) {
		select {
		case <-x.done:
		case <-ctx.Done():
			return
		}
	}
}

func everySession(control.Session) bool { return true }

// errStopping: a session that came when the others were let go.
var errStopping = errors.New("this backend stops")
