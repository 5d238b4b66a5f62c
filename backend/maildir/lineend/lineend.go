// Package lineend changes line ends between the two forms a message has: LF on
// the disk, CRLF on the wire. What arrives with CRLF leaves byte for byte as it
// came, bare CRs included; a bare LF leaves as CRLF.
//
// A Shortener or Counter belongs to one goroutine, a Reader too.
package lineend

import (
	"bytes"
	"io"
	"slices"
)

// Shortener writes to W with CRLF made LF. After "CR CR LF" both CRs
// are kept: were one removed, the reader would take the other for a line end's.
type Shortener struct {
	W io.Writer
	// held: a CR has been read that is not yet written. before: the byte before
	// it was a CR too.
	held, before bool
	buf          []byte
}

// Reset starts again, to w. The buffer stays.
func (s *Shortener) Reset(w io.Writer) { *s = Shortener{W: w, buf: s.buf[:0]} }

// Write takes the next bytes; it consumes all of p or fails.
func (s *Shortener) Write(p []byte) (int, error) {
	if !s.held && bytes.IndexByte(p, '\r') < 0 {
		return s.W.Write(p) // it has LF already
	}
	out := slices.Grow(s.buf[:0], len(p)+1)
	for rest := p; len(rest) > 0; {
		if s.held {
			s.held = false
			if rest[0] != '\n' || s.before {
				out = append(out, '\r')
			}
			s.before = rest[0] == '\r' // as seen from the next CR
			if rest[0] == '\r' {
				s.held, rest = true, rest[1:]
				continue
			}
		}
		i := bytes.IndexByte(rest, '\r')
		if i < 0 {
			out = append(out, rest...)
			break
		}
		out = append(out, rest[:i]...)
		s.held, s.before, rest = true, false, rest[i+1:]
	}
	s.buf = out
	_, err := s.W.Write(out)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close writes a CR that was the last byte. It does not close W.
func (s *Shortener) Close() error {
	if !s.held {
		return nil
	}
	s.held = false
	_, err := s.W.Write([]byte{'\r'})
	return err
}

// Counter counts what passes: Size bytes, which are Wire with CRLF.
type Counter struct {
	Size, Wire int64
	cr         bool
}

// Write never fails.
func (c *Counter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	lone := bytes.Count(p, []byte{'\n'}) - bytes.Count(p, []byte("\r\n"))
	if c.cr && p[0] == '\n' {
		lone--
	}
	c.cr = p[len(p)-1] == '\r'
	c.Size += int64(len(p))
	c.Wire += int64(len(p) + lone)
	return len(p), nil
}

// bufferSize is what one Reader holds while it is read in small pieces.
const bufferSize = 8 << 10

// Reader reads R with each LF that follows no CR made CRLF.
type Reader struct {
	R   io.Reader
	buf []byte
	// raw is what of buf has not been given yet.
	raw []byte
	// cr: the byte given last was a CR.
	cr  bool
	err error
}

// Reset starts again with what r gives.
func (r *Reader) Reset(src io.Reader) { r.R, r.raw, r.cr, r.err = src, nil, false, nil }

// ResetBytes is Reset for what is in memory, and takes no buffer. all is not changed.
func (r *Reader) ResetBytes(all []byte) { r.R, r.raw, r.cr, r.err = nil, all, false, io.EOF }

// Read is io.Reader's. A large p takes no buffer: what is read goes to its second half.
func (r *Reader) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if len(r.raw) == 0 {
			// What is there is given before waiting for more.
			if n > 0 || !r.fill(p) {
				break
			}
		}
		n += r.translate(p[n:])
	}
	if n == 0 && len(p) > 0 {
		return 0, r.err
	}
	return n, nil
}

// fill reads into the end of p where half of that is as much as a buffer: translated, a
// byte becomes at most two, so that those written never overtake those to be read, and
// all are gone when p is returned.
func (r *Reader) fill(p []byte) bool {
	inPlace := len(p) >= 2*bufferSize
	if !inPlace && r.buf == nil && r.err == nil {
		r.buf = make([]byte, bufferSize)
	}
	for len(r.raw) == 0 && r.err == nil {
		into := r.buf
		if inPlace {
			into = p[(len(p)+1)/2:]
		}
		var n int
		n, r.err = r.R.Read(into)
		r.raw = into[:n]
	}
	return len(r.raw) > 0
}

// translate moves from raw to p until one of them is used up.
func (r *Reader) translate(p []byte) int {
	n := 0
	for n < len(p) && len(r.raw) > 0 {
		if r.raw[0] == '\n' {
			if !r.cr {
				p[n], r.cr = '\r', true
			} else {
				p[n], r.cr, r.raw = '\n', false, r.raw[1:]
			}
			n++
			continue
		}
		end := bytes.IndexByte(r.raw, '\n')
		if end < 0 {
			end = len(r.raw)
		}
		k := copy(p[n:], r.raw[:end])
		r.cr = r.raw[k-1] == '\r'
		r.raw = r.raw[k:]
		n += k
	}
	return n
}
