package maildir

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/lineend"
)

// body reads a message file with CRLF line ends. It belongs to one goroutine.
type body struct {
	file  *os.File
	wire  int64
	given int64
	lines lineend.Reader
	log   *slog.Logger
}

// Open is mailbox.Folder's. The file is opened under the lock, and read
// outside of it.
func (h *handle) Open(uid mailbox.UID) (mailbox.Body, error) {
	var b *body
	var size int64
	err := h.file("open message", uid, func(path string, m *message) error {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		b, size = &body{file: file, wire: m.wire, log: h.b.a.o.Log}, m.size
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := b.check(size); err != nil {
		return nil, h.b.named("open message", errors.Join(err, b.Close()))
	}
	return b, nil
}

// check measures the file if its name is wrong about its size.
func (b *body) check(size int64) error {
	info, err := b.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() != size {
		b.log.Warn("maildir: file name wrong about the size", "file", b.file.Name(), "bytes", info.Size(), "claimed", size)
		var count lineend.Counter
		if _, err := io.Copy(&count, b.file); err != nil {
			return err
		}
		b.wire = count.Wire
	}
	return b.Rewind()
}

func (b *body) WireSize() int64 { return b.wire }

// Read gives WireSize bytes in all, or fails: a file whose name is wrong
// about W= must not run into what the protocol says next.
func (b *body) Read(p []byte) (int, error) {
	left := b.wire - b.given
	if left == 0 {
		return 0, io.EOF
	}
	n, err := b.lines.Read(p[:min(int64(len(p)), left)])
	b.given += int64(n)
	if errors.Is(err, io.EOF) && b.given < b.wire {
		err = fmt.Errorf("message %s: shorter than its name says: %w", b.file.Name(), io.ErrUnexpectedEOF)
	}
	return n, err
}

func (b *body) Rewind() error {
	if _, err := b.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("rewind message: %w", err)
	}
	b.lines.Reset(b.file)
	b.given = 0
	return nil
}

func (b *body) Close() error { return b.file.Close() }
