package sieve

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"waypost/internal/headerfield"
)

// Field is one header field.
type Field struct {
	// Name is as it is written, Value unfolded and trimmed, its encoded words
	// not decoded.
	Name, Value string
	// Raw is the whole field as it came, its line ends included.
	Raw []byte
}

// Header is a message's header. It is never changed: edits make another.
type Header struct {
	fields []Field
	// length counts the bytes of the original that the header stands for, the
	// empty line included.
	length int64
	// end is what follows the fields: the empty line, or what else ended them.
	end []byte
	// edited tells that it is not the header that came.
	edited bool
}

// Fields gives the fields in their order. The caller must not change them.
func (h *Header) Fields() []Field { return h.fields }

// Length tells where the body begins in the original message: an edited
// message is Bytes followed by the original from there.
func (h *Header) Length() int64 { return h.length }

// Edited tells whether a script changed it.
func (h *Header) Edited() bool { return h.edited }

// Bytes gives the header, the empty line included.
func (h *Header) Bytes() []byte {
	n := len(h.end)
	for _, f := range h.fields {
		n += len(f.Raw)
	}
	out := make([]byte, 0, n)
	for _, f := range h.fields {
		out = append(out, f.Raw...)
	}
	return append(out, h.end...)
}

// MaxHeaderBytes is how much of a header ReadHeader takes in; what lies beyond
// counts as body.
const MaxHeaderBytes = 1 << 20

// ReadHeader reads a message's header. Lines that belong to no field are part
// of the field before them; the header ends at the first empty line. Only r's
// errors are errors.
func ReadHeader(r io.Reader) (*Header, error) {
	buf := make([]byte, 0, 2<<10)
	for {
		seen := len(buf)
		n, err := r.Read(buf[seen:cap(buf)])
		buf = buf[:seen+n]
		if end := headerEnd(buf, seen); end >= 0 {
			return parseHeader(buf[:end]), nil
		}
		if errors.Is(err, io.EOF) || len(buf) == MaxHeaderBytes {
			return parseHeader(buf), nil
		}
		if err != nil {
			return nil, fmt.Errorf("read header: %w", err)
		}
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, min(2*cap(buf), MaxHeaderBytes)), buf...)
		}
	}
}

// headerEnd finds where the first empty line ends, looking at what came after
// seen bytes; -1 if there is none yet.
func headerEnd(b []byte, seen int) int {
	if bytes.HasPrefix(b, []byte("\n")) {
		return 1
	}
	if bytes.HasPrefix(b, []byte("\r\n")) {
		return 2
	}
	for at := max(seen-2, 0); ; at++ {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return -1
		}
		at += i
		if rest := b[at+1:]; bytes.HasPrefix(rest, []byte("\n")) {
			return at + 2
		} else if bytes.HasPrefix(rest, []byte("\r\n")) {
			return at + 3
		}
	}
}

// parseHeader cuts a header into fields, which share its bytes.
func parseHeader(b []byte) *Header {
	h := &Header{length: int64(len(b)), fields: make([]Field, 0, bytes.Count(b, []byte{'\n'}))}
	text := string(b) // all names and values are parts of it
	start := 0
	for at := 0; at < len(b); {
		end := len(b)
		if i := bytes.IndexByte(b[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		line := b[at:end]
		empty := line[0] == '\n' || len(line) == 2 && line[0] == '\r' && line[1] == '\n'
		if empty || startsField(line) {
			h.add(b[start:at:at], text[start:at])
			start = at
		}
		if empty {
			h.end = b[at:end:end]
			return h
		}
		at = end
	}
	h.add(b[start:], text[start:])
	return h
}

// startsField tells that a line begins with a field's name and a colon.
func startsField(line []byte) bool {
	i := bytes.IndexByte(line, ':')
	if i <= 0 {
		return false
	}
	name := bytes.TrimRight(line[:i], " \t")
	for _, c := range name {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(name) > 0 && len(name) <= maxFieldName
}

// maxFieldName bounds a field's name, in bytes.
const maxFieldName = 256

// validFieldName follows RFC 5322, Section 3.6.8: printable ASCII, no colon.
func validFieldName(name string) bool {
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' || c == ':' {
			return false
		}
	}
	return name != "" && len(name) <= maxFieldName
}

// add takes a field, which is also text.
func (h *Header) add(raw []byte, text string) {
	if len(raw) == 0 {
		return
	}
	f := Field{Raw: raw}
	if startsField(raw) {
		name, value, _ := strings.Cut(text, ":")
		f.Name, f.Value = strings.TrimRight(name, " \t"), unfold(value)
	}
	h.fields = append(h.fields, f)
}

// unfold takes out line ends and the white space around the value (RFC 5322, Section
// 2.2.3). A tab that begins a folded line becomes a space: most who write it fold with tabs
// where they found spaces, and scripts that ran under Pigeonhole expect it.
func unfold(s string) string {
	s = strings.Trim(s, " \t\r\n")
	if !strings.ContainsAny(s, "\r\n") {
		return s
	}
	b := make([]byte, 0, len(s))
	for {
		i := strings.IndexAny(s, "\r\n")
		if i < 0 {
			return string(append(b, s...))
		}
		b, s = append(b, s[:i]...), s[i+1:]
		if after, folded := strings.CutPrefix(s, "\t"); folded {
			b, s = append(b, ' '), after
		}
	}
}

// decode gives a field's value as tests see it: UTF-8, encoded words decoded
// (RFC 5228, Section 2.7.2).
func decode(value string) string {
	if strings.Contains(value, "=?") {
		value = strings.Trim(headerfield.Decode(value), " \t\r\n")
	}
	return value
}

// values gives a field's values, not decoded.
func (h *Header) values(name string) []string {
	var out []string
	for i := range h.fields {
		if equalFold(h.fields[i].Name, name) {
			out = append(out, h.fields[i].Value)
		}
	}
	return out
}

// first gives the first value of a field, not decoded.
func (h *Header) first(name string) string {
	for i := range h.fields {
		if equalFold(h.fields[i].Name, name) {
			return h.fields[i].Value
		}
	}
	return ""
}

// with gives the header with a field added at its top, or at its end.
func (h *Header) with(f Field, last bool) *Header {
	n := *h
	n.edited = true
	n.fields = make([]Field, 0, len(h.fields)+1)
	if len(h.end) == 0 { // its end was not seen: what is last is not known
		last = false
	}
	if !last {
		n.fields = append(n.fields, f)
	}
	n.fields = append(n.fields, h.fields...)
	if last {
		n.fields = append(n.fields, f)
	}
	return &n
}

// without gives the header without those fields that gone names by index.
func (h *Header) without(gone map[int]bool) *Header {
	n := *h
	n.edited = true
	n.fields = make([]Field, 0, len(h.fields))
	for i, f := range h.fields {
		if !gone[i] {
			n.fields = append(n.fields, f)
		}
	}
	return &n
}
