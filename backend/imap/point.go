package imap

import (
	"bytes"
	"time"

	"waypost/backend/imap/carried"
	"waypost/backend/mailbox"
	"waypost/internal/handoff"
)

// Checkpoints with the answers. Where the other end knows of points, a session that comes to rest,
// or is told something while it rests, sends its checkpoint in one batch with what it has to
// say: there is no moment at which the client knows more than the proxy can prove. Most are a tip
// of some 20 bytes, what has changed since the last whole state; that is made anew only where
// something else has changed, or much. How many messages there are plays no part.

const (
	// maxTip is how long a tip may become, beside a quarter of its base, before a new base is made.
	maxTip = 1 << 10
	// maxDrift bounds the messages in a tip that are gone, or are recent.
	maxDrift = 2 << 10
	// baseCredit is for how long bases need not have been made before many may be at once:
	// checkpointBytes are for a second.
	baseCredit = 8 * time.Second
)

// base is the last checkpoint that was made of the whole state: what it says, as far as tips do
// not say it. The session's lock guards it.
type base struct {
	tips     bool // the other end knows of points
	made     bool
	state    handoff.Base // without the bytes
	size     int          // of the state, in bytes
	view     *view
	name     string
	readOnly bool
	dead     bool
	keywords []string
	saved    []mailbox.UID
	updates  *updates
	enabled  enabled
	deflate  bool
	notify   *notify
	tip      []byte // the last one, "" for none
}

// stands reports that all that a tip does not say is as it was.
func (b *base) stands(s *session) bool {
	if !b.made || b.view != s.view || b.enabled != s.enabled || b.deflate != s.deflate || b.notify != s.notify || b.updates != s.updates || !same(b.saved, s.saved) ||
		s.notify != nil && s.notify.touched || s.updates != nil && s.updates.touched {
		return false
	}
	v := s.view
	return v == nil || b.name == v.name && b.readOnly == v.readOnly && b.dead == v.dead && same(b.keywords, v.keywords) &&
		len(v.drift.gone) <= maxDrift && len(v.drift.recent) <= maxDrift
}

// same compares slices of which none is changed in place.
func same[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// become notes what the base that was just made says.
func (b *base) become(s *session, sealed handoff.Base) {
	*b = base{
		tips: b.tips, made: true, state: sealed, size: len(sealed.Sealed), view: s.view, saved: s.saved, updates: s.updates, enabled: s.enabled, deflate: s.deflate,
		notify: s.notify, tip: b.tip[:0],
	}
	b.state.Sealed = nil // it is long gone
	if s.notify != nil {
		s.notify.touched = false
	}
	s.updates.settled()
	if v := s.view; v != nil {
		b.name, b.readOnly, b.dead, b.keywords = v.name, v.readOnly, v.dead, v.keywords
		v.drift = drift{}
	}
}

// drift is by what a view's messages are others than in the base.
type drift struct {
	fresh  []mailbox.UIDRange
	gone   []mailbox.UID // in any order
	recent []mailbox.UID // likewise
}

func (d *drift) add(fresh []*mailbox.Message) {
	for _, m := range fresh {
		if n := len(d.fresh); n > 0 && d.fresh[n-1].Last+1 == m.UID {
			d.fresh[n-1].Last = m.UID
			continue
		}
		d.fresh = append(d.fresh, mailbox.UIDRange{First: m.UID, Last: m.UID})
	}
}

// say sends what is collected while the session rests, with a checkpoint. Where it is about to rest,
// or to run a command, the session's goroutine will. The caller holds the lock.
func (s *session) say() error {
	if rests := s.point(); !rests && s.base.tips {
		return s.out.Err()
	}
	return s.out.Flush()
}

// point makes a checkpoint of the session as it will be once what is collected is sent, which the
// caller does next, if it rests. The caller holds the lock.
func (s *session) point() (rests bool) {
	switch {
	case s.carrier == nil:
		return false
	case !s.base.tips:
		s.changed()
		return false
	}
	s.c.rmu.Lock()
	if !s.c.resting || s.c.closed || s.c.forgot {
		s.c.rmu.Unlock()
		return false
	}
	read, written := s.c.read.Load(), s.c.written.Load()+int64(s.out.Buffered())
	pending := s.c.pending(nil)
	s.c.rmu.Unlock()
	q := &s.queued
	if s.out.Err() != nil || q.read == read && q.written == written {
		return true
	}
	if !s.pointAt(uint64(read), uint64(written), pending) {
		s.changed() // later, perhaps
		return true
	}
	q.read, q.written = read, written
	return true
}

// pointAt reports that the checkpoint is made.
func (s *session) pointAt(read, written uint64, pending []byte) bool {
	b := &s.base
	if !b.stands(s) {
		return s.newBase(read, written, pending)
	}
	var room [256]byte
	t := s.tip(pending)
	tip := carried.AppendTip(room[:0], &t)
	switch {
	case bytes.Equal(tip, b.tip):
		return s.carrier.Point(read, written, nil, nil) == nil
	case len(tip) > maxTip+b.size/4:
		return s.newBase(read, written, pending)
	}
	if s.carrier.Point(read, written, nil, b.state.AppendTip(nil, tip)) != nil {
		return false
	}
	b.tip = append(b.tip[:0], tip...)
	return true
}

// newBase makes a checkpoint of the whole state, unless there were too many of late.
func (s *session) newBase(read, written uint64, pending []byte) bool {
	q, now := &s.queued, time.Now()
	if now.Before(q.after) {
		return false
	}
	sealed := handoff.SealBase(handoff.NewQuietID(), protocol, carried.Encode(s.carry(pending, 0)))
	n := len(sealed.Sealed)
	if earliest := now.Add(-baseCredit); q.after.Before(earliest) {
		q.after = earliest
	}
	q.after = q.after.Add(checkpointEvery * time.Duration(n) / checkpointBytes)
	if n > maxCarried || s.carrier.Point(read, written, sealed.Sealed, nil) != nil {
		return false
	}
	s.base.become(s, sealed)
	return true
}

func (s *session) tip(pending []byte) carried.Tip {
	t := carried.Tip{Bads: s.bads, Granted: s.way.Granted, Pending: pending}
	v := s.view
	if v == nil {
		return t
	}
	t.Selected, t.Untold, t.UIDNext, t.Highest, t.Synced = true, v.unknown, v.uidNext, v.highest, v.synced
	t.Fresh, t.Gone, t.Recent = v.drift.fresh, ranges(v.drift.gone), ranges(v.drift.recent)
	t.Updated = s.updates.tip()
	t.Unsure, t.Noted, t.Own, t.Unfetched = v.carryUnsure(), ranges(v.noted), ranges(v.own), ranges(v.unfetched)
	return t
}

// pointLate is point for the timer: what there was no time for is made up for. It reports that there
// is nothing left to do.
func (s *session) pointLate(now time.Time) bool {
	if now.Before(s.queued.after) {
		return false
	}
	s.c.rmu.Lock()
	over := s.c.closed || s.c.why != endNone
	rests := s.c.resting && s.out.Buffered() == 0
	s.c.rmu.Unlock()
	if !over && rests {
		s.point()
	}
	return true // it comes to rest, and makes it then, or there is no use in it
}
