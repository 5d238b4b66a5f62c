package vfs

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// OS is the file system of this machine. Its files are closed on exec.
var OS FS = osFS{named: unix.Access(procFD, unix.X_OK) != nil}

// procFD is where the kernel shows our open files as names that linkat(2) can
// follow. The other way, AT_EMPTY_PATH, needs a capability or a recent kernel.
const procFD = "/proc/self/fd/"

// readDirBatch is how many entries of a folder ReadDir holds in memory.
const readDirBatch = 256

// osFS has named set where /proc is missing, so that a file without a name could
// never get one: Nameless then takes its fallback at once.
type osFS struct{ named bool }

// osFile has in tmp the name that Close removes: that of a file of Nameless where
// the file system cannot make one without.
type osFile struct {
	*os.File
	tmp string
}

// openFile opens through unix.Open because os.OpenFile tries to register every
// file with the poller, a system call that fails for all files on a disk.
func openFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	fd, err := openFD(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func openFD(name string, flag int, perm fs.FileMode) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Open(name, flag|unix.O_CLOEXEC|unix.O_LARGEFILE, uint32(perm.Perm()))
		return err
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

func (osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := openFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &osFile{File: f}, nil
}

func (o osFS) Nameless(dir string) (File, error) {
	if o.named {
		return namedTemp(dir)
	}
	fd, err := openFD(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	switch {
	case err == nil:
		return &nameless{fd: fd, dir: dir}, nil
	// EISDIR comes from kernels that do not know O_TMPFILE, the other two from
	// file systems that have none (open(2)).
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR), errors.Is(err, unix.EINVAL):
		return namedTemp(dir)
	}
	return nil, err
}

// namedTemp is Nameless where every file needs a name.
func namedTemp(dir string) (File, error) {
	f, name, err := createTemp(OS, dir, 0o600)
	if err != nil {
		return nil, err
	}
	f.(*osFile).tmp = name
	return f, nil
}

// createTemp makes a new file with a temporary name.
func createTemp(fsys FS, dir string, perm fs.FileMode) (File, string, error) {
	for {
		name := filepath.Join(dir, TempPrefix+strconv.FormatUint(rand.Uint64(), 36))
		f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		return f, name, err
	}
}

func (osFS) Link(from, to string) error { return os.Link(from, to) }

// Rename is not os.Rename because that refuses to replace an empty folder.
func (osFS) Rename(from, to string) error {
	if err := retry(func() error { return unix.Rename(from, to) }); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (osFS) Remove(name string) error { return os.Remove(name) }

func (osFS) RemoveAll(name string) error { return os.RemoveAll(name) }

func (osFS) Mkdir(name string, perm fs.FileMode) error { return os.Mkdir(name, perm) }

func (osFS) Lstat(name string) (fs.FileInfo, error) { return os.Lstat(name) }

func (osFS) ReadDir(name string, visit func(fs.DirEntry) error) error {
	d, err := openFile(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	err = visitAll(d, visit)
	// Nothing was written: the error of closing says nothing to the caller.
	_ = d.Close()
	return err
}

func visitAll(d *os.File, visit func(fs.DirEntry) error) error {
	for {
		entries, err := d.ReadDir(readDirBatch)
		for _, e := range entries {
			if err := visit(e); err != nil {
				return err
			}
		}
		// At the end of the folder there are no entries and io.EOF.
		if len(entries) == 0 && err == io.EOF {
			return nil
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
}

func (osFS) SetModTime(name string, t time.Time) error {
	return os.Chtimes(name, time.Time{}, t)
}

func (osFS) SyncDir(name string) error {
	return withOpen(name, unix.O_DIRECTORY, (*os.File).Sync)
}

func (osFS) SyncAll(name string) error {
	// O_NONBLOCK: name may be anything, and a pipe must not make us wait.
	return withOpen(name, unix.O_NONBLOCK, func(f *os.File) error {
		return control(f, "syncfs", unix.Syncfs)
	})
}

func withOpen(name string, flag int, do func(*os.File) error) error {
	f, err := openFile(name, unix.O_RDONLY|flag, 0)
	if err != nil {
		return err
	}
	if err := do(f); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

func (f *osFile) Datasync() error { return control(f.File, "fdatasync", unix.Fdatasync) }

func (f *osFile) SyncAll() error { return control(f.File, "syncfs", unix.Syncfs) }

func (f *osFile) DropCache() error { return control(f.File, "fadvise", dropCache) }

func dropCache(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) }

func (f *osFile) SetModTime(t time.Time) error { return control(f.File, "utimensat", futimens(t)) }

// futimens sets the modification time of an open file. With no path utimensat(2)
// means the descriptor; package unix has no call for that, and goes through
// /proc instead.
func futimens(t time.Time) func(fd int) error {
	return func(fd int) error {
		at, err := unix.TimeToTimespec(t)
		if err != nil {
			return err
		}
		times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, at}
		_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	}
}

func (f *osFile) LinkTo(name string) error {
	err := onFD(f.File, func(fd int) error {
		if f.tmp != "" {
			return unix.Link(f.tmp, name)
		}
		return unix.Linkat(unix.AT_FDCWD, procFD+strconv.Itoa(fd), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
	})
	if err != nil {
		return &os.LinkError{Op: "link", Old: f.Name(), New: name, Err: err}
	}
	return nil
}

// Close removes the temporary name even if closing failed: there is no second try.
func (f *osFile) Close() error {
	err := f.File.Close()
	if f.tmp == "" || errors.Is(err, fs.ErrClosed) {
		return err
	}
	return errors.Join(err, os.Remove(f.tmp))
}

func (f *osFile) Lock(exclusive bool) error {
	return control(f.File, "flock", flock(exclusive))
}

func flock(exclusive bool) func(fd int) error {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	return func(fd int) error { return unix.Flock(fd, how) }
}

func (f *osFile) Unlock() error {
	return control(f.File, "flock", func(fd int) error { return unix.Flock(fd, unix.LOCK_UN) })
}

// control is onFD with an error that names the operation and the file.
func control(f *os.File, op string, do func(fd int) error) error {
	if err := onFD(f, do); err != nil {
		return &fs.PathError{Op: op, Path: f.Name(), Err: err}
	}
	return nil
}

// onFD calls do with the descriptor, which stays open meanwhile even if another
// goroutine closes the file.
func onFD(f *os.File, do func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var doErr error
	if err := conn.Control(func(fd uintptr) {
		doErr = retry(func() error { return do(int(fd)) })
	}); err != nil {
		// There is no other reason, and this one does not unwrap to ErrClosed.
		return fs.ErrClosed
	}
	return doErr
}

func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
