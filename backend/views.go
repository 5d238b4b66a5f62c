package backend

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"waypost/internal/durable"
)

// viewsRun names the run of processes whose views of folders are believed
// (maildir.Options.Views): what a power cut left of them may not fit the rest, whatever
// the times of the files say. A process that follows a power cut, or what may be one, begins
// another.
//
// None was one before a clean end. Nor before a process that was killed, if the same kernel has had the
// file system mounted ever since, as held tells: all that the process had done to files is there then,
// as if it had ended just so, whether it was synced or not.
//
// What a killed process leaves differs from what a clean end leaves in that files may have
// changed since a view was written, by the process or by the replay of its journal. That is
// what a view is compared with the disk for: each change of a message that has a UID is one of a
// name in cur, of the uidlist, or of the state. The replay begins the state of each folder anew that a record
// tells of. Only the times of folders do not tell apart changes of one moment; so a view of the killed
// process's that was written in the moment of a change is not believed (maildir.Options.Killed).
func (d disk) viewsRun(clean bool, held string) (run string, err error) {
	path := filepath.Join(d.root, "views")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("run of views: %w", err)
	}
	run, was, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	switch {
	case run == "", !clean && (held == "" || held != was):
		run = rand.Text()
	case held == was:
		return run, nil
	}
	// Before the first view that a power cut might spoil.
	if err := durable.WriteFile(path, []byte(run+"\n"+held+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("run of views: %w", err)
	}
	return run, nil
}

// machine is where the kernel tells of itself.
type machine struct{ boot, sys string }

func thisMachine() machine { return machine{"/proc/sys/kernel/random/boot_id", "/sys"} }

// held names the time for which this kernel has had the file system of the paths mounted: another after a
// boot, and after each unmount, at which writes may be lost, too, if the device was gone. "": not known, or the
// paths are not on one file system.
func (m machine) held(paths ...string) string {
	boot, err := os.ReadFile(m.boot)
	id := strings.TrimSpace(string(boot))
	if err != nil || id == "" {
		return ""
	}
	device := ""
	for i, path := range paths {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return ""
		}
		on := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
		if i > 0 && on != device {
			return ""
		}
		device = on
	}
	link, err := os.Readlink(filepath.Join(m.sys, "dev/block", device))
	if err != nil {
		return ""
	}
	// The file system's folder there comes and goes with the mount, each time with another
	// inode number.
	for _, kind := range []string{"ext4", "xfs", "f2fs"} {
		info, err := os.Stat(filepath.Join(m.sys, "fs", kind, filepath.Base(link)))
		if err != nil {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			return fmt.Sprintf("%s %s %d", id, device, st.Ino)
		}
	}
	return ""
}
