package crashfs

import (
	"io/fs"
	"maps"
	"syscall"
	"time"
)

// device is the number of every crashfs: a machine has one disk.
const device = 0xc4a5

// inode is a file or folder, in both of its states. FS.mu protects it.
type inode struct {
	ino           uint64
	attr, durAttr attr
	links         int
	// linkable: it is a file of Nameless that has had no name yet.
	linkable bool
	locks    map[*file]bool // whether exclusive

	// of a file
	vol, dur content
	writes   []write // what vol has and dur lacks, the oldest first

	// of a folder
	parent         *inode
	names, durable map[string]entry
	changes        int // how many of FS.pending are about this folder's names
}

type attr struct {
	mode    fs.FileMode
	modTime time.Time
}

// entry is what a name stands for. seq tells in which order names were made, so
// that nothing depends on the order of a map.
type entry struct {
	node *inode
	seq  uint64
}

func (n *inode) isDir() bool { return n.attr.mode.IsDir() }

// within tells whether a folder is top or below it.
func (n *inode) within(top *inode) bool {
	for n != top && n != n.parent {
		n = n.parent
	}
	return n == top
}

// settleContents ends the uncertainty about a file's contents: what is on the disk
// now will not change without new writes.
func (n *inode) settleContents(luck odds) {
	for _, w := range n.writes {
		w.applySome(&n.dur, luck)
	}
	n.writes = nil
}

// dropCache shows what the disk has, and what is still to go there.
func (n *inode) dropCache() {
	n.vol = n.dur.share()
	for _, w := range n.writes {
		w.apply(&n.vol)
	}
}

func (n *inode) settleAttr(luck odds) {
	if luck.survives() {
		n.durAttr.mode = n.attr.mode
	}
	if luck.survives() {
		n.durAttr.modTime = n.attr.modTime
	}
}

// forget makes what the disk has the only state of a file or folder; links of a
// file are for the caller to count.
func (n *inode) forget() {
	n.attr = n.durAttr
	n.links, n.linkable, n.changes = 0, false, 0
	if n.isDir() {
		n.names, n.links = maps.Clone(n.durable), 2
		return
	}
	n.vol = n.dur.share()
}

// info is the fs.FileInfo of a moment.
type info struct {
	name string
	attr attr
	stat syscall.Stat_t
}

func (n *inode) info(name string) *info {
	i := &info{name: name, attr: n.attr}
	i.stat = syscall.Stat_t{
		Dev: device, Ino: n.ino, Size: n.vol.size,
		Mtim: syscall.NsecToTimespec(n.attr.modTime.UnixNano()),
	}
	setNumber(&i.stat.Nlink, n.links)
	setNumber(&i.stat.Blksize, pageSize)
	i.stat.Blocks = (n.vol.size + sectorSize - 1) / sectorSize
	i.stat.Mode = uint32(n.attr.mode.Perm()) | syscall.S_IFREG
	if n.isDir() {
		i.stat.Size = pageSize
		i.stat.Mode = uint32(n.attr.mode.Perm()) | syscall.S_IFDIR
	}
	return i
}

// setNumber exists because the widths of Stat_t's fields differ between machines.
func setNumber[T int32 | int64 | uint32 | uint64](field *T, n int) { *field = T(n) }

func (i *info) Name() string       { return i.name }
func (i *info) Size() int64        { return i.stat.Size }
func (i *info) Mode() fs.FileMode  { return i.attr.mode }
func (i *info) ModTime() time.Time { return i.attr.modTime }
func (i *info) IsDir() bool        { return i.attr.mode.IsDir() }
func (i *info) Sys() any           { return &i.stat }
