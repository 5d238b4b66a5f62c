package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sync/errgroup"
)

// chain holds the tickets of one user that no checkpoint has passed and that have
// touched anything, in their order.
type chain struct {
	first, last *Ticket
	renamed     []renamed
}

// renamed is a file that had another name when the records up to lsn touched it.
type renamed struct {
	lsn  LSN
	path string
}

// chain appends a ticket to its user's. It has mu held.
func (j *Journal) chain(t *Ticket) {
	c := j.users[t.user]
	if c == nil {
		j.users[t.user] = &chain{first: t, last: t}
		return
	}
	c.last.next = t
	c.last = t
}

// unchain takes a ticket, the oldest of all, from its user's. It has mu held.
func (j *Journal) unchain(t *Ticket) {
	c := j.users[t.user]
	if c == nil || c.first != t {
		return
	}
	c.first = t.next
	if c.first == nil {
		delete(j.users, t.user)
		return
	}
	passed := 0
	for passed < len(c.renamed) && c.renamed[passed].lsn <= t.lsn {
		passed++
	}
	c.renamed = c.renamed[passed:]
}

// Renamed says that a file which records of a user may have touched is at path from now
// on, and that no record tells of it: Flush syncs it there.
func (j *Journal) Renamed(user, path string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if c := j.users[user]; c != nil { // else a checkpoint has passed all of them
		c.renamed = append(c.renamed, renamed{c.last.lsn, path})
	}
}

// Flush makes durable what all records of a user since the last checkpoint have
// touched, path by path, so that none of them is needed any more: they may still be
// replayed after a crash. The caller holds the user's lock, and all of the
// records are applied. A path that does not exist is none of its business: it was
// removed, or renamed, and its successor is touched, too, or Renamed. After an error
// nothing is known; if a flush itself failed so has the journal.
func (j *Journal) Flush(user string) error {
	if err := j.Err(); err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(flushers)
	for _, path := range j.touched(user) {
		g.Go(func() error { return j.flushPath(user, path) })
	}
	return g.Wait()
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
	add := func(p string) {
		if !seen[p] {
			seen[p] = true
			paths = append(paths, p)
		}
	}
	for t := c.first; t != nil; t = t.next {
		for _, p := range t.touched {
			add(p)
		}
	}
	for _, r := range c.renamed {
		add(r.path)
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
