package backend

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"

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

// TestAutoFolders: whoever opens the mailbox first finds the folders that every account has, in
// whatever state it was before, and every other at once does so, too.
func TestAutoFolders(t *testing.T) {
	r := newRig(t)
	n := r.start(Config{ID: "b1", Listen: "127.0.0.1:0", Data: t.TempDir(), AutoFolders: []string{"Drafts", "Sent", "Lists/Go"}})
	rec := r.create("b1")
	listed := func() string {
		box := r.at("b1", rec.Epoch)
		defer box.Close()
		infos, err := box.Folders()
		r.must(err)
		var names []string
		for _, info := range infos {
			mark := ""
			if info.Subscribed {
				mark = "+"
			}
			names = append(names, info.Name+mark+info.SpecialUse)
		}
		return strings.Join(names, " ")
	}
	const want = `INBOX Drafts+\Drafts Lists Lists/Go+ Sent+\Sent`
	var all errgroup.Group
	for range 8 {
		all.Go(func() error {
			if got := listed(); got != want {
				return fmt.Errorf("%s, want %s", got, want)
			}
			return nil
		})
	}
	r.must(all.Wait())
	box := r.at("b1", rec.Epoch)
	r.must(box.DeleteFolder("Drafts"))
	r.must(box.Subscribe("Sent", false))
	box.Close()
	if got := listed(); got != `INBOX Lists Lists/Go+ Sent\Sent` {
		t.Errorf("while the mailbox is open: %s", got)
	}
	cfg := n.cfg
	n.stop()
	r.start(cfg)
	if got := listed(); got != `INBOX Drafts+\Drafts Lists Lists/Go+ Sent\Sent` {
		t.Errorf("after a restart: %s", got)
	}
	for _, names := range [][]string{{"INBOX"}, {""}, {"a.b"}, {"a", "/b"}} {
		cfg.AutoFolders = names
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "auto_folders") {
			t.Errorf("%q: %v", names, err)
		}
	}
	cfg.AutoFolders, cfg.SpecialUse = nil, map[string][]string{"Bogus": {"x"}}
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "special_use") {
		t.Error(err)
	}
}
