package backend

import (
	"sync"

	"waypost/backend/manifest"
	"waypost/director"
)

// digests remembers the message digests of users who are being moved, so that
// inside busy only what is new is read. It is bounded: a digest forgotten costs
// a read, nothing else.
type digests struct {
	mu sync.Mutex
	by map[director.User]*userDigests
}

// userDigests are of the live tree, as a source, and of staging, as a target.
type userDigests struct{ source, staged *manifest.Digester }

// maxDigests is more than the movers of a cluster move at once on one backend.
const maxDigests = 256

func (d *digests) of(u director.User) *userDigests {
	d.mu.Lock()
	defer d.mu.Unlock()
	x := d.by[u]
	if x == nil {
		for other := range d.by {
			if len(d.by) < maxDigests {
				break
			}
			delete(d.by, other)
		}
		x = &userDigests{manifest.NewDigester(), manifest.NewDigester()}
		d.by[u] = x
	}
	return x
}

func (d *digests) forget(u director.User) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.by, u)
}
