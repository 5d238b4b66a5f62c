package index

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
)

// load reads the file's header and its table of contents, and scans the records
// behind that. What it cannot use, or not read, it leaves out; errors are those of
// opening the file.
func (x *Index) load() error {
	x.table, x.end, x.begun, x.window = newTable(0), 0, false, window{}
	x.contents, x.contentsEnd, x.stats.Dead, x.stats.Reason = contents{}, 0, 0, ""
	f, err := x.fsys.OpenFile(x.path(), os.O_RDWR, 0)
	if notThere(err) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		x.file = f
		err = x.loadFrom(info.Size())
	}
	if err != nil {
		x.file, x.begun = nil, false
		_ = f.Close() // nothing was written
	}
	return err
}

func (x *Index) loadFrom(size int64) error {
	var header [recordsStart]byte
	if _, err := x.file.ReadAt(header[:], 0); err != nil {
		x.stats.Reason = fmt.Sprintf("header: %v", err)
		return nil
	}
	ident, reason := readHeader(header[:], x.id)
	if reason != "" {
		x.stats.Reason = reason
		return nil
	}
	x.ident, x.begun, x.end = ident, true, recordsStart
	size = min(size, maxFile)
	x.loadContents(header[slotsStart:], size)
	err := x.scan(size)
	if x.end < size {
		x.stats.Reason = fmt.Sprintf("byte %d of %d: %v; the rest is not used", x.end, size, err)
		return x.file.Truncate(x.end)
	}
	return nil
}

// loadContents fills the table from the newest table of contents that is whole,
// if there is any, and sets end behind it.
func (x *Index) loadContents(slots []byte, size int64) {
	a, okA := readSlot(slots, x.ident)
	b, okB := readSlot(slots[slotSize:], x.ident)
	if okB && (!okA || b.seq > a.seq) {
		a, b, okA, okB = b, a, okB, okA
	}
	for _, c := range []struct {
		contents
		ok bool
	}{{a, okA}, {b, okB}} {
		if !c.ok {
			continue
		}
		if entries, end, err := x.readContents(int64(c.at), size); err == nil {
			x.fill(entries, int64(c.at))
			x.contents, x.contentsEnd, x.end = c.contents, end, end
			x.stats.Dead = int(c.dead)
			return
		}
	}
}

func (x *Index) readContents(at, size int64) (entries []byte, end int64, err error) {
	var head [recordHead]byte
	if at+recordHead > size {
		return nil, 0, errRecord
	}
	if _, err := x.file.ReadAt(head[:], at); err != nil {
		return nil, 0, err
	}
	n := sizeOf(head[:])
	if n < recordHead || n > size-at || head[8] != kindContents || head[9] != 0 || (n-recordHead)%entrySize != 0 {
		return nil, 0, errRecord
	}
	record := make([]byte, n)
	if _, err := x.file.ReadAt(record, at); err != nil {
		return nil, 0, err
	}
	if !x.ident.valid(record) {
		return nil, 0, errRecord
	}
	return record[recordHead:], at + int64(padded(int(n))), nil
}

// fill makes the table from entries whose records are before the byte limit.
func (x *Index) fill(entries []byte, limit int64) {
	x.table = newTable(len(entries) / entrySize)
	for ; len(entries) > 0; entries = entries[entrySize:] {
		place := int64(binary.LittleEndian.Uint32(entries[4:])) * 8
		if place >= recordsStart && place < limit {
			x.table.add(binary.LittleEndian.Uint32(entries), place)
		}
	}
}

// scan reads the records from end on, up to the first that is damaged or cannot be
// read: the error says which.
func (x *Index) scan(size int64) error {
	s := scanner{src: x.file, at: x.end, size: size}
	defer func() { x.end = s.at }()
	for s.at < size {
		head, err := s.bytes(recordHead)
		if err != nil {
			return err
		}
		n := sizeOf(head)
		if head[8] == kindContents {
			_, end, err := x.readContents(s.at, size)
			if err != nil {
				return err
			}
			s.at = end
			continue
		}
		if head[8] != kindMessage || n < recordHead || n > maxRecord {
			return errRecord
		}
		record, err := s.bytes(int(n))
		if err != nil {
			return err
		}
		if !x.ident.valid(record) || s.at+int64(padded(int(n))) > size {
			return errRecord
		}
		x.scanned(string(keyOf(record)), s.at)
		s.at += int64(padded(int(n)))
	}
	return nil
}

// scanned adds a record that a scan came by; it counts instead of an earlier
// one of the same key.
func (x *Index) scanned(base string, at int64) {
	x.end = at
	if old, _ := x.find(base); old >= 0 {
		x.drop(old)
	}
	x.table.add(x.ident.hash(base), at)
}

// scanner gives a file's bytes one after the other.
type scanner struct {
	src      io.ReaderAt
	at, size int64
	buf      []byte
	from     int64 // where buf begins
}

const scanBuffer = 256 << 10

// bytes gives n bytes at at, valid until the next call; errRecord if there are
// not that many.
func (s *scanner) bytes(n int) ([]byte, error) {
	if s.at+int64(n) > s.size {
		return nil, errRecord
	}
	if off := s.at - s.from; off < 0 || off+int64(n) > int64(len(s.buf)) {
		if cap(s.buf) < n || s.buf == nil {
			s.buf = make([]byte, min(max(scanBuffer, int64(n)), s.size-s.at))
		}
		s.buf, s.from = s.buf[:min(int64(cap(s.buf)), s.size-s.at)], s.at
		if _, err := s.src.ReadAt(s.buf, s.at); err != nil {
			s.buf = s.buf[:0]
			return nil, ended(err)
		}
	}
	off := s.at - s.from
	return s.buf[off : off+int64(n)], nil
}
