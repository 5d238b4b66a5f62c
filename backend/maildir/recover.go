package maildir

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"waypost/backend/maildir/deliveries"
	"waypost/backend/maildir/name"
	"waypost/internal/durable"
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

// finishLogged finishes deliveries that are in the log and still in tmp, and
// removes what else of ours is there: a delivery, append or copy that was killed
// before anybody was told of it. The log is read only if there is something in
// some tmp.
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
	if err == nil {
		err = a.removeUnlogged(waiting)
	}
	if err != nil {
		return fmt.Errorf("finish deliveries: %w", err)
	}
	return nil
}

// removeUnlogged removes files in tmp (file → folder) that we have made. Left
// there they would keep the bytes of messages that are expunged. Without a log,
// which Create makes, it is not known what was delivered: nothing is removed.
func (a *Account) removeUnlogged(files map[string]string) error {
	if _, err := os.Stat(filepath.Join(a.o.Root, deliveriesName)); err != nil {
		a.o.Log.Warn("maildir: no delivery log; files in tmp stay", "root", a.o.Root, "files", len(files), "error", err)
		return nil
	}
	for file, rel := range files {
		if !name.Generated(file) {
			continue
		}
		if err := os.Remove(filepath.Join(a.dir(rel), "tmp", file)); err != nil && !isGone(err) {
			return err
		}
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
// recovery finishes; temporary files of package durable as old as that; and
// folders half made or half deleted. It may run while the user is being served.
// It returns how many files were removed.
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
	var temps []string
	if err == nil {
		temps, err = oldTemps(root, old)
	}
	if err != nil {
		return 0, fmt.Errorf("remove litter of %s: %w", root, err)
	}
	for _, path := range slices.AppendSeq(temps, maps.Values(litter)) {
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

// oldTemps lists old files of package durable in root and all folders.
func oldTemps(root string, old func(fs.FileInfo) bool) (temps []string, err error) {
	maildir := filepath.Join(root, maildirName)
	rels, err := directories(maildir)
	if err != nil {
		return nil, err
	}
	dirs := []string{root, maildir}
	for _, rel := range rels {
		dirs = append(dirs, filepath.Join(maildir, rel))
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !isGone(err) {
			return nil, err
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), durable.TempPrefix) || !e.Type().IsRegular() {
				continue // a folder may have such a name
			}
			if info, err := e.Info(); err == nil && old(info) {
				temps = append(temps, filepath.Join(dir, e.Name()))
			}
		}
	}
	return temps, nil
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
