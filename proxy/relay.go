package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"waypost/internal/frames"
	"waypost/internal/stack"
)

// Ends of a session, as causes of its context and results of a relay.
var (
	errKicked       = errors.New("kicked")
	errDisabled     = errors.New("account disabled")
	errShutdown     = errors.New("shutdown")
	errIdle         = errors.New("idle")
	errClientGone   = errors.New("client gone")
	errClientStuck  = errors.New("client takes no bytes")
	errBackendLost  = errors.New("backend lost")
	errBackendEnded = errors.New("backend ended")
	// errHandedOff is no end: the backend has let go of the session.
	errHandedOff = errors.New("handed off")
	// errClientDeflate: what came compressed is no deflate stream, or was sent plain
	// where RFC 4978, Section 3, wants the answer to COMPRESS waited for.
	errClientDeflate = errors.New("client's compression is broken")
	// errUpDone ends the way up alone.
	errUpDone = errors.New("nothing more goes up")
)

const (
	// partingGrace is how long the last words may take.
	partingGrace = 2 * time.Second
	// halfClosed bounds the silence of a backend whose client has said all.
	halfClosed = time.Minute
)

// relay copies a session's bytes both ways until one side ends it. It runs once for each
// backend that has the session.
type relay struct {
	client, backend         net.Conn
	toBackend, toClient     []byte // what was read before the relay began
	bytesIn, bytesOut       func(int)
	idleAfter, writeTimeout time.Duration
	buffers                 *bufferPool
	// border follows the stream to an IMAP client; nil for others.
	border *border
	packing

	start    time.Time
	lastSeen atomic.Int64 // nanoseconds after start: the last byte either way
	// ending is how long the backend may still be silent, once the client has
	// said all or the backend takes no more; 0 before.
	ending atomic.Int64
	// refusal is why the client's bytes could not be given on; pumpUp's own.
	refusal error
	// gone is set when the client has ended its side; pumpUp's own.
	gone bool
	// pausing asks pumpUp to leave the client's bytes where they are, and woken wakes it
	// where it does not read.
	pausing atomic.Bool
	woken   chan struct{}
	// armedUp and armedDown are when the deadlines of writing were set, after start;
	// each is its pump's own.
	armedUp, armedDown time.Duration
	ctx                context.Context
	stop               context.CancelCauseFunc
}

// run returns why the session ended, or cannot go on here. The connections are left to the
// caller to close; nothing of run uses them any more.
func (r *relay) run(ctx context.Context) error {
	r.start = time.Now()
	r.lastSeen.Store(0)
	r.ending.Store(0)
	r.pausing.Store(false)
	r.refusal, r.armedUp, r.armedDown, r.woken = nil, 0, 0, make(chan struct{}, 1)
	r.ctx, r.stop = context.WithCancelCause(ctx)
	defer r.stop(nil)
	// cut interrupts both pumps. Whoever sets a deadline looks at ctx after it,
	// so that none is set over these and missed.
	cut := make(chan struct{})
	unhook := context.AfterFunc(r.ctx, func() {
		defer close(cut)
		r.cut()
	})
	up := make(chan struct{})
	go func() {
		defer close(up)
		stack.Grow()
		r.pumpUp()
	}()
	why := r.pumpDown()
	if r.goesOn(why) {
		r.pause()
	} else {
		r.stop(why)
	}
	<-up
	r.toBackend, r.toClient = nil, nil
	if !unhook() {
		<-cut
		return context.Cause(r.ctx)
	}
	return why
}

// goesOn tells whether another backend, or this one again, can have the session.
func (r *relay) goesOn(why error) bool {
	if errors.Is(why, errHandedOff) {
		return true
	}
	if r.stream == nil || !errors.Is(why, frames.ErrLost) {
		return false
	}
	_, _, ok := r.stream.LastCheckpoint()
	return ok
}

// pause stops pumpUp, and nothing else: what the client says from now on stays where it is.
func (r *relay) pause() {
	r.pausing.Store(true)
	_ = r.client.SetReadDeadline(past) // closed: pumpUp hears of it
	r.wake()
}

func (r *relay) wake() {
	select {
	case r.woken <- struct{}{}:
	default: // it is to be woken already
	}
}

func (r *relay) cut() {
	// A connection that cannot take a deadline is closed already.
	_ = r.client.SetReadDeadline(past)
	_ = r.client.SetWriteDeadline(time.Now().Add(partingGrace))
	_ = r.backend.SetDeadline(past)
}

// pumpUp copies from the client. It ends the relay only when the client is
// gone: what the backend still has to say is said to a client that only closed
// its half.
func (r *relay) pumpUp() {
	r.refusal = r.giveHeld()
	err := r.refusal
	if err == nil && !r.gone {
		err = r.pump(r.client, r.toBackend, r.take)
		if r.gone = errors.Is(err, io.EOF); r.gone {
			err = nil
		}
	}
	if err == nil {
		err = r.end()
	}
	if r.refusal != nil {
		err = r.refusal
	}
	switch {
	case errors.Is(err, errClientDeflate):
		r.stop(errClientDeflate)
	case errors.Is(err, errUpDone), errors.Is(err, frames.ErrHandOff), errors.Is(err, frames.ErrLost):
		// pumpDown hears why, behind all that the backend has said
	case r.refusal != nil: // nobody reads at the backend; pumpDown hears why
		r.expect(partingGrace)
	case errors.Is(err, errIdle):
		r.stop(errIdle)
	default:
		r.stop(errClientGone)
	}
}

// take gives on what came from the client.
func (r *relay) take(p []byte) error {
	r.refusal = r.up(p)
	r.bytesIn(len(p))
	return r.refusal
}

// end tells the backend that the client sends no more, and once more if compression began
// meanwhile: what the client had sent before its end is deflated then.
func (r *relay) end() error {
	for {
		if err := r.hangUp(); err != nil {
			return err
		}
		r.expect(halfClosed)
		if r.stream == nil || r.inflater != nil || !r.stream.CanHandOff() {
			return errUpDone
		}
		select {
		case <-r.woken:
		case <-r.ctx.Done():
		}
		if !r.switchDue() || r.pausing.Load() || r.ctx.Err() != nil {
			return errUpDone
		}
	}
}

// expect gives the backend so long to say something.
func (r *relay) expect(d time.Duration) {
	r.ending.Store(int64(d))
	if err := r.armRead(r.backend, d); err != nil {
		r.stop(errBackendLost)
	}
}

// pumpDown copies from the backend, and tells why it ended.
func (r *relay) pumpDown() error {
	var stuck error
	err := r.pump(r.backend, r.toClient, func(p []byte) error {
		n, err := r.down(p)
		if err != nil {
			stuck = errClientGone
			if errors.Is(err, os.ErrDeadlineExceeded) {
				stuck = errClientStuck
			}
			return err
		}
		if r.border != nil {
			r.border.see(p)
		}
		r.bytesOut(n)
		return nil
	})
	switch {
	case stuck != nil:
		return stuck
	case errors.Is(err, errIdle) && r.ending.Load() == int64(halfClosed):
		return errClientGone
	case errors.Is(err, errIdle) && r.ending.Load() > 0:
		return errBackendLost
	case errors.Is(err, errIdle):
		return errIdle
	case errors.Is(err, io.EOF):
		return errBackendEnded
	case errors.Is(err, frames.ErrHandOff):
		return errHandedOff
	}
	return fmt.Errorf("%w: %w", errBackendLost, err)
}

// pump copies from c to take until an error, which it returns. first goes
// before anything else.
func (r *relay) pump(c net.Conn, first []byte, take func([]byte) error) error {
	taken := func(p []byte) error {
		r.lastSeen.Store(int64(time.Since(r.start)))
		return take(p)
	}
	if len(first) > 0 {
		if err := taken(first); err != nil {
			return takeError{err}
		}
	}
	s := newSource(c, r.buffers)
	rearm := func() error { return r.armRead(c, r.patience(c)) }
	if err := rearm(); err != nil {
		return err
	}
	for {
		err := s.copyReady(rearm, taken)
		if errors.Is(err, frames.ErrCompress) && !r.deflated {
			r.compress()
			continue
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if cause := context.Cause(r.ctx); cause != nil {
			return cause
		}
		if c == r.client && r.pausing.Load() {
			return errUpDone
		}
		if c == r.client && r.switchDue() {
			if r.refusal = r.inflateUp(nil); r.refusal != nil {
				return takeError{r.refusal}
			}
		}
		if r.left(c) <= 0 {
			return errIdle
		}
		if err := r.armRead(c, r.left(c)); err != nil {
			return err
		}
	}
}

// patience is how long c may be silent.
func (r *relay) patience(c net.Conn) time.Duration {
	if d := r.ending.Load(); d > 0 && c == r.backend {
		return time.Duration(d)
	}
	return r.idleAfter
}

// left is what is left of the patience, since the last byte either way.
func (r *relay) left(c net.Conn) time.Duration {
	return r.patience(c) - (time.Since(r.start) - time.Duration(r.lastSeen.Load()))
}

func (r *relay) armRead(c net.Conn, d time.Duration) error {
	if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	if cause := context.Cause(r.ctx); cause != nil {
		_ = c.SetReadDeadline(past)
		return cause
	}
	if c == r.client && (r.pausing.Load() || r.switchDue()) {
		return c.SetReadDeadline(past) // pause or compress may have been before us
	}
	return nil
}

// write gives up after writeTimeout, or up to a 16th earlier: many writes share a
// deadline.
func (r *relay) write(c net.Conn, p []byte) (int, error) {
	armed := &r.armedUp
	if c == r.client {
		armed = &r.armedDown
	}
	now := max(time.Since(r.start), 1)
	if *armed > 0 && now-*armed < r.writeTimeout/16 {
		return c.Write(p)
	}
	*armed = now
	if err := c.SetWriteDeadline(time.Now().Add(r.writeTimeout)); err != nil {
		return 0, err
	}
	if r.ctx.Err() != nil {
		// What cut set may have been overwritten just now.
		if err := c.SetWriteDeadline(time.Now().Add(partingGrace)); err != nil {
			return 0, err
		}
	}
	return c.Write(p)
}
