package maildir

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"waypost/backend/mailbox"
	"waypost/internal/vfs"
)

// handle is one open folder of one Box. b.a.mu guards all but b, f and name.
type handle struct {
	b    *box
	f    *folder
	name string
	// validity is the UIDVALIDITY of the last Snapshot, 0 before the first.
	validity uint32
}

var _ mailbox.Folder = (*handle)(nil)

func (h *handle) Name() string { return h.name }

// Snapshot is mailbox.Folder's. It moves new messages to cur: this handle is
// the first that shows them.
func (h *handle) Snapshot() (s mailbox.Snapshot, err error) {
	err = h.b.do("list folder", func() error {
		if err := h.settled(); err != nil {
			return err
		}
		h.f.collect()
		s = h.look()
		h.f.recent = nil
		return nil
	})
	return s, err
}

// Peek is mailbox.Folder's. New messages get UIDs, and stay in new.
func (h *handle) Peek() (s mailbox.Snapshot, err error) {
	err = h.b.do("look at folder", func() error {
		if err := h.settled(); err != nil {
			return err
		}
		s = h.look()
		s.Recent = slices.Clone(s.Recent) // the folder's own goes on
		return nil
	})
	return s, err
}

// settled brings the folder up to date, and makes what is there durable.
func (h *handle) settled() error {
	if err := h.f.sync(); err != nil {
		return err
	}
	return h.f.durable()
}

// look gives the folder as it is.
func (h *handle) look() mailbox.Snapshot {
	f := h.f
	header := f.list.Header()
	h.validity = header.Validity
	return mailbox.Snapshot{
		ID: f.id(), UIDValidity: header.Validity, UIDNext: mailbox.UID(header.Next), HighestModSeq: f.state.Highest(),
		Messages: f.msgs, Recent: f.recent, Unseen: f.unseen, Keywords: f.keywords(), Version: f.version,
	}
}

// durable waits for what was changed at once and is not durable yet: nobody sees
// what a power cut could take back.
func (f *folder) durable() error {
	if f.latest != nil {
		if err := f.latest.wait(); err != nil {
			return f.a.doubt(err)
		}
		f.latest = nil
	}
	if f.expunging != nil {
		// Who sees that messages are gone can ask when they went.
		if err := f.a.settleTo(f.expunging); err != nil {
			if f.a.uncertain != nil {
				return err
			}
			f.a.logStuck(err)
		}
	}
	return nil
}

// pending is what is to be waited for by who finds the folder as it is to be, and
// says so: nil if nothing.
func (f *folder) pending() *commit {
	if f.latest == nil {
		return nil
	}
	return &commit{record: f.latest}
}

// sync brings the folder up to date for an operation that takes UIDs, and makes
// sure that they are still those that this handle has shown.
func (h *handle) sync() error {
	if err := h.f.sync(); err != nil {
		return err
	}
	return h.current()
}

func (h *handle) current() error {
	if now := h.f.list.Header().Validity; h.validity != 0 && now != h.validity {
		return fmt.Errorf("folder %q: UIDVALIDITY is %d, was %d: %w", h.name, now, h.validity, mailbox.ErrRenumbered)
	}
	return nil
}

// collect moves messages from new to cur. That is not synced: after a crash they
// are in one of the two. What is in them a Flush syncs where they are now. What cannot be moved stays. Those in new are recent.
func (f *folder) collect() {
	if len(f.recent) == 0 {
		return
	}
	moved := map[string]string{}
	e := f.msgs.Edit()
	for _, uid := range f.recent {
		m := f.msgs.Get(uid)
		if m == nil || !refIsNew(m.Ref) {
			continue
		}
		ref := refOf(false, refName(m.Ref).String())
		if err := f.a.fs.Rename(f.path(m.Ref), f.path(ref)); err != nil {
			f.a.o.Log.Warn("maildir: message not moved to cur", "root", f.a.o.Root, "folder", f.name, "file", m.Ref, "error", err)
			f.stale = f.stale || isGone(err)
			continue
		}
		f.a.keptName(f.rel, refBase(ref), m.Size)
		moved[f.path(m.Ref)] = f.path(ref)
		now := *m
		now.Ref = ref
		e.Set(now)
	}
	if len(moved) > 0 {
		f.msgs = e.Done()
		f.a.renamed(moved)
		f.a.unsynced[f.rel] = true
		f.restamp()
		f.viewed = 0
	}
}

// Status is mailbox.Folder's. New messages get UIDs, and stay in new.
func (h *handle) Status() (s mailbox.Status, err error) {
	err = h.b.do("status", func() error {
		if err := h.f.sync(); err != nil {
			return err
		}
		if err := h.f.durable(); err != nil {
			return err
		}
		s = h.f.status()
		return nil
	})
	return s, err
}

func (f *folder) status() mailbox.Status {
	header := f.list.Header()
	return mailbox.Status{
		ID: f.id(), UIDValidity: header.Validity, UIDNext: mailbox.UID(header.Next), HighestModSeq: f.state.Highest(), Messages: f.msgs.Len(),
		Unseen: f.unseen, Recent: len(f.recent), Deleted: f.deleted, Bytes: f.wireBytes, DeletedBytes: f.deletedBytes,
	}
}

// InternalDate is mailbox.Folder's: the modification time of the file.
func (h *handle) InternalDate(uid mailbox.UID) (date time.Time, err error) {
	err = h.file("internal date", uid, func(path string, _ *mailbox.Message) error {
		info, err := h.b.a.fs.Lstat(path)
		if err == nil {
			date = info.ModTime()
		}
		return err
	})
	return date, err
}

// Meta is mailbox.Folder's. A message that the index does not know is read
// outside of the lock.
func (h *handle) Meta(uid mailbox.UID) (*mailbox.Meta, error) {
	var known *mailbox.Meta
	var file vfs.File
	var m mailbox.Message
	err := h.file("index", uid, func(path string, found *mailbox.Message) (err error) {
		m = *found
		var is bool
		if known, is = h.f.index().Get(refBase(m.Ref)); is {
			return nil
		}
		file, err = h.b.a.fs.OpenFile(path, os.O_RDONLY, 0)
		return err
	})
	if err != nil || known != nil {
		return known, err
	}
	if known, err = h.read(file, m); err != nil {
		return nil, h.b.named("index", err)
	}
	err = h.b.do("index", func() error {
		if !h.f.gone && h.f.loaded && h.f.taken(refBase(m.Ref)) {
			h.f.learn(refBase(m.Ref), known)
		}
		return nil
	})
	return known, err
}

func (h *handle) read(file vfs.File, m mailbox.Message) (*mailbox.Meta, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	body, err := h.newBody(file, info, m)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return h.b.a.scratch.Read(body, info.ModTime())
}

// learn puts what a message holds into the index. It is derived: what cannot be
// written down is read again next time.
func (f *folder) learn(base string, meta *mailbox.Meta) {
	if err := f.index().Put(base, meta); err != nil {
		f.a.o.Log.Warn("maildir: index not written", "root", f.a.o.Root, "folder", f.name, "error", err)
	}
}

// file runs do on the path of a message.
func (h *handle) file(what string, uid mailbox.UID, do func(path string, m *mailbox.Message) error) error {
	return h.b.do(what, func() error {
		f := h.f
		if !f.loaded || f.msgs.Get(uid) == nil {
			if err := f.sync(); err != nil {
				return err
			}
		}
		if err := h.current(); err != nil {
			return err
		}
		there, err := f.chase(uid, func(m *mailbox.Message) error { return do(f.path(m.Ref), m) })
		if err == nil && !there {
			err = mailbox.ErrNoMessage
		}
		return err
	})
}

// Changed is mailbox.Folder's.
func (h *handle) Changed(version uint64) <-chan struct{} {
	a, f := h.b.a, h.f
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || h.b.closed || f.gone || f.version != version {
		done := make(chan struct{})
		close(done)
		return done
	}
	if f.wait == nil {
		f.wait = make(chan struct{})
	}
	a.watch()
	return f.wait
}
