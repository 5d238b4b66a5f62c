package archive

import (
	"errors"
	"fmt"
	"io"
	"os"

	"waypost/backend/maildir/lineend"
	"waypost/internal/vfs"
)

// body reads a message with CRLF line ends. It belongs to one goroutine.
type body struct {
	file        vfs.File
	start, end  int64
	quoted      bool
	wire, given int64
	lines       lineend.Reader
}

// newBody takes the file over.
func newBody(file vfs.File, start, end, wire int64, quoted bool) *body {
	b := &body{file: file, start: start, end: end, wire: wire, quoted: quoted}
	b.rewind()
	return b
}

func (b *body) rewind() {
	var src io.Reader = io.NewSectionReader(b.file, b.start, b.end-b.start)
	if b.quoted {
		src = &unquoter{lines: newLines(src)}
	}
	b.given = 0
	b.lines.Reset(src)
}

// WireSize is mailbox.Body's.
func (b *body) WireSize() int64 { return b.wire }

// Read gives WireSize bytes in all, or fails.
func (b *body) Read(p []byte) (int, error) {
	left := b.wire - b.given
	if left <= 0 {
		return 0, io.EOF
	}
	n, err := b.lines.Read(p[:min(int64(len(p)), left)])
	b.given += int64(n)
	if errors.Is(err, io.EOF) && b.given < b.wire {
		err = fmt.Errorf("message in %s: shorter than it was: %w", b.file.Name(), io.ErrUnexpectedEOF)
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
		return b.given, fmt.Errorf("message in %s: seek before the first byte: %w", b.file.Name(), os.ErrInvalid)
	}
	if offset < b.given {
		b.rewind()
	}
	if offset > b.given {
		if _, err := io.CopyN(io.Discard, b, min(offset, b.wire)-b.given); err != nil {
			return b.given, err
		}
	}
	b.given = offset
	return offset, nil
}

// Close is io.Closer's.
func (b *body) Close() error { return b.file.Close() }
