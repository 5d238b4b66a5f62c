package frames

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Type tells what a frame is; see the package's comment.
type Type uint8

// The types, as they go over the wire.
const (
	TypeOpen Type = 1 + iota
	TypeResume
	TypeWelcome
	TypeData
	TypeConsumed
	TypeCompress
	TypeCompressed
	TypeClientGone
	TypeEnd
	TypeClose
	TypeHandOff
	TypeCheckpoint
	TypeState
	TypeGoAway
	TypePing
	TypePong
	TypePoint
)

const (
	// HeaderBytes is the length of a frame's head, CounterBytes of a count.
	HeaderBytes  = 9
	CounterBytes = 8
	// MaxData bounds a frame's bytes of a session, and a piece of state.
	MaxData = 64 << 10
	// MaxState bounds a session's state.
	MaxState = 4 << 20
	// MaxTip bounds what a POINT has beside its counters.
	MaxTip = 16 << 10
	// maxLine bounds a Hello or Welcome in a frame.
	maxLine = 4 << 10
)

// ErrProtocol is a frame that should not have come.
var ErrProtocol = errors.New("frame protocol violated")

// rule is what a type's frames are like.
type rule struct {
	name     string
	min, max uint32 // of the payload, in bytes
	link     bool   // it is about the connection: stream 0
	from     side   // who sends it
}

// side is an end of a connection.
type side uint8

const (
	fromProxy side = 1 << iota
	fromBackend
	fromBoth = fromProxy | fromBackend
)

// ruleOf tells whether there is such a type.
func ruleOf(t Type) (rule, bool) {
	switch t {
	case TypeOpen:
		return rule{"OPEN", 2, maxLine, false, fromProxy}, true
	case TypeResume:
		return rule{"RESUME", 2, maxLine, false, fromProxy}, true
	case TypeWelcome:
		return rule{"WELCOME", 2, maxLine, false, fromBackend}, true
	case TypeData:
		return rule{"DATA", CounterBytes + 1, CounterBytes + MaxData, false, fromBoth}, true
	case TypeConsumed:
		return rule{"CONSUMED", CounterBytes, CounterBytes, false, fromBoth}, true
	case TypeCompress:
		return rule{"COMPRESS", CounterBytes, CounterBytes, false, fromBackend}, true
	case TypeCompressed:
		return rule{"COMPRESSED", 0, 0, false, fromProxy}, true
	case TypeClientGone:
		return rule{"CLIENT-GONE", 0, 0, false, fromProxy}, true
	case TypeEnd:
		return rule{"END", 0, 0, false, fromBoth}, true
	case TypeClose:
		return rule{"CLOSE", 0, 0, false, fromBoth}, true
	case TypeHandOff:
		return rule{"HAND-OFF", 2 * CounterBytes, 2 * CounterBytes, false, fromBackend}, true
	case TypeCheckpoint:
		return rule{"CHECKPOINT", 2 * CounterBytes, 2 * CounterBytes, false, fromBackend}, true
	case TypeState:
		return rule{"STATE", 1, 1 + MaxData, false, fromBoth}, true
	case TypeGoAway:
		return rule{"GO-AWAY", 0, 0, true, fromBackend}, true
	case TypePing:
		return rule{"PING", 0, 0, true, fromProxy}, true
	case TypePong:
		return rule{"PONG", 0, 0, true, fromBackend}, true
	case TypePoint:
		return rule{"POINT", 2 * CounterBytes, 2*CounterBytes + MaxTip, false, fromBackend}, true
	}
	return rule{}, false
}

// String gives the name of the package's comment.
func (t Type) String() string {
	if r, ok := ruleOf(t); ok {
		return r.name
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Header is the head of a frame.
type Header struct {
	Type   Type
	Stream uint32
	Length uint32 // of the payload, in bytes
}

// AppendHeader appends h to dst, as HeaderBytes.
func AppendHeader(dst []byte, h Header) []byte {
	dst = append(dst, byte(h.Type))
	dst = binary.BigEndian.AppendUint32(dst, h.Stream)
	return binary.BigEndian.AppendUint32(dst, h.Length)
}

// ParseHeader reads the HeaderBytes of b. Its error is ErrProtocol, also for a length
// that no such frame has.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderBytes {
		return Header{}, fmt.Errorf("head of %d bytes: %w", len(b), ErrProtocol)
	}
	h := Header{Type(b[0]), binary.BigEndian.Uint32(b[1:]), binary.BigEndian.Uint32(b[5:])}
	r, ok := ruleOf(h.Type)
	switch {
	case !ok:
		return h, fmt.Errorf("%s is not known: %w", h.Type, ErrProtocol)
	case h.Length < r.min || h.Length > r.max:
		return h, fmt.Errorf("%s of %d bytes: %w", h.Type, h.Length, ErrProtocol)
	case r.link != (h.Stream == 0):
		return h, fmt.Errorf("%s of stream %d: %w", h.Type, h.Stream, ErrProtocol)
	}
	return h, nil
}

// Counters are what a backend has done of a stream, in bytes since its begin.
type Counters struct {
	Consumed uint64 // of the client's bytes
	Sent     uint64 // to the client, before compression
}

// AppendCounters appends c to dst.
func AppendCounters(dst []byte, c Counters) []byte {
	dst = binary.BigEndian.AppendUint64(dst, c.Consumed)
	return binary.BigEndian.AppendUint64(dst, c.Sent)
}

// ParseCounters reads what AppendCounters wrote.
func ParseCounters(b []byte) (Counters, error) {
	if len(b) != 2*CounterBytes {
		return Counters{}, fmt.Errorf("counters of %d bytes: %w", len(b), ErrProtocol)
	}
	return Counters{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[CounterBytes:])}, nil
}

// stateLast flags the last STATE of a state.
const stateLast = 1

// State puts a state together from its pieces. The zero value waits for the first.
type State struct {
	bytes []byte
	done  bool
}

// Add takes the payload of the next STATE, and tells whether it was the last one.
func (s *State) Add(payload []byte) (done bool, err error) {
	switch {
	case s.done:
		return true, fmt.Errorf("STATE behind the last one: %w", ErrProtocol)
	case len(payload) == 0 || payload[0]&^stateLast != 0:
		return false, fmt.Errorf("flags of STATE: %w", ErrProtocol)
	case len(s.bytes)+len(payload)-1 > MaxState:
		return false, fmt.Errorf("state of more than %d bytes: %w", MaxState, ErrProtocol)
	}
	s.bytes = append(s.bytes, payload[1:]...)
	s.done = payload[0]&stateLast != 0
	return s.done, nil
}

// Bytes is the state, once it is done; it is not nil.
func (s *State) Bytes() []byte {
	if s.bytes == nil {
		return []byte{}
	}
	return s.bytes
}

// StatePieces gives the payloads of a state's frames, one after the other; each is
// yield's during the call.
func StatePieces(state []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for piece := make([]byte, 0, 1+min(MaxData, len(state))); ; {
			n := min(MaxData, len(state))
			var flags byte
			if n == len(state) {
				flags = stateLast
			}
			piece = append(append(piece[:0], flags), state[:n]...)
			if state = state[n:]; !yield(piece) || flags == stateLast {
				return
			}
		}
	}
}
