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
	record
	// wait is how long the next read may take; it rolls within a command.
	wait time.Duration
	// atRest: the client may take its time, since rested.
	atRest bool
	rested time.Time

	rmu    sync.Mutex // guards the deadline of reads, and:
	why    ending     // endNone until somebody wants the session to end
	closed bool
	// lastly is until when a command that cannot be carried may be read although the session is to
	// end, because its place goes on serving for so long; see endStopping.
	lastly time.Time
	// resting: the goroutine is in a read at rest, and touches nothing of its own.
	resting bool

	// cut: the network connection was closed over the session's head.
	cut           atomic.Bool
	read, written atomic.Int64
}

func newConn(nc net.Conn, limits Limits, inputs *sync.Pool) *conn {
	return &conn{Conn: nc, limits: limits, inputs: inputs, wait: limits.Idle}
}

// past interrupts a read.
func past() time.Time { return time.Unix(1, 0) }

// end asks for the session's end before its next command. The first reason counts; where that was
// endStopping, another one ends what is still read.
func (c *conn) end(why ending) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	switch {
	case c.why == endNone:
		c.why = why
		if why == endStopping {
			// Before the connection is cut there is to be time for a BYE.
			c.lastly = time.Now().Add(c.limits.Grace - c.limits.Grace/6)
		}
	case why != endStopping:
		c.lastly = time.Time{}
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

// rest is called between two commands: what was recorded of the one before is forgotten.
func (c *conn) rest() {
	c.forget()
	c.forgot = false
	c.relax()
}

// relax is called where the client may take its time: an input buffer that is empty is given
// back.
func (c *conn) relax() {
	c.wait, c.atRest = c.limits.Idle, true
	if len(c.in) == 0 {
		c.spill()
		c.in, c.begun = nil, nil
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
			c.atRest, c.rested, c.waited = false, time.Time{}, 0
			c.announced(line)
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
	c.spill()
	var room []byte
	switch {
	case len(c.in) == 0 && c.store == nil:
		return c.moreInto(c.first[:], 0)
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
	return c.moreInto(room, have)
}

// moreInto reads behind what room has.
func (c *conn) moreInto(room []byte, have int) error {
	// Before the read: while it waits, others may look.
	c.in = room[:have]
	c.begun = c.in
	n, err := c.fill(room[have:])
	c.in = room[:have+n]
	c.begun = c.in
	return err
}

// Read implements syntax.Input: bytes of a literal.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.in) > 0 {
		n := copy(p, c.in)
		c.in = c.in[n:]
		c.sending.Add(-int64(n))
		return n, nil
	}
	c.wait = c.limits.Literal
	c.spill()
	n, err := c.fill(p)
	c.sending.Add(-int64(n))
	c.note(p[:n])
	return n, err
}

// fill reads some bytes from the network, at least one.
func (c *conn) fill(p []byte) (int, error) {
	rests := c.atRest
	if rests {
		// Before anybody looks, who may write while we wait: what he adds, he tells of.
		c.setResting(true)
		defer c.setResting(false)
	}
	if err := c.blocking(); err != nil {
		return 0, err
	}
	for {
		until, err := c.allow()
		if err != nil {
			return 0, err
		}
		n, err := c.Conn.Read(p)
		if rests {
			c.setResting(false) // before the count: who looks sees both, or neither
		}
		c.read.Add(int64(n))
		switch {
		case n > 0:
			return n, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			if c.lost.Load() && time.Now().Before(until) {
				continue // it was the end that was asked for
			}
			c.end(endIdle) // which changes no reason where an end was asked for
			return 0, errEnded
		case err == nil:
			err = io.ErrNoProgress
		}
		return 0, &connError{err}
	}
}

// allow gives a read its deadline, or says that the session must end.
func (c *conn) allow() (until time.Time, err error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	now := time.Now()
	lastly := c.why != endNone
	if c.closed || lastly && !(c.lost.Load() && now.Before(c.lastly)) {
		return until, errEnded
	}
	if c.atRest && c.rested.IsZero() {
		c.rested = now
	}
	until = now.Add(c.wait)
	if c.waited > 0 {
		// Elsewhere it has been silent for some time; it is to have some here.
		until = now.Add(max(c.wait-c.waited, min(c.wait, leastWait)))
		c.rested, c.waited = now.Add(-c.waited), 0
	}
	if lastly && c.lastly.Before(until) {
		until = c.lastly
	}
	c.Conn.SetReadDeadline(until)
	return until, nil
}

func (c *conn) setResting(on bool) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	c.resting = on
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
	c.forget()
	if c.store != nil {
		c.in, c.begun = nil, nil
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
	s *session
}

// Continue implements syntax.Input: the client waits for leave to send a literal.
func (i input) Continue() error {
	i.s.way.Granted++
	return i.s.out.Raw("+ OK").CRLF().Flush()
}
