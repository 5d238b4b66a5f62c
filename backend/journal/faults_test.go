package journal

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"waypost/internal/vfs/crashfs"
)

func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS(t, 1)
		j := mustStart(t, options(fsys))
		full := func(op crashfs.Op) error {
			if op.Kind == crashfs.Open && strings.HasSuffix(op.Name, "segment") {
				return unix.ENOSPC
			}
			return nil
		}
		synctest.Wait()
		fsys.Fail(full)
		var tickets []*Ticket
		admitted := 0
		for j.Admit(t.Context(), 15000) == nil {
			tickets = append(tickets, mustAppend(t, j, "ann", payload(admitted, 15000)))
			admitted++
			synctest.Wait()
		}
		if err := j.Admit(t.Context(), 15000); !errors.Is(err, unix.ENOSPC) || admitted == 0 || admitted > 3 {
			t.Fatal(admitted, err)
		}
		// What was admitted in time waits for space, and gets it from a checkpoint.
		var late []*Ticket
		for range 3 {
			late = append(late, j.Append("ann", 1, nil, payload(admitted, 15000)))
		}
		for _, ticket := range tickets {
			ticket.Applied()
		}
		for _, ticket := range late {
			if err := ticket.Wait(); err != nil {
				t.Fatal(err)
			}
			ticket.Applied()
			if err := j.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
		fsys.Fail(nil)
		timer := time.NewTimer(2 * prepareRetry)
		<-timer.C
		synctest.Wait()
		if err := j.Admit(t.Context(), 15000); err != nil {
			t.Fatal("with space again: ", err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDiskFullAtClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS(t, 1)
		j := mustStart(t, options(fsys))
		synctest.Wait()
		fsys.Fail(func(op crashfs.Op) error {
			if op.Kind == crashfs.Open && strings.HasSuffix(op.Name, "segment") {
				return unix.ENOSPC
			}
			return nil
		})
		var last *Ticket
		for range 5 {
			last = j.Append("ann", 1, nil, payload(1, 15000))
		}
		if err := j.Close(); !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		if err := last.Wait(); !errors.Is(err, ErrFailed) {
			t.Fatal(err)
		}
	})
}

// TestFaults has faults, each at the first operation that matches once the
// journal is started and has one durable record.
func TestFaults(t *testing.T) {
	// A file keeps the name by which it was opened.
	inSegment := func(op crashfs.Op) bool {
		return strings.HasSuffix(op.Name, segmentSuffix) || strings.HasSuffix(op.Name, "segment")
	}
	append1 := func(j *Journal) error {
		ticket := j.Append("ann", 1, []string{mailDir}, []byte("second"))
		defer ticket.Applied()
		return ticket.Wait()
	}
	for _, c := range []struct {
		name  string
		fault func(crashfs.Op) bool
		errno unix.Errno
		do    func(*Journal) error
		fails bool
	}{
		{"write of a batch", func(op crashfs.Op) bool { return op.Kind == crashfs.Write && inSegment(op) }, unix.EIO, append1, true},
		{"no space for a batch", func(op crashfs.Op) bool { return op.Kind == crashfs.Write && inSegment(op) }, unix.ENOSPC, append1, true},
		{"flush of a batch", func(op crashfs.Op) bool { return op.Kind == crashfs.Datasync && inSegment(op) }, unix.EIO, append1, true},
		{"flush of the files", func(op crashfs.Op) bool { return op.Kind == crashfs.FileSyncAll }, unix.EIO, (*Journal).Checkpoint, true},
		{"lost writes for want of space", func(op crashfs.Op) bool { return op.Kind == crashfs.FileSyncAll }, unix.ENOSPC, (*Journal).Checkpoint, true},
		// The flush opens nothing, so that whatever it says may be about lost writes.
		{"flush for want of memory", func(op crashfs.Op) bool { return op.Kind == crashfs.FileSyncAll }, unix.ENOMEM, (*Journal).Checkpoint, true},
		{"too many files", func(op crashfs.Op) bool {
			return op.Kind == crashfs.Open || op.Kind == crashfs.Nameless || op.Kind == crashfs.SyncDir || op.Kind == crashfs.SyncAll
		}, unix.EMFILE, (*Journal).Checkpoint, false},
		{"no space for the checkpoint", func(op crashfs.Op) bool {
			return op.Kind == crashfs.Write && strings.Contains(op.Name, ".waypost-tmp-")
		}, unix.ENOSPC, (*Journal).Checkpoint, false},
		{"flush of the checkpoint", func(op crashfs.Op) bool { return op.Kind == crashfs.Sync }, unix.EIO, (*Journal).Checkpoint, true},
		{"flush of a user", func(op crashfs.Op) bool { return op.Kind == crashfs.SyncDir }, unix.EIO, func(j *Journal) error { return j.Flush("ann") }, true},
		{"user's folder not to be read", func(op crashfs.Op) bool { return op.Kind == crashfs.Lstat }, unix.EACCES, func(j *Journal) error { return j.Flush("ann") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := newFS(t, 1)
			j := mustStart(t, options(fsys))
			first := j.Append("ann", 1, []string{mailDir}, []byte("first"))
			if err := first.Wait(); err != nil {
				t.Fatal(err)
			}
			first.Applied()
			until(t, "segments are ready", func() bool { return j.Stats().Ready == readyAhead })
			fsys.Fail(func(op crashfs.Op) error {
				if c.fault(op) {
					return c.errno
				}
				return nil
			})
			if err := c.do(j); !errors.Is(err, c.errno) || errors.Is(err, ErrFailed) != c.fails {
				t.Fatal(err)
			}
			fsys.Fail(nil)
			if !c.fails {
				if err := append1(j); err != nil || j.Err() != nil {
					t.Fatal(err, j.Err())
				}
				wantDatas(t, replayAll(t, mustOpen(t, options(crash(fsys, j, 1)))), "first", "second")
				return
			}
			await(t, j.Failed(), "failed")
			if err := append1(j); !errors.Is(err, ErrFailed) || !errors.Is(j.Admit(t.Context(), 1), ErrFailed) {
				t.Fatal(err)
			}
			if err := j.Checkpoint(); !errors.Is(err, ErrFailed) {
				t.Fatal(err)
			}
			if err := j.Close(); !errors.Is(err, ErrFailed) {
				t.Fatal(err)
			}
			again := mustOpen(t, options(fsys.Kill()))
			if got := datas(replayAll(t, again)); len(got) == 0 || got[0] != "first" {
				t.Fatal(got)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestRecycledNotSynced: a segment has got its new name, and the folder could not be
// synced. Another that becomes spare meanwhile does not take the name away.
func TestRecycledNotSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fsys := newFS(t, 1)
		j := mustStart(t, options(fsys))
		fill := func(i int) *Ticket { // a whole segment
			synctest.Wait()
			return mustAppend(t, j, "ann", payload(i, 15000))
		}
		fill(1).Applied()
		fill(2).Applied()
		if err := j.Checkpoint(); err != nil { // the first is spare
			t.Fatal(err)
		}
		synctest.Wait()
		var renamed, failed atomic.Bool
		fsys.Fail(func(op crashfs.Op) error {
			if op.Kind == crashfs.Rename && strings.HasSuffix(op.Name, segmentSuffix) {
				renamed.Store(true)
			}
			if op.Kind == crashfs.SyncDir && renamed.Load() && !failed.Swap(true) {
				return unix.EMFILE
			}
			return nil
		})
		fill(3).Applied()
		fill(4).Applied()
		synctest.Wait()
		if !failed.Load() {
			t.Fatal("nothing was recycled")
		}
		if err := j.Checkpoint(); err != nil { // others are spare, too
			t.Fatal(err)
		}
		var want []string
		for i := range 4 {
			fill(5 + i)
			want = append(want, string(payload(5+i, 15000)))
		}
		after := fsys.Kill()
		_ = j.fail(errors.New("killed"))
		_ = j.Close()
		wantDatas(t, replayAll(t, mustOpen(t, options(after))), want...)
	})
}
