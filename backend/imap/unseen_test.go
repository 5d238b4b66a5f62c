package imap

import (
	"math/rand/v2"
	"testing"

	"waypost/backend/mailbox"
)

func TestFirstUnseen(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, 2, 127, 128, 129, 255, 256, 257, 300, 1000} {
		for range 200 {
			all := make([]mailbox.Message, size)
			for i := range all {
				all[i] = mailbox.Message{UID: mailbox.UID(i + 1), Flags: mailbox.Flags{System: mailbox.Seen}}
			}
			if size > 0 {
				for range r.IntN(5) {
					all[r.IntN(size)].Flags.System = 0
				}
			}
			n, want := 0, -1
			for i := range all {
				if all[i].Flags.System == 0 {
					if n++; n == 1 {
						want = i
					}
				}
			}
			v := &view{told: mailbox.NewMessages(all)}
			if got := v.firstUnseen(n); got != want {
				t.Fatalf("%d messages, %d unseen: the first is %d, want %d", size, n, got, want)
			}
		}
	}
}

// BenchmarkFirstUnseen is the worst case: one unseen message in the middle.
func BenchmarkFirstUnseen(b *testing.B) {
	all := make([]mailbox.Message, 100_000)
	for i := range all {
		all[i] = mailbox.Message{UID: mailbox.UID(i + 1), Flags: mailbox.Flags{System: mailbox.Seen}}
	}
	all[len(all)/2].Flags.System = 0
	v := &view{told: mailbox.NewMessages(all)}
	for b.Loop() {
		if v.firstUnseen(1) < 0 {
			b.Fatal("not found")
		}
	}
}
