// Package crashfs is a file system in memory that forgets in a power cut what was
// not flushed: the vfs.FS of tests that pull the plug.
//
// An FS keeps two states of every file and folder, what its processes see and what
// the disk has for certain, and the changes in between. FS.Crash draws from a random
// source which of those changes the disk got after all, and gives the file system
// that the machine finds when it starts again. FS.Kill gives the one that the next
// process finds after kill -9, when the machine itself stays up.
//
// # What a crash may take
//
//   - Contents: each write or truncation since the last Sync or Datasync survives
//     wholly, as a prefix cut at a multiple of 512 bytes, in some of its pages, as
//     mere size (zeros where the file had nothing), or not at all, whatever became
//     of the others. Bytes that a lost write would have replaced stay as they were.
//   - Attributes (mode, modification time): the old or the new ones, until Sync.
//     Datasync leaves them.
//   - Names: each change since SyncDir survives or not. Changes of one name survive
//     in their order; different names are independent, so a Link can be lost and the
//     Remove after it survive. A Rename changes both of its names or neither. To sync
//     one of the two folders of a Rename therefore makes all of it durable. Renames
//     of folders survive in their order, or two of them could make a loop.
//   - A folder that lost its name loses all below. A file whose contents were synced
//     and whose name was not can be gone.
//
// One crash in four loses all unsynced names, one in four none, else each change has
// its own luck. It is the same with contents and attributes; there, each file first
// draws again between all, nothing, and each change for itself.
//
// All methods are safe for concurrent use. The same sequence of calls on an FS of
// the same seed, from one goroutine, has the same results; clocks excepted.
// Permissions are kept but not enforced, the umask is 022, and there are no
// symbolic links.
package crashfs

import (
	"cmp"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"waypost/internal/vfs"
)

// ErrDown is the error of every operation after Crash or Kill: whoever still calls
// is a ghost of the old machine or process.
var ErrDown = errors.New("the file system is down")

// umask is taken from the permissions of what is made, as a usual process does, so
// that code must use Chmod where it means a mode exactly.
const umask = 0o022

// FS is a file system in memory. It begins as an empty root folder.
type FS struct {
	ops  atomic.Int64
	hook atomic.Pointer[func(Op) error]

	// mu protects all below and every inode; it is never held while waiting, nor
	// while code of the caller runs.
	mu       sync.Mutex
	unlocked *sync.Cond // a lock of a file was given back, or the file system is down
	down     bool
	rng      *rand.Rand
	root     *inode
	pending  []change            // of names, the oldest first
	dirty    map[*inode]struct{} // contents or attributes not on the disk
	lastIno  uint64
	lastSeq  uint64
	lost     losses
}

var _ vfs.FS = (*FS)(nil)

// New gives an empty file system. The seed decides the order in which ReadDir
// visits, and what a failed Sync dropped.
func New(seed uint64) *FS {
	f := newFS(rand.New(rand.NewPCG(seed, 0)))
	f.root = f.newInode(fs.ModeDir | 0o755)
	f.root.parent, f.root.links = f.root, 2
	f.root.durAttr = f.root.attr
	return f
}

func newFS(rng *rand.Rand) *FS {
	f := &FS{rng: rng, dirty: map[*inode]struct{}{}}
	f.unlocked = sync.NewCond(&f.mu)
	return f
}

// Fail has before called ahead of every operation, also from several goroutines at
// once; if it returns an error the operation is not done and fails with that error,
// wrapped. A Close is done even so. When a Sync or Datasync fails, some of the
// unsynced contents are dropped for good, as a kernel does: they can be read until
// DropCache, a second Sync succeeds, and a crash loses them. The next SyncAll of each
// file that was open by then fails with the same error; that of FS does not. before may
// call Crash or Kill: the operation then finds the file system down. Nil takes the hook
// away.
func (f *FS) Fail(before func(op Op) error) {
	if before == nil {
		f.hook.Store(nil)
		return
	}
	f.hook.Store(&before)
}

// Ops is how many operations were begun.
func (f *FS) Ops() int64 { return f.ops.Load() }

// begin counts an operation and asks the hook.
func (f *FS) begin(kind Kind, name string) error {
	f.ops.Add(1)
	if hook := f.hook.Load(); hook != nil {
		return (*hook)(Op{kind, name})
	}
	return nil
}

// do runs one operation on a path.
func (f *FS) do(kind Kind, name string, act func() error) error {
	err := f.begin(kind, name)
	if err == nil {
		err = f.locked(act)
	}
	if err != nil {
		return &fs.PathError{Op: string(kind), Path: name, Err: err}
	}
	return nil
}

// do2 runs one operation on two paths.
func (f *FS) do2(kind Kind, from, to string, act func() error) error {
	err := f.begin(kind, to)
	if err == nil {
		err = f.locked(act)
	}
	if err != nil {
		return &os.LinkError{Op: string(kind), Old: from, New: to, Err: err}
	}
	return nil
}

func (f *FS) locked(act func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return ErrDown
	}
	return act()
}

func (f *FS) newInode(mode fs.FileMode) *inode {
	f.lastIno++
	n := &inode{ino: f.lastIno, attr: attr{mode, now()}}
	n.durAttr = n.attr
	if mode.IsDir() {
		n.names, n.durable = map[string]entry{}, map[string]entry{}
	}
	return n
}

// now has no monotonic part: the times of files are compared and kept.
func now() time.Time { return time.Now().Round(0) }

// touch notes that a file or folder changed now.
func (f *FS) touch(n *inode) {
	n.attr.modTime = now()
	f.dirty[n] = struct{}{}
}

func (f *FS) syncInode(n *inode) {
	f.datasync(n)
	n.durAttr = n.attr
	delete(f.dirty, n)
}

func (f *FS) datasync(n *inode) {
	for _, w := range n.writes {
		w.apply(&n.dur)
	}
	n.writes = nil
	if n.attr == n.durAttr {
		delete(f.dirty, n)
	}
}

// drop is what a failed sync does: of the unsynced contents some reach the disk,
// and the rest never will. vfs.File.SyncAll tells others of it.
func (f *FS) drop(n *inode, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return
	}
	if len(n.writes) > 0 {
		f.lost.add(why)
	}
	n.settleContents(drawOdds(f.rng))
}

// inOrder gives the dirty inodes in an order that does not depend on the map's.
func (f *FS) inOrder() []*inode {
	nodes := make([]*inode, 0, len(f.dirty))
	for n := range f.dirty {
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b *inode) int { return cmp.Compare(a.ino, b.ino) })
	return nodes
}
