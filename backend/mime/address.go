package mime

import (
	"strings"

	"waypost/internal/headerfield"
)

// address is one of a list, in the bytes of the header. A group begins with one that has
// only a mailbox, its name, and ends with an empty one (RFC 9051, Section 7.5.2).
type address struct{ name, route, mailbox, host string }

// addressParser reads an address list (RFC 5322, Section 3.4), tolerantly.
type addressParser struct {
	out     []address
	text    []byte // what stands outside of <>, quotes resolved
	local   []byte // the same with quotes kept: maybe an addr-spec
	comment string
	angle   string
	isAngle bool
	at      bool // local has an '@'
	group   bool
}

func addressList(s string) []address {
	var p addressParser
	for i := 0; i < len(s); {
		i = p.step(s, i)
	}
	p.flush()
	if p.group {
		p.out = append(p.out, address{})
	}
	return p.out
}

// step takes what begins at s[i] and gives the index behind it.
func (p *addressParser) step(s string, i int) int {
	switch c := s[i]; {
	case c == '(':
		var text string
		text, i = delimited(s, i, '(', ')')
		p.comment = collapse(text)
		return i
	case c == '"' && strings.IndexByte(s[i+1:], '"') < 0: // never closed: no quote at all
	case c == '"':
		text, next := delimited(s, i, 0, '"')
		p.text = append(p.text, text...)
		p.local = append(p.local, s[i:next]...)
		p.at = p.at || strings.Contains(s[i:next], "@")
		return next
	case c == '<':
		spec, next := angle(s, i)
		if !p.isAngle { // the first of several counts
			p.angle, p.isAngle = spec, true
		}
		return next
	case c == ',':
		p.flush()
	case c == ';':
		p.flush()
		if p.group {
			p.out = append(p.out, address{})
			p.group = false
		}
	case c == ':' && !p.group && !p.isAngle && !p.at:
		name := strings.TrimSpace(string(p.text))
		p.reset()
		if name != "" {
			// A group begins: its name stands for the mailbox, host NIL.
			p.out = append(p.out, address{mailbox: name})
			p.group = true
		}
	default:
		p.text = append(p.text, c)
		p.local = append(p.local, c)
		p.at = p.at || c == '@'
	}
	return i + 1
}

func (p *addressParser) reset() {
	p.text, p.local = p.text[:0], p.local[:0]
	p.comment, p.angle, p.isAngle, p.at = "", "", false, false
}

// flush ends an address. What lacks a part gets a word in its place, because
// NIL would make it a group (RFC 9051, Section 7.5.2).
func (p *addressParser) flush() {
	defer p.reset()
	name, spec := collapse(string(p.text)), p.angle
	if !p.isAngle {
		name, spec = p.comment, string(p.local)
		if words := string(p.text); !p.at && strings.ContainsAny(strings.TrimSpace(words), " \t") {
			name, spec = collapse(words), "" // nobody's address has words
		}
	}
	spec = strings.TrimSpace(headerfield.WithoutComments(spec))
	if spec == "" && name == "" && !p.isAngle {
		return
	}
	route := ""
	if strings.HasPrefix(spec, "@") { // an obsolete route (RFC 5322, Section 4.4)
		if before, after, ok := strings.Cut(spec, ":"); ok {
			route, spec = before, after
		}
	}
	mailbox, host := spec, ""
	if i := strings.LastIndexByte(spec, '@'); i >= 0 {
		mailbox, host = spec[:i], spec[i+1:]
	}
	if mailbox = unquote(strings.TrimSpace(mailbox)); mailbox == "" {
		mailbox = "MISSING_MAILBOX"
	}
	if host = strings.TrimSpace(host); host == "" {
		host = "MISSING_DOMAIN"
	}
	p.out = append(p.out, address{name: name, route: route, mailbox: mailbox, host: host})
}

// delimited reads from the opening character at s[i] to its close, with
// backslashes resolved; nest is the opening character if they nest.
func delimited(s string, i int, nest, end byte) (text string, next int) {
	var b strings.Builder
	depth := 1
	for i++; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
			continue
		case c == end:
			if depth--; depth == 0 {
				return b.String(), i + 1
			}
		case c == nest && nest != 0:
			depth++
		}
		b.WriteByte(c)
	}
	return b.String(), len(s)
}

// angle reads <addr-spec>; a quoted local part may hold '>'.
func angle(s string, i int) (spec string, next int) {
	start, quoted := i+1, false
	for i++; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == '>' && !quoted:
			return s[start:i], i + 1
		}
	}
	// Not closed: to the end, or to the next comma of an odd quote.
	return strings.Trim(s[start:], `"`), len(s)
}

// unquote takes the quotes off a local part: envelopes have it without (RFC 9051, Section
// 7.5.2).
func unquote(local string) string {
	if len(local) < 2 || local[0] != '"' || local[len(local)-1] != '"' {
		return local
	}
	text, end := delimited(local, 0, 0, '"')
	if end != len(local) {
		return local
	}
	return text
}
