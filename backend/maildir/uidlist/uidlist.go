// Package uidlist owns the file dovecot-uidlist of one Maildir folder, version
// 3 as Dovecot 2.3 writes it: which UID each file has.
//
//	3 V<uidvalidity> N<next uid> G<folder guid>
//	<uid> [<letter><value> …]:<base of the file name>
//
// A UID is never given twice: the next one is over the header's N and over the
// last line's. Lines of files that are gone stay, as stale ones, until the file
// is rewritten whole. What Dovecot wrote, fields unknown here included, is kept.
//
// # What survives a crash
//
// Rewrite, Create and Ensure are durable when they return. Add only appends: what
// it gave is durable by the caller's journal, which has it before Add is called,
// or by Sync. A crash may take any of the lines appended since, or leave zeros in
// their place, and keep later ones. Load then takes the lines before the first
// damaged one; the caller hands those that its journal knows to Ensure before
// anything else happens. Without a journal that covers all that was appended
// since the last Sync, a List that Salvaged is to be given up: UIDs that were
// told may be missing, and the next to be given among them.
//
// A List is not safe for concurrent use; the folder's owner serialises it. It
// keeps no file open, and holds no entries: only the bases of stale lines.
package uidlist

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"waypost/internal/vfs"
)

// FileName is the name of the file in its folder.
const FileName = "dovecot-uidlist"

// tidyAfter is how many stale lines are left alone, beside a part of the others
// (Untidy).
const tidyAfter = 256

// ErrCorrupt: the file cannot be believed, or its UIDs are used up; its
// UIDVALIDITY must not be used again.
var ErrCorrupt = errors.New("corrupt uidlist")

// ErrBadEntry: an entry that cannot be written, such as one with a line feed in
// the name, or a UID that is below the next.
var ErrBadEntry = errors.New("not possible in a uidlist")

// List is a folder's uidlist.
type List struct {
	fsys   vfs.FS
	path   string
	header Header
	// size is how much of the file counts; seen tells whether the file is still
	// the one this List knows.
	size int64
	seen stamp
	// lines counts all lines of the file, stale those of files that are gone.
	lines, stale int
	// gone has the bases of stale lines: a file that comes back under
	// such a name gets a new UID, and the old line must leave the file.
	gone map[string]bool
	// doubtful: the end of the file is damaged, or the last append failed; the
	// next write makes a new file.
	doubtful, salvaged bool
}

// stamp identifies a state of a file.
type stamp struct {
	inode          uint64
	size, modified int64
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), modified: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = st.Ino
	}
	return s
}

// Create writes a new list, replacing what is there, durably. h.Next is its
// first UID.
func Create(fsys vfs.FS, folder string, h Header) (*List, error) {
	l := newList(fsys, folder)
	l.header = h
	if l.header.Next == 0 {
		l.header.Next = 1
	}
	return l, l.Rewrite(nil)
}

func newList(fsys vfs.FS, folder string) *List {
	return &List{fsys: fsys, path: filepath.Join(folder, FileName), gone: map[string]bool{}}
}

// Load reads the list of folder: its entries in the order of UIDs. Where two
// lines name one file the last one counts. The error is fs.ErrNotExist, or
// ErrCorrupt with a List that still tells the Header as far as it was legible.
func Load(fsys vfs.FS, folder string) (*List, []Entry, error) {
	l := newList(fsys, folder)
	f, err := fsys.OpenFile(l.path, os.O_RDONLY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("load uidlist: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("load uidlist: %w", err)
	}
	parsed, err := Parse(sized{f, int(info.Size())})
	l.header = parsed.Header
	if err != nil {
		return l, nil, fmt.Errorf("load %s: %w", l.path, err)
	}
	l.size, l.lines, l.seen = parsed.Size, parsed.Lines, stampOf(info)
	l.stale = parsed.Lines - len(parsed.Entries)
	l.salvaged = parsed.Salvaged
	l.doubtful = parsed.Salvaged || info.Size() != l.size
	return l, parsed.Entries, nil
}

// sized is a reader that tells about how much is to come.
type sized struct {
	io.Reader
	size int
}

func (s sized) Len() int { return s.size }

// Header gives the header with the UIDNEXT as it is now.
func (l *List) Header() Header { return l.header }

// Salvaged tells whether Load has left out lines that a crash has damaged, and
// the file was not rewritten since.
func (l *List) Salvaged() bool { return l.salvaged }

// Intact tells whether the file is still as this List left it.
func (l *List) Intact() bool {
	info, err := l.fsys.Lstat(l.path)
	return err == nil && stampOf(info) == l.seen
}

// Forget says that the file with that base has left the folder.
func (l *List) Forget(base string) {
	if !l.gone[base] {
		l.gone[strings.Clone(base)] = true // base may be a part of something long
		l.stale++
	}
}

// Untidy tells whether it is time for a Rewrite: so rarely that its cost, spread
// over the lines that became stale, does not depend on the size of the list.
func (l *List) Untidy() bool {
	return l.doubtful || l.stale > tidyAfter+(l.lines-l.stale)/4
}

// Add appends fresh. Entries without a UID are given the next, which is written
// into fresh; one that has a UID, as when the journal has it already, keeps it,
// and the error is ErrBadEntry if that is not above all before it. live gives the
// entries that the folder has now; it is called when the file must be written
// whole. What Add appends is durable by the caller's journal or Sync. With an
// error nothing has been given; if the List is not Intact then, it is not known
// which file a crash would leave.
func (l *List) Add(fresh []Entry, live func() []Entry) error {
	if len(fresh) == 0 {
		return nil
	}
	given, next, whole := make([]Entry, len(fresh)), l.header.Next, l.doubtful
	for i, e := range fresh {
		if next > maxNext {
			return fmt.Errorf("add to %s: UIDs used up: %w", l.path, ErrCorrupt)
		}
		if e.UID == 0 {
			e.UID = next
		}
		if e.UID < next || e.UID >= maxNext || !e.legible() {
			return fmt.Errorf("add UID %d, %.300q to %s: %w", e.UID, e.Base, l.path, ErrBadEntry)
		}
		given[i], next = e, e.UID+1
		whole = whole || l.gone[e.Base]
	}
	if whole {
		if err := l.rewrite(append(live(), given...), next); err != nil {
			return err
		}
	} else if err := l.append(given, next); err != nil {
		l.doubt()
		return fmt.Errorf("add to uidlist: %w", err)
	}
	copy(fresh, given)
	return nil
}

// doubt remembers that the end of the file, or what a crash would leave of it,
// is not known: the next Add writes a new file.
func (l *List) doubt() {
	l.doubtful = true
	if info, err := l.fsys.Lstat(l.path); err == nil && stampOf(info).inode == l.seen.inode {
		l.seen = stampOf(info)
	}
}

// noDescriptor: something could not be opened, for want of descriptors.
func noDescriptor(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// adopt takes for ours the file that is there. It is called where a new one was
// filled, and what could not be opened then was only the folder, to be synced: the
// new one has the name. Either says what the caller's journal does, so that it does
// not matter which a crash leaves; the next write replaces it.
func (l *List) adopt() {
	if info, err := l.fsys.Lstat(l.path); err == nil {
		l.seen = stampOf(info)
	}
}

func (l *List) append(fresh []Entry, next uint32) error {
	f, err := l.fsys.OpenFile(l.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 0, 128*len(fresh))
	for _, e := range fresh {
		b = e.appendLine(b)
	}
	info, err := l.writeEnd(f, b)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	l.size += int64(len(b))
	l.seen, l.header.Next = stampOf(info), next
	l.lines += len(fresh)
	return nil
}

// writeEnd writes b behind what counts, or leaves nothing.
func (l *List) writeEnd(f vfs.File, b []byte) (fs.FileInfo, error) {
	if _, err := f.WriteAt(b, l.size); err != nil {
		return nil, errors.Join(err, f.Truncate(l.size))
	}
	return f.Stat()
}

// Sync makes durable what was added.
func (l *List) Sync() error {
	f, err := l.fsys.OpenFile(l.path, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("sync uidlist: %w", err)
	}
	if err := errors.Join(f.Datasync(), f.Close()); err != nil {
		return fmt.Errorf("sync uidlist: %w", err)
	}
	return nil
}

// Rewrite replaces the file by one with live only, in the order of UIDs,
// durably.
func (l *List) Rewrite(live []Entry) error { return l.rewrite(live, l.header.Next) }

func (l *List) rewrite(live []Entry, next uint32) error {
	h := l.header
	h.Next = next
	size := int64(0)
	err := vfs.ReplaceFunc(l.fsys, l.path, 0o600, func(w io.Writer) error {
		var b bytes.Buffer
		b.Write(h.line())
		for _, e := range live {
			b.Write(e.appendLine(b.AvailableBuffer()))
		}
		size = int64(b.Len())
		_, err := w.Write(b.Bytes())
		return err
	})
	if err != nil {
		if size > 0 && noDescriptor(err) {
			l.adopt()
		}
		l.doubt()
		return fmt.Errorf("rewrite uidlist: %w", err)
	}
	info, err := l.fsys.Lstat(l.path)
	if err != nil {
		l.doubtful = true
		return fmt.Errorf("rewrite uidlist: %w", err)
	}
	l.header, l.size, l.lines, l.stale = h, size, len(live), 0
	l.seen = stampOf(info)
	l.doubtful, l.salvaged = false, false
	clear(l.gone)
	return nil
}
