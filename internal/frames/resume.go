package frames

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"waypost/internal/wire"
)

// ErrOutcome: a session may have been resumed, or not. To try again could have it go on
// twice.
var ErrOutcome = errors.New("whether the session was resumed is not known")

// Resume resumes a session that was handed off, or was lost with a checkpoint, as Open
// opens one. wire.StatusUnresumable is the answer for good. An error without ErrOutcome
// means that nobody has the session, so that it can be tried again, here or elsewhere, as can one
// that is quiet (handoff.Quiet) in any case;
// ErrNoHandOff: not here.
func (c *Client) Resume(ctx context.Context, h wire.Hello, state []byte) (*Stream, wire.Welcome, error) {
	text, err := encodeHello(h, c.carry)
	switch {
	case err != nil:
	case !c.carry:
		err = ErrNoHandOff
	case len(state) > MaxState:
		err = ErrTooBig
	}
	if err != nil {
		return nil, wire.Welcome{}, fmt.Errorf("resume: %w", err)
	}
	s, answer, err := c.begun(TypeResume, text)
	if err != nil {
		return nil, wire.Welcome{}, fmt.Errorf("resume: %w", err)
	}
	got := c.resumed(ctx, s, answer, state)
	if got.err == nil && got.Status == wire.StatusOK {
		s.goesOnFrom(state)
		return s, got.Welcome, nil
	}
	_ = s.Close() // it has not begun, or cannot go on
	if got.err != nil {
		got.err = fmt.Errorf("resume: %w", got.err)
	}
	return nil, got.Welcome, got.err
}

// resumed sends the state, until an answer comes, and waits for that. A backend does
// nothing before it has all of it.
func (c *Client) resumed(ctx context.Context, s *Stream, answer <-chan welcome, state []byte) (got welcome) {
	for piece := range StatePieces(state) {
		if err := context.Cause(ctx); err != nil {
			return welcome{err: err}
		}
		select {
		case got = <-answer: // too early to be ok
			if got.err == nil && got.Status == wire.StatusOK {
				got.err = ErrOutcome
			}
			return got
		default:
		}
		if err := c.send(TypeState, s.id, nil, piece); err != nil {
			got.err = err
			if piece[0]&stateLast != 0 {
				got.err = errors.Join(ErrOutcome, err)
			}
			return got
		}
	}
	if got = c.answer(ctx, answer); got.err != nil {
		got.err = errors.Join(ErrOutcome, got.err)
	}
	return got
}

// state is STATE at a backend: of a session that is to be resumed.
func (v *server) state(id uint32, payload []byte) error {
	s, err := v.stream(id)
	if s == nil {
		return err
	}
	room := v.reserve(s, len(payload)-1)
	s.mu.Lock()
	c := s.carried
	if c == nil || c.of != TypeResume {
		s.mu.Unlock()
		return fmt.Errorf("%s of a session that is not resumed: %w", TypeState, ErrProtocol)
	}
	done, err := c.arriving.Add(payload)
	hello := c.hello
	if done {
		c.state = c.arriving.Bytes()
		c.of, c.arriving, c.hello = 0, State{}, nil
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if !room {
		return v.refuse(s)
	}
	if !done {
		return nil
	}
	v.mu.Lock()
	if v.retired {
		v.mu.Unlock()
		return v.refuse(s)
	}
	v.handlers.Add(1)
	v.mu.Unlock()
	go v.session(s, hello)
	return nil
}

// refuseWaiting turns those away that have not begun, when no more do.
func (v *server) refuseWaiting() {
	v.mu.Lock()
	all := slices.Collect(maps.Values(v.streams))
	v.mu.Unlock()
	for _, s := range all {
		s.mu.Lock()
		waits := s.carried != nil && s.carried.of == TypeResume
		s.mu.Unlock()
		if waits {
			_ = v.refuse(s) // a lost connection has ended, too
		}
	}
}

// refuse turns a RESUME away that has not begun, once.
func (v *server) refuse(s *Stream) error {
	if !v.forget(s.id) {
		return nil
	}
	return v.tellRefused(s.id)
}

func (v *server) tellRefused(id uint32) error {
	text, err := encodeWelcome(wire.Welcome{Status: wire.StatusRefused, Text: "this connection takes no more sessions"})
	if err != nil {
		return err
	}
	return v.send(TypeWelcome, id, nil, text)
}
