package pop3

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"waypost/backend/mailbox"
)

// maxUIDL bounds a unique id (RFC 1939, Section 7), maxOlder one that another
// server has given: clients have taken it as it is.
const (
	maxUIDL  = 70
	maxOlder = 255
)

// ErrUIDLFormat: a format that cannot make unique ids.
var ErrUIDLFormat = errors.New("bad UIDL format")

// UIDL is the form of a maildrop's unique ids. The zero value is "%g".
type UIDL struct {
	parts []uidlPart
	// older: another server's, which is asked for with OlderID.
	older bool
}

// form is the one that counts in a session.
func (ses Session) form(srv *Server) UIDL {
	if ses.UIDL.parts != nil {
		return ses.UIDL
	}
	return srv.opt.UIDL
}

func (u UIDL) has(variable byte) bool {
	return slices.ContainsFunc(u.parts, func(p uidlPart) bool { return p.variable == variable })
}

// Older is the unique id that the other server gave, or would have given, to a
// message that it called o. An id that it has written down stands before its
// form.
func (u UIDL) Older(m mailbox.Message, validity uint32, o mailbox.OlderID) string {
	id := o.Kept
	if id == "" {
		m.GUID = o.GUID
		id = u.compose(m, validity, o.File)
	}
	if !fitsIn(id, maxOlder) {
		return fallback(m, validity)
	}
	return id
}

func (u UIDL) compose(m mailbox.Message, validity uint32, file string) string {
	var b strings.Builder
	for _, p := range u.parts {
		if p.variable == 'f' {
			b.WriteString(file)
			continue
		}
		p.write(&b, m, validity)
	}
	return b.String()
}

// uidlPart is a literal, or a variable.
type uidlPart struct {
	literal  string
	variable byte // 'g', 'f', 'u', 'v', or 0
	hex      bool
	width    int // filled up with zeros
}

// fallback is the id of a message whose GUID cannot be one: Dovecot's default
// form "%08Xu%08Xv", which only a change of UIDVALIDITY changes.
func fallback(m mailbox.Message, validity uint32) string {
	return fmt.Sprintf("%08x%08x", uint32(m.UID), validity)
}

// ParseUIDL reads a format in the language of Dovecot's pop3_uidl_format:
//
//	%g   the message's GUID: stable over moves, renames and a lost UID list
//	%u   the UID; %v the folder's UIDVALIDITY; both in decimal
//	%Xu  in lower-case hexadecimal
//	%08Xu  at least 8 wide, filled up with zeros
//	%%   a percent sign
//
// "%g" is the default; "%08Xu%08Xv" is Dovecot's, for mailboxes that came from
// there, whose clients know their messages by it. Changing the format makes
// clients download everything again. Where "%g" does not fit RFC 1939 (1 to 70
// characters of 0x21 to 0x7E) the message has the form "%08Xu%08Xv". The error
// is ErrUIDLFormat.
func ParseUIDL(format string) (UIDL, error) {
	u, err := parseUIDL(format)
	if err == nil && u.has('f') {
		return UIDL{}, fmt.Errorf("%w: %q: %%f is for mailboxes of other servers only", ErrUIDLFormat, format)
	}
	return u, err
}

// ParseOlderUIDL reads the pop3_uidl_format of the Dovecot that a mailbox was
// taken over from. It is ParseUIDL's language, with %g as Dovecot has it, and
//
//	%f   the message's file name without flags, as Courier and qmail have it
func ParseOlderUIDL(format string) (UIDL, error) {
	u, err := parseUIDL(format)
	u.older = true
	return u, err
}

func parseUIDL(format string) (UIDL, error) {
	bad := func(why string) (UIDL, error) {
		return UIDL{}, fmt.Errorf("%w: %q: %s", ErrUIDLFormat, format, why)
	}
	var u UIDL
	longest, unique := 0, false
	for rest := format; rest != ""; {
		part, after, err := parsePart(rest)
		if err != "" {
			return bad(err)
		}
		rest = after
		u.parts = append(u.parts, part)
		longest += part.longest()
		unique = unique || part.variable == 'u' || part.variable == 'g' || part.variable == 'f'
	}
	if !unique {
		return bad("needs %u or %g to tell messages apart")
	}
	if longest > maxUIDL {
		return bad("longer than 70 characters")
	}
	return u, nil
}

// parsePart reads one literal or variable at the start of s.
func parsePart(s string) (p uidlPart, rest, bad string) {
	if s[0] != '%' {
		end := strings.IndexByte(s, '%')
		if end < 0 {
			end = len(s)
		}
		if !fits(s[:end]) {
			return p, "", "characters other than 0x21 to 0x7E, or too many"
		}
		return uidlPart{literal: s[:end]}, s[end:], ""
	}
	i := 1
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	if digits := s[1:i]; digits != "" {
		p.width, _ = strconv.Atoi(digits) // too large a number fails below
		if digits[0] != '0' || p.width == 0 || p.width > 20 || len(digits) > 3 {
			return p, "", "a width is 01 to 020"
		}
	}
	if i < len(s) && s[i] == 'X' {
		p.hex = true
		i++
	}
	if i == len(s) {
		return p, "", "ends within a variable"
	}
	plain := i == 1
	switch s[i] {
	case '%':
		if plain {
			return uidlPart{literal: "%"}, s[i+1:], ""
		}
	case 'g', 'f':
		if plain {
			return uidlPart{variable: s[i]}, s[i+1:], ""
		}
	case 'u', 'v':
		p.variable = s[i]
		return p, s[i+1:], ""
	}
	return p, "", "variables are %u, %v and %g"
}

// longest is the greatest length of what p makes; a GUID's is seen when it is there.
func (p uidlPart) longest() int {
	switch {
	case p.variable == 0:
		return len(p.literal)
	case p.variable == 'g' || p.variable == 'f':
		return 1
	case p.hex:
		return max(8, p.width)
	default:
		return max(10, p.width)
	}
}

// Of is the unique id of a message in a folder of that UIDVALIDITY.
func (u UIDL) Of(m mailbox.Message, validity uint32) string {
	id := m.GUID
	if u.parts != nil {
		id = u.compose(m, validity, "")
	}
	if !fits(id) || u.parts != nil && !u.known(m) {
		return fallback(m, validity)
	}
	return id
}

// known: a form that wants the GUID has one.
func (u UIDL) known(m mailbox.Message) bool {
	for _, p := range u.parts {
		if p.variable == 'g' && m.GUID == "" {
			return false
		}
	}
	return true
}

func (p uidlPart) write(b *strings.Builder, m mailbox.Message, validity uint32) {
	n, base := uint64(validity), 10
	switch p.variable {
	case 0:
		b.WriteString(p.literal)
		return
	case 'g':
		b.WriteString(m.GUID)
		return
	case 'u':
		n = uint64(m.UID)
	}
	if p.hex {
		base = 16
	}
	s := strconv.FormatUint(n, base)
	b.WriteString(strings.Repeat("0", max(0, p.width-len(s))))
	b.WriteString(s)
}

// fits reports whether s can be a unique id.
func fits(s string) bool { return fitsIn(s, maxUIDL) }

func fitsIn(s string, longest int) bool {
	if s == "" || len(s) > longest {
		return false
	}
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
