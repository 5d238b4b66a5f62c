package sftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"

	"waypost/backend/manifest"
)

// syncer makes files durable in steps, beside the fetching: many files share a commit of
// the file system, and no step is so large that others who sync wait long. After its
// step the Tracker is told of a file.
type syncer struct {
	p   *Pull
	ctx context.Context

	mu    sync.Mutex
	step  []arrival
	bytes int64
	group *errgroup.Group
	// turn is held by the step that is being synced: the next one waits, and who
	// fetches waits with it.
	turn chan struct{}
}

// arrival is a file that was written.
type arrival struct {
	manifest.Entry
	at   manifest.Stamp
	path string
}

const (
	stepFiles   = 4096
	stepBytes   = 64 << 20
	syncWorkers = 64
)

func (s *syncer) begin(ctx context.Context, p *Pull) {
	s.p, s.group, s.turn, s.step, s.bytes = p, &errgroup.Group{}, make(chan struct{}, 1), nil, 0
	s.ctx = ctx
}

// add takes a file; it may wait.
func (s *syncer) add(a arrival) error {
	s.mu.Lock()
	s.step = append(s.step, a)
	s.bytes += a.Size
	var full []arrival
	if len(s.step) >= stepFiles || s.bytes >= stepBytes {
		full, s.step, s.bytes = s.step, nil, 0
	}
	s.mu.Unlock()
	if full == nil {
		return nil
	}
	select {
	case s.turn <- struct{}{}:
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	s.group.Go(func() error {
		defer func() { <-s.turn }()
		return s.sync(full)
	})
	return nil
}

// end syncs what is left, also after an error of the pass: the next one need not bring it
// again.
func (s *syncer) end() error {
	err := s.group.Wait()
	return errors.Join(err, s.sync(s.step))
}

func (s *syncer) sync(step []arrival) error {
	if len(step) == 0 {
		return nil
	}
	var g errgroup.Group
	work := make(chan arrival)
	for range min(syncWorkers, len(step)) {
		g.Go(func() error {
			var first error
			for a := range work {
				if err := syncFile(a.path); err != nil && first == nil {
					first = err
				}
			}
			return first
		})
	}
	for _, a := range step {
		work <- a
	}
	close(work)
	if err := g.Wait(); err != nil {
		return fmt.Errorf("staging: %w", err)
	}
	for _, a := range step {
		if err := s.p.Staged.Put(a.Entry, a.at); err != nil {
			return fmt.Errorf("staging: %w", err)
		}
	}
	return s.p.Staged.Save()
}

// syncFile opens the file again: thousands are under way, and need not be open. The kernel
// tells an error of writing back to who opens the file after it, too, if nobody was told.
func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return errors.Join(&fs.PathError{Op: "sync", Path: path, Err: err}, f.Close())
	}
	return f.Close()
}
