package fence

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"waypost/director"
	"waypost/internal/vfs"
)

// Dir keeps fences as one small file a user, in 256 folders. The caller
// serialises Puts of one user.
type Dir struct {
	fs   vfs.FS
	root string
}

// OpenDir opens, and makes where missing, the folder of fences.
func OpenDir(root string) (*Dir, error) { return OpenDirOn(vfs.OS, root) }

// OpenDirOn is OpenDir on a file system of the caller's choice.
func OpenDirOn(fsys vfs.FS, root string) (*Dir, error) {
	if err := vfs.MkdirAll(fsys, root, 0o700); err != nil {
		return nil, fmt.Errorf("fences: %w", err)
	}
	return &Dir{fsys, root}, nil
}

// Shard is the folder, of 256, that a user's things lie in.
func Shard(u director.User) string {
	h := fnv.New32a()
	h.Write([]byte(u))
	return fmt.Sprintf("%02x", byte(h.Sum32()))
}

func (d *Dir) path(u director.User) string {
	return filepath.Join(d.root, Shard(u), string(u))
}

// Put replaces a user's fence durably.
func (d *Dir) Put(u director.User, f Fence) error {
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("fence of %s: %w", u, err)
	}
	p := d.path(u)
	if err := vfs.MkdirAll(d.fs, filepath.Dir(p), 0o700); err != nil {
		return fmt.Errorf("fence of %s: %w", u, err)
	}
	if err := vfs.ReplaceFile(d.fs, p, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("fence of %s: %w", u, err)
	}
	return nil
}

// Get reads a user's fence. A missing file is a Missing fence; an unreadable
// one is an error, and never taken for missing.
func (d *Dir) Get(u director.User) (Fence, error) {
	b, err := vfs.ReadFile(d.fs, d.path(u))
	if errors.Is(err, fs.ErrNotExist) {
		return Fence{}, nil
	}
	if err != nil {
		return Fence{}, fmt.Errorf("fence of %s: %w", u, err)
	}
	f, err := parse(b)
	if err != nil {
		return Fence{}, fmt.Errorf("fence of %s: %w", u, err)
	}
	return f, nil
}

// ErrCorrupt: a fence file that no Put wrote.
var ErrCorrupt = errors.New("unreadable fence")

func parse(b []byte) (Fence, error) {
	var f Fence
	if err := json.Unmarshal(b, &f); err != nil {
		return Fence{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	switch f.State {
	case Serving, Frozen, Incoming, Sealed, Gone:
		return f, nil
	default:
		return Fence{}, fmt.Errorf("%w: state %q", ErrCorrupt, f.State)
	}
}

// All calls fn for every user with a fence, readable or not.
func (d *Dir) All(fn func(u director.User, f Fence, err error) error) error {
	shards, err := d.names(d.root)
	if err != nil {
		return err
	}
	for _, s := range shards {
		names, err := d.names(filepath.Join(d.root, s))
		if err != nil {
			return err
		}
		for _, name := range names {
			u, err := director.ParseUser(name)
			if err != nil || string(u) != name || strings.HasPrefix(name, ".") {
				continue // litter of an interrupted Put
			}
			f, err := d.Get(u)
			if err := fn(u, f, err); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Dir) names(dir string) ([]string, error) {
	var names []string
	err := d.fs.ReadDir(dir, func(e fs.DirEntry) error {
		names = append(names, e.Name())
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("fences: %w", err)
	}
	slices.Sort(names)
	return names, nil
}
