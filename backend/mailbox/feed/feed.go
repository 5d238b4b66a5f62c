// Package feed remembers what changed in an account, for Box.Updates: in memory
// only, and only the latest of it. A Feed is guarded by its owner's lock; the
// channels it gives may be waited for without.
package feed

import (
	"maps"
	"slices"

	"waypost/backend/mailbox"
)

// Feed is one account's. The zero value has seen no change.
type Feed struct {
	version uint64
	// folders has the version of each folder's last change, listing that of the
	// list of folders. Of what happened up to floor nothing is known.
	folders map[string]uint64
	listing uint64
	floor   uint64
	// wait is closed at the next change; nil while nobody waits.
	wait chan struct{}
}

// Messages says that messages of a folder came, went or changed.
func (f *Feed) Messages(folder string) {
	f.step()
	if f.folders == nil {
		f.folders = map[string]uint64{}
	}
	f.folders[folder] = f.version
	if len(f.folders) > mailbox.MaxUpdates {
		clear(f.folders)
		f.floor = f.version
	}
}

// Listing says that folders, subscriptions, metadata or ACLs changed.
func (f *Feed) Listing() {
	f.step()
	f.listing = f.version
}

func (f *Feed) step() {
	f.version++
	f.Wake()
}

// Wake lets all who wait look again.
func (f *Feed) Wake() {
	if f.wait != nil {
		close(f.wait)
		f.wait = nil
	}
}

// Waiting tells whether a channel was given that is not closed yet.
func (f *Feed) Waiting() bool { return f.wait != nil }

// Since is mailbox.Box's Updates. A version of another Feed, such as that of the
// same account before it was closed, which was higher, gives All.
func (f *Feed) Since(version uint64) (mailbox.Updates, <-chan struct{}) {
	if f.wait == nil {
		f.wait = make(chan struct{})
	}
	u := mailbox.Updates{Version: f.version, Listing: f.listing > version, All: version < f.floor || version > f.version}
	for _, folder := range slices.Sorted(maps.Keys(f.folders)) {
		if f.folders[folder] > version {
			u.Folders = append(u.Folders, folder)
		}
	}
	return u, f.wait
}
