package manifest

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"waypost/internal/vfs"
)

// Changes is a file system that tells Trackers which names are made, changed and
// removed in their trees. All that writes to users' trees should do so through
// it; what does not is found by the times of folders and files. While nobody follows
// a tree it costs next to nothing.
type Changes struct {
	vfs.FS
	base  string
	count atomic.Int32

	mu sync.RWMutex
	by map[string]*Tracker // by the tree's path below base
}

// NewChanges watches trees at base/x/user.
func NewChanges(fsys vfs.FS, base string) *Changes {
	return &Changes{FS: fsys, base: base + "/", by: make(map[string]*Tracker)}
}

// Follow has a Tracker told of what changes from now on, until Leave. The tree's root
// must be base/x/user; one tree has one Tracker at a time.
func (c *Changes) Follow(t *Tracker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by[strings.TrimPrefix(t.root, c.base)] = t
	c.count.Store(int32(len(c.by)))
}

// Leave ends Follow.
func (c *Changes) Leave(t *Tracker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if key := strings.TrimPrefix(t.root, c.base); c.by[key] == t {
		delete(c.by, key)
	}
	c.count.Store(int32(len(c.by)))
}

// tracker finds who follows the tree that path is in, and where in it that is.
func (c *Changes) tracker(path string) (*Tracker, place) {
	rest, ok := strings.CutPrefix(path, c.base)
	if !ok {
		return nil, place{}
	}
	shard, below, _ := strings.Cut(rest, "/")
	user, rel, ok := strings.Cut(below, "/")
	if !ok {
		return nil, place{}
	}
	c.mu.RLock()
	t := c.by[shard+"/"+user]
	c.mu.RUnlock()
	if t == nil {
		return nil, place{}
	}
	dir, base := "", rel
	if at := strings.LastIndexByte(rel, '/'); at >= 0 {
		dir, base = rel[:at+1], rel[at+1:]
	}
	return t, place{rel: dir, dir: t.path(dir), base: base}
}

// note does op, which changes the names at paths.
func (c *Changes) note(op func() error, paths ...string) error {
	if c.count.Load() == 0 {
		return op()
	}
	var t *Tracker
	var at []place
	for _, path := range paths {
		x, p := c.tracker(filepath.Clean(path))
		switch {
		case x == nil:
		case t == nil || t == x:
			t, at = x, append(at, p)
		default:
			// From one user's tree to another's: two locks at a time could wait for
			// each other.
			defer x.marks.doubt(p.rel)
		}
	}
	if t == nil {
		return op()
	}
	return t.marks.note(at, op)
}

// OpenFile implements vfs.FS.
func (c *Changes) OpenFile(name string, flag int, perm fs.FileMode) (f vfs.File, err error) {
	open := func() (err error) {
		f, err = c.FS.OpenFile(name, flag, perm)
		return err
	}
	if flag&os.O_CREATE == 0 {
		err = open()
	} else {
		err = c.note(open, name)
	}
	return c.named(f, err)
}

// Nameless implements vfs.FS.
func (c *Changes) Nameless(dir string) (vfs.File, error) { return c.named(c.FS.Nameless(dir)) }

// named gives a file whose further names are noted.
func (c *Changes) named(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &changing{f, c}, nil
}

type changing struct {
	vfs.File
	c *Changes
}

// LinkTo implements vfs.File.
func (f *changing) LinkTo(name string) error {
	return f.c.note(func() error { return f.File.LinkTo(name) }, name)
}

// Link implements vfs.FS.
func (c *Changes) Link(from, to string) error {
	return c.note(func() error { return c.FS.Link(from, to) }, to)
}

// Rename implements vfs.FS.
func (c *Changes) Rename(from, to string) error {
	return c.note(func() error { return c.FS.Rename(from, to) }, from, to)
}

// Remove implements vfs.FS.
func (c *Changes) Remove(name string) error {
	return c.note(func() error { return c.FS.Remove(name) }, name)
}

// RemoveAll implements vfs.FS.
func (c *Changes) RemoveAll(name string) error {
	return c.note(func() error { return c.FS.RemoveAll(name) }, name)
}

// Mkdir implements vfs.FS.
func (c *Changes) Mkdir(name string, perm fs.FileMode) error {
	return c.note(func() error { return c.FS.Mkdir(name, perm) }, name)
}

// SetModTime implements vfs.FS.
func (c *Changes) SetModTime(name string, t time.Time) error {
	return c.note(func() error { return c.FS.SetModTime(name, t) }, name)
}
