package frames

import (
	"fmt"
	"net"
)

// Compress is a backend's: what it writes from here on reaches the client deflated,
// and what it reads from here on is what the client's deflated bytes mean (RFC 4978).
// It is called once, after the command's OK was written and before the next Read, with
// nothing left in the caller's buffers of what was read before.
func (s *Stream) Compress() error {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.mu.Lock()
	var err error
	switch {
	case s.closed:
		err = fmt.Errorf("compress: %w", net.ErrClosed)
	case s.err != nil:
		err = s.err
	case s.letGo:
		err = ErrHandOff
	case s.compression != plain:
		err = ErrCompressed
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	s.compression = crossing
	// A client that saw the OK may have sent more, which is deflated, and have ended: all
	// that is said again behind COMPRESSED. A proxy of before hand-offs does not repeat
	// the end.
	if s.other < endClosed && s.link.carry {
		s.other, s.gone = endNot, false
	}
	s.in.drop(&s.link.chunks, s.in.len)
	s.received, s.acked = s.consumed, s.consumed
	from := s.consumed
	s.mu.Unlock()
	return s.link.sendCount(TypeCompress, s.id, from, nil)
}

// compressFrom is COMPRESS at the proxy; mu is held.
func (s *Stream) compressFrom(from uint64) error {
	if s.compression != plain {
		return fmt.Errorf("second COMPRESS: %w", ErrProtocol)
	}
	if err := s.credit(from); err != nil {
		return err
	}
	s.compression = crossing
	s.marked, s.mark = true, s.received
	s.rcond.Broadcast()
	s.wcond.Broadcast()
	return nil
}

// SwitchDue tells a proxy that Switch must be called by who writes.
func (s *Stream) SwitchDue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.compression == crossing
}

// Switch is a proxy's, when SwitchDue, or after Write or HangUp gave ErrCompress. It
// gives back the client's bytes that were written and are deflated; the caller
// inflates them, and all that follow, and writes what they mean. A HangUp that came
// before is to be repeated then, if CanHandOff. After a hand-off it is ErrHandOff, and HandedOff gives
// them. If the connection is lost they are given back as well, unless SwitchDue still.
func (s *Stream) Switch() ([]byte, error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.mu.Lock()
	var err error
	switch {
	case s.letGo:
		err = ErrHandOff
	case s.err != nil:
		err = s.err
	case s.compression != crossing:
		err = fmt.Errorf("no COMPRESS is waited for: %w", ErrProtocol)
	}
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	raw := s.tail.bytes()
	s.tail.drop(&s.link.chunks, s.tail.len)
	s.sent, s.compression = s.seen, compressed
	s.halfClosed = s.halfClosed && !s.link.carry
	s.mu.Unlock()
	return raw, s.link.send(TypeCompressed, s.id, nil, nil)
}
