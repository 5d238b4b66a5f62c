package backend

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"waypost/backend/control"
	"waypost/backend/manifest"
)

// leftOut tells what of a user's folder a backup does not have: what a move does
// not carry, and the index of texts, which is derived and large.
func leftOut(rel string, dir bool) bool {
	return dir && rel == textsName || manifest.Skip(rel, dir)
}

// textsName is the folder of package fulltext.
const textsName = "waypost-fulltext"

// listTree lists the files and folders under root that a backup has, by path.
// Those that vanish meanwhile are left out. digest says whose contents are read.
func listTree(ctx context.Context, root string, digest func(rel string) bool) ([]control.ManifestEntry, error) {
	list := []control.ManifestEntry{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != root {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || path == root {
			return err
		}
		rel, err := filepath.Rel(root, path)
		switch {
		case err != nil:
			return err
		case leftOut(rel, e.IsDir()):
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case e.IsDir():
			list = append(list, control.ManifestEntry{Path: control.TreePath(rel + "/")})
			return nil
		case !e.Type().IsRegular():
			return nil
		}
		entry, err := listFile(path, rel, e, digest(rel))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		list = append(list, entry)
		return err
	})
	slices.SortFunc(list, func(a, b control.ManifestEntry) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return list, err
}

func listFile(path, rel string, e fs.DirEntry, digest bool) (control.ManifestEntry, error) {
	entry := control.ManifestEntry{Path: control.TreePath(rel)}
	info, err := e.Info()
	if err != nil {
		return entry, err
	}
	entry.Size = info.Size()
	if manifest.IsMessage(rel) {
		entry.MTime = info.ModTime().Unix()
	}
	if !digest {
		return entry, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return entry, err
	}
	defer f.Close()
	h := sha256.New()
	entry.Size, err = io.Copy(h, f)
	entry.Digest = manifest.HexDigest(h)
	return entry, err
}

func noDigests(string) bool { return false }
