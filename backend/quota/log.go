package quota

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"waypost/internal/vfs"
)

const (
	// coalesceBytes is the length no append goes beyond.
	coalesceBytes = 4096

	// maxFileBytes is what is read of a log at most. Foreign appenders without
	// a coalescer make long files; above this it is no quota log.
	maxFileBytes = 1 << 20

	// keepReplaced is how long a replaced file is kept open for late appends,
	// and maxReplaced how many are.
	keepReplaced = time.Minute
	maxReplaced  = 16

	// lookEvery is how often they are looked at.
	lookEvery = time.Second

	// leftoverAge is the age at which a temporary file is a crash's.
	leftoverAge = time.Hour

	tempInfix = ".new."
)

// ErrMissing says that there is no log yet. Recount makes one.
var ErrMissing = fmt.Errorf("no quota log: %w", fs.ErrNotExist)

// Log is one user's quota log. It is safe for concurrent use, holds one file
// descriptor, and for a minute after each coalescing another, 17 at most. Calls wait for
// the lock of the file, which others hold for moments only.
type Log struct {
	fsys      vfs.FS
	path      string
	now       func() time.Time
	lookEvery time.Duration

	// mu guards all below. It is held for whole operations, since the flock
	// belongs to the descriptor and not to the goroutine.
	mu       sync.Mutex
	closed   bool
	limit    Limit // what the next recount writes
	f        vfs.File
	id       fileID // of f
	valid    bool   // the next three are those of f when last looked at
	contents Contents
	size     int64
	modTime  time.Time
	replaced []replacedFile
	looked   time.Time // at those
	// added counts the changes logged here, logged is their sum; recounts counts
	// those begun.
	added, recounts uint64
	logged          Usage
}

// replacedFile is a file this Log has coalesced, which foreign appenders may
// still have open.
type replacedFile struct {
	f     vfs.File
	off   int64 // the end of what is in the new file already
	since time.Time
}

// Open opens the quota log at path. The file may be missing. The limit is what
// a Recount will write; that of an existing file stays until SetLimit.
func Open(fsys vfs.FS, path string, limit Limit) (*Log, error) {
	if err := limit.check(); err != nil {
		return nil, fmt.Errorf("open quota log %s: %w", path, err)
	}
	l := &Log{fsys: fsys, path: path, now: time.Now, lookEvery: lookEvery, limit: limit}
	if err := l.open(false); err != nil && !errors.Is(err, ErrMissing) {
		return nil, fmt.Errorf("open quota log: %w", err)
	}
	return l, nil
}

func (l Limit) check() error {
	if l.Bytes < 0 || l.Messages < 0 {
		return fmt.Errorf("negative limit %d bytes, %d messages", l.Bytes, l.Messages)
	}
	return nil
}

// Add logs a change. After an error nothing was logged, and the caller may try
// again, or recount if it is ErrMissing or ErrCorrupt.
func (l *Log) Add(bytes int64, messages int64) error {
	change := Usage{bytes, messages}
	if change == (Usage{}) {
		return nil
	}
	return l.exclusively("add to", func(info fs.FileInfo) error {
		if err := l.refresh(info); err != nil {
			return err
		}
		l.added++
		if err := l.appendLine(change); err != nil {
			return err
		}
		// It may wrap: only differences count.
		l.logged = Usage{l.logged.Bytes + bytes, l.logged.Messages + messages}
		return nil
	})
}

// Usage is the sum of the log. It costs one stat(2) while nobody else has
// changed the file.
func (l *Log) Usage() (Usage, error) {
	c, err := l.look()
	return c.Usage, err
}

// Limit is the limit in the first line of the file, which another process may
// have set.
func (l *Log) Limit() (Limit, error) {
	c, err := l.look()
	return c.Limit, err
}

// SetLimit replaces the first line. If it fails with ErrMissing or ErrCorrupt
// the limit is remembered for the Recount that is then due.
func (l *Log) SetLimit(limit Limit) error {
	if err := limit.check(); err != nil {
		return fmt.Errorf("set limit of quota log %s: %w", l.path, err)
	}
	l.mu.Lock()
	l.limit = limit
	l.mu.Unlock()
	return l.exclusively("set limit of", func(info fs.FileInfo) error {
		if err := l.refresh(info); err != nil || l.contents.Limit == limit {
			return err
		}
		return l.rewrite(limit, l.contents.Usage, int64(l.contents.CompleteBytes))
	})
}

// Sync makes the log durable as it is now.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.lock(false, false)
	if err == nil {
		err = l.f.Sync()
		l.unlock()
	}
	if err == nil {
		err = l.fsys.SyncDir(filepath.Dir(l.path))
	}
	if err != nil {
		return fmt.Errorf("sync quota log %s: %w", l.path, err)
	}
	return nil
}

// Close carries over late appends a last time and gives the descriptors back. A
// second call does nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.looked = time.Time{}
	var err error
	if l.latePending() {
		err = l.locked("close", func(fs.FileInfo) error { return nil })
	}
	l.closed = true
	for _, r := range l.replaced {
		err = errors.Join(err, r.f.Close())
	}
	l.replaced = nil
	return errors.Join(err, l.drop())
}

// look gives the contents of the current file.
func (l *Log) look() (Contents, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.latePending() {
		// Carrying over needs the exclusive lock.
		if err := l.locked("read", l.refresh); err != nil {
			return Contents{}, err
		}
		return l.contents, nil
	}
	if l.unchanged() {
		return l.contents, nil
	}
	info, err := l.lock(false, false)
	if err == nil {
		err = l.refresh(info)
		l.unlock()
	}
	if err != nil {
		return Contents{}, fmt.Errorf("read quota log %s: %w", l.path, err)
	}
	return l.contents, nil
}

// unchanged reports whether what is remembered is what the path holds.
func (l *Log) unchanged() bool {
	if l.closed || l.f == nil || !l.valid {
		return false
	}
	info, err := l.fsys.Lstat(l.path)
	return err == nil && idOf(info) == l.id && l.remembers(info)
}

// exclusively runs do under the exclusive lock of the current file.
func (l *Log) exclusively(what string, do func(fs.FileInfo) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.locked(what, do)
}

// locked is exclusively for callers that hold mu. It carries over what came late
// before do; what comes meanwhile is for the next operation.
func (l *Log) locked(what string, do func(fs.FileInfo) error) error {
	info, err := l.lock(true, false)
	if err == nil {
		if l.latePending() {
			if err = l.carryOver(); err == nil {
				info, err = l.f.Stat()
			}
		}
		if err == nil {
			err = do(info)
		}
		l.unlock()
	}
	if err != nil {
		return fmt.Errorf("%s quota log %s: %w", what, l.path, err)
	}
	return nil
}
