// Package manifest says what a user's tree holds, so that two backends can
// prove that they hold the same (design, "Moving a user").
//
// A manifest lists every file and folder under the user's folder, with size
// and SHA-256, and for messages the modification time (INTERNALDATE). Derived
// files and litter are left out: what a move need not carry. Message files
// never change their contents under one unique name, so a Digester remembers
// their digests while it lives; inside busy only what is new is read.
package manifest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"waypost/backend/control"
)

// Digester makes manifests and remembers message digests, for one tree.
// Safe for concurrent use.
type Digester struct {
	mu    sync.Mutex
	known map[fileKey]string
}

// fileKey names a message's contents: a file that is renamed keeps it, and one
// that is replaced does not.
type fileKey struct {
	dev, ino uint64
	size     int64
	mtime    int64 // nanoseconds
}

// NewDigester gives one that knows nothing.
func NewDigester() *Digester { return &Digester{known: make(map[fileKey]string)} }

// Scan reads the tree under root. Files that vanish meanwhile are left out:
// a manifest is exact only of a tree that nobody writes to.
func (d *Digester) Scan(ctx context.Context, root string) (control.Manifest, error) {
	var m control.Manifest
	seen := make(map[fileKey]string)
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != root {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		switch {
		case path == root:
			return nil
		case Skip(rel, e.IsDir()):
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case e.IsDir():
			m.Entries = append(m.Entries, control.ManifestEntry{Path: control.TreePath(rel + "/")})
			return nil
		case !e.Type().IsRegular():
			return nil
		}
		entry, key, err := d.entry(path, rel)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if IsMessage(rel) {
			seen[key] = entry.Digest
		}
		m.Entries = append(m.Entries, entry)
		return nil
	})
	if err != nil {
		return control.Manifest{}, fmt.Errorf("manifest of %s: %w", root, err)
	}
	d.mu.Lock()
	d.known = seen
	d.mu.Unlock()
	slices.SortFunc(m.Entries, func(a, b control.ManifestEntry) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return m, nil
}

func (d *Digester) entry(path, rel string) (control.ManifestEntry, fileKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return control.ManifestEntry{}, fileKey{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return control.ManifestEntry{}, fileKey{}, err
	}
	key := keyOf(st)
	e := control.ManifestEntry{Path: control.TreePath(rel), Size: st.Size()}
	if IsMessage(rel) {
		e.MTime = st.ModTime().Unix()
		d.mu.Lock()
		e.Digest = d.known[key]
		d.mu.Unlock()
		if e.Digest != "" {
			return e, key, nil
		}
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return e, key, fmt.Errorf("%s: %w", rel, err)
	}
	e.Size, e.Digest = n, HexDigest(h)
	return e, key, nil
}

// Learn remembers a digest that was computed while the file was written.
func (d *Digester) Learn(f *os.File, digest string) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.known[keyOf(st)] = digest
	d.mu.Unlock()
	return nil
}

func keyOf(st os.FileInfo) fileKey {
	k := fileKey{size: st.Size(), mtime: st.ModTime().UnixNano()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		k.dev, k.ino = uint64(sys.Dev), sys.Ino
	}
	return k
}

// HexDigest is how digests are written.
func HexDigest(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// IsMessage tells whether a path relative to the user's folder is a message.
func IsMessage(rel string) bool {
	dir := filepath.Base(filepath.Dir(rel))
	return strings.HasPrefix(rel, "Maildir/") && (dir == "cur" || dir == "new") && !strings.HasSuffix(rel, "/")
}

// Skip tells what a move does not carry: files in tmp (the folder itself is
// carried), locks, half-written replacements, and Dovecot's derived indexes.
func Skip(rel string, dir bool) bool {
	base := filepath.Base(rel)
	if dir {
		return strings.HasPrefix(base, ".waypost-")
	}
	if IsMessage(rel) {
		return strings.HasPrefix(base, ".") // no message's name begins so
	}
	return filepath.Base(filepath.Dir(rel)) == "tmp" ||
		strings.HasSuffix(base, ".lock") || strings.HasSuffix(base, ".tmp") ||
		strings.HasPrefix(base, "dovecot.index") || strings.HasPrefix(base, ".tmp") || strings.HasPrefix(base, ".waypost-")
}

// Summary digests a manifest: equal digests mean equal manifests.
func Summary(m control.Manifest) control.ManifestSummary {
	var s control.ManifestSummary
	h := sha256.New()
	for _, e := range m.Entries {
		// Every field ends in a byte that cannot be in it; a path may hold
		// anything but NUL.
		fmt.Fprintf(h, "%s\x00%s\x00%s\x00%s\n", e.Path, strconv.FormatInt(e.Size, 10), strconv.FormatInt(e.MTime, 10), e.Digest)
		if strings.HasSuffix(string(e.Path), "/") {
			continue
		}
		s.Files++
		if IsMessage(string(e.Path)) {
			s.Messages++
			s.Bytes += e.Size
		}
	}
	s.Digest = HexDigest(h)
	return s
}

// Unlike names the first paths in which two manifests differ, for people.
func Unlike(want, have control.Manifest) []string {
	const most = 10
	w := make(map[control.TreePath]control.ManifestEntry, len(want.Entries))
	for _, e := range want.Entries {
		w[e.Path] = e
	}
	var out []string
	add := func(s string) {
		if len(out) < most {
			out = append(out, s)
		}
	}
	for _, e := range have.Entries {
		x, ok := w[e.Path]
		switch {
		case !ok:
			add("extra " + string(e.Path))
		case x != e:
			add("other " + string(e.Path))
		}
		delete(w, e.Path)
	}
	for p := range w {
		add("missing " + string(p))
	}
	slices.Sort(out)
	return out
}

// MTime is a message's modification time as manifests count it.
func MTime(e control.ManifestEntry) time.Time { return time.Unix(e.MTime, 0) }
