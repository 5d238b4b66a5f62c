package pop3

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"strings"
	"unicode/utf8"

	"waypost/backend/mailbox"
	"waypost/internal/headerfield"
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
	value = strings.Trim(strings.NewReplacer("\r", "", "\n", "").Replace(value), " \t")
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
// they allow it; the space between them stays, for it may stand in quotes.
func fold(name, value string) string {
	var b strings.Builder
	b.WriteString(name)
	width := len(name)
	for value = " " + value; value != ""; {
		var space, word string
		space, word, value = nextWord(value)
		if width > len(name) && word != "" && width+len(space)+len(word) > 76 {
			b.WriteString("\r\n")
			width = 0
		}
		b.WriteString(space + word)
		width += len(space) + len(word)
	}
	b.WriteString("\r\n")
	return b.String()
}

// nextWord divides s behind its first word. Other space than fields are folded at is a part of words.
func nextWord(s string) (space, word, rest string) {
	from := len(s) - len(strings.TrimLeft(s, " \t"))
	n := strings.IndexAny(s[from:], " \t")
	if n < 0 {
		return s[:from], s[from:], ""
	}
	return s[:from], s[from : from+n], s[from+n:]
}

// encoded makes encoded words of s (RFC 2047), as many as it needs.
func encoded(s string) string { return mime.QEncoding.Encode("utf-8", s) }

// text encodes the words that are not ASCII, neighbours together, since the space
// between two encoded words does not count (RFC 2047, Section 6.2). Where some are encoded
// already, all are encoded anew.
func text(value string) string {
	if strings.Contains(value, "=?") {
		return encoded(headerfield.Decode(value))
	}
	var out strings.Builder
	run := ""
	for value != "" {
		var space, word string
		space, word, value = nextWord(value)
		switch {
		case ascii(word):
			out.WriteString(encoded(run) + space + word)
			run = ""
		case run == "":
			out.WriteString(space)
			run = word
		default:
			run += space + word
		}
	}
	return out.String() + encoded(run)
}

// phrase makes encoded words for places where only letters, digits and a few other characters
// may stand in them: names and comments (RFC 2047, Section 5).
func phrase(s string) string {
	if ascii(s) {
		return s
	}
	s = headerfield.Decode(s)
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
		n := outside(value, ",:;", true)
		part := strings.Trim(value[:n], " \t")
		end := value[n:min(n+1, len(value))]
		value = strings.Trim(value[n+len(end):], " \t")
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
	at := outside(bare, "<", true)
	name, address, angle := unquoted(bare[:at]), bare[at:], at < len(bare)
	address = strings.TrimPrefix(address, "<")
	end := outside(address, ">", false)
	address, more := address[:end], strings.Trim(strings.TrimPrefix(address[end:], ">"), " \t")
	if more != "" { // nothing may stand there, but in a comment it does no harm
		comments = append(comments, unquoted(more))
	}
	var out string
	switch {
	case ascii(bare[:at] + address):
		out = strings.TrimSuffix(bare, more)
	case angle && ascii(address):
		out = phrase(name) + " <" + address + ">"
	case angle && group:
		out = "(" + phrase(strings.Trim(name+" <"+address+">", " ")) + ")"
	case group:
		out = "(" + phrase(name) + ")"
	case angle:
		out = phrase(strings.Trim(name+" <"+address+">", " ")) + " :;"
	default:
		out = phrase(name) + " :;"
	}
	for _, c := range comments {
		if !ascii(c) {
			c = phrase(c)
		}
		out += " (" + c + ")"
	}
	return strings.Trim(out, " \t")
}

// commentsOf takes the comments out (RFC 5322, Section 3.2.2).
func commentsOf(s string) (bare string, comments []string) {
	for {
		at := outside(s, "(", true)
		bare += s[:at]
		if at == len(s) {
			return strings.Trim(bare, " \t"), comments
		}
		n := commentEnd(s[at:])
		comments = append(comments, strings.TrimSuffix(s[at+1:at+n], ")"))
		bare, s = strings.TrimRight(bare, " \t")+" ", strings.TrimLeft(s[at+n:], " \t")
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

// outside is the place of the first of some characters that stands outside of quotes, comments
// and, where pairs says so, <> and []; the length of s if there is none. A '(' is found only where
// a comment begins.
func outside(s, chars string, pairs bool) int {
	quoted, within := false, byte(0)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case c == '"' && within != ']':
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
		case c == '<' && pairs:
			within = '>'
		case c == '[' && pairs:
			within = ']'
		}
	}
	return len(s)
}

// parameters gives values of parameters the form of RFC 2231, Sections 3 and 4. A boundary stays,
// for it is looked for in the body as it is. Comments that are not ASCII are left out.
func parameters(value string) string {
	var items []string
	extended := make(map[string]bool) // names whose first section tells a character set, or must
	for value != "" {
		n := outside(value, ";", false)
		item := strings.Trim(value[:n], " \t")
		value = value[min(n+1, len(value)):]
		if !ascii(item) && !strings.EqualFold(nameOf(item), "boundary") {
			item, _ = commentsOf(item)
			if base, _, ok := strings.Cut(nameOf(item), "*"); ok && !ascii(item) {
				extended[strings.ToLower(base)] = true
			}
		}
		items = append(items, item)
	}
	for i, item := range items {
		name := nameOf(item)
		base, section, sections := strings.Cut(name, "*")
		first := sections && section == "0" && extended[strings.ToLower(base)]
		switch _, v, ok := strings.Cut(item, "="); {
		case ascii(item) && !first, strings.EqualFold(name, "boundary"):
		case !ok || !ascii(name):
			items[i] = text(item)
		case strings.HasSuffix(name, "*"):
			items[i] = name + "=" + percent(unquoted(v), "%'")
		case sections && section != "0":
			items[i] = name + "*=" + percent(unquoted(v), "")
		default:
			items[i] = name + "*=utf-8''" + percent(unquoted(v), "")
		}
	}
	return strings.Join(items, "; ")
}

// nameOf is the name of a parameter, or a value without a name.
func nameOf(item string) string {
	name, _, _ := strings.Cut(item, "=")
	return strings.Trim(name, " \t")
}

// percent is RFC 2231's way to write what is not ASCII; plain: what stays beside letters and digits.
func percent(s, plain string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || strings.IndexByte(".-_"+plain, c) >= 0 {
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
	s = strings.Trim(s, " \t")
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			continue
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
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
