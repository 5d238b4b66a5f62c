package link

import (
	"io"
	"sync"

	"waypost/internal/frames"
)

// Buffers are for the Writers of a server's sessions. The zero value is ready, and safe
// for concurrent use.
type Buffers struct{ pool sync.Pool }

func (b *Buffers) get() *[frames.PieceBytes]byte {
	if buf, ok := b.pool.Get().(*[frames.PieceBytes]byte); ok {
		return buf
	}
	return new([frames.PieceBytes]byte)
}

// Writer collects what is written until Flush or until it is a piece, which is what goes
// out at once: an answer of up to that size takes one write. Empty it has no buffer. A
// failed write stays with it: all that follow fail like it.
type Writer struct {
	to      io.Writer
	buffers *Buffers
	buf     *[frames.PieceBytes]byte
	n       int
	err     error
}

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) { return add(w, p) }

// WriteString implements io.StringWriter.
func (w *Writer) WriteString(s string) (int, error) { return add(w, s) }

// WriteByte implements io.ByteWriter.
func (w *Writer) WriteByte(c byte) error {
	_, err := add(w, []byte{c})
	return err
}

func add[T []byte | string](w *Writer, p T) (int, error) {
	done := 0
	for done < len(p) && w.err == nil {
		if w.buf == nil {
			w.buf = w.buffers.get()
		}
		k := copy(w.buf[w.n:], p[done:])
		done += k
		if w.n += k; w.n == len(w.buf) {
			w.send()
		}
	}
	return done, w.err
}

// send sends what there is, and keeps the buffer.
func (w *Writer) send() {
	if w.err == nil && w.n > 0 {
		_, w.err = w.to.Write(w.buf[:w.n])
	}
	w.n = 0
}

// Empty tells whether there is nothing to send.
func (w *Writer) Empty() bool { return w.n == 0 }

// Flush sends what there is, and gives the buffer back.
func (w *Writer) Flush() error {
	if w.buf != nil {
		w.send()
		w.buffers.pool.Put(w.buf)
		w.buf = nil
	}
	return w.err
}
