package syntax

import (
	"io"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"waypost/backend/mutf7"
)

// ChunkSize is how much an Encoder collects before it writes, in bytes: two TLS records of 16
// KiB, less room for the head of a frame in each.
const ChunkSize = 32<<10 - 34

// Encoder writes responses. What is written is collected and goes to the sink in large
// pieces: when a chunk is full, and at Flush. An idle Encoder holds no buffer. Errors of the
// sink stay (Err); methods after one do nothing. It is not safe for concurrent use.
type Encoder struct {
	// UTF8: quoted strings may have UTF-8, and mailbox names are UTF-8 (RFC 6855; RFC
	// 9051, Section 5.1).
	UTF8 bool
	// Naming, if not nil, gives the name for the wire of the server's.
	Naming func(string) string

	sink io.Writer
	pool *sync.Pool // of *[]byte, ChunkSize long
	buf  []byte
	held *[]byte
	sent int64 // bytes given to sink
	err  error
}

// Buffers makes a pool that Encoders share.
func Buffers() *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, ChunkSize); return &b }}
}

// NewEncoder makes an Encoder that writes to sink, with buffers of a pool made by Buffers.
func NewEncoder(sink io.Writer, pool *sync.Pool) *Encoder {
	return &Encoder{sink: sink, pool: pool}
}

// Err is the first error of the sink.
func (e *Encoder) Err() error { return e.err }

// Buffered is how many bytes wait for Flush.
func (e *Encoder) Buffered() int { return len(e.buf) }

// Mark is how many bytes were written so far, for Rewind.
func (e *Encoder) Mark() int64 { return e.sent + int64(len(e.buf)) }

// Rewind takes back what was written since Mark gave mark, if none of it was sent; else it does
// nothing.
func (e *Encoder) Rewind(mark int64) {
	if n := mark - e.sent; n >= 0 && n < int64(len(e.buf)) {
		e.buf = e.buf[:n]
	}
}

// Flush sends what is collected and gives the buffer back.
func (e *Encoder) Flush() error {
	e.send()
	e.Discard()
	return e.err
}

// Discard gives the buffer back unsent.
func (e *Encoder) Discard() {
	if e.held != nil {
		e.pool.Put(e.held)
		e.held, e.buf = nil, nil
	}
}

func (e *Encoder) send() {
	if len(e.buf) > 0 && e.err == nil {
		_, e.err = e.sink.Write(e.buf)
		e.sent += int64(len(e.buf))
	}
	e.buf = e.buf[:0]
}

// fits reports that n bytes can be appended to buf. Most of what is written does; so it is
// asked before anything else.
func (e *Encoder) fits(n int) bool { return n <= cap(e.buf)-len(e.buf) }

// room sees to it that n bytes fit, n being far below ChunkSize.
func (e *Encoder) room(n int) {
	if e.held == nil {
		e.held = e.pool.Get().(*[]byte)
		e.buf = (*e.held)[:0]
	}
	if !e.fits(n) {
		e.send()
	}
}

// Write implements io.Writer: bytes as they are, those of a literal.
func (e *Encoder) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && e.err == nil {
		e.room(1)
		k := min(cap(e.buf)-len(e.buf), len(p))
		e.buf = append(e.buf, p[:k]...)
		p = p[k:]
	}
	return n, e.err
}

// Raw writes s as it is.
func (e *Encoder) Raw(s string) *Encoder {
	if e.fits(len(s)) {
		e.buf = append(e.buf, s...)
		return e
	}
	for len(s) > 0 && e.err == nil {
		e.room(1)
		k := min(cap(e.buf)-len(e.buf), len(s))
		e.buf = append(e.buf, s[:k]...)
		s = s[k:]
	}
	return e
}

// Byte writes c.
func (e *Encoder) Byte(c byte) *Encoder {
	if !e.fits(1) {
		e.room(1)
	}
	e.buf = append(e.buf, c)
	return e
}

// SP writes a space.
func (e *Encoder) SP() *Encoder { return e.Byte(' ') }

// CRLF ends a response.
func (e *Encoder) CRLF() *Encoder { return e.Raw("\r\n") }

// Number writes n.
func (e *Encoder) Number(n uint64) *Encoder {
	if !e.fits(20) {
		e.room(20)
	}
	e.buf = strconv.AppendUint(e.buf, n, 10)
	return e
}

// What stands in a string says how it can be written (RFC 9051, Section 4.3).
const (
	needsEscape = 1 << iota
	needsLiteral
	needsUTF8
)

// needs has that of each byte. It is not changed.
var needs = func() (t [256]uint8) {
	t['"'], t['\\'] = needsEscape, needsEscape
	t[0], t['\r'], t['\n'] = needsLiteral, needsLiteral, needsLiteral
	for c := 0x80; c < len(t); c++ {
		t[c] = needsUTF8
	}
	return t
}()

// maxQuoted bounds quoted strings, in bytes; longer ones are literals.
const maxQuoted = 4096

// String writes s as a quoted string, or as a literal where it cannot be one.
func (e *Encoder) String(s string) *Encoder {
	all := uint8(needsLiteral)
	if len(s) <= maxQuoted {
		all = 0
		for i := range len(s) {
			all |= needs[s[i]]
		}
	}
	switch {
	case all&needsLiteral != 0, all&needsUTF8 != 0 && !(e.UTF8 && utf8.ValidString(s)):
		return e.LiteralHeader(int64(len(s)), false).Raw(s)
	case all&needsEscape != 0:
		return e.quote(s)
	}
	return e.Byte('"').Raw(s).Byte('"')
}

// quote writes s as a quoted string, which it can be.
func (e *Encoder) quote(s string) *Encoder {
	e.Byte('"')
	from := 0
	for i := range len(s) {
		if needs[s[i]] == needsEscape {
			e.Raw(s[from:i]).Byte('\\')
			from = i
		}
	}
	return e.Raw(s[from:]).Byte('"')
}

// NString is String, or NIL where ok is false.
func (e *Encoder) NString(s string, ok bool) *Encoder {
	if !ok {
		return e.Raw("NIL")
	}
	return e.String(s)
}

// AString writes s as an atom if it can be one that every client takes for it, else
// as String does.
func (e *Encoder) AString(s string) *Encoder {
	if s == "" || upper([]byte(s)) == "NIL" {
		return e.String(s)
	}
	for i := range len(s) {
		if !atomChars[s[i]] {
			return e.String(s)
		}
	}
	return e.Raw(s)
}

// Mailbox writes a mailbox's name, given as UTF-8.
func (e *Encoder) Mailbox(name string) *Encoder { return e.AString(e.forWire(name)) }

// Prefix writes the beginning of mailbox names, given as UTF-8, as a string (RFC 2342).
func (e *Encoder) Prefix(name string) *Encoder { return e.String(e.forWire(name)) }

func (e *Encoder) forWire(name string) string {
	if e.Naming != nil {
		name = e.Naming(name)
	}
	if e.UTF8 {
		return name
	}
	if coded, err := mutf7.Encode(name); err == nil {
		return coded
	}
	return name
}

// LiteralHeader announces n bytes, which the caller writes then (RFC 9051, Section
// 4.3); binary ones may have NULs (RFC 3516).
func (e *Encoder) LiteralHeader(n int64, binary bool) *Encoder {
	if binary {
		e.Byte('~')
	}
	return e.Byte('{').Number(uint64(n)).Raw("}\r\n")
}

// List writes n members in parentheses.
func (e *Encoder) List(n int, item func(i int)) *Encoder {
	e.Byte('(')
	for i := range n {
		if i > 0 {
			e.SP()
		}
		item(i)
	}
	return e.Byte(')')
}

// Atoms writes words in parentheses: flags, attributes.
func (e *Encoder) Atoms(words []string) *Encoder {
	e.Byte('(')
	for i, w := range words {
		if i > 0 {
			e.SP()
		}
		e.Raw(w)
	}
	return e.Byte(')')
}

// Ranges writes a set of numbers, which is not empty.
func (e *Encoder) Ranges(all []Range) *Encoder { return e.Raw(FormatRanges(all)) }

// DateTime writes an INTERNALDATE.
func (e *Encoder) DateTime(t time.Time) *Encoder {
	e.room(40)
	e.buf = t.AppendFormat(e.buf, `"_2-Jan-2006 15:04:05 -0700"`)
	return e
}

// Compact makes ranges of numbers that rise.
func Compact[N ~uint32](numbers []N) []Range {
	var out []Range
	for _, n := range numbers {
		if k := len(out); k > 0 && out[k-1].Stop+1 == uint32(n) {
			out[k-1].Stop++
			continue
		}
		out = append(out, Range{uint32(n), uint32(n)})
	}
	return out
}
