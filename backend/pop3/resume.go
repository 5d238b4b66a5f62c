package pop3

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"waypost/backend/mailbox"
	"waypost/internal/handoff"
)

// maxCheckpoint bounds the state of a checkpoint, in bytes: sessions of larger maildrops, of about
// ten thousand messages, are not worth sending all that whenever they have been silent.
const maxCheckpoint = 256 << 10

// maxAtOnce is of how many messages a maildrop may have for its session to have a checkpoint with
// its first answer, and then with each.
const maxAtOnce = 1000

// leastAllowed is what a client that was handed off has at least for its next command.
const leastAllowed = 10 * time.Second

// state gives the session as another backend needs it. input is what was read and not executed.
func (s *session) state(input []byte) []byte {
	id := handoff.NewID()
	if s.line == nil && bytes.IndexByte(input, '\n') < 0 {
		id = handoff.NewQuietID()
	}
	return handoff.Seal(id, protocol, s.whole(input).encode())
}

func (s *session) whole(input []byte) *state {
	st := state{
		user: string(s.box.User()), session: s.id, client: s.client, utf8: s.utf8, login: s.login,
		folder: s.identity, validity: s.validity, next: s.next, modseq: s.modseq, messages: make([]told, 0, s.messages.Len()),
	}
	s.marks(&st)
	st.silent, st.from, st.input = max(0, s.srv.opt.Idle-s.link.Left()), s.from, input
	if s.line != nil {
		st.silent = 0 // we have kept the client waiting
	}
	for i, m := range s.messages.All() {
		st.messages = append(st.messages, told{m.UID, m.WireSize, s.uniqueID(i, m)})
	}
	return &st
}

// marks fills in what changes in the course of a session.
func (s *session) marks(st *state) {
	if len(s.deleted) > 0 {
		st.deleted = slices.Sorted(maps.Keys(s.deleted))
	}
	if len(s.unseen) > 0 {
		st.unseen = slices.Sorted(slices.Values(s.unseen))
	}
	st.bad, st.retrieved = s.bad, s.retrieved
}

// base is the state that tips are about: with the first answer, which is soon enough for those who
// only look.
func (s *session) base() (handoff.Base, bool) {
	if s.messages.Len() > maxAtOnce || s.link.Out.Empty() {
		return handoff.Base{}, false
	}
	return handoff.SealBase(handoff.NewQuietID(), protocol, s.whole(nil).encode()), true
}

func (s *session) appendTip(dst []byte) []byte {
	var st state
	s.marks(&st)
	return st.appendTip(dst)
}

// checkpoint is state for a session that waits for a command.
func (s *session) checkpoint() []byte {
	if state := s.state(nil); len(state) <= maxCheckpoint {
		return state
	}
	return nil
}

// handOff lets go of the session, if it can go on elsewhere: what ended it was the mailbox's going
// away, and no answer was broken off. The command that was under way has done nothing, and
// is executed there.
func (s *session) handOff(err error) (done bool) {
	if !errors.Is(err, ErrMoved) || errors.Is(err, mailbox.ErrRenumbered) || s.midway || !s.link.CanHandOff() {
		return false
	}
	rest, _ := s.br.Peek(s.br.Buffered())
	if err := s.link.HandOff(s.state(slices.Concat(s.line, rest, s.link.Before()))); err != nil {
		s.log.Warn("pop3: session not handed off", "err", err)
		return false
	}
	return true
}

// resume takes a session on that was handed off: the maildrop must be the same, and each message
// that the client was told of be there, or known to be expunged; then it keeps its number and
// is answered for as one that another session has removed. The error is a *handoff.Error, or one of
// the mailbox.
func (s *session) resume(sealed []byte) error {
	_, body, tip, err := handoff.OpenBase(sealed, protocol)
	if err != nil {
		return err
	}
	st, err := decodeState(body)
	if err == nil && tip != nil {
		err = st.applyTip(tip)
	}
	if err != nil {
		return err
	}
	if st.user != string(s.box.User()) {
		return &handoff.Error{Reason: handoff.Identity, Err: errors.New("the session is another user's")}
	}
	snap, err := s.openFolder()
	if err != nil {
		return err
	}
	switch {
	case snap.ID != st.folder || snap.UIDValidity != st.validity:
		return &handoff.Error{Reason: handoff.Identity}
	case snap.UIDNext < st.next || snap.HighestModSeq < st.modseq:
		return &handoff.Error{Reason: handoff.Rewound}
	}
	s.next, s.modseq = st.next, st.modseq
	if err := s.recognise(snap.Messages, st); err != nil {
		return err
	}
	s.utf8, s.login = st.utf8, st.login
	for _, i := range st.deleted {
		s.deleted[i] = true
		s.marked += s.messages.At(i).WireSize
	}
	s.unseen, s.bad, s.retrieved, s.from = st.unseen, st.bad, st.retrieved, st.from
	s.input = st.input
	s.allowed = max(leastAllowed, s.srv.opt.Idle-st.silent)
	return nil
}

// recognise makes the session's messages of those that the client was told of.
func (s *session) recognise(now mailbox.Messages, st *state) error {
	all := make([]mailbox.Message, 0, len(st.messages))
	var gone []mailbox.UID
	for i, m := range st.messages {
		here := now.Get(m.uid)
		switch {
		case here == nil:
			gone = append(gone, m.uid)
			here = &mailbox.Message{UID: m.uid, WireSize: m.size}
			s.keepID(i, m.id)
		case here.WireSize != m.size:
			return &handoff.Error{Reason: handoff.Identity, Err: fmt.Errorf("message %d has another size", m.uid)}
		case s.uniqueID(i, here) != m.id:
			s.keepID(i, m.id) // made by another form: a session's ids do not change
		}
		s.octets += m.size
		all = append(all, *here)
	}
	if err := s.expunged(gone, st.modseq); err != nil {
		return err
	}
	if len(gone) > 0 {
		s.messages = mailbox.NewMessages(all)
		return nil
	}
	// What came later is taken away: so most of the list is shared with other sessions.
	e := now.Edit()
	for i, k := 0, 0; i < now.Len(); i++ {
		if uid := now.At(i).UID; k < len(all) && all[k].UID == uid {
			k++
		} else {
			e.Delete(uid)
		}
	}
	s.messages = e.Done()
	return nil
}

// expunged checks that all of them, which rise, were expunged after modseq.
func (s *session) expunged(gone []mailbox.UID, modseq uint64) error {
	if len(gone) == 0 {
		return nil
	}
	ranges, complete, err := s.folder.ExpungedSince(modseq)
	if err != nil {
		return err
	}
	for _, uid := range gone {
		for len(ranges) > 0 && ranges[0].Last < uid {
			ranges = ranges[1:]
		}
		if !complete || len(ranges) == 0 || ranges[0].First > uid {
			return &handoff.Error{Reason: handoff.UnknownMessages, Err: fmt.Errorf("message %d", uid)}
		}
	}
	return nil
}

func (s *session) keepID(i int, id string) {
	if s.ids == nil {
		s.ids = make(map[int]string)
	}
	s.ids[i] = id
}
