package mime

import (
	"strings"

	"github.com/emersion/go-imap/v2"

	"waypost/internal/headerfield"
)

// envelope makes RFC 9051, Section 7.5.2's ENVELOPE of raw fields. Subject and names stay
// in their encoded form, as that section has them.
func envelope(kept map[string]string, lists *[len(addressNames)][]address) *imap.Envelope {
	date, _ := headerfield.Date(cleanText(kept["date"]))
	return &imap.Envelope{
		Date:      date,
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
