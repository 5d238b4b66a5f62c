package managesieve

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"waypost/internal/handoff"
)

const (
	// protocol is the name in a state's envelope.
	protocol = "managesieve"
	// stateVersion is the first byte of a state. What is not of this version is not resumed.
	stateVersion = 1
	// leastAllowed is what a client that was handed off has at least for its next command.
	leastAllowed = 10 * time.Second
)

// state is a session as another backend needs it to go on. All else is in the mailbox.
type state struct {
	user, session, client string
	bad, commands         int
	// silent is how long the client has been.
	silent time.Duration
	// dropped is the parser's.
	dropped []int64
	// input is the command under way, and what was read beyond it.
	input []byte
}

// encode writes numbers as varints and strings with their length before them.
func (st *state) encode() []byte {
	b := make([]byte, 0, 64+len(st.session)+len(st.client)+len(st.input))
	b = append(b, stateVersion)
	for _, s := range []string{st.user, st.session, st.client} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	for _, n := range []int64{int64(st.bad), int64(st.commands), st.silent.Milliseconds(), int64(len(st.dropped))} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	for _, n := range st.dropped {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return append(b, st.input...)
}

// decodeState reads what encode wrote. The error is a *handoff.Error.
func decodeState(b []byte) (*state, error) {
	if len(b) == 0 || b[0] != stateVersion {
		return nil, &handoff.Error{Reason: handoff.Version, Err: errors.New("state of another version")}
	}
	b = b[1:]
	ok := true
	number := func(most uint64) int64 {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > most {
			ok, b = false, nil
			return 0
		}
		b = b[size:]
		return int64(n)
	}
	text := func() string {
		n := number(uint64(len(b)))
		if n > int64(len(b)) { // the number took of what there was
			ok, n = false, 0
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	st := &state{user: text(), session: text(), client: text()}
	st.bad, st.commands = int(number(maxBadCommands)), int(number(1<<32))
	st.silent = time.Duration(number(1<<32)) * time.Millisecond
	for range number(maxArgs) {
		st.dropped = append(st.dropped, number(discardBytes))
	}
	if !ok {
		return nil, &handoff.Error{Reason: handoff.Version, Err: errors.New("malformed state of a ManageSieve session")}
	}
	st.input = slices.Clone(b)
	return st, nil
}

// resume takes a session on that was handed off.
func (s *session) resume(sealed []byte) error {
	_, body, tip, err := handoff.OpenBase(sealed, protocol)
	if err != nil {
		return err
	}
	if tip != nil {
		body = tip
	}
	st, err := decodeState(body)
	if err != nil {
		return err
	}
	if st.user != string(s.scripts.User()) {
		return &handoff.Error{Reason: handoff.Identity, Err: errors.New("the session is another user's")}
	}
	s.bad, s.commands, s.input, s.dropped = st.bad, st.commands, st.input, st.dropped
	s.allowed = max(leastAllowed, s.srv.opt.Idle-st.silent)
	return nil
}

// state gives the session as another backend needs it.
func (s *session) state(input []byte) []byte {
	id := handoff.NewID()
	if s.parser.record.Len() == 0 && bytes.IndexByte(input, '\n') < 0 {
		id = handoff.NewQuietID()
	}
	return handoff.Seal(id, protocol, s.whole(input).encode())
}

func (s *session) whole(input []byte) *state {
	st := state{user: string(s.scripts.User()), session: s.id, client: s.client, bad: s.bad, commands: s.commands, dropped: s.parser.dropped, input: input}
	if s.parser.record.Len() == 0 { // else we have kept the client waiting
		st.silent = max(0, s.srv.opt.Idle-s.link.Left())
	}
	return &st
}

// base is the state behind the first answer, and a tip all of it again: it is short.
func (s *session) base() (handoff.Base, bool) {
	if s.link.Out.Empty() {
		return handoff.Base{}, false
	}
	return handoff.SealBase(handoff.NewQuietID(), protocol, s.whole(nil).encode()), true
}

func (s *session) appendTip(dst []byte) []byte { return append(dst, s.whole(nil).encode()...) }

// checkpoint is state for a session that waits for a command.
func (s *session) checkpoint() []byte { return s.state(nil) }

// handOff lets go of the session if what ended it was the mailbox's going away. The command that
// was under way, its literals included as far as they have come, has done nothing and
// is executed where the session goes on.
func (s *session) handOff(err error) (done bool) {
	if !errors.Is(err, ErrMoved) || s.midway || !s.link.CanHandOff() {
		return false
	}
	rest, _ := s.parser.br.Peek(s.parser.br.Buffered())
	if err := s.link.HandOff(s.state(slices.Concat(s.parser.record.Bytes(), rest, s.link.Before()))); err != nil {
		s.log.Warn("managesieve: session not handed off", "err", err)
		return false
	}
	return true
}
