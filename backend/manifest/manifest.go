// Package manifest says what a user's tree holds, so that two backends can
// prove that they hold the same (design, "Moving a user").
//
// A manifest lists every file and folder under the user's folder, with size
// and SHA-256, and for messages the modification time (INTERNALDATE). Derived
// files and litter are left out: what a move need not carry. Message files, and
// segments of text indexes, never change their contents under one unique name, so
// a Digester remembers their digests while it lives; inside busy only what is new is
// read. A text index is derived, too, but costs much to make: it is carried.
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
	// unique is the file's name without flags: an inode that is used again must
	// not be taken for the message it held before.
	unique   string
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
		entry, key, err := d.entry(path, rel, e)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if immutable(rel) {
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

// entry describes one file. A message whose digest is known is not opened.
func (d *Digester) entry(path, rel string, de fs.DirEntry) (control.ManifestEntry, fileKey, error) {
	st, err := de.Info()
	if err != nil {
		return control.ManifestEntry{}, fileKey{}, err
	}
	key := keyOf(rel, st)
	e := control.ManifestEntry{Path: control.TreePath(rel), Size: st.Size()}
	if IsMessage(rel) {
		e.MTime = st.ModTime().Unix()
	}
	if immutable(rel) {
		if e.Digest = d.lookup(key); e.Digest != "" {
			return e, key, nil
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return control.ManifestEntry{}, fileKey{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return e, key, fmt.Errorf("%s: %w", rel, err)
	}
	e.Size, e.Digest = n, HexDigest(h)
	if immutable(rel) {
		d.learn(key, e.Digest) // at once: a scan that is broken off was not in vain
	}
	return e, key, nil
}

func (d *Digester) lookup(key fileKey) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.known[key]
}

func (d *Digester) learn(key fileKey, digest string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known[key] = digest
}

// Learn remembers a digest that was computed while the message at rel was
// written to f.
func (d *Digester) Learn(rel control.TreePath, f *os.File, digest string) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	d.learn(keyOf(string(rel), st), digest)
	return nil
}

func keyOf(rel string, st os.FileInfo) fileKey {
	unique, _, _ := strings.Cut(filepath.Base(rel), ":2,")
	k := fileKey{unique: unique, size: st.Size(), mtime: st.ModTime().UnixNano()}
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

// immutable tells whether a file keeps its contents as long as it has its name.
func immutable(rel string) bool {
	return IsMessage(rel) || strings.HasPrefix(rel, textIndex+"/") && strings.HasSuffix(rel, ".zap")
}

// textIndex is the folder of package fulltext.
const textIndex = "waypost-fulltext"

// Skip tells what a move does not carry: files in tmp (the folder itself is
// carried), locks, half-written replacements, and derived indexes.
func Skip(rel string, dir bool) bool {
	base := filepath.Base(rel)
	if dir {
		// ".waypost-x" is a user's folder "waypost-x"; ours begin with two dots.
		return strings.HasPrefix(base, "..waypost-")
	}
	if IsMessage(rel) {
		return strings.HasPrefix(base, ".") // no message's name begins so
	}
	return filepath.Base(filepath.Dir(rel)) == "tmp" ||
		strings.HasSuffix(base, ".lock") || strings.HasSuffix(base, ".tmp") ||
		strings.HasPrefix(base, "dovecot.index") || strings.HasPrefix(base, "waypost-index") || strings.HasPrefix(base, ".tmp") || strings.HasPrefix(base, ".waypost-")
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

// MTime is a message's modification time as manifests count it.
func MTime(e control.ManifestEntry) time.Time { return time.Unix(e.MTime, 0) }
