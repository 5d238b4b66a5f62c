package search

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/internal/vfs"
)

const benchMessages = 100_000

// onDisk is a folder whose Metas are in an index, as a backend's are.
type onDisk struct {
	*folder
	x *index.Index
}

func (d onDisk) Meta(uid mailbox.UID) (*mailbox.Meta, error) {
	m, ok := d.x.Get(baseOf(d.list[int(uid)/10-1].UID))
	if !ok {
		return nil, mailbox.ErrNoMessage
	}
	return m, nil
}

func baseOf(uid mailbox.UID) string {
	return fmt.Sprintf("17%08d.M%dP1.host,S=100,W=120", uid, uid*7919%1000000)
}

// large is a folder of many messages, each of the corpus several times.
func large(b *testing.B) onDisk {
	b.Helper()
	f := corpus(b, 2000)
	n := len(f.list)
	for i := n; i < benchMessages; i++ {
		m := f.list[i%n]
		m.UID, m.Flags = mailbox.UID(10*(i+1)), flagsOf(i)
		f.list, f.bodies = append(f.list, m), append(f.bodies, f.bodies[i%n])
		f.metas, f.dates = append(f.metas, f.metas[i%n]), append(f.dates, arrivedAt(i))
	}
	d := onDisk{f, index.Open(vfs.OS, b.TempDir(), "id")}
	for i := range f.list {
		if err := d.x.Put(baseOf(f.list[i].UID), f.metas[i]); err != nil {
			b.Fatal(err)
		}
	}
	b.Cleanup(func() { _ = d.x.Close() })
	return d
}

// cpu is what this process has used so far: the machine may be shared.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkRun(b *testing.B) {
	d := large(b)
	for _, c := range []struct {
		name, command string
		view          View
	}{
		{"flags", "SEARCH UNSEEN UNDELETED", d},
		{"flags/or", "SEARCH OR (SEEN FLAGGED) OR KEYWORD $Work NOT DRAFT", d},
		{"set", "SEARCH UID 500000:500100 UNSEEN", d},
		{"since", "SEARCH SINCE 1-Jan-2024", d},
		{"subject/meta", "SEARCH SUBJECT perl", d},
		{"subject/fields", "SEARCH SUBJECT perl", quick{d.folder}},
		{"from/fields", "SEARCH OR FROM taint TO nobody", quick{d.folder}},
		{"sentsince/fields", "SEARCH SENTSINCE 1-Sep-2002", quick{d.folder}},
		{"sort/date", "SORT (DATE) UTF-8 ALL", quick{d.folder}},
		{"sort/subject", "SORT (SUBJECT) UTF-8 ALL", quick{d.folder}},
		{"thread/references", "THREAD REFERENCES UTF-8 ALL", quick{d.folder}},
		{"body/2000", "SEARCH 1:2000 BODY unlikely-word", d.folder},
		{"text/2000", "SEARCH 1:2000 TEXT unlikely-word", d.folder},
		{"body/2000/ten words", "SEARCH 1:2000 OR BODY a1x OR BODY a2x OR BODY a3x OR BODY a4x OR BODY a5x OR BODY a6x OR BODY a7x OR BODY a8x OR BODY a9x BODY a0x", d.folder},
	} {
		b.Run(c.name, func(b *testing.B) {
			q, err := parse(c.command, Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			began, n := cpu(b), 0
			for b.Loop() {
				if _, err := q.Run(b.Context(), c.view, Env{}); err != nil {
					b.Fatal(err)
				}
				n++
			}
			b.ReportMetric(float64((cpu(b)-began).Microseconds())/1000/float64(n), "cpu-ms/op")
		})
	}
}
