package sftp

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"waypost/backend/manifest"
)

// BenchmarkFirstPass pulls 10,000 messages of 4 KB into an empty folder, CPU of both
// sides together. WAYPOST_BENCH_DIR is a folder on the disk to measure.
func BenchmarkFirstPass(b *testing.B) {
	const n = 10_000
	r := newRig(b)
	dir, err := os.MkdirTemp(os.Getenv("WAYPOST_BENCH_DIR"), "pass")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	body := make([]byte, 4096)
	for i := range n {
		copy(body, fmt.Sprintf("message %d", i))
		r.write(b, fmt.Sprintf("Maildir/cur/17000%05d.M1P1.b1,S=%d,W=%d:2,", i, len(body), len(body)), string(body), int64(1700000000+i))
	}
	var used time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		r.staging = filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(r.staging, 0o700); err != nil {
			b.Fatal(err)
		}
		r.target = manifest.NewDurable(r.staging)
		r.tree.Tracker = manifest.NewTracker(r.source)
		r.tree.how = manifest.HashFew
		before := cpuUsed(b)
		b.StartTimer()
		if p, err := r.newPull(false).Run(b.Context()); err != nil || p.Files != n {
			b.Fatal(p, err)
		}
		used += cpuUsed(b) - before
	}
	b.ReportMetric(float64(used.Microseconds())/float64(b.N)/n, "cpu-µs/message")
}

func cpuUsed(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
