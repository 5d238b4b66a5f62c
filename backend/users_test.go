package backend

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"syscall"
	"testing"

	"waypost/backend/fence"
	"waypost/backend/mailbox"
	"waypost/internal/vfs/crashfs"
)

// TestFenceNotSynced: a fence was to change, its file has the new one, and the folder could not
// be synced. Nothing is taken in under the epoch that goes on until the file says so again.
func TestFenceNotSynced(t *testing.T) {
	disk := crashfs.New(1)
	fences, err := fence.OpenDirOn(disk, "/fences")
	if err != nil {
		t.Fatal(err)
	}
	const name = "ann@example.test"
	serving, frozen := fence.Fence{State: fence.Serving, Epoch: 3}, fence.Fence{State: fence.Frozen, Epoch: 4}
	if err := fences.Put(name, serving); err != nil {
		t.Fatal(err)
	}
	u := &user{name: name, b: &Server{fences: fences, log: slog.New(slog.DiscardHandler)}, fence: serving}
	disk.Fail(func(op crashfs.Op) error {
		if op.Kind == crashfs.SyncDir {
			return syscall.EMFILE
		}
		return nil
	})
	if err := u.putFence(frozen); !errors.Is(err, syscall.EMFILE) {
		t.Fatal(err)
	}
	if f, err := fences.Get(name); f != frozen || err != nil {
		t.Fatalf("the file says %s: %v", f, err)
	}
	if _, err := u.Enter(3); !errors.Is(err, mailbox.ErrRefused) || !errors.Is(err, syscall.EMFILE) {
		t.Fatal("taken in under a fence that the file does not have: ", err)
	}
	disk.Fail(nil)
	leave, err := u.Enter(3)
	if err != nil {
		t.Fatal(err)
	}
	leave()
	for seed := range uint64(20) {
		after, err := fence.OpenDirOn(disk.Crash(rand.New(rand.NewPCG(seed, 1))), "/fences")
		if err != nil {
			t.Fatal(err)
		}
		if f, err := after.Get(name); f != serving || err != nil {
			t.Fatalf("after a crash the fence is %s: %v", f, err)
		}
	}
}
