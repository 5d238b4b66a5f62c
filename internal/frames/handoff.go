package frames

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"waypost/internal/wire"
)

// Errors of hand-offs.
var (
	// ErrHandOff is not a failure: the backend has let go of the session. A proxy's
	// Read gives it behind the last byte; then see HandedOff. At a backend nothing is
	// read or written after HandOff.
	ErrHandOff = errors.New("the backend has let go of the session")
	// ErrTooBig: a state of more than MaxState bytes. Nothing was sent of it.
	ErrTooBig = errors.New("the session's state is too big")
	// ErrNoHandOff: the other side is an older one.
	ErrNoHandOff = errors.New("the other side takes no hand-offs")
	// ErrMoved: the session has gone on since the checkpoint. Nothing was sent of it.
	ErrMoved = errors.New("the session has gone on meanwhile")
)

// maxStates bounds what a side keeps of states, in bytes, for all streams of a
// connection: at a backend until they are answered, at a proxy what arrives and the
// checkpoints. What was handed off is the relay's.
const maxStates = 64 << 20

// carried is what a stream has of states; few streams have any at one time.
type carried struct {
	// of is HAND-OFF, CHECKPOINT or RESUME while that one's state arrives; else 0.
	of       Type
	counters Counters
	arriving State
	refused  bool // there is no room: what arrives is not kept

	hello *wire.Hello // of a RESUME whose state arrives
	state []byte      // what HAND-OFF or RESUME came with; nil before it is there
	whole bool        // at a proxy: all of HAND-OFF is there

	// latest is the last checkpoint that came, ahead of the bytes that lead to it perhaps;
	// proven is the last one whose bytes are all there.
	latest, proven checkpoint
	// behind: there was no room for what points are about.
	behind bool
}

// handedOff is for a nil c, too.
func (c *carried) handedOff() bool { return c != nil && c.whole }

// State is, at a backend, what the session is resumed with: not nil, but of no bytes
// perhaps. It is nil for a session that is new, and after a Welcome that was ok.
func (s *Stream) State() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.carried == nil {
		return nil
	}
	return s.carried.state
}

// dropState: the session has begun, and has its state in a form of its own.
func (s *Stream) dropState() {
	s.mu.Lock()
	c := s.carried
	s.carried = nil
	s.mu.Unlock()
	if c != nil {
		s.link.reserve(s, -len(c.state))
	}
}

// CanHandOff tells whether HandOff and Checkpoint are of use here: whether both sides know
// of hand-offs.
func (s *Stream) CanHandOff() bool { return s.link.carry }

// HandOff is a backend's: it lets go of the session, behind all that was written, with
// what it knows of it. What the client sent and was not Read is not consumed: the proxy
// gives it to whoever resumes. Nothing is read or written afterwards. Its error says that
// the session was not handed off: ErrTooBig and ErrNoHandOff leave it as it was.
func (s *Stream) HandOff(state []byte) error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.mu.Lock()
	if err := s.mayCarry(state); err != nil {
		s.mu.Unlock()
		return fmt.Errorf("hand-off: %w", err)
	}
	s.letGo = true
	at := Counters{s.consumed, s.sent}
	s.in.drop(&s.link.chunks, s.in.len)
	s.rcond.Broadcast()
	s.mu.Unlock()
	return s.sendState(TypeHandOff, at, state)
}

// Checkpoint is a backend's: the session can be resumed with this state if the backend is
// lost before anything more is consumed or sent. consumed and sent are the bytes of Read
// and Write, since the Stream's begin, that the state stands for; ErrMoved, if there were
// more already, or are being written. It replaces earlier ones.
func (s *Stream) Checkpoint(consumed, sent uint64, state []byte) error {
	if !s.wmu.TryLock() {
		return fmt.Errorf("checkpoint: %w", ErrMoved) // and who calls waits for no client
	}
	defer s.wmu.Unlock()
	s.mu.Lock()
	err := s.mayCarry(state)
	if at := (Counters{consumed, sent}); err == nil && at != (Counters{s.consumed, s.sent}) {
		err = ErrMoved
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return s.sendState(TypeCheckpoint, Counters{consumed, sent}, state)
}

// mayCarry tells why a state cannot be sent; mu is held.
func (s *Stream) mayCarry(state []byte) error {
	switch {
	case s.closed || s.halfClosed:
		return net.ErrClosed
	case s.err != nil:
		return s.err
	case s.letGo:
		return ErrHandOff
	case s.other == endClosed:
		return ErrPeerClosed
	case !s.link.carry:
		return ErrNoHandOff
	case len(state) > MaxState:
		return fmt.Errorf("%w: %d bytes", ErrTooBig, len(state))
	}
	return nil
}

// sendState sends a frame with counters and its state. The caller holds wmu: other
// streams' frames may come in between, but none of this one.
func (s *Stream) sendState(t Type, at Counters, state []byte) error {
	if err := s.link.send(t, s.id, nil, AppendCounters(nil, at)); err != nil {
		return err
	}
	for piece := range StatePieces(state) {
		if err := s.link.send(TypeState, s.id, nil, piece); err != nil {
			return err
		}
	}
	return nil
}

// carry is HAND-OFF, CHECKPOINT or STATE at a proxy; mu is held.
func (s *Stream) carry(t Type, payload []byte) error {
	switch {
	case s.closed:
		return nil // it counts no more
	case !s.link.carry:
		return fmt.Errorf("%s, which was not asked for: %w", t, ErrProtocol)
	case s.carried == nil:
		s.carried = new(carried)
	}
	c := s.carried
	if t == TypeState {
		return s.statePiece(c, payload)
	}
	at, err := ParseCounters(payload)
	switch {
	case err != nil:
		return err
	case c.of != 0 || s.letGo:
		return fmt.Errorf("%s behind %s: %w", t, TypeHandOff, ErrProtocol)
	case at.Consumed > s.sent || t == TypeHandOff && at.Sent != s.received:
		return fmt.Errorf("%s at %+v of %d bytes up, %d down: %w", t, at, s.sent, s.received, ErrProtocol)
	}
	c.of, c.counters = t, at
	if t == TypeCheckpoint {
		return nil
	}
	s.letGo = true
	return s.credit(at.Consumed)
}

// statePiece takes the next STATE. What there is no room for is not kept: a session whose
// hand-off is not is at its end, without a state.
func (s *Stream) statePiece(c *carried, payload []byte) error {
	if c.of == 0 {
		return fmt.Errorf("%s of nothing: %w", TypeState, ErrProtocol)
	}
	if !c.refused && !s.link.reserve(s, len(payload)-1) {
		c.refused = true
		s.link.reserve(s, -len(c.arriving.bytes))
		c.arriving.bytes = nil
	}
	if c.refused {
		payload = payload[:1]
	}
	done, err := c.arriving.Add(payload)
	if err != nil || !done {
		return err
	}
	state := c.arriving.Bytes()
	if c.refused {
		state = nil
	}
	t := c.of
	c.of, c.arriving, c.refused = 0, State{}, false
	if t == TypeCheckpoint && state == nil {
		c.behind = true // the one before may still serve
		return s.credit(c.counters.Consumed)
	}
	s.link.reserve(s, -c.latest.bytes())
	if t == TypeCheckpoint {
		c.behind = false
		c.come(checkpoint{state, nil, c.counters}, s.received)
		return s.credit(c.counters.Consumed)
	}
	c.latest, c.proven, c.state, c.whole = checkpoint{}, checkpoint{}, state, true
	return nil
}

// closedBy is CLOSE; mu is held. In the middle of a hand-off it leaves nothing to go on
// with, as a loss does.
func (s *Stream) closedBy() {
	if s.link.near && s.letGo && !s.carried.handedOff() {
		s.err = fmt.Errorf("%w: closed in the middle of its state", ErrLost)
		return
	}
	s.other = endClosed
	s.answered(welcome{err: ErrPeerClosed})
}

// HandedOff is, at a proxy, what ErrHandOff leaves: the session's state, nil if it was
// too much to be kept with those of other sessions, and the client's bytes that were
// written and that the backend has not consumed. If SwitchDue, these are deflated still.
func (s *Stream) HandedOff() (state, unconsumed []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.carried.handedOff() {
		return nil, nil
	}
	return s.carried.state, s.tail.bytes()
}

// LastCheckpoint is, at a proxy after ErrLost, the state to go on with, and what was written
// and surely never left, as with HandedOff. It is ok only if that is provably where the session
// was: the backend had consumed all else that was written, and sent no more than was received.
// Points are appended to their CHECKPOINT's state.
func (s *Stream) LastCheckpoint() (state, unconsumed []byte, ok bool) {
	if !s.isLost() {
		return nil, nil, false
	}
	// A Write under way, which ends now, has yet to say whether its bytes left.
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.carried
	if c == nil || c.proven.state == nil || c.proven.at != (Counters{s.sent - s.unsent, s.received}) {
		return nil, nil, false
	}
	return append(slices.Clip(c.proven.state), c.proven.tip...), s.tail.bytes(), true
}

// isLost tells whether the connection is lost.
func (s *Stream) isLost() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}
