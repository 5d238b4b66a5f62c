package index

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"waypost/internal/vfs"
)

// newName is what a compacted file is called until it takes the index's place.
const newName = fileName + ".new"

// Compact writes the file anew with the records that live keeps, in their old
// order and with a table of contents, and puts it in the place of the old one. Get
// and Put go on meanwhile, but for the end of it; live is called without a lock of
// the index. After an error the index is as it was.
func (x *Index) Compact(live func(base string) bool) error {
	x.compacting.Lock()
	defer x.compacting.Unlock()
	x.mu.Lock()
	if err := x.ready(); err != nil || !x.begun {
		x.mu.Unlock()
		return err
	}
	c := compaction{x: x, live: live, from: x.ident, places: x.table.places()}
	src := scanner{src: x.file, size: x.end}
	x.mu.Unlock()

	err := c.run(src)
	if err != nil {
		return fmt.Errorf("compact index %s: %w", x.path(), err)
	}
	return nil
}

// places are those of all records, rising, in units of 8 bytes.
func (t *table) places() []uint32 {
	all := make([]uint32, 0, t.live)
	for _, s := range t.slots {
		if s.place > gone {
			all = append(all, s.place)
		}
	}
	slices.Sort(all)
	return all
}

// compaction copies records from one file to another. places[:len(moved)] are
// those done; moved tells what became of them, free meaning not copied.
type compaction struct {
	x      *Index
	live   func(string) bool
	from   identity
	places []uint32
	moved  []slot
	to     vfs.File
	ident  identity
	end    int64  // of the new file
	buf    []byte // not written yet
}

func (c *compaction) run(src scanner) error {
	x := c.x
	path := filepath.Join(x.dir, newName)
	f, err := x.fsys.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	c.to, c.end = f, recordsStart
	if c.ident, err = beginFile(f, x.id); err == nil {
		err = c.copy(&src)
	}
	if err == nil {
		x.mu.Lock()
		err = c.finish(path)
		x.mu.Unlock()
	}
	if err != nil {
		err = errors.Join(err, f.Close(), x.fsys.Remove(path))
	}
	return err
}

// copy copies the records at places that have not been done.
func (c *compaction) copy(src *scanner) error {
	for _, place := range c.places[len(c.moved):] {
		src.at = int64(place) * 8
		record, err := c.take(src)
		if err != nil && !errors.Is(err, errRecord) {
			return err
		}
		if err != nil || !c.live(string(keyOf(record))) {
			c.moved = append(c.moved, slot{})
			continue
		}
		at := c.end + int64(len(c.buf))
		c.moved = append(c.moved, slot{c.ident.hash(string(keyOf(record))), uint32(at / 8)})
		start := len(c.buf)
		c.buf = append(c.buf, record...)
		sealed := c.ident.endRecord(c.buf[start:])
		c.buf = append(c.buf[:start], sealed...)
		if len(c.buf) >= scanBuffer {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	return c.flush()
}

// take gives the record at src's place.
func (c *compaction) take(src *scanner) ([]byte, error) {
	head, err := src.bytes(recordHead)
	if err != nil {
		return nil, err
	}
	n := sizeOf(head)
	if n < recordHead || n > maxRecord || head[8] != kindMessage {
		return nil, errRecord
	}
	record, err := src.bytes(int(n))
	if err == nil && !c.from.valid(record) {
		err = errRecord
	}
	return record, err
}

func (c *compaction) flush() error {
	_, err := c.to.WriteAt(c.buf, c.end)
	c.end += int64(len(c.buf))
	c.buf = c.buf[:0]
	return err
}

// finish copies, under the index's lock, what was put in meanwhile, leaves out
// what was forgotten, and changes over.
func (c *compaction) finish(path string) error {
	x := c.x
	now := x.table.places()
	if n := len(c.places); n > 0 {
		late, _ := slices.BinarySearch(now, c.places[n-1]+1)
		c.places = append(c.places, now[late:]...)
	} else {
		c.places = now
	}
	c.live = func(string) bool { return true }
	if err := c.copy(&scanner{src: x.file, size: x.end}); err != nil {
		return err
	}
	next := Index{
		fsys: x.fsys, dir: x.dir, id: x.id, file: c.to, ident: c.ident,
		end: c.end, table: newTable(len(now)),
	}
	for _, place := range now {
		if i, ok := slices.BinarySearch(c.places, place); ok && c.moved[i].place != free {
			next.table.add(c.moved[i].hash, int64(c.moved[i].place)*8)
		}
	}
	for _, s := range c.moved {
		if s.place != free {
			next.stats.Dead++
		}
	}
	next.stats.Dead -= next.table.live
	if err := next.writeContents(); err != nil {
		return err
	}
	if err := x.fsys.Rename(path, x.path()); err != nil {
		return err
	}
	_ = x.file.Close() // nothing in it is of use any more
	x.file, x.ident, x.table, x.end = next.file, next.ident, next.table, next.end
	x.contents, x.contentsEnd, x.window = next.contents, next.contentsEnd, window{}
	x.stats.Dead = next.stats.Dead
	return nil
}
