package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"waypost/backend/manifest"
	"waypost/director"
)

// Verified is what a verification of one generation came to.
type Verified struct {
	Meta
	Problems []string
}

// Verify reads every file of a user's generations and compares it with the
// manifest; a file that several share is read once. fn is called for each
// generation, oldest first. An error that is not of a file ends it.
func (a *Archive) Verify(ctx context.Context, u director.User, fn func(Verified) error) error {
	gens, err := a.Generations(u)
	if err != nil {
		return err
	}
	read := map[fileID]string{}
	for _, n := range gens {
		v := Verified{Meta: Meta{User: u, Generation: n}}
		g, err := a.Read(u, n)
		if err != nil {
			v.Problems = append(v.Problems, err.Error())
		} else {
			v.Meta = g.Meta
			if v.Problems, err = verify(ctx, g, read); err != nil {
				return err
			}
		}
		if err := fn(v); err != nil {
			return err
		}
	}
	return nil
}

// fileID names a file whose contents were read.
type fileID struct{ dev, ino uint64 }

func verify(ctx context.Context, g Generation, read map[fileID]string) ([]string, error) {
	var problems []string
	known := make(map[string]bool, len(g.Entries))
	for _, e := range g.Entries {
		if err := ctx.Err(); err != nil {
			return problems, err
		}
		rel := strings.TrimSuffix(string(e.Path), "/")
		known[rel] = true
		path := filepath.Join(g.Tree, rel)
		info, err := os.Lstat(path)
		switch {
		case err != nil:
			problems = append(problems, err.Error())
			continue
		case info.IsDir() != strings.HasSuffix(string(e.Path), "/"):
			problems = append(problems, rel+": a folder for a file, or a file for a folder")
			continue
		case info.IsDir():
			continue
		case info.Size() != e.Size:
			problems = append(problems, fmt.Sprintf("%s: %d bytes, were %d", rel, info.Size(), e.Size))
			continue
		case manifest.IsMessage(rel) && info.ModTime().Unix() != e.MTime:
			problems = append(problems, fmt.Sprintf("%s: of %s, was of %s", rel, info.ModTime().UTC(), manifest.MTime(e).UTC()))
		}
		digest, err := digestOnce(path, info, read)
		switch {
		case err != nil:
			problems = append(problems, err.Error())
		case digest != e.Digest:
			problems = append(problems, rel+": other contents than were written")
		}
	}
	more, err := foreign(g.Tree, known)
	return append(problems, more...), err
}

func digestOnce(path string, info fs.FileInfo, read map[fileID]string) (string, error) {
	var id fileID
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id = fileID{uint64(st.Dev), st.Ino}
	}
	if d, ok := read[id]; ok && id != (fileID{}) {
		return d, nil
	}
	d, err := digestOf(path)
	if err == nil {
		read[id] = d
	}
	return d, err
}

// foreign finds what the manifest does not know.
func foreign(tree string, known map[string]bool) (problems []string, err error) {
	err = filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == tree {
			return nil // told of already
		}
		if err != nil || path == tree {
			return err
		}
		rel, err := filepath.Rel(tree, path)
		if err == nil && !known[rel] {
			problems = append(problems, rel+": was not there")
		}
		return err
	})
	return problems, err
}
