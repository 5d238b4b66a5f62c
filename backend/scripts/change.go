package scripts

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"waypost/internal/vfs"
)

const (
	folderMode = 0o700
	fileMode   = 0o600
)

// Put stores a script, in the place of the present one of that name if there is
// one. That the source is a script is the caller's to know. Errors are
// HaveSpace's.
func (s *Store) Put(name string, src []byte) error {
	if err := CheckName(name); err != nil {
		return err
	}
	list, err := s.scan()
	if err != nil {
		return err
	}
	if err := s.fits(list, name, int64(len(src))); err != nil {
		return err
	}
	if err := s.prepare(len(list) == 0); err != nil {
		return fmt.Errorf("store script %q: %w", name, err)
	}
	if err := s.remember(name); err != nil {
		return fmt.Errorf("store script %q: %w", name, err)
	}
	if err := vfs.ReplaceFile(s.fs, s.path(name), src, fileMode); err != nil {
		return fmt.Errorf("store script %q: %w", name, err)
	}
	return nil
}

// prepare makes the folder ready for a change. first: there is no script yet, so
// the folder may be one whose name an earlier attempt could not make durable.
func (s *Store) prepare(first bool) error {
	if err := vfs.MkdirAll(s.fs, s.dir(), folderMode); err != nil {
		return err
	}
	if first {
		if err := s.fs.SyncDir(s.root); err != nil {
			return err
		}
	}
	return s.settle()
}

// remember keeps a name that its file's cannot hold. A crash may leave it
// without a script, which is harmless.
func (s *Store) remember(name string) error {
	if base := encode(name); isLong(base) {
		return vfs.ReplaceFile(s.fs, s.in(base+nameSuffix), []byte(name), fileMode)
	}
	return nil
}

// forget is remember's undoing, once the script is durably gone. What it cannot
// remove is harmless.
func (s *Store) forget(name string) {
	if base := encode(name); isLong(base) {
		_ = s.fs.Remove(s.in(base + nameSuffix))
	}
}

// Delete removes a script: ErrActive, ErrNonexistent, ErrBadName.
func (s *Store) Delete(name string) error {
	active, err := s.begin(name)
	if err != nil {
		return err
	}
	if name == active {
		return fmt.Errorf("delete script %q: %w", name, ErrActive)
	}
	if err := vfs.Remove(s.fs, s.path(name)); err != nil {
		return fmt.Errorf("delete script %q: %w", name, err)
	}
	s.forget(name)
	return nil
}

// begin is the beginning of every change to a script that is there.
func (s *Store) begin(name string) (active string, err error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	if err := s.find(name); err != nil {
		return "", err
	}
	if err := s.settle(); err != nil {
		return "", err
	}
	return s.current()
}

// Rename gives a script another name; the active one stays active. ErrNonexistent,
// ErrExists, ErrBadName.
func (s *Store) Rename(from, to string) error {
	active, err := s.begin(from)
	if err != nil {
		return err
	}
	if err := CheckName(to); err != nil {
		return err
	}
	switch err := s.find(to); {
	case err == nil:
		return fmt.Errorf("rename script %q to %q: %w", from, to, ErrExists)
	case !errors.Is(err, ErrNonexistent):
		return err
	}
	if err := s.rename(from, to, from == active); err != nil {
		return fmt.Errorf("rename script %q to %q: %w", from, to, err)
	}
	return nil
}

func (s *Store) rename(from, to string, active bool) error {
	if err := s.remember(to); err != nil {
		return err
	}
	if active {
		if err := s.writeActive(to, from); err != nil {
			return err
		}
	}
	if err := vfs.Rename(s.fs, s.path(from), s.path(to)); err != nil {
		return err
	}
	s.forget(from)
	if active {
		// The renaming is durable and both lines say the same by now: where
		// this fails the next change does it.
		_ = s.writeActive(to)
	}
	return nil
}

// SetActive makes a script the active one, or, with an empty name, none:
// ErrNonexistent, ErrBadName.
func (s *Store) SetActive(name string) error {
	if name == "" {
		if err := s.deactivate(); err != nil {
			return fmt.Errorf("deactivate script: %w", err)
		}
		return nil
	}
	active, err := s.begin(name)
	if err != nil {
		return err
	}
	if active == name {
		// Perhaps by an attempt that could not make it durable.
		err = s.fs.SyncDir(s.dir())
	} else {
		err = s.writeActive(name)
	}
	if err != nil {
		return fmt.Errorf("activate script %q: %w", name, err)
	}
	return nil
}

// deactivate removes the file active. Where there is none, an attempt that could
// not make that durable may have removed it.
func (s *Store) deactivate() error {
	if err := s.fs.Remove(s.in(activeName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.fs.SyncDir(s.dir()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// writeActive writes the file active. Names have no control characters, so that
// lines can hold them.
func (s *Store) writeActive(names ...string) error {
	return vfs.ReplaceFile(s.fs, s.in(activeName), []byte(strings.Join(names, "\n")+"\n"), fileMode)
}

// readActive gives the lines of the file active that can be names.
func (s *Store) readActive() ([]string, error) {
	text, err := vfs.ReadFile(s.fs, s.in(activeName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("active script: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		if name := strings.TrimSuffix(line, "\n"); CheckName(name) == nil {
			names = append(names, name)
		}
	}
	return names, nil
}

// current gives the active script's name, or "". Where none of the lines names a
// script, it is the last one.
func (s *Store) current() (string, error) {
	names, err := s.readActive()
	if err != nil {
		return "", err
	}
	last := ""
	for _, last = range names {
		if err := s.find(last); !errors.Is(err, ErrNonexistent) {
			return last, err
		}
	}
	return last, nil
}

// settle makes one line of the two that an interrupted renaming has left.
func (s *Store) settle() error {
	names, err := s.readActive()
	if err != nil || len(names) < 2 {
		return err
	}
	active, err := s.current()
	if err != nil {
		return err
	}
	return s.writeActive(active)
}
