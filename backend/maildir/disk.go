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
	"waypost/internal/durable"
)

// subfolders are the three of every Maildir.
var subfolders = [...]string{"cur", "new", "tmp"}

// directory is an open folder on the disk. It is opened before the change that
// it is to sync, so that a lack of descriptors stops the change, not the sync.
type directory struct {
	a *Account
	f *os.File
}

func (a *Account) openDirectory(path string) (directory, error) {
	f, err := os.Open(path)
	return directory{a, f}, err
}

// sync makes the names in the folder durable.
func (d directory) sync() error {
	if err := d.f.Sync(); err != nil {
		return d.a.doubt(err)
	}
	return nil
}

func (d directory) close() { _ = d.f.Close() } // it was only read

// openDirectories opens dir/sub for each sub.
func (a *Account) openDirectories(dir string, subs ...string) ([]directory, error) {
	var all []directory
	for _, sub := range subs {
		d, err := a.openDirectory(filepath.Join(dir, sub))
		if err != nil {
			closeAll(all)
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

func closeAll(all []directory) {
	for _, d := range all {
		d.close()
	}
}

func syncAll(all []directory) error {
	for _, d := range all {
		if err := d.sync(); err != nil {
			return err
		}
	}
	return nil
}

// outOfSpace adds mailbox.ErrNoSpace to the errors of a full disk.
func outOfSpace(err error) error {
	full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
	if full && !errors.Is(err, mailbox.ErrNoSpace) {
		return fmt.Errorf("%w: %w", mailbox.ErrNoSpace, err)
	}
	return err
}

// link gives the file at src a second name, or where that is not possible
// makes a synced copy of it with the same modification time.
func link(src, dst string) error {
	err := os.Link(src, dst)
	for _, impossible := range []error{unix.EXDEV, unix.EMLINK, unix.EPERM, unix.EOPNOTSUPP} {
		if errors.Is(err, impossible) {
			return copyFile(src, dst)
		}
	}
	return err
}

func copyFile(src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = os.Chtimes(dst, info.ModTime(), info.ModTime())
	}
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, os.Remove(dst))
	}
	return nil
}

// eachMessage visits the names in dir that can be messages, whatever their
// order: regular files with a name that package name can read.
func eachMessage(dir string, visit func(file string, n name.Name) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(1024)
		for _, e := range entries {
			n, ok := name.Parse(e.Name())
			if !ok || !e.Type().IsRegular() {
				continue
			}
			if err := visit(e.Name(), n); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// isDirectory tells whether path is a folder and no link to one.
func isDirectory(path string) (bool, error) {
	info, err := os.Lstat(path)
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
	if ok, err := isDirectory(dir); err != nil || !ok {
		return errors.Join(err, mailbox.ErrNoFolder)
	}
	for _, sub := range subfolders {
		path := filepath.Join(dir, sub)
		if rel == "" {
			if _, err := os.Stat(path); err != nil {
				return err
			}
			continue
		}
		if sub == "cur" {
			if err := notLost(dir); err != nil {
				return err
			}
		}
		if err := durable.MkdirAll(path, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// notLost tells apart a folder that never had a cur from one that had messages
// there and has lost it: taken for empty, that one would let clients forget
// all their copies.
func notLost(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "cur")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, entries, err := uidlist.Load(dir)
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
