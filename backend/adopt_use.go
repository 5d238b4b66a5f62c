package backend

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// unused looks for a server that works on the tree: locks on its files, which
// the system tells of all processes, and files open in it, as far as this
// process may see those of others.
func (s *source) unused(tree []leaf) error {
	files := make(map[uint64]string, len(tree))
	for _, l := range tree {
		files[l.ino] = l.rel
	}
	// Dovecot locks its index, which is not carried.
	for _, l := range append(tree, leaf{rel: ".", dir: true}) {
		if !l.dir {
			continue
		}
		for _, name := range []string{"dovecot.index.log", "dovecot.index", "dovecot.index.cache"} {
			rel := filepath.Join(l.rel, name)
			if info, err := s.root.Lstat(rel); err == nil {
				if st, is := info.Sys().(*syscall.Stat_t); is {
					files[st.Ino] = rel
				}
			}
		}
	}
	if pid, ino := locked(files, tree); pid != "" {
		return s.inUse("process %s holds a lock on %s", pid, files[ino])
	}
	if pid, name := opened(s.path); pid != "" {
		return s.inUse("process %s has %s open", pid, name)
	}
	return nil
}

// locked looks through /proc/locks: "1: POSIX  ADVISORY  WRITE 3568 fd:00:2531 0 EOF".
func locked(files map[uint64]string, tree []leaf) (pid string, ino uint64) {
	if len(tree) == 0 {
		return "", 0
	}
	dev := fmt.Sprintf("%02x:%02x:", major(tree[0].dev), minor(tree[0].dev))
	f, err := os.Open("/proc/locks")
	if err != nil {
		return "", 0 // no such system: the second reading still tells of changes
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		w := strings.Fields(lines.Text())
		for i, word := range w {
			number, ok := strings.CutPrefix(word, dev)
			if !ok || i == 0 {
				continue
			}
			n, err := strconv.ParseUint(number, 10, 64)
			if _, ours := files[n]; err == nil && ours && w[i-1] != strconv.Itoa(os.Getpid()) {
				return w[i-1], n
			}
		}
	}
	return "", 0
}

// The numbers as the kernel's dev_t has them (makedev(3)).
func major(dev uint64) uint64 { return dev>>8&0xfff | dev>>32&^0xfff }
func minor(dev uint64) uint64 { return dev&0xff | dev>>12&^0xff }

// opened looks for processes with a file open in dir.
func opened(dir string) (pid, name string) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	self := strconv.Itoa(os.Getpid())
	for _, p := range procs {
		if filepath.Base(p) == self {
			continue
		}
		fds, _ := os.ReadDir(filepath.Join(p, "fd")) // others' only as root
		for _, fd := range fds {
			to, err := os.Readlink(filepath.Join(p, "fd", fd.Name()))
			if err == nil && (to == dir || strings.HasPrefix(to, dir+"/")) {
				return filepath.Base(p), to
			}
		}
	}
	return "", ""
}
