package maildir

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"

	"waypost/internal/vfs/crashfs"
)

// crashes judges what several power cuts of the same moment leave of a world.
func crashes(t *testing.T, w *world) {
	t.Helper()
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 7))
		next := w.onDisk(w.disk.Crash(rng))
		must(t, next.recover(w, under{}, rng, 0))
		next.disk.Kill()
		next.letGo()
	}
	w.letGo()
}

// TestStateNotSynced: the state of a folder was begun, but its name could not be
// synced. What it gives out when it is seen afterwards is not given out again.
func TestStateNotSynced(t *testing.T) {
	w, err := newWorld(1, slog.New(slog.DiscardHandler), worldUsers...)
	must(t, err)
	u := w.users[0]
	w.disk.Fail(func(op crashfs.Op) error {
		if op.Kind == crashfs.SyncDir && op.Name == filepath.Clean(treePath(u, maildirName)) {
			return syscall.EMFILE
		}
		return nil
	})
	if _, err := w.look(u, true); !errors.Is(err, syscall.EMFILE) {
		t.Fatal(err)
	}
	w.disk.Fail(nil)
	for n := range 5 {
		_, err = w.do(worldStep{what: "both", n: n})
		must(t, err)
		must(t, w.check(u, true, u.model))
	}
	crashes(t, w)
}

// TestReplayAfterFailedFlush: what a flush has given up can still be read by the
// process that is started again. It is not taken for durable.
func TestReplayAfterFailedFlush(t *testing.T) {
	for seed := range uint64(10) {
		w, err := newWorld(seed, slog.New(slog.DiscardHandler), worldUsers...)
		must(t, err)
		u := w.users[0]
		must(t, w.check(u, true, u.model))
		must(t, w.journal.Checkpoint())
		for _, what := range []string{"deliver", "append", "both", "annotate"} {
			_, err := w.do(worldStep{what: what})
			must(t, err)
		}
		must(t, w.check(u, true, u.model))
		u.account.mu.Lock()
		must(t, u.account.catchUp())
		u.account.mu.Unlock()
		w.disk.Fail(func(op crashfs.Op) error {
			if op.Kind == crashfs.Sync {
				return syscall.EIO
			}
			return nil
		})
		if err := w.journal.Flush(string(u.name)); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		next := w.onDisk(w.disk.Kill())
		w.disk.Fail(nil)
		w.letGo()
		must(t, next.recover(w, under{}, rand.New(rand.NewPCG(seed, 8)), 0))
		crashes(t, next)
	}
}
