package maildir

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/lineend"
)

// stagedPrefix begins the names of staged messages.
const stagedPrefix = "staged-"

// stageBuffer is what one message in transit holds of memory, twice.
const stageBuffer = 32 << 10

// Stager takes messages in. One process has one for its incoming folder, which
// is on the file system of the mailboxes. It is safe for concurrent use.
type Stager struct {
	dir     string
	buffers sync.Pool
}

// NewStager takes over dir, which must exist, and removes what a crash left.
func NewStager(dir string) (*Stager, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("incoming folder: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), stagedPrefix) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return nil, fmt.Errorf("incoming folder: %w", err)
		}
	}
	s := &Stager{dir: dir}
	s.buffers.New = func() any {
		return &stageBuffers{w: bufio.NewWriterSize(nil, stageBuffer), in: make([]byte, stageBuffer)}
	}
	return s, nil
}

type stageBuffers struct {
	w  *bufio.Writer
	in []byte
}

// Stage streams a message to the disk as mailbox.Store says. The file has mode
// 0600 and is synced.
func (s *Stager) Stage(ctx context.Context, header string, r io.Reader, max int64) (mailbox.Staged, error) {
	f, err := os.CreateTemp(s.dir, stagedPrefix+"*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("stage message: %w", outOfSpace(err))
	}
	count, err := s.fill(ctx, f, header, r, max)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("stage message: %w", outOfSpace(err)), os.Remove(f.Name()))
	}
	return &staged{path: f.Name(), size: count.Size, wire: count.Wire}, nil
}

func (s *Stager) fill(ctx context.Context, f *os.File, header string, r io.Reader, max int64) (count lineend.Counter, err error) {
	buf := s.buffers.Get().(*stageBuffers)
	defer func() {
		buf.w.Reset(nil)
		s.buffers.Put(buf)
	}()
	buf.w.Reset(f)
	out := io.MultiWriter(buf.w, &count)
	if _, err := io.WriteString(out, header); err != nil {
		return count, err
	}
	short := &lineend.Shortener{W: out}
	for {
		n, readErr := r.Read(buf.in)
		if _, err := short.Write(buf.in[:n]); err != nil {
			return count, err
		}
		if max > 0 && count.Size > max {
			return count, mailbox.ErrTooLarge
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
		if readErr != nil {
			return count, readErr
		}
		if err := ctx.Err(); err != nil {
			return count, err
		}
	}
	err = errors.Join(short.Close(), buf.w.Flush())
	if err == nil && max > 0 && count.Size > max {
		err = mailbox.ErrTooLarge
	}
	return count, err
}

// staged is a message in the incoming folder.
type staged struct {
	path       string
	size, wire int64
}

func (s *staged) Size() int64     { return s.size }
func (s *staged) WireSize() int64 { return s.wire }

// Discard removes the staging name. One that cannot be removed goes at the
// next start.
func (s *staged) Discard() { _ = os.Remove(s.path) }

// own takes only messages that a Stager has made.
func own(m mailbox.Staged) (*staged, error) {
	s, ok := m.(*staged)
	if !ok {
		return nil, fmt.Errorf("message of another store: %w", fs.ErrInvalid)
	}
	return s, nil
}
