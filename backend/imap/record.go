package imap

import (
	"bytes"
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
	// waited is how long the client was silent before the session came here.
	waited time.Duration
}

// spill is called before the input buffer is used for something else: what was taken of it is
// kept.
func (c *conn) spill() {
	c.note(c.begun[:len(c.begun)-len(c.in)])
	c.begun = c.in
}

// note records bytes that were taken.
func (c *conn) note(p []byte) {
	if !c.records || c.forgot || len(p) == 0 {
		return
	}
	if len(c.earlier)+len(p) > maxRecord || c.all.Add(int64(len(p))) > maxRecords {
		if len(c.earlier)+len(p) <= maxRecord {
			c.all.Add(-int64(len(p)))
		}
		c.forget()
		return
	}
	c.earlier = append(c.earlier, p...)
}

// forget ends the recording of the command under way; rest begins that of the next one.
func (c *conn) forget() {
	if c.earlier != nil {
		c.all.Add(-int64(len(c.earlier)))
		c.earlier = nil
	}
	c.begun, c.forgot = c.in, true
}

// announced looks at the end of a line for the announcement of a literal (RFC 9051, Section 4.3)
// that will be too long to be recorded: then not even its beginning is.
func (c *conn) announced(line []byte) {
	if !c.records || c.forgot || len(line) < 2 || line[len(line)-1] != '}' {
		return
	}
	size := int64(0)
	for _, d := range bytes.TrimSuffix(line[bytes.LastIndexByte(line, '{')+1:len(line)-1], []byte("+")) {
		if d < '0' || d > '9' {
			return
		}
		if size = 10*size + int64(d-'0'); size > maxRecord {
			c.forget()
			return
		}
	}
}

// pending appends what was read and not executed: the command under way, and what is behind it.
func (c *conn) pending(out []byte) []byte {
	if c.forgot {
		return append(out, c.in...)
	}
	return append(append(out, c.earlier...), c.begun...)
}
