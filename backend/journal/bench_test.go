package journal

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

// BenchmarkAppend has 1, 10, 50 appenders of 4 KB on the disk of the temporary
// folder (TMPDIR), each waiting for its own records.
func BenchmarkAppend(b *testing.B) {
	for _, appenders := range []int{1, 10, 50} {
		b.Run(fmt.Sprintf("disk/%d", appenders), func(b *testing.B) {
			dir := b.TempDir()
			bench(b, Options{FS: vfs.OS, Dir: filepath.Join(dir, "journal"), Sync: dir}, appenders)
		})
	}
	// Without a disk there remains what an append costs the processor.
	b.Run("nosync/50", func(b *testing.B) {
		dir := b.TempDir()
		bench(b, Options{FS: nosync{vfs.OS}, Dir: filepath.Join(dir, "journal"), Sync: dir}, 50)
	})
}

func bench(b *testing.B, o Options, appenders int) {
	j, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	if err := j.Start(); err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 4096)
	touched := []string{"/a", "/b"}
	b.SetBytes(int64(len(data)))
	b.ResetTimer()
	began := time.Now()
	var all sync.WaitGroup
	for w := range appenders {
		user := fmt.Sprint("user", w)
		all.Go(func() {
			for i := w; i < b.N; i += appenders {
				if err := j.Admit(b.Context(), len(data)); err != nil {
					b.Error(err)
					return
				}
				ticket := j.Append(user, 1, touched, data)
				if err := ticket.Wait(); err != nil {
					b.Error(err)
				}
				ticket.Applied()
			}
		})
	}
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "appends/s")
	if s := j.Stats(); s.Batches > 0 {
		b.ReportMetric(float64(s.Records)/float64(s.Batches), "records/batch")
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
}

// nosync is a file system that flushes nothing.
type nosync struct{ vfs.FS }

type nosyncFile struct{ vfs.File }

func (n nosync) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	f, err := n.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return nosyncFile{f}, nil
}

func (nosyncFile) Datasync() error { return nil }

// BenchmarkReplay is a start with 100,000 records of 400 bytes.
func BenchmarkReplay(b *testing.B) {
	fsys := newFS(b, 1)
	o := Options{FS: fsys, Dir: journalDir, Sync: dataDir, Interval: time.Hour}
	j := mustStart(b, o)
	var last *Ticket
	for i := range 100_000 {
		last = j.Append("ann", uint64(i), nil, make([]byte, 400))
	}
	if err := last.Wait(); err != nil {
		b.Fatal(err)
	}
	o.FS = fsys.Kill()
	_ = j.fail(crashfs.ErrDown)
	_ = j.Close()
	for b.Loop() {
		j = mustOpen(b, o)
		if err := j.Replay(func(Record) error { return nil }); err != nil {
			b.Fatal(err)
		}
		if err := j.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
