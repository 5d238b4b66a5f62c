package crashfs

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const nameMax = 255

// slot is one name in one folder.
type slot struct {
	dir  *inode
	name string
}

// change is one change of names that is not on the disk, whole or not at all. A
// rename sets two slots, all others one.
type change struct {
	sets []set
	// folder marks the rename of a folder: see FS.settleNames.
	folder bool
}

type set struct {
	slot
	to entry // the zero entry: no such name
}

func (c change) apply() {
	for _, s := range c.sets {
		if s.to.node == nil {
			delete(s.dir.durable, s.name)
		} else {
			s.dir.durable[s.name] = s.to
		}
	}
}

// change makes a change of names that no crash can halve.
func (f *FS) change(folder bool, sets ...set) {
	for i := range sets {
		s := &sets[i]
		if s.to.node == nil {
			delete(s.dir.names, s.name)
		} else {
			f.lastSeq++
			s.to.seq = f.lastSeq
			s.dir.names[s.name] = s.to
		}
		s.dir.changes++
		f.touch(s.dir)
	}
	f.pending = append(f.pending, change{sets, folder})
}

// add gives a node a name.
func (f *FS) add(at slot, n *inode) {
	n.links++
	n.linkable = false
	f.change(false, set{at, entry{node: n}})
}

// syncDir makes durable all changes of names in dir, and those which they build on:
// where a rename goes, its other name and that name's past go with it.
func (f *FS) syncDir(dir *inode) {
	if dir.changes > 0 {
		f.syncNames(dir)
	}
	f.syncInode(dir)
}

func (f *FS) syncNames(dir *inode) {
	wanted, anyFolder := map[slot]bool{}, false
	due := make([]bool, len(f.pending))
	for i := len(f.pending) - 1; i >= 0; i-- {
		c := f.pending[i]
		due[i] = c.folder && anyFolder || slices.ContainsFunc(c.sets, func(s set) bool {
			return s.dir == dir || wanted[s.slot]
		})
		if !due[i] {
			continue
		}
		anyFolder = anyFolder || c.folder
		for _, s := range c.sets {
			wanted[s.slot] = true
		}
	}
	i := -1
	f.pending = slices.DeleteFunc(f.pending, func(c change) bool {
		if i++; !due[i] {
			return false
		}
		c.apply()
		for _, s := range c.sets {
			s.dir.changes--
		}
		return true
	})
}

// find gives the file or folder at a path.
func (f *FS) find(name string) (*inode, error) {
	if !filepath.IsAbs(name) {
		return nil, syscall.EINVAL
	}
	n := f.root
	for part := range strings.SplitSeq(filepath.Clean(name), "/") {
		if part == "" {
			continue
		}
		if !n.isDir() {
			return nil, syscall.ENOTDIR
		}
		if len(part) > nameMax {
			return nil, syscall.ENAMETOOLONG
		}
		e, ok := n.names[part]
		if !ok {
			return nil, syscall.ENOENT
		}
		n = e.node
	}
	return n, nil
}

func (f *FS) findDir(name string) (*inode, error) {
	n, err := f.find(name)
	if err == nil && !n.isDir() {
		err = syscall.ENOTDIR
	}
	return n, err
}

// findSlot gives the place of a name, and what is there; nil if nothing.
func (f *FS) findSlot(name string) (slot, *inode, error) {
	name = filepath.Clean(name)
	dir, err := f.findDir(filepath.Dir(name))
	if err != nil {
		return slot{}, nil, err
	}
	base := filepath.Base(name)
	switch {
	case base == "/":
		return slot{}, nil, syscall.EBUSY
	case len(base) > nameMax:
		return slot{}, nil, syscall.ENAMETOOLONG
	}
	return slot{dir, base}, dir.names[base].node, nil
}

// Link implements vfs.FS.
func (f *FS) Link(from, to string) error {
	return f.do2(Link, from, to, func() error {
		n, err := f.find(from)
		if err != nil {
			return err
		}
		at, there, err := f.findSlot(to)
		switch {
		case err != nil:
			return err
		case there != nil:
			return syscall.EEXIST
		case n.isDir():
			return syscall.EPERM
		}
		f.add(at, n)
		return nil
	})
}

// Rename implements vfs.FS.
func (f *FS) Rename(from, to string) error {
	return f.do2(Rename, from, to, func() error { return f.rename(from, to) })
}

func (f *FS) rename(from, to string) error {
	src, n, err := f.findSlot(from)
	if err != nil {
		return err
	}
	dst, there, err := f.findSlot(to)
	if err != nil {
		return err
	}
	if n == nil {
		return syscall.ENOENT
	}
	if n == there { // rename(2): two names of one file stay as they are
		return nil
	}
	if err := mayReplace(n, there, dst.dir); err != nil {
		return err
	}
	if there != nil {
		f.unlink(there, dst.dir)
	}
	if n.isDir() {
		src.dir.links--
		dst.dir.links++
		n.parent = dst.dir
	}
	f.change(n.isDir(), set{slot: src}, set{dst, entry{node: n}})
	return nil
}

func mayReplace(n, there, dir *inode) error {
	switch {
	case n.isDir() && dir.within(n):
		return syscall.EINVAL
	case there == nil:
		return nil
	case there.isDir() && len(there.names) > 0:
		if !n.isDir() {
			return syscall.EISDIR
		}
		return syscall.ENOTEMPTY
	case n.isDir() && !there.isDir():
		return syscall.ENOTDIR
	case !n.isDir() && there.isDir():
		return syscall.EISDIR
	}
	return nil
}

// unlink takes a name's part in the count of links.
func (f *FS) unlink(n, dir *inode) {
	n.links--
	if n.isDir() {
		n.links--
		dir.links--
	}
}

// Remove implements vfs.FS.
func (f *FS) Remove(name string) error {
	return f.do(Remove, name, func() error {
		at, n, err := f.findSlot(name)
		switch {
		case err != nil:
			return err
		case n == nil:
			return syscall.ENOENT
		case len(n.names) > 0:
			return syscall.ENOTEMPTY
		}
		f.unlink(n, at.dir)
		f.change(false, set{slot: at})
		return nil
	})
}

// RemoveAll implements vfs.FS. Others can come between its steps.
func (f *FS) RemoveAll(name string) error {
	for {
		err := f.Remove(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case !errors.Is(err, syscall.ENOTEMPTY):
			return err
		}
		err = f.ReadDir(name, func(e fs.DirEntry) error {
			return f.RemoveAll(filepath.Join(name, e.Name()))
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

// Mkdir implements vfs.FS.
func (f *FS) Mkdir(name string, perm fs.FileMode) error {
	return f.do(Mkdir, name, func() error {
		at, there, err := f.findSlot(name)
		if err != nil && !errors.Is(err, syscall.EBUSY) {
			return err
		}
		if err != nil || there != nil {
			return syscall.EEXIST
		}
		n := f.newInode(fs.ModeDir | perm.Perm()&^umask)
		n.parent, n.links = at.dir, 1
		at.dir.links++
		f.add(at, n)
		return nil
	})
}

// Lstat implements vfs.FS.
func (f *FS) Lstat(name string) (fs.FileInfo, error) {
	var i *info
	err := f.do(Lstat, name, func() error {
		n, err := f.find(name)
		if err == nil {
			i = n.info(filepath.Base(name))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return i, nil
}

// SetModTime implements vfs.FS.
func (f *FS) SetModTime(name string, t time.Time) error {
	return f.do(SetModTime, name, func() error {
		n, err := f.find(name)
		if err == nil {
			f.setModTime(n, t)
		}
		return err
	})
}

func (f *FS) setModTime(n *inode, t time.Time) {
	n.attr.modTime = time.Unix(0, t.UnixNano())
	f.dirty[n] = struct{}{}
}

// SyncDir implements vfs.FS.
func (f *FS) SyncDir(name string) error {
	return f.do(SyncDir, name, func() error {
		dir, err := f.findDir(name)
		if err == nil {
			f.syncDir(dir)
		}
		return err
	})
}
