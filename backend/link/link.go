// Package link is the connection of a session of POP3 or ManageSieve on a backend:
// every read and write has a deadline, what is buffered is sent before the client is
// waited for, and reading stops when the mailbox is no longer served here, while an
// answer under way may still be sent for a bounded time. A Link belongs to the
// session's goroutine; it has one of its own, which Wait waits for.
//
// Over a connection that can (a frames.Stream) it hands the session off, and makes
// checkpoints of it while the client is silent.
package link

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// longAgo is a deadline that ends a read or write at once.
var longAgo = time.Unix(1, 0)

// farewellWait and farewellBytes bound the wait for a client that has not seen
// yet that we are gone.
const (
	farewellWait  = 2 * time.Second
	farewellBytes = 64 << 10
)

// Options bound a Link.
type Options struct {
	// Write is how long the client may take for what one write sends.
	Write time.Duration
	// Linger is how long an answer may still be sent after done.
	Linger time.Duration
	// Buffers are for what is written, shared by a server's sessions; nil: the Link has
	// its own.
	Buffers *Buffers
	// Moved and Idle are what Read fails with after done, and when the client was
	// silent beyond Allow.
	Moved, Idle error
	// Before is what the client sent elsewhere: it is read first.
	Before []byte
	// Checkpoints, shared by a server's sessions, and State are for checkpoints: State
	// gives the session's state as it is while it rests, or nil if there is to be none. It
	// is called on another goroutine, while the session waits in Read.
	Checkpoints *Checkpoints
	State       func() []byte
	// Points are for checkpoints that do not wait for a silence. They are made on the session's
	// goroutine.
	Points Points
}

// Link is the client's connection, for reading.
type Link struct {
	net.Conn
	ctx  context.Context
	done <-chan struct{}
	opt  Options
	// Out is for writing.
	Out *Writer
	// Sent and received count the bytes on the connection.
	Sent, received int64

	until   time.Time
	resting bool
	spot    *spot // nil: no checkpoints
	// lastWrite, in Unix nanoseconds, is when writing ends; 0: not yet known.
	lastWrite atomic.Int64

	watcher sync.WaitGroup
}

// New takes conn over until ctx ends. done is closed when the mailbox is no longer
// served at the session's epoch.
func New(ctx context.Context, conn net.Conn, done <-chan struct{}, opt Options) *Link {
	l := &Link{Conn: conn, ctx: ctx, done: done, opt: opt}
	if opt.Buffers == nil {
		opt.Buffers = new(Buffers)
	}
	l.Out = &Writer{to: timedWriter{l}, buffers: opt.Buffers}
	l.watcher.Go(l.watch)
	if h, ok := conn.(handOffer); ok && opt.Checkpoints != nil && h.CanHandOff() {
		l.spot = &spot{conn: h, state: opt.State}
		opt.Checkpoints.add(l.spot)
	}
	return l
}

// watch ends a read that must not go on. ctx ends in the end.
func (l *Link) watch() {
	select {
	case <-l.done:
		l.lastWrite.Store(time.Now().Add(l.opt.Linger).UnixNano())
		_ = l.SetReadDeadline(longAgo) // fails on a closed connection, where no read waits
		<-l.ctx.Done()
	case <-l.ctx.Done():
	}
	_ = l.SetDeadline(longAgo)
}

// Wait returns when the Link's goroutine has ended; ctx must have.
func (l *Link) Wait() {
	if l.spot != nil {
		l.opt.Checkpoints.remove(l.spot)
	}
	l.watcher.Wait()
}

// CanHandOff tells whether HandOff is of use.
func (l *Link) CanHandOff() bool {
	h, ok := l.Conn.(handOffer)
	return ok && h.CanHandOff() && l.ctx.Err() == nil
}

// HandOff sends what is buffered, and then lets go of the session. Without an error nothing may
// be read or written afterwards.
func (l *Link) HandOff(state []byte) error {
	if err := l.Out.Flush(); err != nil {
		return err
	}
	return l.Conn.(handOffer).HandOff(state) // as CanHandOff says
}

// Stopped says why no further command may be begun, if so.
func (l *Link) Stopped() error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	select {
	case <-l.done:
		return l.opt.Moved
	default:
		return nil
	}
}

// Allow gives the client so long for what is read next. resting: all that was read was
// dealt with.
func (l *Link) Allow(d time.Duration, resting bool) {
	l.until, l.resting = time.Now().Add(d), resting
}

// Left is what is left of what was allowed.
func (l *Link) Left() time.Duration { return time.Until(l.until) }

// Read is for the session's bufio.Reader. It sets its deadline first and looks
// for a stop afterwards: watch does it the other way round, so that between them
// a stop is never missed.
func (l *Link) Read(p []byte) (int, error) {
	pointed := l.resting && len(l.opt.Before) == 0 && l.point()
	if err := l.Out.Flush(); err != nil {
		return 0, err
	}
	if err := l.SetReadDeadline(l.until); err != nil {
		return 0, err
	}
	if err := l.Stopped(); err != nil {
		return 0, err
	}
	if len(l.opt.Before) > 0 {
		n := copy(p, l.opt.Before)
		if l.opt.Before = l.opt.Before[n:]; len(l.opt.Before) == 0 {
			l.opt.Before = nil // and its memory is given back
		}
		return n, nil
	}
	n, err := l.receive(p, pointed)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	if err := l.Stopped(); err != nil {
		return n, err
	}
	return n, l.opt.Idle
}

func (l *Link) receive(p []byte, pointed bool) (int, error) {
	if l.resting && l.spot != nil && !pointed {
		l.spot.rest(l.received, l.Sent)
		defer l.spot.work()
	}
	l.resting = false
	n, err := l.Conn.Read(p)
	l.received += int64(n)
	return n, err
}

// Before is what is left of Options.Before.
func (l *Link) Before() []byte { return l.opt.Before }

// timedWriter is below Link.Out.
type timedWriter struct{ *Link }

func (w timedWriter) Write(p []byte) (int, error) {
	deadline := time.Now().Add(w.opt.Write)
	if last := w.lastWrite.Load(); last != 0 && time.Unix(0, last).Before(deadline) {
		deadline = time.Unix(0, last)
	}
	if err := w.SetWriteDeadline(deadline); err != nil {
		return 0, err
	}
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.Conn.Write(p)
	w.Sent += int64(n)
	return n, err
}

// Part sends what is buffered and then our end, and waits for the client's for a
// moment: closing over bytes that were not read would be a reset, which can
// destroy what the client has not read yet.
func (l *Link) Part() {
	if l.Out.Flush() != nil {
		return
	}
	half, ok := l.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	if l.SetReadDeadline(time.Now().Add(farewellWait)) == nil && l.ctx.Err() == nil {
		_, _ = io.CopyN(io.Discard, l.Conn, farewellBytes) // whatever it says is too late
	}
}

// KeepAlive lets the system notice a proxy whose machine died. The connection
// may be TLS over TCP.
func KeepAlive(conn net.Conn) {
	if outer, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = outer.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		// What cannot be set leaves the idle time-out in charge.
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4,
		})
	}
}
