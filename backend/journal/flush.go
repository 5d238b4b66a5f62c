package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// chain holds the tickets of one user that no checkpoint has passed, in their order.
type chain struct{ first, last *Ticket }

// chain appends a ticket to its user's. It has mu held.
func (j *Journal) chain(t *Ticket) {
	c := j.users[t.user]
	if c == nil {
		j.users[t.user] = &chain{t, t}
		return
	}
	c.last.next, t.prev = t, c.last
	c.last = t
}

// unchain takes a ticket, the oldest of all, from its user's. It has mu held.
func (j *Journal) unchain(t *Ticket) {
	c := j.users[t.user]
	if c == nil { // a body
		return
	}
	c.first = t.next
	if c.first == nil {
		delete(j.users, t.user)
	} else {
		c.first.prev = nil
	}
}

// Flush makes durable what all records of a user since the last checkpoint have
// touched, path by path, so that none of them is needed any more: they may still be
// replayed after a crash. The caller holds the user's lock. A path that does not exist
// is none of its business: it was removed, or renamed, and its successor is touched,
// too, or Renamed tells of it. ErrUnapplied if some of the records are not applied:
// these are needed, while of the others nothing is. After another error nothing is
// known; if a flush itself failed so has the journal.
func (j *Journal) Flush(user string) error {
	if err := j.Err(); err != nil {
		return err
	}
	unapplied := j.unapplied(user)
	var g errgroup.Group
	g.SetLimit(flushers)
	for _, path := range j.touched(user) {
		g.Go(func() error { return j.flushPath(user, path) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if unapplied > 0 {
		return fmt.Errorf("journal: flush of user %s: %w: %d of them", user, ErrUnapplied, unapplied)
	}
	return nil
}

// unapplied counts the records of a user that are not applied.
func (j *Journal) unapplied(user string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := j.users[user]
	if c == nil {
		return 0
	}
	n := 0
	for t := c.first; t != nil; t = t.next {
		if !t.applied.Load() {
			n++
		}
	}
	return n
}

// flushers is how many paths are synced at once: they share the file system's commits.
const flushers = 32

func (j *Journal) flushPath(user, path string) error {
	err := syncPath(j.o, path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err = fmt.Errorf("flush of user %s: %w", user, err)
	if harmless(err) {
		return fmt.Errorf("journal: %w", err)
	}
	return j.fail(err)
}

// harmless tells errors that come before anything is flushed from those that may
// report lost writes. Linux reports lost writes not only as EIO but also as ENOSPC
// and EDQUOT, once.
func harmless(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.EPERM, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// muchToFlush is how many paths are worth a checkpoint.
const muchToFlush = 16

// FlushSoon says that a Flush of that user is to come shortly. Where that would be much,
// a checkpoint takes most of it away before, for all users. Nobody waits for it here.
func (j *Journal) FlushSoon(user string) {
	if len(j.touched(user)) > muchToFlush {
		j.wantCheckpoint()
	}
}

// touched gives each path once, the first touched first.
func (j *Journal) touched(user string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := j.users[user]
	if c == nil {
		return nil
	}
	var paths []string
	seen := map[string]bool{}
	for t := c.first; t != nil; t = t.next {
		for _, p := range t.touched {
			if !seen[p] {
				seen[p] = true
				paths = append(paths, p)
			}
		}
	}
	return paths
}

func syncPath(o Options, path string) error {
	info, err := o.FS.Lstat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return o.FS.SyncDir(path)
	}
	f, err := o.FS.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
