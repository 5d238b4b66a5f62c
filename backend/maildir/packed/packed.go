// Package packed writes and reads the fields of derived files: varints (encoding/binary)
// and texts behind their lengths. It knows no formats: who writes a file gives it a
// version and a checksum. A Reader never panics, and takes no more memory than what it reads
// has bytes; that a field is not there shows in Failed, at the end.
package packed

import (
	"encoding/binary"
	"time"
)

// Writer appends fields to Bytes. The zero value is empty.
type Writer struct{ Bytes []byte }

// Uint appends a number that is not negative.
func (w *Writer) Uint(n uint64) { w.Bytes = binary.AppendUvarint(w.Bytes, n) }

// Int appends a number.
func (w *Writer) Int(n int64) { w.Bytes = binary.AppendVarint(w.Bytes, n) }

// Bool appends a truth.
func (w *Writer) Bool(is bool) {
	n := uint64(0)
	if is {
		n = 1
	}
	w.Uint(n)
}

// Text appends a text.
func (w *Writer) Text(s string) {
	w.Uint(uint64(len(s)))
	w.Bytes = append(w.Bytes, s...)
}

// Texts appends several.
func (w *Writer) Texts(all []string) {
	w.Uint(uint64(len(all)))
	for _, s := range all {
		w.Text(s)
	}
}

// Time appends a time, in nanoseconds.
func (w *Writer) Time(t time.Time) {
	w.Int(t.Unix())
	w.Int(int64(t.Nanosecond()))
}

// Reader takes fields from the front of Rest.
type Reader struct {
	Rest string
	// Failed: a field was asked for that is not there. All that follow are zero.
	Failed bool
}

func (r *Reader) fail() { r.Failed, r.Rest = true, "" }

// Uint takes what Writer.Uint wrote.
func (r *Reader) Uint() (n uint64) {
	for i := 0; i < binary.MaxVarintLen64 && i < len(r.Rest); i++ {
		c := r.Rest[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			r.Rest = r.Rest[i+1:]
			return n
		}
	}
	r.fail()
	return 0
}

// Int takes what Writer.Int wrote.
func (r *Reader) Int() int64 {
	n := r.Uint()
	return int64(n>>1) ^ -int64(n&1)
}

// Bool takes what Writer.Bool wrote.
func (r *Reader) Bool() bool { return r.Uint() != 0 }

// Len is Uint for a number of things that follow, each of a byte at least.
func (r *Reader) Len() int {
	n := r.Uint()
	if n > uint64(len(r.Rest)) {
		r.fail()
		return 0
	}
	return int(n)
}

// Text takes what Writer.Text wrote. It is a part of Rest.
func (r *Reader) Text() string {
	n := r.Len()
	s := r.Rest[:n]
	r.Rest = r.Rest[n:]
	return s
}

// Texts takes what Writer.Texts wrote.
func (r *Reader) Texts() (all []string) {
	for range r.Len() {
		all = append(all, r.Text())
	}
	return all
}

// Time takes what Writer.Time wrote.
func (r *Reader) Time() time.Time {
	sec, nano := r.Int(), r.Int()
	return time.Unix(sec, nano)
}

// Uint16, Uint32 and Uint64 are the numbers, little endian, at the front of a text that is long enough.
func Uint16(s string) uint16 { return uint16(s[0]) | uint16(s[1])<<8 }

// Uint32 is like Uint16.
func Uint32(s string) uint32 {
	_ = s[3]
	return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
}

// Uint64 is like Uint16.
func Uint64(s string) uint64 {
	_ = s[7]
	return uint64(Uint32(s)) | uint64(Uint32(s[4:]))<<32
}
