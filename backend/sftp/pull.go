package sftp

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"

	"waypost/backend/control"
	"waypost/backend/manifest"
	"waypost/internal/durable"
)

// Pull makes one pass: it brings staging to what the source's manifest says.
type Pull struct {
	// Staging is the target's folder for the user; Digests remembers what is in it.
	Staging string
	Digests *manifest.Digester
	// Dial opens one more SFTP connection to the source.
	Dial func(ctx context.Context) (*sftp.Client, error)
	// Final: what cannot be had is an error. Otherwise it is left to the next
	// pass: the user is working in the source meanwhile.
	Final bool
	// Report is called now and then, from one goroutine at a time.
	Report func(control.PullProgress)
	// Room, where not nil, refuses a pass that would bring so many bytes.
	Room func(bytes int64) error

	touched folders
}

// folders are those in which names came or went in this pass.
type folders struct {
	mu  sync.Mutex
	all map[string]bool
}

func (f *folders) add(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = make(map[string]bool)
	}
	f.all[dir] = true
}

// sync makes their entries durable; files were synced one by one.
func (f *folders) sync() error {
	for dir := range f.all {
		if err := durable.SyncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

const (
	// connections × workersEach files are under way at once: a round trip is
	// paid by all of them together.
	connections = 4
	workersEach = 8
	reportEvery = 500 * time.Millisecond
)

// Run makes the pass against want. Everything fetched is synced, its digest
// checked while it streams, when Run returns nil.
func (p *Pull) Run(ctx context.Context, want control.Manifest) (control.PullProgress, error) {
	have, err := p.Digests.Scan(ctx, p.Staging)
	if err != nil {
		return control.PullProgress{}, err
	}
	plan := makePlan(want, have)
	pr := &progress{report: p.Report}
	for _, e := range plan.fetch {
		pr.p.TotalFiles++
		pr.p.TotalBytes += e.Size
	}
	if p.Room != nil {
		if err := p.Room(pr.p.TotalBytes); err != nil {
			return pr.p, err
		}
	}
	if err := p.folders(plan.mkdir); err != nil {
		return pr.p, err
	}
	for _, r := range plan.rename {
		if err := os.Rename(p.path(r.from), p.path(r.to)); err != nil {
			return pr.p, fmt.Errorf("staging: %w", err)
		}
		p.touched.add(filepath.Dir(p.path(r.from)))
		p.touched.add(filepath.Dir(p.path(r.to)))
		pr.p.Renamed++
	}
	if err := p.fetchAll(ctx, plan.fetch, pr); err != nil {
		return pr.p, err
	}
	for _, rel := range plan.remove {
		if err := os.RemoveAll(p.path(rel)); err != nil {
			return pr.p, fmt.Errorf("staging: %w", err)
		}
		p.touched.add(filepath.Dir(p.path(rel)))
		pr.p.Removed++
	}
	return pr.p, p.touched.sync()
}

func (p *Pull) path(rel control.TreePath) string {
	return filepath.Join(p.Staging, filepath.FromSlash(string(rel)))
}

func (p *Pull) folders(dirs []control.TreePath) error {
	for _, d := range dirs {
		if err := inside(d); err != nil {
			return err
		}
		if err := os.MkdirAll(p.path(d), 0o700); err != nil {
			return fmt.Errorf("staging: %w", err)
		}
		p.touched.add(p.path(d))
		p.touched.add(filepath.Dir(p.path(d)))
	}
	return nil
}

// inside refuses paths that would leave the staging folder: a manifest comes
// from another machine.
func inside(rel control.TreePath) error {
	if rel == "" || !filepath.IsLocal(filepath.FromSlash(strings.TrimSuffix(string(rel), "/"))) {
		return fmt.Errorf("manifest names %q, outside the user's folder", rel)
	}
	return nil
}

func (p *Pull) fetchAll(ctx context.Context, files []control.ManifestEntry, pr *progress) error {
	if len(files) == 0 {
		return nil
	}
	n := min(connections, (len(files)+workersEach-1)/workersEach)
	work := make(chan control.ManifestEntry)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		for _, e := range files {
			select {
			case work <- e:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range n {
		g.Go(func() error { return p.connection(ctx, work, pr) })
	}
	return g.Wait()
}

func (p *Pull) connection(ctx context.Context, work <-chan control.ManifestEntry, pr *progress) error {
	cl, err := p.Dial(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	// A blocked read on the connection ends with the pass.
	stop := context.AfterFunc(ctx, func() { cl.Close() })
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	for range workersEach {
		g.Go(func() error {
			for e := range work {
				if err := p.fetch(ctx, cl, e, pr); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// errChanged: the source's file is another by now.
var errChanged = errors.New("changed while it was read")

func (p *Pull) fetch(ctx context.Context, cl *sftp.Client, e control.ManifestEntry, pr *progress) error {
	err := p.fetchOne(ctx, cl, e, pr)
	if err == nil {
		pr.add(1, 0)
		return nil
	}
	gone := errors.Is(err, fs.ErrNotExist) || errors.Is(err, errChanged)
	if gone && !p.Final {
		return nil // the next pass brings it, wherever it is by then
	}
	return fmt.Errorf("fetch %s: %w", e.Path, err)
}

func (p *Pull) fetchOne(ctx context.Context, cl *sftp.Client, e control.ManifestEntry, pr *progress) error {
	if err := inside(e.Path); err != nil {
		return err
	}
	src, err := cl.Open("/" + string(e.Path))
	if err != nil {
		return err
	}
	defer src.Close()
	name := p.path(e.Path)
	// A name of its own until it is whole: a half-fetched file must not lie
	// under a message's name when the process dies here. ".waypost-" is
	// skipped by manifests.
	tmp := filepath.Join(filepath.Dir(name), ".waypost-"+filepath.Base(string(e.Path)))
	if len(filepath.Base(tmp)) > 255 {
		tmp = filepath.Join(filepath.Dir(name), ".waypost-"+e.Digest)
	}
	dst, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer dst.Close()
	digest, err := copyFile(ctx, dst, src, e, pr)
	if err != nil {
		os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, name); err != nil {
		return err
	}
	p.touched.add(filepath.Dir(name))
	if manifest.IsMessage(string(e.Path)) {
		return p.Digests.Learn(e.Path, dst, digest)
	}
	return nil
}

func copyFile(ctx context.Context, dst *os.File, src *sftp.File, e control.ManifestEntry, pr *progress) (string, error) {
	h := sha256.New()
	w := io.MultiWriter(dst, h, writerFunc(func(b []byte) (int, error) {
		pr.add(0, int64(len(b)))
		return len(b), ctx.Err()
	}))
	if _, err := src.WriteTo(w); err != nil {
		return "", err
	}
	digest := manifest.HexDigest(h)
	if digest != e.Digest {
		return "", errChanged
	}
	if manifest.IsMessage(string(e.Path)) {
		if err := os.Chtimes(dst.Name(), manifest.MTime(e), manifest.MTime(e)); err != nil {
			return "", err
		}
	}
	return digest, dst.Sync()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// progress counts under its own lock and reports at most every reportEvery.
type progress struct {
	mu     sync.Mutex
	p      control.PullProgress
	last   time.Time
	report func(control.PullProgress)
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

// RemoveHalves removes what interrupted passes left half fetched in staging.
func RemoveHalves(staging string) error {
	return filepath.WalkDir(staging, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasPrefix(e.Name(), ".waypost-") {
			return os.Remove(path)
		}
		return err
	})
}
