package quota

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// maxCounts is how often Recount counts at most.
const maxCounts = 3

// unknown is what a log that could not be read begins with until its first
// recount is finished: so far below zero that no change hides it, as the sum of a
// log that calls for a recount is.
var unknown = Usage{-1 << 60, -1 << 40}

// ErrSuperseded: another recount of this Log was begun since.
var ErrSuperseded = errors.New("another recount was begun")

// Known reports whether u can be the usage of a mailbox. Else a recount is due,
// or at work.
func (u Usage) Known() bool { return u.Bytes >= 0 && u.Messages >= 0 }

// Counting is a recount that was begun and not finished. It holds no lock and no
// descriptor; one that is not to be finished can be dropped.
type Counting struct {
	log    *Log
	begun  uint64
	added  uint64
	before Usage
	logged Usage
}

// BeginRecount notes what the log says now. From here on changes are logged as
// ever, beside the caller's counting. A log that is missing or cannot be read is
// made anew, with a sum that is not Known until Finish.
//
// Only one process may recount a log at a time, and one Counting of a Log counts:
// the last one begun.
func (l *Log) BeginRecount() (*Counting, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	info, err := l.lock(true, true)
	if err != nil {
		return nil, fmt.Errorf("recount quota log %s: %w", l.path, err)
	}
	defer l.unlock()
	if err = l.carryOver(); err == nil {
		info, err = l.f.Stat()
	}
	if err == nil {
		err = l.refresh(info)
	}
	if errors.Is(err, ErrCorrupt) {
		err = l.startAnew()
	}
	if err != nil {
		return nil, fmt.Errorf("recount quota log %s: %w", l.path, err)
	}
	l.recounts++
	return &Counting{l, l.recounts, l.added, l.contents.Usage, l.logged}, nil
}

// startAnew gives the locked file a sum that is not known. What came late to
// earlier ones is in the mailbox already, and will be counted.
func (l *Log) startAnew() error {
	info, err := l.f.Stat()
	if err != nil {
		return err
	}
	if err := l.rewrite(l.limit, unknown, info.Size()); err != nil {
		return err
	}
	for i := range l.replaced {
		if info, err := l.replaced[i].f.Stat(); err == nil {
			l.replaced[i].off = info.Size()
		}
	}
	return nil
}

// Finish sets the log to what the mailbox held when the recount was begun, and
// adds what was logged since. That is exact if atBegin is: a change made after
// BeginRecount must not be in it, since it is logged. quiet reports that nothing
// was logged since, by this Log at all, by others to the sum of zero; then the
// mailbox as it is now will do as well.
func (c *Counting) Finish(atBegin Usage) (quiet bool, err error) {
	err = c.finish(func(since Usage) (Usage, bool) {
		quiet = since == Usage{} && c.log.added == c.added
		return atBegin.plus(since)
	})
	return quiet && err == nil, err
}

// FinishAt sets the log to what the mailbox holds now: the caller has followed its
// own changes while it counted, makes none meanwhile, and has logged them all.
// foreign reports that others have changed the log since BeginRecount, and the sum
// with it: whether those changes were counted is not known.
func (c *Counting) FinishAt(now Usage) (foreign bool, err error) {
	err = c.finish(func(since Usage) (Usage, bool) {
		own := Usage{c.log.logged.Bytes - c.logged.Bytes, c.log.logged.Messages - c.logged.Messages}
		foreign = since != own
		return now, true
	})
	return foreign, err
}

// finish sets the log to sumOf what was logged since BeginRecount; false: the sum
// is beyond 64 bits.
func (c *Counting) finish(sumOf func(since Usage) (Usage, bool)) error {
	l := c.log
	return l.exclusively("finish recount of", func(info fs.FileInfo) error {
		if c.begun != l.recounts {
			return ErrSuperseded
		}
		if err := l.refresh(info); err != nil {
			return err
		}
		now := l.contents
		since, ok1 := now.Usage.plus(Usage{-c.before.Bytes, -c.before.Messages})
		sum, ok2 := sumOf(since)
		if !ok1 || !ok2 {
			return fmt.Errorf("%w: sum beyond 64 bits", ErrCorrupt)
		}
		l.removeLeftovers()
		if sum == now.Usage && l.limit == now.Limit {
			return nil
		}
		return l.rewrite(l.limit, sum, int64(now.CompleteBytes))
	})
}

// Recount counts with count, which holds no lock of the log, so that changes go
// on being logged; up to three times, until the mailbox was quiet meanwhile.
// exact reports that it was. Else the log may be off by changes that count has
// seen and that were logged while it ran. If count fails the log is as it was, or,
// if that could not be read, has a sum that is not Known.
func (l *Log) Recount(count func() (Usage, error)) (exact bool, err error) {
	for range maxCounts {
		c, err := l.BeginRecount()
		if err != nil {
			return false, err
		}
		usage, err := count()
		if err != nil {
			return false, fmt.Errorf("recount quota log %s: %w", l.path, err)
		}
		if exact, err = c.Finish(usage); exact || err != nil {
			return exact, err
		}
	}
	return false, nil
}

// removeLeftovers removes temporary files of coalescings that a crash cut off.
func (l *Log) removeLeftovers() {
	dir, prefix := filepath.Dir(l.path), filepath.Base(l.path)+tempInfix
	var old []string
	err := l.fsys.ReadDir(dir, func(e fs.DirEntry) error {
		if strings.HasPrefix(e.Name(), prefix) {
			if info, err := e.Info(); err == nil && l.now().Sub(info.ModTime()) > leftoverAge {
				old = append(old, filepath.Join(dir, e.Name()))
			}
		}
		return nil
	})
	if err != nil {
		return // they do no harm
	}
	for _, name := range old {
		_ = l.fsys.Remove(name)
	}
}
