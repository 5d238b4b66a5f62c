package backend

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"waypost/backend/manifest"
	"waypost/director"
	"waypost/internal/vfs"
)

// digests has the manifests of users who are being moved: of the live tree, as a source, and
// of staging, as a target. They are kept up to date by what is written through files, so that
// inside busy only what is new is read, and on the disk (moves/xx/USER), so that a
// restart does not begin at the beginning. It is bounded: what is forgotten costs
// a look at the whole tree, nothing else.
type digests struct {
	// files is the file system through which trees are written.
	files *manifest.Changes
	disk  disk

	mu sync.Mutex
	by map[director.User]*userDigests
}

type userDigests struct {
	source, staged *manifest.Tracker
	used           time.Time
	// asked is the epoch of the move whose target has asked for a Delta, and so knows
	// digests by it; frozen the epoch whose manifest is in disk.manifest.
	asked, frozen director.Epoch
}

const (
	// maxDigests is more than the movers of a cluster move at once on one backend.
	maxDigests = 256
	// maxEntries of all together take some 2 GB.
	maxEntries = 8_000_000
)

func (d *digests) open(on disk) {
	d.disk, d.by = on, make(map[director.User]*userDigests)
	d.files = manifest.NewChanges(vfs.OS, filepath.Join(on.root, "users"))
}

// folder is where what is known of a user's move is kept.
func (d *digests) folder(u director.User) string { return d.disk.in("moves", u) }

// halves is where long files grow that are being fetched.
func (d *digests) halves(u director.User) string { return filepath.Join(d.folder(u), "halves") }

// of gives a user's entry. Called under mu.
func (d *digests) of(u director.User) *userDigests {
	x := d.by[u]
	if x == nil {
		d.makeRoom()
		x = &userDigests{}
		d.by[u] = x
	}
	x.used = time.Now()
	return x
}

// makeRoom forgets who was not used for the longest time.
func (d *digests) makeRoom() {
	for {
		var oldest director.User
		entries := 0
		for u, x := range d.by {
			entries += x.entries()
			if oldest == "" || x.used.Before(d.by[oldest].used) {
				oldest = u
			}
		}
		if len(d.by) < maxDigests && entries < maxEntries || oldest == "" {
			return
		}
		_ = d.close(oldest) // what was not kept is found out again
	}
}

func (x *userDigests) entries() (n int) {
	for _, t := range []*manifest.Tracker{x.source, x.staged} {
		if t != nil {
			n += t.Entries()
		}
	}
	return n
}

// source is the manifest of the live tree; from the first call on it has a change list.
func (d *digests) source(u director.User) (*manifest.Tracker, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	x := d.of(u)
	if x.source == nil {
		t := manifest.NewTracker(d.disk.live(u))
		if err := t.Keep(filepath.Join(d.folder(u), "source")); err != nil {
			return nil, err
		}
		d.files.Follow(t)
		x.source = t
	}
	return x.source, nil
}

// staged is the manifest of staging.
func (d *digests) staged(u director.User) (*manifest.Tracker, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	x := d.of(u)
	if x.staged == nil {
		t := manifest.NewDurable(d.disk.staging(u))
		if err := t.Keep(filepath.Join(d.folder(u), "staged")); err != nil {
			return nil, err
		}
		x.staged = t
	}
	return x.staged, nil
}

// change does something to a user's entry.
func (d *digests) change(u director.User, do func(x *userDigests)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	do(d.of(u))
}

// close drops a user's entry from memory. Called under mu.
func (d *digests) close(u director.User) error {
	x := d.by[u]
	if x == nil {
		return nil
	}
	delete(d.by, u)
	var err error
	if x.source != nil {
		d.files.Leave(x.source)
		err = x.source.Close()
	}
	if x.staged != nil {
		err = errors.Join(err, x.staged.Close())
	}
	return err
}

// forget drops all that is known of a user, when the trees are no more what they were.
func (d *digests) forget(u director.User) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.close(u), os.RemoveAll(d.folder(u)))
}
