package fence

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"waypost/director"
	"waypost/internal/vfs"
)

// Trees is where one user's trees lie, and what the actions do to them. Each
// method is a few renames, is idempotent, and finishes after a crash at any
// point; the fence is set after it, by the caller. The caller serialises.
type Trees struct {
	FS                      vfs.FS
	Live, Staging, Manifest string
	// Trash is the folder of what is let go at a fence's epoch.
	Trash func(director.Epoch) string
	// Park puts away staging that a later try may go on from; nil: it is removed.
	Park func(staging string) error
}

// Adopt makes sealed staging the live tree. After a crash between rename and
// fence, staging is gone and the live tree is it.
func (t Trees) Adopt() error {
	staged, err := Exists(t.FS, t.Staging)
	if err != nil {
		return err
	}
	live, err := Exists(t.FS, t.Live)
	if err != nil {
		return err
	}
	switch {
	case staged && live:
		return fmt.Errorf("adopt: both %s and %s are there: one of them was put there by hand", t.Staging, t.Live)
	case !staged && !live:
		return fmt.Errorf("adopt: neither %s nor %s is there", t.Staging, t.Live)
	}
	return Claim(t.FS, t.Staging, t.Live)
}

// Drop removes what a move or a creation left. Sealed staging that is not
// there was adopted half: renamed, with the fence not yet set. It then is the
// live tree, which goes to the trash like any other.
func (t Trees) Drop(f Fence, deleted bool) error {
	if f.State == Sealed {
		staged, err := Exists(t.FS, t.Staging)
		if err != nil {
			return err
		}
		if !staged {
			return t.Discard(f, deleted)
		}
	}
	if deleted || t.Park == nil {
		return t.FS.RemoveAll(t.Staging)
	}
	return t.Park(t.Staging)
}

// Discard claims the live tree, and the manifest it was frozen with, for the
// trash. Each rename is done or not; a crash between them is finished by the
// next call, under the same name: the old fence's epoch. deleted tells that the
// record is a tombstone.
func (t Trees) Discard(f Fence, deleted bool) error {
	dir := t.Trash(f.Epoch)
	if err := vfs.MkdirAll(t.FS, dir, 0o700); err != nil {
		return err
	}
	if deleted {
		// There is no new home that its mail could go to.
		if err := vfs.ReplaceFile(t.FS, filepath.Join(dir, "swept"), nil, 0o600); err != nil {
			return err
		}
	}
	if err := Claim(t.FS, t.Manifest, filepath.Join(dir, "manifest")); err != nil {
		return err
	}
	return Claim(t.FS, t.Live, filepath.Join(dir, "tree"))
}

// Exists tells whether there is something of that name.
func Exists(fsys vfs.FS, path string) (bool, error) {
	_, err := fsys.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Claim renames from to to, durably. When from is gone, an earlier call may have renamed it
// and not have come to make that last: this one does.
func Claim(fsys vfs.FS, from, to string) error {
	ok, err := Exists(fsys, from)
	if err != nil {
		return err
	}
	if ok {
		if err := vfs.MkdirAll(fsys, filepath.Dir(to), 0o700); err != nil {
			return err
		}
		return vfs.Rename(fsys, from, to)
	}
	if ok, err = Exists(fsys, to); err != nil || !ok {
		return err
	}
	return vfs.SyncRenamed(fsys, from, to)
}
