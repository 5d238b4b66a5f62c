package order

import (
	"strings"
	"testing"
)

func TestBaseSubject(t *testing.T) {
	for _, c := range []struct {
		subject, base string
		reply         bool
	}{
		{"", "", false},
		{"hello", "hello", false},
		{"  hello  world ", "hello world", false},
		{"a\tb", "a b", false},
		{"Re: hello", "hello", true},
		{"re:hello", "hello", true},
		{"RE : hello", "hello", true},
		{"Re:", "", true},
		{"Re: Re: re: hello", "hello", true},
		{"Fw: hello", "hello", true},
		{"FWD: hello", "hello", true},
		{"Fwdx: hello", "Fwdx: hello", false},
		{"Reply: hello", "Reply: hello", false},
		{"Re[2]: hello", "hello", true},
		{"Re [2] : hello", "hello", true}, // white space belongs to the blob
		{"[list] hello", "hello", false},
		{"[list] Re: hello", "hello", true},
		{"Re: [list] hello", "hello", true},
		{"[a] [b] Re: [c] hello", "hello", true},
		{"[only]", "[only]", false},
		{"Re: [only]", "[only]", true},
		{"[a] [b]", "[b]", false},
		{strings.Repeat("[a]", 20000) + "x", "x", false},
		{"[a] [b] [c] x", "x", false},
		{"[a[b] hello", "[a[b] hello", false},
		{"[open hello", "[open hello", false},
		{"hello (fwd)", "hello", true},
		{"hello (FWD) (fwd) ", "hello", true},
		{"(fwd)", "", true},
		{"[fwd: hello]", "hello", true},
		{"[Fwd: Re: hello (fwd)]", "hello", true},
		{"Re: [fwd: [fwd: hello]]", "hello", true},
		{"[fwd: hello] x", "x", false}, // a blob like any other
		{"[fwd: hello", "[fwd: hello", false},
		{"[fwd:]", "", true},
		{"=?utf-8?q?Re=3A_h=C3=A9llo?=", "héllo", true},
		{"=?utf-8?b?UmU6?= =?utf-8?q?_x?=", "x", true},
		{"Re: =?utf-8?q?a?= (fwd)", "a", true},
		{"Re: ", "", true},
		{"R\u00e9: x", "R\u00e9: x", false},
	} {
		base, reply := BaseSubject(c.subject)
		if base != c.base || reply != c.reply {
			t.Errorf("%q: %q %v, want %q %v", c.subject, base, reply, c.base, c.reply)
		}
	}
}

func FuzzBaseSubject(f *testing.F) {
	f.Add("Re: [x] Fwd: [fwd: a] (fwd)")
	f.Add(strings.Repeat("[a]", 100) + "re")
	f.Fuzz(func(t *testing.T, s string) {
		base, _ := BaseSubject(s)
		if again, reply := BaseSubject(base); !strings.Contains(base, "=?") && (again != base || reply) {
			t.Errorf("%q: %q, and of that %q", s, base, again)
		}
	})
}
