package fulltext

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"waypost/backend/imap/search"
	"waypost/backend/mailbox"
	"waypost/internal/testmail"
)

// cpu is what this process has used so far: the machine may be shared.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCorpus takes 2,000 real messages in, and searches them with and without the
// index.
func BenchmarkCorpus(b *testing.B) {
	msgs, _, err := testmail.Load(b.TempDir(), 2000)
	if err != nil {
		b.Fatal(err)
	}
	w := newWorld(b, b.TempDir())
	defer w.close()
	bytes := 0
	for _, m := range msgs {
		w.append(mailbox.Inbox, string(m.Body))
		bytes += len(m.Body)
	}
	f, all := w.folder(mailbox.Inbox)
	for _, m := range all.All() {
		if _, err := f.Meta(m.UID); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("take in", func(b *testing.B) {
		began, n := cpu(b), 0
		for b.Loop() {
			w.must(os.RemoveAll(filepath.Join(w.root, Dir)))
			w.restart()
			some, _ := w.index().missing(all, all.Len())
			w.store.takeIn(b.Context(), w.index(), f, some, time.Time{})
			n += all.Len()
		}
		b.ReportMetric(float64((cpu(b)-began).Microseconds())/float64(n), "cpu-us/message")
		b.ReportMetric(float64(w.bytes(b))/float64(all.Len()), "unmerged-bytes/message")
		began = cpu(b)
		w.must(w.index().compact())
		b.ReportMetric(float64((cpu(b)-began).Microseconds())/float64(all.Len()), "merge-cpu-us/message")
		b.ReportMetric(float64(w.bytes(b))/float64(all.Len()), "index-bytes/message")
		b.ReportMetric(float64(bytes)/float64(all.Len()), "mail-bytes/message")
	})
	b.Run("open", func(b *testing.B) {
		began, n := cpu(b), 0
		for b.Loop() {
			w.restart()
			w.index()
			n++
		}
		b.ReportMetric(float64((cpu(b)-began).Microseconds())/float64(n), "cpu-us/op")
	})
	for _, keys := range []string{`BODY "unlikely-word"`, `BODY "perl script"`, `TEXT "spamassassin"`, `BODY "the"`} {
		for name, v := range map[string]search.View{"read": &view{f: f, all: all}, "indexed": &indexed{&view{f: f, all: all}, w.lease}} {
			b.Run(keys+"/"+name, func(b *testing.B) {
				began, n := cpu(b), 0
				for b.Loop() {
					run(b, v, keys)
					n++
				}
				b.ReportMetric(float64((cpu(b)-began).Microseconds())/1000/float64(n), "cpu-ms/op")
			})
		}
	}
}

// bytes is how much the index takes on the disk.
func (w *world) bytes(b *testing.B) (sum int64) {
	b.Helper()
	err := filepath.WalkDir(filepath.Join(w.root, Dir), func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return sum
}
