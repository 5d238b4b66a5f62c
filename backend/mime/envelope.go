package mime

import (
	"net/mail"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
)

// envelope makes RFC 9051, Section 7.5.2's ENVELOPE. Subject and names stay in
// their encoded form, as that section has them.
func envelope(kept map[string]string) *imap.Envelope {
	return &imap.Envelope{
		Date:      ParseDate(kept["date"]),
		Subject:   kept["subject"],
		From:      parseAddresses(kept["from"]),
		Sender:    parseAddresses(kept["sender"]),
		ReplyTo:   parseAddresses(kept["reply-to"]),
		To:        parseAddresses(kept["to"]),
		Cc:        parseAddresses(kept["cc"]),
		Bcc:       parseAddresses(kept["bcc"]),
		InReplyTo: messageIDs(kept["in-reply-to"]),
		MessageID: messageID(kept["message-id"]),
	}
}

// messageIDs gives the ids without their angle brackets.
func messageIDs(s string) []string {
	var ids []string
	for s != "" {
		_, rest, ok := strings.Cut(s, "<")
		if !ok {
			break
		}
		id, after, ok := strings.Cut(rest, ">")
		if !ok {
			break
		}
		if id != "" {
			ids = append(ids, id)
		}
		s = after
	}
	return ids
}

func messageID(s string) string {
	if ids := messageIDs(s); len(ids) > 0 {
		return ids[0]
	}
	return strings.Trim(s, "<> ")
}

// ParseDate reads a Date field (RFC 5322, Section 3.3), zero if it cannot.
func ParseDate(s string) time.Time {
	s = strings.Join(strings.Fields(withoutComments(s)), " ")
	if s == "" {
		return time.Time{}
	}
	t, err := mail.ParseDate(s)
	for _, layout := range []string{
		"Mon, 2 Jan 2006 15:04:05", "2 Jan 2006 15:04:05", "Mon Jan 2 15:04:05 2006",
		"Mon Jan 2 15:04:05 MST 2006", "Mon, 2 Jan 06 15:04:05 MST", "Mon, 2 Jan 06 15:04:05 -0700",
		"Monday, 2 Jan 2006 15:04:05 -0700", time.RFC3339,
	} {
		if err == nil {
			break
		}
		t, err = time.Parse(layout, s)
	}
	if err != nil || t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}
	}
	return inZone(t)
}

// inZone gives the zones that RFC 5322, Section 4.3 names their meaning; the
// time package knows only the machine's own.
func inZone(t time.Time) time.Time {
	name, offset := t.Zone()
	hours, ok := map[string]int{
		"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7,
	}[name]
	if !ok || offset != 0 {
		return t
	}
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0,
		time.FixedZone(name, hours*3600))
}

func withoutComments(s string) string {
	var b strings.Builder
	depth := 0
	for _, r := range s {
		switch {
		case r == '(':
			depth++
		case r == ')' && depth > 0:
			depth--
		case depth == 0:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// addressParser reads an address list (RFC 5322, Section 3.4), tolerantly.
type addressParser struct {
	out     []imap.Address
	text    strings.Builder // what stands outside of <>, quotes resolved
	local   strings.Builder // the same with quotes kept: maybe an addr-spec
	comment string
	angle   string
	isAngle bool
	at      bool // local has an '@'
	group   bool
}

func parseAddresses(s string) []imap.Address {
	var p addressParser
	for i := 0; i < len(s); {
		i = p.step(s, i)
	}
	p.flush()
	if p.group {
		p.out = append(p.out, imap.Address{})
	}
	return p.out
}

// step takes what begins at s[i] and gives the index behind it.
func (p *addressParser) step(s string, i int) int {
	switch c := s[i]; {
	case c == '(':
		var text string
		text, i = delimited(s, i, '(', ')')
		p.comment = strings.TrimSpace(text)
		return i
	case c == '"' && strings.IndexByte(s[i+1:], '"') < 0: // never closed: no quote at all
	case c == '"':
		text, next := delimited(s, i, 0, '"')
		p.text.WriteString(text)
		p.local.WriteString(s[i:next])
		p.at = p.at || strings.Contains(s[i:next], "@")
		return next
	case c == '<':
		p.angle, i = angle(s, i)
		p.isAngle = true
		return i
	case c == ',':
		p.flush()
	case c == ';':
		p.flush()
		if p.group {
			p.out = append(p.out, imap.Address{})
			p.group = false
		}
	case c == ':' && !p.group && !p.isAngle && !p.at:
		name := strings.TrimSpace(p.text.String())
		p.reset()
		if name != "" {
			// A group begins: its name stands for the mailbox, host NIL.
			p.out = append(p.out, imap.Address{Mailbox: name})
			p.group = true
		}
	default:
		p.text.WriteByte(c)
		p.local.WriteByte(c)
		p.at = p.at || c == '@'
	}
	return i + 1
}

func (p *addressParser) reset() {
	p.text.Reset()
	p.local.Reset()
	p.comment, p.angle, p.isAngle, p.at = "", "", false, false
}

// flush ends an address. What lacks a part gets a word in its place, because
// NIL would make it a group (RFC 9051, Section 7.5.2).
func (p *addressParser) flush() {
	defer p.reset()
	name, spec := strings.Join(strings.Fields(p.text.String()), " "), p.angle
	if !p.isAngle {
		name, spec = p.comment, p.local.String()
	}
	spec = strings.TrimSpace(spec)
	if spec == "" && name == "" {
		return
	}
	if strings.HasPrefix(spec, "@") { // an obsolete route (RFC 5322, Section 4.4)
		if _, after, ok := strings.Cut(spec, ":"); ok {
			spec = after
		}
	}
	mailbox, host := spec, ""
	if i := strings.LastIndexByte(spec, '@'); i >= 0 {
		mailbox, host = spec[:i], spec[i+1:]
	}
	if mailbox = strings.TrimSpace(mailbox); mailbox == "" {
		mailbox = "MISSING_MAILBOX"
	}
	if host = strings.TrimSpace(host); host == "" {
		host = "MISSING_DOMAIN"
	}
	p.out = append(p.out, imap.Address{Name: name, Mailbox: mailbox, Host: host})
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
