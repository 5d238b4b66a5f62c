package mailbox

import (
	"time"

	"waypost/backend/mime"
)

// FieldSet is a set of the header fields that indexes keep: package index makes
// it of names (NamesOf).
type FieldSet uint64

// Indexed is implemented by Folders that give parts of Metas for less than Meta
// costs. ReaderOf is for all Folders.
type Indexed interface {
	Reader() Reader
}

// Reader gives parts of many messages' Metas, one message after another. What the
// index lacks is read from the message once, as Meta does. It belongs to one
// goroutine, holds no resources and may be kept as long as its Folder.
//
// The user's lock and the fence are not asked for each message, but once for some
// hundred: that the fence has left shows at once only by Box.Done. What it gives
// of a message that is expunged meanwhile is as before, or ErrNoMessage.
type Reader interface {
	// Wire is Meta's Root.Wire. It is good until the next call of Wire only.
	Wire(uid UID) (mime.Wire, error)
	// Header gives the fields of a set as BODY[HEADER.FIELDS (...)] has them, with the
	// empty line. known is false when the index cannot tell: a field was too much.
	Header(uid UID, set FieldSet) (text string, known bool, err error)
	// Fields calls each for Meta's Fields that are of a set, in their order, Cut ones
	// included; Raw may be missing. The Field and its strings are valid during the call only, and each
	// must not call the Reader or its Folder.
	Fields(uid UID, set FieldSet, each func(*mime.Field)) error
	// Summary is Meta without structure and fields. Its Preview is good until the next call of
	// Summary only.
	Summary(uid UID) (Summary, error)
	// Arrived is the internal date: the index's, which may lack that somebody has
	// changed the file's date by hand, else Folder.InternalDate's.
	Arrived(uid UID) (time.Time, error)
}

// Summary is what Meta has beside structure and fields.
type Summary struct {
	Arrived    time.Time
	Preview    string
	Attachment bool
}

// Summary gives Meta's.
func (m *Meta) Summary() Summary { return Summary{m.Arrived, m.Preview, m.Attachment} }
