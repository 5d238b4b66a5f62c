package sieve

import "strings"

// address is one address of a header or an envelope, unquoted. domain is empty
// where there is no @.
type address struct{ local, domain string }

func (a address) String() string {
	if a.domain == "" {
		return a.local
	}
	return a.local + "@" + a.domain
}

// same compares addresses as users mean them: without regard to case.
func (a address) same(b address) bool {
	return lower(a.local) == lower(b.local) && lower(a.domain) == lower(b.domain)
}

// user and detail are the parts of a local part around the separator (RFC
// 5233, Section 4); ok tells whether there is a separator.
func (a address) subaddress(separator string) (user, detail string, ok bool) {
	return strings.Cut(a.local, separator)
}

// addressParser reads address lists (RFC 5322, Section 3.4) and forgives much:
// what cannot be understood is passed over up to the next comma.
type addressParser struct {
	s  string
	at int
}

// maxAddresses bounds what one list gives; a list can be a megabyte.
const maxAddresses = 10_000

// parseAddresses gives the addresses of a header field's value, those of
// groups included, display names left out.
func parseAddresses(s string) []address {
	p := &addressParser{s: s}
	var out []address
	for p.at < len(p.s) && len(out) < maxAddresses {
		if a, ok := p.mailbox(); ok {
			out = append(out, a)
		}
	}
	return out
}

// parseAddress reads a string that must be one address, bare or <in brackets>
// behind a display name; both of its sides must be there.
func parseAddress(s string) (address, bool) {
	list := parseAddresses(s)
	if len(list) != 1 || list[0].local == "" || list[0].domain == "" || strings.ContainsAny(list[0].domain, " \t\r\n<>()@,;:\"") ||
		strings.ContainsAny(list[0].local, "\r\n\x00") || len(list[0].local) > 256 || len(list[0].domain) > 255 {
		return address{}, false
	}
	return list[0], true
}

// mailbox reads up to the next comma or semicolon on the outside.
func (p *addressParser) mailbox() (address, bool) {
	var words strings.Builder // of an address without brackets
	lastAt := -1              // where the last unquoted @ stands in words
	var spaced bool           // white space came between two words
	for p.at < len(p.s) {
		switch c := p.s[p.at]; c {
		case ',', ';':
			p.at++
			return split(words.String(), lastAt, spaced)
		case ':': // what came before was a group's name
			p.at++
			words.Reset()
			lastAt, spaced = -1, false
		case '(':
			p.comment()
		case '<':
			p.at++
			a, ok := p.angle()
			p.toComma()
			return a, ok
		case '"':
			words.WriteString(p.quoted())
		case ' ', '\t', '\r', '\n':
			p.at++
			before := words.String()
			if before != "" && p.wordFollows() && !strings.HasSuffix(before, "@") && !strings.HasSuffix(before, ".") {
				spaced = true
			}
		default:
			if c == '@' {
				lastAt = words.Len()
			}
			words.WriteByte(c)
			p.at++
		}
	}
	return split(words.String(), lastAt, spaced)
}

// wordFollows tells that next comes neither the list's syntax nor an @ or dot
// that belongs to the word before.
func (p *addressParser) wordFollows() bool {
	return p.at < len(p.s) && strings.IndexByte("@., \t\r\n(;:<", p.s[p.at]) < 0
}

// split makes the address of the text between two commas. A phrase of several
// words is none.
func split(s string, lastAt int, spaced bool) (address, bool) {
	if s == "" || spaced {
		return address{}, false
	}
	if lastAt < 0 {
		return address{local: s}, true
	}
	return address{local: s[:lastAt], domain: s[lastAt+1:]}, lastAt > 0 && lastAt+1 < len(s)
}

// angle reads what stands in angle brackets, a source route left out.
func (p *addressParser) angle() (address, bool) {
	var b strings.Builder
	lastAt := -1
	for p.at < len(p.s) {
		c := p.s[p.at]
		switch c {
		case '>':
			p.at++
			return split(b.String(), lastAt, false)
		case '"':
			b.WriteString(p.quoted())
			continue
		case '(':
			p.comment()
			continue
		case ':':
			b.Reset()
			lastAt = -1
		case ' ', '\t', '\r', '\n':
		default:
			if c == '@' {
				lastAt = b.Len()
			}
			b.WriteByte(c)
		}
		p.at++
	}
	return split(b.String(), lastAt, false)
}

func (p *addressParser) quoted() string {
	var b strings.Builder
	for p.at++; p.at < len(p.s); p.at++ {
		switch c := p.s[p.at]; c {
		case '"':
			p.at++
			return b.String()
		case '\\':
			if p.at++; p.at < len(p.s) {
				b.WriteByte(p.s[p.at])
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func (p *addressParser) comment() {
	depth := 0
	for ; p.at < len(p.s); p.at++ {
		switch p.s[p.at] {
		case '\\':
			p.at++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				p.at++
				return
			}
		}
	}
}

func (p *addressParser) toComma() {
	for p.at < len(p.s) {
		switch p.s[p.at] {
		case ',', ';':
			p.at++
			return
		case '(':
			p.comment()
		case '"':
			p.quoted()
		default:
			p.at++
		}
	}
}
