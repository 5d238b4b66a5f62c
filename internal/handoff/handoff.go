// Package handoff is what all that hand sessions over, or take them on, have in common (design,
// "Sessions that survive"): the envelope around a session's state, and the reasons for which a
// session cannot be carried.
//
// What is in a state is its protocol's affair, and its version with it. The envelope has what the
// backend needs before it asks the protocol: the hand-off's id, which it accepts once, and the
// protocol's name; and a checksum, by which a state that was damaged on its way is told from one that
// says something else. A state that is told again and again has a form to which a tip can be put, what
// has changed since; and the id of a session at rest says that it is (Quiet). It is no proof of where the state comes from: that is the connection's affair.
//
// The package owns nothing, and nothing of it survives a crash but what others keep. Everything
// in it is safe for concurrent use.
package handoff

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
)

// Reason is why a session was not carried: one stable word, for metrics, logs and
// wire.Welcome.Text.
type Reason string

// The reasons.
const (
	Version         Reason = "version"          // a state that is not understood here
	Folder          Reason = "folder"           // the selected folder is gone
	Identity        Reason = "identity"         // the folder has another MAILBOXID or UIDVALIDITY
	Rewound         Reason = "rewound"          // UIDNEXT or HIGHESTMODSEQ shrank
	UnknownMessages Reason = "unknown_messages" // a UID told is neither present nor known expunged
	TooBig          Reason = "too_big"          // a state over the limit
	Midway          Reason = "midway"           // a command that had changed something was cut
	SlowClient      Reason = "slow_client"      // the client does not read
	Account         Reason = "account"          // disabled, or its password changed, meanwhile
	Unproven        Reason = "unproven"         // after a crash: the client may have seen more than the checkpoint
	Twice           Reason = "twice"            // this hand-off was accepted before
	Waited          Reason = "waited"           // the record was not active in time
	Capability      Reason = "capability"       // what the session uses is not there
	Foreign         Reason = "foreign"          // the backend takes no hand-offs
	Lost            Reason = "lost"             // the outcome of a resume is unknown
)

// Error is a session that cannot be carried, for good.
type Error struct {
	Reason Reason
	// Err is what lies behind it, or nil.
	Err error
}

// Error implements error.
func (e *Error) Error() string {
	if e.Err == nil {
		return "session not carried: " + string(e.Reason)
	}
	return "session not carried: " + string(e.Reason) + ": " + e.Err.Error()
}

// Unwrap gives what lies behind it.
func (e *Error) Unwrap() error { return e.Err }

// ReasonOf gives an error's reason; ok is false where it has none: then another try may do.
func ReasonOf(err error) (r Reason, ok bool) {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason, true
	}
	return "", false
}

// ErrKicked is the cause (context.Cause) of a session's context that was cancelled because the
// session is to end, not to be handed off: an operator's kick.
var ErrKicked = errors.New("the session is to end")

// ID names a hand-off.
type ID [16]byte

// quietBytes of a quiet id's beginning are 0, and of no other's.
const quietBytes = 4

// NewID gives one that never was.
func NewID() ID {
	var id ID
	rand.Read(id[:]) // which does not fail
	id[0] |= 1
	return id
}

// NewQuietID is NewID for the state of a session at rest, which does nothing where it goes on
// before the client is heard there. So it need not be accepted once: where an outcome is
// unknown, nothing can have been done, nor told to the client, and it may be tried again.
func NewQuietID() ID {
	id := NewID()
	clear(id[:quietBytes])
	return id
}

// Quiet tells whether NewQuietID has given it.
func (id ID) Quiet() bool { return [quietBytes]byte(id[:]) == [quietBytes]byte{} }

// Quiet tells whether a state in its envelope has a quiet id.
func Quiet(state []byte) bool {
	const head = len(magic) + 1
	return len(state) >= head+len(ID{}) && string(state[:len(magic)]) == magic && ID(state[head:]).Quiet()
}

// String gives it in hexadecimal, for logs.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// The envelope: magic, version, id, length of the protocol's name (1 byte), name, CRC-32C of
// everything but the CRC (4 bytes, big-endian), body.
//
// That of a base, version 2, has the body's length (4 bytes) before the CRC. Behind its body may be
// a tip: the CRC-32C of the base's CRC and of what follows, so that it fits no other base, and then
// what has changed.
const (
	magic    = "WPHO"
	envelope = 1
	baseForm = 2
	overhead = len(magic) + 1 + len(ID{}) + 1 + 4
	sumBytes = 4
	maxName  = 32 // bytes of a protocol's name
)

// Overhead is by how many bytes at most Seal's and SealBase's results are longer than the body.
const Overhead = overhead + maxName + 4

// Seal puts a state into its envelope. protocol ("imap") has at most 32 bytes.
func Seal(id ID, protocol string, body []byte) []byte {
	out := make([]byte, 0, overhead+len(protocol)+len(body))
	out = append(out, magic...)
	out = append(out, envelope)
	out = append(out, id[:]...)
	out = append(out, byte(len(protocol)))
	out = append(out, protocol...)
	out = binary.BigEndian.AppendUint32(out, checksum(out, body))
	return append(out, body...)
}

// Base is a state in its envelope to which tips can be made.
type Base struct {
	// Sealed is the state in its envelope; behind it a tip may be put.
	Sealed []byte
	sum    uint32
}

// SealBase is Seal for a state that is told again and again, with what has changed since.
func SealBase(id ID, protocol string, body []byte) Base {
	out := make([]byte, 0, overhead+4+len(protocol)+len(body))
	out = append(out, magic...)
	out = append(out, baseForm)
	out = append(out, id[:]...)
	out = append(out, byte(len(protocol)))
	out = append(out, protocol...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(body)))
	sum := checksum(out, body)
	out = binary.BigEndian.AppendUint32(out, sum)
	return Base{append(out, body...), sum}
}

// AppendTip appends a tip to dst: what it gives goes behind Sealed. What the tip says, the
// protocol knows.
func (b Base) AppendTip(dst, tip []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, tipSum(b.sum, tip))
	return append(dst, tip...)
}

func tipSum(base uint32, tip []byte) uint32 {
	var head [sumBytes]byte
	binary.BigEndian.PutUint32(head[:], base)
	return checksum(head[:], tip)
}

// OpenBase is Open for a state that may have a tip behind it; nil: it has none.
func OpenBase(state []byte, protocol string) (id ID, body, tip []byte, err error) {
	head := overhead + 4 + len(protocol)
	if len(state) < head || string(state[:len(magic)]) != magic || state[len(magic)] != baseForm {
		id, body, err = Open(state, protocol)
		return id, body, nil, err
	}
	name := state[len(magic)+1+len(id):]
	if int(name[0]) != len(protocol) || string(name[1:1+len(protocol)]) != protocol {
		return id, nil, nil, &Error{Version, errors.New("the state is not of protocol " + protocol)}
	}
	sum, rest := binary.BigEndian.Uint32(state[head-4:]), state[head:]
	n := binary.BigEndian.Uint32(state[head-8:])
	if uint64(n) > uint64(len(rest)) || checksum(state[:head-4], rest[:n]) != sum {
		return id, nil, nil, &Error{Version, errors.New("the state is damaged")}
	}
	body, rest = rest[:n], rest[n:]
	if len(rest) > 0 {
		if len(rest) < sumBytes || binary.BigEndian.Uint32(rest) != tipSum(sum, rest[sumBytes:]) {
			return id, nil, nil, &Error{Version, errors.New("the state's tip is damaged, or another state's")}
		}
		tip = rest[sumBytes:]
	}
	copy(id[:], state[len(magic)+1:])
	return id, body, tip, nil
}

// Open takes a state without a tip out of its envelope. The error is an *Error of reason Version: the state is
// of a version that is not known, of another protocol, or damaged. body is a part of state.
func Open(state []byte, protocol string) (id ID, body []byte, err error) {
	head := overhead + len(protocol)
	switch {
	case len(state) < head:
		return id, nil, &Error{Version, errors.New("the state is too short")}
	case string(state[:len(magic)]) != magic, state[len(magic)] != envelope:
		return id, nil, &Error{Version, errors.New("not an envelope of a known version")}
	}
	name := state[len(magic)+1+len(id):]
	if int(name[0]) != len(protocol) || string(name[1:1+len(protocol)]) != protocol {
		return id, nil, &Error{Version, errors.New("the state is not of protocol " + protocol)}
	}
	body = state[head:]
	if binary.BigEndian.Uint32(state[head-4:]) != checksum(state[:head-4], body) {
		return id, nil, &Error{Version, errors.New("the state is damaged")}
	}
	copy(id[:], state[len(magic)+1:])
	return id, body, nil
}

func checksum(head, body []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // made once, by the standard library
	return crc32.Update(crc32.Checksum(head, table), table, body)
}
