package maildir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/lineend"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
)

// body reads a message with CRLF line ends. It belongs to one goroutine.
type body struct {
	// src is what it is read from, or all if that is nil.
	src   io.ReadSeeker
	all   []byte
	wire  int64
	given int64
	lines lineend.Reader
	// name is the file's, for errors; closer gives back what src is made of.
	name   string
	closer func()
	// wrong is told, once, that wire is not what there is. nil if it was counted.
	wrong func()
}

// Open is mailbox.Folder's. The file is opened under the lock, and read
// outside of it.
func (h *handle) Open(uid mailbox.UID) (mailbox.Body, error) {
	var file vfs.File
	var m mailbox.Message
	err := h.file("open message", uid, func(path string, found *mailbox.Message) (err error) {
		m = *found
		file, err = h.b.a.fs.OpenFile(path, os.O_RDONLY, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, h.b.named("open message", errors.Join(err, file.Close()))
	}
	b, err := h.newBody(file, info, m)
	return b, h.b.named("open message", err)
}

// checked is up to how many bytes a message's size with CRLF is counted before it is told: a
// name may be wrong about it, as one of a Maildir that somebody has converted. What is longer
// would be read twice, and is checked as it is read.
const checked = 64 << 10

var counting = sync.Pool{New: func() any { return new([checked]byte) }}

// newBody takes the file of a message over, of which info tells. Where the message's sizes are
// wrong the body has the right ones, and the folder learns them.
func (h *handle) newBody(file vfs.File, info fs.FileInfo, m mailbox.Message) (mailbox.Body, error) {
	b := &body{src: file, wire: m.WireSize, name: file.Name(), closer: func() { _ = file.Close() }} // it was only read
	wire, known := int64(0), false
	var err error
	switch {
	case info.Size() != m.Size || m.WireSize < m.Size || m.WireSize > 2*m.Size:
		h.b.a.o.Log.Warn("maildir: file name wrong about the size", "file", b.name, "bytes", info.Size(), "claimed", m.Size)
		wire, err = b.measure()
		known = true
	case m.Size <= checked:
		wire, err = countWire(file, int(m.Size))
		known = true
	default:
		b.wrong = func() { h.unmeasured(b, m) }
	}
	if err != nil {
		b.closer()
		return nil, err
	}
	if known && wire != m.WireSize {
		b.wire = wire
		h.learnWire(m, wire)
	}
	b.lines.Reset(b.src)
	return b, nil
}

// countWire reads a small file at once, and not from where its readers are. One that is shorter
// now is what it is.
func countWire(file vfs.File, size int) (int64, error) {
	buf := counting.Get().(*[checked]byte)
	defer counting.Put(buf)
	n, err := file.ReadAt(buf[:size], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("read message: %w", err)
	}
	var count lineend.Counter
	_, _ = count.Write(buf[:n]) // it never fails
	return count.Wire, nil
}

// measure counts what there is, and goes back to its beginning.
func (b *body) measure() (wire int64, err error) {
	var count lineend.Counter
	if _, err := io.Copy(&count, b.src); err != nil {
		return 0, fmt.Errorf("read message: %w", err)
	}
	return count.Wire, b.rewind()
}

// unmeasured is what a body does that found m's size wrong while it was read: whoever opens the
// message next is told the right one.
func (h *handle) unmeasured(b *body, m mailbox.Message) {
	if err := b.rewind(); err == nil {
		if wire, err := b.measure(); err == nil && wire != m.WireSize {
			h.learnWire(m, wire)
		}
	}
}

// learnWire puts a message's right size with CRLF where a later start finds it.
func (h *handle) learnWire(m mailbox.Message, wire int64) {
	a, f := h.b.a, h.f
	a.o.Log.Warn("maildir: file name wrong about the size with CRLF", "root", a.o.Root, "folder", f.name, "file", m.Ref, "bytes", wire, "claimed", m.WireSize)
	err := h.b.do("size of a message", func() error {
		now := f.msgs.Get(m.UID)
		if f.gone || !f.loaded || now == nil || refBase(now.Ref) != refBase(m.Ref) {
			return nil
		}
		e, right := f.msgs.Edit(), *now
		right.WireSize = wire
		f.replace(e, now, right)
		f.msgs = e.Done()
		f.fields[m.UID] = withField(uidlist.Entry{Fields: f.fields[m.UID]}, 'W', wire)
		f.measured = true
		return nil
	})
	if err != nil {
		a.o.Log.Warn("maildir: right size not kept", "root", a.o.Root, "folder", f.name, "file", m.Ref, "error", err)
	}
}

func (b *body) WireSize() int64 { return b.wire }

// Read gives WireSize bytes in all, or fails before the last of them: a file whose name is
// wrong about W= must not run into what the protocol says next, nor end before its end.
func (b *body) Read(p []byte) (int, error) {
	left := b.wire - b.given
	if left <= 0 {
		return 0, io.EOF
	}
	n, err := b.lines.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		return 0, b.mistaken("shorter")
	case int64(n) > left, int64(n) == left && b.wrong != nil && b.more():
		return 0, b.mistaken("longer")
	}
	b.given += int64(n)
	return n, err
}

// more tells whether there is anything behind what was read.
func (b *body) more() bool {
	var next [1]byte
	n, _ := b.lines.Read(next[:])
	return n > 0
}

func (b *body) mistaken(how string) error {
	if b.wrong != nil {
		given := b.given
		b.wrong()
		b.wrong, b.given, b.wire = nil, given, given // nothing more is read of it
	}
	return fmt.Errorf("message %s: %s than its name says: %w", b.name, how, io.ErrUnexpectedEOF)
}

// Seek is io.Seeker's, in bytes as Read gives them.
func (b *body) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.given
	case io.SeekEnd:
		offset += b.wire
	}
	if offset < 0 {
		return b.given, fmt.Errorf("message %s: seek before the first byte: %w", b.name, os.ErrInvalid)
	}
	if offset < b.given {
		if err := b.rewind(); err != nil {
			return 0, err
		}
	}
	if offset > b.given {
		if _, err := io.CopyN(io.Discard, b, min(offset, b.wire)-b.given); err != nil {
			return b.given, err
		}
	}
	b.given = offset
	return offset, nil
}

func (b *body) rewind() error {
	b.given = 0
	if b.src == nil {
		b.lines.ResetBytes(b.all)
		return nil
	}
	if _, err := b.src.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("rewind message: %w", err)
	}
	b.lines.Reset(b.src)
	return nil
}

func (b *body) Close() error {
	b.closer()
	return nil
}
