package bench

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// CountMessages counts the files in folders called new and cur below root: the
// messages of Maildirs.
func CountMessages(root string) (int64, error) {
	var n int64
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if dir := filepath.Base(filepath.Dir(path)); dir == "new" || dir == "cur" {
				n++
			}
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count messages: %w", err)
	}
	return n, nil
}

// FlushAll writes back all that lies on the file system of dir, so that no run
// pays for the one before it.
func FlushAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", dir, err)
	}
	return nil
}

// FreeBytes is the room on the file system of dir.
func FreeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Dear is what creating a file takes where something is wrong; 0.02 to 0.05 ms
// are usual. ext4 looks for an inode that was not freed lately, one after the
// other, and for five minutes after a mass deletion there are thousands of those
// in some parts of the disk and none in others.
const Dear = 200 * time.Microsecond

// Creation measures how long creating a file below dir takes.
func Creation(dir string) (time.Duration, error) {
	const probes = 50
	sub := filepath.Join(dir, "probe")
	if err := os.Mkdir(sub, 0o700); err != nil {
		return 0, err
	}
	lat := make(Latencies, 0, probes)
	for i := range uint64(probes) {
		t := time.Now()
		if err := create(sub, i, []byte("probe")); err != nil {
			return 0, err
		}
		lat = append(lat, time.Since(t))
	}
	return lat.Quantile(0.5), nil
}

// DropCaches has the system forget what it has read from disks, or tells that it could not. It
// works for root, on a system of its own, and slows down whatever else runs there.
func DropCaches() (bool, error) {
	if os.Getuid() != 0 {
		return false, nil
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0); err != nil {
		if os.IsPermission(err) || os.IsNotExist(err) {
			return false, nil // a container, mostly
		}
		return false, err
	}
	return true, nil
}
