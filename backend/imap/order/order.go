// Package order is what SORT orders messages by (RFC 5256, Section 3; SORT=DISPLAY: RFC 5957),
// and the base subject that threads ask for, too. It reads no messages: the caller has their
// values.
package order

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"waypost/backend/imap/collate"
	"waypost/internal/headerfield"
)

// Key is a sort key.
type Key uint8

// The sort keys.
const (
	Arrival Key = iota
	Cc
	Date
	From
	Size
	Subject
	To
	DisplayFrom
	DisplayTo
)

// ParseKey knows a key by its name in upper case.
func ParseKey(name string) (Key, bool) {
	i := slices.Index([]string{"ARRIVAL", "CC", "DATE", "FROM", "SIZE", "SUBJECT", "TO", "DISPLAYFROM", "DISPLAYTO"}, name)
	return Key(max(i, 0)), i >= 0
}

// Criterion is a key and its direction.
type Criterion struct {
	Key     Key
	Reverse bool
}

// Value is a message's value of one key: a number or a prepared text, the other being zero.
type Value struct {
	Number int64
	Text   string
}

// Item is a message to be sorted: one Value for each Criterion.
type Item struct {
	// At is its place in the mailbox, and comes back.
	At     int
	Values []Value
}

// Sort sorts items, those that are equal by their place (RFC 5256, Section 3).
func Sort(items []Item, by []Criterion) {
	slices.SortFunc(items, func(a, b Item) int {
		for i, c := range by {
			order := cmp.Compare(a.Values[i].Number, b.Values[i].Number)
			if order == 0 {
				order = strings.Compare(a.Values[i].Text, b.Values[i].Text)
			}
			if order != 0 {
				if c.Reverse {
					return -order
				}
				return order
			}
		}
		return cmp.Compare(a.At, b.At)
	})
}

// Time is a date's value.
func Time(t time.Time) Value { return Value{Number: t.Unix()} }

// SubjectOf is a subject's value.
func SubjectOf(subject string) Value {
	base, _ := BaseSubject(subject)
	return Value{Text: collate.Key(base)}
}

// Mailbox is the value of FROM, TO and CC: the first address's mailbox.
func Mailbox(list []imap.Address) Value {
	if len(list) == 0 {
		return Value{}
	}
	return Value{Text: collate.Key(list[0].Mailbox)}
}

// Display is the value of DISPLAYFROM and DISPLAYTO (RFC 5957, Section 3): the first
// address's name; if it has none, the address itself; of a group its name.
func Display(list []imap.Address) Value {
	if len(list) == 0 {
		return Value{}
	}
	a := list[0]
	name := headerfield.Decode(a.Name)
	switch {
	case name != "":
	case a.Host == "":
		name = a.Mailbox
	default:
		name = a.Mailbox + "@" + a.Host
	}
	return Value{Text: collate.Key(name)}
}
