// Package deliveries owns one user's log of delivery ids: which messages the
// mx tier has delivered already, so that delivering one again is a no-op.
//
// Lines are "<unix seconds> <id> <folder> <file>", where id and folder are
// percent-encoded and the folder of INBOX is ".". A line is durable when Append
// returns nil. A line that a crash left torn was never acknowledged; it is cut
// off before the next append. Lines older than Keep are dropped when they have
// become many; no id is forgotten earlier. A clock that has jumped ahead makes
// nothing old: an age is that at the newest line, a day added, at most.
//
// In memory a Log holds eight bytes and a bit per id; a hit is confirmed in the
// file. A Log is not safe for concurrent use; the user's lock serialises it.
package deliveries

import (
	"bufio"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"waypost/internal/durable"
)

// Keep is how long an id is remembered at least: the 30 days that are promised,
// and time for clocks that differ.
const Keep = 32 * 24 * time.Hour

// compactAfter is how many expired lines are left alone.
const compactAfter = 1024

// leap is how much later than the newest line it is believed to be.
const leap = 24 * time.Hour

// maxLine bounds a line in bytes.
const maxLine = 4096

// ErrDoubtful: an append failed and could not be taken back, so that it is not
// known whether the line will be there after a crash. The Log refuses to go on.
var ErrDoubtful = errors.New("end of the delivery log not known")

// ErrBadID: an id that is empty or too long.
var ErrBadID = errors.New("delivery id not possible")

// Entry is one delivery.
type Entry struct {
	At time.Time
	ID string
	// Folder is the folder's directory under the Maildir; "" is INBOX.
	Folder string
	// File is the message's file name without flags.
	File string
}

// Log is one user's log.
type Log struct {
	path string
	seed maphash.Seed
	ids  map[uint64]struct{}
	size int64 // bytes of whole lines
	// lines counts the whole lines, and expired those older than Keep when they
	// were counted last.
	lines, expired, sinceCount int
	newest                     time.Time // of all lines
	broken                     bool
}

// Open reads the log at path; one that does not exist is empty. It drops old
// lines if they are many.
func Open(path string, now time.Time) (*Log, error) {
	l := &Log{path: path, seed: maphash.MakeSeed(), ids: map[uint64]struct{}{}}
	err := l.scan(func(e Entry) bool {
		l.ids[l.hash(e.ID)] = struct{}{}
		l.count(e, now)
		return true
	})
	if err != nil {
		return nil, err
	}
	return l, l.compactIfWorth(now)
}

func (l *Log) count(e Entry, now time.Time) {
	if e.At.After(l.newest) {
		l.newest = e.At
	}
	if now.Sub(e.At) > Keep {
		l.expired++
	}
}

func (l *Log) worth() bool { return l.expired >= compactAfter && l.expired*2 >= l.lines }

func (l *Log) hash(id string) uint64 { return maphash.String(l.seed, id) }

// scan reads the whole lines, and counts them and their bytes anew.
func (l *Log) scan(visit func(Entry) bool) error {
	f, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		l.size, l.lines = 0, 0
		return nil
	}
	if err != nil {
		return fmt.Errorf("read delivery log: %w", err)
	}
	defer f.Close()
	size, lines, err := Parse(f, visit)
	if err != nil {
		return fmt.Errorf("read %s: %w", l.path, err)
	}
	if size >= 0 {
		l.size, l.lines = size, lines
	}
	return nil
}

// Parse reads a log. It gives the bytes and number of whole lines, or size -1
// if visit ended it early. Lines it cannot read are skipped.
func Parse(r io.Reader, visit func(Entry) bool) (size int64, lines int, err error) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		for errors.Is(err, bufio.ErrBufferFull) {
			size += int64(len(line))
			line, err = br.ReadSlice('\n')
		}
		if errors.Is(err, io.EOF) {
			return size, lines, nil
		}
		if err != nil {
			return size, lines, err
		}
		size += int64(len(line))
		lines++
		if e, ok := parseLine(string(line[:len(line)-1])); ok && !visit(e) {
			return -1, lines, nil
		}
	}
}

func parseLine(line string) (Entry, bool) {
	f := strings.Split(line, " ")
	if len(f) < 4 {
		return Entry{}, false
	}
	at, err := strconv.ParseInt(f[0], 10, 64)
	id, idErr := url.PathUnescape(f[1])
	folder, folderErr := url.PathUnescape(f[2])
	// Foreign file names may have spaces; ours have not.
	file := strings.Join(f[3:], " ")
	if err != nil || idErr != nil || folderErr != nil || id == "" || folder == "" || file == "" || strings.ContainsAny(file, "/\x00") {
		return Entry{}, false
	}
	if folder == "." {
		folder = ""
	}
	return Entry{At: time.Unix(at, 0), ID: id, Folder: folder, File: file}, true
}

func (e Entry) line() string {
	folder := e.Folder
	if folder == "" {
		folder = "."
	}
	return fmt.Sprintf("%d %s %s %s\n", e.At.Unix(), url.PathEscape(e.ID), url.PathEscape(folder), e.File)
}

// Find gives the entry of id, if it is remembered.
func (l *Log) Find(id string) (found Entry, ok bool, err error) {
	if _, maybe := l.ids[l.hash(id)]; !maybe {
		return Entry{}, false, nil
	}
	size, lines := l.size, l.lines
	err = l.scan(func(e Entry) bool {
		if e.ID == id {
			found, ok = e, true
		}
		return !ok
	})
	// What the scan saw behind the last acknowledged line is not ours.
	l.size, l.lines = size, lines
	return found, ok, err
}

// Each visits all entries until visit returns false.
func (l *Log) Each(visit func(Entry) bool) error {
	size, lines := l.size, l.lines
	err := l.scan(visit)
	l.size, l.lines = size, lines
	return err
}

// Append remembers e, durably. With an error e is not remembered, not after a
// crash either, unless the error is ErrDoubtful.
func (l *Log) Append(e Entry) error {
	if e.ID == "" || len(e.line()) > maxLine {
		return fmt.Errorf("delivery id %.40q: %w", e.ID, ErrBadID)
	}
	if l.broken {
		return fmt.Errorf("append to %s: %w", l.path, ErrDoubtful)
	}
	if l.sinceCount >= compactAfter {
		if err := l.recount(e.At); err != nil {
			return err
		}
		if err := l.compactIfWorth(e.At); err != nil {
			return err
		}
	}
	if err := l.append(e.line()); err != nil {
		return fmt.Errorf("append to delivery log: %w", err)
	}
	l.ids[l.hash(e.ID)] = struct{}{}
	if e.At.After(l.newest) {
		l.newest = e.At
	}
	l.lines++
	l.sinceCount++
	return nil
}

func (l *Log) append(line string) error {
	f, err := l.openForAppend()
	if err != nil {
		return err
	}
	return l.write(f, line)
}

// appendFile is what write needs of an *os.File.
type appendFile interface {
	io.WriterAt
	Fd() uintptr
	Truncate(size int64) error
	Sync() error
	Close() error
}

// write writes a line at the log's end, and closes f. What was synced is
// there, whatever Close says.
func (l *Log) write(f appendFile, line string) error {
	defer func() { _ = f.Close() }()
	_, err := f.WriteAt([]byte(line), l.size)
	if err == nil {
		err = unix.Fdatasync(int(f.Fd()))
	}
	if err == nil {
		l.size += int64(len(line))
		return nil
	}
	// The line must not turn up after a crash: its message will not be there.
	if cutErr := errors.Join(f.Truncate(l.size), f.Sync()); cutErr != nil {
		l.broken = true
		return errors.Join(ErrDoubtful, err, cutErr)
	}
	return err
}

// openForAppend opens the log, makes it if need be, and cuts a torn end.
func (l *Log) openForAppend() (*os.File, error) {
	f, err := os.OpenFile(l.path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err := durable.WriteFile(l.path, nil, 0o600); err != nil {
			return nil, err
		}
		l.size = 0
		f, err = os.OpenFile(l.path, os.O_WRONLY, 0)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > l.size {
		err = f.Truncate(l.size)
	}
	if err == nil && info.Size() < l.size {
		err = fmt.Errorf("%d bytes are missing: %w", l.size-info.Size(), ErrDoubtful)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// recount finds how many lines are expired at a time that is believed.
func (l *Log) recount(now time.Time) error {
	l.sinceCount, l.expired = 0, 0
	return l.Each(func(e Entry) bool {
		l.count(e, now)
		return true
	})
}

// compactIfWorth drops the expired lines when they are many and at least half.
func (l *Log) compactIfWorth(now time.Time) error {
	if limit := l.newest.Add(leap); l.worth() && now.After(limit) {
		now = limit
		if err := l.recount(now); err != nil {
			return err
		}
	}
	if !l.worth() {
		return nil
	}
	ids := map[uint64]struct{}{}
	var size int64
	lines := 0
	err := durable.WriteFunc(l.path, 0o600, func(w io.Writer) error {
		bw := bufio.NewWriter(w)
		err := l.Each(func(e Entry) bool {
			if now.Sub(e.At) <= Keep {
				n, _ := bw.WriteString(e.line()) // its error stays for Flush
				ids[l.hash(e.ID)] = struct{}{}
				size += int64(n)
				lines++
			}
			return true
		})
		return errors.Join(err, bw.Flush())
	})
	if err != nil {
		return fmt.Errorf("compact delivery log: %w", err)
	}
	l.ids, l.size, l.lines, l.expired = ids, size, lines, 0
	return nil
}
