package mime

import (
	"bytes"
	"io"
)

// node is a part that is not at its end yet.
type node struct {
	part *Part
	// boundary is a multipart's, "" once its last delimiter was seen.
	boundary string
	inHeader bool
	fields   fields
	// digest: the part of a multipart/digest is a message by default (RFC
	// 2046, Section 5.1.5).
	digest bool
	// newlines read before the body.
	newlines int64
}

// scanner holds the open parts, each inside the one before.
type scanner struct {
	lines  *lineReader
	stack  []*node
	parts  int
	budget int // bytes of header text that may still be kept
}

// Scan reads a message to its end and gives its structure.
func Scan(r io.Reader) (*Part, error) {
	s := newScanner(r)
	root := s.stack[0].part
	for {
		piece, err := s.lines.next()
		if err == io.EOF {
			s.closeTo(0, s.lines.off, s.lines.newlines)
			root.finish()
			return root, nil
		}
		if err != nil {
			return nil, err
		}
		s.take(piece)
	}
}

// ScanHeader reads a message's header only. Of the part it gives, Body.End is
// not known and Children and Message are not there.
func ScanHeader(r io.Reader) (*Part, error) {
	s := newScanner(r)
	n := s.stack[0]
	for {
		piece, err := s.lines.next()
		if err != nil && err != io.EOF {
			return nil, err
		}
		if err == io.EOF || s.lines.first && blank(piece) {
			n.part.Header.End = s.lines.off
			n.part.Body = Range{s.lines.off, s.lines.off}
			n.describe(false)
			n.part.pieces = nil
			return n.part, nil
		}
		n.header(s, piece)
	}
}

func newScanner(r io.Reader) *scanner {
	s := &scanner{lines: newLineReader(r), budget: headerBudget}
	s.open(&Part{}, true, false)
	return s
}

// open begins a part at the present offset.
func (s *scanner) open(p *Part, message, digest bool) {
	p.Header.Start = s.lines.off
	s.parts++
	s.stack = append(s.stack, &node{part: p, inHeader: true, digest: digest, fields: fields{message: message}})
}

func (s *scanner) top() *node { return s.stack[len(s.stack)-1] }

// take works on one piece of a line.
func (s *scanner) take(piece []byte) {
	if s.lines.first && len(piece) > 2 && piece[0] == '-' && piece[1] == '-' && s.delimiter(piece) {
		return
	}
	n := s.top()
	if !n.inHeader {
		return
	}
	if s.lines.first && blank(piece) {
		s.endHeader(n)
		return
	}
	n.header(s, piece)
}

// delimiter handles a line that begins with "--" and reports whether it was a delimiter.
func (s *scanner) delimiter(line []byte) bool {
	text := bytes.TrimRight(line[2:], " \t\r\n")
	i, last := s.bounded(text)
	if i < 0 || !last && s.parts >= MaxParts {
		return false
	}
	// The line end before a delimiter is the delimiter's (RFC 2046, Section 5.1.1).
	start, newlines := s.lines.off-int64(len(line)), s.lines.newlines
	ended := line[len(line)-1] == '\n'
	if ended {
		newlines--
	}
	if s.lines.eol > 0 {
		newlines--
	}
	s.closeTo(i+1, start-s.lines.eol, newlines)
	n := s.stack[i]
	if last || !ended { // no part begins at the message's very end
		n.boundary = ""
		return true
	}
	child := &Part{}
	n.part.Children = append(n.part.Children, child)
	s.open(child, false, n.part.Subtype == "digest")
	return true
}

// bounded finds the open multipart whose delimiter a line is, text being all behind its
// "--": the innermost one whose boundary that is, or else the one that has the longest
// boundary with which it begins, which is enough (RFC 2046, Section 5.1.1). last: it ends
// the multipart. at is -1 if there is none.
func (s *scanner) bounded(text []byte) (at int, last bool) {
	at = -1
	for i := len(s.stack) - 1; i >= 0; i-- {
		b := s.stack[i].boundary
		if b == "" || len(text) < len(b) || string(text[:len(b)]) != b {
			continue
		}
		switch rest := text[len(b):]; {
		case len(rest) == 0:
			return i, false
		case string(rest) == "--":
			return i, true
		case at < 0 || len(b) > len(s.stack[at].boundary):
			at, last = i, bytes.HasPrefix(rest, []byte("--"))
		}
	}
	return at, last
}

// closeTo ends all parts from stack[i] on at offset end.
func (s *scanner) closeTo(i int, end, newlines int64) {
	for len(s.stack) > i {
		n := s.top()
		p := n.part
		if n.inHeader {
			// There is no empty line: all of it is header.
			end := max(end, p.Header.Start)
			p.Header.End, p.Body = end, Range{end, end}
			n.inHeader = false
			n.describe(n.digest)
			n.newlines = newlines
			if p.message() {
				p.opaque()
			}
		}
		p.Body.End = max(end, p.Body.Start)
		p.Lines = max(newlines-n.newlines, 0)
		if p.Type == "multipart" && len(p.Children) == 0 {
			p.plain()
		}
		s.stack = s.stack[:len(s.stack)-1]
	}
}

// plain makes a multipart without parts the one text that it is.
func (p *Part) plain() {
	p.Type, p.Subtype, p.Params = "text", "plain", nil
	p.pieces.kind, p.pieces.subtype, p.pieces.params = `"text"`, `"plain"`, nil
}

// opaque makes the part one that is not looked into.
func (p *Part) opaque() {
	p.Type, p.Subtype, p.Params = "application", "octet-stream", nil
	p.pieces.kind, p.pieces.subtype = `"application"`, `"octet-stream"`
}

// endHeader looks at what kind of part begins.
func (s *scanner) endHeader(n *node) {
	p := n.part
	p.Header.End, p.Body.Start = s.lines.off, s.lines.off
	n.inHeader = false
	n.newlines = s.lines.newlines
	boundary := n.describe(n.digest)
	deep := len(s.stack) >= MaxDepth || s.parts >= MaxParts
	switch {
	case p.Type == "multipart" && boundary == "":
		p.plain()
	case p.Type == "multipart" && deep, p.message() && deep:
		p.opaque()
	case p.Type == "multipart":
		n.boundary = boundary
	case p.message():
		p.Message = &Part{}
		s.open(p.Message, true, false)
	}
}

// message reports the types that enclose a message (RFC 2046, Section 5.2.1;
// RFC 6532, Section 3.7).
func (p *Part) message() bool {
	return p.Type == "message" && (p.Subtype == "rfc822" || p.Subtype == "global")
}
