package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"waypost/backend/control"
	"waypost/internal/durable"
)

// Tracker holds the manifest of one tree. It is safe for concurrent use; what it says
// is as of the last Update, with what Put, Move and Remove told it since.
type Tracker struct {
	root  string
	marks marks

	// updating is held for a whole Update, and taken before mu.
	updating sync.Mutex

	// mu guards all below.
	mu    sync.Mutex
	top   *folder
	index index
	round uint64
	// known are digests of files that are not in the manifest: those that were kept, and
	// those that went away, for they may come back under another name. older are those of
	// the round before.
	known, older map[fileKey]Digest
	// unsaved are paths that changed since they were kept; touched the folders that were
	// changed through this Tracker since Settle.
	unsaved map[control.TreePath]struct{}
	touched map[string]struct{}
	keep    *ledger
	// mark is the last one given out.
	mark *Mark
	// durable: what is in the manifest is synced, but for the folders in unsynced.
	durable  bool
	unsynced map[string]struct{}
	// reads counts the files that were read, looks the names that were looked at.
	reads, looks int
}

// file is an entry with what tells that the file is still the same.
type file struct {
	Entry
	at Stamp
	// racy: it was changed so shortly before it was read that a further change may
	// not show in its times.
	racy  bool
	round uint64
	live  bool
}

// folder is one that is known. rel ends in a slash, but for the tree's own, "".
type folder struct {
	rel   string
	self  *file // nil for the tree itself
	ino   uint64
	files map[string]*file
	subs  map[string]*folder
	round uint64
}

// NewTracker knows nothing yet of the tree at root.
func NewTracker(root string) *Tracker {
	t := &Tracker{root: root, known: make(map[fileKey]Digest), unsaved: make(map[control.TreePath]struct{}), touched: make(map[string]struct{})}
	t.marks.dirs = make(map[string]*mark)
	t.top = newFolder("")
	return t
}

// NewDurable is NewTracker for a tree that is being made: a file that is found there, not
// put, is synced before its digest counts, and a folder in Settle.
func NewDurable(root string) *Tracker {
	t := NewTracker(root)
	t.durable, t.unsynced = true, make(map[string]struct{})
	return t
}

func newFolder(rel string) *folder {
	f := &folder{rel: rel, files: make(map[string]*file), subs: make(map[string]*folder)}
	if rel != "" {
		f.self = &file{Entry: Entry{Path: control.TreePath(rel)}, live: true}
	}
	return f
}

// Entries is how many there are.
func (t *Tracker) Entries() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.index.entries
}

// Summary digests the manifest.
func (t *Tracker) Summary() control.ManifestSummary {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.index.summary()
}

// Manifest gives all of it, in order.
func (t *Tracker) Manifest() control.Manifest {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.manifest()
}

func (t *Tracker) manifest() control.Manifest {
	m := control.Manifest{Entries: make([]control.ManifestEntry, 0, t.index.entries)}
	t.index.each(func(_ int, b *bucket) {
		for _, f := range b.all {
			m.Entries = append(m.Entries, f.control())
		}
	})
	sortEntries(m.Entries)
	return m
}

// note says that a path is not as it was.
func (t *Tracker) note(path control.TreePath) {
	t.unsaved[path] = struct{}{}
	if t.mark != nil {
		t.mark.paths[path] = struct{}{}
	}
}

// insert puts a file into the manifest; a digest is remembered where there is one.
func (t *Tracker) insert(dir *folder, base string, f *file) {
	if old := dir.files[base]; old != nil {
		t.discard(dir, base, old)
	}
	if !f.Digest.Known() && immutable(string(f.Path)) {
		key := keyOf(f.Path, f.at)
		if f.Digest = t.known[key]; !f.Digest.Known() {
			f.Digest = t.older[key]
		}
	}
	f.live, f.round = true, t.round
	dir.files[base] = f
	t.index.add(f)
	t.note(f.Path)
}

// discard takes a file out of the manifest, and remembers its digest.
func (t *Tracker) discard(dir *folder, base string, f *file) {
	if f.Digest.Known() && immutable(string(f.Path)) {
		t.known[keyOf(f.Path, f.at)] = f.Digest
	}
	f.live = false
	delete(dir.files, base)
	t.index.remove(f)
	t.note(f.Path)
}

// sub makes a folder known.
func (t *Tracker) sub(dir *folder, base string) *folder {
	f := newFolder(dir.rel + base + "/")
	f.round = t.round
	dir.subs[base] = f
	t.index.add(f.self)
	t.note(f.self.Path)
	return f
}

// dropFolder forgets a folder with all that is in it.
func (t *Tracker) dropFolder(parent *folder, base string) {
	f := parent.subs[base]
	for name, x := range f.files {
		t.discard(f, name, x)
	}
	for name := range f.subs {
		t.dropFolder(f, name)
	}
	delete(parent.subs, base)
	t.index.remove(f.self)
	t.note(f.self.Path)
	t.marks.forget(f.rel)
}

// find gives the folder of a path and the last part of it; nil if it is not known.
func (t *Tracker) find(path control.TreePath) (*folder, string) {
	rest := strings.TrimSuffix(string(path), "/")
	dir := t.top
	for dir != nil {
		base, more, deeper := strings.Cut(rest, "/")
		if !deeper {
			break
		}
		dir, rest = dir.subs[base], more
	}
	return dir, rest
}

// Learn notes the digest of a file that was read, if it is still the one that is known.
func (t *Tracker) Learn(path control.TreePath, at Stamp, d Digest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	dir, base := t.find(path)
	if dir == nil {
		return
	}
	if f := dir.files[base]; f != nil && !f.Digest.Known() && immutable(string(path)) && f.at.same(at, true) {
		t.settleDigest(f, at, d)
		if len(t.unsaved) > maxUnsaved {
			_ = t.save() // an Update tries again, and tells
		}
	}
}

// maxUnsaved is how many digests a crash may lose.
const maxUnsaved = 4096

func (t *Tracker) settleDigest(f *file, at Stamp, d Digest) {
	t.index.changed(f, func() { f.Digest, f.Size, f.at = d, at.Size, at })
	t.note(f.Path)
}

// touch notes that names came or went in a folder.
func (t *Tracker) touch(rel string) {
	t.touched[rel] = struct{}{}
	if t.durable {
		t.unsynced[rel] = struct{}{}
	}
}

var errUnknownFolder = errors.New("its folder is not known")

// Put notes what has been written to the tree: a folder, or a file with its stamp.
// Settle must follow.
func (t *Tracker) Put(e Entry, at Stamp) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	dir, base := t.find(e.Path)
	if dir == nil {
		return fmt.Errorf("%s: %w", e.Path, errUnknownFolder)
	}
	t.touch(dir.rel)
	if !e.IsDir() {
		e.Link = 0
		t.insert(dir, base, &file{Entry: e, at: at})
		return nil
	}
	if dir.subs[base] == nil {
		t.sub(dir, base)
	}
	t.touched[string(e.Path)] = struct{}{}
	return nil
}

// Move notes that a file got another name, Remove that a file or folder is gone.
func (t *Tracker) Move(from, to control.TreePath) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	was, old := t.find(from)
	is, base := t.find(to)
	if was == nil || is == nil || was.files[old] == nil {
		return fmt.Errorf("%s: %w", from, errUnknownFolder)
	}
	f := was.files[old]
	t.discard(was, old, f)
	e := f.Entry
	e.Path = to
	t.insert(is, base, &file{Entry: e, at: f.at})
	t.touch(was.rel)
	t.touch(is.rel)
	return nil
}

// Remove is explained at Move.
func (t *Tracker) Remove(path control.TreePath) {
	t.mu.Lock()
	defer t.mu.Unlock()
	dir, base := t.find(path)
	if dir == nil {
		return
	}
	t.touch(dir.rel)
	if f := dir.files[base]; f != nil {
		t.discard(dir, base, f)
	}
	if dir.subs[base] != nil {
		t.dropFolder(dir, base)
	}
}

// Settle takes the folders that were changed as they are now, and syncs those of
// NewDurable. It is called when all that was written to them has been told: otherwise
// they are listed again.
func (t *Tracker) Settle() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for rel := range t.touched {
		t.marks.settle(rel, t.path(rel))
		if dir, base := t.find(control.TreePath(rel)); rel != "" && dir != nil && dir.subs[base] != nil {
			if at, _, err := lstat(t.path(rel)); err == nil {
				dir.subs[base].ino = at.Ino
			}
		}
	}
	clear(t.touched)
	var g errgroup.Group
	g.SetLimit(syncers)
	for rel := range t.unsynced {
		g.Go(func() error {
			if err := durable.SyncDir(t.path(rel)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		})
	}
	err := g.Wait()
	if err == nil {
		clear(t.unsynced)
	}
	return err
}

// syncers is how many folders are synced at once: they share the file system's commits.
const syncers = 64

// Look finds an entry; ok is false if there is none.
func (t *Tracker) Look(path control.TreePath) (e Entry, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.entry(path)
}

func (t *Tracker) entry(path control.TreePath) (e Entry, ok bool) {
	dir, base := t.find(path)
	if dir == nil {
		return e, false
	}
	if strings.HasSuffix(string(path), "/") {
		f := dir.subs[base]
		return Entry{Path: path}, f != nil
	}
	f := dir.files[base]
	if f == nil {
		return e, false
	}
	return f.Entry, true
}

func (t *Tracker) path(rel string) string { return filepath.Join(t.root, filepath.FromSlash(rel)) }

// lstat gives what there is at path, and its type (unix.S_IFMT).
func lstat(path string) (Stamp, uint32, error) {
	var st unix.Stat_t
	for {
		err := unix.Lstat(path, &st)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return Stamp{}, 0, &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		return StampOf(&st), st.Mode & unix.S_IFMT, nil
	}
}

// tick is longer than any file system's clock takes for one.
const tick = 100 * time.Millisecond

// recent tells whether a file's times are so new that the next change may not show.
func recent(nanoseconds int64) bool { return time.Since(time.Unix(0, nanoseconds)) < tick }
