package index

import (
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// ReaderOf gives a Reader of any Folder: its own, or one that asks it for Metas.
func ReaderOf(f mailbox.Folder) mailbox.Reader {
	if x, ok := f.(mailbox.Indexed); ok {
		return x.Reader()
	}
	return metaReader{f}
}

// metaReader takes all from Metas.
type metaReader struct{ f mailbox.Folder }

func (r metaReader) Wire(uid mailbox.UID) (w mime.Wire, err error) {
	m, err := r.f.Meta(uid)
	if err == nil {
		w = m.Root.Wire
	}
	return w, err
}

func (r metaReader) Header(uid mailbox.UID, set mailbox.FieldSet) (text string, known bool, err error) {
	m, err := r.f.Meta(uid)
	if err == nil {
		text, known = HeaderOf(m, set)
	}
	return text, known, err
}

func (r metaReader) Fields(uid mailbox.UID, set mailbox.FieldSet, each func(*mime.Field)) error {
	m, err := r.f.Meta(uid)
	if err == nil {
		FieldsOf(m, set, each)
	}
	return err
}

func (r metaReader) Summary(uid mailbox.UID) (s mailbox.Summary, err error) {
	m, err := r.f.Meta(uid)
	if err == nil {
		s = m.Summary()
	}
	return s, err
}

func (r metaReader) Arrived(uid mailbox.UID) (time.Time, error) { return r.f.InternalDate(uid) }
