package entries

import (
	"errors"
	"os"
	"path/filepath"
)

// Draft is the copy of a message while it is being received: in memory up to
// the store's bound, then in a file that nobody syncs unless it is put. A draft
// is for one goroutine, may be put several times, and must end by Discard.
type Draft struct {
	tmp    string
	limit  int
	mem    []byte
	file   *os.File
	lent   bool // the file is an entry's message: nothing is written or removed
	synced bool
	size   int64
	err    error
}

// Draft begins one. It costs nothing until it is written to.
func (s *Store) Draft() *Draft {
	return &Draft{tmp: filepath.Join(s.dir, string(dirTmp)), limit: s.memory}
}

var errLent = errors.New("the draft is the message of an entry")

// DraftOf gives the message of an entry as a draft for another one, of another
// store on the same file system too. Nothing can be added to it.
func (s *Store) DraftOf(f Folder, id string) (*Draft, error) {
	file, err := os.Open(s.path(f, id, extMsg))
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &Draft{file: file, lent: true, synced: true, size: info.Size()}, nil
}

// Write keeps p. After an error (the disk is full) the draft is of no use, and
// holds no space; Size still counts.
func (d *Draft) Write(p []byte) (int, error) {
	if d.lent {
		return 0, errLent
	}
	d.size += int64(len(p))
	if d.err != nil {
		return 0, d.err
	}
	if d.file == nil && len(d.mem)+len(p) <= d.limit {
		d.mem = append(d.mem, p...)
		return len(p), nil
	}
	if d.file == nil {
		if d.err = d.spill(); d.err != nil {
			d.drop()
			return 0, d.err
		}
	}
	d.synced = false
	n, err := d.file.Write(p)
	if err != nil {
		d.err = err
		d.drop()
	}
	return n, err
}

// spill moves what is in memory to a file.
func (d *Draft) spill() error {
	f, err := os.CreateTemp(d.tmp, "draft-*")
	if err != nil {
		return err
	}
	d.file = f
	if _, err := f.Write(d.mem); err != nil {
		return err
	}
	d.mem = nil
	return nil
}

// Size is the number of bytes written so far.
func (d *Draft) Size() int64 { return d.size }

// Spilled reports whether the draft is in a file.
func (d *Draft) Spilled() bool { return d.file != nil }

// Discard ends the draft. It does nothing after a former Discard.
func (d *Draft) Discard() {
	d.drop()
	if d.err == nil {
		d.err = errors.New("the draft has ended")
	}
}

func (d *Draft) drop() {
	d.mem = nil
	if d.file == nil {
		return
	}
	d.file.Close()
	if !d.lent {
		os.Remove(d.file.Name())
	}
	d.file = nil
}

// place syncs the message and gives it the name path, by a hard link: the
// draft keeps its own until it is discarded. The folder is the caller's to sync.
func (d *Draft) place(path string) error {
	if d.err != nil {
		return d.err
	}
	if d.file == nil {
		if err := d.spill(); err != nil {
			return err
		}
	}
	if !d.synced {
		if err := d.file.Sync(); err != nil {
			d.err = err // what a failed sync leaves is not known
			return err
		}
		d.synced = true
	}
	os.Remove(path) // without an envelope it is litter
	return os.Link(d.file.Name(), path)
}
