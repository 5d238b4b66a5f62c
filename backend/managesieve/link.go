package managesieve

import (
	"bufio"
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

// link is the client's connection. It gives every read the deadline until, sends
// what is buffered before it waits for the client, and stops reading once the
// scripts are done; an answer may still be sent then, for Options.Linger.
type link struct {
	net.Conn
	ctx  context.Context
	done <-chan struct{}
	opt  *Options
	out  *bufio.Writer

	// until and sent are the session's goroutine's.
	until time.Time
	sent  int64
	// lastWrite, in Unix nanoseconds, is when writing ends; 0: not yet known.
	lastWrite atomic.Int64

	watcher sync.WaitGroup
}

func newLink(ctx context.Context, conn net.Conn, done <-chan struct{}, opt *Options) *link {
	l := &link{Conn: conn, ctx: ctx, done: done, opt: opt}
	l.out = bufio.NewWriterSize(timedWriter{l}, 4<<10)
	l.watcher.Go(l.watch)
	return l
}

// watch ends a read that must not go on. Serve ends ctx in the end.
func (l *link) watch() {
	select {
	case <-l.done:
		l.lastWrite.Store(time.Now().Add(l.opt.Linger).UnixNano())
		_ = l.SetReadDeadline(longAgo) // fails on a closed connection, where no read waits
		<-l.ctx.Done()
	case <-l.ctx.Done():
	}
	_ = l.SetDeadline(longAgo)
}

// stopped says why no further command may be begun, if so.
func (l *link) stopped() error {
	select {
	case <-l.ctx.Done():
		return l.ctx.Err()
	case <-l.done:
		return ErrMoved
	default:
		return nil
	}
}

// allow gives the client so long for what is read next.
func (l *link) allow(d time.Duration) { l.until = time.Now().Add(d) }

// Read is for the session's bufio.Reader. It sets its deadline first and looks
// for a stop afterwards: watch does it the other way round, so that between them
// a stop is never missed.
func (l *link) Read(p []byte) (int, error) {
	if err := l.out.Flush(); err != nil {
		return 0, err
	}
	if err := l.SetReadDeadline(l.until); err != nil {
		return 0, err
	}
	if err := l.stopped(); err != nil {
		return 0, err
	}
	n, err := l.Conn.Read(p)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	if err := l.stopped(); err != nil {
		return n, err
	}
	return n, ErrIdle
}

// timedWriter is below link.out.
type timedWriter struct{ *link }

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
	w.sent += int64(n)
	return n, err
}

// part sends what is buffered and then our end, and waits for the client's for a
// moment: closing over bytes that were not read would be a reset, which can
// destroy what the client has not read yet.
func (l *link) part() {
	if l.out.Flush() != nil {
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

// keepAlive lets the system notice a proxy whose machine died. The connection
// may be TLS over TCP.
func keepAlive(conn net.Conn) {
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
