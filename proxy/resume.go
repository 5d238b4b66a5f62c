package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"waypost/director"
	"waypost/internal/frames"
	"waypost/internal/handoff"
	"waypost/internal/wire"
	"waypost/proxy/prelogin"
)

// errNotCarried is the end of a session that could not be resumed.
var errNotCarried = errors.New("session could not be resumed")

// maxParkedBytes bounds what all sessions hold that wait to be resumed: the state of an
// IMAP session has some hundred bytes, and 4 MiB at most.
const maxParkedBytes = 1 << 30

// carry has a session go on that its backend has let go of, or was lost with while a
// checkpoint tells where it was: at the home of the record, be it the same one again, as
// soon as that is active. Then the relay can run again; otherwise the error is why the
// session ends. The client sees a pause: nothing is read of it, or said to it, meanwhile.
func (h *handling) carry(ctx context.Context, r *relay, why error) error {
	began, from := time.Now(), h.up.backend
	state, unconsumed := r.stream.HandedOff()
	how, after := "hand-off", time.Time{}
	if errors.Is(why, errHandedOff) {
		h.metrics.handedOff.Inc()
		h.log.LogAttrs(ctx, slog.LevelInfo, "session handed off", slog.String("session", h.sess.id), slog.String("user", string(h.sess.user)),
			slog.String("backend", string(from)), slog.Int("state_bytes", len(state)), slog.Int("unconsumed_bytes", len(unconsumed)))
	} else {
		how, after = "checkpoint", began
		state, unconsumed, _ = r.stream.LastCheckpoint()
	}
	r.takeOver(unconsumed)
	_ = h.up.conn.Close() // the backend has forgotten it
	h.metrics.parked.Inc()
	up, err := h.park(ctx, r, state, after)
	h.metrics.parked.Dec()
	if err != nil {
		return h.notCarried(ctx, err)
	}
	h.up, r.backend = up, up.conn
	r.stream, _ = up.conn.(*frames.Stream)
	h.registry.serve(h.sess, up.backend)
	paused := time.Since(began)
	h.metrics.resumed.Inc()
	h.metrics.pause.Observe(paused.Seconds())
	h.log.LogAttrs(ctx, slog.LevelInfo, "session resumed", slog.String("session", h.sess.id), slog.String("user", string(h.sess.user)),
		slog.String("from", string(from)), slog.String("backend", string(up.backend)), slog.String("after", how), slog.Duration("paused", paused))
	return nil
}

// park keeps a session until its state is with a backend again, over a connection from
// after a time.
func (h *handling) park(ctx context.Context, r *relay, state []byte, after time.Time) (*upstream, error) {
	n := int64(len(state) + len(r.held.meant) + len(r.held.asSent))
	defer h.parked.Add(-n)
	if h.parked.Add(n) > maxParkedBytes || state == nil {
		return nil, &handoff.Error{Reason: handoff.TooBig, Err: errors.New("the proxy has no room for the state")}
	}
	wait, cancel := context.WithTimeout(ctx, h.cfg.ResumeWait)
	defer cancel()
	wait, lose := context.WithCancelCause(wait)
	defer lose(nil)
	unwatch := r.watch(lose)
	o := opening{Server: h.Server, state: state, after: after, q: request{
		user: h.sess.user, protocol: h.sess.protocol, client: h.client, local: addrPort(h.raw.LocalAddr()), session: h.sess.id, pop3: h.settled,
	}}
	o.try = o.attempt
	up, err := o.settle(wait)
	ended := unwatch()
	_, never := handoff.ReasonOf(err)
	switch {
	case err == nil:
		return up, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(context.Cause(wait), errClientGone), ended && !never:
		return nil, errClientGone
	}
	return nil, err
}

// notCarried counts a session that ends here, and says why it does.
func (h *handling) notCarried(ctx context.Context, err error) error {
	reason, ok := handoff.ReasonOf(err)
	switch {
	case ok:
	case errors.Is(err, errDisabled), errors.Is(err, prelogin.ErrAuth):
		reason = handoff.Account
	case errors.Is(err, errKicked), errors.Is(err, errShutdown), errors.Is(err, errClientGone):
		return err
	default:
		reason = handoff.Waited
	}
	h.countNotCarried(ctx, reason, err)
	if errors.Is(err, errDisabled) {
		return err
	}
	return fmt.Errorf("%w: %w", errNotCarried, err)
}

func (h *handling) countNotCarried(ctx context.Context, reason handoff.Reason, err error) {
	reason = carryReason(reason)
	h.metrics.notCarried.WithLabelValues(string(reason)).Inc()
	h.log.LogAttrs(ctx, slog.LevelInfo, "session not carried", slog.String("session", h.sess.id), slog.String("user", string(h.sess.user)),
		slog.String("backend", string(h.up.backend)), slog.String("reason", string(reason)), slog.String("error", err.Error()))
}

// countLoss counts an end that a hand-off would have spared the client.
func (h *handling) countLoss(r *relay, why error) {
	can := r.stream != nil && r.stream.CanHandOff()
	rec, known, _ := h.dir.Location(h.sess.user)
	moved := known && (rec.Home != h.up.backend || rec.Epoch != h.up.epoch)
	var reason handoff.Reason
	switch {
	case errors.Is(why, errNotCarried): // which is counted
	case can && errors.Is(why, frames.ErrLost):
		reason = handoff.Unproven
	case !can && (errors.Is(why, errBackendLost) || errors.Is(why, errBackendEnded) && moved):
		reason = handoff.Foreign
	case can && errors.Is(why, errClientStuck):
		if state, _ := r.stream.HandedOff(); state != nil {
			reason = handoff.SlowClient
		}
	}
	if reason != "" {
		h.countNotCarried(context.Background(), reason, why)
	}
}

// watch looks after a client whose bytes are left where they are: one whose connection
// breaks is lost. One that has ended its side is not: what it asked for before is still
// done. stop ends the watching, and tells of such an end.
func (r *relay) watch(lose context.CancelCauseFunc) (stop func() (ended bool)) {
	raw := newSource(r.client, nil).raw
	if r.gone || raw == nil || r.client.SetReadDeadline(time.Time{}) != nil {
		return func() bool { return r.gone }
	}
	done := make(chan struct{})
	var n int
	var err error
	go func() {
		defer close(done)
		var one [1]byte
		waited := raw.Read(func(fd uintptr) bool {
			for {
				n, _, err = syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
				if err != syscall.EINTR {
					return err != syscall.EAGAIN
				}
			}
		})
		switch {
		case waited != nil: // stop, or closed by the server
			n = 1
		case err != nil:
			lose(errClientGone)
		}
	}()
	return func() bool {
		_ = r.client.SetReadDeadline(past) // closed: there is nothing to stop
		<-done
		return n == 0
	}
}

// resumeAt resumes a session on its home, when there is a place.
func (o *opening) resumeAt(ctx context.Context, rec director.Record, b director.Backend) (*upstream, error) {
	if b.Kind != director.KindWaypost {
		return nil, &handoff.Error{Reason: handoff.Foreign, Err: fmt.Errorf("backend %s is of kind %q", rec.Home, b.Kind)}
	}
	leave, err := o.resumes.enter(ctx, rec.Home)
	if err != nil {
		return nil, err
	}
	stream, err := o.resumeStream(ctx, rec.Home, b.Node, o.q.hello(rec))
	leave(err == nil || answers(err) || ctx.Err() != nil)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", rec.Home, err)
	}
	return &upstream{conn: stream, backend: rec.Home}, nil
}

// answers tells whether an error is a backend's answer.
func answers(err error) bool {
	return final(err) || errors.Is(err, errStale) || errors.Is(err, errBusy) || errors.Is(err, errRefused)
}

// resumeStream is openStream for a session that goes on. Once its state has been sent
// there is no second try without an answer, unless it is quiet: then it does nothing before it
// hears more, which it does from who was answered only.
func (o *opening) resumeStream(ctx context.Context, id director.BackendID, addr string, hello wire.Hello) (stream *frames.Stream, err error) {
	for range 2 {
		var link *frames.Client
		if link, err = o.resumeLink(ctx, id, addr); err != nil {
			return nil, err
		}
		var w wire.Welcome
		hello.Try = o.tries.Add(1)
		stream, w, err = link.Resume(ctx, hello, o.state)
		reason := handoff.Reason("")
		switch {
		case err == nil && stream != nil:
			return stream, nil
		case err == nil && w.Status == wire.StatusUnresumable:
			return nil, &handoff.Error{Reason: handoff.Reason(w.Text)}
		case err == nil:
			return nil, fmt.Errorf("%w: %s", statusError(w), w.Text)
		case errors.Is(err, frames.ErrOutcome) && !handoff.Quiet(o.state):
			reason = handoff.Lost
		case errors.Is(err, frames.ErrNoHandOff):
			reason = handoff.Foreign
		case errors.Is(err, frames.ErrTooBig):
			reason = handoff.TooBig
		}
		if errors.Is(err, context.DeadlineExceeded) {
			link.Retire() // whoever comes next finds out whether it is the connection
		}
		if reason != "" {
			return nil, &handoff.Error{Reason: reason, Err: err}
		}
		if ctx.Err() != nil {
			return nil, err
		}
	}
	return nil, err
}

// resumeLink gives the connection to resume on.
func (o *opening) resumeLink(ctx context.Context, id director.BackendID, addr string) (*frames.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, o.cfg.OpenTimeout)
	defer cancel()
	link, err := o.links.get(ctx, id, addr, o.after)
	if errors.Is(err, frames.ErrPlain) {
		return nil, &handoff.Error{Reason: handoff.Foreign, Err: err}
	}
	return link, err
}
