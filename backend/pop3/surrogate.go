package pop3

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"strings"
	"unicode/utf8"

	"waypost/backend/mailbox"
)

// A client that has not said UTF8 gets no UTF-8 in a header (RFC 6856, Section
// 2.1): such fields are replaced in the way of RFC 6858, on the way out, by what
// says the same in ASCII. The body, and fields that are in no known character
// set, stay as they are: no UTF-8 mode would help with them. A header that does
// not end within the first 32 KiB is left alone.

// beginning reads the first piece of a message: its header, or a full buffer.
func beginning(body mailbox.Body, buf []byte) (n int, err error) {
	for n < len(buf) {
		var k int
		k, err = body.Read(buf[n:])
		n += k
		if err != nil || headerEnd(buf[:n]) > 0 {
			break
		}
	}
	return n, err
}

// headerEnd is the index behind the empty line, or 0.
func headerEnd(p []byte) int {
	if bytes.HasPrefix(p, []byte("\r\n")) {
		return 2
	}
	if i := bytes.Index(p, []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return 0
}

// surrogate replaces what is UTF-8 in the header that p begins with; whole: p is
// the whole message, so that its header needs no end.
func surrogate(p []byte, whole bool) []byte {
	end := headerEnd(p)
	if end == 0 && whole {
		end = len(p)
	}
	if ascii(p[:end]) {
		return p
	}
	var out bytes.Buffer
	for rest := p[:end]; len(rest) > 0; {
		field := rest[:fieldEnd(rest)]
		rest = rest[len(field):]
		if ascii(field) || !utf8.Valid(field) {
			out.Write(field)
		} else {
			out.WriteString(inASCII(field))
		}
	}
	out.Write(p[end:])
	return out.Bytes()
}

func ascii[T []byte | string](p T) bool {
	for i := range len(p) {
		if p[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// fieldEnd is the length of the field that p begins with, folded lines included.
func fieldEnd(p []byte) int {
	for at := 0; ; {
		i := bytes.IndexByte(p[at:], '\n')
		if i < 0 {
			return len(p)
		}
		at += i + 1
		if at == len(p) || p[at] != ' ' && p[at] != '\t' {
			return at
		}
	}
}

// inASCII writes a field anew, with its line end; "" where its kind has no room
// for another alphabet, as identifiers and trace fields.
func inASCII(field []byte) string {
	name, value, ok := strings.Cut(string(field), ":")
	if !ok || !ascii(name) {
		return ""
	}
	value = strings.TrimSpace(strings.NewReplacer("\r", "", "\n", "").Replace(value))
	switch low := strings.ToLower(strings.TrimSpace(name)); low {
	case "from", "sender", "reply-to", "to", "cc", "bcc", "resent-from", "resent-sender", "resent-reply-to", "resent-to", "resent-cc", "resent-bcc":
		value = addresses(value)
	case "content-type", "content-disposition":
		value = parameters(value)
	case "date", "message-id", "in-reply-to", "references", "received", "return-path", "resent-date", "resent-message-id",
		"mime-version", "content-transfer-encoding", "content-id", "dkim-signature", "authentication-results":
		return ""
	default:
		value = text(value)
	}
	return fold(name+":", value)
}

// fold puts the words of a value on lines of at most 76 characters, as far as
// they allow it.
func fold(name, value string) string {
	var b strings.Builder
	b.WriteString(name)
	width := len(name)
	for word := range strings.FieldsSeq(value) {
		if width > len(name) && width+1+len(word) > 76 {
			b.WriteString("\r\n")
			width = 0
		}
		b.WriteString(" " + word)
		width += 1 + len(word)
	}
	b.WriteString("\r\n")
	return b.String()
}

// encoded makes encoded words of s (RFC 2047), as many as it needs.
func encoded(s string) string { return mime.QEncoding.Encode("utf-8", s) }

// text encodes the words that are not ASCII, neighbours together, since the space
// between two encoded words does not count (RFC 2047, Section 6.2).
func text(value string) string {
	var out, run []string
	flush := func() {
		if len(run) > 0 {
			out = append(out, encoded(strings.Join(run, " ")))
		}
		run = run[:0]
	}
	for word := range strings.FieldsSeq(value) {
		if ascii(word) {
			flush()
			out = append(out, word)
		} else {
			run = append(run, word)
		}
	}
	flush()
	return strings.Join(out, " ")
}

// addresses encodes names. A mailbox whose address itself is not ASCII becomes
// an empty group with all of it as its name (RFC 6858, Section 2.1): there is no
// way to answer to it without UTF-8.
func addresses(value string) string {
	var out []string
	for _, box := range split(value, ',') {
		box = strings.TrimSpace(box)
		if ascii(box) {
			out = append(out, box)
			continue
		}
		name, address, angle := strings.Cut(box, "<")
		address, _, _ = strings.Cut(address, ">")
		name = unquoted(name)
		switch {
		case angle && ascii(address):
			out = append(out, encoded(name)+" <"+address+">")
		case angle:
			out = append(out, encoded(strings.TrimSpace(name+" <"+address+">"))+" :;")
		default:
			out = append(out, encoded(name)+" :;")
		}
	}
	return strings.Join(out, ", ")
}

// parameters gives values of parameters the form of RFC 2231, Section 4.
func parameters(value string) string {
	items := split(value, ';')
	for i, item := range items {
		item = strings.TrimSpace(item)
		if name, v, ok := strings.Cut(item, "="); ok && !ascii(item) && ascii(name) {
			var b strings.Builder
			b.WriteString(strings.TrimRight(name, "*") + "*=utf-8''")
			for _, c := range []byte(unquoted(v)) {
				if c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '.' || c == '-' || c == '_' {
					b.WriteByte(c)
				} else {
					fmt.Fprintf(&b, "%%%02X", c)
				}
			}
			item = b.String()
		}
		items[i] = item
	}
	value = strings.Join(items, "; ")
	if !ascii(value) {
		return text(value)
	}
	return value
}

// split divides at a character that stands outside of quotes and <>.
func split(s string, at byte) (parts []string) {
	quoted, angle, start := false, false, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '<' || c == '>':
			angle = c == '<'
		case c == at && !angle:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}

// unquoted is a phrase without its quotes and backslashes, on one line.
func unquoted(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			continue
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// first gives the beginning of a message as the client may have it.
func (s *session) first(body mailbox.Body, buf []byte) ([]byte, error) {
	if s.utf8 {
		n, err := body.Read(buf)
		return buf[:n], err
	}
	n, err := beginning(body, buf)
	return surrogate(buf[:n], err == io.EOF), err
}
