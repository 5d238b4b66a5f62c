package index

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"sync"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

const (
	// wholeBytes is up to where a message is kept in memory while it is read: most are.
	wholeBytes = 64 << 10
	// lineBytes is what package mime reads ahead: given a reader of that, it makes none.
	lineBytes = 16 << 10
	// textBytes is the longest line of text that a preview takes for one.
	textBytes = 4 << 10
)

// Scratch is memory that Reads use one after the other. The zero value is ready, and safe for
// concurrent use.
type Scratch struct{ pool sync.Pool }

// scratch is one Read's.
type scratch struct {
	whole  [wholeBytes]byte
	memory bytes.Reader
	lines  *bufio.Reader
	// text is a preview's decoded text.
	text *bufio.Reader
}

// Read reads a message, which has CRLF line ends, and gives what an index keeps of
// it. One of up to 64 KiB it reads once; a longer one once and its header twice, then the
// beginning of the part that is previewed again, in bounded memory. Only errors of r come back.
func (s *Scratch) Read(r io.ReadSeeker, arrived time.Time) (*mailbox.Meta, error) {
	m, ok := s.pool.Get().(*scratch)
	if !ok {
		m = &scratch{lines: bufio.NewReaderSize(nil, lineBytes), text: bufio.NewReaderSize(nil, textBytes)}
	}
	defer func() {
		m.memory.Reset(nil)
		m.lines.Reset(nil)
		m.text.Reset(nil)
		s.pool.Put(m)
	}()
	return m.read(r, arrived)
}

// Read is that of a Scratch, for one message.
func Read(r io.ReadSeeker, arrived time.Time) (*mailbox.Meta, error) {
	return new(Scratch).Read(r, arrived)
}

func (m *scratch) read(r io.ReadSeeker, arrived time.Time) (*mailbox.Meta, error) {
	r, err := m.load(r)
	if err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	m.lines.Reset(r)
	fields, err := headerOf(m.lines)
	if err != nil {
		return nil, fmt.Errorf("read message's header: %w", err)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read message's structure: %w", err)
	}
	m.lines.Reset(r)
	root, err := mime.Scan(m.lines)
	if err != nil {
		return nil, fmt.Errorf("read message's structure: %w", err)
	}
	text, err := m.preview(r, root)
	if err != nil {
		return nil, fmt.Errorf("read message's text: %w", err)
	}
	return &mailbox.Meta{
		Arrived: arrived, Root: root, Fields: fields, Preview: text, Attachment: hasAttachment(root),
	}, nil
}

// load gives the message at its first byte, in memory if there is room.
func (m *scratch) load(r io.ReadSeeker) (io.ReadSeeker, error) {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	for n := 0; n < len(m.whole); {
		k, err := r.Read(m.whole[n:])
		n += k
		if err == io.EOF {
			m.memory.Reset(m.whole[:n])
			return &m.memory, nil
		}
		if err != nil {
			return nil, err
		}
	}
	_, err := r.Seek(0, io.SeekStart)
	return r, err
}

func headerOf(r io.Reader) ([]mime.Field, error) {
	keep := func(name []byte) bool { _, ok := keptPlace[string(name)]; return ok }
	return mime.RawFields(r, keep, mime.FieldLimits{Field: maxFieldBytes, All: maxHeaderBytes, Count: maxFields})
}
