package backend

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"

	"waypost/backend/control"
	"waypost/internal/frames"
	"waypost/internal/handoff"
)

// Sessions that survive: how a session leaves this backend and how it comes here.
//
// A session leaves because its user's `left` is closed: the fence left its epoch, the mailbox
// was closed under it, or the backend stops. The engine then hands it off by its connection, and
// nothing of it stays here but the maildrop, which is reserved for it.
//
// A session comes with a State in place of a greeting. Package carry has the order in which it
// is taken; beginning has the steps.

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

// stateOf is what a session is resumed with; nil, for a new one.
func stateOf(conn sessionConn) []byte {
	c, ok := conn.(interface{ State() []byte })
	if !ok {
		return nil
	}
	return c.State()
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
		x.carried.End(handoff.ErrKicked)
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
