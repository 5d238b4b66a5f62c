package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"golang.org/x/sys/unix"

	"waypost/internal/vfs/crashfs"
)

func TestMain(m *testing.M) { runMain(m) }

func TestReplayAfterPowerCut(t *testing.T) {
	fsys := newFS(t, 1)
	j := mustStart(t, options(fsys))
	first := mustAppend(t, j, "ann", []byte("one"))
	second := j.Append("", 7, nil, []byte("a "), nil, []byte("body"))
	third := j.Append("bob", 9, nil)
	if err := third.Wait(); err != nil || !second.Durable() {
		t.Fatal(err, second.Durable())
	}
	if first.LSN() == 0 || second.LSN() != first.LSN()+1 || third.LSN() != second.LSN()+1 {
		t.Fatal(first.LSN(), second.LSN(), third.LSN())
	}
	j = mustOpen(t, options(crash(fsys, j, 1)))
	got := replayAll(t, j)
	wantDatas(t, got, "one", "a body", "")
	if got[0].User != "ann" || got[0].Epoch != 1 || got[1].User != "" || got[1].Epoch != 7 || got[2].Epoch != 9 || got[2].LSN != third.LSN() {
		t.Fatalf("%+v", got)
	}
	for _, r := range got {
		if data, err := j.Read(r.LSN); err != nil || !bytes.Equal(data, r.Data) {
			t.Fatal(r.LSN, data, err)
		}
	}
	if _, err := j.Read(third.LSN() + 1); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	if err := j.Start(); err != nil {
		t.Fatal(err)
	}
	if s := j.Stats(); s.LastLSN <= third.LSN() || s.Checkpoint != s.LastLSN {
		t.Fatalf("%+v", s)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCloseLeavesEmptyJournal(t *testing.T) {
	fsys := newFS(t, 1)
	j := mustStart(t, options(fsys))
	for i := range 50 {
		mustAppend(t, j, "ann", payload(i, 3000)).Applied()
	}
	id := j.ID()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	m, err := readMaster(fsys, journalDir)
	if err != nil || !m.clean {
		t.Fatal(m, err)
	}
	if err := j.Append("ann", 1, nil).Wait(); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := j.Close(); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	j = mustOpen(t, options(fsys))
	if got := replayAll(t, j); len(got) != 0 || j.ID() != id {
		t.Fatal(len(got), j.ID())
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCloseWaitsForApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS(t, 1)
		j := mustStart(t, options(fsys))
		a, b := mustAppend(t, j, "ann", nil), mustAppend(t, j, "", nil)
		release := j.Pin(b.LSN())
		done := make(chan error)
		go func() { done <- j.Close() }()
		for _, do := range []func(){a.Applied, b.Applied, release} {
			synctest.Wait()
			select {
			case err := <-done:
				t.Fatal("closed too early: ", err)
			default:
			}
			do()
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestCloseGivesUpAndKeepsRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS(t, 1)
		j := mustStart(t, options(fsys))
		mustAppend(t, j, "ann", []byte("passed")).Applied()
		mustAppend(t, j, "ann", []byte("left"))
		mustAppend(t, j, "ann", []byte("too")).Applied()
		if err := j.Close(); !errors.Is(err, ErrUnapplied) {
			t.Fatal(err)
		}
		j = mustOpen(t, options(fsys))
		wantDatas(t, replayAll(t, j), "left", "too")
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCallsOutOfOrder(t *testing.T) {
	fsys := newFS(t, 1)
	j := mustStart(t, options(fsys))
	if err := j.Replay(nil); !errors.Is(err, ErrOrder) {
		t.Fatal(err)
	}
	if _, err := j.Read(1); !errors.Is(err, ErrOrder) {
		t.Fatal(err)
	}
	if err := j.Start(); !errors.Is(err, ErrOrder) {
		t.Fatal(err)
	}
	mustAppend(t, j, "ann", []byte("x"))
	j = mustOpen(t, options(crash(fsys, j, 3)))
	if err := j.Start(); !errors.Is(err, ErrOrder) {
		t.Fatal("started over records not replayed: ", err)
	}
	if err := j.Append("ann", 1, nil).Wait(); !errors.Is(err, ErrOrder) {
		t.Fatal(err)
	}
	if err := j.Admit(t.Context(), 1); !errors.Is(err, ErrOrder) {
		t.Fatal(err)
	}
	oops := errors.New("oops")
	if err := j.Replay(func(Record) error { return oops }); !errors.Is(err, oops) {
		t.Fatal(err)
	}
	if err := j.Start(); !errors.Is(err, ErrOrder) {
		t.Fatal("started over records not replayed: ", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTooLarge(t *testing.T) {
	fsys := newFS(t, 1)
	j := mustStart(t, options(fsys))
	largest := 4*blockSize - batchHead - recordHead - len("ann")
	for _, c := range []struct {
		user string
		n    int
		want error
	}{
		{"ann", largest, nil}, {"ann", largest + 1, ErrTooLarge}, {"ann", 64 << 20, ErrTooLarge},
		{strings.Repeat("u", maxUserBytes+1), 0, ErrTooLarge}, {"ann", largest, nil}, {"ann", 1, nil},
	} {
		ticket := j.Append(c.user, 1, nil, make([]byte, c.n))
		if err := ticket.Wait(); !errors.Is(err, c.want) || (ticket.LSN() == 0) != (c.want != nil) || ticket.Durable() != (c.want == nil) {
			t.Fatal(c.n, err, ticket.LSN())
		}
		ticket.Applied()
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPinKeepsBodyForWhatRefersToIt(t *testing.T) {
	fsys := newFS(t, 1)
	j := mustStart(t, options(fsys))
	body := mustAppend(t, j, "", payload(0, 5000))
	release := j.Pin(body.LSN())
	body.Applied()
	for i := range 3 {
		mustAppend(t, j, "filler", payload(i, 15000)).Applied()
	}
	if err := j.Checkpoint(); err != nil || j.Stats().Checkpoint >= body.LSN() {
		t.Fatal("a checkpoint passed a pinned record", err)
	}
	unapplied := mustAppend(t, j, "slow", []byte("slow"))
	refers := mustAppend(t, j, "ann", []byte("refers"))
	refers.Applied()
	release()
	release()
	if err := j.Checkpoint(); err != nil || j.Stats().Checkpoint != unapplied.LSN()-1 {
		t.Fatal(err, j.Stats())
	}
	for i := range 8 {
		if err := j.Append("filler", 1, nil, payload(i, 15000)).Wait(); err != nil {
			t.Fatal(err)
		}
	}
	j = mustOpen(t, options(crash(fsys, j, 1)))
	if got := replayAll(t, j); string(got[0].Data) != "slow" || string(got[1].Data) != "refers" || len(got) != 10 {
		t.Fatal(datas(got))
	}
	if data, err := j.Read(body.LSN()); err != nil || !bytes.Equal(data, payload(0, 5000)) {
		t.Fatal(len(data), err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAfterCheckpoint(t *testing.T) {
	fsys := newFS(t, 1)
	j := mustStart(t, options(fsys))
	a, b := mustAppend(t, j, "ann", nil), mustAppend(t, j, "ann", nil)
	var ran []string
	j.AfterCheckpoint(b.LSN(), func() { ran = append(ran, "b") })
	j.AfterCheckpoint(a.LSN(), func() { ran = append(ran, "a") })
	a.Applied()
	for _, want := range []string{"a", "a b", "a b at once"} {
		if err := j.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		if want == "a b at once" {
			j.AfterCheckpoint(a.LSN(), func() { ran = append(ran, "at once") })
		}
		if got := strings.Join(ran, " "); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
		b.Applied()
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFlushMakesTouchedDurable(t *testing.T) {
	fsys := newFS(t, 1)
	o := options(fsys)
	j := mustStart(t, o)
	path, gone := mailDir+"/m1", mailDir+"/gone"
	mine := j.Append("ann", 1, []string{path, gone}, []byte("m1"))
	folder := j.Append("ann", 1, []string{mailDir, path}, []byte("m1"))
	others := j.Append("bob", 1, []string{mailDir + "/m2"}, []byte("m2"))
	for _, f := range []string{path, mailDir + "/m2"} {
		if err := writeMail(fsys, f, []byte("mail")); err != nil {
			t.Fatal(err)
		}
	}
	for _, ticket := range []*Ticket{mine, folder, others} {
		if err := ticket.Wait(); err != nil {
			t.Fatal(err)
		}
		ticket.Applied()
	}
	until(t, "segments are ready", func() bool { return j.Stats().Ready == readyAhead })
	var mu sync.Mutex
	synced := make(map[crashfs.Op]int)
	fsys.Fail(func(op crashfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == crashfs.Sync || op.Kind == crashfs.SyncDir {
			synced[op]++
		}
		return nil
	})
	if err := j.Flush("ann"); err != nil {
		t.Fatal(err)
	}
	fsys.Fail(nil)
	want := map[crashfs.Op]int{{Kind: crashfs.Sync, Name: path}: 1, {Kind: crashfs.SyncDir, Name: mailDir}: 1}
	if !maps.Equal(synced, want) {
		t.Fatal(synced)
	}
	if err := j.Flush("nobody"); err != nil {
		t.Fatal(err)
	}
	if err := j.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if len(j.users) != 0 || j.tickets.len() != 0 {
		t.Fatal("a checkpoint keeps what it has passed")
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFlushSoon: a checkpoint comes only where there is much to flush.
func TestFlushSoon(t *testing.T) {
	fsys := newFS(t, 1)
	o := options(fsys)
	o.SegmentBytes = 100 * blockSize // no checkpoint for want of room
	j := mustStart(t, o)
	touch := func(n int) {
		for i := range n {
			ticket := j.Append("ann", 1, []string{fmt.Sprint(mailDir, "/", i)}, []byte("m"))
			if err := ticket.Wait(); err != nil {
				t.Fatal(err)
			}
			ticket.Applied()
		}
	}
	touch(muchToFlush)
	j.FlushSoon("ann")
	j.FlushSoon("nobody")
	if len(j.kick) != 0 || len(j.touched("ann")) != muchToFlush {
		t.Fatal("a checkpoint for little")
	}
	touch(muchToFlush + 1)
	j.FlushSoon("ann")
	until(t, "the checkpoint", func() bool { return len(j.touched("ann")) == 0 })
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAdmitWaitsForCheckpoint(t *testing.T) {
	fsys := newFS(t, 1)
	j := mustStart(t, options(fsys))
	var tickets []*Ticket
	for len(j.used) <= j.o.MaxSegments-1 {
		tickets = append(tickets, mustAppend(t, j, "ann", payload(0, 15000)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := j.Admit(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- j.Admit(t.Context(), 1) }()
	until(t, "Admit waits", func() bool { j.mu.Lock(); defer j.mu.Unlock(); return j.waiting > 0 })
	for _, ticket := range tickets {
		ticket.Applied()
	}
	if err := j.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAdmitWaitsForMemory(t *testing.T) {
	fsys := newFS(t, 1)
	j := mustStart(t, Options{FS: fsys, Dir: journalDir, Interval: time.Hour, Sync: dataDir})
	gate := make(chan struct{})
	fsys.Fail(func(op crashfs.Op) error {
		if op.Kind == crashfs.Datasync && strings.HasSuffix(op.Name, "segment") {
			<-gate
		}
		return nil
	})
	var tickets []*Ticket
	for range 33 {
		tickets = append(tickets, j.Append("ann", 1, nil, make([]byte, 1<<20)))
	}
	done := make(chan error, 1)
	go func() { done <- j.Admit(t.Context(), 1) }()
	until(t, "Admit waits", func() bool { j.mu.Lock(); defer j.mu.Unlock(); return j.waiting > 0 })
	close(gate)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, ticket := range tickets {
		if err := ticket.Wait(); err != nil {
			t.Fatal(err)
		}
		ticket.Applied()
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestBackgroundCheckpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS(t, 1)
		o := options(fsys)
		o.Interval = 5 * time.Second
		j := mustStart(t, o)
		mustAppend(t, j, "ann", nil).Applied()
		timer := time.NewTimer(6 * time.Second)
		<-timer.C
		synctest.Wait()
		if s := j.Stats(); s.Checkpoint != s.LastLSN {
			t.Fatal("no checkpoint after the interval", s)
		}
		var tickets []*Ticket
		for j.Stats().Segments < 4 {
			tickets = append(tickets, mustAppend(t, j, "ann", payload(0, 15000)))
			synctest.Wait()
		}
		for _, ticket := range tickets {
			ticket.Applied()
		}
		last := mustAppend(t, j, "ann", payload(0, 15000))
		synctest.Wait()
		if s := j.Stats(); s.Segments > 2 {
			t.Fatal("no checkpoint when nearly full", s)
		}
		last.Applied()
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestManyStartsAndSizes(t *testing.T) {
	fsys := newFS(t, 1)
	reg := prometheus.NewRegistry()
	for i := range 12 {
		o := options(fsys)
		o.Metrics = reg
		o.SegmentBytes += int64(i%3) * blockSize
		j := mustStart(t, o)
		for i := range 20 {
			mustAppend(t, j, "ann", payload(i, 9000)).Applied()
			if err := j.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	files := 0
	if err := fsys.ReadDir(journalDir, func(fs.DirEntry) error { files++; return nil }); err != nil || files > 8 {
		t.Fatal(files, err)
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 10 {
		t.Fatal(len(families), err)
	}
}

func TestNoGoroutineStays(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	fsys := newFS(t, 1)
	j := mustStart(t, options(fsys))
	mustAppend(t, j, "ann", nil).Applied()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	fsys = newFS(t, 2)
	abandon(fsys, mustStart(t, options(fsys)))
}

func TestBeforeCheckpoint(t *testing.T) {
	fsys := newFS(t, 1)
	j := mustStart(t, options(fsys))
	runs := 0
	for want := 1; want <= 3; want++ {
		ticket := mustAppend(t, j, "ann", nil)
		j.BeforeCheckpoint(func() {
			runs++
			ticket.Applied()
		})
		if want == 3 {
			break // Close does it, too
		}
		for range 2 {
			if err := j.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
		if s := j.Stats(); s.Checkpoint != ticket.LSN() || runs != want {
			t.Fatalf("checkpoint at %d, want %d; run %d times, want %d", s.Checkpoint, ticket.LSN(), runs, want)
		}
	}
	if err := j.Close(); err != nil || runs != 3 {
		t.Fatal(runs, err)
	}
}

// TestReplayedIsDurable: records that a killed process had written and not flushed, and that
// Open finds, are not lost in a power cut while files are made of them.
func TestReplayedIsDurable(t *testing.T) {
	for seed := range uint64(20) {
		disk := newFS(t, seed)
		j := mustStart(t, options(disk))
		mustAppend(t, j, "a", []byte("first")).Applied()
		var killed *crashfs.FS
		var once sync.Once // others than the committer use the disk, too
		disk.Fail(func(op crashfs.Op) error {
			if op.Kind == crashfs.Datasync {
				once.Do(func() { killed = disk.Kill() })
			}
			return nil
		})
		if err := j.Append("a", 1, nil, []byte("second")).Wait(); err == nil {
			t.Fatal("a record was flushed on a disk that is down")
		}
		abandon(disk, j)
		j = mustOpen(t, options(killed))
		found := replayAll(t, j)
		after := crash(killed, j, seed)
		j = mustOpen(t, options(after))
		if again := replayAll(t, j); len(found) == 0 || len(again) != len(found) {
			t.Fatalf("seed %d: %d records were replayed, %d are left", seed, len(found), len(again))
		}
		abandon(after, j)
	}
}

// TestFailedFlushIsNotReplayed: what a flush that failed has given up can still be read by
// the next process, and a crash would take it away in the middle of its replay.
func TestFailedFlushIsNotReplayed(t *testing.T) {
	lost := 0
	for seed := range uint64(20) {
		disk := newFS(t, seed)
		j := mustStart(t, options(disk))
		mustAppend(t, j, "a", []byte("first"))
		until(t, "segments are ready", func() bool { return j.Stats().Ready == readyAhead })
		disk.Fail(func(op crashfs.Op) error {
			if op.Kind == crashfs.Datasync {
				return unix.EIO
			}
			return nil
		})
		if err := j.Append("a", 1, nil, []byte("second")).Wait(); !errors.Is(err, ErrFailed) {
			t.Fatal(err)
		}
		killed := disk.Kill()
		abandon(disk, j)
		j = mustOpen(t, options(killed))
		found := replayAll(t, j)
		after := crash(killed, j, seed)
		j = mustOpen(t, options(after))
		wantDatas(t, replayAll(t, j), datas(found)...)
		if len(found) == 1 {
			lost++
		}
		abandon(after, j)
	}
	if lost == 0 {
		t.Error("no flush has given anything up")
	}
}
