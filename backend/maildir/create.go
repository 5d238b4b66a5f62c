package maildir

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"waypost/backend/maildir/name"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
)

// errFound ends a listing at the first message.
var errFound = errors.New("found")

// Create makes an empty mailbox at root, durably: INBOX with its UIDVALIDITY
// and an empty delivery log. What is there already stays; so it may be called
// again after a crash. Nobody may have the user open meanwhile.
func Create(fsys vfs.FS, root string) error {
	if err := create(fsys, root); err != nil {
		return fmt.Errorf("create mailbox %s: %w", root, err)
	}
	return nil
}

func create(fsys vfs.FS, root string) error {
	maildir := filepath.Join(root, maildirName)
	for _, sub := range subfolders {
		if err := vfs.MkdirAll(fsys, filepath.Join(maildir, sub), 0o700); err != nil {
			return err
		}
	}
	log := filepath.Join(root, deliveriesName)
	if err := vfs.CreateFile(fsys, log, nil, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := createUIDs(fsys, maildir); err != nil {
		return err
	}
	// An earlier call may have made these and crashed before its own syncs.
	for _, dir := range []string{maildir, root, filepath.Dir(root)} {
		if err := fsys.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// createUIDs begins the uidlist of an INBOX without messages. One with messages
// that others made gets its list when it is opened.
func createUIDs(fsys vfs.FS, maildir string) error {
	if _, err := fsys.Lstat(filepath.Join(maildir, uidlist.FileName)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, sub := range []string{"cur", "new"} {
		err := eachMessage(fsys, filepath.Join(maildir, sub), func(string, name.Name) error { return errFound })
		if errors.Is(err, errFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	validity, err := nextValidity(fsys, maildir, 0, time.Now())
	if err != nil {
		return err
	}
	_, err = uidlist.Create(fsys, maildir, uidlist.Header{Validity: validity, Next: 1, GUID: newGUID()})
	return err
}

// newGUID makes a folder's GUID: 128 random bits in hexadecimal.
func newGUID() string {
	var raw [16]byte
	rand.Read(raw[:]) // never fails (crypto/rand)
	return hex.EncodeToString(raw[:])
}
