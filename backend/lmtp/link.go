package lmtp

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errDraining = errors.New("shutting down")
	// longAgo is a deadline that ends a read at once.
	longAgo = time.Unix(1, 0)
)

// link is a connection on which every read and write has a deadline, which
// sends what is buffered before it waits for the peer, and which lets go when
// it is told to.
type link struct {
	conn   net.Conn
	ctx    context.Context
	drain  <-chan struct{}
	limits Limits
	out    *bufio.Writer // written by the session, sent by Read

	// until, when set, is the deadline of a whole command line; else each read
	// may take Limits.Data. Owned by the session's goroutine.
	until time.Time
	// writeUntil is the deadline of writes that is set.
	writeUntil time.Time
	// idle: between transactions, where draining may end the session.
	idle atomic.Bool

	watcher sync.WaitGroup
}

func newLink(ctx context.Context, conn net.Conn, drain <-chan struct{}, limits Limits) *link {
	l := &link{conn: conn, ctx: ctx, drain: drain, limits: limits}
	l.out = bufio.NewWriterSize(deadlineWriter{l}, 4<<10)
	l.watcher.Go(l.watch)
	return l
}

// watch wakes a read that must not go on. The session ends ctx when it ends.
func (l *link) watch() {
	select {
	case <-l.drain:
		if l.idle.Load() {
			l.conn.SetReadDeadline(longAgo)
		}
		<-l.ctx.Done()
	case <-l.ctx.Done():
	}
	l.conn.SetDeadline(longAgo)
}

// Read implements io.Reader for the session's bufio.Reader. The stop signals
// are looked at after the deadline is set, so that watch's deadline, which
// comes after its signal, is never overwritten unseen.
func (l *link) Read(p []byte) (int, error) {
	if err := l.out.Flush(); err != nil {
		return 0, err
	}
	deadline := l.until
	if deadline.IsZero() {
		deadline = time.Now().Add(l.limits.Data)
	}
	if err := l.conn.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	if err := l.stopped(); err != nil {
		return 0, err
	}
	n, err := l.conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if stop := l.stopped(); stop != nil {
			err = stop
		}
	}
	return n, err
}

func (l *link) stopped() error {
	if l.ctx.Err() != nil {
		return errDraining
	}
	select {
	case <-l.drain:
		if l.idle.Load() {
			return errDraining
		}
	default:
	}
	return nil
}

// deadlineWriter is what the session's bufio.Writer writes to.
type deadlineWriter struct{ *link }

// Write gives the peer Limits.Write at least, and a quarter more at most: so the
// deadline that is set stays for many writes.
func (w deadlineWriter) Write(p []byte) (int, error) {
	now := time.Now()
	deadline := now.Add(w.limits.Write)
	switch {
	case w.ctx.Err() != nil:
		w.writeUntil = now.Add(time.Second) // for the farewell only
	case w.writeUntil.Before(deadline):
		w.writeUntil = deadline.Add(w.limits.Write / 4)
	default:
		return w.conn.Write(p)
	}
	if err := w.conn.SetWriteDeadline(w.writeUntil); err != nil {
		return 0, err
	}
	return w.conn.Write(p)
}
