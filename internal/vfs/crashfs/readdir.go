package crashfs

import (
	"cmp"
	"io/fs"
	"path/filepath"
	"slices"
)

// batchMax bounds how many entries ReadDir visits before it looks again which names
// are still there.
const batchMax = 8

// ReadDir implements vfs.FS. It visits the names of the moment at which it began, in
// a drawn order, as far as they are still there when their turn comes: like a scan
// of a real folder, it can miss a file that is renamed meanwhile.
func (f *FS) ReadDir(name string, visit func(fs.DirEntry) error) error {
	var dir *inode
	var rest []dirEntry
	err := f.do(ReadDir, name, func() (err error) {
		if dir, err = f.findDir(name); err == nil {
			rest = f.list(dir, name)
		}
		return err
	})
	for len(rest) > 0 && err == nil {
		err = f.visitSome(dir, &rest, visit)
	}
	return err
}

func (f *FS) list(dir *inode, name string) []dirEntry {
	list := make([]dirEntry, 0, len(dir.names))
	for base, e := range dir.names {
		list = append(list, dirEntry{f, filepath.Join(name, base), e.node.attr.mode.Type(), e.seq})
	}
	slices.SortFunc(list, func(a, b dirEntry) int { return cmp.Compare(a.seq, b.seq) })
	f.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

func (f *FS) visitSome(dir *inode, rest *[]dirEntry, visit func(fs.DirEntry) error) error {
	batch := (*rest)[:min(batchMax, len(*rest))]
	*rest = (*rest)[len(batch):]
	err := f.locked(func() error {
		batch = slices.DeleteFunc(batch, func(e dirEntry) bool {
			_, there := dir.names[e.Name()]
			return !there
		})
		return nil
	})
	if err != nil {
		return &fs.PathError{Op: string(ReadDir), Path: batch[0].path, Err: err}
	}
	for i := 0; i < len(batch) && err == nil; i++ {
		err = visit(batch[i])
	}
	return err
}

type dirEntry struct {
	fs   *FS
	path string
	mode fs.FileMode
	seq  uint64
}

func (e dirEntry) Name() string               { return filepath.Base(e.path) }
func (e dirEntry) IsDir() bool                { return e.mode.IsDir() }
func (e dirEntry) Type() fs.FileMode          { return e.mode }
func (e dirEntry) Info() (fs.FileInfo, error) { return e.fs.Lstat(e.path) }
