package maildir

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"waypost/internal/vfs"
)

// validityName is the file with the last UIDVALIDITY given, in hexadecimal, and
// with a dot and the same number behind it the name of an empty file that
// says it again. Dovecot keeps both.
const validityName = "dovecot-uidvalidity"

// nextValidity gives a UIDVALIDITY that no folder of the mailbox has had: over
// the last one, over floor, and not below the time. It is durable on return.
func nextValidity(fsys vfs.FS, maildir string, floor uint32, now time.Time) (uint32, error) {
	last, marks, err := lastValidity(fsys, maildir)
	if err != nil {
		return 0, fmt.Errorf("UIDVALIDITY: %w", err)
	}
	next := uint32(min(max(now.Unix(), 1), math.MaxUint32-1))
	for _, used := range []uint32{last, floor} {
		// A number close to the end can only be damage; above it there would be
		// no room.
		if used >= next && used < math.MaxUint32-1<<16 {
			next = used + 1
		}
	}
	text := fmt.Sprintf("%08x", next)
	mark := filepath.Join(maildir, validityName+"."+text)
	if err := vfs.CreateFile(fsys, mark, nil, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return 0, fmt.Errorf("UIDVALIDITY: %w", err)
	}
	// This syncs the folder with the mark as well.
	if err := vfs.ReplaceFile(fsys, filepath.Join(maildir, validityName), []byte(text), 0o600); err != nil {
		return 0, fmt.Errorf("UIDVALIDITY: %w", err)
	}
	for _, old := range marks {
		if old != mark {
			err = errors.Join(err, fsys.Remove(old))
		}
	}
	return next, err
}

// lastValidity reads both places and gives the higher number.
func lastValidity(fsys vfs.FS, maildir string) (last uint32, marks []string, err error) {
	data, err := vfs.ReadFile(fsys, filepath.Join(maildir, validityName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, err
	}
	numbers := []string{strings.TrimSpace(string(data))}
	err = fsys.ReadDir(maildir, func(e fs.DirEntry) error {
		if number, ok := strings.CutPrefix(e.Name(), validityName+"."); ok {
			numbers = append(numbers, number)
			marks = append(marks, filepath.Join(maildir, e.Name()))
		}
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	for _, number := range numbers {
		if n, err := strconv.ParseUint(number, 16, 32); err == nil {
			last = max(last, uint32(n))
		}
	}
	return last, marks, nil
}
