package spool

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Draft is the copy of a message while it is being received: in memory up to
// Options.MemoryBytes, then in a file that nobody syncs unless it is added. A
// draft is for one goroutine, and must end by Add or Discard.
type Draft struct {
	s    *Spool
	mem  []byte
	file *os.File
	size int64
	err  error
}

// Draft begins one. It costs nothing until it is written to.
func (s *Spool) Draft() *Draft { return &Draft{s: s} }

// Write keeps p. After an error (the disk is full) the draft is of no use, and
// holds no space; Size still counts.
func (d *Draft) Write(p []byte) (int, error) {
	d.size += int64(len(p))
	if d.err != nil {
		return 0, d.err
	}
	if d.file == nil && len(d.mem)+len(p) <= d.s.o.MemoryBytes {
		d.mem = append(d.mem, p...)
		return len(p), nil
	}
	if d.file == nil {
		if d.err = d.spill(); d.err != nil {
			d.drop()
			return 0, d.err
		}
	}
	n, err := d.file.Write(p)
	if err != nil {
		d.err = err
		d.drop()
	}
	return n, err
}

// spill moves what is in memory to a file.
func (d *Draft) spill() error {
	f, err := os.CreateTemp(filepath.Join(d.s.dir, dirTmp), "draft-*")
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

// Discard ends the draft. It does nothing after Add or a former Discard.
func (d *Draft) Discard() {
	d.drop()
	if d.err == nil {
		d.err = errors.New("the draft has ended")
	}
}

func (d *Draft) drop() {
	d.mem = nil
	if d.file != nil {
		d.file.Close()
		os.Remove(d.file.Name())
		d.file = nil
	}
}

// place syncs the message and names it path. The folder is the caller's to
// sync.
func (d *Draft) place(path string) error {
	if d.err != nil {
		return d.err
	}
	if d.file == nil {
		if err := d.spill(); err != nil {
			return err
		}
	}
	if err := d.file.Sync(); err != nil {
		return err
	}
	if err := os.Rename(d.file.Name(), path); err != nil {
		return err
	}
	err := d.file.Close()
	d.file = nil
	return err
}

// Message is an open message of the spool.
type Message interface {
	io.ReadCloser
	io.Seeker
}
