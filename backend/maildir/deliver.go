package maildir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/deliveries"
	"waypost/backend/maildir/name"
)

// deliver is Box.Deliver; the package comment lists its steps.
func (a *Account) deliver(id string, s *staged, folder string, force bool) error {
	log, err := a.deliveryLog()
	if err != nil {
		return err
	}
	if done, err := a.delivered(log, id); done || err != nil {
		return err
	}
	if !force {
		if err := a.fits(s.size, 1); err != nil {
			return err
		}
	}
	rel, err := a.deliveryFolder(folder)
	if err != nil {
		return err
	}
	e := deliveries.Entry{
		At: a.o.Now(), ID: id, Folder: rel,
		File: name.WithSizes(a.names.Next(), s.size, s.wire),
	}
	open, err := a.openDeliveryFolder(rel)
	if err != nil {
		return err
	}
	defer closeAll(open)
	tmp := filepath.Join(a.dir(rel), "tmp", e.File)
	if err := link(s.path, tmp); err != nil {
		return err
	}
	if err := open[0].sync(); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := log.Append(e); err != nil {
		if errors.Is(err, deliveries.ErrDoubtful) {
			// The line may be there after a crash: then the file must be too.
			return a.doubt(err)
		}
		return errors.Join(err, os.Remove(tmp))
	}
	return a.publish(rel, e.File, open[1])
}

// delivered tells whether id was delivered before, and finishes that if need be.
func (a *Account) delivered(log *deliveries.Log, id string) (bool, error) {
	e, found, err := log.Find(id)
	if err != nil || !found {
		return false, err
	}
	if at, pending := a.pending[e.File]; pending {
		e.Folder = at
	}
	_, err = os.Lstat(filepath.Join(a.dir(e.Folder), "tmp", e.File))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return true, a.finishOne(e)
}

// deliveryFolder decides where a delivery to folder goes.
func (a *Account) deliveryFolder(folder string) (rel string, err error) {
	if folder == "" {
		return "", nil
	}
	rel, _, err = a.lookup(folder)
	if errors.Is(err, mailbox.ErrNoFolder) && a.o.CreateFolderOnDelivery {
		rel, err = a.makeFolder(folder)
	}
	for _, inbox := range []error{mailbox.ErrBadName, mailbox.ErrNoFolder, mailbox.ErrTooManyFolders} {
		if errors.Is(err, inbox) {
			return "", nil
		}
	}
	return rel, err
}

// openDeliveryFolder opens tmp and new.
func (a *Account) openDeliveryFolder(rel string) ([]directory, error) {
	open, err := a.openDirectories(a.dir(rel), "tmp", "new")
	if !errors.Is(err, fs.ErrNotExist) {
		return open, err
	}
	if err := a.completeFolder(rel); err != nil {
		return nil, err
	}
	return a.openDirectories(a.dir(rel), "tmp", "new")
}

// publish is steps 3 and 4 of a delivery whose id is in the log. If the rename
// fails the message stays pending.
func (a *Account) publish(rel, file string, into directory) error {
	dir := a.dir(rel)
	rename := func() error {
		if err := os.Rename(filepath.Join(dir, "tmp", file), filepath.Join(dir, "new", file)); err != nil {
			a.pending[file] = rel
			return err
		}
		delete(a.pending, file)
		return into.sync()
	}
	var err error
	if f := a.folders[rel]; f != nil && f.loaded {
		err = f.delivering(file, rename)
	} else {
		err = rename()
	}
	if err != nil {
		return err
	}
	size, _ := name.Sizes(file)
	a.addUsage(size, 1)
	return nil
}

// finish publishes a logged delivery that is still in tmp.
func (a *Account) finish(rel, file string) error {
	open, err := a.openDeliveryFolder(rel)
	if err != nil {
		return err
	}
	defer closeAll(open)
	return a.publish(rel, file, open[1])
}

// finishPending finishes all deliveries whose rename failed. Whatever renames
// or removes folders, or hands the tree on, must do this first.
func (a *Account) finishPending() error {
	for file, rel := range a.pending {
		if err := a.finish(rel, file); err != nil {
			return fmt.Errorf("finish delivery: %w", err)
		}
	}
	return nil
}
