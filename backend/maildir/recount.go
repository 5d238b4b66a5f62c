package maildir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
	"waypost/backend/quota"
	"waypost/internal/vfs"
)

const (
	// maxCounts is how often a mailbox is counted that others change meanwhile.
	maxCounts = 3
	// countPause is how long after a count that failed the next is begun for the
	// sake of a delivery.
	countPause = 10 * time.Second
)

// errStopped: a recount was given up, for the Account is closed, or counts under
// its lock.
var errStopped = errors.New("recount given up")

// recount counts the quota beside the operations of the Account. It lists one
// folder after the other without a lock, and is told by each operation, under a.mu,
// which names came and went: those of folders that are still to be listed are on the
// disk by then; in folders that have been they are added and taken off; and in the
// folder that is being listed what the operation says counts, whatever the listing
// saw of the name. So each change counts once, and what there is in the end is what
// is on the disk.
type recount struct {
	a     *Account
	ctx   context.Context
	stop  context.CancelFunc
	ended chan struct{}
	err   error // to be read once ended is closed

	// a.mu guards the rest.
	log     *quota.Counting
	pending []string                 // directories that are still to be listed
	held    map[string]mailbox.Usage // those that have been
	// at is the directory that is being listed if listing says so. Again: it got
	// another name. gone: it was deleted.
	at                   string
	listing, again, gone bool
	// touched are the bases whose names have changed while at was being listed,
	// with the message's size; -1: it has left the folder.
	touched map[string]int64
}

// stillCounting: the answer depends on the recount that is under way. Who gets it
// waits without locks (box.counted).
type stillCounting struct{ r *recount }

func (stillCounting) Error() string { return "the quota is being counted" }

// startRecount begins a recount if there is none. a.mu is held.
func (a *Account) startRecount() *recount {
	if a.counting == nil {
		r := &recount{a: a, ended: make(chan struct{})}
		r.ctx, r.stop = context.WithCancel(context.Background())
		a.counting, a.recount = r, true
		a.counters.Go(r.run)
	}
	return a.counting
}

// stopRecount gives the recount up that is under way. a.mu is held; Account.counters
// tells when it has ended.
func (a *Account) stopRecount() {
	if a.counting != nil {
		a.counting.stop()
		a.counting, a.recount = nil, true
	}
}

func (r *recount) run() {
	defer r.stop()
	defer close(r.ended)
	a := r.a
	r.err = r.count()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.counting != r {
		r.err = errStopped
		return
	}
	a.counting = nil
	a.countErr = r.err
	if r.err != nil {
		a.recount, a.countAgain = true, a.o.Now().Add(countPause)
		a.o.Log.Warn("maildir: quota not counted", "root", a.o.Root, "error", r.err)
	}
}

func (r *recount) count() error {
	for try := 1; ; try++ {
		err := r.locked(r.begin)
		for more := true; more && err == nil; {
			more, err = r.listNext()
		}
		again := false
		if err == nil {
			err = r.locked(func() (err error) {
				again, err = r.finish(try == maxCounts)
				return err
			})
		}
		if err != nil || !again {
			return err
		}
	}
}

// locked runs one slice under a.mu.
func (r *recount) locked(do func() error) error {
	r.a.mu.Lock()
	defer r.a.mu.Unlock()
	if r.a.counting != r || r.a.closed {
		return errStopped
	}
	return do()
}

func (r *recount) begin() error {
	rels, err := r.a.directories()
	if err != nil {
		return err
	}
	if r.log, err = r.a.quota.BeginRecount(); err != nil {
		return err
	}
	r.pending, r.held = append(rels, ""), map[string]mailbox.Usage{}
	r.a.recount, r.a.tally.known = false, false
	return nil
}

// listNext lists one folder; more: there may be another.
func (r *recount) listNext() (more bool, err error) {
	dir := ""
	err = r.locked(func() error {
		if more = len(r.pending) > 0; more {
			r.at, r.pending = r.pending[0], r.pending[1:]
			r.listing, r.again, r.gone, r.touched = true, false, false, map[string]int64{}
			dir = r.a.dir(r.at)
		}
		return nil
	})
	if err != nil || !more {
		return false, err
	}
	sizes, err := sizesIn(r.ctx, r.a.fs, dir)
	return true, r.locked(func() error {
		r.listing = false
		switch {
		case r.gone: // with all that was in it
		case r.again:
			r.pending = append(r.pending, r.at)
		case err != nil:
			return err
		default:
			r.fold(sizes)
		}
		return nil
	})
}

// fold makes of a listing, and of what happened meanwhile, what the folder holds.
func (r *recount) fold(sizes map[string]int64) {
	var sum mailbox.Usage
	add := func(size int64) {
		sum.Bytes += size
		sum.Messages++
	}
	for base, size := range sizes {
		if _, changed := r.touched[base]; !changed {
			add(size)
		}
	}
	for _, size := range r.touched {
		if size >= 0 {
			add(size)
		}
	}
	r.held[r.at], r.touched = sum, nil
}

// finish writes the sum into the log; again: others have changed the mailbox or the
// log meanwhile, so that it is to be counted once more.
func (r *recount) finish(last bool) (again bool, err error) {
	a := r.a
	// The log has the line of each change that is on the disk only then.
	if err := a.settle(); err != nil {
		return false, err
	}
	a.logUsage()
	if a.recount && !last {
		return true, nil
	}
	var sum mailbox.Usage
	for _, u := range r.held {
		sum.Bytes += u.Bytes
		sum.Messages += u.Messages
	}
	foreign, err := r.log.FinishAt(quota.Usage(sum))
	for _, lost := range []error{quota.ErrMissing, quota.ErrCorrupt, quota.ErrSuperseded} {
		foreign = foreign || errors.Is(err, lost)
	}
	if foreign && !last {
		return true, nil
	}
	return false, err
}

// following is the recount that is to be told of changes that are on the disk, by what
// follows: nil if there is none, or it has not begun.
func (a *Account) following() *recount {
	if a.counting == nil || a.counting.held == nil {
		return nil
	}
	return a.counting
}

// cameName: the message of that name came to the folder in the directory rel, or has
// another name there.
func (a *Account) cameName(rel, base string, size int64) { a.noteName(rel, base, size, 1) }

// wentName: it left that folder.
func (a *Account) wentName(rel, base string, size int64) { a.noteName(rel, base, size, -1) }

// keptName: it has other letters there, or went from new to cur. A listing may pass
// over both names, or see both.
func (a *Account) keptName(rel, base string, size int64) { a.noteName(rel, base, size, 0) }

func (a *Account) noteName(rel, base string, size, sign int64) {
	r := a.following()
	if r == nil {
		return
	}
	size = countedSize(base, size)
	held, listed := r.held[rel]
	switch {
	case r.listing && r.at == rel && sign < 0:
		r.touched[base] = -1
	case r.listing && r.at == rel:
		r.touched[base] = size
	case listed:
		held.Bytes += sign * size
		held.Messages += sign
		r.held[rel] = held
	case !slices.Contains(r.pending, rel):
		a.recount = true // a folder that others have made
	}
}

// notedFolder: a folder was made, empty.
func (a *Account) notedFolder(rel string) {
	if r := a.following(); r != nil {
		r.held[rel] = mailbox.Usage{}
	}
}

// relocated: a directory got another name. One that is no folder's: it was deleted.
func (a *Account) relocated(from, to string) {
	r := a.following()
	if r == nil {
		return
	}
	_, is := folderOf(to)
	if r.listing && r.at == from {
		r.at, r.again, r.gone = to, true, !is
	}
	if u, listed := r.held[from]; listed {
		delete(r.held, from)
		if is {
			r.held[to] = u
		}
	}
	if i := slices.Index(r.pending, from); i >= 0 {
		r.pending[i] = to
		if !is {
			r.pending = slices.Delete(r.pending, i, i+1)
		}
	}
}

// disturbed: what a recount has seen may be wrong.
func (a *Account) disturbed() { a.recount = a.recount || a.counting != nil }

// countedSize is the size of a message as the quota counts it: what its name says, or
// else what it is.
func countedSize(base string, size int64) int64 {
	if told, _ := name.Sizes(base); told >= 0 {
		return told
	}
	return size
}

// sizesIn gives the messages of the folder in dir, by their bases; only files whose
// name does not tell their size are looked at.
func sizesIn(ctx context.Context, fsys vfs.FS, dir string) (map[string]int64, error) {
	sizes := map[string]int64{}
	for _, sub := range []string{"cur", "new"} {
		err := eachMessage(fsys, filepath.Join(dir, sub), func(file string, n name.Name) error {
			if _, twice := sizes[n.Base]; twice {
				return nil
			}
			size := countedSize(n.Base, -1)
			if size < 0 {
				info, err := fsys.Lstat(filepath.Join(dir, sub, file))
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				if err != nil {
					return err
				}
				size = info.Size()
			}
			sizes[n.Base] = size
			return ctx.Err()
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("count %s: %w", dir, err)
		}
	}
	return sizes, nil
}
