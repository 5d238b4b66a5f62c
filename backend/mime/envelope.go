package mime

import (
	"net/mail"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"
)

// envelope makes RFC 9051, Section 7.5.2's ENVELOPE of raw fields. Subject and names stay
// in their encoded form, as that section has them.
func envelope(kept map[string]string, lists *[len(addressNames)][]address) *imap.Envelope {
	return &imap.Envelope{
		Date:      ParseDate(cleanText(kept["date"])),
		Subject:   cleanText(kept["subject"]),
		From:      addresses(lists[listFrom]),
		Sender:    addresses(lists[listSender]),
		ReplyTo:   addresses(lists[listReplyTo]),
		To:        addresses(lists[listTo]),
		Cc:        addresses(lists[listCc]),
		Bcc:       addresses(lists[listBcc]),
		InReplyTo: messageIDs(cleanText(kept["in-reply-to"])),
		MessageID: messageID(cleanText(kept["message-id"])),
	}
}

// The fields that are lists of addresses, as an ENVELOPE has them one after the other.
const (
	listFrom = iota
	listSender
	listReplyTo
	listTo
	listCc
	listBcc
)

var addressNames = [...]string{"from", "sender", "reply-to", "to", "cc", "bcc"}

// addressLists reads the address fields.
func addressLists(kept map[string]string) (lists [len(addressNames)][]address) {
	for i, name := range addressNames {
		if raw, ok := kept[name]; ok {
			lists[i] = addressList(raw)
		}
	}
	return lists
}

func addresses(list []address) []imap.Address {
	if len(list) == 0 {
		return nil
	}
	out := make([]imap.Address, len(list))
	for i, a := range list {
		out[i] = imap.Address{Name: cleanText(a.name), Mailbox: cleanText(a.mailbox), Host: cleanText(a.host)}
	}
	return out
}

// AddressList reads the unfolded value of an address field, as an Envelope has it.
func AddressList(value string) []imap.Address { return addresses(addressList(value)) }

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
	// Nearly all are like this one; of two dozen others mail.ParseDate tries it rather late.
	t, err := time.Parse("Mon, 2 Jan 2006 15:04:05 -0700", s)
	if err != nil {
		t, err = mail.ParseDate(s)
	}
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
	if strings.IndexByte(s, '(') < 0 {
		return s
	}
	var b strings.Builder
	depth := 0
	for i := range len(s) { // what is no UTF-8 stays as it is
		switch c := s[i]; {
		case c == '(':
			depth++
		case c == ')' && depth > 0:
			depth--
		case depth == 0:
			b.WriteByte(c)
		}
	}
	return b.String()
}
