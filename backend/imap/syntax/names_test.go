package syntax

import (
	"bytes"
	"testing"
)

// TestMailboxNames: by default '&' shifts, and UTF-8 is taken though it should not
// be sent; once it is enabled, a name is what it looks like.
func TestMailboxNames(t *testing.T) {
	for _, v := range []struct {
		sent, byDefault, utf8 string
	}{
		{"plain", "plain", "plain"},
		{`"Gr&APwA3w-e"`, "Grüße", "Gr&APwA3w-e"},
		{`"A &- B"`, "A & B", "A &- B"},
		{`"R&D"`, "R&D", "R&D"},
		{`"Grüße & Co"`, "Grüße & Co", "Grüße & Co"},
		{`"Grüße &- Co"`, "Grüße & Co", "Grüße &- Co"},
	} {
		for _, on := range []bool{false, true} {
			want := v.byDefault
			if on {
				want = v.utf8
			}
			for name, take := range map[string]func(*Parser) (string, error){"Mailbox": (*Parser).Mailbox, "ListMailbox": (*Parser).ListMailbox} {
				p := New(input{bytes.NewReader([]byte(v.sent + "\r\n"))}, Limits{})
				p.UTF8 = on
				if err := p.Next(); err != nil {
					t.Fatal(err)
				}
				if got, err := take(p); err != nil || got != want {
					t.Errorf("%s of %s, UTF8 %v: %q, %v, want %q", name, v.sent, on, got, err, want)
				}
			}
		}
	}
}
