package archive

import (
	"fmt"
	"time"

	"waypost/backend/index"
	"waypost/backend/mailbox"
)

// handle is an open folder of a Box. What it reads of the folder is in memory only
// while it is asked.
type handle struct {
	b    *box
	name string
	// validity is that of the last Snapshot, 0 before; the folder's mu guards it.
	validity uint32
}

var (
	_ mailbox.Folder = (*handle)(nil)
)

// Name is mailbox.Folder's.
func (h *handle) Name() string { return h.name }

// with runs op on the folder as it is now, with its lock held.
func (h *handle) with(what string, op func(f *folder) error) error {
	return h.b.do(what, h.name, func() error {
		path, ok := h.b.shelf.tree.path(h.name)
		if !ok {
			return mailbox.ErrNoFolder
		}
		f := h.b.shelf.use(h.name, path)
		defer h.b.shelf.drop(f)
		f.mu.Lock()
		defer f.mu.Unlock()
		if err := f.refresh(h.b.owner.Guard, false); err != nil {
			return err
		}
		return op(f)
	})
}

// uids is with for what takes UIDs.
func (h *handle) uids(what string, op func(f *folder) error) error {
	return h.with(what, func(f *folder) error {
		if h.validity != 0 && h.validity != f.ledger.validity {
			return mailbox.ErrRenumbered
		}
		return op(f)
	})
}

// message is uids for one message.
func (h *handle) message(what string, uid mailbox.UID, op func(f *folder, e *entry) error) error {
	return h.uids(what, func(f *folder) error {
		e := f.byUID[uid]
		if e == nil {
			return fmt.Errorf("message %d: %w", uid, mailbox.ErrNoMessage)
		}
		return op(f, e)
	})
}

// Snapshot is mailbox.Folder's. No message is ever recent.
func (h *handle) Snapshot() (s mailbox.Snapshot, err error) {
	err = h.with("list", func(f *folder) error {
		h.validity = f.ledger.validity
		s = mailbox.Snapshot{ID: f.ledger.id, UIDValidity: f.ledger.validity, UIDNext: f.ledger.next, HighestModSeq: f.ledger.modSeq,
			Messages: f.msgs, Unseen: f.unseen, Version: f.now()}
		return nil
	})
	return s, err
}

// now gives the folder's version.
func (f *folder) now() uint64 {
	f.shelf.mu.Lock()
	defer f.shelf.mu.Unlock()
	return f.version
}

// Peek is Snapshot: there is nothing to take.
func (h *handle) Peek() (mailbox.Snapshot, error) { return h.Snapshot() }

// Status is mailbox.Folder's.
func (h *handle) Status() (s mailbox.Status, err error) {
	err = h.with("status of", func(f *folder) error {
		s = mailbox.Status{ID: f.ledger.id, UIDValidity: f.ledger.validity, UIDNext: f.ledger.next, HighestModSeq: f.ledger.modSeq,
			Messages: f.msgs.Len(), Unseen: f.unseen, Bytes: f.bytes}
		for _, m := range f.msgs.All() {
			if m.Flags.Has(mailbox.Deleted) {
				s.Deleted++
				s.DeletedBytes += m.WireSize
			}
		}
		return nil
	})
	return s, err
}

// Changed is mailbox.Folder's.
func (h *handle) Changed(version uint64) <-chan struct{} {
	s := h.b.shelf
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.folders[h.name]
	if s.over || f == nil || f.version != version {
		done := make(chan struct{})
		close(done)
		return done
	}
	if f.wait == nil {
		f.wait = make(chan struct{})
	}
	s.watch()
	return f.wait
}

// InternalDate is mailbox.Folder's: that of the "From " line, or of the file.
func (h *handle) InternalDate(uid mailbox.UID) (date time.Time, err error) {
	err = h.message("date in", uid, func(_ *folder, e *entry) error {
		date = e.date
		return nil
	})
	return date, err
}

// SaveDate is mailbox.Folder's: not known.
func (h *handle) SaveDate(uid mailbox.UID) (date time.Time, err error) {
	return date, h.message("date in", uid, func(*folder, *entry) error { return nil })
}

// EmailID is mailbox.Folder's.
func (h *handle) EmailID(uid mailbox.UID) (id string, err error) {
	err = h.message("id in", uid, func(f *folder, e *entry) error {
		id = f.emailID(e)
		return nil
	})
	return id, err
}

// Open is mailbox.Folder's.
func (h *handle) Open(uid mailbox.UID) (body mailbox.Body, err error) {
	err = h.message("open message in", uid, func(f *folder, e *entry) (err error) {
		body, err = h.open(f, e)
		return err
	})
	return body, err
}

// open looks at the archive once more for a message that is not where it was.
func (h *handle) open(f *folder, e *entry) (mailbox.Body, error) {
	body, err := f.source.open(e)
	if !absent(err) {
		return body, err
	}
	validity := f.ledger.validity
	if err := f.refresh(h.b.owner.Guard, true); err != nil {
		return nil, err
	}
	if f.ledger.validity != validity {
		return nil, mailbox.ErrRenumbered
	}
	if e = f.byUID[e.uid]; e == nil {
		return nil, mailbox.ErrNoMessage
	}
	body, err = f.source.open(e)
	switch {
	case absent(err) && f.unproven:
		err = fmt.Errorf("%w: %w", errUnproven, err)
	case absent(err):
		err = fmt.Errorf("%w: %w", mailbox.ErrNoMessage, err)
	}
	return body, err
}

// Meta is mailbox.Folder's. A message that the index does not know is read without
// locks.
func (h *handle) Meta(uid mailbox.UID) (meta *mailbox.Meta, err error) {
	var body mailbox.Body
	var e entry
	err = h.message("look into", uid, func(f *folder, x *entry) (err error) {
		e = *x
		if known, ok := f.indexed().Get(e.key); ok {
			meta = known
			return nil
		}
		body, err = h.open(f, x)
		return err
	})
	if err != nil || meta != nil {
		return meta, err
	}
	defer body.Close()
	if meta, err = index.Read(body, e.date); err != nil {
		return nil, h.b.named("look into", h.name, err)
	}
	err = h.message("look into", uid, func(f *folder, x *entry) error {
		if x.key != e.key {
			return nil
		}
		return h.b.owner.Guard(func() error {
			// It is derived: what cannot be written down is read again next time.
			if err := f.indexed().Put(e.key, meta); err != nil {
				h.b.shelf.set.o.Log.Warn("archive: index not written", "folder", f.dir, "error", err)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return meta, nil
}

// indexed gives the folder's index. mu is held.
func (f *folder) indexed() *index.Index {
	if f.index == nil {
		f.index = index.Open(f.shelf.set.o.FS, f.dir, f.ledger.id)
	}
	return f.index
}

// ExpungedSince is mailbox.Folder's: not known.
func (h *handle) ExpungedSince(uint64) (uids []mailbox.UIDRange, complete bool, err error) {
	return nil, false, h.uids("expunges in", func(*folder) error { return nil })
}

// SetFlags is mailbox.Folder's, and fails.
func (h *handle) SetFlags([]mailbox.UID, mailbox.FlagChange) (mailbox.FlagResult, error) {
	return mailbox.FlagResult{}, h.b.readOnly("change flags in", h.name)
}

// Expunge is mailbox.Folder's, and fails.
func (h *handle) Expunge([]mailbox.UID) ([]mailbox.UID, error) {
	return nil, h.b.readOnly("expunge from", h.name)
}

// ExpungeDeleted is mailbox.Folder's, and fails.
func (h *handle) ExpungeDeleted([]mailbox.UID) ([]mailbox.UID, error) {
	return nil, h.b.readOnly("expunge from", h.name)
}

// Copy is mailbox.Folder's, and fails: there is no other folder that could be
// written to.
func (h *handle) Copy(_ []mailbox.UID, to string) (mailbox.CopyResult, error) {
	return mailbox.CopyResult{}, h.b.readOnly("copy to", to)
}

// Move is mailbox.Folder's, and fails.
func (h *handle) Move(_ []mailbox.UID, to string) (mailbox.CopyResult, error) {
	return mailbox.CopyResult{}, h.b.readOnly("move to", to)
}
