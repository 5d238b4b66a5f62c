package imap

import (
	"fmt"
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

// BenchmarkSelected measures what one change costs a session that has the
// folder selected: it must not depend on the folder's size.
func BenchmarkSelected(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("STORE/%d", n), func(b *testing.B) {
			_, _, c := selectedBox(b, n)
			for i := range b.N {
				c.ok("STORE %d %cFLAGS (\\Flagged)", n/2, "+-"[i%2])
			}
		})
		b.Run(fmt.Sprintf("deliver/%d", n), func(b *testing.B) {
			r, box, c := selectedBox(b, n)
			m, err := r.store.Stage(b.Context(), "", strings.NewReader(letter), 0)
			if err != nil {
				b.Fatal(err)
			}
			for i := range b.N {
				d := mailbox.Delivery{ID: fmt.Sprint(i), Message: m, Places: []mailbox.Place{{}}}
				if err := box.Deliver(b.Context(), d); err != nil {
					b.Fatal(err)
				}
				c.ok("NOOP")
			}
		})
		b.Run(fmt.Sprintf("leftover/%d", n), func(b *testing.B) {
			// The client is never allowed to know that a message is gone.
			_, box, c := selectedBox(b, n)
			f, err := box.Folder("INBOX")
			if err != nil {
				b.Fatal(err)
			}
			if _, err := f.Expunge([]mailbox.UID{2}); err != nil {
				b.Fatal(err)
			}
			for i := range b.N {
				if _, err := f.SetFlags([]mailbox.UID{mailbox.UID(n / 2)}, mailbox.FlagChange{Op: mailbox.FlagsSet, Flags: mailbox.Flags{System: mailbox.System(i%2 + 1)}}); err != nil {
					b.Fatal(err)
				}
				c.ok("FETCH 1 UID")
			}
		})
	}
}

func selectedBox(b *testing.B, n int) (*rig, mailbox.Box, *client) {
	r := newRig(b, Limits{})
	box := r.box(1)
	r.fill(box, n)
	c := r.dial(box)
	c.ok("SELECT INBOX")
	b.ReportAllocs()
	b.ResetTimer()
	return r, box, c
}
