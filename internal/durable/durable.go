// Package durable makes changes to the file system that survive a crash.
//
// It promises that when a call returns nil, its change is on the disk: the
// bytes of the file and the folder entry that names it. When a call returns an
// error the old state and the new one are both possible after a crash, but
// never a mixture: a file replaced by WriteFile is whole, the old or the new.
// Calls do not retry a failed fsync, because the kernel may have dropped the
// unwritten pages and would answer the second call with a success.
//
// It owns nothing but the temporary files it makes (TempPrefix) and the lock
// file of a data folder (LockName). A crash may leave a temporary file behind;
// whoever owns the folder may remove those at start.
//
// All calls are safe for concurrent use. Of two concurrent WriteFile calls for
// one path one wins as a whole.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// TempPrefix begins the name of every temporary file this package makes. The
// leading dot keeps globs away from it; the name does not repeat the target's,
// so that a name of full length still has a temporary one.
const TempPrefix = ".waypost-tmp-"

// WriteFile replaces the file at path by data, or creates it, durably and
// atomically. The file gets exactly the permissions perm, whatever the umask.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return WriteFunc(path, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// WriteFunc is WriteFile for contents too large to hold in memory: write is
// called once with the new file. If it fails nothing changes, and its error is
// returned wrapped.
func WriteFunc(path string, perm fs.FileMode, write func(io.Writer) error) error {
	if err := place(path, perm, write, os.Rename); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// CreateFile is WriteFile for a file that must not exist yet: if there is one
// it is left alone and the error is fs.ErrExist.
func CreateFile(path string, data []byte, perm fs.FileMode) error {
	write := func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
	// link(2), unlike rename(2), never replaces.
	if err := place(path, perm, write, linkOver); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return nil
}

func linkOver(tmp, path string) error {
	if err := os.Link(tmp, path); err != nil {
		return err
	}
	return os.Remove(tmp)
}

// place writes a synced temporary file beside path, names it path with put,
// and syncs the folder.
func place(path string, perm fs.FileMode, write func(io.Writer) error, put func(tmp, path string) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, TempPrefix+"*")
	if err != nil {
		return err
	}
	tmp := f.Name()
	if err := fill(f, perm, write); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := put(tmp, path); err != nil {
		if rmErr := os.Remove(tmp); !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
		return err
	}
	return SyncDir(dir)
}

// fill writes, chmods, syncs and closes f.
func fill(f *os.File, perm fs.FileMode, write func(io.Writer) error) error {
	err := write(f)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// SyncDir makes the entries of the folder at path durable: names added,
// renamed and removed in it.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	err = d.Sync()
	if err = errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("sync folder %s: %w", path, err)
	}
	return nil
}

// Rename renames a file or folder and syncs the folders it left and entered.
// The contents are the caller's to sync, before.
func Rename(oldPath, newPath string) error {
	if err := os.Rename(oldPath, newPath); err != nil {
		return err
	}
	from, to := filepath.Dir(oldPath), filepath.Dir(newPath)
	// The new name first: a crash between the two syncs may then show both
	// names, and never neither.
	if err := SyncDir(to); err != nil {
		return err
	}
	if from == to {
		return nil
	}
	return SyncDir(from)
}

// Remove removes a file or an empty folder and syncs the folder it was in.
// Removing what does not exist is an error (fs.ErrNotExist).
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// MkdirAll creates the folder path with whatever parents are missing, and syncs
// every folder that got a new entry. It is no error if path is a folder already.
func MkdirAll(path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("make folder %s: a file is in the way", path)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("make folder: %w", err)
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MkdirAll(parent, perm); err != nil {
			return err
		}
	}
	// Another process may make the same folder meanwhile; the sync below is
	// needed even so, since that process may not have reached its own.
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make folder: %w", err)
	}
	return SyncDir(parent)
}
