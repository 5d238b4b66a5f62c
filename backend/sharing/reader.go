package sharing

import (
	"time"

	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// readerBatch is how many calls of a Reader one look at the rights is good for, as
// mailbox.Reader allows.
const readerBatch = 256

// Reader implements mailbox.Indexed.
func (f *folder) Reader() mailbox.Reader { return &reader{f: f, of: index.ReaderOf(f.Folder)} }

// reader is the owner's, as long as the viewer may read.
type reader struct {
	f     *folder
	of    mailbox.Reader
	calls int
}

func (r *reader) may() error {
	r.calls++
	if r.calls%readerBatch != 1 {
		return nil
	}
	return r.f.may("r")
}

// Wire is mailbox.Reader's.
func (r *reader) Wire(uid mailbox.UID) (w mime.Wire, err error) {
	if err = r.may(); err == nil {
		w, err = r.of.Wire(uid)
	}
	return w, r.f.result(err)
}

// Header is mailbox.Reader's.
func (r *reader) Header(uid mailbox.UID, set mailbox.FieldSet) (text string, known bool, err error) {
	if err = r.may(); err == nil {
		text, known, err = r.of.Header(uid, set)
	}
	return text, known, r.f.result(err)
}

// Fields is mailbox.Reader's.
func (r *reader) Fields(uid mailbox.UID, set mailbox.FieldSet, each func(*mime.Field)) error {
	err := r.may()
	if err == nil {
		err = r.of.Fields(uid, set, each)
	}
	return r.f.result(err)
}

// Summary is mailbox.Reader's.
func (r *reader) Summary(uid mailbox.UID) (s mailbox.Summary, err error) {
	if err = r.may(); err == nil {
		s, err = r.of.Summary(uid)
	}
	return s, r.f.result(err)
}

// Arrived is mailbox.Reader's.
func (r *reader) Arrived(uid mailbox.UID) (at time.Time, err error) {
	if err = r.may(); err == nil {
		at, err = r.of.Arrived(uid)
	}
	return at, r.f.result(err)
}
