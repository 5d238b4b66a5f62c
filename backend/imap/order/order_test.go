package order

import (
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
)

func TestSort(t *testing.T) {
	items := func() []Item {
		return []Item{
			{0, []Value{{Text: "B"}, {Number: 1}}},
			{1, []Value{{Text: "A"}, {Number: 1}}},
			{2, []Value{{Text: "B"}, {Number: 3}}},
			{3, []Value{{Text: "A"}, {Number: 1}}},
		}
	}
	for _, c := range []struct {
		by   []Criterion
		want [4]int
	}{
		{[]Criterion{{Subject, false}, {Size, false}}, [4]int{1, 3, 0, 2}},
		{[]Criterion{{Subject, true}, {Size, false}}, [4]int{0, 2, 1, 3}},
		{[]Criterion{{Subject, false}, {Size, true}}, [4]int{1, 3, 2, 0}},
		{[]Criterion{{Subject, true}, {Size, true}}, [4]int{2, 0, 1, 3}},
	} {
		all := items()
		Sort(all, c.by)
		for i, item := range all {
			if item.At != c.want[i] {
				t.Errorf("%v: place %d has %d, want %v", c.by, i, item.At, c.want)
			}
		}
	}
}

func TestValues(t *testing.T) {
	ann := []imap.Address{{Name: "=?utf-8?q?=C3=84nn?=", Mailbox: "ann", Host: "example.org"}, {Mailbox: "bob"}}
	bare := []imap.Address{{Mailbox: "bob", Host: "Example.org"}}
	group := []imap.Address{{Mailbox: "friends"}, {}}
	for what, got := range map[string]Value{
		"ANN":             Mailbox(ann),
		"A\u0308NN":       Display(ann),
		"BOB":             Mailbox(bare),
		"BOB@EXAMPLE.ORG": Display(bare),
		"FRIENDS":         Display(group),
		"":                Display(nil),
		"HELLO":           SubjectOf("Re: hello"),
	} {
		if got.Text != what || got.Number != 0 {
			t.Errorf("%+v, want %q", got, what)
		}
	}
	if Mailbox(nil) != (Value{}) || Time(time.Unix(7, 5)).Number != 7 {
		t.Error("empty list, or time")
	}
	for _, name := range []string{"ARRIVAL", "CC", "DATE", "FROM", "SIZE", "SUBJECT", "TO", "DISPLAYFROM", "DISPLAYTO"} {
		if _, ok := ParseKey(name); !ok {
			t.Errorf("no key %s", name)
		}
	}
	if _, ok := ParseKey("REVERSE"); ok {
		t.Error("REVERSE is no key")
	}
}
