package director

import (
	"context"
	"time"
)

// Store is a linearizable key-value store with guarded transactions, leases
// and prefix watches: etcd, or memory in tests. Keys are relative: an
// implementation adds its own prefix. Errors wrap ErrUnavailable when nothing
// was done, and ErrUnknown when a Commit may or may not have been done.
// All methods are safe for concurrent use. director/storetest is the
// conformance test that every implementation passes.
type Store interface {
	// Get reads one key linearizably. A missing key is Entry{Key: key} with Rev 0.
	Get(ctx context.Context, key string) (Entry, error)
	// GetAll reads several keys (at most 100) at one revision.
	GetAll(ctx context.Context, keys []string) ([]Entry, error)
	// List calls fn with every entry under prefix, in no promised order, all
	// at one revision, which it returns: a Watch from revision+1 misses nothing.
	List(ctx context.Context, prefix string, fn func(Entry) error) (revision int64, err error)
	// Commit makes all ops if every guard holds, else none (done false, nil).
	Commit(ctx context.Context, guards []Guard, ops []Op) (revision int64, done bool, err error)
	// Watch sends every change under prefix from revision from on, in order,
	// until ctx ends; then, or after an error that it cannot heal (compacted
	// away, Batch.Err set), the channel is closed and the caller lists anew.
	Watch(ctx context.Context, prefix string, from int64) <-chan Batch
	// Grant makes a lease that is kept alive until ctx ends or Revoke, and
	// expires ttl after its keeper is gone.
	Grant(ctx context.Context, ttl time.Duration) (Lease, error)
	// Close ends all watches and leases' keep-alives.
	Close() error
}

// Entry is one key's value. Rev is the revision of its last change; 0: absent.
type Entry struct {
	Key   string
	Value []byte
	Rev   int64
	// Leased is true when the key is bound to a lease.
	Leased bool
}

// Guard holds if key's last change is Rev; Rev 0: if key is absent.
type Guard struct {
	Key string
	Rev int64
}

// Op puts Value at Key, or deletes Key. A put may be bound to a lease.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
	Lease  LeaseID
}

// LeaseID is a granted lease; 0 is none.
type LeaseID int64

// Lease is a promise to be alive.
type Lease interface {
	ID() LeaseID
	// Done is closed when the lease is lost or revoked.
	Done() <-chan struct{}
	// Revoke gives it back at once; its keys are deleted.
	Revoke(ctx context.Context) error
}

// Batch is what changed in one revision or more. An Entry with Rev > 0 and nil
// Value never occurs; a deletion is in Deleted.
type Batch struct {
	// Revision is the store's revision after the batch; a batch without
	// changes only reports progress.
	Revision int64
	Changes  []Change
	// Err is why the watch ended; the channel is closed after it.
	Err error
}

// Change is one key put or deleted.
type Change struct {
	Entry
	Deleted bool
}
