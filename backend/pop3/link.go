package pop3

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

// link is a connection on which every read and write has a deadline, which
// sends what is buffered before it waits for the client, and which stops
// reading once the box is done. A write that is under way may go on then, for
// Options.Linger.
type link struct {
	conn net.Conn
	ctx  context.Context
	done <-chan struct{}
	opt  *Options
	out  *bufio.Writer

	// until is the deadline of the command line that is being read, sent the
	// bytes written. Both are the session's goroutine's.
	until time.Time
	sent  int64
	// lingerEnd is when writing ends, in Unix nanoseconds, once the box is done.
	lingerEnd atomic.Int64

	watcher sync.WaitGroup
}

func newLink(ctx context.Context, conn net.Conn, done <-chan struct{}, opt *Options) *link {
	l := &link{conn: conn, ctx: ctx, done: done, opt: opt}
	l.out = bufio.NewWriterSize(deadlineWriter{l}, 4<<10)
	l.watcher.Go(l.watch)
	return l
}

// watch wakes a read that must not go on. Serve ends ctx in the end.
func (l *link) watch() {
	select {
	case <-l.done:
		l.lingerEnd.Store(time.Now().Add(l.opt.Linger).UnixNano())
		l.conn.SetReadDeadline(longAgo)
		<-l.ctx.Done()
	case <-l.ctx.Done():
	}
	l.conn.SetDeadline(longAgo)
}

// stopped says why no further command may be begun, if so.
func (l *link) stopped() error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	select {
	case <-l.done:
		return ErrMoved
	default:
		return nil
	}
}

// Read implements io.Reader for the session's bufio.Reader. The stop signals
// are looked at after the deadline is set, so that watch's deadline, which
// comes after its signal, is never overwritten unseen.
func (l *link) Read(p []byte) (int, error) {
	if err := l.out.Flush(); err != nil {
		return 0, err
	}
	if err := l.conn.SetReadDeadline(l.until); err != nil {
		return 0, err
	}
	if err := l.stopped(); err != nil {
		return 0, err
	}
	n, err := l.conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if err = l.stopped(); err == nil {
			err = ErrIdle
		}
	}
	return n, err
}

// deadlineWriter is what the session's bufio.Writer writes to.
type deadlineWriter struct{ *link }

func (w deadlineWriter) Write(p []byte) (int, error) {
	deadline := time.Now().Add(w.opt.Write)
	if end := w.lingerEnd.Load(); end != 0 {
		if linger := time.Unix(0, end); linger.Before(deadline) {
			deadline = linger
		}
	}
	if err := w.conn.SetWriteDeadline(deadline); err != nil {
		return 0, err
	}
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.conn.Write(p)
	w.sent += int64(n)
	return n, err
}

// farewell sends what is buffered and then our end, and waits for the client's
// for a moment: closing over unread commands would be a reset, which can
// destroy the end of a message that the client has not read yet.
func (l *link) farewell() {
	if l.out.Flush() != nil {
		return
	}
	half, ok := l.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	l.conn.SetReadDeadline(time.Now().Add(farewellWait))
	if l.ctx.Err() == nil {
		io.CopyN(io.Discard, l.conn, farewellBytes)
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
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4,
		})
	}
}
