// Package quick reads and writes TCP connections with less ado than net does.
//
// Go tells its scheduler of each system call, in case it lasts. Where a process wakes for
// each small message, as one in the middle of a connection does, that costs more than the
// call: the runtime's monitor, which sleeps while nothing happens, is woken each time, polls
// for a millisecond, and takes the processor away from whoever needs 20 µs for a segment. A
// socket that does not block never lasts, so here nobody is told. (A POP3 client that fetches
// message by message through a proxy cost a quarter less of both servers' CPU.)
//
// The price: while the system copies a piece, of at most 64 KiB, the thread can do nothing
// else, nor can a garbage collection begin.
//
// A Conn keeps all promises of net.Conn, with deadlines and errors as net has them, and belongs
// to nobody: whoever has a TCP connection may Wrap it, also below TLS, before it is used.
package quick

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// maxBytes is what one system call takes.
const maxBytes = 64 << 10

// Conn is a TCP connection. It is safe for concurrent use.
type Conn struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out way
}

// way is one direction. What lies in it is the current call's, for a closure made for each
// would be garbage.
type way struct {
	mu      sync.Mutex // held during a call
	attempt func(fd uintptr) bool
	p       []byte
	n       int
	err     syscall.Errno
}

// Wrap gives a Conn for a *net.TCPConn, and everything else as it is.
func Wrap(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c // it is closed; its methods say so
	}
	q := &Conn{TCPConn: tcp, raw: raw}
	q.in.attempt, q.out.attempt = q.in.read, q.out.write
	return q
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return c.TCPConn.Read(p)
	}
	w := &c.in
	w.mu.Lock()
	defer w.mu.Unlock()
	w.p, w.n, w.err = p, 0, 0
	err := c.raw.Read(w.attempt)
	n, errno := w.n, w.err
	w.p = nil
	switch {
	case err != nil:
		return 0, err
	case errno != 0:
		return 0, c.failure("read", errno)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func (w *way) read(fd uintptr) bool {
	w.n, w.err = Read(fd, w.p)
	return w.err != syscall.EAGAIN
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return c.TCPConn.Write(p)
	}
	w := &c.out
	w.mu.Lock()
	defer w.mu.Unlock()
	w.p, w.n, w.err = p, 0, 0
	err := c.raw.Write(w.attempt)
	n, errno := w.n, w.err
	w.p = nil
	if err == nil && errno != 0 {
		err = c.failure("write", errno)
	}
	return n, err
}

func (w *way) write(fd uintptr) bool {
	for w.n < len(w.p) {
		n, err := call(syscall.SYS_WRITE, fd, w.p[w.n:])
		if err == syscall.EAGAIN {
			return false
		}
		if w.err = err; err != 0 {
			return true
		}
		w.n += n
	}
	return true
}

func (c *Conn) failure(op string, errno syscall.Errno) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(op, errno)}
}

// Read reads a socket that does not block once, into p, which is not empty; nothing without an
// error is the end. It is for syscall.RawConn's functions.
func Read(fd uintptr, p []byte) (int, syscall.Errno) { return call(syscall.SYS_READ, fd, p) }

// call makes a system call about some of p until no signal interrupts it.
func call(trap, fd uintptr, p []byte) (int, syscall.Errno) {
	p = p[:min(len(p), maxBytes)]
	for {
		n, _, err := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch err {
		case 0:
			return int(n), 0
		case syscall.EINTR:
		default:
			return 0, err
		}
	}
}
