package imap

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"slices"
	"time"

	"waypost/backend/imap/carried"
	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
	"waypost/internal/handoff"
)

// handOffer is a connection whose other end keeps the client's connection when the session's
// place ends, and the session's state (design, "Sessions that survive").
type handOffer interface {
	// CanHandOff: the other end takes hand-offs.
	CanHandOff() bool
	// HandOff comes behind all that was written; nothing is written after it. What the client sent
	// and nobody has read is not lost. An error before anything was sent leaves the connection as
	// it was.
	HandOff(state []byte) error
	// Checkpoint gives the state at the moment when so many bytes were read and written, in place
	// of earlier ones.
	Checkpoint(consumed, sent uint64, state []byte) error
	// Point is Checkpoint for what is written next, at once; see frames.Stream. CanPoint: the
	// other end knows of it.
	CanPoint() bool
	Point(consumed, sent uint64, state, tip []byte) error
}

// maxCarried bounds a state in its envelope, in bytes; frames takes no larger one.
const maxCarried = 4 << 20

// protocol is the name in the envelope.
const protocol = "imap"

// underWay is how far the command under way came. The session's goroutine owns it.
type underWay struct {
	// Granted is how many continuation requests the client has had for it.
	Granted int
	// Answered: its tagged response is written, and the rest of it is passed over.
	Answered bool
	fetched
	// begin is the Encoder's mark where its answers begin; again: they may be taken back.
	begin int64
	again bool
	// midway: it has changed something, and not all that it is to change.
	midway bool
	// waited is how long an IDLE has been silent before it came here.
	waited time.Duration
}

// handOff lets go of the session at the end of what was told. It gives endHandedOff, endGone
// where the client takes nothing any more, or why, if the session has to end here. The caller is the
// session's goroutine and holds the lock.
func (s *session) handOff(why ending) ending {
	switch {
	case s.way.midway:
		return s.stays(why, handoff.Midway)
	case s.c.forgot && !s.way.Answered:
		return s.stays(why, handoff.TooBig)
	case s.way.again:
		s.out.Rewind(s.way.begin)
	}
	if err := s.out.Flush(); err != nil {
		return s.gone(err)
	}
	state := s.seal(s.c.pending(nil), s.waited(time.Now()))
	if len(state) > maxCarried && s.notify != nil && len(s.notify.folders) > 0 {
		// Most of it is what the client knows of other folders: it can be told that it knows no more.
		s.overflow()
		if err := s.out.Flush(); err != nil {
			return s.gone(err)
		}
		state = s.seal(s.c.pending(nil), s.waited(time.Now()))
	}
	if len(state) > maxCarried {
		return s.stays(why, handoff.TooBig)
	}
	s.c.Conn.SetWriteDeadline(time.Now().Add(s.srv.limits.Write))
	if err := s.carrier.HandOff(state); err != nil {
		s.log.Info("imap session not handed off", "error", err)
		return why
	}
	return endHandedOff
}

// gone is the end of a session whose connection fails. A client that does not read keeps it from
// being handed off.
func (s *session) gone(err error) ending {
	if s.carrier != nil && s.stopping() && (errors.Is(err, os.ErrDeadlineExceeded) || s.c.cut.Load()) {
		return s.stays(endGone, handoff.SlowClient)
	}
	return endGone
}

// stays counts a session that is not handed off.
func (s *session) stays(why ending, r handoff.Reason) ending {
	s.srv.metrics.stayed.WithLabelValues(string(r)).Inc()
	s.log.Info("imap session not handed off", "reason", string(r))
	return why
}

// waited is how long the client has been silent, in a session at rest, else 0.
func (s *session) waited(now time.Time) time.Duration {
	switch {
	case !s.c.atRest:
		return 0
	case s.c.rested.IsZero():
		return s.c.waited
	}
	return max(now.Sub(s.c.rested), 0)
}

// seal makes the session's state; pending is what was read and not executed. The caller holds the
// lock.
func (s *session) seal(pending []byte, waited time.Duration) []byte {
	id := handoff.NewID()
	if s.c.atRest && bytes.IndexByte(s.c.in, '\n') < 0 {
		id = handoff.NewQuietID()
	}
	return handoff.Seal(id, protocol, carried.Encode(s.carry(pending, waited)))
}

func (s *session) carry(pending []byte, waited time.Duration) *carried.State {
	st := &carried.State{
		Session: s.data.ID, Client: s.data.Client, User: string(s.box.User()), Enabled: s.enabled.carry(), Deflate: s.deflate, Bads: s.bads,
		Waited: waited, Saved: ranges(s.saved), Updates: s.carryUpdates(), Notify: s.notify.carry(), Pending: pending,
		UnderWay: carried.UnderWay{Granted: s.way.Granted, Answered: s.way.Answered, After: s.way.After, Lost: s.way.Lost},
	}
	if s.way.Answered {
		st.UnderWay.Left = s.p.Left()
	}
	if s.view != nil {
		st.Selected = s.view.carry()
	}
	return st
}

func (v *view) carry() *carried.Selected {
	c := &carried.Selected{
		Name: v.name, ID: v.id, UIDValidity: v.uidValidity, ReadOnly: v.readOnly, Dead: v.dead, UIDNext: v.uidNext,
		Highest: v.highest, Synced: v.synced, Told: v.told.Ranges(), Recent: ranges(slices.Sorted(maps.Keys(v.recent))),
		Noted: ranges(v.noted), Own: ranges(v.own), Unfetched: ranges(v.unfetched), Keywords: v.keywords, Untold: v.unknown,
	}
	c.Unsure = v.carryUnsure()
	return c
}

func (v *view) carryUnsure() []mailbox.UIDRange {
	if len(v.owed)+len(v.news) == 0 {
		return nil
	}
	unsure := slices.Collect(maps.Keys(v.owed))
	return ranges(slices.AppendSeq(unsure, maps.Keys(v.news)))
}

// ranges makes ranges of UIDs in any order.
func ranges(uids []mailbox.UID) []mailbox.UIDRange {
	if len(uids) == 0 {
		return nil
	}
	if !slices.IsSorted(uids) {
		uids = slices.Sorted(slices.Values(uids))
	}
	all := syntax.Compact(slices.Compact(slices.Clone(uids)))
	out := make([]mailbox.UIDRange, len(all))
	for i, r := range all {
		out[i] = mailbox.UIDRange{First: mailbox.UID(r.Start), Last: mailbox.UID(r.Stop)}
	}
	return out
}

// bits pairs what can be enabled with its place in a state.
func (e *enabled) bits() map[carried.Enabled]*bool {
	return map[carried.Enabled]*bool{
		carried.Condstore: &e.condstore, carried.QResync: &e.qresync, carried.UTF8: &e.utf8,
		carried.Rev2: &e.rev2, carried.UIDOnly: &e.uidOnly, carried.Metadata: &e.metadata,
	}
}

func (e enabled) carry() (all carried.Enabled) {
	for bit, on := range e.bits() {
		if *on {
			all |= bit
		}
	}
	return all
}
