package maildir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/lineend"
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
	b, err := newBody(file, info, m, h.b.a.o.Log)
	return b, h.b.named("open message", err)
}

// newBody takes the file over, of which info tells. It measures one whose name is wrong
// about its size.
func newBody(file vfs.File, info fs.FileInfo, m mailbox.Message, log *slog.Logger) (mailbox.Body, error) {
	b := &body{src: file, wire: m.WireSize, name: file.Name(), closer: func() { _ = file.Close() }} // it was only read
	if info.Size() != m.Size {
		log.Warn("maildir: file name wrong about the size", "file", b.name, "bytes", info.Size(), "claimed", m.Size)
		var count lineend.Counter
		_, err := io.Copy(&count, file)
		if err == nil {
			b.wire = count.Wire
			err = b.rewind()
		}
		if err != nil {
			b.closer()
			return nil, err
		}
	}
	b.lines.Reset(b.src)
	return b, nil
}

func (b *body) WireSize() int64 { return b.wire }

// Read gives WireSize bytes in all, or fails: a file whose name is wrong
// about W= must not run into what the protocol says next.
func (b *body) Read(p []byte) (int, error) {
	left := b.wire - b.given
	if left <= 0 {
		return 0, io.EOF
	}
	n, err := b.lines.Read(p)
	n = int(min(int64(n), left))
	b.given += int64(n)
	if errors.Is(err, io.EOF) && b.given < b.wire {
		err = fmt.Errorf("message %s: shorter than its name says: %w", b.name, io.ErrUnexpectedEOF)
	}
	return n, err
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
