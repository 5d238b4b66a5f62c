package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// chunkBytes is what one read takes at most: two TLS records.
const chunkBytes = 32 << 10

// bufferPool is shared by all sessions of a Server; a session has one only
// while bytes are on their way.
type bufferPool struct {
	pool  sync.Pool
	inUse atomic.Int64
}

func (b *bufferPool) get() *[chunkBytes]byte {
	b.inUse.Add(1)
	if buf, ok := b.pool.Get().(*[chunkBytes]byte); ok {
		return buf
	}
	return new([chunkBytes]byte)
}

func (b *bufferPool) put(buf *[chunkBytes]byte) {
	b.pool.Put(buf)
	b.inUse.Add(-1)
}

// long ago: a deadline that has passed.
var past = time.Unix(1, 0)

// source reads a connection without holding a buffer while nothing comes. Go's
// own io.Copy would hold one, or a pipe, per direction and session.
type source struct {
	conn    net.Conn
	buffers *bufferPool
	// raw is the TCP connection below, to wait on; nil: it cannot be waited on.
	raw syscall.RawConn
	// waits is set for a connection that can wait by itself.
	waits interface{ WaitRead() error }
	// layered is set when conn may hold bytes that raw has given up already.
	layered bool
	// direct is set for a TCP connection, which is read with one system call; into,
	// got and err are its last attempt's.
	direct bool
	into   *[chunkBytes]byte
	got    int
	err    error
	begun  bool
}

func newSource(c net.Conn, buffers *bufferPool) *source {
	s := &source{conn: c, buffers: buffers}
	s.waits, _ = c.(interface{ WaitRead() error })
	_, s.direct = c.(*net.TCPConn)
	below := c
	if t, ok := c.(*tls.Conn); ok {
		below, s.layered = t.NetConn(), true
	}
	if sc, ok := below.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
	return s
}

// wait returns when a read has something to return, be it an error. The error
// of wait itself is a passed read deadline, or a closed connection.
func (s *source) wait() error {
	if s.waits != nil {
		return s.waits.WaitRead()
	}
	if s.raw == nil {
		return nil
	}
	return s.raw.Read(func(fd uintptr) bool {
		var one [1]byte
		for {
			_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			if err != syscall.EINTR {
				return err != syscall.EAGAIN
			}
		}
	})
}

// copyReady waits and hands what came to take, in pieces of at most chunkBytes
// that are take's during the call. rearm sets the read deadline of a waiting
// connection. Errors are the connection's, rearm's, or a takeError; a passed
// deadline is os.ErrDeadlineExceeded, after which copyReady may be called again.
func (s *source) copyReady(rearm func() error, take func([]byte) error) error {
	if !s.begun {
		// The handshake may have read further than itself.
		s.begun = true
		if err := s.drain(rearm, take, false); err != nil {
			return err
		}
	}
	if s.direct && s.raw != nil {
		return s.readDirect(take)
	}
	if err := s.wait(); err != nil {
		return err
	}
	return s.drain(rearm, take, true)
}

// readDirect waits and reads once.
func (s *source) readDirect(take func([]byte) error) error {
	if err := s.raw.Read(s.attempt); err != nil {
		return err
	}
	buf := s.into
	s.into = nil
	defer s.buffers.put(buf)
	switch {
	case s.err != nil:
		return os.NewSyscallError("read", s.err)
	case s.got == 0:
		return io.EOF
	}
	if err := take(buf[:s.got]); err != nil {
		return takeError{err}
	}
	return nil
}

// attempt reads what there is; without anything it leaves no buffer behind.
func (s *source) attempt(fd uintptr) bool {
	s.into = s.buffers.get()
	for {
		s.got, s.err = syscall.Read(int(fd), s.into[:])
		if s.err != syscall.EINTR {
			break
		}
	}
	if s.err != syscall.EAGAIN {
		return true
	}
	s.buffers.put(s.into)
	s.into = nil
	return false
}

// drain reads once if ready, and then whatever a layered connection holds.
func (s *source) drain(rearm func() error, take func([]byte) error, ready bool) error {
	buf := s.buffers.get()
	defer s.buffers.put(buf)
	if ready {
		if err := s.read(buf[:], take); err != nil {
			return err
		}
	}
	if !s.layered || s.raw == nil {
		return nil
	}
	// With its deadline passed a TLS connection returns the records that it
	// holds, and then the error, which is temporary and harms it not.
	if err := s.conn.SetReadDeadline(past); err != nil {
		return err
	}
	for {
		err := s.read(buf[:], take)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return rearm()
		}
		if err != nil {
			return err
		}
	}
}

// takeError hides what take returned: a write that ran out of time is no read
// that did.
type takeError struct{ err error }

func (e takeError) Error() string { return e.err.Error() }

func (s *source) read(buf []byte, take func([]byte) error) error {
	n, err := s.conn.Read(buf)
	if n > 0 {
		if terr := take(buf[:n]); terr != nil {
			return takeError{terr}
		}
	}
	return err
}
