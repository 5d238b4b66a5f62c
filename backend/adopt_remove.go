package backend

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"waypost/backend/manifest"
)

// remove removes what was taken over. Messages that have no second name are
// left, and the folders they lie in: they came when the tree had been read.
func (s *source) remove(ctx context.Context) (removed, left int64, err error) {
	tree, err := s.read()
	if err != nil {
		return 0, 0, err
	}
	for _, l := range tree {
		if l.dir || !l.message() {
			continue
		}
		info, err := s.root.Lstat(l.rel)
		if err != nil {
			return removed, left, err
		}
		if st, is := info.Sys().(*syscall.Stat_t); is && st.Nlink < 2 {
			left++
		}
	}
	if left > 0 {
		return 0, left, nil // all of it stays, so that the rest can be looked at
	}
	for _, l := range tree {
		if err := ctx.Err(); err != nil {
			return removed, 0, err
		}
		if l.dir {
			continue
		}
		if err := s.root.Remove(l.rel); err != nil {
			return removed, 0, err
		}
		removed++
	}
	return removed, 0, s.removeRest()
}

// removeRest removes the folders, with what is not carried: indexes and tmp.
// Messages that come this very moment are not among it.
func (s *source) removeRest() error {
	var folders []string
	err := filepath.WalkDir(s.path, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(s.path, path)
		if e.IsDir() {
			folders = append(folders, path)
			return nil
		}
		if manifest.Skip(sourceName+"/"+rel, false) && !manifest.IsMessage(sourceName+"/"+rel) {
			return os.Remove(path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.Reverse(folders)
	for _, f := range folders {
		if err := os.Remove(f); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
	}
	return nil
}
