package memory

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"waypost/backend/mailbox"
)

// staged is a message without a place: its size with LF line ends, and its
// bytes with CRLF.
type staged struct {
	size int64
	wire []byte
}

// Stage implements mailbox.Store; the message is in memory.
func (s *Store) Stage(ctx context.Context, header string, r io.Reader, max int64) (mailbox.Staged, error) {
	src := r
	if max > 0 {
		src = io.LimitReader(r, 2*max+2) // CRLF may be half of it
	}
	raw, err := io.ReadAll(src)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("stage: %w", err)
	}
	data := append([]byte(header), bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n"))...)
	if max > 0 && int64(len(data)) > max {
		return nil, fmt.Errorf("stage %d bytes: %w", len(data), mailbox.ErrTooLarge)
	}
	return &staged{size: int64(len(data)), wire: wire(data)}, nil
}

// Size is the number of bytes with LF.
func (m *staged) Size() int64 { return m.size }

// WireSize is the number of bytes with CRLF.
func (m *staged) WireSize() int64 { return int64(len(m.wire)) }

// Open reads the message, also after Discard.
func (m *staged) Open() (mailbox.Body, error) { return body{bytes.NewReader(m.wire)}, nil }

// Discard has nothing to remove.
func (m *staged) Discard() {}
