package pop3

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"waypost/backend/mailbox"
	"waypost/internal/handoff"
)

// protocol is the name in a state's envelope.
const protocol = "pop3"

// stateVersion is the first byte of a state. What is not of this version is not resumed.
const stateVersion = 1

// Bounds of a state that is read, beside its length.
const (
	maxWords    = 64       // capabilities
	maxAllUIDLs = 32 << 20 // bytes of unique ids, which are written short
)

// state is a session as another backend needs it to go on.
type state struct {
	user, session, client string
	utf8                  bool
	login                 []string // capabilities

	// The maildrop as it was when the session began.
	folder   string // its MAILBOXID
	validity uint32
	next     mailbox.UID
	modseq   uint64
	messages []told
	// deleted and unseen are marks, by index in messages, rising.
	deleted, unseen []int

	bad, retrieved int
	// silent is how long the client has been.
	silent time.Duration
	// from is where a listing that was cut goes on: a message's number, or 0.
	from int
	// input is the command under way, and what was read beyond it.
	input []byte
}

// told is what the client knows of a message.
type told struct {
	uid  mailbox.UID
	size int64
	id   string // its UIDL
}

// encode is what decode reads: numbers are varints, strings have their length before them, and of a
// unique id is written what is between that which it has in common with the one before at both
// ends.
func (st *state) encode() []byte {
	b := make([]byte, 0, 64+len(st.input)+len(st.messages)*24)
	b = append(b, stateVersion)
	for _, s := range []string{st.user, st.session, st.client} {
		b = putString(b, s)
	}
	utf8 := uint64(0)
	if st.utf8 {
		utf8 = 1
	}
	b = putNumbers(b, utf8, uint64(len(st.login)))
	for _, word := range st.login {
		b = putString(b, word)
	}
	b = putString(b, st.folder)
	b = putNumbers(b, uint64(st.validity), uint64(st.next), st.modseq, uint64(len(st.messages)))
	var last told
	for _, m := range st.messages {
		prefix, suffix := common(last.id, m.id)
		b = putNumbers(b, uint64(m.uid-last.uid), uint64(m.size), uint64(prefix), uint64(suffix))
		b = putString(b, m.id[prefix:len(m.id)-suffix])
		last = m
	}
	return st.appendTip(b)
}

// appendTip appends what of a state changes in the course of a session: alone, it is what
// applyTip reads.
func (st *state) appendTip(b []byte) []byte {
	b = putIndices(b, st.deleted)
	b = putIndices(b, st.unseen)
	b = putNumbers(b, uint64(st.bad), uint64(st.retrieved), uint64(st.silent/time.Millisecond), uint64(st.from))
	return append(b, st.input...)
}

// applyTip makes of a state what it became. The error is a *handoff.Error.
func (st *state) applyTip(b []byte) error {
	r := stateReader{b: b}
	r.tip(st)
	if r.err != nil {
		return &handoff.Error{Reason: handoff.Version, Err: r.err}
	}
	return nil
}

// common is how many bytes two ids share at their beginnings and, of the rest, at their ends.
func common(a, b string) (prefix, suffix int) {
	for prefix < min(len(a), len(b)) && a[prefix] == b[prefix] {
		prefix++
	}
	for suffix < min(len(a), len(b))-prefix && a[len(a)-1-suffix] == b[len(b)-1-suffix] {
		suffix++
	}
	return prefix, suffix
}

func putNumbers(b []byte, all ...uint64) []byte {
	for _, n := range all {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func putString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// putIndices writes rising numbers by their distances.
func putIndices(b []byte, all []int) []byte {
	b = binary.AppendUvarint(b, uint64(len(all)))
	last := 0
	for _, i := range all {
		b = binary.AppendUvarint(b, uint64(i-last))
		last = i
	}
	return b
}

// decodeState reads what encode wrote. The error is a *handoff.Error.
func decodeState(b []byte) (*state, error) {
	r := stateReader{b: b}
	st := r.state()
	if r.err != nil {
		return nil, &handoff.Error{Reason: handoff.Version, Err: r.err}
	}
	return st, nil
}

// stateReader reads a state. Its first error stays, and what it gives then means nothing.
type stateReader struct {
	b   []byte
	err error
}

var errState = errors.New("malformed state of a POP3 session")

func (r *stateReader) fail() { r.err, r.b = errState, nil }

func (r *stateReader) state() *state {
	if len(r.b) == 0 || r.b[0] != stateVersion {
		r.err = errors.New("state of another version")
		return nil
	}
	r.b = r.b[1:]
	st := &state{user: r.string(), session: r.string(), client: r.string(), utf8: r.number(1) == 1}
	for range r.number(maxWords) {
		st.login = append(st.login, r.string())
	}
	st.folder, st.validity = r.string(), uint32(r.number(1<<32-1))
	st.next, st.modseq = mailbox.UID(r.number(1<<32-1)), r.number(1<<64-1)
	r.told(st)
	r.tip(st)
	return st
}

func (r *stateReader) tip(st *state) {
	st.deleted = r.indices(len(st.messages))
	st.unseen = r.indices(len(st.messages))
	st.bad, st.retrieved = int(r.number(maxBadCommands)), int(r.number(1<<32))
	st.silent = time.Duration(r.number(1<<32)) * time.Millisecond
	st.from = int(r.number(uint64(len(st.messages))))
	st.input = slices.Clone(r.b)
}

// told reads the messages.
func (r *stateReader) told(st *state) {
	const least = 5 // bytes of a message
	n := r.number(uint64(len(r.b) / least))
	st.messages = make([]told, 0, n)
	last, all := told{}, 0
	for range n {
		uid := uint64(last.uid) + r.number(1<<32-1)
		m := told{uid: mailbox.UID(uid), size: int64(r.number(1<<62 - 1))}
		prefix := r.number(uint64(len(last.id)))
		suffix := r.number(uint64(len(last.id)) - prefix)
		m.id = last.id[:prefix] + r.string() + last.id[uint64(len(last.id))-suffix:]
		all += len(m.id)
		if r.err != nil || m.uid <= last.uid || uid > 1<<32-1 || len(m.id) > maxOlder || all > maxAllUIDLs {
			r.fail()
			return
		}
		st.messages = append(st.messages, m)
		last = m
	}
}

func (r *stateReader) number(most uint64) uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || n > most {
		r.fail()
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *stateReader) string() string {
	n := r.number(uint64(len(r.b)))
	if n > uint64(len(r.b)) {
		r.fail()
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// indices reads rising numbers below the end.
func (r *stateReader) indices(end int) []int {
	n := r.number(uint64(len(r.b)))
	var all []int
	next := 0
	for range n {
		i := next + int(r.number(uint64(end)))
		if r.err != nil || i >= end || len(all) > 0 && i == all[len(all)-1] {
			r.fail()
			return nil
		}
		all = append(all, i)
		next = i
	}
	return all
}
