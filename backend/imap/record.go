package imap

import (
	"bytes"
	"math"
	"sync/atomic"
	"time"
)

const (
	// maxRecord bounds what is recorded of a command, in bytes: it must fit into a state with all
	// else that there is.
	maxRecord = 3 << 20
	// maxRecords bounds what all sessions of a server have recorded.
	maxRecords = 256 << 20
	// leastWait is what is left of the idle timer at least where a session goes on.
	leastWait = 10 * time.Second
)

// record has the bytes of the command under way, from its first one on: who cannot end it has it
// executed elsewhere. It costs nothing as long as they lie in the input buffer.
type record struct {
	// records: the connection can hand its session off; all counts the bytes of all sessions.
	records bool
	all     *atomic.Int64
	// begun is what the input buffer has from the command's first byte on; conn.in is its end.
	// earlier is what was before it, and is not in the buffer any more.
	begun, earlier []byte
	// forgot: the command is not recorded any more: it is too long, or need not be executed again.
	forgot bool
	// sending is what is left of a literal that is being read, in bytes. Who asks (Server.Sending)
	// reads it, and lost, beside the session's goroutine.
	sending atomic.Int64
	// lost: it is too long. It can only end here, or be cut.
	lost atomic.Bool
	// waited is how long the client was silent before the session came here.
	waited time.Duration
}

// spill is called before the input buffer is used for something else: what was taken of it is
// kept.
func (c *conn) spill() {
	c.note(c.begun[:len(c.begun)-len(c.in)])
	c.begun = c.in
}

// note records bytes that were taken: until they are too many, whatever was announced.
func (c *conn) note(p []byte) {
	if !c.records || c.forgot || len(p) == 0 {
		return
	}
	if !c.room(len(c.earlier) + len(p)) {
		c.forget()
		c.lost.Store(true)
		return
	}
	c.earlier = append(c.earlier, p...)
}

// room sees to it that n bytes can be recorded, if so many may be. What is reserved doubles, up to
// the bound, and all of it counts.
func (c *conn) room(n int) bool {
	switch {
	case n <= cap(c.earlier):
		return true
	case n > maxRecord:
		return false
	}
	size := min(max(2*cap(c.earlier), n), maxRecord)
	if more := int64(size - cap(c.earlier)); c.all.Add(more) > maxRecords {
		c.all.Add(-more)
		return false
	}
	grown := make([]byte, len(c.earlier), size)
	copy(grown, c.earlier)
	c.earlier = grown
	return true
}

// forget ends the recording of the command under way; rest begins that of the next one.
func (c *conn) forget() {
	if c.earlier != nil {
		c.all.Add(-int64(cap(c.earlier)))
		c.earlier = nil
	}
	c.begun, c.forgot = c.in, true
	c.lost.Store(false)
}

// announced notes the size of the literal that the end of a line announces (RFC 9051, Section 4.3),
// or that there is none.
func (c *conn) announced(line []byte) {
	if !c.records {
		return
	}
	size := int64(0)
	if len(line) > 2 && line[len(line)-1] == '}' {
		for _, d := range bytes.TrimSuffix(line[bytes.LastIndexByte(line, '{')+1:len(line)-1], []byte("+")) {
			if d < '0' || d > '9' || size > math.MaxUint32 {
				size = 0
				break
			}
			size = 10*size + int64(d-'0')
		}
	}
	c.sending.Store(size)
}

// pending appends what was read and not executed: the command under way, and what is behind it.
func (c *conn) pending(out []byte) []byte {
	if c.forgot {
		return append(out, c.in...)
	}
	return append(append(out, c.earlier...), c.begun...)
}
