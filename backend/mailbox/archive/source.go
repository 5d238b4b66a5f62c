package archive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/lineend"
	"waypost/backend/maildir/name"
	"waypost/internal/vfs"
)

// source reads one folder of an archive, and never writes.
type source interface {
	// stamp identifies a state of the folder; settled is false if it changed so
	// recently that another change might not show. fs.ErrNotExist.
	stamp(now time.Time) (stamp string, settled bool, err error)
	// scan gives all messages in the order of their UIDs. known has what needs not be
	// read again.
	scan(known func(key string) *entry) ([]found, error)
	// open opens a message: fs.ErrNotExist if it is not where it was.
	open(e *entry) (mailbox.Body, error)
}

// settling is how long a modification time may stand for more than one change.
const settling = 2 * time.Second

// errOdd: a link, a device or the like, which archives do not follow.
var errOdd = errors.New("neither a file nor a folder")

// openFile opens a regular file, and follows no link.
func openFile(fsys vfs.FS, path string) (vfs.File, fs.FileInfo, error) {
	f, err := fsys.OpenFile(path, syscall.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s: %w", path, errOdd)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

func stampOf(info fs.FileInfo) string {
	var inode uint64
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	return fmt.Sprintf("%d.%d.%d", info.Size(), info.ModTime().UnixNano(), inode)
}

// mbox is a source of one file.
type mbox struct {
	fsys   vfs.FS
	path   string
	quoted bool
}

func (m *mbox) stamp(now time.Time) (string, bool, error) {
	info, err := m.fsys.Lstat(m.path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", m.path, errOdd)
	}
	if err != nil {
		return "", false, err
	}
	return stampOf(info), now.Sub(info.ModTime()) > settling, nil
}

func (m *mbox) scan(func(string) *entry) (all []found, err error) {
	f, info, err := openFile(m.fsys, m.path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	err = split(f, info.Size(), m.quoted, func(x found) error {
		all = append(all, x)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", m.path, err)
	}
	return all, nil
}

func (m *mbox) open(e *entry) (mailbox.Body, error) {
	var from, body, end int64
	if _, err := fmt.Sscanf(e.ref, "%d %d %d", &from, &body, &end); err != nil || from > body || body > end {
		return nil, fmt.Errorf("message at %q of %s: %w", e.ref, m.path, fs.ErrNotExist)
	}
	f, _, err := openFile(m.fsys, m.path)
	if err != nil {
		return nil, err
	}
	sum, err := hashAt(f, from, end)
	if err == nil && e.key != fmt.Sprintf("%d-%s-%d", from, sum, end-from) {
		err = fmt.Errorf("message at %q of %s: %w", e.ref, m.path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return newBody(f, body, end, e.wire, m.quoted), nil
}

// maildir is a source of a folder with cur and new.
type maildir struct {
	fsys vfs.FS
	path string
}

func (m *maildir) stamp(now time.Time) (string, bool, error) {
	if info, err := m.fsys.Lstat(m.path); err != nil {
		return "", false, err
	} else if !info.IsDir() {
		return "", false, fmt.Errorf("%s: %w", m.path, errOdd)
	}
	var parts []string
	settled := true
	for _, sub := range []string{"cur", "new"} {
		info, err := m.fsys.Lstat(filepath.Join(m.path, sub))
		switch {
		case absent(err):
			parts = append(parts, "-")
		case err != nil:
			return "", false, err
		default:
			parts = append(parts, stampOf(info))
			settled = settled && now.Sub(info.ModTime()) > settling
		}
	}
	return strings.Join(parts, " "), settled, nil
}

func (m *maildir) scan(known func(string) *entry) ([]found, error) {
	bases := map[string]found{}
	for _, sub := range []string{"new", "cur"} {
		dir := filepath.Join(m.path, sub)
		info, err := m.fsys.Lstat(dir)
		if absent(err) || err == nil && !info.IsDir() {
			continue
		}
		if err == nil {
			err = m.fsys.ReadDir(dir, func(e fs.DirEntry) error {
				if n, ok := name.Parse(e.Name()); ok && e.Type().IsRegular() {
					bases[n.Base] = found{key: n.Base, ref: sub + "/" + e.Name(),
						flags: systemOf(n.Flags, "SRFTD", mailbox.Seen, mailbox.Answered, mailbox.Flagged, mailbox.Deleted, mailbox.Draft)}
				}
				return nil
			})
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", dir, err)
		}
	}
	all := make([]found, 0, len(bases))
	for _, x := range bases {
		if was := known(x.key); was != nil {
			x.size, x.wire, x.date = was.size, was.wire, was.date
		} else if err := m.measure(&x); absent(err) || errors.Is(err, errOdd) || errors.Is(err, syscall.ELOOP) {
			continue
		} else if err != nil {
			return nil, err
		}
		all = append(all, x)
	}
	name.Sort(all, func(x found) string { return x.key })
	return all, nil
}

// measure reads a message whose name does not tell its sizes rightly.
func (m *maildir) measure(x *found) error {
	f, info, err := openFile(m.fsys, filepath.Join(m.path, x.ref))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	x.date = info.ModTime()
	if x.size, x.wire = name.Sizes(x.key); x.size == info.Size() && x.wire >= x.size {
		return nil
	}
	var count lineend.Counter
	if _, err := io.Copy(&count, f); err != nil {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	x.size, x.wire = count.Size, count.Wire
	return nil
}

func (m *maildir) open(e *entry) (mailbox.Body, error) {
	f, info, err := openFile(m.fsys, filepath.Join(m.path, filepath.FromSlash(e.ref)))
	if err != nil {
		return nil, err
	}
	// Names are wrong now and then, and nobody may mend them here: what is told of the size
	// is what was counted.
	var count lineend.Counter
	if _, err := io.Copy(&count, f); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", f.Name(), err), f.Close())
	}
	return newBody(f, 0, info.Size(), count.Wire, false), nil
}
