package maildir

import (
	"context"
	"errors"
	"time"

	"waypost/backend/mailbox"
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

// usage is the quota log's sum. If that is not to be relied on, r is the recount
// that is under way, begun here if need be, and u what the log says meanwhile, which
// may be not Known.
func (a *Account) usage() (u mailbox.Usage, r *recount, err error) {
	u, err = a.logged()
	if a.recount || a.counting != nil {
		return u, a.startRecount(), nil
	}
	a.tally = tally{known: err == nil, u: u, at: a.o.Now()}
	return u, nil, err
}

// logged is what the quota log says; recount is set if that cannot be.
func (a *Account) logged() (mailbox.Usage, error) {
	a.logUsage()
	a.followLimit()
	u, err := a.quota.Usage()
	wrong := errors.Is(err, quota.ErrMissing) || errors.Is(err, quota.ErrCorrupt) || err == nil && !u.Known()
	if wrong && a.counting == nil && !a.recount {
		a.o.Log.Info("maildir: counting the quota anew", "root", a.o.Root, "error", err)
		a.recount = true
	}
	return mailbox.Usage(u), err
}

// exactUsage sees to it that the log is right, for who is about to close it: what a
// recount has not done yet is done here, under the lock.
func (a *Account) exactUsage() error {
	a.stopRecount()
	if _, err := a.logged(); !a.recount {
		return err
	}
	a.tally.known = false
	_, err := a.quota.Recount(func() (quota.Usage, error) {
		u, err := a.count()
		return quota.Usage(u), err
	})
	if err == nil {
		a.recount, a.countErr = false, nil
	}
	return err
}

// Usage is mailbox.Box's. It waits for a recount, without the locks.
func (b *box) Usage() (u mailbox.Usage, err error) {
	for range maxCounts {
		var r *recount
		err = b.do("usage", func() error {
			u, r, err = b.a.usage()
			return err
		})
		if err != nil || r == nil {
			return u, err
		}
		<-r.ended
		if r.err != nil && !errors.Is(r.err, errStopped) {
			return mailbox.Usage{}, b.named("usage", r.err)
		}
	}
	// Others change the mailbox all the time: this is as right as can be.
	err = b.do("usage", func() error { u, err = b.a.logged(); return err })
	return u, err
}

// counted runs an operation, and once more each time that it depends on a recount,
// for which it waits without the locks.
func (b *box) counted(ctx context.Context, do func() error) error {
	for range maxCounts {
		err := do()
		var c stillCounting
		if !errors.As(err, &c) {
			return err
		}
		select {
		case <-c.r.ended:
		case <-ctx.Done():
			return b.named("wait for the quota to be counted", ctx.Err())
		}
	}
	return do()
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
	a.addUsageLate(bytes, messages)
	a.logUsage()
}

// addUsageLate is addUsage that leaves the line to the next who calls that or logged,
// or to the next checkpoint; but a recount needs each line at once.
func (a *Account) addUsageLate(bytes, messages int64) {
	before := a.tally.u
	a.tally.u.Bytes += bytes
	a.tally.u.Messages += messages
	if a.tally.known && len(a.o.Warnings) > 0 && (bytes > 0 || messages > 0) {
		a.warn(before, a.tally.u)
	}
	a.late.usage.Bytes += bytes
	a.late.usage.Messages += messages
	if a.recount || a.counting != nil {
		a.logUsage()
	}
}

// logUsage writes the line of what addUsageLate has left.
func (a *Account) logUsage() {
	change := a.late.usage
	a.late.usage = mailbox.Usage{}
	if a.recount {
		return
	}
	if err := a.quota.Add(change.Bytes, change.Messages); err != nil {
		a.o.Log.Warn("maildir: change not in the quota log", "root", a.o.Root, "error", err)
		a.recount = true
	}
}

// fits tells whether so much more in a folder is within the quota. While a recount is
// under way what the log says will do, as long as nobody is turned away by it.
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
	rely := !a.recount && a.counting == nil
	if rely && a.tally.known && a.o.Now().Sub(a.tally.at).Abs() < tallyAge && !full(a.tally.u) {
		return nil
	}
	if a.counting == nil && a.countErr != nil && a.o.Now().Before(a.countAgain) {
		return a.countErr
	}
	u, r, err := a.usage()
	switch {
	case err != nil:
		return err
	case r != nil && a.countErr != nil:
		return a.countErr // the last one failed, and this one may
	case !full(u):
		return nil
	case r != nil:
		return stillCounting{r} // nobody is turned away by what may be wrong
	}
	return mailbox.ErrOverQuota
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

// countFolder sums up one folder's names.
func countFolder(fsys vfs.FS, dir string) (sum mailbox.Usage, err error) {
	sizes, err := sizesIn(context.Background(), fsys, dir)
	for _, size := range sizes {
		sum.Bytes += size
		sum.Messages++
	}
	return sum, err
}
