package deflate

import (
	"compress/flate"
	"io"
	"sync"
)

// PieceBytes is how much Append is best given at once: the window of RFC 1951.
const PieceBytes = 32 << 10

// Deflater compresses for any number of streams. The zero value is ready; it is safe
// for concurrent use.
type Deflater struct {
	writers sync.Pool // of *writer
}

type writer struct {
	flate *flate.Writer
	out   []byte
}

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	w.out = append(w.out, p...)
	return len(p), nil
}

// Append appends src, compressed, to dst. What comes out ends at a byte, with an
// empty stored block, so that the receiver can give all of src on (RFC 4978,
// Section 4), and it refers to nothing before src: outputs one after the other are
// one deflate stream, however many compressors they come from.
func (d *Deflater) Append(dst, src []byte) []byte {
	w, ok := d.writers.Get().(*writer)
	if !ok {
		w = new(writer)
		// The only error is of a level that does not exist.
		w.flate, _ = flate.NewWriter(io.Discard, flate.BestSpeed)
	}
	w.out = dst
	w.flate.Reset(w)
	// A writer fails only when what it writes to does.
	_, _ = w.flate.Write(src)
	_ = w.flate.Flush()
	dst, w.out = w.out, nil
	d.writers.Put(w)
	return dst
}
