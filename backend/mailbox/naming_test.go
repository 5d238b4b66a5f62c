package mailbox

import "testing"

func TestNaming(t *testing.T) {
	dots, courier := Naming{Separator: '.'}, Naming{Separator: '.', Inbox: true}
	for _, c := range []struct {
		n             Naming
		outside, here string
		other         bool // what is outside is not how we call it
	}{
		{Naming{}, "a/b.c", "a/b.c", false}, {Naming{Separator: '/'}, "a/b.c", "a/b.c", false}, {Naming{}, "INBOX", "INBOX", false},
		{dots, "a.b", "a/b", false}, {dots, "a/b", "a.b", false}, {dots, "INBOX", "INBOX", false}, {dots, "INBOX.a.b", "INBOX/a/b", false},
		{dots, "Größe.ß", "Größe/ß", false}, {dots, "", "", false}, {dots, "plain", "plain", false},
		{courier, "INBOX", "INBOX", false}, {courier, "INBOX.a.b", "a/b", false}, {courier, "INBOX.INBOX.a", "INBOX/a", false},
		{courier, "a.b", "a/b", true}, {courier, "inbox.a", "a", true}, {courier, "INBOX.", "INBOX/", true},
		{Naming{Inbox: true}, "INBOX/a.b", "a.b", false},
	} {
		if got := c.n.In(c.outside); got != c.here {
			t.Errorf("%+v: %q is %q here, want %q", c.n, c.outside, got, c.here)
		}
		if got := c.n.Out(c.here); c.outside != "" && got != c.outside && !c.other {
			t.Errorf("%+v: %q is %q outside, want %q", c.n, c.here, got, c.outside)
		}
	}
}
