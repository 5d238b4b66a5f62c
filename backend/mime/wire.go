package mime

import (
	"slices"
	"strconv"
	"strings"
)

// Wire are a message's ENVELOPE and BODYSTRUCTURE as IMAP sends them (RFC 9051, Section
// 7.5.2), ready made. What is not plain ASCII in them stands in literals, byte for byte
// as in the header, so that every client may have them, in whatever mode.
type Wire struct{ Envelope, Structure string }

// pieces are what a part adds to the texts of Wire; Scan makes Wire of them.
type pieces struct {
	kind, subtype string   // quoted
	params        []string // names and values by turns
	tail          string   // disposition, language and location
	envelope      string

	id, description, encoding, md5 string
}

// wireBytes has room for most envelopes and structures.
const wireBytes = 1 << 10

// finish makes the root's Wire.
func (p *Part) finish() {
	p.Wire.Envelope = p.pieces.envelope
	p.Wire.Structure = string(p.appendStructure(make([]byte, 0, wireBytes)))
	p.Walk(func(c *Part) { c.pieces = nil })
}

func (p *Part) appendStructure(b []byte) []byte {
	w := p.pieces
	b = append(b, '(')
	if p.Multipart() {
		for _, c := range p.Children {
			b = c.appendStructure(b)
		}
		b = append(b, ' ')
		b = append(b, w.subtype...)
		b = appendParams(append(b, ' '), w.params)
		b = append(b, w.tail...)
		return append(b, ')')
	}
	b = append(append(append(b, w.kind...), ' '), w.subtype...)
	params := w.params
	if p.Type == "text" && !hasParam(params, "charset") {
		// The default of RFC 2046, Section 4.1.2, said aloud.
		params = append(slices.Clip(params), "charset", "us-ascii")
	}
	b = appendParams(append(b, ' '), params)
	b = appendNString(append(b, ' '), w.id)
	b = appendNString(append(b, ' '), w.description)
	encoding := w.encoding
	if encoding == "" {
		encoding = "7bit"
	}
	b = appendString(append(b, ' '), encoding)
	b = strconv.AppendInt(append(b, ' '), min(p.Body.Len(), 1<<32-1), 10)
	switch {
	case p.Message != nil:
		b = append(b, ' ')
		b = append(b, p.Message.pieces.envelope...)
		b = p.Message.appendStructure(append(b, ' '))
		b = strconv.AppendInt(append(b, ' '), p.Lines, 10)
	case p.Type == "text":
		b = strconv.AppendInt(append(b, ' '), p.Lines, 10)
	}
	b = appendNString(append(b, ' '), w.md5)
	b = append(b, w.tail...)
	return append(b, ')')
}

func hasParam(params []string, name string) bool {
	for i := 0; i < len(params); i += 2 {
		if strings.EqualFold(params[i], name) {
			return true
		}
	}
	return false
}

func appendParams(b []byte, params []string) []byte {
	if len(params) == 0 {
		return append(b, "NIL"...)
	}
	b = append(b, '(')
	for i, s := range params {
		if i > 0 {
			b = append(b, ' ')
		}
		b = appendString(b, s)
	}
	return append(b, ')')
}

func appendNString(b []byte, s string) []byte {
	if s == "" {
		return append(b, "NIL"...)
	}
	return appendString(b, s)
}

// maxQuoted is the longest quoted string; longer ones are literals.
const maxQuoted = 4096

// appendString writes s, in which there is no CR, LF or NUL.
func appendString(b []byte, s string) []byte {
	escapes := false
	for i := range len(s) {
		if s[i] >= 0x80 || len(s) > maxQuoted {
			b = strconv.AppendInt(append(b, '{'), int64(len(s)), 10)
			b = append(b, "}\r\n"...)
			return append(b, s...)
		}
		escapes = escapes || s[i] == '"' || s[i] == '\\'
	}
	b = append(b, '"')
	if !escapes {
		return append(append(b, s...), '"')
	}
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

// appendEnvelope writes an ENVELOPE of raw header fields. A field that is there and empty
// is an empty string.
func appendEnvelope(b []byte, kept map[string]string, lists *[len(addressNames)][]address) []byte {
	text := func(name string, human bool) {
		s, ok := kept[name]
		switch {
		case !ok:
			b = append(b, "NIL"...)
		case human:
			b = appendString(b, collapse(s))
		default:
			b = appendString(b, s)
		}
	}
	b = append(b, '(')
	text("date", false)
	b = append(b, ' ')
	text("subject", true)
	for i, list := range lists {
		if len(list) == 0 && (i == listSender || i == listReplyTo) {
			list = lists[listFrom]
		}
		b = appendAddresses(append(b, ' '), list)
	}
	b = append(b, ' ')
	text("in-reply-to", false)
	b = append(b, ' ')
	text("message-id", false)
	return append(b, ')')
}

func appendAddresses(b []byte, list []address) []byte {
	if len(list) == 0 {
		return append(b, "NIL"...)
	}
	b = append(b, '(')
	for _, a := range list {
		b = appendNString(append(b, '('), a.name)
		b = appendNString(append(b, ' '), a.route)
		b = appendNString(append(b, ' '), a.mailbox)
		b = appendNString(append(b, ' '), a.host)
		b = append(b, ')')
	}
	return append(b, ')')
}

// collapse makes one space of each run of white space: for texts that people read.
func collapse(s string) string {
	if collapsed(s) {
		return s
	}
	return strings.Join(strings.FieldsFunc(s, isBlank), " ")
}

// collapsed reports that collapse would change nothing.
func collapsed(s string) bool {
	blank := true
	for i := range len(s) {
		if s[i] == '\t' || s[i] == ' ' && blank {
			return false
		}
		blank = s[i] == ' '
	}
	return !blank || s == ""
}

func isBlank(r rune) bool { return r == ' ' || r == '\t' }

// WithoutExtensions makes of a BODYSTRUCTURE, as Wire has it, what BODY answers: the same
// without extension data.
func WithoutExtensions(structure string) string {
	s := stripper{in: structure, out: make([]byte, 0, len(structure))}
	s.body()
	return string(s.out)
}

// stripper copies in to out, as far as it says so.
type stripper struct {
	in  string
	pos int
	out []byte
}

func (s *stripper) peek(at int) byte {
	if s.pos+at < len(s.in) {
		return s.in[s.pos+at]
	}
	return 0
}

// step passes over a byte, if there is one.
func (s *stripper) step() { s.pos = min(s.pos+1, len(s.in)) }

// body copies a body without its extension data.
func (s *stripper) body() {
	s.step()
	s.out = append(s.out, '(')
	if s.peek(0) == '(' {
		for s.peek(0) == '(' {
			s.body()
		}
		s.take() // the subtype
	} else {
		for range 7 { // type, subtype, parameters, id, description, encoding, size
			s.take()
		}
		switch c := s.peek(1); {
		case c == '(': // a message's
			s.take()
			s.step()
			s.out = append(s.out, ' ')
			s.body()
			s.take()
		case c >= '0' && c <= '9':
			s.take()
		}
	}
	s.out = append(s.out, ')')
	for s.pos < len(s.in) && s.peek(0) != ')' {
		s.skip()
	}
	s.step()
}

// take copies a value and the space before it.
func (s *stripper) take() {
	start := s.pos
	s.skip()
	s.out = append(s.out, s.in[start:s.pos]...)
}

// skip passes over a value and the space before it.
func (s *stripper) skip() {
	if s.peek(0) == ' ' {
		s.pos++
	}
	depth := 0
	for s.pos < len(s.in) {
		switch s.in[s.pos] {
		case '(':
			depth++
		case ')':
			if depth == 0 {
				return
			}
			depth--
		case ' ':
			if depth == 0 {
				return
			}
		case '"':
			s.quoted()
		case '{':
			s.literal()
		}
		s.pos++
		if depth == 0 && s.in[s.pos-1] == ')' {
			return
		}
	}
}

// quoted goes to the quote that ends a string.
func (s *stripper) quoted() {
	for s.pos++; s.pos < len(s.in) && s.in[s.pos] != '"'; s.pos++ {
		if s.in[s.pos] == '\\' {
			s.pos++
		}
	}
	s.pos = min(s.pos, len(s.in)-1)
}

// literal goes to the last byte of a literal.
func (s *stripper) literal() {
	n := 0
	for s.pos++; s.pos < len(s.in) && s.in[s.pos] >= '0' && s.in[s.pos] <= '9'; s.pos++ {
		n = min(n*10+int(s.in[s.pos]-'0'), len(s.in))
	}
	s.pos = min(s.pos+2+n, len(s.in)-1)
}
