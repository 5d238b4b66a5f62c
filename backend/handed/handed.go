// Package handed remembers which hand-offs of sessions a backend has accepted, so that
// none is accepted twice (design, "Sessions that survive").
//
// It owns one file. It promises that Accept gives true at most once for an id within
// Keep, whatever crashes: true means that the id is on the disk. Ids that are
// accepted at about the same time share one fsync. Ids older than Keep are dropped when
// the file is written anew, which is at its opening and when most of it is old.
//
// After a crash the file may have, behind all that was promised, ids of which nobody
// was told, and a torn end, which Open cuts off: an id of the first kind is refused,
// which ends its session and harms nothing.
//
// Only the backend that owns the disk calls this package.
package handed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"waypost/internal/vfs"
)

const (
	// Keep is how long an id is remembered: many times what a proxy keeps a session
	// that no backend has.
	Keep = 24 * time.Hour
	// MaxIDs bounds what is kept, in memory (about 40 bytes each) and on the disk.
	MaxIDs = 1 << 21
	// littleToGain is how many ids may lie in the file before it is worth a look which
	// of them are old, which is taken every lookEvery.
	littleToGain = 1 << 13
	lookEvery    = time.Hour
)

// Errors of Accept. Neither says anything about the id, which can be tried again.
var (
	// ErrFull: there were MaxIDs hand-offs within Keep.
	ErrFull = errors.New("too many hand-offs within a day")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("the list of hand-offs is closed")
)

// entryBytes is an id's line: the id, when it was accepted in Unix seconds (8 bytes,
// big-endian), and the CRC-32C of both.
const entryBytes = 16 + 8 + 4

var table = crc32.MakeTable(crc32.Castagnoli)

// entry is an id that was accepted.
type entry struct {
	id [16]byte
	at int64
}

func (e entry) append(dst []byte) []byte {
	from := len(dst)
	dst = append(dst, e.id[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(e.at))
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[from:], table))
}

// parse reads an entry of entryBytes. Zeros, which a crash may leave, are none: their
// CRC is not 0.
func parse(b []byte) (entry, bool) {
	body := b[:entryBytes-4]
	if binary.BigEndian.Uint32(b[entryBytes-4:]) != crc32.Checksum(body, table) {
		return entry{}, false
	}
	return entry{[16]byte(body[:16]), int64(binary.BigEndian.Uint64(body[16:]))}, true
}

// group is what shares an fsync.
type group struct {
	entries []entry
	done    chan struct{} // closed when err is set
	err     error
}

// Log is the list of hand-offs. It is safe for concurrent use.
type Log struct {
	fs   vfs.FS
	path string
	now  func() time.Time

	// writing is held by the one that writes a group, and guards what follows.
	writing sync.Mutex
	file    vfs.File // nil: what the disk has is not known, and is to be written anew
	lines   int      // in the file
	looked  time.Time
	closed  bool

	mu      sync.Mutex // guards what follows, for moments
	known   map[[16]byte]int64
	pending map[[16]byte]*group
	next    *group // takes further ids
}

// Open reads the list at path, which is made if it is missing. now is time.Now.
func Open(fsys vfs.FS, path string, now func() time.Time) (*Log, error) {
	l := &Log{fs: fsys, path: path, now: now, known: make(map[[16]byte]int64), pending: make(map[[16]byte]*group)}
	data, err := vfs.ReadFile(fsys, path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("hand-offs: %w", err)
	}
	fresh, torn := err != nil, len(data)%entryBytes != 0
	oldest := l.oldest()
	for b := range slices.Chunk(data[:len(data)-len(data)%entryBytes], entryBytes) {
		e, ok := parse(b)
		torn = torn || !ok || e.at < oldest
		if ok && e.at >= oldest {
			l.known[e.id] = e.at
		}
	}
	if fresh || torn {
		err = l.rewrite(nil)
	} else if err = fsys.SyncDir(filepath.Dir(path)); err == nil { // who made it may have died before
		err = l.reopen(len(l.known))
	}
	if err != nil {
		return nil, fmt.Errorf("hand-offs: %w", err)
	}
	return l, nil
}

func (l *Log) oldest() int64 { return l.now().Add(-Keep).Unix() }

// Accept tells whether the id was not accepted before; then it is now, durably. After
// an error it was not, and may be tried again.
func (l *Log) Accept(id [16]byte) (bool, error) {
	l.mu.Lock()
	if at, ok := l.known[id]; ok && at >= l.oldest() {
		l.mu.Unlock()
		return false, nil
	}
	if g := l.pending[id]; g != nil {
		l.mu.Unlock()
		<-g.done
		return false, g.err
	}
	if len(l.known)+len(l.pending) >= MaxIDs && !l.forget() {
		l.mu.Unlock()
		return false, ErrFull
	}
	g := l.next
	lead := g == nil
	if lead {
		g = &group{done: make(chan struct{})}
		l.next = g
	}
	g.entries = append(g.entries, entry{id, l.now().Unix()})
	l.pending[id] = g
	l.mu.Unlock()
	if lead {
		l.commit(g)
	} else {
		<-g.done
	}
	return g.err == nil, g.err
}

// commit makes a group durable. It closes the group only when it is its turn: until
// then others join it.
func (l *Log) commit(g *group) {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	l.next = nil
	l.mu.Unlock()
	g.err = l.write(g.entries)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range g.entries {
		delete(l.pending, e.id)
		if g.err == nil {
			l.known[e.id] = e.at
		}
	}
	close(g.done)
}

// write makes entries durable. The caller holds writing.
func (l *Log) write(entries []entry) error {
	if l.closed {
		return ErrClosed
	}
	if l.file == nil || l.wasteful() {
		if err := l.rewrite(entries); err != nil {
			return fmt.Errorf("hand-offs: %w", err)
		}
		return nil
	}
	b := make([]byte, 0, len(entries)*entryBytes)
	for _, e := range entries {
		b = e.append(b)
	}
	_, err := l.file.Write(b)
	if err == nil {
		err = l.file.Datasync()
	}
	if err != nil {
		// What the disk has by now nobody knows: what is in memory is written anew.
		err = errors.Join(err, l.file.Close())
		l.file = nil
		return fmt.Errorf("hand-offs: %w", err)
	}
	l.lines += len(entries)
	return nil
}

// wasteful tells, now and then, whether most of the file is old. The caller holds
// writing.
func (l *Log) wasteful() bool {
	now := l.now()
	if l.lines < littleToGain || now.Sub(l.looked) < lookEvery {
		return false
	}
	l.looked = now
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget()
	return l.lines > 2*len(l.known)
}

// forget drops old ids from the memory, and tells whether there were any. The caller
// holds mu.
func (l *Log) forget() bool {
	oldest, before := l.oldest(), len(l.known)
	for id, at := range l.known {
		if at < oldest {
			delete(l.known, id)
		}
	}
	return len(l.known) < before
}

// rewrite replaces the file by what is known, and more. The caller holds writing, or is
// Open.
func (l *Log) rewrite(more []entry) error {
	l.mu.Lock()
	l.forget()
	all := make([]byte, 0, (len(l.known)+len(more))*entryBytes)
	for id, at := range l.known {
		all = entry{id, at}.append(all)
	}
	l.mu.Unlock()
	for _, e := range more {
		all = e.append(all)
	}
	if l.file != nil {
		err := l.file.Close() // of what is durable
		l.file = nil
		if err != nil {
			return err
		}
	}
	if err := vfs.ReplaceFile(l.fs, l.path, all, 0o600); err != nil {
		return err
	}
	return l.reopen(len(all) / entryBytes)
}

func (l *Log) reopen(lines int) error {
	f, err := l.fs.OpenFile(l.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	l.file, l.lines = f, lines
	return nil
}

// Close ends it. All that Accept has promised is on the disk.
func (l *Log) Close() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if l.file == nil {
		return nil
	}
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("hand-offs: %w", err)
	}
	return nil
}
