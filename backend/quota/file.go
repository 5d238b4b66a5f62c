package quota

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"waypost/internal/vfs"
)

// maxReopens bounds how often a lock is tried on a file that others keep
// replacing. Each time means that somebody else got something done.
const maxReopens = 1000

// lock opens the current file if need be, locks it, and tells what it is. Callers
// hold mu.
func (l *Log) lock(exclusive, create bool) (fs.FileInfo, error) {
	if l.closed {
		return nil, os.ErrClosed
	}
	for range maxReopens {
		if l.f == nil {
			if err := l.open(create); err != nil {
				return nil, err
			}
		}
		if err := l.f.Lock(exclusive); err != nil {
			return nil, err
		}
		info, err := l.fsys.Lstat(l.path)
		if err == nil && idOf(info) == l.id {
			return info, nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err = errors.Join(err, l.drop()); err != nil { // closing unlocks
			return nil, err
		}
	}
	return nil, errors.New("replaced again and again")
}

// unlock cannot fail in a way that matters: closing unlocks as well.
func (l *Log) unlock() {
	if l.f != nil && l.f.Unlock() != nil {
		_ = l.drop()
	}
}

// open opens the path anew.
func (l *Log) open(create bool) error {
	flags := os.O_RDWR | os.O_APPEND
	if create {
		flags |= os.O_CREATE
	}
	f, err := l.fsys.OpenFile(l.path, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) && !create {
		return ErrMissing
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.f, l.id, l.valid = f, idOf(info), false
	return nil
}

func (l *Log) drop() error {
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f, l.valid = nil, false
	return err
}

// fileID tells files apart as long as they are open.
type fileID struct{ device, inode uint64 }

func idOf(info fs.FileInfo) (id fileID) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id = fileID{uint64(st.Dev), st.Ino}
	}
	return id
}

// refresh sees to it that contents are those of the locked file, which info is of.
func (l *Log) refresh(info fs.FileInfo) error {
	if l.valid && l.remembers(info) {
		return nil
	}
	l.valid = false
	data, err := readFrom(l.f, 0)
	if err != nil {
		return err
	}
	c, err := Parse(data)
	if err != nil {
		return err
	}
	l.contents, l.valid = c, true
	l.size, l.modTime = int64(len(data)), info.ModTime()
	return nil
}

// refreshNow is refresh after something else was done under the lock.
func (l *Log) refreshNow() error {
	info, err := l.f.Stat()
	if err != nil {
		return err
	}
	return l.refresh(info)
}

// remembers reports whether info is that of the file when last looked at. The
// length tells of appends, which is all that the format allows; the time tells of
// most other changes, made by an editor say. Behind a write of our own the time is
// not known, and is learnt here: to ask for it at once would cost each change a
// system call more.
func (l *Log) remembers(info fs.FileInfo) bool {
	if info.Size() != l.size {
		return false
	}
	if l.modTime.IsZero() {
		l.modTime = info.ModTime()
	}
	return info.ModTime().Equal(l.modTime)
}

// wrote remembers contents that this Log has just written and that make the file
// size bytes long. Is it longer, a foreign appender came between, and refresh
// will see it.
func (l *Log) wrote(c Contents, size int64) {
	l.contents, l.size, l.modTime, l.valid = c, size, time.Time{}, true
}

func readFrom(f vfs.File, off int64) ([]byte, error) {
	data, err := io.ReadAll(io.NewSectionReader(f, off, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFileBytes {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrCorrupt, maxFileBytes)
	}
	return data, nil
}

// appendLine writes a change to the locked and refreshed file, coalescing first
// where the file would grow too long or ends in a torn line.
func (l *Log) appendLine(change Usage) error {
	sum, ok := l.contents.Usage.plus(change)
	if !ok {
		return fmt.Errorf("%w: sum beyond 64 bits", ErrCorrupt)
	}
	line := change.line()
	torn := int64(l.contents.CompleteBytes) < l.size
	if torn || l.size+int64(len(line)) > coalesceBytes {
		err := l.rewrite(l.contents.Limit, l.contents.Usage, int64(l.contents.CompleteBytes))
		if err != nil {
			return fmt.Errorf("coalesce: %w", err)
		}
	}
	if err := writeOnce(l.f, line); err != nil {
		l.valid = false
		return err
	}
	c := Contents{l.contents.Limit, sum, l.contents.CompleteBytes + len(line)}
	l.wrote(c, l.size+int64(len(line)))
	return nil
}

// writeOnce makes one write(2), but on a disk that is full: then the line is torn,
// and the next append cuts it off.
func writeOnce(f vfs.File, line []byte) error {
	_, err := f.Write(line)
	return err
}

// rewrite replaces the locked file by one that holds limit and usage, and locks
// that. The old one is kept for what may be appended to it behind off.
func (l *Log) rewrite(limit Limit, usage Usage, off int64) error {
	info, err := l.f.Stat()
	if err != nil {
		return err
	}
	temp := l.path + tempInfix + rand.Text()
	f, err := l.fsys.OpenFile(temp, os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	data := append(limit.header(), usage.line()...)
	err = fillLike(f, info, data)
	if err == nil {
		err = f.Lock(true)
	}
	if err == nil {
		info, err = f.Stat()
	}
	if err == nil {
		err = l.fsys.Rename(temp, l.path)
	}
	if err != nil {
		return errors.Join(err, f.Close(), l.fsys.Remove(temp))
	}
	// Those who wait for the old file may go on to wait for the new.
	_ = l.f.Unlock()
	l.replaced = append(l.replaced, replacedFile{l.f, off, l.now()})
	l.f, l.id = f, idOf(info)
	l.wrote(Contents{limit, usage, len(data)}, int64(len(data)))
	l.modTime = info.ModTime() // which renaming has not changed
	return nil
}

// fillLike writes data and gives the file the permissions of the one it
// replaces, and its owner where we may: an operator's repair as root must not
// take the log away from the backend.
func fillLike(f vfs.File, like fs.FileInfo, data []byte) error {
	if err := f.Chmod(like.Mode().Perm()); err != nil {
		return err
	}
	owned, can := f.(interface{ Chown(uid, gid int) error })
	if st, ok := like.Sys().(*syscall.Stat_t); ok && can && os.Geteuid() == 0 {
		if err := owned.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return writeOnce(f, data)
}

// latePending reports whether something was appended to a replaced file, and
// lets go of those kept long enough. Callers hold mu. It looks at times only, since
// each look is a system call per file.
func (l *Log) latePending() bool {
	if len(l.replaced) == 0 {
		return false
	}
	now := l.now()
	if now.Sub(l.looked) < l.lookEvery && len(l.replaced) <= maxReplaced {
		return false
	}
	for _, r := range l.replaced {
		if r.late() {
			return true
		}
	}
	l.looked = now
	l.retire(now)
	return false
}

func (r replacedFile) late() bool {
	info, err := r.f.Stat()
	return err != nil || info.Size() > r.off
}

// carryOver appends to the locked file what came late to replaced ones.
func (l *Log) carryOver() error {
	// By index: an append may coalesce, and so lengthen the list, whose new
	// last file has nothing to carry over yet or is reached in this loop.
	for i := 0; i < len(l.replaced); i++ {
		if err := l.carryOverFrom(i); err != nil {
			return err
		}
	}
	l.looked = l.now()
	l.retire(l.looked)
	return nil
}

func (l *Log) carryOverFrom(i int) error {
	r := l.replaced[i]
	info, err := r.f.Stat()
	if err != nil || info.Size() <= r.off {
		return err
	}
	data, err := readFrom(r.f, r.off)
	if err != nil {
		return err
	}
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	late, err := sumLines(data)
	if err != nil {
		// Told once; the recount it calls for will see what these lines meant.
		l.replaced[i].off += int64(len(data))
		return err
	}
	if late != (Usage{}) {
		if err := l.refreshNow(); err != nil {
			return err
		}
		if err := l.appendLine(late); err != nil {
			return err
		}
	}
	l.replaced[i].off += int64(len(data))
	return nil
}

// retire closes replaced files that nobody can still have open for writing.
func (l *Log) retire(now time.Time) {
	n := 0
	for _, r := range l.replaced {
		if len(l.replaced)-n <= maxReplaced && now.Sub(r.since) < keepReplaced {
			break
		}
		_ = r.f.Close() // it was only read
		n++
	}
	l.replaced = append(l.replaced[:0], l.replaced[n:]...)
}
