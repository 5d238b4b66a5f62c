package manifest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"waypost/backend/control"
)

// Hashing says how much is read in an Update.
type Hashing int

const (
	// HashFew reads messages only if all that are not known are few.
	HashFew Hashing = iota
	// HashSome goes on reading for a while (hashTime).
	HashSome
	// HashAll reads all, and fails where a file vanishes before it is read.
	HashAll
)

const (
	hashTime  = 20 * time.Second
	saveEvery = 5 * time.Second
	fewBytes  = 8 << 20
	hashers   = 2
	hashBytes = 256 << 10
)

// Update brings the manifest up to date. Of a tree that is being written to it may
// miss what changes meanwhile, and the next Update has it; of one that nobody writes
// to it is exact. HashAll leaves no digest open.
func (t *Tracker) Update(ctx context.Context, h Hashing) error {
	t.updating.Lock()
	defer t.updating.Unlock()
	err := t.list(ctx)
	if err == nil {
		err = t.hash(ctx, h)
	}
	if err == nil {
		err = t.Save()
	}
	if err != nil {
		return fmt.Errorf("manifest of %s: %w", t.root, err)
	}
	return nil
}

// walk is one look at the tree. Files come into the manifest at its end, when all that
// went is known: a digest goes along with a message from folder to folder.
type walk struct {
	t     *Tracker
	ctx   context.Context
	found []arrival
}

type arrival struct {
	dir  *folder
	base string
	file *file
}

func (t *Tracker) list(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.round++
	w := &walk{t: t, ctx: ctx}
	err := w.visit(nil, t.top, "")
	for _, a := range w.found {
		t.insert(a.dir, a.base, a.file)
	}
	if err == nil {
		t.older, t.known = t.known, make(map[fileKey]Digest)
	}
	return err
}

// visit looks at one folder and those below.
func (w *walk) visit(parent *folder, f *folder, base string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	path := w.t.path(f.rel)
	look, err := w.t.marks.take(f.rel, path)
	if err != nil {
		if parent != nil && gone(err) {
			w.t.dropFolder(parent, base)
			return nil
		}
		return err
	}
	if look.ino != f.ino {
		f.ino, look.all = look.ino, true
	}
	if look.all {
		if w.t.durable {
			w.t.unsynced[f.rel] = struct{}{}
		}
		err = w.relist(f, path)
	} else {
		err = w.some(f, path, look.names)
	}
	if err != nil {
		if parent != nil && gone(err) {
			w.t.dropFolder(parent, base)
			return nil
		}
		// What was noted is used up.
		w.t.marks.doubt(f.rel)
		return err
	}
	for name, sub := range f.subs {
		if err := w.visit(f, sub, name); err != nil {
			return err
		}
	}
	return nil
}

// some looks at names that were noted, and at what may change in place.
func (w *walk) some(f *folder, path string, names map[string]struct{}) error {
	for name := range names {
		if err := w.name(f, path, name); err != nil {
			return err
		}
	}
	if IsMessage(f.rel + "x") {
		return nil // nothing in there changes in place
	}
	for name, x := range f.files {
		if _, done := names[name]; done || immutable(string(x.Path)) {
			continue
		}
		if err := w.name(f, path, name); err != nil {
			return err
		}
	}
	return nil
}

// relist looks at all that is in a folder.
func (w *walk) relist(f *folder, path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			if err := w.name(f, path, name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
	}
	for name, x := range f.files {
		if x.round != w.t.round {
			w.t.discard(f, name, x)
		}
	}
	for name, x := range f.subs {
		if x.round != w.t.round {
			w.t.dropFolder(f, name)
		}
	}
	return nil
}

// name looks at one name of a folder.
func (w *walk) name(f *folder, path, base string) error {
	rel := f.rel + base
	w.t.looks++
	at, kind, err := lstat(path + "/" + base)
	if err != nil && !gone(err) {
		return err
	}
	isDir := err == nil && kind == unix.S_IFDIR && !Skip(rel, true)
	isFile := err == nil && kind == unix.S_IFREG && !Skip(rel, false)
	if sub := f.subs[base]; sub != nil {
		if isDir {
			sub.round = w.t.round
			return nil
		}
		w.t.dropFolder(f, base)
	}
	old := f.files[base]
	switch {
	case isDir:
		w.t.sub(f, base)
	case isFile && old != nil && !old.racy && old.at.same(at, immutable(rel)):
		old.at, old.round = at, w.t.round
		return nil
	case isFile:
		e := Entry{Path: control.TreePath(rel), Size: at.Size}
		if IsMessage(rel) {
			e.MTime = seconds(at.MTime)
		}
		w.found = append(w.found, arrival{f, base, &file{Entry: e, at: at}})
	}
	if old != nil {
		w.t.discard(f, base, old)
	}
	return nil
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// hash reads files whose digests are not known.
func (t *Tracker) hash(ctx context.Context, h Hashing) error {
	todo := t.toHash(h)
	deadline := time.Now().Add(hashTime)
	work := make(chan *file)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		saved := time.Now()
		for _, f := range todo {
			if time.Since(saved) > saveEvery {
				if err := t.Save(); err != nil {
					return err
				}
				saved = time.Now()
			}
			if h == HashSome && immutable(string(f.Path)) && time.Now().After(deadline) {
				return nil
			}
			select {
			case work <- f:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range min(hashers, len(todo)) {
		g.Go(func() error {
			buf := make([]byte, hashBytes)
			for f := range work {
				err := t.read(f, buf)
				if gone(err) && h != HashAll {
					continue // the next Update knows
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// toHash chooses what is read: what may be changed in place comes first, being little.
func (t *Tracker) toHash(h Hashing) (todo []*file) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var messages []*file
	var bytes int64
	for f := range t.index.blank {
		if !immutable(string(f.Path)) {
			todo = append(todo, f)
			continue
		}
		messages = append(messages, f)
		bytes += f.Size
	}
	if h != HashFew || bytes <= fewBytes {
		todo = append(todo, messages...)
	}
	return todo
}

// read takes the digest of a file.
func (t *Tracker) read(f *file, buf []byte) error {
	d, err := os.OpenFile(t.path(string(f.Path)), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		return &fs.PathError{Op: "fstat", Path: d.Name(), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return &fs.PathError{Op: "open", Path: d.Name(), Err: fs.ErrNotExist}
	}
	if t.durable {
		if err := d.Sync(); err != nil {
			return err
		}
	} else {
		// The freeze will sync it: what is on its way to the disk by then costs little.
		// Only a hint, which takes no error away from the sync.
		_ = unix.SyncFileRange(int(d.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{d}, buf)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	at := StampOf(&st)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reads++
	if !f.live {
		return nil
	}
	if at.Size != n {
		at.CTime = 0 // it grew while it was read: the next Update reads it again
	}
	at.Size = n
	f.racy = !immutable(string(f.Path)) && recent(max(at.MTime, at.CTime))
	t.settleDigest(f, at, Digest(h.Sum(nil)))
	return nil
}
