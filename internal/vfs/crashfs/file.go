package crashfs

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"waypost/internal/vfs"
)

// accessMode is what open(2) calls O_ACCMODE.
const accessMode = os.O_RDONLY | os.O_WRONLY | os.O_RDWR

// file is an open file or folder. FS.mu protects what changes.
type file struct {
	fs   *FS
	node *inode
	name string
	flag int

	off    int64
	closed bool
	heard  uint64 // of FS.lost
}

// OpenFile implements vfs.FS. Of the flags it knows those of package os and
// syscall.O_DIRECTORY and O_DSYNC.
func (f *FS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	h := &file{fs: f, name: name, flag: flag}
	err := f.do(Open, name, func() (err error) {
		h.node, err = f.open(name, flag, perm)
		h.heard = f.lost.n
		return err
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

func (f *FS) open(name string, flag int, perm fs.FileMode) (*inode, error) {
	n, err := f.find(name)
	switch {
	case err == syscall.ENOENT && flag&os.O_CREATE != 0:
		return f.create(name, perm)
	case err != nil:
		return nil, err
	case flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, syscall.EEXIST
	case n.isDir() && (flag&accessMode != os.O_RDONLY || flag&os.O_CREATE != 0):
		return nil, syscall.EISDIR
	case !n.isDir() && flag&syscall.O_DIRECTORY != 0:
		return nil, syscall.ENOTDIR
	}
	if flag&os.O_TRUNC != 0 && n.vol.size > 0 {
		f.write(n, write{off: 0})
	}
	return n, nil
}

func (f *FS) create(name string, perm fs.FileMode) (*inode, error) {
	at, _, err := f.findSlot(name)
	if err != nil {
		return nil, err
	}
	n := f.newInode(perm.Perm() &^ umask)
	f.add(at, n)
	return n, nil
}

// write changes contents.
func (f *FS) write(n *inode, w write) {
	w.apply(&n.vol)
	n.writes = append(n.writes, w)
	f.touch(n)
}

// Nameless implements vfs.FS.
func (f *FS) Nameless(dir string) (vfs.File, error) {
	h := &file{fs: f, name: dir, flag: os.O_RDWR}
	err := f.do(Nameless, dir, func() error {
		if _, err := f.findDir(dir); err != nil {
			return err
		}
		h.node = f.newInode(0o600)
		h.node.linkable = true
		h.heard = f.lost.n
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// do runs one operation on an open file.
func (h *file) do(kind Kind, act func() error) error {
	return h.fs.do(kind, h.name, func() error {
		if h.closed {
			return fs.ErrClosed
		}
		return act()
	})
}

func (h *file) Name() string { return h.name }

// mayRead, and mayWrite, tell what read(2) and write(2) would say first.
func (h *file) mayRead() error {
	if h.flag&accessMode == os.O_WRONLY {
		return syscall.EBADF
	}
	if h.node.isDir() {
		return syscall.EISDIR
	}
	return nil
}

func (h *file) mayWrite() error {
	if h.flag&accessMode == os.O_RDONLY {
		return syscall.EBADF
	}
	return nil
}

func (h *file) Read(b []byte) (n int, err error) {
	err = h.do(Read, func() error {
		if err := h.mayRead(); err != nil {
			return err
		}
		n = h.node.vol.readAt(b, h.off)
		h.off += int64(n)
		return nil
	})
	if err == nil && n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	return n, err
}

func (h *file) ReadAt(b []byte, off int64) (n int, err error) {
	err = h.do(Read, func() error {
		if err := h.mayRead(); err != nil {
			return err
		}
		if off < 0 {
			return syscall.EINVAL
		}
		n = h.node.vol.readAt(b, off)
		return nil
	})
	if err == nil && n < len(b) {
		return n, io.EOF
	}
	return n, err
}

func (h *file) Write(b []byte) (n int, err error) {
	err = h.do(Write, func() error {
		if err := h.mayWrite(); err != nil {
			return err
		}
		if h.flag&os.O_APPEND != 0 {
			h.off = h.node.vol.size
		}
		h.write(b, h.off)
		h.off += int64(len(b))
		n = len(b)
		return nil
	})
	return n, err
}

func (h *file) WriteAt(b []byte, off int64) (n int, err error) {
	err = h.do(Write, func() error {
		if err := h.mayWrite(); err != nil {
			return err
		}
		// As os.File: pwrite(2) would append, which nobody means.
		if off < 0 || h.flag&os.O_APPEND != 0 {
			return syscall.EINVAL
		}
		h.write(b, off)
		n = len(b)
		return nil
	})
	return n, err
}

func (h *file) write(b []byte, off int64) {
	if len(b) == 0 {
		return
	}
	h.fs.write(h.node, write{off, append([]byte(nil), b...)})
	if h.flag&syscall.O_DSYNC != 0 {
		h.fs.datasync(h.node)
	}
}

func (h *file) Seek(offset int64, whence int) (pos int64, err error) {
	err = h.do(Seek, func() error {
		switch whence {
		case io.SeekStart:
			pos = offset
		case io.SeekCurrent:
			pos = h.off + offset
		case io.SeekEnd:
			pos = h.node.vol.size + offset
		default:
			return syscall.EINVAL
		}
		if pos < 0 {
			pos = 0
			return syscall.EINVAL
		}
		h.off = pos
		return nil
	})
	return pos, err
}

func (h *file) Stat() (fs.FileInfo, error) {
	var i *info
	err := h.do(Stat, func() error {
		i = h.node.info(filepath.Base(h.name))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return i, nil
}

func (h *file) Truncate(size int64) error {
	return h.do(Truncate, func() error {
		if size < 0 || h.mayWrite() != nil {
			return syscall.EINVAL
		}
		h.fs.write(h.node, write{off: size})
		return nil
	})
}

func (h *file) Sync() error     { return h.sync(Sync, h.fs.syncInode) }
func (h *file) Datasync() error { return h.sync(Datasync, h.fs.datasync) }

func (h *file) DropCache() error {
	return h.do(DropCache, func() error {
		h.node.dropCache()
		return nil
	})
}

func (h *file) sync(kind Kind, flush func(*inode)) error {
	if err := h.fs.begin(kind, h.name); err != nil {
		h.fs.drop(h.node, err)
		return &fs.PathError{Op: string(kind), Path: h.name, Err: err}
	}
	err := h.fs.locked(func() error {
		switch {
		case h.closed:
			return fs.ErrClosed
		case h.node.isDir():
			h.fs.syncDir(h.node)
		default:
			flush(h.node)
		}
		return nil
	})
	if err != nil {
		return &fs.PathError{Op: string(kind), Path: h.name, Err: err}
	}
	return nil
}

func (h *file) SetModTime(t time.Time) error {
	return h.do(SetModTime, func() error {
		h.fs.setModTime(h.node, t)
		return nil
	})
}

func (h *file) Chmod(perm fs.FileMode) error {
	return h.do(Chmod, func() error {
		h.node.attr.mode = h.node.attr.mode.Type() | perm.Perm()
		h.fs.dirty[h.node] = struct{}{}
		return nil
	})
}

func (h *file) LinkTo(name string) error {
	return h.fs.do2(LinkTo, h.name, name, func() error {
		if h.closed {
			return fs.ErrClosed
		}
		at, there, err := h.fs.findSlot(name)
		switch {
		case err != nil:
			return err
		case there != nil:
			return syscall.EEXIST
		case h.node.isDir():
			return syscall.EPERM
		// linkat(2) does not bring back what has lost its last name.
		case h.node.links == 0 && !h.node.linkable:
			return syscall.ENOENT
		}
		h.fs.add(at, h.node)
		return nil
	})
}

func (h *file) Lock(exclusive bool) error {
	return h.do(Lock, func() error {
		// flock(2): a conversion gives the old lock back first.
		h.unlock()
		for h.blocked(exclusive) {
			h.fs.unlocked.Wait()
			if h.fs.down {
				return ErrDown
			}
			if h.closed {
				return fs.ErrClosed
			}
		}
		if h.node.locks == nil {
			h.node.locks = map[*file]bool{}
		}
		h.node.locks[h] = exclusive
		return nil
	})
}

// blocked tells whether another open file's lock is in the way.
func (h *file) blocked(exclusive bool) bool {
	for other, theirs := range h.node.locks {
		if other != h && (exclusive || theirs) {
			return true
		}
	}
	return false
}

func (h *file) unlock() {
	if _, held := h.node.locks[h]; held {
		delete(h.node.locks, h)
		h.fs.unlocked.Broadcast()
	}
}

func (h *file) Unlock() error {
	return h.do(Unlock, func() error {
		h.unlock()
		return nil
	})
}

// Close closes even if the hook of FS.Fail has it fail, as close(2) does.
func (h *file) Close() error {
	failed := h.fs.begin(Close, h.name)
	err := h.fs.locked(func() error {
		if h.closed {
			return fs.ErrClosed
		}
		h.closed = true
		h.unlock()
		h.fs.unlocked.Broadcast()
		return failed
	})
	if err != nil {
		return &fs.PathError{Op: string(Close), Path: h.name, Err: err}
	}
	return nil
}
