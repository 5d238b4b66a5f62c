package quota

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"waypost/internal/durable"
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

	// leftoverAge is the age at which a temporary file is a crash's.
	leftoverAge = time.Hour

	tempInfix = ".new."
)

// ErrMissing says that there is no log yet. Recount makes one.
var ErrMissing = fmt.Errorf("no quota log: %w", fs.ErrNotExist)

// Log is one user's quota log. It is safe for concurrent use, holds one file
// descriptor, and for a minute after each coalescing another. Calls wait for
// the lock of the file, which other processes hold for moments, and during a
// Recount for its length.
type Log struct {
	path string
	now  func() time.Time

	// mu guards all below. It is held for whole operations, since the flock
	// belongs to the descriptor and not to the goroutine.
	mu       sync.Mutex
	closed   bool
	limit    Limit // what the next recount writes
	f        *os.File
	valid    bool // the next three are those of f when last looked at
	contents Contents
	size     int64
	modTime  time.Time
	replaced []replacedFile
}

// replacedFile is a file this Log has coalesced, which foreign appenders may
// still have open.
type replacedFile struct {
	f     *os.File
	off   int64 // the end of what is in the new file already
	since time.Time
}

// Open opens the quota log at path. The file may be missing. The limit is what
// a Recount will write; that of an existing file stays until SetLimit.
func Open(path string, limit Limit) (*Log, error) {
	if err := limit.check(); err != nil {
		return nil, fmt.Errorf("open quota log %s: %w", path, err)
	}
	l := &Log{path: path, now: time.Now, limit: limit}
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
	return l.exclusively("add to", false, func() error {
		if err := l.refresh(); err != nil {
			return err
		}
		return l.appendLine(change)
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
	return l.exclusively("set limit of", false, func() error {
		if err := l.refresh(); err != nil || l.contents.Limit == limit {
			return err
		}
		return l.rewrite(limit, l.contents.Usage, int64(l.contents.CompleteBytes))
	})
}

// Recount replaces whatever the log holds, or makes a new one, by the usage that
// count finds in the mailbox. It is the only call that creates the file. The log
// is locked while count runs: other users of it wait, and count must not use
// this Log. A change made to the mailbox meanwhile, by somebody whose Add still
// waits, may be counted twice; so the caller must hold the user's lock. If count
// fails the log is as it was, but for a missing one, which is then an empty
// file: ErrCorrupt, and to be recounted.
func (l *Log) Recount(count func() (Usage, error)) error {
	return l.exclusively("recount", true, func() error {
		usage, err := count()
		if err != nil {
			return err
		}
		info, err := l.f.Stat()
		if err != nil {
			return err
		}
		if err := l.rewrite(l.limit, usage, info.Size()); err != nil {
			return err
		}
		// What came late to files before this one was in the mailbox already.
		for i := range len(l.replaced) - 1 {
			if info, err := l.replaced[i].f.Stat(); err == nil {
				l.replaced[i].off = info.Size()
			}
		}
		l.removeLeftovers()
		return nil
	})
}

// Sync makes the log durable as it is now.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.lock(unix.LOCK_SH, false)
	if err == nil {
		err = l.f.Sync()
		l.unlock()
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(l.path))
	}
	if err != nil {
		return fmt.Errorf("sync quota log %s: %w", l.path, err)
	}
	return nil
}

// Close carries over late appends a last time and gives the descriptors back. A
// second call does nothing.
func (l *Log) Close() error {
	var err error
	if l.latePending() {
		err = l.exclusively("close", false, func() error { return nil })
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
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
	if l.latePending() {
		// Carrying over needs the exclusive lock.
		var c Contents
		err := l.exclusively("read", false, func() error {
			if err := l.refresh(); err != nil {
				return err
			}
			c = l.contents
			return nil
		})
		return c, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unchanged() {
		return l.contents, nil
	}
	err := l.lock(unix.LOCK_SH, false)
	if err == nil {
		err = l.refresh()
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
	info, err := os.Stat(l.path)
	if err != nil || !l.remembers(info) {
		return false
	}
	own, err := l.f.Stat()
	return err == nil && os.SameFile(info, own)
}

// exclusively runs do under the exclusive lock of the current file, which is
// created if need be and create says so.
func (l *Log) exclusively(what string, create bool, do func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.lock(unix.LOCK_EX, create)
	if err == nil {
		if !create { // a recount makes what came late irrelevant
			err = l.carryOver()
		}
		if err == nil {
			err = do()
		}
		// What came while do was at work. If it fails it is tried again in the
		// next operation; this one is done.
		if err == nil {
			_ = l.carryOver()
		}
		l.unlock()
	}
	if err != nil {
		return fmt.Errorf("%s quota log %s: %w", what, l.path, err)
	}
	return nil
}

// removeLeftovers removes temporary files of coalescings that a crash cut off.
func (l *Log) removeLeftovers() {
	dir, prefix := filepath.Dir(l.path), filepath.Base(l.path)+tempInfix
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // they do no harm
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		if info, err := e.Info(); err == nil && l.now().Sub(info.ModTime()) > leftoverAge {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}
