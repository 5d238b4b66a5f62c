package maildir

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
	"waypost/backend/quota"
	"waypost/internal/vfs"
)

// tally is what was last read of the quota log, with our own changes since. It is
// believed for tallyAge: others append to the log, too.
type tally struct {
	known bool
	u     mailbox.Usage
	at    time.Time
}

const tallyAge = time.Second

// usage is the quota log's sum, counted anew if the log is missing or wrong.
func (a *Account) usage() (mailbox.Usage, error) {
	a.followLimit()
	if a.recount {
		return a.countAnew()
	}
	u, err := a.quota.Usage()
	if errors.Is(err, quota.ErrMissing) || errors.Is(err, quota.ErrCorrupt) || err == nil && !u.Known() {
		a.o.Log.Info("maildir: counting the quota anew", "root", a.o.Root, "error", err)
		return a.countAnew()
	}
	a.tally = tally{known: err == nil, u: mailbox.Usage(u), at: a.o.Now()}
	return mailbox.Usage(u), err
}

// countAnew counts under the lock: changes of the mailbox and their lines in the log
// are told apart by nothing else. It reads names only.
func (a *Account) countAnew() (u mailbox.Usage, err error) {
	a.tally.known = false
	_, err = a.quota.Recount(func() (quota.Usage, error) {
		u, err = a.count()
		return quota.Usage(u), err
	})
	if err != nil {
		return mailbox.Usage{}, err
	}
	a.recount = false
	return u, nil
}

// followLimit writes a changed limit into the quota log, where Dovecot and
// operators read it. Our own checks do not depend on it.
func (a *Account) followLimit() {
	limit := a.o.Limit()
	if limit == a.limit {
		return
	}
	err := a.quota.SetLimit(quota.Limit(limit))
	if err != nil && !errors.Is(err, quota.ErrMissing) && !errors.Is(err, quota.ErrCorrupt) {
		a.o.Log.Warn("maildir: limit not written", "root", a.o.Root, "error", err)
		return
	}
	a.limit = limit
}

// addUsage logs a change that has been made already; if that fails the next
// who asks counts anew.
func (a *Account) addUsage(bytes, messages int64) {
	before := a.tally.u
	a.tally.u.Bytes += bytes
	a.tally.u.Messages += messages
	if a.tally.known && len(a.o.Warnings) > 0 && (bytes > 0 || messages > 0) {
		a.warn(before, a.tally.u)
	}
	if a.recount {
		return
	}
	if err := a.quota.Add(bytes, messages); err != nil {
		a.o.Log.Warn("maildir: change not in the quota log", "root", a.o.Root, "error", err)
		a.recount = true
	}
}

// fits tells whether so much more in a folder is within the quota.
func (a *Account) fits(folder string, bytes, messages int64) error {
	limit := a.limitFor(folder)
	if limit == (mailbox.Limit{}) {
		return nil
	}
	full := func(u mailbox.Usage) bool {
		u.Bytes += a.reserved.Bytes
		u.Messages += a.reserved.Messages
		return quota.Limit(limit).Exceeded(quota.Usage(u), bytes, messages)
	}
	if a.tally.known && !a.recount && a.o.Now().Sub(a.tally.at).Abs() < tallyAge && !full(a.tally.u) {
		return nil
	}
	u, err := a.usage()
	if err == nil && full(u) {
		err = mailbox.ErrOverQuota
	}
	return err
}

// count sums up the names of all messages.
func (a *Account) count() (sum mailbox.Usage, err error) {
	rels, err := a.directories()
	if err != nil {
		return sum, err
	}
	for _, rel := range append(rels, "") {
		u, err := countFolder(a.fs, a.dir(rel))
		if err != nil {
			return sum, err
		}
		sum.Bytes += u.Bytes
		sum.Messages += u.Messages
	}
	return sum, nil
}

// countFolder sums up one folder's names; only files whose name does not tell
// their size are looked at.
func countFolder(fsys vfs.FS, dir string) (sum mailbox.Usage, err error) {
	seen := map[string]bool{}
	for _, sub := range []string{"cur", "new"} {
		err := eachMessage(fsys, filepath.Join(dir, sub), func(file string, n name.Name) error {
			if seen[n.Base] {
				return nil
			}
			seen[n.Base] = true
			size, _ := name.Sizes(n.Base)
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
			sum.Bytes += size
			sum.Messages++
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return sum, fmt.Errorf("count %s: %w", dir, err)
		}
	}
	return sum, nil
}
