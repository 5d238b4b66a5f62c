package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"waypost/backend/control"
)

// carrier brings the files of a Maildir++ into staging. Files that are there
// already, with the size and the time they must have, are left: an earlier
// call brought them.
type carrier struct {
	src    *source
	to     string
	link   bool // messages are linked
	room   func(bytes int64) error
	report func(control.PullProgress)

	mu   sync.Mutex // guards all below
	p    control.PullProgress
	last time.Time
}

// carriers is how many files are under way at once, so that they share fsyncs;
// carryReport the time between reports.
const (
	carriers    = 8
	carryReport = time.Second
)

func (c *carrier) carry(ctx context.Context, tree []leaf) error {
	var bytes int64
	wanted := map[string]bool{".": true}
	for _, l := range tree {
		wanted[l.rel] = true
		if !l.dir {
			c.p.TotalFiles++
			c.p.TotalBytes += l.size
			if !c.linked(l) {
				bytes += l.size
			}
		}
	}
	if err := c.room(bytes); err != nil {
		return err
	}
	if err := c.clear(wanted); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(carriers)
	err := c.each(ctx, g, tree)
	if failed := g.Wait(); failed != nil {
		return failed // and not that the others were called off
	}
	return err
}

func (c *carrier) each(ctx context.Context, g *errgroup.Group, tree []leaf) error {
	if err := os.MkdirAll(c.to, 0o700); err != nil {
		return err
	}
	for _, l := range tree {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if l.dir {
			if err := os.MkdirAll(filepath.Join(c.to, l.rel), 0o700); err != nil {
				return err
			}
			continue
		}
		g.Go(func() error {
			if err := c.one(ctx, l); err != nil {
				return c.named(l, err)
			}
			c.done(l)
			return nil
		})
	}
	return nil
}

// named says of which file an error is, a refusal's text included.
func (c *carrier) named(l leaf, err error) error {
	var no *control.Error
	if errors.As(err, &no) {
		return refuse(no.Code, "%s: %s", filepath.Join(c.src.path, l.rel), no.Text)
	}
	return fmt.Errorf("take over %s: %w", l.rel, err)
}

// clear removes from staging what an earlier call brought and is no more.
func (c *carrier) clear(wanted map[string]bool) error {
	err := filepath.WalkDir(c.to, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(c.to, path)
		if wanted[rel] {
			return nil
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if e.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (c *carrier) linked(l leaf) bool { return c.link && l.message() }

func (c *carrier) done(l leaf) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.p.Files++
	c.p.Bytes += l.size
	if now := time.Now(); now.Sub(c.last) >= carryReport {
		c.last = now
		c.report(c.p)
	}
}

func (c *carrier) one(ctx context.Context, l leaf) error {
	to := filepath.Join(c.to, l.rel)
	if info, err := os.Lstat(to); err == nil {
		if info.Mode().IsRegular() && info.Size() == l.size && info.ModTime().Equal(l.time) {
			return nil
		}
		if err := os.Remove(to); err != nil {
			return err
		}
	}
	from, err := c.src.root.Open(l.rel)
	if err != nil {
		return err
	}
	defer from.Close()
	if err := unchanged(from, l); err != nil {
		return err
	}
	if c.linked(l) {
		return c.hardLink(from, l, to)
	}
	return copyLeaf(ctx, from, l, to)
}

// unchanged: the open file is the one that was listed.
func unchanged(f *os.File, l leaf) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	st, is := info.Sys().(*syscall.Stat_t)
	if !info.Mode().IsRegular() || !is || st.Ino != l.ino || uint64(st.Dev) != l.dev || info.Size() != l.size {
		return refuse(control.CodeUnavailable, "it changed while it was read")
	}
	return nil
}

func (c *carrier) hardLink(from *os.File, l leaf, to string) error {
	err := os.Link(filepath.Join(c.src.path, l.rel), to)
	switch {
	case errors.Is(err, syscall.EXDEV):
		return refuse(control.CodeBad, "not on the file system of the backend's data, or another mount of it: use copy, or put it into the folder %s of the data", importName)
	case err != nil:
		return err
	}
	info, err := os.Lstat(to)
	if err != nil {
		return err
	}
	if st, is := info.Sys().(*syscall.Stat_t); !is || st.Ino != l.ino {
		return errors.Join(refuse(control.CodeUnavailable, "it changed while it was read"), os.Remove(to))
	}
	return from.Sync()
}

// copyLeaf makes a copy, with its time, that has its name only when it is whole.
func copyLeaf(ctx context.Context, from *os.File, l leaf, to string) error {
	tmp, err := os.CreateTemp(filepath.Dir(to), ".waypost-")
	if err != nil {
		return err
	}
	n, err := io.Copy(tmp, contextReader{ctx, from})
	if err == nil && n != l.size {
		err = refuse(control.CodeUnavailable, "it changed while it was read")
	}
	if err == nil {
		err = os.Chtimes(tmp.Name(), l.time, l.time)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), to)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
