package maildir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"waypost/backend/journal"
	"waypost/backend/mailbox"
	"waypost/backend/maildir/lineend"
	"waypost/internal/vfs"
)

// stagedPrefix begins the names of staged messages.
const stagedPrefix = "staged-"

const (
	// stageBuffer is what one message in transit is read into.
	stageBuffer = 32 << 10
	// maxInline is the length up to which a message goes through the journal;
	// longer ones are synced themselves.
	maxInline = 1 << 20
	// maxStagedMemory bounds all messages held in memory. Beyond it messages go
	// the way of long ones from stageBuffer bytes on.
	maxStagedMemory = 128 << 20
)

// Stager takes messages in. One process has one for its incoming folder, which
// is on the file system of the mailboxes. It is safe for concurrent use.
type Stager struct {
	fs      vfs.FS
	journal *journal.Journal
	dir     string
	inline  int64 // maxInline
	count   atomic.Uint64
	held    atomic.Int64 // bytes in memory
	buffers sync.Pool
}

// NewStager takes over dir, which must exist, and removes what a crash left;
// so the journal must have been replayed and started.
func NewStager(fsys vfs.FS, j *journal.Journal, dir string) (*Stager, error) {
	err := fsys.ReadDir(dir, func(e fs.DirEntry) error {
		if !strings.HasPrefix(e.Name(), stagedPrefix) {
			return nil
		}
		return fsys.Remove(filepath.Join(dir, e.Name()))
	})
	if err != nil {
		return nil, fmt.Errorf("incoming folder: %w", err)
	}
	s := &Stager{fs: fsys, journal: j, dir: dir, inline: maxInline}
	s.buffers.New = func() any {
		return &stageBuffers{in: make([]byte, stageBuffer)}
	}
	return s, nil
}

// stageBuffers are kept from one message to the next; out holds the message.
type stageBuffers struct {
	in    []byte
	short lineend.Shortener
	out   bytes.Buffer
}

// keptBuffer is the size of buffers that are kept.
const keptBuffer = 256 << 10

// Stage takes a message in as mailbox.Store says.
func (s *Stager) Stage(ctx context.Context, header string, r io.Reader, max int64) (mailbox.Staged, error) {
	buf := s.buffers.Get().(*stageBuffers)
	m := &staged{s: s, buf: buf, refs: 1}
	err := m.fill(ctx, header, r, max)
	if err == nil {
		err = m.finish()
	}
	if err != nil {
		m.Discard()
		return nil, fmt.Errorf("stage message: %w", outOfSpace(err))
	}
	return m, nil
}

// staged is a message that has no place yet. Its bytes are in file, which has
// no name, or path; and in buf too unless it is long.
type staged struct {
	s          *Stager
	size, wire int64
	file       vfs.File
	path       string

	mu   sync.Mutex
	refs int
	buf  *stageBuffers
	held int64
	// body is the record with the bytes, last the latest that refers to path.
	body  *journal.Ticket
	unpin func()
	last  journal.LSN
	// at is the modification time of file, which all its names share; named says
	// that it has one in a mailbox.
	at    time.Time
	named bool
}

func (m *staged) fill(ctx context.Context, header string, r io.Reader, max int64) error {
	var count lineend.Counter
	out := io.MultiWriter(m, &count)
	short := &m.buf.short
	short.Reset(out)
	if _, err := out.Write(append(m.buf.in[:0], header...)); err != nil {
		return err
	}
	for {
		n, readErr := r.Read(m.buf.in)
		if _, err := short.Write(m.buf.in[:n]); err != nil {
			return err
		}
		if max > 0 && count.Size > max {
			return mailbox.ErrTooLarge
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
		if readErr != nil {
			return readErr
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	err := short.Close()
	if err == nil && max > 0 && count.Size > max {
		err = mailbox.ErrTooLarge
	}
	m.size, m.wire = count.Size, count.Wire
	return err
}

// Write takes the message's bytes as they go to the disk: into memory as long
// as they are few, and there is some.
func (m *staged) Write(p []byte) (int, error) {
	n := int64(len(p))
	if m.file == nil {
		limit := m.s.inline
		if m.s.held.Load() > maxStagedMemory {
			limit = stageBuffer
		}
		if int64(m.buf.out.Len())+n <= limit {
			m.held += n
			m.s.held.Add(n)
			return m.buf.out.Write(p)
		}
		if err := m.open(); err != nil {
			return 0, err
		}
		m.forgetBytes()
	}
	return m.file.Write(p)
}

// open makes the file and writes into it what is in memory.
func (m *staged) open() (err error) {
	if m.file, err = m.s.fs.Nameless(m.s.dir); err != nil {
		return err
	}
	_, err = m.file.Write(m.buf.out.Bytes())
	return err
}

func (m *staged) forgetBytes() {
	m.buf.out.Reset()
	m.s.held.Add(-m.held)
	m.held = 0
}

// finish makes sure of a file, and of a long message that it is durable.
func (m *staged) finish() error {
	if m.file == nil {
		if err := m.open(); err != nil {
			return err
		}
		return m.dated()
	}
	if err := m.dated(); err != nil {
		return err
	}
	path := filepath.Join(m.s.dir, stagedPrefix+strconv.FormatUint(m.s.count.Add(1), 16)+"-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	if err := m.file.Sync(); err != nil {
		return err
	}
	if err := m.file.LinkTo(path); err != nil {
		return err
	}
	m.path = path
	return m.s.fs.SyncDir(m.s.dir)
}

// dated asks the file for its time.
func (m *staged) dated() error {
	info, err := m.file.Stat()
	if err == nil {
		m.at = info.ModTime()
	}
	return err
}

func (m *staged) Size() int64     { return m.size }
func (m *staged) WireSize() int64 { return m.wire }

// Open is mailbox.Staged's.
func (m *staged) Open() (mailbox.Body, error) {
	if err := m.hold(); err != nil {
		return nil, err
	}
	b := &body{wire: m.wire, name: "being delivered", closer: m.Discard}
	if m.path == "" { // it is in memory as well
		b.all = m.buf.out.Bytes()
		b.lines.ResetBytes(b.all)
	} else {
		b.src = io.NewSectionReader(m.file, 0, m.size)
		b.lines.Reset(b.src)
	}
	return b, nil
}

// hold takes another reference: fs.ErrClosed once all were given back.
func (m *staged) hold() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refs == 0 {
		return fmt.Errorf("message discarded before: %w", fs.ErrClosed)
	}
	m.refs++
	return nil
}

// Discard gives one reference back; with the last one everything goes.
func (m *staged) Discard() {
	m.mu.Lock()
	m.refs--
	rest := m.refs
	m.mu.Unlock()
	if rest != 0 {
		return
	}
	if m.unpin != nil {
		m.unpin()
	}
	if m.file != nil {
		_ = m.file.Close() // its bytes are in the journal, or synced
	}
	if m.path != "" {
		remove := func() { _ = m.s.fs.Remove(m.path) } // else it goes at the next start
		if m.last != 0 {
			m.s.journal.AfterCheckpoint(m.last, remove)
		} else {
			remove()
		}
	}
	m.s.held.Add(-m.held)
	// A buffer that the journal may still read is not used again.
	if (m.body == nil || m.body.Durable()) && m.buf.out.Cap() <= keptBuffer {
		m.buf.out.Reset()
		m.s.buffers.Put(m.buf)
	}
}

// ref makes sure that the journal has the bytes, and says where. The caller holds
// the message.
func (m *staged) ref() bodyRef {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.path != "" {
		return bodyRef{file: filepath.Base(m.path), size: m.size}
	}
	if m.body == nil {
		m.body = m.s.journal.Append("", 0, nil, m.buf.out.Bytes())
		m.unpin = m.s.journal.Pin(m.body.LSN())
		m.body.Applied()
	}
	return bodyRef{lsn: m.body.LSN(), size: m.size}
}

// referred notes the record that refers to the bytes.
func (m *staged) referred(lsn journal.LSN) {
	m.mu.Lock()
	m.last = max(m.last, lsn)
	m.mu.Unlock()
}

// arrived is when the message was taken in: the date of who names no other.
func (m *staged) arrived() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at
}

// linkTo gives the message a name, with that modification time. It is a copy if
// there are names with another one.
func (m *staged) linkTo(path string, date time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.at.Equal(date) {
		if m.named {
			return m.copyTo(path, date)
		}
		if err := m.file.SetModTime(date); err != nil {
			return err
		}
		m.at = date
	}
	if err := m.file.LinkTo(path); err != nil {
		return err
	}
	m.named = true
	return nil
}

// copyTo writes the message again, for a time of its own.
func (m *staged) copyTo(path string, date time.Time) error {
	f, err := m.s.fs.Nameless(m.s.dir)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, io.NewSectionReader(m.file, 0, m.size))
	if err == nil {
		err = f.SetModTime(date)
	}
	if err == nil && m.path != "" {
		err = f.Sync()
	}
	if err == nil {
		err = f.LinkTo(path)
	}
	return errors.Join(err, f.Close())
}

// own takes only messages that a Stager has made.
func own(m mailbox.Staged) (*staged, error) {
	s, ok := m.(*staged)
	if !ok {
		return nil, fmt.Errorf("message of another store: %w", fs.ErrInvalid)
	}
	return s, nil
}
