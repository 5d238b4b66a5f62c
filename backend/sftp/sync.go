package sftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"waypost/backend/manifest"
)

// syncer makes files durable in steps, beside the fetching: many files share a commit of
// the file system, and no step is so large that others who sync wait long. After its
// step the Tracker is told of a file.
type syncer struct {
	p   *Pull
	ctx context.Context

	// root is open since before the first file was written, so that it is told of every
	// error of writing back since then (syncfs(2), Linux 5.8), whoever else is.
	root *os.File

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
	stepFiles = 2048
	stepBytes = 32 << 20
	// fewFiles are synced one by one, beside each other: others' writes are none of their
	// business then, which counts while the user is busy. For more, one sync of the file
	// system takes half the CPU and a fifth of the time, since the kernel writes
	// neighbours in one go and commits once.
	fewFiles = 64
)

func (s *syncer) begin(ctx context.Context, p *Pull) (err error) {
	s.p, s.ctx, s.group, s.turn, s.step, s.bytes = p, ctx, &errgroup.Group{}, make(chan struct{}, 1), nil, 0
	s.root, err = os.Open(p.Staging)
	return err
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
	return errors.Join(err, s.sync(s.step), s.root.Close())
}

func (s *syncer) sync(step []arrival) error {
	if len(step) == 0 {
		return nil
	}
	var err error
	if len(step) > fewFiles {
		if err = unix.Syncfs(int(s.root.Fd())); err != nil {
			err = &fs.PathError{Op: "syncfs", Path: s.p.Staging, Err: err}
		}
	} else {
		err = syncFiles(step)
	}
	if err != nil {
		// What is not on the disk may look as if it were, and is told of once only.
		for _, a := range step {
			err = errors.Join(err, os.Remove(a.path))
		}
		return fmt.Errorf("staging: %w", err)
	}
	for _, a := range step {
		if err := s.p.Staged.Put(a.Entry, a.at); err != nil {
			return fmt.Errorf("staging: %w", err)
		}
	}
	return s.p.Staged.Save()
}

// syncFiles opens few files again and syncs each. The kernel tells an error of writing back
// to who opens the file after it, too, if nobody was told.
func syncFiles(few []arrival) error {
	var files []*os.File
	var err error
	for _, a := range few {
		f, e := os.Open(a.path)
		if err = errors.Join(err, e); err != nil {
			break
		}
		files = append(files, f)
		// Only a hint: with all of them on their way, one commit of the file system is
		// enough.
		_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	var g errgroup.Group
	for _, f := range files {
		g.Go(func() error { return errors.Join(f.Sync(), f.Close()) })
	}
	return errors.Join(err, g.Wait())
}
