package lmtp

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// errLineEnds is a bare CR or a bare LF in a body (RFC 5321, Section 2.3.8).
var errLineEnds = errors.New("bare CR or LF")

var crlf = []byte("\r\n")

// endOfData is what ends a body, at the beginning of a line.
const endOfData = ".\r\n"

// dotReader reads the body of DATA (RFC 5321, Section 4.5.2): it removes the
// dot that was put in front of lines and ends with io.EOF after CRLF "." CRLF,
// having taken not one byte more from br. The CRLF before the dot belongs to
// the body. Only CRLF ends a line. A connection that ends before the dot is
// io.ErrUnexpectedEOF. Any error but io.EOF is the connection's, and stays.
//
// A Read ends with the line at the latest: where one begins, lines can take many.
type dotReader struct {
	br *bufio.Reader
	// bol: the next byte begins a line. cr: the last byte given was a CR.
	bol, cr bool
	err     error
}

func newDotReader(br *bufio.Reader) *dotReader { return &dotReader{br: br, bol: true} }

func (d *dotReader) Read(p []byte) (int, error) {
	n := 0
	for d.err == nil && n < len(p) && (n == 0 || !d.bol) {
		if n > 0 && d.br.Buffered() < len(endOfData) {
			return n, nil // more might have to be waited for
		}
		if d.err = d.prepare(); d.err != nil {
			break
		}
		window, _ := d.br.Peek(min(d.br.Buffered(), len(p)-n)) // cannot fail: it is buffered
		taken := copy(p[n:], window[:d.run(window)])
		d.br.Discard(taken)
		n += taken
	}
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, d.err
}

// prepare sees to it that something is buffered and a leading dot is dealt
// with. After a dot there are always two bytes to come, so that it may wait
// for them.
func (d *dotReader) prepare() error {
	first, err := d.br.Peek(1)
	if err != nil {
		return unexpected(err)
	}
	if !d.bol || first[0] != '.' {
		d.bol = false
		return nil
	}
	end, err := d.br.Peek(len(endOfData))
	if err != nil {
		return unexpected(err)
	}
	if string(end) == endOfData {
		d.br.Discard(len(endOfData))
		return io.EOF
	}
	d.br.Discard(1)
	d.bol = false
	return nil
}

// run tells how many bytes of window, the rest of the line at most, can be given
// as they are, and notes how they end.
func (d *dotReader) run(window []byte) int {
	if d.cr && window[0] == '\n' {
		d.bol, d.cr = true, false
		return 1
	}
	if i := bytes.Index(window, crlf); i >= 0 {
		d.bol, d.cr = true, false
		return i + len(crlf)
	}
	d.cr = window[len(window)-1] == '\r'
	return len(window)
}

func (d *dotReader) lines(p []byte) (n int, ok bool) {
	if d.err != nil {
		return 0, true
	}
	window, _ := d.br.Peek(d.br.Buffered()) // cannot fail: it is buffered
	n, taken, ok := shortLines(p, window, true)
	d.br.Discard(taken)
	return n, ok
}

// shortLines copies the lines that window has whole to p, as the store keeps them, with
// LF, up to one that does not fit or ends in a bare LF; of those with dots (dotReader)
// up to the dot alone, which is the end. It took that many bytes of window. Not ok says
// that a bare CR was among them. It is what nearly all of a message goes through, once.
func shortLines(p, window []byte, dots bool) (n, taken int, ok bool) {
	rest, count := window, 0
	for {
		i := bytes.IndexByte(rest, '\n')
		if i < 1 || rest[i-1] != '\r' || n+i > len(p) {
			break
		}
		line := rest[:i-1]
		if dots && len(line) > 0 && line[0] == '.' {
			if line = line[1:]; len(line) == 0 {
				break
			}
		}
		n += copy(p[n:], line)
		p[n] = '\n'
		n++
		count++
		rest = rest[i+1:]
	}
	taken = len(window) - len(rest)
	return n, taken, bytes.Count(window[:taken], []byte{'\r'}) == count
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// strictReader passes a body on as long as CR and LF come only as CRLF, and fails
// with errLineEnds where they do not: what a body may not hold is the seed of
// SMTP smuggling, and could not be given back byte for byte either. Its lines end
// in LF where they could be taken whole, else in CRLF.
type strictReader struct {
	body body
	// within: the next byte does not begin a line. cr: the last byte was a CR, so that an
	// LF must follow.
	within, cr bool
	bad        bool
}

func (s *strictReader) Read(p []byte) (int, error) {
	if s.bad {
		return 0, errLineEnds
	}
	if !s.within {
		n, ok := s.body.lines(p)
		if s.bad = !ok; s.bad {
			return 0, errLineEnds
		}
		if n > 0 {
			return n, nil
		}
	}
	n, err := s.body.Read(p)
	if n > 0 && !s.check(p[:n]) || err == io.EOF && s.cr {
		s.bad = true
		return 0, errLineEnds
	}
	if n > 0 {
		s.within = p[n-1] != '\n'
	}
	return n, err
}

// check looks at each LF's predecessor; then as many CRs as LFs means that
// each CR has its LF.
func (s *strictReader) check(b []byte) bool {
	if s.cr {
		if b[0] != '\n' {
			return false
		}
		b = b[1:]
		s.cr = false
	}
	lines := 0
	for rest := b; ; lines++ {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		if i == 0 || rest[i-1] != '\r' {
			return false
		}
		rest = rest[i+1:]
	}
	if s.cr = len(b) > 0 && b[len(b)-1] == '\r'; s.cr {
		lines++
	}
	return bytes.Count(b, []byte{'\r'}) == lines
}
