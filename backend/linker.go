package backend

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"waypost/backend/manifest"
)

// linker makes one folder what another is: messages are linked, all else is
// copied.
type linker struct {
	from, to string
	// have are the messages and folders in to, by path.
	have map[string]bool
}

// pass brings to up to date. The last pass, when nobody writes, copies what is no
// message and removes what is no more.
func (l *linker) pass(ctx context.Context, last bool) error {
	seen := make(map[string]bool, len(l.have))
	err := filepath.WalkDir(l.from, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != l.from {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || path == l.from {
			return err
		}
		rel, err := filepath.Rel(l.from, path)
		if err != nil {
			return err
		}
		if leftOut(rel, e.IsDir()) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		seen[rel] = true
		return l.one(rel, e, last)
	})
	if err != nil {
		return err
	}
	if !last {
		return nil
	}
	for rel := range l.have {
		if !seen[rel] {
			if err := os.RemoveAll(filepath.Join(l.to, rel)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *linker) one(rel string, e fs.DirEntry, last bool) error {
	from, to := filepath.Join(l.from, rel), filepath.Join(l.to, rel)
	var err error
	switch {
	case l.have[rel]:
		return nil
	case e.IsDir():
		err = os.Mkdir(to, 0o700)
	case !e.Type().IsRegular():
		return nil
	case manifest.IsMessage(rel):
		err = linkOrCopy(from, to)
	case last:
		return ifThere(copyFile(from, to))
	default:
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // renamed or removed meanwhile: the last pass sees it
	}
	l.have[rel] = err == nil
	return err
}

func ifThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// linkOrCopy links, or copies a file that has as many links as it can have.
func linkOrCopy(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, syscall.EMLINK) {
		return copyFile(from, to)
	}
	return err
}

// copyFile copies bytes and modification time. It is not synced.
func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err = errors.Join(err, dst.Close()); err != nil {
		return err
	}
	return os.Chtimes(to, info.ModTime(), info.ModTime())
}
