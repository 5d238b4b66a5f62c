package backend

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestViewsRun: a run of views goes on over clean ends, and over kills while the file system stays
// mounted; not over anything that may have been a power cut.
func TestViewsRun(t *testing.T) {
	d := disk{root: t.TempDir()}
	last := ""
	for i, c := range []struct {
		clean bool
		held  string
		same  bool
	}{
		{false, "a", false}, // a new disk
		{true, "a", true},
		{false, "a", true},  // killed
		{true, "b", true},   // booted after a clean end
		{false, "b", true},  // killed then
		{false, "c", false}, // a power cut
		{false, "", false},  // killed, and nothing known
		{true, "", true},
		{false, "", false},
		{true, "c", true},
		{false, "c", true},
		{false, "b", false}, // as it was before
	} {
		run, err := d.viewsRun(c.clean, c.held)
		if err != nil || run == "" {
			t.Fatal(run, err)
		}
		if (run == last) != c.same {
			t.Errorf("start %d: the same run: %v", i, run == last)
		}
		last = run
	}
	// A file of a version that knew only of clean ends.
	if err := os.WriteFile(filepath.Join(d.root, "views"), []byte("OLD\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if run, err := d.viewsRun(false, "a"); err != nil || run == "OLD" {
		t.Error(run, err)
	}
}

// TestHeld: what names a mount is another after a boot and after each mount, and nothing is made up.
func TestHeld(t *testing.T) {
	dir, data := t.TempDir(), t.TempDir()
	m := machine{filepath.Join(dir, "boot_id"), dir}
	var st unix.Stat_t
	if err := unix.Stat(data, &st); err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	boot := func(id string) { must(os.WriteFile(m.boot, []byte(id+"\n"), 0o600)) }
	want := func(what string, ok bool) string {
		t.Helper()
		held := m.held(data, data)
		if (held != "") != ok {
			t.Errorf("%s: %q", what, held)
		}
		return held
	}
	want("no boot id", false)
	boot("one")
	want("no device", false)
	must(os.MkdirAll(filepath.Join(dir, "dev/block"), 0o700))
	must(os.Symlink("../../devices/disk", filepath.Join(dir, "dev/block", fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))))
	want("a file system that does not tell", false)
	mounted := filepath.Join(dir, "fs/ext4/disk")
	must(os.MkdirAll(mounted, 0o700))
	first := want("mounted", true)
	boot("two")
	second := want("booted", true)
	must(os.Rename(mounted, mounted+".old")) // which keeps the inode number from being used again
	must(os.Mkdir(mounted, 0o700))
	if third := want("mounted again", true); first == second || second == third {
		t.Error(first, second, third)
	}
	if held := m.held(data, filepath.Join(data, "none")); held != "" {
		t.Errorf("not there: %q", held)
	}
	if info, err := os.Stat("/proc"); err == nil {
		if p, ok := info.Sys().(*syscall.Stat_t); ok && p.Dev != st.Dev && m.held(data, "/proc") != "" {
			t.Error("two file systems")
		}
	}
}
