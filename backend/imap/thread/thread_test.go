package thread

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// msg is a message of a test: its id and references, a subject ("re x" is a reply to x),
// and when it was sent.
func msg(id, refs, subject string, minute int) Message {
	m := Message{ID: id, Refs: strings.Fields(refs), Sent: time.Unix(int64(minute)*60, 0)}
	m.Subject, m.Reply = strings.CutPrefix(subject, "re ")
	return m
}

// shape writes threads, messages counted from 1.
func shape(nodes []*Node) string {
	var b strings.Builder
	var write func(n *Node)
	write = func(n *Node) {
		if n.Message >= 0 {
			fmt.Fprint(&b, n.Message+1)
		} else {
			b.WriteByte('-')
		}
		if len(n.Children) > 0 {
			b.WriteByte('(')
			for i, c := range n.Children {
				if i > 0 {
					b.WriteByte(' ')
				}
				write(c)
			}
			b.WriteByte(')')
		}
	}
	for i, n := range nodes {
		if i > 0 {
			b.WriteByte(' ')
		}
		write(n)
	}
	return b.String()
}

func TestThreads(t *testing.T) {
	for _, c := range []struct {
		name             string
		all              []Message
		references, refs string
	}{
		{"none", nil, "", ""},
		{"a chain", []Message{msg("a", "", "x", 1), msg("b", "a", "re x", 2), msg("c", "a b", "re x", 3)}, "1(2(3))", "1(2(3))"},
		{"backwards", []Message{msg("c", "a b", "re x", 3), msg("b", "a", "re x", 2), msg("a", "", "x", 1)}, "3(2(1))", "3(2(1))"},
		{"one is missing between", []Message{msg("a", "", "x", 1), msg("c", "a b", "re x", 3)}, "1(2)", "1(2)"},
		{"the root is missing", []Message{msg("b", "a", "x", 2), msg("c", "a", "y", 1)}, "-(2 1)", "-(2 1)"},
		{"a missing root of one", []Message{msg("b", "a", "x", 2)}, "1", "1"},
		{"itself", []Message{msg("a", "a", "x", 1)}, "1", "1"},
		{"each other", []Message{msg("a", "b", "x", 1), msg("b", "a", "y", 2)}, "2(1)", "2(1)"},
		{"a loop of references", []Message{msg("d", "a b c a", "x", 1), msg("b", "c", "y", 2)}, "1 2", "1 2"},
		{"an id twice", []Message{msg("a", "", "x", 1), msg("a", "", "y", 2), msg("b", "a", "z", 3)}, "1(3) 2", "2 1(3)"},
		{"no ids", []Message{msg("", "", "x", 2), msg("", "", "y", 1)}, "2 1", "2 1"},
		{"its own word counts", []Message{msg("c", "a b x", "p", 3), msg("b", "", "q", 2), msg("a", "", "r", 1)}, "3 2(1)", "3 2(1)"},
		{"siblings by date", []Message{msg("a", "", "x", 1), msg("b", "a", "p", 5), msg("c", "a", "q", 3), msg("d", "a", "r", 3)}, "1(3 4 2)", "1(3 4 2)"},
		{"a subject", []Message{msg("a", "", "x", 1), msg("b", "", "re x", 2), msg("c", "", "x", 3)}, "-(1(2) 3)", "1 2 3"},
		{"a reply first", []Message{msg("a", "", "re x", 1), msg("b", "", "x", 2)}, "2(1)", "1 2"},
		{"replies only", []Message{msg("a", "", "re x", 1), msg("b", "", "re x", 2)}, "-(1 2)", "1 2"},
		{"no subject", []Message{msg("a", "", "", 1), msg("b", "", "", 2)}, "1 2", "1 2"},
		{"a subject of a missing root", []Message{msg("b", "a", "x", 1), msg("c", "a", "x", 2), msg("d", "", "x", 3)}, "-(1 2 3)", "-(1 2) 3"},
		{"two missing roots", []Message{msg("b", "a", "x", 1), msg("c", "a", "x", 2), msg("e", "d", "x", 3), msg("f", "d", "x", 4)}, "-(1 2 3 4)", "-(1 2) -(3 4)"},
		{"newest last", []Message{msg("a", "", "x", 1), msg("b", "", "y", 2), msg("c", "a", "z", 9)}, "1(3) 2", "2 1(3)"},
	} {
		if got := shape(References(c.all)); got != c.references {
			t.Errorf("%s: REFERENCES %s, want %s", c.name, got, c.references)
		}
		if got := shape(Refs(c.all)); got != c.refs {
			t.Errorf("%s: REFS %s, want %s", c.name, got, c.refs)
		}
	}
	all := []Message{msg("", "", "x", 5), msg("", "", "y", 2), msg("", "", "re x", 1), msg("", "", "x", 5), msg("", "", "", 0), msg("", "", "", 3)}
	if got := shape(OrderedSubject(all)); got != "5(6) 3(1 4) 2" {
		t.Error("ORDEREDSUBJECT", got)
	}
}

func TestIDs(t *testing.T) {
	for field, want := range map[string]string{
		"": "", "nothing": "", "<a@b>": "a@b", "x <a@b> y <c@d>": "a@b c@d", "<a@b><c@d>": "a@b c@d", "<a b@c>": "ab@c",
		`<"a"@b>`: "a@b", `<"a\"<>b"@c>`: `a"<>b@c`, "<a>": "", "<@b>": "", "<a@b": "", "<a <c@d>": "c@d", "<a@b>,<c@d>": "a@b c@d",
	} {
		if got := strings.Join(IDs(field), " "); got != want {
			t.Errorf("%q: %q, want %q", field, got, want)
		}
	}
	if ID("re <a@b> <c@d>") != "a@b" || ID("") != "" {
		t.Error("ID")
	}
}

// TestEachOnce: whatever is referred to, threads have each message once.
func TestEachOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h"})
		n := rapid.IntRange(0, 12).Draw(t, "messages")
		all := make([]Message, n)
		for i := range all {
			all[i] = Message{
				ID: id.Draw(t, "id"), Refs: rapid.SliceOfN(id, 0, 5).Draw(t, "refs"), Reply: rapid.Bool().Draw(t, "reply"),
				Subject: rapid.SampledFrom([]string{"", "x", "y", "z"}).Draw(t, "subject"),
				Sent:    time.Unix(int64(rapid.IntRange(0, 9).Draw(t, "sent")), 0),
			}
		}
		for name, make := range map[string]func([]Message) []*Node{"ORDEREDSUBJECT": OrderedSubject, "REFERENCES": References, "REFS": Refs} {
			seen := map[int]int{}
			var walk func(nodes []*Node, top bool)
			walk = func(nodes []*Node, top bool) {
				for _, n := range nodes {
					if n.Message >= 0 {
						seen[n.Message]++
					} else if !top || len(n.Children) < 2 {
						t.Fatalf("%s: a message that is not there has no business here", name)
					}
					walk(n.Children, false)
				}
			}
			roots := make(all)
			walk(roots, true)
			for i := range all {
				if seen[i] != 1 {
					t.Fatalf("%s: message %d is there %d times in %s", name, i+1, seen[i], shape(roots))
				}
			}
		}
	})
}

// TestLong: what was made up to be slow ends, and so well before the tests' time is up.
func TestLong(t *testing.T) {
	const n = 20_000
	name := func(i int) string { return fmt.Sprint("m", i) }
	for what, all := range map[string]func(i int) Message{
		"chain":     func(i int) Message { return msg(name(i), name(i-1), "x", i) },
		"backwards": func(i int) Message { return msg(name(i), name(i+1), "x", i) },
		"halves":    func(i int) Message { return msg(name(i*7919%n), name((i*7919+1)%n), "x", i) },
		"star":      func(i int) Message { return msg(name(i), "m0", "re x", i) },
	} {
		msgs := make([]Message, n)
		for i := range msgs {
			msgs[i] = all(i)
		}
		if got := len(References(msgs)); got == 0 || got > n {
			t.Errorf("%s: %d threads", what, got)
		}
	}
}
