package pop3

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/memory"
	"waypost/internal/poplist"
)

const many = 100_000

// bigDrop is a maildrop of 100,000 messages.
func bigDrop(b *testing.B) *memory.Store {
	b.Helper()
	store := memory.New()
	store.Serve(ann, "b1", 7)
	box := open(b, store, 7)
	for i := range many {
		text := fmt.Sprintf("From: =?utf-8?q?J=C3=BCrgen?= <j%d@example.org>\nDate: Sun, 22 Nov 2026 10:00:00 +0100\nSubject: message %d\n\ntext\n", i, i)
		m, err := store.Stage(b.Context(), "", strings.NewReader(text), 0)
		if err != nil {
			b.Fatal(err)
		}
		if err := box.Deliver(b.Context(), mailbox.Delivery{ID: fmt.Sprint(i), Message: m, Places: []mailbox.Place{{}}}); err != nil {
			b.Fatal(err)
		}
	}
	return store
}

// BenchmarkMany measures whole sessions, from their start to QUIT, at 100,000
// messages.
func BenchmarkMany(b *testing.B) {
	store := bigDrop(b)
	box := open(b, store, 7)
	for _, command := range []string{"STAT", "LIST", "UIDL", poplist.Command} {
		b.Run(command, func(b *testing.B) {
			if command == poplist.Command {
				warm(b, box) // the memory store reads a message at the first question
			}
			for b.Loop() {
				d := serve(b, Options{}, box)
				d.Reader = bufio.NewReaderSize(d.Conn, 64<<10)
				d.Send(command + "\r\nQUIT\r\n")
				out, err := io.ReadAll(d.Reader)
				if err != nil || !bytes.HasSuffix(out, []byte("+OK bye\r\n")) {
					b.Fatalf("%q, %v", out[max(0, len(out)-80):], err)
				}
				b.SetBytes(int64(len(out)))
				if err := d.end(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func warm(b *testing.B, box mailbox.Box) {
	b.Helper()
	f, err := box.Folder(mailbox.Inbox)
	if err != nil {
		b.Fatal(err)
	}
	for uid := range mailbox.UID(many) {
		if _, err := f.Meta(uid + 1); err != nil {
			b.Fatal(err)
		}
	}
}
