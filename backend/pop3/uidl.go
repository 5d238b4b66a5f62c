package pop3

import (
	"crypto/md5"
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
		p.write(&b, m, validity, file)
	}
	return b.String()
}

// uidlPart is a literal, or a variable.
type uidlPart struct {
	literal  string
	variable byte // 'g', 'f', 'u', 'v', or 0
	hex      bool
	md5      bool // in hexadecimal
	upper    bool
	lower    bool
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
//	%Mg  the MD5 sum of a variable, in hexadecimal; %Ug and %Lg its letters in
//	     upper and in lower case
//	%{uid}, %{uidvalidity}, %{guid}  the same as %u, %v, %g, as Dovecot 2 has
//	     them; and Dovecot 2.4's filters: %{uid | hex(8)}
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
//	%f   the message's file name without flags, as Courier and qmail have it;
//	     %{filename} likewise, and %Mf is tpop3d's form
//
// %m is the MD5 sum of an mbox's headers, and an error: no mbox is taken over. Ids
// that Dovecot has written down (pop3_save_uidl, or those it took from its own
// predecessor) do not depend on the form.
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
	if strings.HasPrefix(s, "%{") {
		return parseLong(s)
	}
	i := 1
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	if digits := s[1:i]; digits != "" {
		if p.width, bad = zeros(digits); bad != "" {
			return p, "", bad
		}
	}
	for ; i+1 < len(s) && strings.IndexByte("XMUL", s[i]) >= 0; i++ {
		if bad = p.modify(s[i]); bad != "" {
			return p, "", bad
		}
	}
	if i == len(s) {
		return p, "", "ends within a variable"
	}
	if s[i] == '%' && i == 1 {
		return uidlPart{literal: "%"}, s[i+1:], ""
	}
	if s[i] == '{' {
		name, after, ok := strings.Cut(s[i+1:], "}")
		if !ok {
			return p, "", "ends within a variable"
		}
		return p.named(name, after)
	}
	return p.of(s[i], s[i+1:])
}

// zeros reads a width.
func zeros(digits string) (width int, bad string) {
	width, err := strconv.Atoi(digits)
	if err != nil || digits[0] != '0' || width == 0 || width > 20 || len(digits) > 3 {
		return 0, "a width is 01 to 020"
	}
	return width, ""
}

// modify takes a modifier of Dovecot's variables; one of a kind is all that any
// known server's ids have.
func (p *uidlPart) modify(c byte) (bad string) {
	if p.hex || p.md5 || p.upper || p.lower {
		return "one modifier of X, M, U and L only"
	}
	p.hex, p.md5, p.upper, p.lower = c == 'X', c == 'M', c == 'U', c == 'L'
	return ""
}

// of makes it that variable's part.
func (p uidlPart) of(variable byte, rest string) (uidlPart, string, string) {
	p.variable = variable
	switch variable {
	case 'g', 'f':
		if !p.hex && p.width == 0 {
			return p, rest, ""
		}
	case 'u', 'v':
		return p, rest, ""
	case 'm':
		return p, "", "%m is of mbox files, which are not taken over"
	}
	return p, "", "variables are %u, %v and %g"
}

// named is of for the long names of Dovecot 2.
func (p uidlPart) named(name, rest string) (uidlPart, string, string) {
	short, ok := map[string]byte{"uid": 'u', "uidvalidity": 'v', "guid": 'g', "filename": 'f', "md5": 'm'}[strings.TrimSpace(name)]
	if !ok {
		return p, "", "names are %{uid}, %{uidvalidity}, %{guid} and %{filename}"
	}
	return p.of(short, rest)
}

// parseLong reads a variable as Dovecot 2.4 writes it: %{uid | hex(8)}.
func parseLong(s string) (p uidlPart, rest, bad string) {
	inner, rest, ok := strings.Cut(s[2:], "}")
	if !ok {
		return p, "", "ends within a variable"
	}
	name, filters, filtered := strings.Cut(inner, "|")
	for filtered {
		var filter string
		filter, filters, filtered = strings.Cut(filters, "|")
		filter = strings.TrimSpace(filter)
		width, isHex := strings.CutPrefix(filter, "hex")
		switch {
		case isHex && width == "":
			bad = p.modify('X')
		case isHex && strings.HasPrefix(width, "(") && strings.HasSuffix(width, ")"):
			if bad = p.modify('X'); bad == "" {
				p.width, bad = zeros("0" + strings.Trim(width, "() "))
			}
		case filter == "upper":
			bad = p.modify('U')
		case filter == "lower":
			bad = p.modify('L')
		case filter == "md5":
			bad = p.modify('M')
		case filter == "hexlify" && p.md5: // which ours is anyway
		default:
			bad = "filters are hex, hex(N), md5 | hexlify, upper and lower"
		}
		if bad != "" {
			return p, "", bad
		}
	}
	return p.named(name, rest)
}

// longest is the greatest length of what p makes; a GUID's is seen when it is there.
func (p uidlPart) longest() int {
	switch {
	case p.variable == 0:
		return len(p.literal)
	case p.md5:
		return max(32, p.width)
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

func (p uidlPart) write(b *strings.Builder, m mailbox.Message, validity uint32, file string) {
	text, base := "", 10
	if p.hex {
		base = 16
	}
	switch p.variable {
	case 0:
		text = p.literal
	case 'g':
		text = m.GUID
	case 'f':
		text = file
	case 'u':
		text = strconv.FormatUint(uint64(m.UID), base)
	case 'v':
		text = strconv.FormatUint(uint64(validity), base)
	}
	switch {
	case p.md5:
		text = fmt.Sprintf("%x", md5.Sum([]byte(text)))
	case p.upper:
		text = strings.ToUpper(text)
	case p.lower:
		text = strings.ToLower(text)
	}
	b.WriteString(strings.Repeat("0", max(0, p.width-len(text))))
	b.WriteString(text)
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
