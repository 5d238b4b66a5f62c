package maildir

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"waypost/backend/journal"
	"waypost/backend/mailbox"
	"waypost/internal/vfs"
)

// benchBatch is how many operations are measured in one folder before it is the
// turn of the next.
const benchBatch = 100

// BenchmarkStore measures what one operation takes in folders of several sizes, on
// the machine's own disk; the journal's flushes included. One iteration is one
// operation in each folder, by turns, so that what else the machine does slows them
// all down alike. cpu-us is the process's time in user and kernel mode, with a
// checkpoint for each thousand operations, and the collection of garbage; the
// kernel's own threads are not in it. growth is the cpu-us of the largest to that of
// the smallest. Each batch is followed by another, unmeasured, that brings the
// folder back to its size.
func BenchmarkStore(b *testing.B) {
	var folders []*benchFolder
	for _, n := range []int{1000, 100000} {
		s := newBenchSetup(b, n)
		w := &benchFolder{setup: s, b: b, n: n, h: s.folder("INBOX"), a: s.folder("A")}
		if got := s.snapshot(w.h).Messages.Len(); got != n {
			b.Fatal(got)
		}
		s.snapshot(w.a)
		folders = append(folders, w)
	}
	for _, c := range []struct {
		name string
		do   func(w *benchFolder, i int)
	}{
		{"deliver", (*benchFolder).deliverOne},
		{"deliver-look", func(w *benchFolder, i int) { w.deliverOne(i); w.snapshot(w.h) }},
		{"append", func(w *benchFolder, i int) { w.append("INBOX", text(i), mailbox.Flags{}) }},
		{"flags", (*benchFolder).flagOne},
		{"expunge", (*benchFolder).expungeOne},
		{"move", (*benchFolder).moveOne},
	} {
		b.Run(c.name, func(b *testing.B) {
			for _, w := range folders {
				w.cpu, w.wall = 0, 0
				w.even()
			}
			for done := 0; done < b.N; done += benchBatch {
				for _, w := range folders {
					w.measure(done, min(done+benchBatch, b.N), c.do)
				}
			}
			for _, w := range folders {
				b.ReportMetric(float64(w.cpu.Microseconds())/float64(b.N), fmt.Sprintf("cpu-us/%d", w.n))
				b.ReportMetric(float64(w.wall.Microseconds())/float64(b.N), fmt.Sprintf("us/%d", w.n))
			}
			last := folders[len(folders)-1]
			b.ReportMetric(float64(last.cpu)/float64(folders[0].cpu), "growth-cpu")
			b.ReportMetric(float64(last.wall)/float64(folders[0].wall), "growth-wall")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// benchFolder is a folder h that is kept at about n messages, and another.
type benchFolder struct {
	*setup
	b         *testing.B
	n         int
	h, a      mailbox.Folder
	id        int
	cpu, wall time.Duration
}

// measure does the operations from one number to another.
func (w *benchFolder) measure(from, to int, do func(w *benchFolder, i int)) {
	cpu, wall := cpuTime(w.b), time.Now()
	for i := from; i < to; i++ {
		do(w, i)
	}
	w.wall += time.Since(wall)
	if to%1000 == 0 {
		must(w.b, w.journal.Checkpoint())
	}
	w.cpu += cpuTime(w.b) - cpu
	w.even()
}

// even brings the folder back to n messages.
func (w *benchFolder) even() {
	for {
		m := w.snapshot(w.h).Messages
		if away := w.snapshot(w.a).Messages; away.Len() > 0 {
			var all []mailbox.UID
			for _, x := range away.All() {
				all = append(all, x.UID)
			}
			_, err := w.a.Move(all, "INBOX")
			must(w.b, err)
			continue
		}
		var surplus []mailbox.UID
		for _, x := range m.From(w.n) {
			surplus = append(surplus, x.UID)
		}
		if len(surplus) > 0 {
			_, err := w.h.Expunge(surplus)
			must(w.b, err)
		}
		for i := m.Len(); i < w.n; i++ {
			w.append("INBOX", text(i), mailbox.Flags{})
		}
		must(w.b, w.journal.Checkpoint())
		return
	}
}

func (w *benchFolder) deliverOne(i int) {
	w.id++
	w.deliver(fmt.Sprint("bench ", w.id), text(i), "")
}

// some is a message, spread over the folder; only 7919 divides badly.
func (w *benchFolder) some(i int) []mailbox.UID {
	m := w.snapshot(w.h).Messages
	return []mailbox.UID{m.At(i * 7919 % m.Len()).UID}
}

func (w *benchFolder) flagOne(i int) {
	_, err := w.h.SetFlags(w.some(i), mailbox.FlagChange{Op: mailbox.FlagOp(1 + i/w.n%2), Flags: system(mailbox.Flagged)})
	must(w.b, err)
}

func (w *benchFolder) expungeOne(i int) {
	_, err := w.h.Expunge(w.some(i))
	must(w.b, err)
}

func (w *benchFolder) moveOne(i int) {
	_, err := w.h.Move(w.some(i), "A")
	must(w.b, err)
}

// cpuTime is what the process has used so far.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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
	must(b, s.b.CreateFolder("A", ""))
	b.Cleanup(func() {
		_ = s.a.Close()
		_ = j.Close()
	})
	return s
}
