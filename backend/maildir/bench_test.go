package maildir

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"waypost/backend/journal"
	"waypost/backend/mailbox"
	"waypost/internal/vfs"
)

// BenchmarkStore measures what one operation on a folder of so many messages
// takes, on the machine's own disk; the journal's flushes included.
func BenchmarkStore(b *testing.B) {
	for _, n := range []int{1000, 100000} {
		s := newBenchSetup(b, n)
		h := s.folder("INBOX")
		if got := s.snapshot(h).Messages.Len(); got != n {
			b.Fatal(got)
		}
		s.folder("A")
		one := func(b *testing.B, i int) []mailbox.UID {
			m := s.snapshot(h).Messages
			return []mailbox.UID{m.At(i * 7919 % m.Len()).UID}
		}
		for _, c := range []struct {
			name string
			do   func(b *testing.B, i int)
		}{
			{"deliver", func(_ *testing.B, i int) { s.deliver(fmt.Sprint(n, " ", b.Name(), time.Now().UnixNano()), text(i), "") }},
			{"deliver-look", func(_ *testing.B, i int) {
				s.deliver(fmt.Sprint(n, " ", b.Name(), time.Now().UnixNano()), text(i), "")
				s.snapshot(h)
			}},
			{"append", func(_ *testing.B, i int) { s.append("INBOX", text(i), mailbox.Flags{}) }},
			{"flags", func(b *testing.B, i int) {
				_, err := h.SetFlags(one(b, i), mailbox.FlagOp(1+i%2), system(mailbox.Flagged))
				must(b, err)
			}},
			{"expunge", func(b *testing.B, i int) {
				_, err := h.Expunge(one(b, i))
				must(b, err)
			}},
			{"move", func(b *testing.B, i int) {
				_, err := h.Move(one(b, i), "A")
				must(b, err)
			}},
		} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					c.do(b, i)
				}
			})
		}
	}
}

// newBenchSetup makes a mailbox with n messages, as others would have left it.
func newBenchSetup(b *testing.B, n int) *setup {
	base := b.TempDir()
	s := &setup{t: b, fs: vfs.OS, base: base, root: filepath.Join(base, "user"), guard: &guard{}}
	s.opts = func(o *Options) { o.Log = slog.New(slog.DiscardHandler) }
	must(b, os.Mkdir(filepath.Join(base, "incoming"), 0o700))
	must(b, Create(vfs.OS, s.root))
	for i := range n {
		must(b, os.WriteFile(s.path("cur", fmt.Sprintf("%d.M1P1Q%d.bench,S=26,W=29:2,", 1600000000+i, i)), []byte("Subject: a\n\nbody xxxxxxxxx\n"), 0o600))
	}
	j, err := journal.Open(journal.Options{FS: vfs.OS, Dir: filepath.Join(base, "journal"), Sync: base})
	must(b, err)
	must(b, j.Replay(func(journal.Record) error { return nil }))
	must(b, j.Start())
	s.journal = j
	s.stager, err = NewStager(vfs.OS, j, filepath.Join(base, "incoming"))
	must(b, err)
	s.open()
	must(b, s.b.CreateFolder("A"))
	b.Cleanup(func() {
		_ = s.a.Close()
		_ = j.Close()
	})
	return s
}
