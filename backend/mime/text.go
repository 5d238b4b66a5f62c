package mime

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"io"
	stdmime "mime"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding/htmlindex"
)

// Words decodes the encoded words of a header field (RFC 2047); what cannot be
// decoded stays as it is.
func Words(s string) string {
	d := stdmime.WordDecoder{CharsetReader: func(charset string, r io.Reader) (io.Reader, error) {
		enc, err := htmlindex.Get(charset)
		if err != nil {
			return nil, err
		}
		return enc.NewDecoder().Reader(r), nil
	}}
	out, err := d.DecodeHeader(s)
	if err != nil {
		return s
	}
	return out
}

// Text reads the part's body, given its bytes, as UTF-8: transfer encoding and
// character set undone as far as they are known.
func (p *Part) Text(body io.Reader) io.Reader {
	r := body
	switch p.Encoding {
	case "base64":
		r = &eofReader{base64.NewDecoder(base64.RawStdEncoding, &alphabet{r: r})}
	case "quoted-printable":
		r = &quotedPrintable{br: bufio.NewReader(r)}
	}
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

// alphabet passes on only the letters of base64: mail has all sorts of things
// between them.
type alphabet struct{ r io.Reader }

func (a *alphabet) Read(p []byte) (int, error) {
	for {
		n, err := a.r.Read(p)
		kept := p[:0]
		for _, c := range p[:n] {
			if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/' {
				kept = append(kept, c)
			}
		}
		if len(kept) > 0 || err != nil || len(p) == 0 {
			return len(kept), err
		}
	}
}

// eofReader ends where base64 is cut off in the middle of a group.
type eofReader struct{ r io.Reader }

func (e *eofReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if _, bad := err.(base64.CorruptInputError); bad || err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}

// quotedPrintable decodes RFC 2045, Section 6.7; what is wrong stays as it is.
type quotedPrintable struct{ br *bufio.Reader }

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
	}
	return len(p), nil
}

func (q *quotedPrintable) next() (byte, error) {
	for {
		c, err := q.br.ReadByte()
		if err != nil || c != '=' {
			return c, err
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

// Matcher looks for several strings in streams of UTF-8, whatever the case of
// their letters.
type Matcher struct {
	needles [][]byte
	found   []bool
	left    int
	longest int
}

// NewMatcher makes a matcher; an empty needle is found in everything.
func NewMatcher(needles []string) *Matcher {
	m := &Matcher{found: make([]bool, len(needles))}
	for i, n := range needles {
		m.needles = append(m.needles, bytes.ToLower([]byte(n)))
		m.longest = max(m.longest, len(m.needles[i]))
		if n == "" {
			m.found[i] = true
		} else {
			m.left++
		}
	}
	return m
}

// Found tells of each needle whether it was found.
func (m *Matcher) Found() []bool { return m.found }

// Done reports that there is nothing left to find.
func (m *Matcher) Done() bool { return m.left == 0 }

// Scan looks through r until its end or until all is found.
func (m *Matcher) Scan(r io.Reader) error {
	var window []byte // lower case; its begin is what the last round ended with
	raw := make([]byte, 32<<10)
	kept := 0 // bytes of an unfinished character at the begin of raw
	for !m.Done() {
		n, err := r.Read(raw[kept:])
		n += kept
		whole := n
		if err == nil {
			whole = wholeRunes(raw[:n])
		}
		window = append(window, bytes.ToLower(raw[:whole])...)
		m.look(window)
		if cut := len(window) - m.longest; cut > 0 {
			window = append(window[:0], window[cut:]...)
		}
		kept = copy(raw, raw[whole:n])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Matcher) look(text []byte) {
	for i, n := range m.needles {
		if !m.found[i] && bytes.Contains(text, n) {
			m.found[i] = true
			m.left--
		}
	}
}

// wholeRunes gives the length of b without an unfinished character at its end.
func wholeRunes(b []byte) int {
	for i := len(b) - 1; i >= 0 && i >= len(b)-utf8.UTFMax; i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				return i
			}
			break
		}
	}
	return len(b)
}
