package journal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

const (
	dataDir    = "/data"
	journalDir = "/data/journal"
	mailDir    = "/data/mail"
)

func newFS(t testing.TB, seed uint64) *crashfs.FS {
	t.Helper()
	fsys := crashfs.New(seed)
	for _, dir := range []string{dataDir, mailDir} {
		if err := fsys.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := fsys.SyncAll("/"); err != nil {
		t.Fatal(err)
	}
	return fsys
}

// options are small, so that tests come round to recycling segments, and without
// checkpoints but those that are asked for.
func options(fsys vfs.FS) Options {
	return Options{FS: fsys, Dir: journalDir, SegmentBytes: 5 * blockSize, MaxSegments: 6, Interval: time.Hour, Sync: dataDir}
}

func mustOpen(t testing.TB, o Options) *Journal {
	t.Helper()
	j, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func replayAll(t testing.TB, j *Journal) []Record {
	t.Helper()
	var all []Record
	err := j.Replay(func(r Record) error {
		if len(all) > 0 && r.LSN <= all[len(all)-1].LSN {
			t.Fatalf("record %d after %d", r.LSN, all[len(all)-1].LSN)
		}
		r.Data = bytes.Clone(r.Data)
		all = append(all, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func mustStart(t testing.TB, o Options) *Journal {
	t.Helper()
	j := mustOpen(t, o)
	replayAll(t, j)
	if err := j.Start(); err != nil {
		t.Fatal(err)
	}
	return j
}

// mustAppend appends a durable record that is not applied.
func mustAppend(t testing.TB, j *Journal, user string, data []byte) *Ticket {
	t.Helper()
	ticket := j.Append(user, 1, nil, data)
	if err := ticket.Wait(); err != nil {
		t.Fatal(err)
	}
	return ticket
}

// abandon lets go of a journal as a crash does, so that no goroutine stays.
func abandon(fsys *crashfs.FS, j *Journal) {
	fsys.Kill()
	_ = j.fail(errors.New("abandoned"))
	_ = j.Close()
}

// crash cuts the power and gives the disk that is found afterwards.
func crash(fsys *crashfs.FS, j *Journal, seed uint64) *crashfs.FS {
	after := fsys.Crash(rand.New(rand.NewPCG(seed, 1)))
	_ = j.fail(errors.New("power cut"))
	_ = j.Close()
	return after
}

func await(t testing.TB, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("timeout: ", what)
	}
}

// until waits for a condition that a background goroutine brings about.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("timeout: ", what)
		}
	}
}

// payload is data that tells its record from every other.
func payload(i, n int) []byte {
	return append(fmt.Appendf(nil, "record %d ", i), bytes.Repeat([]byte{byte(i)}, n)...)
}

func writeMail(fsys vfs.FS, path string, data []byte) error {
	f, err := fsys.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

func hasMail(fsys vfs.FS, path string, want []byte) error {
	got, err := vfs.ReadFile(fsys, path)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%s is another file", path)
	}
	return err
}

// edit changes a file of a journal, durably.
func edit(t testing.TB, fsys vfs.FS, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := vfs.ReadFile(fsys, path)
	if err != nil {
		t.Fatal(err)
	}
	if err := vfs.ReplaceFile(fsys, path, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func datas(records []Record) []string {
	var all []string
	for _, r := range records {
		all = append(all, string(r.Data))
	}
	return all
}

func wantDatas(t testing.TB, got []Record, want ...string) {
	t.Helper()
	if !slices.Equal(datas(got), want) {
		t.Fatalf("replayed %.10q, want %.10q", datas(got), want)
	}
}
