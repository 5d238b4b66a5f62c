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
// says the same in ASCII. The body, lines of the header that are no fields, and fields that are
// in no known character set, stay as they are: no UTF-8 mode would help with them. A header that
// does not end within the first 32 KiB is left alone.

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
		if name, value, is := fieldOf(field); is && !ascii(field) && utf8.Valid(field) {
			out.WriteString(inASCII(name, value))
		} else {
			out.Write(field)
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

// fieldOf divides a field; is is false for lines that are none (RFC 5322, Section 3.6.8).
func fieldOf(lines []byte) (name, value string, is bool) {
	name, value, is = strings.Cut(string(lines), ":")
	bare := strings.TrimRight(name, " \t")
	odd := func(r rune) bool { return r <= ' ' || r > '~' }
	return name, value, is && bare != "" && !strings.ContainsFunc(bare, odd)
}

// inASCII writes a field anew, with its line end; "" where its kind has no room
// for another alphabet, as identifiers and trace fields.
func inASCII(name, value string) string {
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

// phrase makes encoded words for places where only letters, digits and a few other characters
// may stand in them: names and comments (RFC 2047, Section 5).
func phrase(s string) string {
	if ascii(s) {
		return s
	}
	if strings.ContainsAny(s, "\"#$%&'(),.:;<>@[\\]^`{|}~") {
		return mime.BEncoding.Encode("utf-8", s)
	}
	return encoded(s)
}

// addresses encodes names, of mailboxes and groups, and comments.
func addresses(value string) string {
	var out strings.Builder
	group := false
	for value != "" {
		n := outside(value, ",:;")
		part := strings.TrimSpace(value[:n])
		end := value[n:min(n+1, len(value))]
		value = strings.TrimSpace(value[n+len(end):])
		if end == ":" && !group {
			group = true
			if !ascii(part) {
				part = phrase(unquoted(part))
			}
		} else {
			part = mailboxOf(part, group)
			group = group && end != ";"
		}
		out.WriteString(part + end)
		if value != "" {
			out.WriteByte(' ')
		}
	}
	return out.String()
}

// mailboxOf encodes what of a mailbox may be encoded. One whose address itself is not ASCII becomes
// an empty group with all of it as its name (RFC 6858, Section 2.1): there is no way to answer
// to it without UTF-8. Within a group, where there is no other, it becomes a comment.
func mailboxOf(box string, group bool) string {
	if ascii(box) {
		return box
	}
	bare, comments := commentsOf(box)
	name, address, angle := strings.Cut(bare, "<")
	address, _, _ = strings.Cut(address, ">")
	name = unquoted(name)
	var out string
	switch {
	case ascii(bare):
		out = bare
	case angle && ascii(address):
		out = phrase(name) + " <" + address + ">"
	case angle && group:
		out = "(" + phrase(strings.TrimSpace(name+" <"+address+">")) + ")"
	case group:
		out = "(" + phrase(name) + ")"
	case angle:
		out = phrase(strings.TrimSpace(name+" <"+address+">")) + " :;"
	default:
		out = phrase(name) + " :;"
	}
	for _, c := range comments {
		if !ascii(c) {
			c = phrase(c)
		}
		out += " (" + c + ")"
	}
	return strings.TrimSpace(out)
}

// commentsOf takes the comments out (RFC 5322, Section 3.2.2).
func commentsOf(s string) (bare string, comments []string) {
	for {
		at := outside(s, "(")
		bare += s[:at]
		if at == len(s) {
			return strings.Join(strings.Fields(bare), " "), comments
		}
		n := commentEnd(s[at:])
		comments = append(comments, strings.TrimSuffix(s[at+1:at+n], ")"))
		bare, s = bare+" ", s[at+n:]
	}
}

// commentEnd is the length of the comment that s begins with; one without an end goes to the end.
func commentEnd(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}

// outside is the place of the first of some characters that stands outside of quotes, comments,
// <> and []; the length of s if there is none. A '(' is found only where a comment begins.
func outside(s, chars string) int {
	quoted, within := false, byte(0)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case c == '"' && within == 0:
			quoted = !quoted
		case quoted:
		case within != 0:
			if c == within {
				within = 0
			}
		case strings.IndexByte(chars, c) >= 0:
			return i
		case c == '(':
			i += commentEnd(s[i:]) - 1
		case c == '<':
			within = '>'
		case c == '[':
			within = ']'
		}
	}
	return len(s)
}

// parameters gives values of parameters the form of RFC 2231, Section 4. A boundary stays, for
// it is looked for in the body as it is.
func parameters(value string) string {
	var items []string
	for value != "" {
		n := outside(value, ";")
		item := strings.TrimSpace(value[:n])
		value = value[min(n+1, len(value)):]
		name, v, ok := strings.Cut(item, "=")
		switch {
		case ascii(item) || ok && strings.EqualFold(strings.TrimSpace(name), "boundary"):
		case ok && ascii(name):
			item = strings.TrimRight(name, "* ") + "*=utf-8''" + percent(unquoted(v))
		default:
			item = text(item)
		}
		items = append(items, item)
	}
	return strings.Join(items, "; ")
}

// percent is RFC 2231's way to write what is not ASCII.
func percent(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '.' || c == '-' || c == '_' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
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
