package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"waypost/backend/backup/filing"
	"waypost/backend/control"
	"waypost/backend/manifest"
	"waypost/director"
	"waypost/internal/durable"
)

// Took is what one backup of a user came to.
type Took struct {
	Meta
	// CopiedFiles and CopiedBytes came from the backend; SharedFiles are links to
	// what an earlier generation, or a run that was broken off, had.
	CopiedFiles int64
	CopiedBytes int64
	SharedFiles int64
	// Previous is why nothing is shared with the generation before: it cannot be
	// read.
	Previous error
}

// Take makes a generation of a user at the backend that c calls, its home.
// Progress, where it is not nil, is called with files and bytes as they come.
func (a *Archive) Take(ctx context.Context, c *control.Client, u director.User, progress func(files, bytes int64)) (Took, error) {
	t := &taking{a: a, dir: filepath.Join(a.user(u), partialName), progress: progress}
	if err := t.previous(u); err != nil {
		return t.took, err
	}
	snap, err := c.Snapshot(ctx, u)
	if err != nil {
		return t.took, err
	}
	err = t.fill(ctx, snap)
	if err = errors.Join(err, snap.Close()); err != nil {
		return t.took, fmt.Errorf("backup of %s: %w", u, err)
	}
	return t.took, nil
}

// taking is one Take.
type taking struct {
	a        *Archive
	dir      string
	progress func(files, bytes int64)
	took     Took

	prev Generation
	last int // the highest generation there is
	// messages of the previous generation and of .partial, by what they are; a key
	// that stands for two contents is taken for none.
	known, begun map[messageKey]source
	small        map[control.TreePath]string // digests of the previous one's other files

	mu      sync.Mutex // guards what follows
	digests map[string]string
}

// messageKey names a message: its unique name, size and date. Folder and flags may
// change; contents do not, under one name.
type messageKey struct {
	unique      string
	size, mtime int64
}

type source struct {
	path, digest string
	twice        bool
}

func keyOf(e control.ManifestEntry) messageKey {
	unique, _, _ := strings.Cut(filepath.Base(string(e.Path)), ":2,")
	return messageKey{unique, e.Size, e.MTime}
}

// previous reads what the newest generation has.
func (t *taking) previous(u director.User) error {
	t.known, t.begun = map[messageKey]source{}, map[messageKey]source{}
	t.small, t.digests = map[control.TreePath]string{}, map[string]string{}
	gens, err := t.a.Generations(u)
	if err != nil || len(gens) == 0 {
		return err
	}
	t.last = gens[len(gens)-1]
	g, err := t.a.Read(u, t.last)
	if err != nil {
		t.took.Previous = err // a damaged one must not be the last one
		return nil
	}
	t.prev = g
	for _, e := range g.Entries {
		switch {
		case manifest.IsMessage(string(e.Path)):
			k := keyOf(e)
			old, there := t.known[k]
			t.known[k] = source{filepath.Join(g.Tree, string(e.Path)), e.Digest, there && (old.twice || old.digest != e.Digest)}
		case e.Digest != "":
			t.small[e.Path] = e.Digest
		}
	}
	return nil
}

func (t *taking) fill(ctx context.Context, snap *control.Snapshot) error {
	tree := filepath.Join(t.dir, treeName)
	if err := durable.MkdirAll(tree, 0o700); err != nil {
		return err
	}
	if err := t.resume(ctx, tree, snap.Entries); err != nil {
		return err
	}
	var missing []control.TreePath
	want := make(map[control.TreePath]control.ManifestEntry, len(snap.Entries))
	wanted := make(map[control.TreePath]bool, len(snap.Entries))
	for _, e := range snap.Entries {
		wanted[e.Path] = true
		if !filepath.IsLocal(strings.TrimSuffix(string(e.Path), "/")) {
			return fmt.Errorf("path %q leads out of the mailbox", e.Path)
		}
		have, err := t.share(tree, e)
		if err != nil {
			return err
		}
		if !have {
			missing = append(missing, e.Path)
			want[e.Path] = e
		}
	}
	// What was begun under another name has served.
	for _, s := range t.begun {
		rel, err := filepath.Rel(tree, s.path)
		if err != nil {
			return err
		}
		if !wanted[control.TreePath(rel)] {
			if err := os.Remove(s.path); err != nil {
				return err
			}
		}
	}
	if err := t.fetch(ctx, snap, tree, missing, want); err != nil {
		return err
	}
	return t.finish(snap, tree)
}

// resume removes from .partial what is not wanted any more, and takes the messages
// that are for sources: flags may have changed their names.
func (t *taking) resume(ctx context.Context, tree string, entries []control.ManifestEntry) error {
	want := make(map[string]bool, len(entries))
	keys := make(map[messageKey]bool, len(entries))
	for _, e := range entries {
		want[strings.TrimSuffix(string(e.Path), "/")] = true
		keys[keyOf(e)] = true
	}
	var drop []string
	err := filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || path == tree {
			return err
		}
		rel, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		if e.IsDir() {
			if !want[rel] {
				drop = append(drop, path)
			}
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		k := keyOf(control.ManifestEntry{Path: control.TreePath(rel), Size: info.Size(), MTime: info.ModTime().Unix()})
		if filing.IsTemp(e.Name()) || !manifest.IsMessage(rel) || !keys[k] {
			return os.Remove(path)
		}
		t.begun[k] = source{path: path}
		return nil
	})
	if err != nil {
		return err
	}
	if len(drop) == 0 {
		return nil
	}
	return t.rescue(tree, drop)
}

// rescue moves messages out of folders that are no more, and removes these.
func (t *taking) rescue(tree string, drop []string) error {
	for k, s := range t.begun {
		for _, dir := range drop {
			if strings.HasPrefix(s.path, dir+"/") {
				delete(t.begun, k) // it is fetched again: folders are seldom renamed
				break
			}
		}
	}
	for _, dir := range drop {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// share brings an entry into the tree without the backend, if that can be.
func (t *taking) share(tree string, e control.ManifestEntry) (bool, error) {
	to := filepath.Join(tree, string(e.Path))
	if strings.HasSuffix(string(e.Path), "/") {
		return true, os.MkdirAll(to, 0o700)
	}
	if !manifest.IsMessage(string(e.Path)) {
		if e.Digest == "" || t.small[e.Path] != e.Digest {
			return false, nil
		}
		return t.link(filepath.Join(t.prev.Tree, string(e.Path)), to, e.Path, e.Digest)
	}
	if s, ok := t.known[keyOf(e)]; ok && !s.twice {
		return t.link(s.path, to, e.Path, s.digest)
	}
	s, ok := t.begun[keyOf(e)]
	if !ok {
		return false, nil
	}
	digest, err := digestOf(s.path)
	if err != nil {
		return false, err
	}
	if s.path != to {
		// The same message in two folders has two entries.
		return t.link(s.path, to, e.Path, digest)
	}
	t.learn(string(e.Path), digest)
	t.took.SharedFiles++
	return true, nil
}

// link shares a file; one that the archive has lost is fetched.
func (t *taking) link(from, to string, rel control.TreePath, digest string) (bool, error) {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return false, err
	}
	err := os.Link(from, to)
	if errors.Is(err, fs.ErrExist) {
		if same, serr := sameFile(from, to); serr != nil || same {
			err = serr
		} else if err = os.Remove(to); err == nil {
			err = os.Link(from, to)
		}
	}
	switch {
	case err == nil:
		t.learn(string(rel), digest)
		t.took.SharedFiles++
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, fs.ErrPermission) || isUnlinkable(err):
		return false, nil // a file system without links, or a file with too many: a copy of its own
	}
	return false, err
}

func (t *taking) learn(rel, digest string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.digests[rel] = digest
}

// fetch gets the files that are missing from the backend.
func (t *taking) fetch(ctx context.Context, snap *control.Snapshot, tree string, missing []control.TreePath, want map[control.TreePath]control.ManifestEntry) error {
	w := filing.New(ctx, tree, func(f filing.File, digest string) { t.learn(f.Path, digest) })
	err := snap.Read(ctx, missing, func(h control.FileHead, r io.Reader) error {
		e := want[h.Path]
		if h.Size != e.Size || e.MTime != 0 && h.MTime != e.MTime {
			return fmt.Errorf("%s came as another file", h.Path)
		}
		t.took.CopiedFiles++
		t.took.CopiedBytes += h.Size
		if t.progress != nil {
			t.progress(1, h.Size)
		}
		return w.Put(filing.File{Path: string(h.Path), Size: h.Size, MTime: h.MTime, Digest: e.Digest}, r)
	})
	if failed := w.Wait(); failed != nil {
		return failed
	}
	return err
}

// finish writes the manifest and gives the generation its name.
func (t *taking) finish(snap *control.Snapshot, tree string) error {
	entries := snap.Entries
	for i, e := range entries {
		if !strings.HasSuffix(string(e.Path), "/") {
			entries[i].Digest = t.digests[string(e.Path)]
		}
	}
	sum := manifest.Summary(control.Manifest{Entries: entries})
	h := snap.Head
	t.took.Meta = Meta{
		Version: version, User: h.User, Generation: t.last + 1, Taken: h.Taken, Backend: h.Backend, Epoch: h.Epoch, Account: h.Account,
		Layout: layout(entries), Contents: sum.Digest, Messages: sum.Messages, Bytes: sum.Bytes, Files: sum.Files,
	}
	err := writeJSON(filepath.Join(t.dir, manifestName), entries)
	if err == nil {
		err = writeJSON(filepath.Join(t.dir, metaName), t.took.Meta)
	}
	if err == nil {
		err = filing.SyncTree(tree)
	}
	if err != nil {
		return err
	}
	return durable.Rename(t.dir, t.a.generation(h.User, t.took.Generation))
}

func writeJSON(path string, v any) error {
	return durable.WriteFunc(path, 0o600, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	})
}
