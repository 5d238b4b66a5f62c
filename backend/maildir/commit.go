package maildir

import (
	"fmt"

	"waypost/backend/journal"
	"waypost/director"
)

// commit is an operation whose record is in the journal, and which is still to
// be seen in the files and the memory. Commits of an Account are applied in the
// order of their records, each once its record is durable: nobody sees what a
// power cut could take back, and UIDs turn up in their order.
type commit struct {
	record *record
	ops    []op
	// apply makes the change; nil: it is made. It may be called again after an
	// error, and then goes on where it stopped.
	apply func() error
	// late: a part of it is written later, see Account.late.
	late bool
	// transfer: messages that are seen in one folder are on their way to another.
	transfer bool
	// bytes and messages are what it adds to the quota.
	bytes, messages int64
}

// record is one step in the journal: a record, or several if it is long. Those of
// a step become durable in their order, and replay does nothing of a step whose
// last is missing.
type record struct{ tickets []*journal.Ticket }

// wait returns when the step is durable.
func (r *record) wait() error {
	for _, t := range r.tickets {
		if err := t.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// durable tells whether wait would return nil at once.
func (r *record) durable() bool {
	for _, t := range r.tickets {
		if !t.Durable() {
			return false
		}
	}
	return true
}

// applied says that the step is in the files.
func (r *record) applied() {
	for _, t := range r.tickets {
		t.Applied()
	}
}

func (r *record) last() journal.LSN { return r.tickets[len(r.tickets)-1].LSN() }

// log writes ops into the journal as one step; touched are the files whose
// sync would do the same. The caller holds the locks, and has been admitted.
func (a *Account) log(epoch director.Epoch, ops []op, touched []string) *record {
	r := &record{}
	parts := encodeOps(ops)
	for i, part := range parts {
		var paths []string
		if i == len(parts)-1 {
			paths = touched
		}
		r.tickets = append(r.tickets, a.o.Journal.Append(string(a.o.User), uint64(epoch), paths, part))
	}
	return r
}

// renamed says that files of messages have other paths now, and no record says so.
func (a *Account) renamed(paths map[string]string) { a.o.Journal.Renamed(string(a.o.User), paths) }

// push queues a commit.
func (a *Account) push(c *commit) {
	a.commits = append(a.commits, c)
	a.reserved.Bytes += c.bytes
	a.reserved.Messages += c.messages
}

// made journals a change that is in the files and the memory already, all but
// what c.apply does, and leaves it to be waited for.
func (f *folder) made(c *commit, touched []string) {
	a := f.a
	c.record = a.log(a.epoch, c.ops, touched)
	f.latest = c.record
	if c.apply == nil && len(a.unwritten) == 0 {
		c.record.applied()
		return
	}
	a.push(c)
	a.stuck = a.stuck || len(a.unwritten) > 0
}

// settle waits for all commits and applies them. a.mu is held. After an error
// the rest is tried again by the next who calls.
func (a *Account) settle() error { return a.settleTo(nil) }

// settleTo is settle up to and with last.
func (a *Account) settleTo(last *commit) error {
	for len(a.commits) > 0 {
		c := a.commits[0]
		if err := a.await(c.record); err != nil {
			return err
		}
		if err := a.apply(c); err != nil {
			a.stuck = true
			return fmt.Errorf("bring into the files what the journal has: %w", err)
		}
		if c.late {
			a.putOff(c.record)
		} else {
			c.record.applied()
		}
		a.commits = a.commits[1:]
		a.reserved.Bytes -= c.bytes
		a.reserved.Messages -= c.messages
		if c == last {
			break
		}
	}
	a.stuck = a.stuck && (len(a.commits) > 0 || a.late.failed)
	return nil
}

// await waits for a record with a.mu held. The checkpoint that the journal may need
// to go on must not depend on what is put off, which needs a.mu.
func (a *Account) await(r *record) error {
	if !r.durable() {
		_ = a.catchUp() // which remembers its error
		if err := r.wait(); err != nil {
			return a.doubt(err)
		}
	}
	return nil
}

func (a *Account) apply(c *commit) error {
	if c.apply != nil {
		if err := c.apply(); err != nil {
			return err
		}
		c.apply = nil
	}
	return a.writeStates()
}

// unstick tries again what could not be brought into the files.
func (a *Account) unstick() error {
	if !a.stuck {
		return nil
	}
	if err := a.catchUp(); err != nil {
		return err
	}
	return a.settle()
}

// unstickFor is unstick for who is about to change messages: those that are on
// their way to another folder must have arrived there. Others may be removed
// while the disk is full.
func (a *Account) unstickFor() error {
	err := a.unstick()
	for _, c := range a.commits {
		if c.transfer && a.stuck {
			return err
		}
	}
	return a.writable()
}

// commitNow journals and applies a step under the locks. Its error is that of
// the journal: once the record is durable the step counts as done, and what
// could not be brought into the files yet is tried again by whoever comes next.
// It reports whether the commit was queued.
func (a *Account) commitNow(epoch director.Epoch, touched []string, c *commit) (queued bool, err error) {
	if err := a.settle(); err != nil {
		return false, err
	}
	c.record = a.log(epoch, c.ops, touched)
	a.push(c)
	if err := a.settle(); err != nil {
		if a.uncertain != nil {
			return true, a.uncertain
		}
		a.logStuck(err)
	}
	return true, nil
}

func (a *Account) logStuck(err error) {
	a.o.Log.Error("maildir: journaled and not yet in the files", "root", a.o.Root, "error", err)
}

// finished waits for a commit of this Account, with no lock held.
func (a *Account) finished(c *commit) error {
	if err := c.record.wait(); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, other := range a.commits {
		if other == c {
			if err := a.settleTo(c); err != nil && a.uncertain == nil {
				a.logStuck(err)
			}
			break
		}
	}
	return nil
}
