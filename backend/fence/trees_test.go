package fence

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"

	"waypost/director"
	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

// TestTreesAfterAFault: each step of each action fails, the action is asked for again, and what
// that promised is there after a power cut.
func TestTreesAfterAFault(t *testing.T) {
	for name, c := range map[string]struct {
		begin []string // files
		do    func(Trees) error
		want  []string
	}{
		"adopt":           {[]string{"/staging/00/u/m"}, Trees.Adopt, []string{"/users/00/u/m"}},
		"adopt elsewhere": {[]string{"/staging/00/u/m", "/users/00/v/m"}, Trees.Adopt, []string{"/users/00/u/m", "/users/00/v/m"}},
		"discard": {[]string{"/users/00/u/m", "/manifests/00/u"},
			func(tr Trees) error { return tr.Discard(Fence{State: Frozen, Epoch: 7}, false) },
			[]string{"/trash/u@7/manifest", "/trash/u@7/tree/m"}},
		"discard without a manifest": {[]string{"/users/00/u/m"},
			func(tr Trees) error { return tr.Discard(Fence{State: Serving, Epoch: 7}, true) },
			[]string{"/trash/u@7/swept", "/trash/u@7/tree/m"}},
		"drop what was adopted half": {[]string{"/users/00/u/m"},
			func(tr Trees) error { return tr.Drop(Fence{State: Sealed, Epoch: 7}, false) },
			[]string{"/trash/u@7/tree/m"}},
		"park": {[]string{"/staging/00/u/m"},
			func(tr Trees) error { return tr.Drop(Fence{State: Incoming, Epoch: 7}, false) },
			[]string{"/parked/u@7/m"}},
	} {
		t.Run(name, func(t *testing.T) {
			for fail, failed := 1, true; failed; fail++ {
				for seed := range uint64(8) {
					disk := crashfs.New(seed)
					for _, f := range c.begin {
						put(t, disk, f)
					}
					for _, dir := range []string{"/users", "/trash", "/parked"} {
						if err := vfs.MkdirAll(disk, dir, 0o700); err != nil {
							t.Fatal(err)
						}
					}
					step := 0
					disk.Fail(func(crashfs.Op) error {
						if step++; step == fail {
							return syscall.EMFILE
						}
						return nil
					})
					err := c.do(treesOn(disk))
					disk.Fail(nil)
					if failed = step >= fail; failed {
						err = c.do(treesOn(disk))
					}
					if err != nil {
						t.Fatalf("step %d failed, and then: %v", fail, err)
					}
					disk = disk.Crash(rand.New(rand.NewPCG(seed, 1)))
					for _, f := range c.want {
						if there, err := Exists(disk, f); err != nil || !there {
							t.Fatalf("step %d failed, and then not; after a power cut %s is not there (%v)", fail, f, err)
						}
					}
				}
			}
		})
	}
}

func put(t *testing.T, fsys vfs.FS, file string) {
	t.Helper()
	if err := vfs.MkdirAll(fsys, filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := vfs.CreateFile(fsys, file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func treesOn(disk *crashfs.FS) Trees {
	return Trees{
		FS: disk, Live: "/users/00/u", Staging: "/staging/00/u", Manifest: "/manifests/00/u",
		Trash: func(e director.Epoch) string { return fmt.Sprintf("/trash/u@%d", e) },
		Park:  func(staging string) error { return Claim(disk, staging, "/parked/u@7") },
	}
}
