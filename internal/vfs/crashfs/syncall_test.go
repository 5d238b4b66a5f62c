package crashfs

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"waypost/internal/vfs"
)

// TestLostWrites: each file hears once of each loss since it was opened, whoever has heard
// of it before; what is opened later, and FS.SyncAll, do not.
func TestLostWrites(t *testing.T) {
	f := New(1)
	must(t, f.Mkdir("/d", 0o700))
	early := open(t, f, "/early")
	nameless, err := f.Nameless("/d")
	must(t, err)
	fail := func(kind Kind, err error) {
		t.Helper()
		f.Fail(func(op Op) error {
			if op.Kind == kind {
				return err
			}
			return nil
		})
		h := open(t, f, "/f")
		sync := map[Kind]func() error{Sync: h.Sync, Datasync: h.Datasync}[kind]
		if got := sync(); !errors.Is(got, err) {
			t.Fatal(got)
		}
		must(t, h.Close())
		f.Fail(nil)
	}
	hears := func(h vfs.File, want error) {
		t.Helper()
		if err := h.SyncAll(); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%v, want %v", err, want)
		}
	}
	fail(Sync, syscall.EIO)
	hears(early, nil) // there was nothing to be lost
	put(t, f, "/f", "x", 0)
	fail(Sync, syscall.EIO)
	late := open(t, f, "/late")
	must(t, f.SyncAll("/"))
	hears(late, nil)
	hears(early, syscall.EIO)
	hears(early, nil)
	put(t, f, "/f", "y", 0)
	fail(Datasync, syscall.ENOSPC)
	for _, h := range []vfs.File{late, nameless, early} {
		hears(h, syscall.ENOSPC)
		hears(h, nil)
	}
	f.Fail(func(Op) error { return syscall.EMFILE })
	hears(late, syscall.EMFILE)
	f.Fail(nil)
	must(t, late.Close())
	if err := late.SyncAll(); err == nil {
		t.Error("a closed file syncs")
	}
	next := f.Kill()
	hears(open(t, next, "/early"), nil)
	hears(early, ErrDown)
}

// TestFileSyncAll: it makes durable what FS.SyncAll does.
func TestFileSyncAll(t *testing.T) {
	f := New(1)
	must(t, f.Mkdir("/d", 0o700))
	h, err := f.OpenFile("/d", syscall.O_DIRECTORY, 0)
	must(t, err)
	put(t, f, "/f", "x", 0)
	must(t, f.Rename("/f", "/d/g"), h.SyncAll())
	if got := outcomes(t, f); fmt.Sprint(got) != "[d/ d/g=x]" {
		t.Errorf("saw %q", got)
	}
}
