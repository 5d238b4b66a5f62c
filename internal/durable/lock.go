package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// LockName is the file in a data folder that carries its lock. It is never
// removed: removing a locked file would let two processes lock two files of
// one name.
const LockName = "waypost.lock"

// ErrLocked says that another process (or another Lock in this one) has the
// data folder.
var ErrLocked = errors.New("in use by another process")

// DirLock is a held lock on a data folder.
type DirLock struct{ f *os.File }

// Lock takes the data folder dir for this process, without waiting: if it is
// taken the error is ErrLocked and names the holder's process id where that is
// known. The lock is a flock(2); it ends with Unlock or with the process,
// however that ends, and is not inherited by child processes.
func Lock(dir string) (*DirLock, error) {
	path := filepath.Join(dir, LockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data folder %s: %w", dir, err)
	}
	err = retryInterrupted(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder := holderOf(f)
		return nil, errors.Join(fmt.Errorf("data folder %s: %w%s", dir, ErrLocked, holder), f.Close())
	}
	if err == nil {
		err = writeHolder(f)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock data folder %s: %w", dir, err), f.Close())
	}
	return &DirLock{f}, nil
}

// Unlock gives the folder back. A second call does nothing.
func (l *DirLock) Unlock() error {
	if err := l.f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("unlock data folder: %w", err)
	}
	return nil
}

// writeHolder leaves the process id for the error message of the next one who
// tries. It is a hint for people, so it is not synced.
func writeHolder(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func holderOf(f *os.File) string {
	data, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return ""
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}

func retryInterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
