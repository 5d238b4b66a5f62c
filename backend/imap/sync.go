package imap

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"waypost/backend/imap/fetch"
	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// errView: the folder is not the one the client was told of.
var errView = errors.New("the folder does not fit the session's view")

// difference is what a snapshot has that told has not. What it costs to find,
// and to tell, depends on the number of changes, not on that of messages.
type difference struct {
	gone    []mailbox.UID // in told and not in the snapshot, rising
	changed []mailbox.UID // with a state that the client does not know, rising
	fresh   []*mailbox.Message
	// edits are the snapshot's messages that are not like last's.
	edits []*mailbox.Message
}

// compare finds what has happened since the last snapshot. UIDs only grow, so a
// message that turns up in the middle is none of this folder, unless it is one
// that was gone and of which the client does not know that yet. flags: what the client is owed
// is to be told.
func (v *view) compare(now mailbox.Messages, modSeqs, flags bool) (difference, error) {
	var d difference
	look := slices.Collect(maps.Keys(v.news)) // may differ from what was told
	if flags {
		look = slices.AppendSeq(look, maps.Keys(v.owed))
	}
	var back map[mailbox.UID]bool
	for ch := range mailbox.Diff(v.last, now) {
		switch {
		case ch.Is == nil:
			d.gone = append(d.gone, ch.Was.UID)
			continue
		case ch.Was != nil:
		case v.told.Get(ch.Is.UID) != nil:
			if back == nil {
				back = make(map[mailbox.UID]bool)
			}
			back[ch.Is.UID] = true
		case v.told.Len() > 0 && v.told.At(v.told.Len()-1).UID > ch.Is.UID:
			return d, fmt.Errorf("message %d was not there before: %w", ch.Is.UID, errView)
		default:
			d.fresh = append(d.fresh, ch.Is)
			continue
		}
		d.edits = append(d.edits, ch.Is)
		look = append(look, ch.Is.UID)
	}
	for _, uid := range v.leftovers {
		if !back[uid] {
			d.gone = append(d.gone, uid)
		}
	}
	slices.Sort(d.gone)
	slices.Sort(look)
	for _, uid := range slices.Compact(look) {
		was, is := v.told.Get(uid), now.Get(uid)
		if was == nil || is == nil {
			continue
		}
		if st := v.believed(was); !st.flags.Equal(is.Flags) || modSeqs && st.modSeq != is.ModSeq {
			d.changed = append(d.changed, uid)
		}
	}
	return d, nil
}

// sync brings the client's view up to date (RFC 9051, Section 5.2 and 7.5.1), before the
// answer to a command that has been done: a folder that cannot be read does not make that one
// fail. A fence ends the session behind the answer.
func (s *session) sync(t telling) error {
	if s.view.dead {
		return nil
	}
	switch err := s.bring(t); {
	case err == nil:
	case errors.Is(err, fetch.ErrBroken):
		return err
	case fenced(err):
		s.c.end(endMoving)
	case renumbered(err), errors.Is(err, mailbox.ErrNoFolder):
		s.c.end(endFolder)
	default:
		s.srv.metrics.failures.Inc()
		s.log.Warn("imap view not brought up to date", "folder", s.view.name, "error", err)
	}
	return s.out.Err()
}

// bring is sync; errors of the folder leave the view as it is; errView is one of them.
// fetch.ErrBroken is none: the connection is not usable any more.
func (s *session) bring(t telling) error {
	v := s.view
	if t == (telling{}) {
		return nil
	}
	snap, err := v.snapshot()
	if err != nil {
		return err
	}
	if snap.UIDValidity != v.uidValidity {
		return fmt.Errorf("UIDVALIDITY is %d, was %d: %w", snap.UIDValidity, v.uidValidity, errView)
	}
	if snap.Version == v.version && !v.anew && !v.owes(t) {
		v.settleRecent()
		return nil
	}
	d, err := v.compare(snap.Messages, s.enabled.condstore, t.flags)
	if err != nil {
		return err
	}
	star := v.lastUID()
	s.tellExpunged(d, t.expunged)
	v.withhold(&snap, &d, t)
	v.take(snap, d, t)
	if err := s.tell(d); err != nil {
		return err
	}
	updated := s.updateChanged(d, star)
	if s.enabled.qresync && len(v.leftovers) > 0 {
		// RFC 7162, Section 3.2.10: MODSEQs above those of what is gone, and not told yet, must not
		// make the client take itself for up to date.
		s.out.Raw("* OK [HIGHESTMODSEQ ").Number(v.highest).Raw("] up to here").CRLF()
	}
	return updated
}

// owes reports that there is something untold that may be told now, although the folder is as
// before.
func (v *view) owes(t telling) bool {
	return t.expunged && len(v.leftovers) > 0 || t.fresh && v.held || t.flags && len(v.owed) > 0 || len(v.unfetched) > 0
}

// withhold takes out of a difference what NOTIFY leaves untold. New messages are as if the
// snapshot did not have them; of others' states what the client takes them to be is kept.
func (v *view) withhold(snap *mailbox.Snapshot, d *difference, t telling) {
	v.held = !t.fresh && len(d.fresh) > 0
	if v.held {
		e := snap.Messages.Edit()
		for _, m := range d.fresh {
			e.Delete(m.UID)
		}
		snap.Messages, d.fresh = e.Done(), nil
	}
	if t.flags {
		v.owed = nil
		return
	}
	if v.owed == nil && len(d.changed) > 0 {
		v.owed = make(map[mailbox.UID]state)
	}
	for _, uid := range d.changed {
		v.owed[uid] = v.believed(v.told.Get(uid))
	}
	d.changed = nil
}

// tellExpunged must come before take, while numbers are those the client knows.
func (s *session) tellExpunged(d difference, allowExpunge bool) {
	if len(d.gone) == 0 || !allowExpunge {
		return
	}
	s.updateGone(d.gone)
	if s.enabled.qresync || s.enabled.uidOnly {
		// RFC 7162, Section 3.2.10; RFC 9586, Section 3.4.
		s.out.Raw("* VANISHED ").Ranges(syntax.Compact(d.gone)).CRLF()
		return
	}
	for _, uid := range slices.Backward(d.gone) {
		s.out.Raw("* ").Number(uint64(s.view.index(uid) + 1)).Raw(" EXPUNGE").CRLF()
	}
}

// take makes the snapshot the view.
func (v *view) take(snap mailbox.Snapshot, d difference, t telling) {
	if len(d.gone) == 0 || t.expunged {
		for _, uid := range d.gone {
			delete(v.recent, uid)
			delete(v.owed, uid)
		}
		v.drift.gone = append(v.drift.gone, d.gone...)
		v.told, v.leftovers, v.ghosts = snap.Messages, nil, nil
	} else {
		v.told, v.leftovers = v.withLeftovers(d), d.gone
	}
	v.drift.add(d.fresh)
	v.version, v.last, v.anew = snap.Version, snap.Messages, false
	v.synced = snap.HighestModSeq
	v.uidNext = snap.UIDNext
	if !v.held && len(v.owed) == 0 && len(v.leftovers) == 0 {
		// A client that is told it has all up to here.
		v.highest = snap.HighestModSeq
	}
	v.news = nil
	v.settleRecent()
}

// withLeftovers is told up to date, but for the messages that are gone; those
// have the state last told.
func (v *view) withLeftovers(d difference) mailbox.Messages {
	e := v.told.Edit()
	for _, uid := range d.gone {
		if st, ok := v.news[uid]; ok {
			m := *e.Get(uid)
			m.Flags, m.ModSeq = st.flags, st.modSeq
			e.Set(m)
		}
	}
	for _, m := range d.edits {
		e.Set(*m)
	}
	for _, m := range d.fresh {
		e.Append(*m)
	}
	return e.Done()
}

// tell writes the difference but for what is gone; the view has been made already. Its error is
// fetch.ErrBroken.
func (s *session) tell(d difference) error {
	v := s.view
	if len(d.fresh) > 0 {
		s.out.Raw("* ").Number(uint64(v.told.Len())).Raw(" EXISTS").CRLF()
		if !s.enabled.rev2 {
			s.out.Raw("* ").Number(uint64(len(v.recent))).Raw(" RECENT").CRLF()
		}
	}
	for _, uid := range d.changed {
		v.learn(v.told.Get(uid).Flags)
	}
	for _, m := range d.fresh {
		v.learn(m.Flags)
	}
	s.tellKeywords()
	for _, uid := range d.changed {
		i := v.index(uid)
		s.tellState(i, v.told.At(i), true, true)
	}
	if !s.notify.fetches() {
		v.unfetched = nil
		return nil
	}
	for _, m := range d.fresh {
		if !slices.Contains(v.own, m.UID) {
			v.unfetched = append(v.unfetched, m.UID)
		}
	}
	if len(d.fresh) > 0 {
		v.own = nil
	}
	return s.tellFetched()
}

// tellFetched answers what NOTIFY wants to know of new messages, but for those that the session
// itself has put there (RFC 5465, Section 5.2).
func (s *session) tellFetched() error {
	v := s.view
	if len(v.unfetched) == 0 {
		return nil
	}
	if s.enabled.condstore {
		s.notify.fetch.AddModSeq()
	}
	var at fetched
	err := s.fetchSpans(s.notify.fetch, fetchMods{}, v.spansOf(v.unfetched), &at)
	s.drop()
	if errors.Is(err, errEnded) {
		// Where the session goes on they are told.
		i, told := slices.BinarySearch(v.unfetched, at.After)
		if told {
			i++
		}
		v.unfetched = v.unfetched[i:]
		return nil
	}
	v.unfetched = nil
	if errors.Is(err, fetch.ErrBroken) {
		return err
	}
	return nil // one that is gone by now needs no word; what ends the session, it learns
}

// tellKeywords writes FLAGS when there is a keyword that the client does not know.
func (s *session) tellKeywords() {
	if s.view.unknown {
		s.view.unknown = false
		s.out.Raw("* FLAGS ").Atoms(s.view.mailboxFlags()).CRLF()
	}
}

// tellState writes a FETCH of a message's state, as it is in m: its flags, its UID, and its
// mod-sequence where those are told (RFC 7162, Section 3.1).
func (s *session) tellState(i int, m *mailbox.Message, flags, uid bool) {
	o := s.out.Raw("* ")
	if s.enabled.uidOnly {
		o.Number(uint64(m.UID)).Raw(" UIDFETCH (")
	} else {
		o.Number(uint64(i + 1)).Raw(" FETCH (")
		if uid {
			o.Raw("UID ").Number(uint64(m.UID))
		}
	}
	space := uid && !s.enabled.uidOnly
	if flags {
		if space {
			o.SP()
		}
		var room [8]string
		o.Raw("FLAGS ").Atoms(wireFlags(room[:0], m.Flags, s.recentTold(m.UID)))
		space = true
	}
	if s.enabled.condstore {
		if space {
			o.SP()
		}
		o.Raw("MODSEQ (").Number(m.ModSeq).Byte(')')
	}
	o.Byte(')').CRLF()
}

// recentTold reports that \Recent is told of a message; IMAP4rev2 has it no more.
func (s *session) recentTold(uid mailbox.UID) bool {
	return !s.enabled.rev2 && s.view.isRecent(uid)
}
