package index

import (
	"errors"
	"io"
	"unsafe"
)

const (
	// windowSize is read when the next record is near the last ones, strayRead
	// when it is not; longWindow, when runBefore windows have followed one another.
	windowSize = 16 << 10
	longWindow = 64 << 10
	runBefore  = 4
	strayRead  = 4 << 10
	nearby     = 64 << 10
)

// window is a part of the file in memory. Records never change once they are
// written, and it ends where they ended when it was read.
type window struct {
	buf  []byte
	from int64
	// run is how many windows have followed one another.
	run int
	// checked is the place of the last record in buf whose checksum was compared.
	checked int64
	// behind is the place behind the record that was found last; 0: not known.
	behind int64
}

// Room is where a string is put that is good until the next one is put there: who reads a
// folder, and writes what it reads at once, makes no garbage. The zero value is ready.
type Room struct{ bytes []byte }

// roomBytes is what a Room keeps at most.
const roomBytes = 16 << 10

func (r *Room) put(b []byte) string {
	switch {
	case len(b) == 0:
		return ""
	case len(b) > roomBytes:
		return string(b)
	case len(b) > cap(r.bytes):
		r.bytes = make([]byte, 0, min(roomBytes, 2*len(b)))
	}
	r.bytes = append(r.bytes[:0], b...)
	return unsafe.String(&r.bytes[0], len(b))
}

// following gives the record behind the one that was found last if it is in the window and
// of this base name; else nil. Who reads a folder asks in the order of the records, mostly, and
// is spared the table. That the record is one that another has replaced is no matter: both are
// of the same bytes.
func (x *Index) following(base string) []byte {
	w := &x.window
	at := w.behind
	off := at - w.from
	if at == 0 || off < 0 || off+int64(recordHead+len(base)) > int64(len(w.buf)) {
		return nil
	}
	head := w.buf[off:]
	if int(head[9]) != len(base) || string(head[recordHead:recordHead+len(base)]) != base {
		return nil
	}
	record, err := x.record(at)
	if err != nil {
		return nil
	}
	w.behind = at + int64(padded(len(record)))
	return record
}

// record gives the valid message record at a place, until the next read; errRecord
// if there is none.
func (x *Index) record(at int64) ([]byte, error) {
	head, err := x.bytes(at, recordHead)
	if err != nil {
		return nil, err
	}
	n := sizeOf(head)
	if n < recordHead || n > maxRecord || head[8] != kindMessage {
		return nil, errRecord
	}
	record, err := x.bytes(at, int(n))
	if err != nil {
		return nil, err
	}
	if x.window.checked == at {
		return record, nil
	}
	if !x.ident.valid(record) {
		return nil, errRecord
	}
	if n <= windowSize {
		x.window.checked = at
	}
	return record, nil
}

// bytes gives n bytes of the file.
func (x *Index) bytes(at int64, n int) ([]byte, error) {
	if at+int64(n) > x.end {
		return nil, errRecord
	}
	w := &x.window
	if off := at - w.from; off >= 0 && off+int64(n) <= int64(len(w.buf)) {
		return w.buf[off : off+int64(n)], nil
	}
	if n > windowSize {
		big := make([]byte, n)
		_, err := x.file.ReadAt(big, at)
		return big, ended(err)
	}
	from, size := at, max(n, strayRead)
	if last := w.from + int64(len(w.buf)); len(w.buf) > 0 && at > w.from-nearby && at < last+nearby {
		size = windowSize
		if w.run++; w.run > runBefore && at > w.from {
			size = longWindow
		}
		if at < w.from {
			// Backwards: what is before it comes next.
			from = max(recordsStart, at+strayRead-windowSize)
		}
	} else {
		w.run = 0
	}
	if want := max(size, windowSize); cap(w.buf) != want {
		w.buf = make([]byte, 0, want)
	}
	if from+int64(size) < at+int64(n) {
		from = at
	}
	w.checked = 0
	w.buf, w.from = w.buf[:min(int64(size), x.end-from)], from
	if _, err := x.file.ReadAt(w.buf, from); err != nil {
		w.buf = w.buf[:0]
		return nil, ended(err)
	}
	return w.buf[at-from : at-from+int64(n)], nil
}

// ended makes the end of the file, where there should be a record, a damaged one.
// Other errors of the disk may pass.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return errRecord
	}
	return err
}
