package vfs

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nameless is a file of Nameless: a descriptor and nothing else, since it is made
// for each message. Unlike os.File it does not wait for calls under way when it
// is closed: whoever closes it must know that there are none.
type nameless struct {
	fd     int
	dir    string
	closed atomic.Bool
}

var _ File = (*nameless)(nil)

func (f *nameless) Name() string { return f.dir + "/(nameless)" }

// call runs a system call on the open file.
func (f *nameless) call(op string, do func(fd int) error) error {
	if f.closed.Load() {
		return &fs.PathError{Op: op, Path: f.Name(), Err: fs.ErrClosed}
	}
	if err := retry(func() error { return do(f.fd) }); err != nil {
		return &fs.PathError{Op: op, Path: f.Name(), Err: err}
	}
	return nil
}

// transfer is call for what moves bytes.
func (f *nameless) transfer(op string, p []byte, do func(fd int, p []byte) (int, error)) (n int, err error) {
	err = f.call(op, func(fd int) (err error) {
		n, err = do(fd, p)
		return err
	})
	return max(n, 0), err
}

func (f *nameless) Read(p []byte) (int, error) {
	n, err := f.transfer("read", p, unix.Read)
	if n == 0 && err == nil && len(p) > 0 {
		err = io.EOF
	}
	return n, err
}

func (f *nameless) ReadAt(p []byte, off int64) (done int, err error) {
	for done < len(p) {
		n, err := f.transfer("read", p[done:], func(fd int, p []byte) (int, error) { return unix.Pread(fd, p, off+int64(done)) })
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}

func (f *nameless) Write(p []byte) (done int, err error) {
	for done < len(p) {
		n, err := f.transfer("write", p[done:], unix.Write)
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

func (f *nameless) WriteAt(p []byte, off int64) (done int, err error) {
	for done < len(p) {
		n, err := f.transfer("write", p[done:], func(fd int, p []byte) (int, error) { return unix.Pwrite(fd, p, off+int64(done)) })
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

func (f *nameless) Seek(offset int64, whence int) (at int64, err error) {
	err = f.call("seek", func(fd int) (err error) {
		at, err = unix.Seek(fd, offset, whence)
		return err
	})
	return at, err
}

func (f *nameless) Stat() (fs.FileInfo, error) {
	info := &namelessInfo{name: filepath.Base(f.Name())}
	if err := f.call("stat", func(fd int) error { return syscall.Fstat(fd, &info.st) }); err != nil {
		return nil, err
	}
	return info, nil
}

// namelessInfo is a fs.FileInfo of what the kernel says. A nameless file is a
// regular one, without special bits.
type namelessInfo struct {
	name string
	st   syscall.Stat_t
}

func (i *namelessInfo) Name() string       { return i.name }
func (i *namelessInfo) Size() int64        { return i.st.Size }
func (i *namelessInfo) Mode() fs.FileMode  { return fs.FileMode(i.st.Mode).Perm() }
func (i *namelessInfo) ModTime() time.Time { return time.Unix(i.st.Mtim.Unix()) }
func (i *namelessInfo) IsDir() bool        { return false }
func (i *namelessInfo) Sys() any           { return &i.st }

func (f *nameless) Truncate(size int64) error {
	return f.call("truncate", func(fd int) error { return unix.Ftruncate(fd, size) })
}

func (f *nameless) Chmod(perm fs.FileMode) error {
	return f.call("chmod", func(fd int) error { return unix.Fchmod(fd, uint32(perm.Perm())) })
}

func (f *nameless) Sync() error     { return f.call("sync", unix.Fsync) }
func (f *nameless) Datasync() error { return f.call("fdatasync", unix.Fdatasync) }
func (f *nameless) SyncAll() error  { return f.call("syncfs", unix.Syncfs) }

func (f *nameless) DropCache() error { return f.call("fadvise", dropCache) }

func (f *nameless) SetModTime(t time.Time) error { return f.call("chtimes", futimens(t)) }

func (f *nameless) LinkTo(name string) error {
	from := procFD + strconv.Itoa(f.fd)
	if f.closed.Load() {
		return &os.LinkError{Op: "link", Old: f.Name(), New: name, Err: fs.ErrClosed}
	}
	err := retry(func() error { return unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW) })
	if err != nil {
		return &os.LinkError{Op: "link", Old: f.Name(), New: name, Err: err}
	}
	return nil
}

func (f *nameless) Lock(exclusive bool) error { return f.call("flock", flock(exclusive)) }
func (f *nameless) Unlock() error {
	return f.call("flock", func(fd int) error { return unix.Flock(fd, unix.LOCK_UN) })
}

func (f *nameless) Close() error {
	if f.closed.Swap(true) {
		return &fs.PathError{Op: "close", Path: f.Name(), Err: fs.ErrClosed}
	}
	if err := unix.Close(f.fd); err != nil && err != unix.EINTR { // on Linux it is closed even so
		return &fs.PathError{Op: "close", Path: f.Name(), Err: err}
	}
	return nil
}
