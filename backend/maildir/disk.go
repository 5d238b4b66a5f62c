package maildir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
)

// subfolders are the three of every Maildir.
var subfolders = [...]string{"cur", "new", "tmp"}

// outOfSpace adds mailbox.ErrNoSpace to the errors of a full disk.
func outOfSpace(err error) error {
	full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
	if full && !errors.Is(err, mailbox.ErrNoSpace) {
		return fmt.Errorf("%w: %w", mailbox.ErrNoSpace, err)
	}
	return err
}

// noDescriptor: nothing could be opened, for want of descriptors. It passes.
func noDescriptor(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

// ownFault: something may not be touched, or others have removed it. That is one user's
// alone, comes before anything is flushed, and may be mended by an operator.
func ownFault(err error) bool {
	for _, own := range []error{unix.EACCES, unix.EPERM, unix.ENOENT, unix.ENOTDIR} {
		if errors.Is(err, own) {
			return true
		}
	}
	return false
}

// replace is vfs.ReplaceFile that remembers a failure.
func (a *Account) replace(path string, data []byte) error {
	a.unsure[path] = true
	err := vfs.ReplaceFile(a.fs, path, data, 0o600)
	if err == nil {
		delete(a.unsure, path)
	}
	return err
}

// syncUnsure makes durable what a replace has left to be seen.
func (a *Account) syncUnsure() error {
	for path := range a.unsure {
		if err := a.fs.SyncDir(filepath.Dir(path)); err != nil && !isGone(err) {
			return a.doubtSync(err)
		}
		delete(a.unsure, path)
	}
	return nil
}

// link gives the file at src a second name, or where that is not possible
// makes a copy of it with the same modification time.
func (a *Account) link(src, dst string) error {
	err := a.fs.Link(src, dst)
	for _, impossible := range []error{unix.EXDEV, unix.EMLINK, unix.EPERM, unix.EOPNOTSUPP} {
		if errors.Is(err, impossible) {
			return copyFile(a.fs, src, dst)
		}
	}
	return err
}

// copyFile makes a synced copy: the journal has no bytes of it.
func copyFile(fsys vfs.FS, src, dst string) error {
	in, err := fsys.OpenFile(src, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := fsys.Nameless(filepath.Dir(dst))
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.SetModTime(info.ModTime())
	}
	if err == nil {
		err = out.Sync()
	}
	if err == nil {
		err = out.LinkTo(dst)
	}
	return errors.Join(err, out.Close())
}

func (a *Account) eachMessage(dir string, visit func(file string, n name.Name) error) error {
	return eachMessage(a.fs, dir, visit)
}

// eachMessage visits the names in dir that can be messages, whatever their
// order: regular files with a name that package name can read.
func eachMessage(fsys vfs.FS, dir string, visit func(file string, n name.Name) error) error {
	return fsys.ReadDir(dir, func(e fs.DirEntry) error {
		n, ok := name.Parse(e.Name())
		if !ok || !e.Type().IsRegular() {
			return nil
		}
		return visit(e.Name(), n)
	})
}

// isDirectory tells whether path is a folder and no link to one.
func isDirectory(fsys vfs.FS, path string) (bool, error) {
	info, err := fsys.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.IsDir(), err
}

// completeFolder makes the subfolders that a folder made by others lacks. The
// inbox of an opened mailbox had them: there one that is missing is an error, and
// never the beginning of an empty mailbox.
func (a *Account) completeFolder(rel string) error {
	dir := a.dir(rel)
	if ok, err := isDirectory(a.fs, dir); err != nil || !ok {
		return errors.Join(err, mailbox.ErrNoFolder)
	}
	for _, sub := range subfolders {
		path := filepath.Join(dir, sub)
		if rel == "" {
			if _, err := a.fs.Lstat(path); err != nil {
				return err
			}
			continue
		}
		if sub == "cur" {
			if err := notLost(a.fs, dir); err != nil {
				return err
			}
		}
		if err := vfs.MkdirAll(a.fs, path, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// notLost tells apart a folder that never had a cur from one that had messages
// there and has lost it: taken for empty, that one would let clients forget
// all their copies.
func notLost(fsys vfs.FS, dir string) error {
	if _, err := fsys.Lstat(filepath.Join(dir, "cur")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, entries, err := uidlist.Load(fsys, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%d messages are numbered: %w", len(entries), errLostCur)
	}
	return err
}

// errLostCur: a folder lacks cur, though its uidlist has messages.
var errLostCur = errors.New("cur is missing")
