package frames

import (
	"bytes"
	"fmt"

	"waypost/internal/handoff"
)

// checkpoint is one at a proxy: the state of a CHECKPOINT, and the tip of the last POINT
// behind that.
type checkpoint struct {
	state, tip []byte // state is nil: there is none
	at         Counters
}

func (c *checkpoint) bytes() int { return len(c.state) + len(c.tip) }

// come takes a checkpoint that came when so much was received.
func (c *carried) come(p checkpoint, received uint64) {
	c.latest = p
	c.reached(received)
}

// reached tells that so much is received; c may be nil.
func (c *carried) reached(received uint64) {
	if c != nil && c.latest.state != nil && c.latest.at.Sent <= received {
		c.proven = c.latest
	}
}

// goesOnFrom takes the state that a session was resumed with, if it is a quiet one, for its
// checkpoint: it serves until anything is said.
func (s *Stream) goesOnFrom(state []byte) {
	if !handoff.Quiet(state) || !s.link.reserve(s, len(state)) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.carried != nil {
		s.link.reserve(s, -len(state)) // one has come already, or it is let go again
		return
	}
	p := checkpoint{state: state}
	// No tip is about it.
	s.carried = &carried{latest: p, proven: p, behind: true}
}

// CanPoint tells whether Point is of use here.
func (s *Stream) CanPoint() bool { return s.points }

// Point is a backend's Checkpoint for what is to be written next: it stands for the moment when
// so many bytes were read, as there were by now, and written, of which those that are not yet
// have to be written at once, by the caller. It goes with them. state is for a checkpoint
// of its own; with nil, that of the last one stands with tip behind it, and with neither it
// stands as it was told last. A tip has MaxTip bytes at most. ErrMoved: more was read, or is
// being written.
func (s *Stream) Point(consumed, sent uint64, state, tip []byte) error {
	if !s.wmu.TryLock() {
		return fmt.Errorf("point: %w", ErrMoved)
	}
	defer s.wmu.Unlock()
	s.mu.Lock()
	err := s.mayCarry(state)
	switch {
	case err != nil:
	case !s.points:
		err = ErrNoHandOff
	case len(tip) > MaxTip:
		err = fmt.Errorf("%w: a tip of %d bytes", ErrTooBig, len(tip))
	case consumed != s.consumed || sent < s.sent:
		err = ErrMoved
	default:
		s.acked = consumed
	}
	hold := sent > s.sent
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("point: %w", err)
	}
	var room [2 * CounterBytes]byte
	head := AppendCounters(room[:0], Counters{consumed, sent})
	if state == nil {
		return s.link.put(TypePoint, s.id, head, tip, hold)
	}
	if err := s.link.put(TypeCheckpoint, s.id, head, nil, true); err != nil {
		return err
	}
	for piece := range StatePieces(state) {
		if err := s.link.put(TypeState, s.id, nil, piece, hold || piece[0]&stateLast == 0); err != nil {
			return err
		}
	}
	return nil
}

// pointed is POINT at a proxy; mu is held. Behind a state that was not kept it says nothing.
func (s *Stream) pointed(payload []byte) error {
	c := s.carried
	switch {
	case s.closed:
		return nil // it counts no more
	case c == nil || c.of != 0 || s.letGo:
		return fmt.Errorf("%s without a state: %w", TypePoint, ErrProtocol)
	}
	at, err := ParseCounters(payload[:2*CounterBytes])
	if err != nil {
		return err
	}
	if at.Consumed > s.sent {
		return fmt.Errorf("%s at %+v of %d bytes up: %w", TypePoint, at, s.sent, ErrProtocol)
	}
	p, tip := checkpoint{c.latest.state, c.latest.tip, at}, payload[2*CounterBytes:]
	if len(tip) > 0 && !c.behind {
		c.behind = !s.link.reserve(s, len(tip)-len(p.tip))
		p.tip = bytes.Clone(tip)
	}
	if !c.behind && p.state != nil {
		c.come(p, s.received)
	}
	return s.credit(at.Consumed)
}
