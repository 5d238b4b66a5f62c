// Package filing writes many files below a folder, durably and quickly: each has
// its name only once it is whole, right and synced, and several wait for their
// syncs at once. It serves backups and restores.
//
// It owns the files it makes, and temporary ones beside them (TempPrefix), which a
// crash may leave. Names are durable when the caller has synced the folders.
package filing

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// TempPrefix begins the name of a file that is not whole yet.
const TempPrefix = ".waypost-put-"

const (
	// together is how many files wait for their syncs at once.
	together = 8
	// inMemory is up to what size in bytes a file does so there.
	inMemory = 1 << 20
)

// ErrContents: a file came with other contents than its digest says.
var ErrContents = errors.New("other contents than its digest says")

// File is what is to be written.
type File struct {
	Path  string // relative, with slashes
	Size  int64
	MTime int64 // in whole seconds; 0 leaves it
	// Digest is the hex SHA-256 of the contents; where it is empty none is compared.
	Digest string
}

// Writer writes files below a folder. Put is not safe for concurrent use; Wait
// must be called.
type Writer struct {
	root  string
	wrote func(f File, digest string)
	group *errgroup.Group
	ctx   context.Context
	temp  atomic.Int64
}

// New gives a Writer. wrote, if it is not nil, is told of each file that is done,
// with its digest, from several goroutines.
func New(ctx context.Context, root string, wrote func(f File, digest string)) *Writer {
	w := &Writer{root: root, wrote: wrote}
	w.group, w.ctx = errgroup.WithContext(ctx)
	w.group.SetLimit(together)
	return w
}

// Put reads all of r. An error may be that of an earlier file.
func (w *Writer) Put(f File, r io.Reader) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if f.Size > inMemory {
		return w.file(f, r)
	}
	body := make([]byte, f.Size)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	w.group.Go(func() error { return w.file(f, bytes.NewReader(body)) })
	return nil
}

// Wait ends the writing, and gives the first error.
func (w *Writer) Wait() error { return w.group.Wait() }

func (w *Writer) file(f File, r io.Reader) error {
	path := filepath.Join(w.root, f.Path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(path), fmt.Sprintf("%s%d", TempPrefix, w.temp.Add(1)))
	digest, err := write(f, temp, r)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		if gone := os.Remove(temp); !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	if w.wrote != nil {
		w.wrote(f, digest)
	}
	return nil
}

func write(f File, temp string, r io.Reader) (digest string, err error) {
	file, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(file, sum), r)
	digest = hex.EncodeToString(sum.Sum(nil))
	switch {
	case err != nil:
	case n != f.Size:
		err = io.ErrUnexpectedEOF
	case f.Digest != "" && f.Digest != digest:
		err = ErrContents
	case f.MTime != 0:
		at := time.Unix(f.MTime, 0)
		err = os.Chtimes(temp, at, at)
	}
	if err == nil {
		err = file.Sync()
	}
	return digest, errors.Join(err, file.Close())
}

// SyncTree makes all names below root durable.
func SyncTree(root string) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		d, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(d.Sync(), d.Close())
	})
}

// IsTemp tells whether a name is that of a file that is not whole.
func IsTemp(name string) bool { return strings.HasPrefix(name, TempPrefix) }
