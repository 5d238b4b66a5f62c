package mx

import "bytes"

// lineCheck watches a stream for a CR or LF outside CRLF (RFC 5321, Section
// 2.3.8: they "MUST NOT" occur). Pieces may be cut anywhere.
type lineCheck struct{ cr bool }

// ok looks at the next piece.
func (c *lineCheck) ok(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	if c.cr && p[0] != '\n' {
		return false
	}
	for i := 0; ; {
		j := bytes.IndexByte(p[i:], '\n')
		if j < 0 {
			break
		}
		i += j
		if i == 0 && !c.cr || i > 0 && p[i-1] != '\r' {
			return false
		}
		i++
	}
	for i := 0; ; {
		j := bytes.IndexByte(p[i:], '\r')
		if j < 0 {
			break
		}
		if i += j + 1; i < len(p) && p[i] != '\n' {
			return false
		}
	}
	c.cr = p[len(p)-1] == '\r'
	return true
}

// ended reports whether the stream may end here: not after a CR.
func (c *lineCheck) ended() bool { return !c.cr }

// maxReceived is how many Received lines are taken for a loop (RFC 5321,
// Section 6.3).
const maxReceived = 50

// receivedCount counts Received lines in the header of a stream.
type receivedCount struct {
	line  []byte // the start of the line under way
	n     int
	ended bool
}

var receivedName = []byte("received:")

// add looks at the next piece and gives the count so far.
func (c *receivedCount) add(p []byte) int {
	for len(p) > 0 && !c.ended {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		if room := len(receivedName) - len(c.line); room > 0 {
			c.line = append(c.line, part[:min(room, len(part))]...)
		}
		if i < 0 {
			return c.n
		}
		if len(c.line) == 0 || len(c.line) == 1 && c.line[0] == '\r' {
			c.ended = true
		}
		if bytes.EqualFold(c.line, receivedName) {
			c.n++
		}
		c.line, p = c.line[:0], p[i+1:]
	}
	return c.n
}
