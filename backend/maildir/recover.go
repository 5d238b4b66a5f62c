package maildir

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"waypost/backend/maildir/name"
	"waypost/internal/vfs"
)

// LitterAge is the age at which a file in tmp is a crash's, as Maildir has
// always had it.
const LitterAge = 36 * time.Hour

// RemoveLitter removes what crashes have left in the tree at root: files in tmp
// that have been there for LitterAge, temporary files as old as that, and folders
// half made or half deleted. It may run while the user is being served. It
// returns how many there were.
func RemoveLitter(fsys vfs.FS, root string, now time.Time) (removed int, err error) {
	litter, err := Litter(fsys, root, now)
	for _, path := range litter {
		if err != nil {
			break
		}
		if err = fsys.RemoveAll(path); err == nil {
			removed++
		}
	}
	if err != nil {
		return removed, fmt.Errorf("remove litter of %s: %w", root, err)
	}
	return removed, nil
}

// Litter lists the paths that RemoveLitter would remove.
func Litter(fsys vfs.FS, root string, now time.Time) (litter []string, err error) {
	maildir := filepath.Join(root, maildirName)
	collect := func(dir string, is func(fs.DirEntry) bool) error {
		err := fsys.ReadDir(dir, func(e fs.DirEntry) error {
			if !is(e) {
				return nil
			}
			path := filepath.Join(dir, e.Name())
			if info, err := fsys.Lstat(path); err == nil && now.Sub(changeTime(info)) >= LitterAge {
				litter = append(litter, path)
			}
			return nil
		})
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	temporary := func(e fs.DirEntry) bool {
		return strings.HasPrefix(e.Name(), vfs.TempPrefix) && e.Type().IsRegular() // a folder may have such a name
	}
	hidden := func(e fs.DirEntry) bool { return temporary(e) || strings.HasPrefix(e.Name(), hiddenPrefix) }
	inTmp := func(e fs.DirEntry) bool {
		_, is := name.Parse(e.Name())
		return is && e.Type().IsRegular()
	}
	rels, err := directories(fsys, maildir)
	if err == nil {
		err = errors.Join(collect(root, temporary), collect(maildir, hidden))
	}
	for _, rel := range append(rels, "") {
		if rel != "" {
			err = errors.Join(err, collect(filepath.Join(maildir, rel), temporary))
		}
		err = errors.Join(err, collect(filepath.Join(maildir, rel, "tmp"), inTmp))
	}
	if err != nil {
		return nil, fmt.Errorf("look for litter in %s: %w", root, err)
	}
	return litter, nil
}

// changeTime is when the file got its name or contents: unlike the modification
// time, which may be any message's date.
func changeTime(info fs.FileInfo) time.Time {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Ctim != (syscall.Timespec{}) {
		return time.Unix(st.Ctim.Unix())
	}
	return info.ModTime()
}
