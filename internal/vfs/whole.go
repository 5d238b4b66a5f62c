package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ReadFile gives the contents of the file at name.
func ReadFile(fsys FS, name string) ([]byte, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	data, err := readAll(f)
	// Nothing was written: the error of closing says nothing to the caller.
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	return data, nil
}

// readAll asks for one byte more than the file has, so that the end shows
// itself without a second buffer.
func readAll(f File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	data := make([]byte, 0, max(info.Size(), 511)+1)
	for {
		n, err := f.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
	}
}

// DropCache is File.DropCache of the file at name, if there is one.
func DropCache(fsys FS, name string) error {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.DropCache(), f.Close())
}

// ReplaceFile replaces the file at name by data, or creates it, durably and
// atomically: once it has returned nil a crash leaves the new file, and after an
// error, or in between, the old one or the new one, whole. The file gets exactly
// the permissions perm, whatever the umask. Of two concurrent calls for one name
// one wins as a whole.
func ReplaceFile(fsys FS, name string, data []byte, perm fs.FileMode) error {
	return ReplaceFunc(fsys, name, perm, writerOf(data))
}

// ReplaceFunc is ReplaceFile for contents too large to hold in memory: write is
// called once with the new file. If it fails nothing changes, and its error is
// returned wrapped.
func ReplaceFunc(fsys FS, name string, perm fs.FileMode, write func(io.Writer) error) error {
	if err := replace(fsys, name, perm, write); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func replace(fsys FS, name string, perm fs.FileMode, write func(io.Writer) error) error {
	dir := filepath.Dir(name)
	f, tmp, err := createTemp(fsys, dir, perm)
	if err != nil {
		return err
	}
	err = errors.Join(fill(f, perm, write), f.Close())
	if err == nil {
		err = fsys.Rename(tmp, name)
	}
	if err != nil {
		// A rename can be done and yet report an error: then tmp is no more.
		if rmErr := fsys.Remove(tmp); !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
		return err
	}
	return fsys.SyncDir(dir)
}

// ReplaceUnsynced is ReplaceFile for what need not last: after a crash there may be
// anything under the name, or nothing.
func ReplaceUnsynced(fsys FS, name string, data []byte, perm fs.FileMode) error {
	f, tmp, err := createTemp(fsys, filepath.Dir(name), perm)
	if err == nil {
		_, err = f.Write(data)
		if err = errors.Join(err, f.Close()); err == nil {
			err = fsys.Rename(tmp, name)
		}
		if err != nil {
			_ = fsys.Remove(tmp) // it may have been renamed all the same
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// CreateFile is ReplaceFile for a file that must not exist yet: if there is one it
// is left alone and the error is fs.ErrExist.
func CreateFile(fsys FS, name string, data []byte, perm fs.FileMode) error {
	if err := create(fsys, name, data, perm); err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	return nil
}

func create(fsys FS, name string, data []byte, perm fs.FileMode) error {
	dir := filepath.Dir(name)
	f, err := fsys.Nameless(dir)
	if err != nil {
		return err
	}
	err = fill(f, perm, writerOf(data))
	if err == nil {
		err = f.LinkTo(name)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}

func writerOf(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}

// fill gives a new file its contents and permissions, durably.
func fill(f File, perm fs.FileMode, write func(io.Writer) error) error {
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	return f.Sync()
}

// Rename renames a file or folder and syncs the folders it left and entered. The
// contents are the caller's to sync, before.
func Rename(fsys FS, from, to string) error {
	if err := fsys.Rename(from, to); err != nil {
		return err
	}
	return SyncRenamed(fsys, from, to)
}

// SyncRenamed is what Rename does behind the rename: for whoever finds that done, by a
// process that died or a call that failed. The folder that was left may be gone since.
func SyncRenamed(fsys FS, from, to string) error {
	left, entered := filepath.Dir(from), filepath.Dir(to)
	// The new name first: a crash between the two syncs may then show both
	// names, and never neither.
	if err := fsys.SyncDir(entered); err != nil {
		return err
	}
	if left == entered {
		return nil
	}
	if err := fsys.SyncDir(left); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Remove removes a file or an empty folder and syncs the folder it was in.
// Removing what does not exist is an error (fs.ErrNotExist).
func Remove(fsys FS, name string) error {
	if err := fsys.Remove(name); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}

// MkdirAll makes the folder name with whatever parents are missing, and syncs every
// folder that got a new entry; one whose entry could not be synced is removed, so that the
// next call makes it again. It is no error if name is a folder already; such a
// folder is taken to be durable, so whoever continues after a process that died
// while making it syncs its parent.
func MkdirAll(fsys FS, name string, perm fs.FileMode) error {
	name = filepath.Clean(name)
	isDir, err := isFolder(fsys, name)
	switch {
	case err == nil && isDir:
		return nil
	case err == nil:
		return fmt.Errorf("make folder %s: a file is in the way", name)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("make folder: %w", err)
	}
	parent := filepath.Dir(name)
	if parent != name {
		if err := MkdirAll(fsys, parent, perm); err != nil {
			return err
		}
	}
	// Another process may make the same folder meanwhile; the sync below is
	// needed even so, since that process may not have reached its own.
	made := fsys.Mkdir(name, perm)
	if made != nil && !errors.Is(made, fs.ErrExist) {
		return fmt.Errorf("make folder: %w", made)
	}
	err = fsys.SyncDir(parent)
	if err != nil && made == nil {
		_ = fsys.Remove(name) // not empty: whoever fills it has synced it
	}
	return err
}

// isFolder follows a symbolic link, which an operator may have put in the place of
// a data folder. Only then is the folder opened: its parents need not be readable.
func isFolder(fsys FS, name string) (bool, error) {
	info, err := fsys.Lstat(name)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return err == nil && info.IsDir(), err
	}
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return false, err
	}
	info, err = f.Stat()
	_ = f.Close()
	return err == nil && info.IsDir(), err
}
