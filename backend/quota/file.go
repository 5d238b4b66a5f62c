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

	"golang.org/x/sys/unix"
)

// maxReopens bounds how often a lock is tried on a file that others keep
// replacing. Each time means that somebody else got something done.
const maxReopens = 1000

// lock opens the current file if need be and locks it. Callers hold mu.
func (l *Log) lock(how int, create bool) error {
	if l.closed {
		return os.ErrClosed
	}
	for range maxReopens {
		if l.f == nil {
			if err := l.open(create); err != nil {
				return err
			}
		}
		if err := flock(l.f, how); err != nil {
			return err
		}
		current, err := l.isCurrent()
		if err != nil || !current {
			err = errors.Join(err, l.drop()) // closing unlocks
		}
		if err != nil || current {
			return err
		}
	}
	return errors.New("replaced again and again")
}

// unlock cannot fail in a way that matters: closing unlocks as well.
func (l *Log) unlock() {
	if l.f != nil && flock(l.f, unix.LOCK_UN) != nil {
		_ = l.drop()
	}
}

// open opens the path anew.
func (l *Log) open(create bool) error {
	flags := os.O_RDWR | os.O_APPEND
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(l.path, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) && !create {
		return ErrMissing
	}
	if err != nil {
		return err
	}
	l.f, l.valid = f, false
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

// isCurrent reports whether the path still names the open file.
func (l *Log) isCurrent() (bool, error) {
	named, err := os.Stat(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	own, err := l.f.Stat()
	if err != nil {
		return false, err
	}
	return os.SameFile(named, own), nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("flock", err)
		}
	}
}

// refresh sees to it that contents are those of the locked file.
func (l *Log) refresh() error {
	info, err := l.f.Stat()
	if err != nil {
		return err
	}
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

// remembers reports whether info is that of the file when last looked at. The
// length tells of appends, which is all that the format allows; the time tells of
// most other changes, made by an editor say.
func (l *Log) remembers(info fs.FileInfo) bool {
	return info.Size() == l.size && info.ModTime().Equal(l.modTime)
}

// wrote remembers contents that this Log has just written and that make the file
// size bytes long. Is it longer, a foreign appender came between, and refresh
// will see it.
func (l *Log) wrote(c Contents, size int64) {
	l.contents, l.size = c, size
	info, err := l.f.Stat()
	if l.valid = err == nil && info.Size() == size; l.valid {
		l.modTime = info.ModTime()
	}
}

func readFrom(f *os.File, off int64) ([]byte, error) {
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

// writeOnce makes one write(2). os.File.Write would go on after a short one,
// behind what a foreign appender may have written meanwhile.
func writeOnce(f *os.File, line []byte) error {
	n, err := unix.Write(int(f.Fd()), line)
	if err != nil {
		return os.NewSyscallError("write", err)
	}
	if n < len(line) {
		return io.ErrShortWrite // torn; the next append cuts it off
	}
	return nil
}

// rewrite replaces the locked file by one that holds limit and usage, and locks
// that. The old one is kept for what may be appended to it behind off.
func (l *Log) rewrite(limit Limit, usage Usage, off int64) error {
	info, err := l.f.Stat()
	if err != nil {
		return err
	}
	temp := l.path + tempInfix + rand.Text()
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	data := append(limit.header(), usage.line()...)
	err = fillLike(f, info, data)
	if err == nil {
		err = flock(f, unix.LOCK_EX)
	}
	if err == nil {
		err = os.Rename(temp, l.path)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(temp))
	}
	// Those who wait for the old file may go on to wait for the new.
	_ = flock(l.f, unix.LOCK_UN)
	l.replaced = append(l.replaced, replacedFile{l.f, off, l.now()})
	l.f = f
	l.wrote(Contents{limit, usage, len(data)}, int64(len(data)))
	return nil
}

// fillLike writes data and gives the file the permissions of the one it
// replaces, and its owner where we may: an operator's repair as root must not
// take the log away from the backend.
func fillLike(f *os.File, like fs.FileInfo, data []byte) error {
	if err := f.Chmod(like.Mode().Perm()); err != nil {
		return err
	}
	if st, ok := like.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return writeOnce(f, data)
}

// latePending reports whether something was appended to a replaced file, and
// lets go of those kept long enough.
func (l *Log) latePending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.replaced {
		info, err := r.f.Stat()
		if err != nil || info.Size() > r.off {
			return true
		}
	}
	l.retire()
	return false
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
	l.retire()
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
		if err := l.refresh(); err != nil {
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
func (l *Log) retire() {
	n := 0
	for _, r := range l.replaced {
		if len(l.replaced)-n <= maxReplaced && l.now().Sub(r.since) < keepReplaced {
			break
		}
		_ = r.f.Close() // it was only read
		n++
	}
	l.replaced = append(l.replaced[:0], l.replaced[n:]...)
}
