package index

import (
	"slices"
	"strings"

	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// keptNames are the fields of the package comment, as they are mostly written.
// A record holds their places in this list: a change needs a new formatVersion.
var keptNames = [...]string{
	"Date", "Subject", "From", "Sender", "Reply-To", "To", "Cc", "Bcc", "In-Reply-To", "Message-ID",
	"References", "Thread-Topic", "Thread-Index", "Content-Type", "MIME-Version",
	"Content-Description", "Content-Class", "Content-Language",
	"Content-Transfer-Encoding", "Content-Disposition", "List-Id", "List-Post",
	"List-Unsubscribe", "List-Unsubscribe-Post", "X-Mailing-List",
	"Priority", "X-Priority", "X-MSMail-Priority", "Importance", "Sensitivity",
	"X-Message-Flag", "Delivered-To", "Return-Path", "X-Original-To", "Newsgroups",
	"Followup-To", "Mail-Followup-To", "Mail-Reply-To", "Disposition-Notification-To",
	"Auto-Submitted", "Lines", "Keywords", "X-Keywords", "X-Label",
	"X-Draft-Info", "X-Identity-Key", "X-K9mail-Identity",
	"X-Uniform-Type-Identifier", "X-Universally-Unique-Identifier",
	"X-Mozilla-Draft-Info", "X-Spam-Flag", "X-Spam-Status", "X-Spam-Score",
	"X-TUID", "Chat-Version", "X-Microsoft-Original-Message-ID",
}

// keptLower are keptNames in lower case, keptPlace their places.
var keptLower, keptPlace = lowerNames()

func lowerNames() (lower [len(keptNames)]string, place map[string]int) {
	place = make(map[string]int, len(keptNames))
	for i, n := range keptNames {
		lower[i] = strings.ToLower(n)
		place[lower[i]] = i
	}
	return lower, place
}

// Limits of what is kept of a header (see the package comment).
const (
	maxFieldBytes  = 8 << 10
	maxHeaderBytes = 32 << 10
	maxFields      = 256
)

// Kept reports whether fields of that name, in any case, are in an index.
func Kept(name string) bool {
	_, ok := keptPlace[strings.ToLower(name)]
	return ok
}

// HeaderFields gives what BODY[HEADER.FIELDS (names)] answers (RFC 9051, Section
// 6.4.5.1), byte for byte as in the message, with the empty line that ends it;
// the names in any case. known is false when m cannot tell.
func HeaderFields(m *mailbox.Meta, names []string) (header string, known bool) {
	for _, n := range names {
		if !Kept(n) {
			return "", false
		}
	}
	asked := func(f *mime.Field) bool {
		return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, f.Name) })
	}
	size := 2
	for i := range m.Fields {
		if f := &m.Fields[i]; asked(f) {
			if f.Cut {
				return "", false
			}
			size += len(f.Raw)
		}
	}
	var b strings.Builder
	b.Grow(size)
	for i := range m.Fields {
		if f := &m.Fields[i]; asked(f) {
			b.WriteString(f.Raw)
		}
	}
	b.WriteString("\r\n")
	return b.String(), true
}

// Names are kept fields, as a set.
type Names = mailbox.FieldSet

// NamesOf gives the set of names, in any case; ok is false if one of them is not kept.
func NamesOf(names []string) (set Names, ok bool) {
	for _, n := range names {
		place, kept := keptPlace[strings.ToLower(n)]
		if !kept {
			return 0, false
		}
		set |= 1 << place
	}
	return set, true
}

// inSet reports whether a set has the field of that place in keptNames; there are no more
// than it has bits.
func inSet(s Names, place int) bool { return s>>place&1 == 1 }

// FieldsOf calls each for m's fields that are of a set, in their order.
func FieldsOf(m *mailbox.Meta, set Names, each func(*mime.Field)) {
	for i := range m.Fields {
		if place, kept := keptPlace[m.Fields[i].Name]; kept && inSet(set, place) {
			each(&m.Fields[i])
		}
	}
}

// HeaderOf is HeaderFields for a set.
func HeaderOf(m *mailbox.Meta, set Names) (header string, known bool) {
	var b strings.Builder
	known = true
	FieldsOf(m, set, func(f *mime.Field) {
		b.WriteString(f.Raw)
		known = known && !f.Cut
	})
	if !known {
		return "", false
	}
	b.WriteString("\r\n")
	return b.String(), true
}

var _ [64 - len(keptNames)]struct{}
