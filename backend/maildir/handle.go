package maildir

import (
	"fmt"
	"os"
	"slices"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
)

// handle is one open folder of one Box. b.a.mu guards all but b, f and name.
type handle struct {
	b    *box
	f    *folder
	name string
	// validity is the UIDVALIDITY of the last Snapshot, 0 before the first;
	// recent are the messages, under it, that this handle saw first.
	validity uint32
	recent   map[mailbox.UID]struct{}
	// own is the shared view with Recent set; nil when it is to be made.
	own *mailbox.Snapshot
}

var _ mailbox.Folder = (*handle)(nil)

func (h *handle) Name() string { return h.name }

// Snapshot is mailbox.Folder's. It moves new messages to cur: this handle is
// the first that shows them.
func (h *handle) Snapshot() (s mailbox.Snapshot, err error) {
	err = h.b.do("list folder", func() error {
		if err := h.f.sync(); err != nil {
			return err
		}
		h.f.collect()
		h.claim()
		s = *h.snapshot()
		return nil
	})
	return s, err
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

// collect moves messages from new to cur. It is not synced: after a crash they
// are in one of the two. What cannot be moved stays.
func (f *folder) collect() {
	moved := false
	for _, m := range f.msgs {
		if !m.isNew {
			continue
		}
		n, _ := name.Parse(m.file)
		file := n.String()
		err := os.Rename(f.where(m), f.path("cur", file))
		if err != nil {
			f.a.o.Log.Warn("maildir: message not moved to cur", "root", f.a.o.Root, "folder", f.name, "file", m.file, "error", err)
			f.stale = f.stale || isGone(err)
			continue
		}
		m.file, m.isNew, moved = file, false, true
	}
	if moved {
		f.a.unsynced[f.rel] = true
		f.restamp()
	}
}

// syncCollected makes durable what collect has done.
func (a *Account) syncCollected() error {
	for rel := range a.unsynced {
		open, err := a.openDirectories(a.dir(rel), "cur", "new")
		if err == nil {
			err = syncAll(open)
			closeAll(open)
		}
		// A folder that was renamed or deleted meanwhile: that was synced.
		if err != nil && !isGone(err) {
			return err
		}
		delete(a.unsynced, rel)
	}
	return nil
}

// claim makes the messages that no handle has shown recent for this one.
func (h *handle) claim() {
	if v := h.f.list.Header().Validity; v != h.validity {
		clear(h.recent)
		h.validity, h.own = v, nil
	}
	for _, m := range h.f.msgs {
		if m.recent {
			m.recent = false
			h.recent[m.uid] = struct{}{}
			h.own = nil
		}
	}
}

// snapshot gives the folder's view, or a copy where this handle has recent
// messages.
func (h *handle) snapshot() *mailbox.Snapshot {
	shared := h.f.snapshot()
	if len(h.recent) == 0 {
		return shared
	}
	if h.own != nil && h.own.Version == shared.Version {
		return h.own
	}
	mine := *shared
	mine.Messages = slices.Clone(shared.Messages)
	still := make(map[mailbox.UID]struct{}, len(h.recent))
	for i := range mine.Messages {
		uid := mine.Messages[i].UID
		if _, is := h.recent[uid]; is {
			mine.Messages[i].Recent = true
			still[uid] = struct{}{}
		}
	}
	h.recent, h.own = still, &mine
	return h.own
}

// snapshot gives the view that all handles share, made anew after changes.
func (f *folder) snapshot() *mailbox.Snapshot {
	if f.view != nil {
		return f.view
	}
	header := f.list.Header()
	s := &mailbox.Snapshot{
		UIDValidity: header.Validity, UIDNext: mailbox.UID(header.Next), Version: f.version,
		Messages: make([]mailbox.Message, len(f.msgs)),
	}
	for i, m := range f.msgs {
		s.Messages[i] = f.show(m)
		if !s.Messages[i].Flags.Has(mailbox.Seen) {
			s.Unseen++
		}
	}
	f.view = s
	return s
}

// show is a message as clients see it. An older POP3 UIDL that the uidlist
// keeps stands before the GUID, so that POP3 clients know their messages again.
func (f *folder) show(m *message) mailbox.Message {
	guid := name.Unique(m.baseName())
	if m.fields != "" {
		e := m.entry()
		if g, ok := e.Field('G'); ok && g != "" {
			guid = g
		}
		if p, ok := e.Field('P'); ok && p != "" {
			guid = p
		}
	}
	return mailbox.Message{UID: m.uid, Flags: f.flags(m.letters()), Size: m.size, WireSize: m.wire, GUID: guid}
}

func (h *handle) show(m *message) mailbox.Message {
	shown := h.f.show(m)
	_, shown.Recent = h.recent[m.uid]
	return shown
}

// Status is mailbox.Folder's. New messages get UIDs, and stay in new.
func (h *handle) Status() (s mailbox.Status, err error) {
	err = h.b.do("status", func() error {
		if err := h.f.sync(); err != nil {
			return err
		}
		s = h.f.status()
		return nil
	})
	return s, err
}

func (f *folder) status() mailbox.Status {
	header := f.list.Header()
	s := mailbox.Status{UIDValidity: header.Validity, UIDNext: mailbox.UID(header.Next), Messages: len(f.msgs)}
	for _, m := range f.msgs {
		flags := f.flags(m.letters())
		if !flags.Has(mailbox.Seen) {
			s.Unseen++
		}
		if flags.Has(mailbox.Deleted) {
			s.Deleted++
		}
		if m.recent {
			s.Recent++
		}
		s.Bytes += m.wire
	}
	return s
}

// InternalDate is mailbox.Folder's: the modification time of the file.
func (h *handle) InternalDate(uid mailbox.UID) (date time.Time, err error) {
	err = h.file("internal date", uid, func(path string, _ *message) error {
		info, err := os.Stat(path)
		if err == nil {
			date = info.ModTime()
		}
		return err
	})
	return date, err
}

// file runs do on the path of a message.
func (h *handle) file(what string, uid mailbox.UID, do func(path string, m *message) error) error {
	return h.b.do(what, func() error {
		f := h.f
		if !f.loaded || f.find(uid) == nil {
			if err := f.sync(); err != nil {
				return err
			}
		}
		if err := h.current(); err != nil {
			return err
		}
		m, err := f.chase(uid, func(m *message) error { return do(f.where(m), m) })
		if err == nil && m == nil {
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
