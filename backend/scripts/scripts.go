// Package scripts keeps a user's Sieve scripts as plain files under the user's
// folder, so that whatever moves the folder moves them too, and an operator can
// read them.
//
// It owns <root>/sieve and nothing else:
//
//	<encoded name>.sieve   a script, as the client sent it
//	<encoded name>.name    the whole name of a script whose name is too long for
//	                       a file's (RFC 5804, Section 1.6, allows 512 bytes)
//	active                 the name of the active script, one line; no file: none
//
// # Promises
//
// A change that returned nil is durable. After an error, or a crash in between,
// the old state or the new one is there, never a mixture: a script is whole, and
// the active script is the one that was active. While a script that is active gets
// another name, the file active has two lines, the new name and the old one: the
// first that there is a script of is active. The next change makes it one line
// again, so that no later script can become active by its name.
//
// A Store holds no state but its settings and takes no lock: the caller holds the
// user's, and has checked the fence under it. Every call reads or writes a few
// small files; none waits for anybody.
//
// Covered: RFC 5804, Sections 1.4 (active script), 1.5 (quotas), 1.6 (names).
package scripts

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"waypost/internal/vfs"
)

// Errors that are an answer to the user; all others are temporary.
var (
	// ErrBadName: a name that RFC 5804, Section 1.6, does not allow.
	ErrBadName = errors.New("script name not possible")
	// ErrNonexistent: there is no script of that name.
	ErrNonexistent = errors.New("no such script")
	// ErrExists: there is a script of that name already.
	ErrExists = errors.New("script exists already")
	// ErrActive: the active script cannot be deleted.
	ErrActive = errors.New("script is active")
	// ErrTooMany: the user has as many scripts as are allowed.
	ErrTooMany = errors.New("too many scripts")
	// ErrTooLarge: the script is larger than one may be.
	ErrTooLarge = errors.New("script too large")
	// ErrQuota: all scripts together would be larger than they may be.
	ErrQuota = errors.New("no space left for scripts")
)

// Limits are what one user may have; a zero field is its default.
type Limits struct {
	// Scripts is how many; 32.
	Scripts int
	// ScriptBytes bounds one script, TotalBytes all of them; 1 MiB and 4 MiB.
	ScriptBytes, TotalBytes int64
}

// maxSource bounds what is read of a script file, whoever wrote it and whatever
// the limits are by now.
const maxSource = 16 << 20

// Store is one user's scripts.
type Store struct {
	fs     vfs.FS
	root   string
	limits Limits
}

// New gives the scripts of the user whose folder is root, which must be there
// when something is stored. It touches no file.
func New(fsys vfs.FS, root string, l Limits) *Store {
	if l.Scripts <= 0 {
		l.Scripts = 32
	}
	if l.ScriptBytes <= 0 {
		l.ScriptBytes = 1 << 20
	}
	if l.TotalBytes <= 0 {
		l.TotalBytes = 4 << 20
	}
	return &Store{fs: fsys, root: root, limits: l}
}

// Script is a script of a listing; Size is in bytes.
type Script struct {
	Name   string
	Size   int64
	Active bool
}

// Stamp tells sources apart: equal stamps mean equal sources, whoever's they are.
type Stamp [sha256.Size]byte

// Active is the active script; Name is empty where there is none.
type Active struct {
	Name   string
	Source []byte
	Stamp  Stamp
}

const (
	folderName = "sieve"
	activeName = "active"
	suffix     = ".sieve"
	nameSuffix = ".name"
)

func (s *Store) dir() string             { return filepath.Join(s.root, folderName) }
func (s *Store) in(file string) string   { return filepath.Join(s.dir(), file) }
func (s *Store) path(name string) string { return s.in(encode(name) + suffix) }

// List gives all scripts by name. Files that no script's name encodes to are
// somebody else's and left out.
func (s *Store) List() ([]Script, error) {
	list, err := s.scan()
	if err != nil {
		return nil, err
	}
	active, err := s.current()
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i].Active = list[i].Name == active
	}
	return list, nil
}

// scan is List without Active.
func (s *Store) scan() ([]Script, error) {
	var list []Script
	err := s.fs.ReadDir(s.dir(), func(e fs.DirEntry) error {
		base, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || e.IsDir() {
			return nil
		}
		name, ok, err := s.decode(base)
		if err != nil || !ok {
			return err
		}
		info, err := s.fs.Lstat(s.in(e.Name()))
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			list = append(list, Script{Name: name, Size: info.Size()})
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list scripts: %w", err)
	}
	slices.SortFunc(list, func(a, b Script) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Get gives a script's source: ErrNonexistent, ErrBadName.
func (s *Store) Get(name string) ([]byte, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if err := s.find(name); err != nil {
		return nil, err
	}
	src, err := vfs.ReadFile(s.fs, s.path(name))
	if err != nil {
		return nil, fmt.Errorf("read script %q: %w", name, err)
	}
	return src, nil
}

// find reports whether there is a script that can be read: nil or ErrNonexistent.
func (s *Store) find(name string) error {
	info, err := s.fs.Lstat(s.path(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("script %q: %w", name, ErrNonexistent)
	case err != nil:
		return fmt.Errorf("script %q: %w", name, err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("script %q is no file: %w", name, ErrNonexistent)
	case info.Size() > maxSource:
		return fmt.Errorf("script %q has %d bytes", name, info.Size())
	}
	return nil
}

// Active gives the active script. A script that is named active and not there,
// which only a hand in the files can bring about, is ErrNonexistent: the caller
// delivers as without a script, and says so in its log.
func (s *Store) Active() (Active, error) {
	name, err := s.current()
	if err != nil || name == "" {
		return Active{}, err
	}
	src, err := s.Get(name)
	if err != nil {
		return Active{}, fmt.Errorf("active script: %w", err)
	}
	return Active{Name: name, Source: src, Stamp: sha256.Sum256(src)}, nil
}

// HaveSpace reports whether a script of that name and size could be stored, in
// the place of the present one if there is one: nil, ErrTooLarge, ErrTooMany,
// ErrQuota or ErrBadName.
func (s *Store) HaveSpace(name string, size int64) error {
	if err := CheckName(name); err != nil {
		return err
	}
	list, err := s.scan()
	if err != nil {
		return err
	}
	return s.fits(list, name, size)
}

func (s *Store) fits(list []Script, name string, size int64) error {
	if size > s.limits.ScriptBytes {
		return fmt.Errorf("script %q: %d bytes: %w", name, size, ErrTooLarge)
	}
	total, replaced := size, false
	for _, other := range list {
		if other.Name == name {
			replaced = true
			continue
		}
		total += other.Size
	}
	// A user who is over a limit that was lowered may still change scripts.
	if !replaced && len(list) >= s.limits.Scripts {
		return fmt.Errorf("script %q: %w", name, ErrTooMany)
	}
	if total > s.limits.TotalBytes {
		return fmt.Errorf("script %q: %w", name, ErrQuota)
	}
	return nil
}
