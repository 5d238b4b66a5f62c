package imap

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"waypost/backend/imap/syntax"
)

// errEnded: the session must end; why, conn knows.
var errEnded = errors.New("the session must end")

// connError is an error of the connection, not of the mailbox: it ends the session.
type connError struct{ err error }

// Error implements error.
func (e *connError) Error() string { return e.err.Error() }

// Unwrap gives what happened.
func (e *connError) Unwrap() error { return e.err }

// inputSize is the input buffer of a connection that has sent something; one that
// is silent has none.
const inputSize = 4 << 10

// conn is the client's connection: lines and literals of commands for the
// Parser, large writes from the Encoder, a deadline for each read and write.
//
// Reading belongs to the session's goroutine, and so does writing while a command runs; the
// session's lock guards writing at other times. end may be called from anywhere.
type conn struct {
	net.Conn
	limits Limits
	inputs *sync.Pool // of *[]byte, inputSize long
	// blocking is called before a read that may have to wait.
	blocking func() error

	// The reading goroutine's own. in is what was read and not taken; it lies in first, in
	// *store, or in memory of its own where a line is long.
	in    []byte
	first [64]byte
	store *[]byte
	// wait is how long the next read may take; it rolls within a command.
	wait time.Duration

	rmu    sync.Mutex // guards the deadline of reads, and:
	why    ending     // endNone until somebody wants the session to end
	closed bool

	// cut: the network connection was closed over the session's head.
	cut           atomic.Bool
	read, written atomic.Int64
}

func newConn(nc net.Conn, limits Limits, inputs *sync.Pool) *conn {
	return &conn{Conn: nc, limits: limits, inputs: inputs, wait: limits.Idle}
}

// past interrupts a read.
func past() time.Time { return time.Unix(1, 0) }

// end asks for the session's end before its next command. The first reason counts.
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

// rest is called between two commands: an input buffer that is empty is given back, and
// the client may take its time.
func (c *conn) rest() {
	c.wait = c.limits.Idle
	if len(c.in) == 0 {
		c.in = nil
		if c.store != nil {
			c.inputs.Put(c.store)
			c.store = nil
		}
	}
}

// Line implements syntax.Input.
func (c *conn) Line(max int) ([]byte, error) {
	looked := 0
	for {
		if i := bytes.IndexByte(c.in[looked:], '\n'); i >= 0 {
			line := c.in[:looked+i]
			c.in = c.in[looked+i+1:]
			c.wait = c.limits.Command
			if n := len(line); n > 0 && line[n-1] == '\r' {
				line = line[:n-1]
			}
			if len(line) > max {
				return nil, syntax.ErrTooBig
			}
			return line, nil
		}
		looked = len(c.in)
		if looked > max+1 {
			return nil, syntax.ErrTooBig
		}
		if err := c.more(); err != nil {
			return nil, err
		}
	}
}

// more reads behind what c.in has.
func (c *conn) more() error {
	var room []byte
	switch {
	case len(c.in) == 0 && c.store == nil:
		room = c.first[:]
		n, err := c.fill(room)
		c.in = room[:n]
		return err
	case c.store == nil:
		c.store = c.inputs.Get().(*[]byte)
	}
	have := len(c.in)
	if have < inputSize/2 {
		// copy is right where they overlap.
		room = *c.store
		copy(room, c.in)
	} else if cap(c.in)-have < inputSize/4 {
		room = make([]byte, 4*have)
		copy(room, c.in)
	} else {
		room = c.in[:cap(c.in)]
	}
	n, err := c.fill(room[have:])
	c.in = room[:have+n]
	return err
}

// Read implements syntax.Input: bytes of a literal.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.in) > 0 {
		n := copy(p, c.in)
		c.in = c.in[n:]
		return n, nil
	}
	c.wait = c.limits.Literal
	return c.fill(p)
}

// fill reads some bytes from the network, at least one.
func (c *conn) fill(p []byte) (int, error) {
	if err := c.blocking(); err != nil {
		return 0, err
	}
	c.rmu.Lock()
	if c.why != endNone || c.closed {
		c.rmu.Unlock()
		return 0, errEnded
	}
	c.Conn.SetReadDeadline(time.Now().Add(c.wait))
	c.rmu.Unlock()
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	switch {
	case n > 0:
		return n, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.end(endIdle) // which changes nothing where an end was asked for
		return 0, errEnded
	case err == nil:
		err = io.ErrNoProgress
	}
	return 0, &connError{err}
}

// Write sends p; each chunk must get away within the limit.
func (c *conn) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		c.Conn.SetWriteDeadline(time.Now().Add(c.limits.Write))
		n, err := c.Conn.Write(p[sent:min(len(p), sent+writeSize)])
		c.written.Add(int64(n))
		sent += n
		if err != nil {
			return sent, &connError{err}
		}
	}
	return sent, nil
}

// writeSize is how much is written under one deadline: what an Encoder collects.
const writeSize = syntax.ChunkSize

// close makes end harmless; closing the network connection is Serve's.
func (c *conn) close() {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.closed = true
	if c.store != nil {
		c.in = nil
		c.inputs.Put(c.store)
		c.store = nil
	}
}

// replace puts TLS over the connection.
func (c *conn) replace(nc net.Conn) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.Conn = nc
}

// input is the connection as the Parser sees it.
type input struct {
	*conn
	out *syntax.Encoder
}

// Continue implements syntax.Input: the client waits for leave to send a literal.
func (i input) Continue() error { return i.out.Raw("+ OK").CRLF().Flush() }
