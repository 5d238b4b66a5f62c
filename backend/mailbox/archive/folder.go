package archive

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
)

// scanShare is how much of the time may be spent on scanning one folder: one part
// of it.
const scanShare = 20

// lossProven is how long an mbox must have been the same before messages that it has no more are
// gone: it may be written anew at that moment.
const lossProven = time.Minute

// errUnproven: messages are missing that may come back.
var errUnproven = errors.New("messages are missing, which may come back")

// errAway: a folder whose messages are known is not there.
var errAway = errors.New("the archive is not there now")

// folder is one folder in memory.
type folder struct {
	shelf  *shelf
	name   string
	dir    string
	source source

	// mu guards what follows, and is held while the archive is read. It is taken
	// before Guard's lock, and before the shelf's mu.
	mu     sync.Mutex
	ledger *ledger // nil: not read yet
	msgs   mailbox.Messages
	byUID  map[mailbox.UID]*entry
	unseen int
	bytes  int64
	index  *index.Index
	// next is the time before which the archive is not looked at again.
	next time.Time
	// losing is the state in which messages were missing, and since when. unproven: messages
	// are shown that are not to be found now.
	losing struct {
		stamp string
		since time.Time
	}
	unproven bool

	// The shelf's mu guards the rest. seen is the archive's state as last scanned;
	// stale says that it is another by now.
	users          int
	used           uint64
	version        uint64
	wait           chan struct{}
	seen           string
	settled, stale bool
}

// wake tells those who wait. The shelf's mu is held.
func (f *folder) wake() {
	if f.wait != nil {
		close(f.wait)
		f.wait = nil
	}
}

// close lets go of the index, which may write into a file that no move carries.
func (f *folder) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.index != nil {
		if err := f.index.Close(); err != nil {
			f.shelf.set.o.Log.Warn("archive: index not closed", "folder", f.dir, "error", err)
		}
		f.index = nil
	}
}

// refresh brings the folder up to date with the archive, if it is time for that or
// anew says so, and checks the fence in any case. mu is held.
func (f *folder) refresh(guard func(func() error) error, anew bool) error {
	o := &f.shelf.set.o
	now := o.Now()
	f.shelf.mu.Lock()
	anew = anew || f.stale
	f.shelf.mu.Unlock()
	if f.ledger != nil && !anew && now.Before(f.next) {
		return guard(func() error { return nil })
	}
	if f.ledger == nil {
		if err := guard(f.load); err != nil {
			return err
		}
	}
	stamp, settled, err := f.source.stamp(now)
	if absent(err) && f.shelf.tree.count == 0 {
		// One folder for all: that there was never anything is as good as empty.
		if stamp, settled, err = "-", true, nil; len(f.ledger.byKey) > 0 {
			err = errAway
		}
	}
	if absent(err) {
		return fmt.Errorf("%w: %w", mailbox.ErrNoFolder, err)
	}
	if err != nil {
		return err
	}
	if stamp != f.ledger.stamp || f.ledger.size == 0 || f.ledger.broken {
		err = f.scan(guard, now, stamp, settled)
	} else {
		err = guard(func() error { return nil })
	}
	f.unproven = errors.Is(err, errUnproven) || errors.Is(err, errNoMbox) && len(f.ledger.byKey) > 0
	if f.unproven {
		o.Log.Warn("archive: shown as it was", "user", f.shelf.key.user, "archive", f.shelf.config.Name, "folder", f.name, "error", err)
		err, settled = guard(func() error { return nil }), false
	}
	if err != nil {
		return err
	}
	f.next = o.Now().Add(max(o.Interval, scanShare*o.Now().Sub(now)))
	f.shelf.mu.Lock()
	f.seen, f.settled, f.stale = stamp, settled, false
	f.shelf.mu.Unlock()
	return nil
}

// load reads the ledger, under Guard. What is damaged is begun anew.
func (f *folder) load() error {
	o := &f.shelf.set.o
	l, err := loadLedger(o.FS, f.dir)
	switch {
	case absent(err):
		l = f.fresh(0)
	case errors.Is(err, errDamaged):
		o.Log.Warn("archive: UIDs given up", "user", f.shelf.key.user, "archive", f.shelf.config.Name, "folder", f.name, "error", err)
		l = f.fresh(l.validity)
	case err != nil:
		return fmt.Errorf("load UIDs: %w", err)
	}
	f.take(l)
	return nil
}

// fresh is an empty ledger with a UIDVALIDITY above old.
func (f *folder) fresh(old uint32) *ledger {
	o := &f.shelf.set.o
	validity := max(uint64(old)+1, uint64(max(o.Now().Unix(), 1)))
	return &ledger{fsys: o.FS, dir: f.dir, validity: uint32(min(validity, math.MaxUint32)), id: "A" + rand.Text(), next: 1, modSeq: 1, byKey: map[string]*entry{}}
}

// take makes a ledger the folder's.
func (f *folder) take(l *ledger) {
	f.ledger, f.byUID, f.unseen, f.bytes = l, make(map[mailbox.UID]*entry, len(l.byKey)), 0, 0
	e := mailbox.Messages{}.Edit()
	for _, x := range l.entries() {
		f.byUID[x.uid] = x
		e.Append(f.message(x))
		f.count(x, 1)
	}
	f.msgs = e.Done()
}

// count adds a message to the sums, or takes it away.
func (f *folder) count(x *entry, n int) {
	f.bytes += int64(n) * x.wire
	if x.flags&mailbox.Seen == 0 {
		f.unseen += n
	}
}

func (f *folder) message(x *entry) mailbox.Message {
	return mailbox.Message{UID: x.uid, Flags: mailbox.Flags{System: x.flags}, Size: x.size, WireSize: x.wire,
		ModSeq: x.modSeq, GUID: f.emailID(x), Ref: x.ref}
}

// emailID names a message for good.
func (f *folder) emailID(x *entry) string {
	return "A" + digest(f.shelf.config.Name+"\x00"+f.name+"\x00"+x.key)
}

// scan reads the archive and writes down what is new before it is told.
func (f *folder) scan(guard func(func() error) error, now time.Time, stamp string, settled bool) error {
	var all []found
	var err error
	if stamp != "-" {
		if all, err = f.source.scan(func(key string) *entry { return f.ledger.byKey[key] }); err != nil {
			return err
		}
	}
	c, anew := f.compare(all)
	if len(c.gone) > 0 {
		if f.shelf.config.Format != FormatMaildir && !f.lost(stamp, now) {
			return errUnproven
		}
		if f.shelf.config.Format == FormatMaildir && stamp != "-" {
			// A file that is renamed while a folder is read may be missed under both names.
			again, err := f.source.scan(func(key string) *entry { return f.ledger.byKey[key] })
			if err != nil {
				return err
			}
			all = both(all, again)
			c, anew = f.compare(all)
		}
	}
	if settled {
		c.stamp = stamp
	}
	l := f.ledger
	if anew {
		l = f.fresh(l.validity)
		c = l.compare(all)
		if settled {
			c.stamp = stamp
		}
	}
	if err := guard(func() error { return l.write(c, anew) }); err != nil {
		return err
	}
	if anew {
		if f.index != nil {
			err = f.index.Close() // it is of the messages there were
			f.index = nil
		}
		f.take(l)
		f.shelf.changed(f)
		return err
	}
	f.apply(c)
	return nil
}

// lost tells whether an mbox that misses messages has been so for long enough.
func (f *folder) lost(stamp string, now time.Time) bool {
	if f.losing.stamp != stamp {
		f.losing.stamp, f.losing.since = stamp, now
	}
	return now.Sub(f.losing.since) >= lossProven
}

// both gives what one of two scans has found, of both as the second has it.
func both(first, second []found) []found {
	have := make(map[string]bool, len(second))
	for _, x := range second {
		have[x.key] = true
	}
	for _, x := range first {
		if !have[x.key] {
			second = append(second, x)
		}
	}
	name.Sort(second, func(x found) string { return x.key })
	return second
}

// apply brings a change that is durable into the memory.
func (f *folder) apply(c change) {
	if len(c.set) == 0 && len(c.gone) == 0 {
		return
	}
	e := f.msgs.Edit()
	for _, x := range c.gone {
		f.count(f.byUID[x.uid], -1)
		delete(f.byUID, x.uid)
		e.Delete(x.uid)
		if f.index != nil {
			f.index.Forget(x.key)
		}
	}
	for _, x := range c.set {
		if was := f.byUID[x.uid]; was != nil {
			f.count(was, -1)
			e.Set(f.message(x))
		} else {
			e.Append(f.message(x))
		}
		f.count(x, 1)
		f.byUID[x.uid] = x
	}
	f.msgs = e.Done()
	f.shelf.changed(f)
}

// compare is the ledger's. anew: nothing of an mbox is where it was, or the UIDs are
// used up.
func (f *folder) compare(all []found) (c change, anew bool) {
	c = f.ledger.compare(all)
	none := len(c.gone) > 0 && len(c.gone) == len(f.ledger.byKey) && len(all) > 0
	used := uint64(f.ledger.next)+uint64(len(all)) > maxUID
	return c, used || none && f.shelf.config.Format != FormatMaildir
}

// compare tells what has to change for the ledger to have all, in their order.
func (l *ledger) compare(all []found) (c change) {
	there := make(map[string]bool, len(all))
	modSeq, next := l.modSeq+1, l.next
	for _, x := range all {
		if there[x.key] {
			continue
		}
		there[x.key] = true
		was := l.byKey[x.key]
		switch {
		case was == nil:
			c.set = append(c.set, &entry{found: x, uid: next, modSeq: modSeq})
			next++
		case was.flags != x.flags:
			c.set = append(c.set, &entry{found: x, uid: was.uid, modSeq: modSeq})
		case was.ref != x.ref:
			// To clients it is as before.
			c.set = append(c.set, &entry{found: x, uid: was.uid, modSeq: was.modSeq})
		}
	}
	for key, e := range l.byKey {
		if !there[key] {
			c.gone = append(c.gone, &entry{found: e.found, uid: e.uid, modSeq: modSeq})
		}
	}
	return c
}
