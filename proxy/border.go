package proxy

import (
	"bytes"
	"strconv"
)

// border follows a server's stream of IMAP just enough to know whether a line
// could be put in: it counts out literals, whose announcement ends a line
// (RFC 9051, Section 4.3), and sees a BYE. It allocates nothing.
type border struct {
	literal int64 // bytes of a literal yet to come
	inLine  bool  // the last byte was not a line end
	bye     bool  // a "* BYE" line has begun
	head    [len(byeHead)]byte
	headLen int
	tail    [24]byte // the last bytes of the line so far
	tailLen int
}

const byeHead = "* BYE"

// open reports whether a line put in now would be read as one, by a client that
// has not been told BYE yet.
func (b *border) open() bool { return b.literal == 0 && !b.inLine && !b.bye }

// see takes the next bytes of the stream.
func (b *border) see(p []byte) {
	for len(p) > 0 {
		if b.literal > 0 {
			n := min(b.literal, int64(len(p)))
			b.literal -= n
			p = p[n:]
			continue
		}
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			b.keep(p)
			return
		}
		if b.inLine || !dull(p[:end]) {
			b.keep(p[:end])
			b.endLine()
		}
		p = p[end+1:]
	}
}

// dull reports a whole line that neither can announce a literal nor be a BYE, as nearly all are.
func dull(line []byte) bool {
	n := len(line)
	if n > 0 && line[n-1] == '\r' {
		n--
	}
	return (n == 0 || line[n-1] != '}') && (n < len(byeHead) || line[2]|0x20 != 'b')
}

// keep remembers the beginning and the end of the line.
func (b *border) keep(p []byte) {
	b.inLine = b.inLine || len(p) > 0
	if n := copy(b.head[b.headLen:], p); n > 0 {
		b.headLen += n
		b.bye = b.bye || bytes.EqualFold(b.head[:b.headLen], []byte(byeHead))
	}
	if len(p) >= len(b.tail) {
		b.tailLen = copy(b.tail[:], p[len(p)-len(b.tail):])
		return
	}
	drop := max(0, b.tailLen+len(p)-len(b.tail))
	copy(b.tail[:], b.tail[drop:b.tailLen])
	b.tailLen += copy(b.tail[b.tailLen-drop:], p) - drop
}

// endLine begins a new line, or the literal that this one announced; what
// follows that is the same line going on, which no line may be put into.
func (b *border) endLine() {
	tail := bytes.TrimSuffix(b.tail[:b.tailLen], []byte("\r"))
	b.literal = announced(tail)
	announces := bytes.HasSuffix(tail, []byte("}")) && b.literal >= 0
	b.literal = max(0, b.literal)
	b.inLine, b.tailLen = announces, 0
	if !announces {
		b.headLen = 0
	}
}

// announced gives the n of a line that ends in {n}, else -1.
func announced(tail []byte) int64 {
	open := bytes.LastIndexByte(tail, '{')
	if open < 0 || tail[len(tail)-1] != '}' {
		return -1
	}
	n, err := strconv.ParseInt(string(tail[open+1:len(tail)-1]), 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}
