package backend

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"waypost/backend/control"
	"waypost/backend/manifest"
)

// source is a Maildir++ of another server. It is only read, through an os.Root:
// a link in it leads nowhere outside.
type source struct {
	path  string   // of the Maildir++
	root  *os.Root // at path
	homes []string // where the user's Sieve scripts may be
}

// openSource opens the Maildir++ at path or in path/Maildir, or says why there
// is none. It must not lie among the backend's own files, data/import excepted.
func openSource(path, data string) (*source, error) {
	if err := apart(path, data); err != nil {
		return nil, err
	}
	for _, dir := range []string{path, filepath.Join(path, sourceName)} {
		ok, err := isMaildir(dir)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, err
		}
		s := &source{path: dir, root: root, homes: []string{path}}
		if dir == path && filepath.Base(path) == sourceName {
			s.homes = append(s.homes, filepath.Dir(path))
		}
		return s, nil
	}
	return nil, notMaildir(path)
}

func (s *source) close() { _ = s.root.Close() } // nothing is written through it

// importName is the one folder among the backend's own where a Maildir may lie
// that is taken over: on the same file system for sure, and within what the
// service may see.
const importName = "import"

func apart(path, data string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if data, err = filepath.Abs(data); err == nil {
		data, err = filepath.EvalSymlinks(data)
	}
	if err != nil {
		return err
	}
	in := func(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
	if in(data, path) || in(path, data) && !strings.HasPrefix(path, filepath.Join(data, importName)+"/") {
		return refuse(control.CodeBad, "%s is among the backend's own files: put what is to be taken over into a folder of %s", path, filepath.Join(data, importName))
	}
	return nil
}

func isFolder(path string) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return false, nil
	}
	return err == nil && info.IsDir(), err
}

func isMaildir(dir string) (bool, error) {
	for _, sub := range []string{"cur", "new"} {
		if ok, err := isFolder(filepath.Join(dir, sub)); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// notMaildir says what path is instead, as far as that can be told.
func notMaildir(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return refuse(control.CodeBad, "%s is a file: mbox is not taken over; convert it: doveadm -o mail_location=maildir:NEW sync -1 -R mbox:…", path)
	}
	for _, dir := range []string{path, filepath.Join(path, "mdbox"), filepath.Join(path, "sdbox"), filepath.Join(path, "dbox"), filepath.Join(path, "mail")} {
		if ok, _ := isFolder(filepath.Join(dir, "mailboxes")); !ok {
			continue
		}
		kind := "sdbox"
		if ok, _ := isFolder(filepath.Join(dir, "storage")); ok {
			kind = "mdbox"
		}
		return refuse(control.CodeBad, "%s is Dovecot's %s, which is not taken over; convert it: doveadm -o mail_location=maildir:NEW sync -1 -R %s:%s", dir, kind, kind, dir)
	}
	return refuse(control.CodeBad, "no Maildir: there are no folders cur and new in %s or in %s", path, filepath.Join(path, sourceName))
}

// leaf is a file or folder of a Maildir++, as it was seen.
type leaf struct {
	rel  string
	dir  bool
	size int64
	time time.Time
	ino  uint64
	dev  uint64
}

func (l leaf) message() bool { return !l.dir && manifest.IsMessage(sourceName+"/"+l.rel) }

// same: nobody has touched it. The time of a folder says that names came or
// went, which shows by itself.
func (l leaf) same(o leaf) bool {
	return l.dir == o.dir && l.ino == o.ino && (l.dir || l.size == o.size && l.time.Equal(o.time))
}

// read lists all that is to be taken over, folders before what is in them.
func (s *source) read() ([]leaf, error) {
	var out []leaf
	var walk func(dir string) error
	walk = func(dir string) error {
		names, err := s.names(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			l, ok, err := s.look(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			out = append(out, l)
			if l.dir {
				if err := walk(l.rel); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := walk("."); err != nil {
		return nil, fmt.Errorf("read %s: %w", s.path, err)
	}
	return out, nil
}

func (s *source) names(dir string) ([]string, error) {
	f, err := s.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// look describes one name; ok is false for what is not carried: what manifests
// leave out, and what is neither file nor folder.
func (s *source) look(rel string) (l leaf, ok bool, err error) {
	info, err := s.root.Lstat(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return l, false, nil // it shows in same
	}
	if err != nil {
		return l, false, err
	}
	if strings.HasSuffix(rel, ".lock") && !info.IsDir() && !manifest.IsMessage(sourceName+"/"+rel) {
		return l, false, s.inUse("there is a lock, %s: end what holds it, or remove it if nothing does", rel)
	}
	if manifest.Skip(sourceName+"/"+rel, info.IsDir()) {
		return l, false, nil
	}
	l = leaf{rel: rel, dir: info.IsDir(), size: info.Size(), time: info.ModTime()}
	if st, is := info.Sys().(*syscall.Stat_t); is {
		l.ino, l.dev = st.Ino, uint64(st.Dev)
	}
	switch {
	case l.dir:
		return l, true, s.maildirPlus(rel)
	case info.Mode().IsRegular():
		return l, true, nil
	case info.Mode()&fs.ModeSymlink == 0:
		return l, false, nil
	}
	// What it leads to is another's, for all we know: it is not followed.
	to, err := os.Stat(filepath.Join(s.path, rel))
	if l.message() || filepath.Dir(rel) == "." && strings.HasPrefix(rel, ".") && err == nil && to.IsDir() {
		return l, false, s.refuse("%s is a symbolic link: put what it leads to in its place", rel)
	}
	return l, false, nil
}

// maildirPlus refuses the folders of Dovecot's LAYOUT=fs, which have names
// without a dot.
func (s *source) maildirPlus(rel string) error {
	if base := filepath.Base(rel); base != "cur" || strings.HasPrefix(rel, ".") || rel == "cur" {
		return nil
	}
	if info, err := s.root.Lstat(filepath.Join(filepath.Dir(rel), "new")); err != nil || !info.IsDir() {
		return nil // some folder of the user's own
	}
	return s.refuse("%s is a folder of Dovecot's LAYOUT=fs, which is not taken over; convert it: doveadm -o mail_location=maildir:NEW sync -1 -R maildir:%s:LAYOUT=fs", filepath.Dir(rel), s.path)
}

func (s *source) refuse(format string, a ...any) error {
	return refuse(control.CodeBad, "%s: %s", s.path, fmt.Sprintf(format, a...))
}

func (s *source) inUse(format string, a ...any) error {
	return refuse(control.CodeUnavailable, "%s is in use: %s", s.path, fmt.Sprintf(format, a...))
}

// same reads a second time.
func (s *source) same(tree []leaf) error {
	again, err := s.read()
	if err != nil {
		return err
	}
	if len(again) != len(tree) {
		return s.inUse("files came or went while it was read")
	}
	for i, l := range tree {
		if again[i].rel != l.rel || !again[i].same(l) {
			return s.inUse("%s changed while it was read", again[i].rel)
		}
	}
	return nil
}
