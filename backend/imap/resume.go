package imap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"waypost/backend/imap/carried"
	"waypost/backend/mailbox"
	"waypost/internal/handoff"
)

// resumed is what is still to be done of a session that comes from elsewhere.
type resumed struct {
	waited time.Duration
	left   int64 // see carried.UnderWay
	// overflow: what NOTIFY asked for is not understood here.
	overflow bool
	// refused are the tags of searches that cannot be kept up to date here.
	refused []string
}

func cannot(r handoff.Reason, format string, args ...any) error {
	return &handoff.Error{Reason: r, Err: fmt.Errorf(format, args...)}
}

// resume is Begin for a session with a State.
func (s *Server) resume(ctx context.Context, nc net.Conn, data *Session) (*Running, error) {
	_, body, tip, err := handoff.OpenBase(data.State, protocol)
	if err != nil {
		return nil, err
	}
	st, err := carried.Decode(body)
	if err == nil && tip != nil {
		err = carried.Apply(st, tip)
	}
	if err != nil {
		return nil, err
	}
	if string(data.Box.User()) != st.User {
		return nil, cannot(handoff.Identity, "the session is another user's")
	}
	session := *data
	session.State = nil
	if session.ID == "" {
		session.ID = st.Session
	}
	if session.Client == "" {
		session.Client = st.Client
	}
	if err := s.enter(nc); err != nil {
		return nil, err
	}
	ss := newSession(ctx, s, &session, nc)
	if err := ss.take(st); err != nil {
		ss.close()
		s.leave(nc)
		return nil, err
	}
	return &Running{ctx, nc, ss}, nil
}

// take makes the session what it was.
func (s *session) take(st *carried.State) error {
	for bit, on := range s.enabled.bits() {
		*on = st.Enabled&bit != 0
	}
	s.out.UTF8 = s.enabled.utf8 || s.enabled.rev2
	s.p.UTF8 = s.out.UTF8
	s.deflate, s.bads = st.Deflate, st.Bads
	u := &st.UnderWay
	s.resumed = &resumed{waited: st.Waited, left: u.Left}
	s.way = underWay{Granted: u.Granted, Answered: u.Answered, fetched: fetched{u.After, u.Lost}, waited: st.Waited}
	s.p.Granted = u.Granted
	if len(st.Pending) > 0 {
		s.c.in = bytes.Clone(st.Pending) // which is not to keep all of the state
		s.c.begun = s.c.in
	}
	if st.Selected != nil {
		v, err := takeView(s.box, st.Selected)
		if err != nil {
			return err
		}
		s.view, s.saved = v, among(v.told, st.Saved)
	}
	s.resumed.overflow = s.takeNotify(st.Notify)
	s.resumed.refused = s.takeUpdates(st.Updates)
	return nil
}

// goOn is what comes before the first command here.
func (s *session) goOn() error {
	r := s.resumed
	s.resumed = nil
	s.mu.Lock()
	if r.overflow {
		s.overflow()
	}
	for _, tag := range r.refused {
		s.noUpdate(tag, "not understood here")
	}
	if s.notify != nil {
		s.watcher.start(s)
	}
	s.mu.Unlock()
	s.c.waited = r.waited
	if !s.way.Answered {
		return nil
	}
	s.c.forget()
	err := s.p.Skip(r.left)
	if err == nil {
		s.way, s.p.Granted = underWay{}, 0
	}
	return err
}

// among gives those of msgs that are in ranges.
func among(msgs mailbox.Messages, all []mailbox.UIDRange) []mailbox.UID {
	var out []mailbox.UID
	for _, r := range all {
		i, _ := msgs.Find(r.First)
		for _, m := range msgs.From(i) {
			if m.UID > r.Last {
				break
			}
			out = append(out, m.UID)
		}
	}
	return out
}

// takeView opens the selected folder, and proves that it is the one that the client was told of.
func takeView(box mailbox.Box, sel *carried.Selected) (*view, error) {
	v := &view{
		name: sel.Name, readOnly: sel.ReadOnly, dead: sel.Dead, id: sel.ID, uidValidity: sel.UIDValidity, uidNext: sel.UIDNext,
		highest: sel.Highest, synced: sel.Synced, keywords: sel.Keywords, unknown: sel.Untold, anew: true,
	}
	if v.dead {
		return v, nil
	}
	snap, err := v.open(box)
	if err != nil {
		return nil, err
	}
	switch {
	case snap.UIDValidity != sel.UIDValidity:
		return nil, cannot(handoff.Identity, "folder %q: UIDVALIDITY is %d, was %d", sel.Name, snap.UIDValidity, sel.UIDValidity)
	case snap.UIDNext < sel.UIDNext, snap.HighestModSeq < max(sel.Highest, sel.Synced):
		return nil, cannot(handoff.Rewound, "folder %q: UIDNEXT %d and HIGHESTMODSEQ %d, were %d and %d", sel.Name, snap.UIDNext, snap.HighestModSeq,
			sel.UIDNext, max(sel.Highest, sel.Synced))
	}
	if err := v.fit(snap, sel); err != nil {
		return nil, err
	}
	v.noted = append(among(snap.Messages, sel.Noted), snap.Recent...)
	for _, uid := range among(v.told, sel.Recent) {
		if v.recent == nil {
			v.recent = make(map[mailbox.UID]struct{})
		}
		v.recent[uid] = struct{}{}
	}
	v.own, v.unfetched = among(snap.Messages, sel.Own), among(v.told, sel.Unfetched)
	return v, nil
}

// open opens the folder, by its MAILBOXID where it has another name by now.
func (v *view) open(box mailbox.Box) (mailbox.Snapshot, error) {
	folder, err := box.Folder(v.name)
	var snap mailbox.Snapshot
	if err == nil {
		v.folder = folder
		snap, err = show(folder, v.readOnly)
	}
	if errors.Is(err, mailbox.ErrAway) {
		// Who shares it and who has it selected are moved together, but not at one moment.
		return snap, fmt.Errorf("%w: %w", mailbox.ErrRefused, err)
	}
	if err == nil && snap.ID == v.id || err != nil && !errors.Is(err, mailbox.ErrNoFolder) {
		return snap, err
	}
	was := err
	infos, err := box.Folders()
	if err != nil {
		return snap, err
	}
	for _, info := range infos {
		if info.NoSelect || v.id == "" {
			continue
		}
		folder, err := box.Folder(info.Name)
		if err != nil {
			continue // it went meanwhile
		}
		if st, err := folder.Status(); err == nil && st.ID == v.id {
			v.name, v.folder = info.Name, folder
			return show(folder, v.readOnly)
		}
	}
	if was != nil {
		return snap, &handoff.Error{Reason: handoff.Folder, Err: was}
	}
	return snap, cannot(handoff.Identity, "folder %q: MAILBOXID is %s, was %s", v.name, snap.ID, v.id)
}

// fit makes last and told of a snapshot and of what the client was told: messages that it does not
// know are not there yet, of those that are gone only the UIDs are known, and what it takes the state of
// others to be, that may have changed, is not. So sync tells what has happened, as always. What is
// as it was is shared with the snapshot.
func (v *view) fit(snap mailbox.Snapshot, sel *carried.Selected) error {
	w := fitting{v: v, sel: sel, told: sel.Told, unsure: sel.Unsure}
	for _, m := range snap.Messages.All() {
		w.look(m)
	}
	w.goneTo(0)
	if w.turnedUp != 0 {
		return cannot(handoff.Identity, "folder %q: message %d was not there before", v.name, w.turnedUp)
	}
	e := snap.Messages.Edit()
	for _, uid := range slices.Backward(w.fresh) {
		e.Delete(uid)
	}
	v.last = e.Done()
	v.told = v.last
	if len(w.gone) == 0 {
		return nil
	}
	if err := v.provenGone(w.gone); err != nil {
		return err
	}
	e = v.last.Edit()
	for _, r := range w.gone {
		for uid := uint64(r.First); uid <= uint64(r.Last); uid++ {
			e.Insert(mailbox.Message{UID: mailbox.UID(uid)})
			v.leftovers = append(v.leftovers, mailbox.UID(uid))
		}
	}
	v.told, v.ghosts = e.Done(), v.leftovers
	return nil
}

// maxGone bounds the messages that may be gone where a session goes on.
const maxGone = 1 << 20

// provenGone checks that each of these is known to have been expunged since the client was told that
// it was up to date.
func (v *view) provenGone(gone []mailbox.UIDRange) error {
	history, complete, err := v.folder.ExpungedSince(v.highest)
	if err != nil {
		return err
	}
	if !complete {
		return cannot(handoff.UnknownMessages, "folder %q: what was expunged since %d is not known", v.name, v.highest)
	}
	n := 0
	for _, r := range gone {
		if n += int(r.Last-r.First) + 1; n > maxGone {
			return cannot(handoff.TooBig, "folder %q: too many messages are gone", v.name)
		}
		i, _ := slices.BinarySearchFunc(history, r.First, func(h mailbox.UIDRange, uid mailbox.UID) int { return int(int64(h.Last) - int64(uid)) })
		for next := r.First; ; i++ {
			if i == len(history) || history[i].First > next {
				return cannot(handoff.UnknownMessages, "folder %q: message %d is not there and was not expunged", v.name, next)
			}
			if history[i].Last >= r.Last {
				break
			}
			next = history[i].Last + 1
		}
	}
	return nil
}

// fitting is fit's walk over the snapshot, beside the ranges of what was told.
type fitting struct {
	v            *view
	sel          *carried.Selected
	told, unsure []mailbox.UIDRange // from the present message on
	fresh        []mailbox.UID
	gone         []mailbox.UIDRange
	turnedUp     mailbox.UID
	// next is the first of told[0] that was not come to, if begun.
	next  mailbox.UID
	begun bool
}

// goneTo takes what was told below uid, 0: all, to be gone.
func (w *fitting) goneTo(uid mailbox.UID) {
	for len(w.told) > 0 {
		r := w.told[0]
		if w.begun {
			r.First = w.next
		}
		if uid != 0 && r.First >= uid {
			return
		}
		if uid != 0 && r.Last >= uid {
			w.gone = append(w.gone, mailbox.UIDRange{First: r.First, Last: uid - 1})
			w.begun, w.next = true, uid
			return
		}
		w.gone = append(w.gone, r)
		w.told, w.begun = w.told[1:], false
	}
}

func (w *fitting) look(m *mailbox.Message) {
	w.goneTo(m.UID)
	if len(w.told) == 0 {
		w.fresh = append(w.fresh, m.UID)
		return
	}
	if w.told[0].First > m.UID {
		w.turnedUp = m.UID
		return
	}
	if w.told[0].Last == m.UID {
		w.told, w.begun = w.told[1:], false
	} else {
		w.begun, w.next = true, m.UID+1
	}
	for len(w.unsure) > 0 && w.unsure[0].Last < m.UID {
		w.unsure = w.unsure[1:]
	}
	if m.ModSeq > w.sel.Synced || len(w.unsure) > 0 && w.unsure[0].First <= m.UID {
		if w.v.owed == nil {
			w.v.owed = make(map[mailbox.UID]state)
		}
		w.v.owed[m.UID] = state{flags: mailbox.Flags{System: anyFlags}}
	}
}
