// Package uidlist owns the file dovecot-uidlist of one Maildir folder, version
// 3 as Dovecot 2.3 writes it: which UID each file has.
//
//	3 V<uidvalidity> N<next uid> G<folder guid>
//	<uid> [<letter><value> …]:<base of the file name>
//
// New UIDs are appended and synced before Add returns, so that a UID that was
// told to a client survives a crash. A line that a crash left torn was never
// told; it is cut off before the next append. A UID is never given twice: the
// next one is over the header's N and over the last line's. Lines of files that
// are gone stay, as stale ones, until the file is rewritten whole.
//
// A List is not safe for concurrent use; the folder's owner serialises it. It
// keeps no file open.
package uidlist

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"waypost/internal/durable"
)

// FileName is the name of the file in its folder.
const FileName = "dovecot-uidlist"

// maxNext leaves room to notice in time that the UIDs are used up.
const maxNext = math.MaxUint32 - 1<<20

// tidyAfter is how many stale lines are left alone.
const tidyAfter = 128

// ErrCorrupt: the file cannot be believed; its UIDVALIDITY must not be used
// again.
var ErrCorrupt = errors.New("corrupt uidlist")

// Entry is one line.
type Entry struct {
	UID uint32
	// Fields are the line's extension fields, as they stand there, separated by
	// one space: "W123 Pabc". They are kept.
	Fields string
	// Base is the file name up to its flags.
	Base string
}

// Field gives the value of the extension field with the letter key.
func (e Entry) Field(key byte) (value string, ok bool) {
	for f := range strings.FieldsSeq(e.Fields) {
		if f[0] == key {
			return f[1:], true
		}
	}
	return "", false
}

// Header is the first line.
type Header struct {
	// Validity is the folder's UIDVALIDITY, Next its UIDNEXT.
	Validity, Next uint32
	// GUID is the folder's, 32 hexadecimal digits; may be empty.
	GUID string
	// Other holds header fields that this package does not know.
	Other []string
}

// List is a folder's uidlist.
type List struct {
	path   string
	header Header
	// size is how much of the file is whole lines; id and stamp tell whether
	// the file is still the one this List knows.
	size  int64
	id    uint64
	stamp int64
	// whole is the length of the file, a torn end included.
	whole int64
	// lines counts all lines of the file, stale those of files that are gone.
	lines, stale int
	// gone has the bases of stale lines: a file that comes back under
	// such a name gets a new UID, and the old line must leave the file.
	gone map[string]bool
	// doubtful: the last append failed, the end of the file is unknown.
	doubtful bool
}

// Create writes a new list, replacing what is there. next is its first UID.
func Create(folder string, h Header) (*List, error) {
	l := &List{path: filepath.Join(folder, FileName), header: h, gone: map[string]bool{}}
	if l.header.Next == 0 {
		l.header.Next = 1
	}
	return l, l.Rewrite(nil)
}

// Load reads the list of folder: its entries in the order of UIDs. Where two
// lines name one file the last one counts. The error is fs.ErrNotExist, or
// ErrCorrupt with a List that still tells the Header as far as it was legible.
func Load(folder string) (*List, []Entry, error) {
	l := &List{path: filepath.Join(folder, FileName), gone: map[string]bool{}}
	f, err := os.Open(l.path)
	if err != nil {
		return nil, nil, fmt.Errorf("load uidlist: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("load uidlist: %w", err)
	}
	parsed, err := Parse(f)
	l.header = parsed.Header
	if err != nil {
		return l, nil, fmt.Errorf("load %s: %w", l.path, err)
	}
	l.size, l.lines = parsed.Size, parsed.Lines
	l.saw(info)
	l.stale = parsed.Lines - len(parsed.Entries)
	if info.Size() != l.size {
		l.doubtful = true
	}
	return l, parsed.Entries, nil
}

// saw remembers which file it is.
func (l *List) saw(info fs.FileInfo) {
	l.id, l.stamp, l.whole = inode(info), info.ModTime().UnixNano(), info.Size()
}

func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}

// Parsed is what Parse found.
type Parsed struct {
	Header  Header
	Entries []Entry
	// Size is the number of bytes up to the end of the last whole line, Lines
	// how many lines with UIDs there are.
	Size  int64
	Lines int
}

// Parse reads a whole file. A torn end is left out; anything else that is wrong
// is ErrCorrupt, with as much of the Header as could be read.
func Parse(r io.Reader) (Parsed, error) {
	var p Parsed
	br := bufio.NewReaderSize(r, 32<<10)
	line, err := readLine(br)
	if err != nil {
		return p, errors.Join(ErrCorrupt, notEOF(err))
	}
	if err := p.Header.parse(line); err != nil {
		return p, err
	}
	p.Size = int64(len(line)) + 1
	at := map[string]int{}
	last := uint32(0)
	for {
		line, err := readLine(br)
		if err != nil {
			if err := notEOF(err); err != nil {
				return p, fmt.Errorf("read uidlist: %w", err)
			}
			break
		}
		e, ok := parseLine(line)
		if !ok && strings.Contains(line, "\x00") && onlyZeros(line, br) {
			break // blocks that a power failure left unwritten: torn as well
		}
		if !ok || e.UID <= last {
			return p, fmt.Errorf("line %q: %w", line, ErrCorrupt)
		}
		last = e.UID
		if old, twice := at[e.Base]; twice {
			p.Entries[old].Base = ""
		}
		at[e.Base] = len(p.Entries)
		p.Entries = append(p.Entries, e)
		p.Lines++
		p.Size += int64(len(line)) + 1
	}
	p.Entries = withoutEmpty(p.Entries, len(at))
	if last >= p.Header.Next {
		p.Header.Next = last + 1
	}
	if p.Header.Next == 0 || p.Header.Next > maxNext {
		return p, fmt.Errorf("next UID %d: %w", p.Header.Next, ErrCorrupt)
	}
	return p, nil
}

// onlyZeros tells whether nothing legible follows: no line feed in what is left.
func onlyZeros(line string, br *bufio.Reader) bool {
	_, err := readLine(br)
	return err != nil && strings.Trim(line, "\x00") == ""
}

func withoutEmpty(entries []Entry, want int) []Entry {
	if len(entries) == want {
		return entries
	}
	kept := entries[:0]
	for _, e := range entries {
		if e.Base != "" {
			kept = append(kept, e)
		}
	}
	return kept
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// readLine gives a line without its end; io.EOF for one that has none.
func readLine(br *bufio.Reader) (string, error) {
	line, err := br.ReadSlice('\n')
	if err == nil {
		return string(line[:len(line)-1]), nil
	}
	if !errors.Is(err, bufio.ErrBufferFull) {
		return "", err
	}
	// 32 KiB without a line feed: no file name is that long.
	return "", fmt.Errorf("line too long: %w", ErrCorrupt)
}

func (h *Header) parse(line string) error {
	version, rest, _ := strings.Cut(line, " ")
	if version != "3" {
		return fmt.Errorf("header %q: %w", line, ErrCorrupt)
	}
	for f := range strings.FieldsSeq(rest) {
		var err error
		switch f[0] {
		case 'V':
			h.Validity, err = number(f[1:])
		case 'N':
			h.Next, err = number(f[1:])
		case 'G':
			h.GUID = f[1:]
		default:
			h.Other = append(h.Other, f)
		}
		if err != nil {
			return fmt.Errorf("header %q: %w", line, ErrCorrupt)
		}
	}
	if h.Validity == 0 || h.Next == 0 {
		return fmt.Errorf("header %q: %w", line, ErrCorrupt)
	}
	return nil
}

func (h *Header) line() []byte {
	b := fmt.Appendf(nil, "3 V%d N%d", h.Validity, h.Next)
	if h.GUID != "" {
		b = append(b, " G"+h.GUID...)
	}
	for _, f := range h.Other {
		b = append(append(b, ' '), f...)
	}
	return append(b, '\n')
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

func parseLine(line string) (Entry, bool) {
	front, base, found := strings.Cut(line, ":")
	digits, fields, spaced := strings.Cut(front, " ")
	uid, err := number(digits)
	if !found || !spaced || err != nil || uid == 0 {
		return Entry{}, false
	}
	// Old versions of Dovecot wrote the flags as well.
	base, _, _ = strings.Cut(base, ":")
	if base == "" || strings.ContainsAny(base, "\x00/") || strings.ContainsAny(fields, "\x00") {
		return Entry{}, false
	}
	return Entry{UID: uid, Fields: strings.TrimSpace(fields), Base: base}, true
}

func (e Entry) appendLine(b []byte) []byte {
	b = strconv.AppendUint(b, uint64(e.UID), 10)
	b = append(b, ' ')
	if e.Fields != "" {
		b = append(append(b, e.Fields...), ' ')
	}
	b = append(b, ':')
	b = append(b, e.Base...)
	return append(b, '\n')
}

// Header gives the header with the UIDNEXT as it is now.
func (l *List) Header() Header { return l.header }

// Intact tells whether the file is still as this List left it.
func (l *List) Intact() bool {
	info, err := os.Stat(l.path)
	if err != nil {
		return false
	}
	return inode(info) == l.id && info.ModTime().UnixNano() == l.stamp && info.Size() == l.whole
}

// Forget says that the file with that base has left the folder.
func (l *List) Forget(base string) {
	if !l.gone[base] {
		l.gone[base] = true
		l.stale++
	}
}

// Untidy tells whether it is time for a Rewrite.
func (l *List) Untidy() bool { return l.doubtful || l.stale > tidyAfter && l.stale*2 > l.lines }

// Add gives each of fresh the next UID, writes it into fresh, and makes that
// durable. live yields the entries that the folder has now; it is called when
// the file must be written whole. With an error nothing has been given; if the
// List is not Intact then, it is not known which file a crash would leave.
func (l *List) Add(fresh []Entry, live func() []Entry) error {
	if len(fresh) == 0 {
		return nil
	}
	if l.header.Next > maxNext || len(fresh) > maxNext {
		return fmt.Errorf("add to %s: UIDs used up: %w", l.path, ErrCorrupt)
	}
	next, whole := l.header.Next, l.doubtful
	for i := range fresh {
		fresh[i].UID = next
		next++
		whole = whole || l.gone[fresh[i].Base]
	}
	if whole {
		return l.rewrite(append(live(), fresh...), next)
	}
	if err := l.append(fresh); err != nil {
		l.doubt()
		return fmt.Errorf("add to uidlist: %w", err)
	}
	l.header.Next = next
	l.lines += len(fresh)
	return nil
}

// doubt remembers that the end of the file, or what a crash would leave of it,
// is not known: the next Add writes a new file.
func (l *List) doubt() {
	l.doubtful = true
	if info, err := os.Stat(l.path); err == nil && inode(info) == l.id {
		l.saw(info)
	}
}

func (l *List) append(fresh []Entry) (err error) {
	f, err := os.OpenFile(l.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var b []byte
	for _, e := range fresh {
		b = e.appendLine(b)
	}
	if _, err := f.WriteAt(b, l.size); err != nil {
		return errors.Join(err, f.Truncate(l.size))
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	l.size += int64(len(b))
	l.saw(info)
	return nil
}

// Rewrite replaces the file by one with live only, in the order of UIDs.
func (l *List) Rewrite(live []Entry) error { return l.rewrite(live, l.header.Next) }

func (l *List) rewrite(live []Entry, next uint32) error {
	h := l.header
	h.Next = next
	var b bytes.Buffer
	b.Write(h.line())
	for _, e := range live {
		b.Write(e.appendLine(b.AvailableBuffer()))
	}
	size := int64(b.Len())
	if err := durable.WriteFile(l.path, b.Bytes(), 0o600); err != nil {
		l.doubt()
		return fmt.Errorf("rewrite uidlist: %w", err)
	}
	info, err := os.Stat(l.path)
	if err != nil {
		return fmt.Errorf("rewrite uidlist: %w", err)
	}
	l.header, l.size, l.lines, l.stale = h, size, len(live), 0
	l.saw(info)
	l.doubtful = false
	clear(l.gone)
	return nil
}
