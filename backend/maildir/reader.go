package maildir

import (
	"time"

	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

var _ mailbox.Indexed = (*handle)(nil)

// readerRun is for how many messages a reader asks for the locks and the fence once.
const readerRun = 256

// reader is mailbox.Reader's. Between two looks at the folder it goes by what does not change:
// Messages, and names' bases. The index has a lock of its own; one that was closed meanwhile
// knows nothing any more.
type reader struct {
	h    *handle
	msgs mailbox.Messages
	x    *index.Index
	left int
	// next is the index in msgs behind the last message asked for.
	next int
	// wire and preview are the last ones given.
	wire, preview index.Room
}

// Reader is mailbox.Indexed's.
func (h *handle) Reader() mailbox.Reader { return &reader{h: h} }

// renew looks at the folder under the locks; sync: also at the disk.
func (r *reader) renew(sync bool) error {
	r.left = 0
	err := r.h.b.do("read index", func() error {
		f := r.h.f
		if sync || !f.loaded {
			if err := f.sync(); err != nil {
				return err
			}
		}
		if err := r.h.current(); err != nil {
			return err
		}
		r.msgs, r.x = f.msgs, f.index()
		return nil
	})
	if err == nil {
		r.left = readerRun
	}
	return err
}

// over reports that the fence has left the epoch, or the mailbox is closed.
func (r *reader) over() bool {
	select {
	case <-r.h.b.done:
		return true
	default:
		return false
	}
}

// base gives what the index calls a message.
func (r *reader) base(uid mailbox.UID) (string, error) {
	if r.left == 0 || r.over() {
		if err := r.renew(false); err != nil {
			return "", err
		}
	}
	r.left--
	m := r.find(uid)
	if m == nil {
		if err := r.renew(true); err != nil {
			return "", err
		}
		if m = r.find(uid); m == nil {
			return "", r.h.b.named("read index", mailbox.ErrNoMessage)
		}
	}
	return refBase(m.Ref), nil
}

// find tries the message behind the last one first.
func (r *reader) find(uid mailbox.UID) *mailbox.Message {
	if r.next < r.msgs.Len() {
		if m := r.msgs.At(r.next); m.UID == uid {
			r.next++
			return m
		}
	}
	i, ok := r.msgs.Find(uid)
	if !ok {
		return nil
	}
	r.next = i + 1
	return r.msgs.At(i)
}

// meta is for what the index does not know.
func (r *reader) meta(uid mailbox.UID) (*mailbox.Meta, error) {
	if r.x.Closed() {
		r.left = 0 // there is another one by now
	}
	return r.h.Meta(uid)
}

// Wire is mailbox.Reader's.
func (r *reader) Wire(uid mailbox.UID) (w mime.Wire, err error) {
	base, err := r.base(uid)
	if err != nil {
		return w, err
	}
	if w, ok := r.x.Wire(base, &r.wire); ok {
		return w, nil
	}
	m, err := r.meta(uid)
	if err == nil {
		w = m.Root.Wire
	}
	return w, err
}

// Header is mailbox.Reader's.
func (r *reader) Header(uid mailbox.UID, set mailbox.FieldSet) (text string, known bool, err error) {
	base, err := r.base(uid)
	if err != nil {
		return "", false, err
	}
	if text, known = r.x.HeaderFields(base, set); known {
		return text, true, nil
	}
	m, err := r.meta(uid)
	if err == nil {
		text, known = index.HeaderOf(m, set)
	}
	return text, known, err
}

// Fields is mailbox.Reader's.
func (r *reader) Fields(uid mailbox.UID, set mailbox.FieldSet, each func(*mime.Field)) error {
	base, err := r.base(uid)
	if err != nil || r.x.Fields(base, set, each) {
		return err
	}
	m, err := r.meta(uid)
	if err == nil {
		index.FieldsOf(m, set, each)
	}
	return err
}

// Summary is mailbox.Reader's.
func (r *reader) Summary(uid mailbox.UID) (s mailbox.Summary, err error) {
	base, err := r.base(uid)
	if err != nil {
		return s, err
	}
	if s, ok := r.x.Summary(base, &r.preview); ok {
		return s, nil
	}
	m, err := r.meta(uid)
	if err == nil {
		s = m.Summary()
	}
	return s, err
}

// Arrived is mailbox.Reader's. A message that is not in the index is not read for its date.
func (r *reader) Arrived(uid mailbox.UID) (time.Time, error) {
	base, err := r.base(uid)
	if err != nil {
		return time.Time{}, err
	}
	if t, ok := r.x.Arrived(base); ok {
		return t, nil
	}
	return r.h.InternalDate(uid)
}
