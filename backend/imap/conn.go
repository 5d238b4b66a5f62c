package imap

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// conn stands between the client's connection and the protocol library.
//
//   - Responses are collected and go out in large writes: when the library
//     comes back to read, when the buffer is full, or at flush.
//   - Input is handed over a line or a literal at a time, so that conn always
//     knows where commands begin (see frame): a session ends between two
//     commands, and a library that lost its place is cut off.
//   - Deadlines are conn's own. The library's calls only tell what it is about
//     to read.
//
// Read and SetReadDeadline belong to the library's one reading goroutine,
// Write and Close may come from others as well.
type conn struct {
	net.Conn
	limits Limits
	pool   *sync.Pool // of *[]byte, chunkSize long
	// bye writes a BYE and closes; it is called without locks.
	bye func(ending)

	// The reading goroutine's own.
	br    *bufio.Reader
	in    frame
	fresh bool // the next byte begins a command, or ends IDLE
	until time.Time
	roll  time.Duration // > 0: each read has this long

	continued atomic.Bool // a continuation request was written

	rmu    sync.Mutex // guards the deadline of reads, and:
	why    ending     // endNone until somebody wants the session to end
	closed bool

	wmu  sync.Mutex // held while writing to the network
	out  *[]byte
	used int
	werr error

	read, written atomic.Int64
	gone          chan struct{} // closed by Close
}

// chunkSize is the size of a network write.
const chunkSize = 32 << 10

func newConn(nc net.Conn, limits Limits, pool *sync.Pool) *conn {
	return &conn{Conn: nc, limits: limits, pool: pool, br: bufio.NewReader(nc), gone: make(chan struct{})}
}

// past interrupts a read.
func past() time.Time { return time.Unix(1, 0) }

// end asks for the session's end before its next command. The first reason
// counts.
func (c *conn) end(why ending) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if c.why == endNone {
		c.why = why
	}
	if !c.closed {
		c.Conn.SetReadDeadline(past())
	}
}

// ending gives the reason that end was called with.
func (c *conn) ending() ending {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	return c.why
}

// SetReadDeadline is how the library tells what comes next: over ten minutes
// before each command and in IDLE, minutes in an APPEND's literal, seconds
// inside a command.
func (c *conn) SetReadDeadline(t time.Time) error {
	wait := time.Until(t)
	c.roll = 0
	switch {
	case wait > 10*time.Minute:
		c.fresh = true
		c.until = time.Now().Add(c.limits.Idle)
	case wait > time.Minute:
		c.roll = wait
	default:
		c.until = t
	}
	return nil
}

// SetWriteDeadline does nothing: each network write has its own.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline does nothing; see SetReadDeadline.
func (c *conn) SetDeadline(time.Time) error { return nil }

// stop ends the session from inside a read.
func (c *conn) stop(why ending) (int, error) {
	c.end(why)
	c.bye(c.ending())
	return 0, net.ErrClosed
}

// Read gives some bytes of one line or of one literal.
func (c *conn) Read(p []byte) (int, error) {
	if err := c.flush(); err != nil {
		return 0, err
	}
	if c.fresh {
		if c.in.tooBig() {
			return c.stop(endTooBig)
		}
		refused := c.in.pending && !c.in.nonSync && !c.continued.Load()
		if c.in.unfinished() && !refused {
			return c.stop(endBug)
		}
		c.in.reset()
		c.fresh = false
		c.continued.Store(false)
	}
	if why := c.ending(); why != endNone {
		return c.stop(why)
	}
	if c.in.pending {
		if c.in.tooBig() {
			return c.stop(endTooBig)
		}
		if !c.in.nonSync && !c.continued.Load() {
			// The library refused the literal and reads on, but the client
			// waits for an answer: the line ends here.
			c.in.pending = false
			return copy(p, "\r\n"), nil
		}
		c.in.begin()
		c.continued.Store(false)
	}
	if c.in.left > 0 {
		return c.literal(p)
	}
	b, err := c.peek()
	if err != nil {
		return 0, err
	}
	n, bad := c.in.line(b[:min(len(b), len(p))])
	if bad != "" {
		return c.stop(endBug)
	}
	copy(p, b[:n])
	return c.discard(n)
}

func (c *conn) discard(n int) (int, error) {
	n, err := c.br.Discard(n)
	c.read.Add(int64(n))
	return n, err
}

// literal reads bytes of a literal; one that is cut off is an error, else a
// message would be stored that is not whole.
func (c *conn) literal(p []byte) (int, error) {
	b, err := c.peek()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, err
	}
	n := copy(p, b[:min(int64(len(b)), c.in.left)])
	c.in.left -= int64(n)
	return c.discard(n)
}

// peek waits for input and gives what there is, at least a byte.
func (c *conn) peek() ([]byte, error) {
	if c.br.Buffered() == 0 {
		if err := c.wait(); err != nil {
			return nil, err
		}
	}
	return c.br.Peek(c.br.Buffered())
}

func (c *conn) wait() error {
	c.rmu.Lock()
	if c.why == endNone && !c.closed {
		until := c.until
		if c.roll > 0 {
			until = time.Now().Add(c.roll)
		}
		c.Conn.SetReadDeadline(until)
	}
	c.rmu.Unlock()
	_, err := c.br.Peek(1)
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	_, err = c.stop(endIdle) // which does nothing where an end was asked for
	return err
}

// Write collects p.
func (c *conn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if c.werr != nil {
		return 0, c.werr
	}
	if len(p) > 0 && p[0] == '+' {
		// The library writes continuation requests by themselves. Where it is
		// the begin of some data instead, no literal is pending.
		c.continued.Store(true)
	}
	if len(p) > chunkSize/2 || c.used+len(p) > chunkSize {
		c.send()
	}
	if len(p) > chunkSize/2 {
		c.put(p)
	} else if c.werr == nil {
		if c.out == nil {
			c.out = c.pool.Get().(*[]byte)
		}
		c.used += copy((*c.out)[c.used:], p)
	}
	if c.werr != nil {
		return 0, c.werr
	}
	return len(p), nil
}

// flush sends what was collected.
func (c *conn) flush() error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.send()
	return c.werr
}

// send empties the buffer; the caller holds wmu.
func (c *conn) send() {
	if c.used > 0 {
		c.put((*c.out)[:c.used])
		c.used = 0
	}
	if c.out != nil {
		c.pool.Put(c.out)
		c.out = nil
	}
}

// put writes to the network; each chunk must get away within the limit. The
// caller holds wmu.
func (c *conn) put(p []byte) {
	for len(p) > 0 && c.werr == nil {
		chunk := p[:min(len(p), chunkSize)]
		c.Conn.SetWriteDeadline(time.Now().Add(c.limits.Write))
		n, err := c.Conn.Write(chunk)
		c.written.Add(int64(n))
		c.werr = err
		p = p[len(chunk):]
	}
}

// abort ends the connection where not even a BYE can be said: inside of a
// literal.
func (c *conn) abort(why ending) {
	c.end(why)
	c.wmu.Lock()
	if c.werr == nil {
		c.werr = net.ErrClosed
	}
	c.wmu.Unlock()
	c.Close()
}

// Close sends what was collected and ends the session's use of the network
// connection; closing that is Serve's.
func (c *conn) Close() error {
	c.wmu.Lock()
	c.send()
	if c.werr == nil {
		c.werr = net.ErrClosed
	}
	c.wmu.Unlock()
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if !c.closed {
		c.closed = true
		c.Conn.SetReadDeadline(past())
		close(c.gone)
	}
	return nil
}
