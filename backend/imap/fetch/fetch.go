// Package fetch is FETCH's data items: it parses what a client asks for and writes the
// answers (RFC 9051, Sections 6.4.5 and 7.5.2; RFC 3501, likewise; RFC 3516 BINARY, RFC 7162
// MODSEQ, RFC 8474 EMAILID, RFC 8514 SAVEDATE, RFC 8970 PREVIEW, RFC 9586 UIDFETCH).
//
// The engine parses a Request once for a command and calls Write for each message. A
// message is opened at most once for it, and only if an item needs its bytes; all else is from
// the folder's index. Whatever can fail is done before the first byte of the answer: only
// reading the message can still, and that is ErrBroken. Bodies are streamed in bounded memory.
// A Request is one session's.
package fetch

import (
	"errors"
	"sync"
	"time"

	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

var (
	// ErrBroken: the message could not be read to its end when its literal was
	// announced already. The connection must be cut: nothing else tells the client.
	ErrBroken = errors.New("message not sent to its end")
	// ErrUnknownEncoding: BINARY of a part whose transfer encoding is not known, or
	// that is not what its encoding demands; NO [UNKNOWN-CTE] (RFC 3516, Section
	// 4.3). Nothing of the message was written.
	ErrUnknownEncoding = errors.New("unknown content transfer encoding")
)

// Options are a session's.
type Options struct {
	// UIDOnly: answers are UIDFETCH ones (RFC 9586, Section 3.3).
	UIDOnly bool
	// Buffers lends buffers of BufferSize for streaming, made by NewBuffers.
	Buffers *sync.Pool
}

// BufferSize is the length of Options.Buffers' buffers, in bytes.
const BufferSize = 64 << 10

// NewBuffers makes a pool for Options.Buffers; one is enough for a server.
func NewBuffers() *sync.Pool {
	return &sync.Pool{New: func() any { b := make([]byte, BufferSize); return &b }}
}

// Source gives what a Request needs of messages; mailbox.Folder has these methods.
// Write calls only those of the items asked for.
type Source interface {
	// Meta is what the index knows. It is not written to.
	Meta(uid mailbox.UID) (*mailbox.Meta, error)
	// Open opens the message. Write closes it; an engine that keeps the last one
	// open for the next partial FETCH gives a Body whose Close does nothing, and
	// whose Seek to where it is costs nothing (see Last).
	Open(uid mailbox.UID) (mailbox.Body, error)
	InternalDate(uid mailbox.UID) (time.Time, error)
	// SaveDate is zero where it is not known.
	SaveDate(uid mailbox.UID) (time.Time, error)
	EmailID(uid mailbox.UID) (string, error)
}

// WireSource is a Source that knows the ready-made texts of ENVELOPE and BODYSTRUCTURE
// without all that is a Meta, good until the next call. ok is false when it does not; Write asks for
// the Meta then.
type WireSource interface {
	Wire(uid mailbox.UID) (w mime.Wire, ok bool, err error)
}

// FieldSource is a Source that knows chosen header fields (index.Index.HeaderFields) without
// all that is a Meta. known is false when it does not; Write asks for the Meta then.
type FieldSource interface {
	HeaderFields(uid mailbox.UID, names index.Names) (header string, known bool, err error)
}

// SummarySource is a Source that knows preview, good until the next call, and internal date without
// all that is a Meta.
type SummarySource interface {
	Summary(uid mailbox.UID) (mailbox.Summary, error)
}

// Message is what the session's view tells of a message.
type Message struct {
	// Seq is its sequence number; not used in UIDFETCH answers.
	Seq uint32
	UID mailbox.UID
	// Flags are as on the wire, \Recent included.
	Flags  []string
	ModSeq uint64
	// Size is RFC822.SIZE (mailbox.Message.WireSize).
	Size int64
	// TellFlags and TellModSeq have FLAGS and MODSEQ in this answer even if they
	// were not asked for: for a message that the FETCH has marked as seen.
	TellFlags, TellModSeq bool
}
