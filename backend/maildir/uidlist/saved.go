package uidlist

import (
	"errors"
	"fmt"

	"waypost/internal/vfs"
)

// ErrChanged: the file is not the one that was saved.
var ErrChanged = errors.New("the uidlist is another by now")

// Saved is what a List knows, for one that goes on without reading the file. It is
// true for as long as the file is as it was: by its inode, size and time.
type Saved struct {
	Header       Header
	Size         int64
	Lines, Stale int
	// Gone are the bases of stale lines, as far as they were asked for.
	Gone []string
	// Inode, FileSize and Modified identify the file; Modified in nanoseconds.
	Inode    uint64
	FileSize int64
	Modified int64
}

// Save tells what the List knows. It reports false for one whose file is to be
// written anew, or is not the List's any more.
func (l *List) Save() (Saved, bool) {
	if l.doubtful || l.salvaged || !l.Intact() {
		return Saved{}, false
	}
	s := Saved{
		Header: l.header, Size: l.size, Lines: l.lines, Stale: l.stale,
		Inode: l.seen.inode, FileSize: l.seen.size, Modified: l.seen.modified,
	}
	for base := range l.gone {
		s.Gone = append(s.Gone, base)
	}
	return s, true
}

// Resume gives the List that was saved of a folder: ErrChanged if the file is another.
func Resume(fsys vfs.FS, folder string, s Saved) (*List, error) {
	l := newList(fsys, folder)
	l.header, l.size, l.lines, l.stale = s.Header, s.Size, s.Lines, s.Stale
	l.seen = stamp{inode: s.Inode, size: s.FileSize, modified: s.Modified}
	for _, base := range s.Gone {
		l.gone[base] = true
	}
	if !l.Intact() {
		return nil, fmt.Errorf("%s: %w", l.path, ErrChanged)
	}
	return l, nil
}
