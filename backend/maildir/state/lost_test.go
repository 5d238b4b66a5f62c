package state

import (
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"waypost/internal/vfs/crashfs"
)

// flushesFail makes the next flushes of files fail.
func flushesFail(f *crashfs.FS, many int) {
	f.Fail(func(op crashfs.Op) error {
		if op.Kind != crashfs.Sync && op.Kind != crashfs.Datasync {
			return nil
		}
		if many--; many < 0 {
			return nil
		}
		return syscall.EIO
	})
}

func begun(t *testing.T, seed uint64) (*crashfs.FS, *State) {
	t.Helper()
	f := crashfs.New(seed)
	if err := errors.Join(f.Mkdir("/f", 0o700), f.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	s, err := Load(f, folder("/f"), time.Now(), false)
	if err != nil {
		t.Fatal(err)
	}
	return f, s
}

// keptAfterCrash tells whether a crash leaves what was applied.
func keptAfterCrash(t *testing.T, f *crashfs.FS, uid uint32, want uint64) {
	t.Helper()
	for seed := range uint64(10) {
		s, err := Load(f.Crash(rand.New(rand.NewPCG(seed, 5))), folder("/f"), time.Now(), true)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.ModSeq(uid); got != want {
			t.Fatalf("mod-sequence of %d: %d, want %d", uid, got, want)
		}
	}
}

// TestFailedCeiling: a new ceiling that cannot be made durable takes nothing with it that a
// checkpoint is to make durable.
func TestFailedCeiling(t *testing.T) {
	for seed := range uint64(10) {
		f, s := begun(t, seed)
		n := next(t, s)
		apply(t, s, Change(n, 5))
		flushesFail(f, 1)
		if err := s.Apply(Change(n+2*ceilingStep, 6)); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		if err := f.SyncAll("/"); err != nil { // the checkpoint
			t.Fatal(err)
		}
		keptAfterCrash(t, f, 5, n)
	}
}

// TestFailedSync: lines that a failed flush has dropped are written again, or ErrLost says so.
func TestFailedSync(t *testing.T) {
	for seed := range uint64(10) {
		f, s := begun(t, seed)
		n := next(t, s)
		apply(t, s, Change(n, 5))
		flushesFail(f, 2)
		if err := s.Sync(); !errors.Is(err, ErrLost) || !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		if s.Intact() {
			t.Error("nothing is to be written")
		}
		flushesFail(f, 0)
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		apply(t, s, Change(n+1, 6))
		flushesFail(f, 1)
		if err := s.Sync(); err != nil || !s.Intact() {
			t.Fatal(err)
		}
		keptAfterCrash(t, f, 5, n)
		keptAfterCrash(t, f, 6, n+1)
	}
}
