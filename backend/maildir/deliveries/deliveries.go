// Package deliveries owns the files in which a user's mailbox remembers keys for
// a time: the delivery ids of messages that the mx tier has delivered already, so
// that delivering one again is a no-op; and, beside it, what filters remember
// (Memory).
//
// Lines are "<unix seconds> <key>", the key percent-encoded. Lines of older
// versions go on with two more fields, which are not needed. A key counts until
// the Log's keep has passed since the time in its line. Lines that are over are
// dropped when they have become many; no key is forgotten earlier. A clock that
// has jumped ahead makes nothing old: it is believed to be as late as the newest
// line, a day added, at most.
//
// # What survives a crash
//
// Append only appends: what it wrote is durable by the caller's journal, or by
// Sync. So does Write, for many keys at once; until then what Later has taken is in
// memory only, and remembered all the same. A crash may take any of the lines appended since, or leave zeros in
// their place, and keep later ones. Lines that are not legible, and a last one
// without an end, do not count; the file is then rewritten before anything is
// appended, so that no damaged line runs into another. Ensure brings back, from
// the journal, what was lost; it and every rewriting are durable.
//
// In memory a Log holds sixteen bytes per key; a hit is confirmed in the file. A
// Log is not safe for concurrent use; the user's lock serialises it. It
// keeps one descriptor from the first append on, until Close.
package deliveries

import (
	"bufio"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"time"

	"waypost/internal/vfs"
)

// Keep is how long a delivery id is remembered at least: the 30 days that are
// promised, and time for clocks that differ.
const Keep = 32 * 24 * time.Hour

// compactAfter is how many lines that are over are left alone.
const compactAfter = 1024

// leap is how much later than the newest line it is believed to be.
const leap = 24 * time.Hour

// MaxKey bounds a key in bytes.
const MaxKey = 1000

// ErrDoubtful: the file is shorter than this Log knows it. It refuses to go on.
var ErrDoubtful = errors.New("log of keys is not as it was left")

// ErrBadKey: a key that is empty or too long.
var ErrBadKey = errors.New("key not possible")

// Entry is one line.
type Entry struct {
	// At is when the message was delivered, in seconds.
	At time.Time
	// Key is the delivery id.
	Key string
}

// Log is one file of keys.
type Log struct {
	fsys vfs.FS
	path string
	keep time.Duration
	seed maphash.Seed
	// keys has the newest time, in unix seconds, by the key's hash.
	keys map[uint64]int64
	size int64 // bytes that are ours
	// lines counts the lines in them, and fresh those since the last look at
	// which are over.
	lines, fresh int
	newest       time.Time // of all lines
	// damaged: something in the file does not count, or it is not known which file has
	// the name. It is rewritten before anything is appended.
	damaged bool
	// f is the file, open for appending since the first time.
	f vfs.File
	// pending are remembered, and not in the file yet.
	pending []Entry
}

// Open reads the log at path; one that does not exist is empty. Keys count for
// keep after their time. It drops old lines if they are many.
func Open(fsys vfs.FS, path string, keep time.Duration, now time.Time) (*Log, error) {
	l := &Log{fsys: fsys, path: path, keep: keep, seed: maphash.MakeSeed(), keys: map[uint64]int64{}}
	f, err := fsys.OpenFile(path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read log of keys: %w", err)
	}
	l.size, l.lines, l.damaged, err = Parse(f, func(e Entry) bool {
		l.learn(e)
		return true
	})
	_ = f.Close() // it was only read
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return l, l.compactIfWorth(now)
}

func (l *Log) learn(e Entry) {
	if e.At.After(l.newest) {
		l.newest = e.At
	}
	h := l.hash(e.Key)
	if at, known := l.keys[h]; !known || at < e.At.Unix() {
		l.keys[h] = e.At.Unix()
	}
}

func (l *Log) hash(key string) uint64 { return maphash.String(l.seed, key) }

// Find gives the newest entry of key, if it is remembered.
func (l *Log) Find(key string) (found Entry, ok bool, err error) {
	if _, maybe := l.keys[l.hash(key)]; !maybe {
		return Entry{}, false, nil
	}
	newest := func(e Entry) bool {
		if e.Key == key && (!ok || e.At.After(found.At)) {
			found, ok = e, true
		}
		return true
	}
	for _, e := range l.pending {
		newest(e)
	}
	err = l.Each(newest)
	return found, ok, err
}

// Each visits all entries that are written, as they stand in the file, until visit returns false.
func (l *Log) Each(visit func(Entry) bool) error {
	if l.lines == 0 {
		return nil
	}
	f, err := l.fsys.OpenFile(l.path, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("read log of keys: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	// What lies behind size is of an append that failed.
	if _, _, _, err = Parse(io.LimitReader(f, l.size), visit); err != nil {
		return fmt.Errorf("read %s: %w", l.path, err)
	}
	return nil
}

// Append remembers e. It is durable by the caller's journal, or by Sync. With an
// error e is not remembered, though a crash may leave its line.
func (l *Log) Append(e Entry) error { return l.appendAt(e, e.At) }

func (l *Log) appendAt(e Entry, now time.Time) error {
	if err := e.check(); err != nil {
		return err
	}
	return l.appendAll([]Entry{e}, now)
}

// Later remembers e in memory, for the next Write.
func (l *Log) Later(e Entry) error {
	if err := e.check(); err != nil {
		return err
	}
	l.pending = append(l.pending, e)
	l.learn(e)
	return nil
}

// Write appends what Later has taken, with one write. After an error it may be
// tried again.
func (l *Log) Write() error {
	if len(l.pending) == 0 {
		return nil
	}
	err := l.appendAll(l.pending, l.pending[len(l.pending)-1].At)
	if err == nil {
		l.pending = nil
	}
	return err
}

func (l *Log) appendAll(list []Entry, now time.Time) error {
	if l.fresh >= max(compactAfter, l.lines/4) {
		if err := l.compactIfWorth(now); err != nil {
			return err
		}
	}
	if l.damaged || l.lines == 0 {
		return l.rewrite(l.believed(now), list)
	}
	var lines []byte
	for _, e := range list {
		lines = append(lines, e.line()...)
	}
	if err := l.append(lines); err != nil {
		return fmt.Errorf("append to log of keys: %w", err)
	}
	l.size += int64(len(lines))
	l.lines += len(list)
	l.fresh += len(list)
	for _, e := range list {
		l.learn(e)
	}
	return nil
}

func (l *Log) append(lines []byte) (err error) {
	if l.f == nil {
		if l.f, err = l.fsys.OpenFile(l.path, os.O_WRONLY, 0); err != nil {
			return err
		}
	}
	info, err := l.f.Stat()
	switch {
	case err != nil:
		l.Close()
		return err
	case info.Size() < l.size:
		l.Close()
		return fmt.Errorf("%d bytes are missing: %w", l.size-info.Size(), ErrDoubtful)
	}
	if _, err = l.f.WriteAt(lines, l.size); err != nil {
		l.damaged = true
		err = errors.Join(err, l.f.Truncate(l.size))
		l.Close()
		return err
	}
	return nil
}

// Close gives the descriptor back; the next Append opens it again.
func (l *Log) Close() {
	if l.f != nil {
		_ = l.f.Close() // written is written, whatever it says
		l.f = nil
	}
}

// Ensure sees to it, after a crash, that entries, which the journal knows, are
// remembered with these times or later ones, and that no damage is left. What had
// to be mended is durable then. Doing it again changes nothing.
func (l *Log) Ensure(entries []Entry) error {
	var missing []Entry
	for _, e := range entries {
		if err := e.check(); err != nil {
			return err
		}
		if at, known := l.keys[l.hash(e.Key)]; !known || at < e.At.Unix() {
			missing = append(missing, e)
		}
	}
	if len(missing) == 0 && !l.damaged {
		return nil
	}
	return l.rewrite(time.Time{}, missing)
}

// Sync makes durable what was appended.
func (l *Log) Sync() error {
	if l.lines == 0 {
		return nil
	}
	f, err := l.fsys.OpenFile(l.path, os.O_RDONLY, 0)
	if err == nil {
		err = errors.Join(f.Datasync(), f.Close())
	}
	if err != nil {
		return fmt.Errorf("sync log of keys: %w", err)
	}
	return nil
}

// believed is the time as far as the clock is believed.
func (l *Log) believed(now time.Time) time.Time {
	if limit := l.newest.Add(leap); now.After(limit) {
		return limit
	}
	return now
}

func (l *Log) over(at int64, now time.Time) bool { return now.Sub(time.Unix(at, 0)) > l.keep }

// compactIfWorth drops the lines that are over, or of a key that has a newer one,
// when they are many and at least half.
func (l *Log) compactIfWorth(now time.Time) error {
	now = l.believed(now)
	l.fresh = 0
	idle := l.lines
	for _, at := range l.keys {
		if !l.over(at, now) {
			idle--
		}
	}
	if idle < compactAfter || idle*2 < l.lines {
		return nil
	}
	return l.rewrite(now, nil)
}

// rewrite replaces the file by one with the entries that count at the time now,
// and more, durably.
func (l *Log) rewrite(now time.Time, more []Entry) error {
	next := &Log{fsys: l.fsys, path: l.path, keep: l.keep, seed: l.seed, keys: map[uint64]int64{}}
	err := vfs.ReplaceFunc(l.fsys, l.path, 0o600, func(w io.Writer) error {
		bw := bufio.NewWriter(w)
		put := func(e Entry) bool {
			if at, twice := next.keys[l.hash(e.Key)]; twice && at >= e.At.Unix() {
				return true
			}
			n, _ := bw.WriteString(e.line()) // its error stays for Flush
			next.size += int64(n)
			next.lines++
			next.learn(e)
			return true
		}
		err := l.Each(func(e Entry) bool {
			newer := e.At.Unix() < l.keys[l.hash(e.Key)]
			return newer || l.over(e.At.Unix(), now) || put(e)
		})
		for _, e := range more {
			put(e)
		}
		return errors.Join(err, bw.Flush())
	})
	l.Close()
	if err != nil {
		// The new file may have the name by now; what is appended to the old one is lost.
		l.damaged = true
		return fmt.Errorf("rewrite log of keys: %w", err)
	}
	next.pending = l.pending
	for _, e := range next.pending {
		next.learn(e)
	}
	*l = *next
	return nil
}
