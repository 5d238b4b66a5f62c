package crashfs

import (
	"math/rand/v2"
	"slices"
)

const (
	// sectorSize is what a disk writes whole or not at all.
	sectorSize = 512
	// pageSize is what the kernel writes back at its own time.
	pageSize = 4096
)

// content is the bytes of a file, in pages that several contents may share until
// one of them writes. The zero content is an empty file.
type content struct {
	pages []*page // nil for zeros; past the end of the slice, too
	size  int64
	owner *owner
}

// page may be written only through the content that has its owner. All bytes past
// the size of the content are zero.
type page struct {
	owner *owner
	b     [pageSize]byte
}

// owner is compared by address, hence not empty.
type owner struct{ _ byte }

// share gives a copy. From now on neither of the two owns the pages they have.
func (c *content) share() content {
	c.owner = nil
	return content{pages: slices.Clone(c.pages), size: c.size}
}

// writable gives page i, owned.
func (c *content) writable(i int64) *page {
	if c.owner == nil {
		c.owner = new(owner)
	}
	if grow := int(i) + 1 - len(c.pages); grow > 0 {
		c.pages = append(c.pages, make([]*page, grow)...)
	}
	p := c.pages[i]
	switch {
	case p == nil:
		p = &page{owner: c.owner}
	case p.owner != c.owner:
		p = &page{owner: c.owner, b: p.b}
	}
	c.pages[i] = p
	return p
}

func (c *content) writeAt(data []byte, off int64) {
	c.size = max(c.size, off+int64(len(data)))
	for len(data) > 0 {
		n := copy(c.writable(off / pageSize).b[off%pageSize:], data)
		data, off = data[n:], off+int64(n)
	}
}

// readAt fills data as far as the file goes.
func (c *content) readAt(data []byte, off int64) int {
	if off >= c.size {
		return 0
	}
	data = data[:min(int64(len(data)), c.size-off)]
	for rest := data; len(rest) > 0; {
		part := rest[:min(int64(len(rest)), pageSize-off%pageSize)]
		if i := off / pageSize; i < int64(len(c.pages)) && c.pages[i] != nil {
			copy(part, c.pages[i].b[off%pageSize:])
		} else {
			clear(part)
		}
		rest, off = rest[len(part):], off+int64(len(part))
	}
	return len(data)
}

func (c *content) truncate(size int64) {
	if keep := (size + pageSize - 1) / pageSize; keep < int64(len(c.pages)) {
		clear(c.pages[keep:])
		c.pages = c.pages[:keep]
	}
	if i := size / pageSize; size < c.size && i < int64(len(c.pages)) && c.pages[i] != nil {
		clear(c.writable(i).b[size%pageSize:])
	}
	c.size = size
}

// write is a change of contents that is not on the disk: data at off, or, if data
// is nil, a truncation to off.
type write struct {
	off  int64
	data []byte
}

func (w write) end() int64 { return w.off + int64(len(w.data)) }

func (w write) apply(c *content) {
	if w.data == nil {
		c.truncate(w.off)
		return
	}
	c.writeAt(w.data, w.off)
}

// applySome puts on the disk what a crash may leave of w.
func (w write) applySome(c *content, luck odds) {
	if luck.survives() {
		w.apply(c)
		return
	}
	if w.data == nil || luck.none() {
		return
	}
	switch luck.rng.IntN(5) {
	case 0: // nothing
	case 1:
		w.applyPrefix(c, luck.rng)
	case 2:
		w.applyPrefix(c, luck.rng)
		w.applySize(c)
	case 3:
		w.applySize(c)
	case 4:
		w.applyPages(c, luck)
		w.applySize(c)
	}
}

// applySize leaves the bytes alone, so that there are zeros where there was nothing.
func (w write) applySize(c *content) { c.size = max(c.size, w.end()) }

func (w write) applyPrefix(c *content, rng *rand.Rand) {
	first, last := w.off/sectorSize+1, (w.end()-1)/sectorSize
	if first > last { // all in one sector
		return
	}
	cut := (first + rng.Int64N(last-first+1)) * sectorSize
	c.writeAt(w.data[:cut-w.off], w.off)
}

func (w write) applyPages(c *content, luck odds) {
	for off := w.off; off < w.end(); {
		next := min((off/pageSize+1)*pageSize, w.end())
		if luck.survives() {
			c.writeAt(w.data[off-w.off:next-w.off], off)
		}
		off = next
	}
}
