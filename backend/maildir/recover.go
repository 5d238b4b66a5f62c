package maildir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"waypost/backend/maildir/deliveries"
	"waypost/backend/maildir/name"
)

// LitterAge is the age at which a file in tmp is a crash's, as Maildir has
// always had it.
const LitterAge = 36 * time.Hour

// recoverTree does what a process that was killed has left undone.
func (a *Account) recoverTree() error {
	if err := removeHidden(a.maildir, nil); err != nil {
		return err
	}
	if err := a.finishLogged(); err != nil {
		return err
	}
	_, err := a.countAnew()
	return err
}

// removeHidden removes folders that were being made or deleted, all or those
// that old accepts.
func removeHidden(maildir string, old func(fs.FileInfo) bool) error {
	entries, err := os.ReadDir(maildir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), hiddenPrefix) {
			continue
		}
		if old != nil {
			if info, err := e.Info(); err != nil || !old(info) {
				continue
			}
		}
		if err := os.RemoveAll(filepath.Join(maildir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// finishLogged finishes deliveries that are in the log and still in tmp. The log
// is read only if there is something in some tmp.
func (a *Account) finishLogged() error {
	rels, err := a.directories()
	if err != nil {
		return err
	}
	waiting := map[string]string{} // file → folder, which may have been renamed
	for _, rel := range append(rels, "") {
		err := eachMessage(filepath.Join(a.dir(rel), "tmp"), func(file string, _ name.Name) error {
			waiting[file] = rel
			return nil
		})
		if err != nil && !isGone(err) {
			return err
		}
	}
	if len(waiting) == 0 {
		return nil
	}
	log, err := a.deliveryLog()
	if err != nil {
		return err
	}
	var finish []deliveries.Entry
	err = log.Each(func(e deliveries.Entry) bool {
		if rel, is := waiting[e.File]; is {
			e.Folder = rel
			finish = append(finish, e)
			delete(waiting, e.File)
		}
		return true
	})
	for _, e := range finish {
		if err != nil {
			break
		}
		err = a.finishOne(e)
	}
	if err != nil {
		return fmt.Errorf("finish deliveries: %w", err)
	}
	return nil
}

// finishOne publishes a logged file, or, where a file system that is not
// atomic shows it under both names after a power failure, removes the old one.
func (a *Account) finishOne(e deliveries.Entry) error {
	dir := a.dir(e.Folder)
	tmp := filepath.Join(dir, "tmp", e.File)
	for _, sub := range []string{"new", "cur"} {
		err := eachMessage(filepath.Join(dir, sub), func(_ string, n name.Name) error {
			if n.Base == e.File {
				return errFound
			}
			return nil
		})
		if errors.Is(err, errFound) {
			return os.Remove(tmp)
		}
		if err != nil && !isGone(err) {
			return err
		}
	}
	a.o.Log.Info("maildir: delivery finished", "root", a.o.Root, "folder", e.Folder, "id", e.ID)
	return a.finish(e.Folder, e.File)
}

// RemoveLitter removes what crashes have left in the tree at root: files in tmp
// that have been there for LitterAge, unless they are logged deliveries, which
// recovery finishes; and folders half made or half deleted. It may run while
// the user is being served. It returns how many files in tmp were removed.
func RemoveLitter(root string, now time.Time) (removed int, err error) {
	maildir := filepath.Join(root, maildirName)
	old := func(info fs.FileInfo) bool { return now.Sub(changeTime(info)) >= LitterAge }
	if err := removeHidden(maildir, old); err != nil {
		return 0, fmt.Errorf("remove litter of %s: %w", root, err)
	}
	litter, err := litterIn(maildir, old)
	if err == nil && len(litter) > 0 {
		err = spareLogged(filepath.Join(root, deliveriesName), litter)
	}
	if err != nil {
		return 0, fmt.Errorf("remove litter of %s: %w", root, err)
	}
	for _, path := range litter {
		if err := os.Remove(path); err != nil && !isGone(err) {
			return removed, fmt.Errorf("remove litter of %s: %w", root, err)
		}
		removed++
	}
	return removed, nil
}

// litterIn lists old files in all tmps: name → path.
func litterIn(maildir string, old func(fs.FileInfo) bool) (map[string]string, error) {
	rels, err := directories(maildir)
	if err != nil {
		return nil, err
	}
	litter := map[string]string{}
	for _, rel := range append(rels, "") {
		dir := filepath.Join(maildir, rel, "tmp")
		err := eachMessage(dir, func(file string, _ name.Name) error {
			path := filepath.Join(dir, file)
			if info, err := os.Lstat(path); err == nil && old(info) {
				litter[file] = path
			}
			return nil
		})
		if err != nil && !isGone(err) {
			return nil, err
		}
	}
	return litter, nil
}

// spareLogged takes logged deliveries out of litter.
func spareLogged(path string, litter map[string]string) error {
	f, err := os.Open(path)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, _, err = deliveries.Parse(f, func(e deliveries.Entry) bool {
		delete(litter, e.File)
		return true
	})
	return err
}

// changeTime is when the file got its name or contents: unlike the modification
// time, which may be any message's date.
func changeTime(info fs.FileInfo) time.Time {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Ctim.Unix())
	}
	return info.ModTime()
}
