package index

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/mime"
	"waypost/internal/vfs"
)

// ErrClosed: the index was closed.
var ErrClosed = errors.New("index closed")

// Index is a folder's index; see the package comment.
type Index struct {
	fsys    vfs.FS
	dir, id string

	// compacting is held through Compact and Close, before mu.
	compacting sync.Mutex

	// mu guards all below. It is held for some reads of a few KiB, one write, or
	// the reading of the file at first use.
	mu     sync.Mutex
	loaded bool
	closed bool
	// file is nil, or begun false, as long as there is nothing to keep.
	file  vfs.File
	begun bool
	ident identity
	table table
	// end is where the next record goes.
	end int64
	// contents is what the newest slot says, contentsEnd the end of that table of contents.
	contents    contents
	contentsEnd int64
	window      window
	scratch     []byte
	encoder     encoder
	stats       Stats
}

// Stats tells of an index.
type Stats struct {
	// Messages are known, Dead are records of the file that are of no use any more.
	Messages, Dead int
	// Bytes is the file's size.
	Bytes int64
	// Hits and Misses count what was asked for and known, or not, TooLarge what Put left out.
	Hits, Misses, TooLarge int64
	// Reason says why the file, or a part of it, was not used when it was opened;
	// empty if all was well, or there was none. For a log.
	Reason string
}

// Open gives the index of the folder in dir whose GUID is id. It reads nothing
// yet, and whatever is in the file is no error: Stats tells it. There is one Index
// of a folder at a time; who renames dir closes it first.
func Open(fsys vfs.FS, dir, id string) *Index {
	return &Index{fsys: fsys, dir: dir, id: id}
}

func (x *Index) path() string { return filepath.Join(x.dir, fileName) }

// Get gives what is known of the message with that base name; false: nothing. The
// Meta is the caller's own.
func (x *Index) Get(base string) (m *mailbox.Meta, ok bool) {
	ok = x.look(base, func(payload []byte) (err error) {
		m, err = decodeMeta(payload)
		return err
	})
	return m, ok
}

// Wire gives the ready-made ENVELOPE and BODYSTRUCTURE of the message with that base
// name, which costs much less than Get; false: nothing is known. They are in room.
func (x *Index) Wire(base string, room *Room) (w mime.Wire, ok bool) {
	ok = x.look(base, func(payload []byte) (err error) {
		w, err = decodeWire(payload, room)
		return err
	})
	return w, ok
}

// HeaderFields is the function of that name for the message with that base name, which
// costs much less than Get. known is false when the record cannot tell or there is none.
func (x *Index) HeaderFields(base string, names Names) (header string, known bool) {
	ok := x.look(base, func(payload []byte) (err error) {
		header, known, err = decodeHeader(payload, names)
		return err
	})
	return header, known && ok
}

// Fields calls each for the fields of a set that the message with that base name has, as
// FieldsOf does for a Meta, but without Raw; false: nothing is known, and each may have been called for some.
// The Field and its strings are valid during the call only, and each must not call the Index.
func (x *Index) Fields(base string, set Names, each func(*mime.Field)) (ok bool) {
	return x.look(base, func(payload []byte) error { return decodeFields(payload, set, each) })
}

// Summary gives a Meta's Summary without the rest of it, its Preview in room; false:
// nothing is known.
func (x *Index) Summary(base string, room *Room) (s mailbox.Summary, ok bool) {
	ok = x.look(base, func(payload []byte) (err error) {
		s, err = decodeSummary(payload, room)
		return err
	})
	return s, ok
}

// Arrived is Summary's; false: nothing is known.
func (x *Index) Arrived(base string) (t time.Time, ok bool) {
	ok = x.look(base, func(payload []byte) error {
		s, err := decodeSummary(payload, nil)
		t = s.Arrived
		return err
	})
	return t, ok
}

// look has decode read a record's payload, of which it keeps nothing; what it cannot
// read is dropped.
func (x *Index) look(base string, decode func(payload []byte) error) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ready() == nil {
		if record := x.following(base); record != nil && decode(payloadOf(record)) == nil {
			x.stats.Hits++
			return true
		}
		if i, record := x.find(base); i >= 0 {
			if decode(payloadOf(record)) == nil {
				x.window.behind = x.table.place(i) + int64(padded(len(record)))
				x.stats.Hits++
				return true
			}
			x.drop(i)
		}
	}
	x.stats.Misses++
	return false
}

// Put keeps what was read of a message: one write. A Meta whose record would be
// over 1 MiB is left out, without an error. After an error the index is as it was.
func (x *Index) Put(base string, m *mailbox.Meta) error {
	return x.append(base, func(dst []byte) ([]byte, error) { return x.encoder.encode(dst, m) })
}

// Forget is for a message that is gone. It writes nothing: until Compact the record may be found
// nevertheless, as after a crash, or a Close, which does no harm.
func (x *Index) Forget(base string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ready() != nil {
		return
	}
	if i, _ := x.find(base); i >= 0 {
		x.drop(i)
	}
}

// Carry gives another folder's index what is known of a message that was copied
// or moved there under the base name as. It is nil if nothing is known.
func (x *Index) Carry(base string, to *Index, as string) error {
	payload, err := x.payload(base)
	if payload == nil {
		return err
	}
	return to.append(as, func(dst []byte) ([]byte, error) { return append(dst, payload...), nil })
}

func (x *Index) payload(base string) ([]byte, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.ready(); err != nil {
		return nil, err
	}
	if i, record := x.find(base); i >= 0 {
		return append([]byte{}, payloadOf(record)...), nil
	}
	return nil, nil
}

// Wasteful reports, for a folder with that many messages, that it is time for
// Compact: most of the records are of messages that are gone.
func (x *Index) Wasteful(messages int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.ready() == nil && x.table.live+x.stats.Dead > 2*messages+1000
}

// Stats tells of the index as it is.
func (x *Index) Stats() Stats {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.stats
	s.Messages, s.Bytes = x.table.live, x.end
	return s
}

// Close writes a table of contents, if there is much that the last one lacks, and
// closes the file. Nothing is synced.
func (x *Index) Close() error {
	x.compacting.Lock()
	defer x.compacting.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil
	}
	x.closed = true
	if x.file == nil {
		return nil
	}
	var err error
	// It is at most a quarter of what it saves reading.
	if x.begun && x.end-max(x.contentsEnd, recordsStart) > 64<<10+int64(x.table.live)*entrySize*4 {
		err = x.writeContents()
	}
	err = errors.Join(err, x.file.Close())
	x.file, x.window, x.scratch, x.encoder = nil, window{}, nil, encoder{}
	return err
}

// Closed tells whether it was closed.
func (x *Index) Closed() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.closed
}

// Rest gives back memory that only the next reading of many messages would use.
func (x *Index) Rest() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.window, x.scratch, x.encoder = window{}, nil, encoder{}
}

// ready opens the file at first use. An error of the disk leaves it to be tried
// again.
func (x *Index) ready() error {
	if x.closed {
		return ErrClosed
	}
	if x.loaded {
		return nil
	}
	if err := x.load(); err != nil {
		return fmt.Errorf("open index %s: %w", x.path(), err)
	}
	x.loaded = true
	return nil
}

// find gives the slot and the record of a base name, or -1. The record is valid
// until the next read.
func (x *Index) find(base string) (int, []byte) {
	hash := x.ident.hash(base)
	for i := x.table.first(hash); i >= 0; i = x.table.next(i+1, hash) {
		record, err := x.record(x.table.place(i))
		switch {
		case errors.Is(err, errRecord):
			x.drop(i)
		case err == nil && string(keyOf(record)) == base:
			return i, record
		}
	}
	return -1, nil
}

// drop takes a slot out.
func (x *Index) drop(i int) {
	x.table.remove(i)
	x.stats.Dead++
}

// append writes a record with the payload that encode appends.
func (x *Index) append(base string, encode func([]byte) ([]byte, error)) error {
	if base == "" || len(base) > MaxBase {
		return fmt.Errorf("index %s: base name of %d bytes", x.dir, len(base))
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	err := x.ready()
	if err == nil && !x.begun {
		err = x.begin()
	}
	if err != nil {
		return err
	}
	record, err := encode(beginRecord(x.scratch[:0], kindMessage, base))
	if err != nil || cap(record) > windowSize {
		x.encoder = encoder{} // it is as large, or may be
	}
	if errors.Is(err, errTooLarge) {
		x.stats.TooLarge++
		return nil
	}
	if err != nil {
		return fmt.Errorf("index %s: %w", x.path(), err)
	}
	record = x.ident.endRecord(record)
	if cap(record) <= windowSize {
		x.scratch = record
	}
	old, _ := x.find(base)
	at, err := x.write(record)
	if err != nil {
		return err
	}
	if old >= 0 {
		x.drop(old)
	}
	x.table.add(x.ident.hash(base), at)
	return nil
}

// write puts a record at the end and gives its place.
func (x *Index) write(record []byte) (int64, error) {
	if x.end+int64(len(record)) > maxFile {
		return 0, fmt.Errorf("index %s: full", x.path())
	}
	if _, err := x.file.WriteAt(record, x.end); err != nil {
		return 0, fmt.Errorf("write index %s: %w", x.path(), err)
	}
	at := x.end
	x.end += int64(len(record))
	return at, nil
}

// begin makes the file anew, empty.
func (x *Index) begin() error {
	if x.file == nil {
		f, err := x.fsys.OpenFile(x.path(), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return fmt.Errorf("make index %s: %w", x.path(), err)
		}
		x.file = f
	}
	err := x.file.Truncate(0)
	if err == nil {
		x.ident, err = beginFile(x.file, x.id)
	}
	if err != nil {
		return fmt.Errorf("make index %s: %w", x.path(), err)
	}
	x.table, x.end, x.window, x.begun = newTable(0), recordsStart, window{}, true
	return nil
}

// beginFile writes a header with a new salt.
func beginFile(f vfs.File, id string) (identity, error) {
	var salt [8]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return identity{}, err
	}
	header := newHeader(id, binary.LittleEndian.Uint64(salt[:]))
	ident, _ := readHeader(header, id)
	_, err := f.WriteAt(header, 0)
	return ident, err
}

// writeContents appends a table of contents and names it in the header.
func (x *Index) writeContents() error {
	record := make([]byte, 0, recordHead+x.table.live*entrySize+8)
	record = beginRecord(record, kindContents, "")
	for _, s := range x.table.slots {
		if s.place > gone {
			record = binary.LittleEndian.AppendUint32(record, s.hash)
			record = binary.LittleEndian.AppendUint32(record, s.place)
		}
	}
	at, err := x.write(x.ident.endRecord(record))
	if err != nil {
		return err
	}
	c := contents{seq: x.contents.seq + 1, at: uint64(at), dead: uint64(x.stats.Dead)}
	if _, err := x.file.WriteAt(c.slot(x.ident), c.place()); err != nil {
		return fmt.Errorf("write index %s: %w", x.path(), err)
	}
	x.contents, x.contentsEnd = c, x.end
	return nil
}

// notThere reports the file's absence, which is none of an error.
func notThere(err error) bool { return errors.Is(err, fs.ErrNotExist) }
