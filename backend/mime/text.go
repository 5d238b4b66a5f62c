package mime

import (
	"bufio"
	"io"
	"strings"

	"golang.org/x/text/encoding/htmlindex"
)

// Text reads the part's body, given its bytes, as UTF-8: transfer encoding and
// character set undone as far as they are known. A body that is a *bufio.Reader is not buffered again.
func (p *Part) Text(body io.Reader) io.Reader {
	r, _ := p.Decode(body)
	charset := strings.ToLower(p.Params["charset"])
	switch charset {
	case "", "utf-8", "utf8", "us-ascii": // what says ASCII and is not, is mostly UTF-8
		return r
	}
	enc, err := htmlindex.Get(charset)
	if err != nil {
		return r
	}
	return enc.NewDecoder().Reader(r)
}

// Decode reads the part's body, given its bytes, with its transfer encoding undone (RFC
// 2045, Section 6). known is false for an encoding that nobody knows; the bytes are as they
// are then. What is wrong in an encoded body is passed over.
func (p *Part) Decode(body io.Reader) (content io.Reader, known bool) {
	switch p.Encoding {
	case "base64":
		return &unbase64{r: body}, true
	case "quoted-printable":
		return &quotedPrintable{br: bufio.NewReader(body)}, true
	case "", "7bit", "8bit", "binary":
		return body, true
	}
	return body, false
}

// unbase64 decodes RFC 2045, Section 6.8. All that is no letter of base64 is passed over,
// as that section has it; padding ends a group of letters, wherever it is.
type unbase64 struct {
	r          io.Reader
	raw, store []byte
	out        []byte // of store, not given yet
	bits       uint32
	n          int // letters in bits
	err        error
}

// Read implements io.Reader.
func (u *unbase64) Read(p []byte) (int, error) {
	if u.raw == nil {
		u.raw, u.store = make([]byte, bufferSize), make([]byte, 0, bufferSize)
	}
	for len(u.out) == 0 {
		if u.err != nil {
			return 0, u.err
		}
		n, err := u.r.Read(u.raw)
		u.out, u.err = u.store[:0], err
		for _, c := range u.raw[:n] {
			u.letter(c)
		}
		if err != nil {
			u.end()
		}
	}
	n := copy(p, u.out)
	u.out = u.out[n:]
	return n, nil
}

func (u *unbase64) letter(c byte) {
	v := sextets[c]
	switch {
	case v < 64:
		u.bits = u.bits<<6 | uint32(v)
		if u.n++; u.n == 4 {
			u.out = append(u.out, byte(u.bits>>16), byte(u.bits>>8), byte(u.bits))
			u.bits, u.n = 0, 0
		}
	case c == '=':
		u.end()
	}
}

// end gives the whole bytes of a group that is not full.
func (u *unbase64) end() {
	switch u.n {
	case 2:
		u.out = append(u.out, byte(u.bits>>4))
	case 3:
		u.out = append(u.out, byte(u.bits>>10), byte(u.bits>>2))
	}
	u.bits, u.n = 0, 0
}

// sextets are the values of base64's letters, and 0xff.
var sextets = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" {
		t[c] = byte(i)
	}
	return t
}()

// quotedPrintable decodes RFC 2045, Section 6.7; what is wrong stays as it is.
type quotedPrintable struct {
	br *bufio.Reader
	// solid is how many white spaces ahead are known for text.
	solid int
}

func (q *quotedPrintable) Read(p []byte) (int, error) {
	for n := 0; n < len(p); n++ {
		c, err := q.next()
		if err != nil {
			if n > 0 {
				return n, nil
			}
			return 0, err
		}
		p[n] = c
		if c == '\n' && n >= enoughText {
			return n + 1, nil
		}
	}
	return len(p), nil
}

// enoughText, in bytes, is what is decoded at once up to a line's end: who wants a beginning only
// pays for no more.
const enoughText = 256

func (q *quotedPrintable) next() (byte, error) {
	for {
		c, err := q.br.ReadByte()
		switch {
		case err != nil:
			return c, err
		case c == ' ' || c == '\t':
			if q.padding() {
				continue
			}
			return c, nil
		case c != '=':
			return c, nil
		}
		ahead, _ := q.br.Peek(2)
		switch {
		case len(ahead) == 2 && ahead[0] == '\r' && ahead[1] == '\n':
			q.discard(2)
		case len(ahead) >= 1 && ahead[0] == '\n':
			q.discard(1)
		case len(ahead) == 2 && hex(ahead[0]) >= 0 && hex(ahead[1]) >= 0:
			c = byte(hex(ahead[0])<<4 | hex(ahead[1]))
			q.discard(2)
			return c, nil
		default:
			return c, nil
		}
	}
}

// maxPadding bounds how far white space is looked at.
const maxPadding = 256

// padding reports that only white space is left of the line, which is none of the
// text (RFC 2045, Section 6.7, rule 3). What was read last is white space.
func (q *quotedPrintable) padding() bool {
	if q.solid > 0 {
		q.solid--
		return false
	}
	for n := 1; n <= maxPadding; n++ {
		ahead, err := q.br.Peek(n)
		if len(ahead) < n {
			return err == io.EOF
		}
		switch ahead[n-1] {
		case ' ', '\t':
		case '\n', '\r':
			return true
		default:
			q.solid = n - 1 // those need not be looked at again
			return false
		}
	}
	return false
}

// discard drops bytes that were peeked at.
func (q *quotedPrintable) discard(n int) {
	for range n {
		if _, err := q.br.ReadByte(); err != nil {
			return
		}
	}
}

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}
