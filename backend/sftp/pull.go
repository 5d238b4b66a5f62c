package sftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"waypost/backend/control"
	"waypost/backend/manifest"
)

// Pull makes one pass: it brings staging to what the source's tree holds.
type Pull struct {
	// Staging is the target's folder for the user, Staged what is in it
	// (manifest.NewDurable); only Pulls write there.
	Staging string
	Staged  *manifest.Tracker
	// Halves is a folder beside staging for long files that have not come wholly.
	Halves string
	// Dial opens one more SFTP connection to the source.
	Dial func(ctx context.Context) (*Conn, error)
	// Manifest asks a source of before version 2 for all that its tree holds.
	Manifest func(ctx context.Context) (control.Manifest, error)
	// Final: the source is frozen, and what cannot be had is an error. Otherwise it
	// is left to the next pass: the user is working in the source meanwhile.
	Final bool
	// Report is called now and then, from one goroutine at a time.
	Report func(control.PullProgress)
	// Room, where not nil, refuses a pass that would bring so many bytes.
	Room func(bytes int64) error

	progress progress
	synced   syncer
	buffers  sync.Pool // of *[packet]byte
}

const (
	// connections × workersEach bundles or files are under way at once: a round trip is
	// paid by all of them together.
	connections = 4
	workersEach = 3
	reportEvery = 500 * time.Millisecond
)

// Run makes the pass. What a source has not read yet it does not know the digest of; it
// learns it by sending. So a pass ends when both know all digests, and they are the same.
func (p *Pull) Run(ctx context.Context) (control.PullProgress, error) {
	p.progress.report = p.Report
	err := p.run(ctx)
	return p.progress.p, err
}

func (p *Pull) run(ctx context.Context) error {
	c, err := p.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	// A blocked read on the connection ends with the pass.
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	for round := 0; ; round++ {
		if err := p.Staged.Update(ctx, manifest.HashAll); err != nil {
			return err
		}
		d, err := p.ask(ctx, c, round > 0)
		if err != nil {
			return err
		}
		if err := p.bring(ctx, c, d); err != nil {
			return err
		}
		if !d.Blank || p.Final {
			return os.RemoveAll(p.Halves)
		}
	}
}

// ask gets to know what differs.
func (p *Pull) ask(ctx context.Context, c *Conn, verify bool) (manifest.Delta, error) {
	if c.Version >= version {
		return c.delta(ctx, p.Staged.Query(p.Final, verify))
	}
	m, err := p.Manifest(ctx)
	return manifest.Delta{Groups: []uint32{0}, Entries: manifest.Entries(m)}, err
}

// bring makes staging equal to the delta.
func (p *Pull) bring(ctx context.Context, c *Conn, d manifest.Delta) error {
	for _, e := range d.Entries {
		if err := inside(e.Path); err != nil {
			return err
		}
	}
	todo := makePlan(d.Entries, p.Staged.Within(d.Bits, d.Groups))
	if err := p.linkStaged(ctx, &todo); err != nil {
		return err
	}
	var bytes int64
	for _, e := range todo.fetch {
		bytes += e.Size
	}
	p.progress.expect(int64(len(todo.fetch)), bytes)
	if p.Room != nil && len(todo.fetch) > 0 {
		if err := p.Room(bytes); err != nil {
			return err
		}
	}
	if err := p.folders(todo.mkdir); err != nil {
		return err
	}
	for _, r := range todo.rename {
		if err := p.rename(r); err != nil {
			return err
		}
	}
	if err := p.fetchAll(ctx, c, todo.fetch); err != nil {
		return err
	}
	for _, l := range todo.links {
		if err := p.link(l); err != nil {
			return err
		}
	}
	if err := p.remove(todo.remove); err != nil {
		return err
	}
	return errors.Join(p.Staged.Settle(), p.Staged.Save())
}

func (p *Pull) path(rel control.TreePath) string {
	return filepath.Join(p.Staging, filepath.FromSlash(string(rel)))
}

func (p *Pull) folders(dirs []control.TreePath) error {
	for _, d := range dirs {
		if err := p.clear(control.TreePath(strings.TrimSuffix(string(d), "/"))); err != nil {
			return err
		}
		if err := os.Mkdir(p.path(d), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("staging: %w", err)
		}
		if err := p.Staged.Put(manifest.Entry{Path: d}, manifest.Stamp{}); err != nil {
			return fmt.Errorf("manifest: %w", err)
		}
	}
	return nil
}

// clear makes room for what is to have that name.
func (p *Pull) clear(path control.TreePath) error {
	_, file := p.Staged.Look(path)
	_, folder := p.Staged.Look(path + "/")
	if !file && !folder {
		return nil
	}
	p.Staged.Remove(path)
	if err := os.RemoveAll(p.path(path)); err != nil {
		return fmt.Errorf("staging: %w", err)
	}
	return nil
}

func (p *Pull) rename(r renaming) error {
	if err := p.clear(r.to); err != nil {
		return err
	}
	err := os.Rename(p.path(r.from), p.path(r.to))
	if err == nil {
		err = p.Staged.Move(r.from, r.to)
	}
	if err != nil {
		return fmt.Errorf("staging: %w", err)
	}
	p.progress.p.Renamed++
	return nil
}

// linkStaged gives files that are there already further names, as the source has.
func (p *Pull) linkStaged(ctx context.Context, todo *plan) error {
	var several []manifest.Entry
	for _, e := range todo.fetch {
		if e.Link != 0 {
			several = append(several, e)
		}
	}
	there, err := p.Staged.Linked(ctx, several)
	if err != nil || len(there) == 0 {
		return err
	}
	// Folders first: the names may be in new ones.
	if err := p.folders(todo.mkdir); err != nil {
		return err
	}
	todo.mkdir = nil
	rest := todo.fetch[:0]
	for _, e := range todo.fetch {
		from, ok := there[e.Path]
		if !ok {
			rest = append(rest, e)
			continue
		}
		if err := p.link(linking{from, e}); err != nil {
			return err
		}
	}
	todo.fetch = rest
	return nil
}

// link gives a file another name. One that could not be had is left to the next pass.
func (p *Pull) link(l linking) error {
	from, ok := p.Staged.Look(l.from)
	if !ok || from.Size != l.to.Size || from.MTime != l.to.MTime || l.to.Digest.Known() && l.to.Digest != from.Digest {
		return p.missing(l.to, fs.ErrNotExist)
	}
	err := p.clear(l.to.Path)
	if err == nil {
		err = os.Link(p.path(l.from), p.path(l.to.Path))
	}
	var at manifest.Stamp
	if err == nil {
		at, err = stampOf(p.path(l.to.Path))
	}
	if err != nil {
		return fmt.Errorf("staging: %w", err)
	}
	l.to.Digest = from.Digest
	return p.Staged.Put(l.to, at)
}

func (p *Pull) remove(paths []control.TreePath) error {
	for _, path := range paths {
		if _, there := p.Staged.Look(path); !there {
			continue
		}
		if err := os.RemoveAll(p.path(path)); err != nil {
			return fmt.Errorf("staging: %w", err)
		}
		p.Staged.Remove(path)
		p.progress.p.Removed++
	}
	return nil
}

// inside refuses paths that would leave the staging folder: a manifest comes
// from another machine. It also refuses what no manifest has: names of ours.
func inside(rel control.TreePath) error {
	name := strings.TrimSuffix(string(rel), "/")
	if name == "" || name == "." || strings.ContainsRune(name, 0) || filepath.Clean(name) != name || !filepath.IsLocal(name) || manifest.Skip(name, name != string(rel)) {
		return fmt.Errorf("manifest names %q, which is not in a user's folder", rel)
	}
	return nil
}

// errChanged: the source's file is another by now.
var errChanged = errors.New("changed while it was read")

// missing decides about a file that could not be had.
func (p *Pull) missing(e manifest.Entry, err error) error {
	if gone := errors.Is(err, fs.ErrNotExist) || errors.Is(err, errChanged); gone && !p.Final {
		return nil
	}
	return fmt.Errorf("fetch %q: %w", e.Path, err)
}

// fetchAll fetches short files in bundles, and long ones each for itself.
func (p *Pull) fetchAll(ctx context.Context, c *Conn, files []manifest.Entry) error {
	if len(files) == 0 {
		return nil
	}
	jobs := bundles(files, c.Version)
	work := make(chan job)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := p.synced.begin(ctx, p); err != nil {
		return fmt.Errorf("staging: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		for _, j := range jobs {
			select {
			case work <- j:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for i := range min(connections, (len(jobs)+workersEach-1)/workersEach) {
		if i == 0 {
			g.Go(func() error { return p.workers(ctx, c, work) })
			continue
		}
		g.Go(func() error {
			more, err := p.Dial(ctx)
			if err != nil {
				return err
			}
			defer more.Close()
			stop := context.AfterFunc(ctx, func() { more.Close() })
			defer stop()
			return p.workers(ctx, more, work)
		})
	}
	err := g.Wait()
	if last := p.synced.end(); err == nil {
		err = last
	}
	return err
}

func (p *Pull) workers(ctx context.Context, c *Conn, work <-chan job) error {
	g, ctx := errgroup.WithContext(ctx)
	for range workersEach {
		g.Go(func() error {
			for j := range work {
				if err := p.fetch(ctx, c, j); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// progress counts under its own lock and reports at most every reportEvery.
type progress struct {
	mu     sync.Mutex
	p      control.PullProgress
	last   time.Time
	report func(control.PullProgress)
}

func (p *progress) expect(files, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.p.TotalFiles += files
	p.p.TotalBytes += bytes
}

func (p *progress) add(files, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.p.Files += files
	p.p.Bytes += bytes
	if now := time.Now(); p.report != nil && now.Sub(p.last) >= reportEvery {
		p.last = now
		p.report(p.p)
	}
}

// RemoveHalves removes what interrupted passes of before left half fetched in staging.
func RemoveHalves(staging string) error {
	return filepath.WalkDir(staging, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasPrefix(e.Name(), ".waypost-") {
			return os.Remove(path)
		}
		return err
	})
}
