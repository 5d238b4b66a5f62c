package maildir

import (
	"fmt"

	"waypost/backend/mailbox"
)

// late is what an Account puts off: the lines of deliveries in the log of their
// ids and in the quota log, written many at a time, and at each checkpoint. Until
// then the journal has the ids: a record counts as applied when its line is written.
// The quota of a process that was killed is counted anew.
type late struct {
	records []*record
	usage   mailbox.Usage
	// armed: the next checkpoint writes them.
	armed bool
	// failed: they could not be written. Account.stuck is set then, too.
	failed bool
}

// maxLate is how many deliveries are put off.
const maxLate = 64

// putOff takes a record that is in the files but for its line.
func (a *Account) putOff(r *record) {
	a.late.records = append(a.late.records, r)
	if len(a.late.records) >= maxLate {
		_ = a.catchUp() // which remembers its error
	}
	a.arm()
}

// arm sees to it that the next checkpoint writes what is put off.
func (a *Account) arm() {
	if len(a.late.records) > 0 && !a.late.armed {
		a.late.armed = true
		a.o.Journal.BeforeCheckpoint(a.beforeCheckpoint)
	}
}

// beforeCheckpoint does not wait for an Account that is at work: whoever has it may
// be waiting for the journal.
func (a *Account) beforeCheckpoint() {
	if !a.mu.TryLock() {
		a.o.Journal.BeforeCheckpoint(a.beforeCheckpoint)
		return
	}
	defer a.mu.Unlock()
	a.late.armed = false
	_ = a.catchUp() // which remembers its error
	a.arm()
}

// catchUp writes what was put off. a.mu is held.
func (a *Account) catchUp() error {
	if a.late.usage != (mailbox.Usage{}) {
		a.logUsage()
	}
	if len(a.late.records) == 0 {
		return nil
	}
	if err := a.ids.Write(); err != nil {
		if !a.late.failed {
			a.logStuck(err)
		}
		a.late.failed, a.stuck = true, true
		return fmt.Errorf("bring into the files what the journal has: %w", err)
	}
	for _, r := range a.late.records {
		r.applied()
	}
	a.late.records, a.late.failed = nil, false
	return nil
}
