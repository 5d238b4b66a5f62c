package memory

import (
	"fmt"
	"slices"
	"time"

	"waypost/backend/mailbox"
)

// folder is a folder's content; the user's lock guards it.
type folder struct {
	user        *user
	name        string
	gone        bool
	uidValidity uint32
	uidNext     mailbox.UID
	// recentFrom: messages from this UID on were seen by no handle yet.
	recentFrom mailbox.UID
	version    uint64
	changed    chan struct{} // closed at the next change
	msgs       []message     // by UID
}

type message struct {
	mailbox.Message
	date time.Time
	data []byte // LF line ends
}

func (u *user) newFolder(name string) *folder {
	u.uidValidity++
	return &folder{
		user: u, name: name, uidValidity: u.uidValidity, uidNext: 1, recentFrom: 1,
		version: 1, changed: make(chan struct{}),
	}
}

// touch tells everybody that the folder changed.
func (f *folder) touch() {
	f.version++
	close(f.changed)
	f.changed = make(chan struct{})
}

// add puts a message in under a new UID.
func (f *folder) add(m message) mailbox.UID {
	m.UID = f.uidNext
	m.Recent = false
	f.uidNext++
	f.msgs = append(f.msgs, m)
	f.touch()
	return m.UID
}

func (f *folder) append(s mailbox.Staged, flags mailbox.Flags, date time.Time) mailbox.UID {
	f.user.guid++
	return f.add(message{
		Message: mailbox.Message{
			Flags: normal(flags), Size: s.Size(), WireSize: s.WireSize(),
			GUID: fmt.Sprintf("%016x", f.user.guid),
		},
		date: date, data: s.(*staged).data,
	})
}

// normal gives keywords sorted and without repetition, in a slice of its own.
func normal(f mailbox.Flags) mailbox.Flags {
	f.Keywords = slices.Compact(slices.Sorted(slices.Values(f.Keywords)))
	return f
}

// find gives the index of uid, or -1.
func (f *folder) find(uid mailbox.UID) int {
	i, ok := slices.BinarySearchFunc(f.msgs, uid, func(m message, uid mailbox.UID) int {
		return int(int64(m.UID) - int64(uid))
	})
	if !ok {
		return -1
	}
	return i
}

// handle is an open folder.
type handle struct {
	box    *box
	folder *folder
	// The user's lock guards these.
	recent map[mailbox.UID]bool
	snap   mailbox.Snapshot // of snap.Version
}

// lockUIDs is lock for what takes UIDs: they must still be what Snapshot said.
func (h *handle) lockUIDs(op string) error {
	if err := h.lock(op); err != nil {
		return err
	}
	if v := h.snap.UIDValidity; v != 0 && v != h.folder.uidValidity {
		h.unlock()
		return fmt.Errorf("%s %q of %s: %w", op, h.folder.name, h.box.user.name, mailbox.ErrRenumbered)
	}
	return nil
}

func (h *handle) lock(op string) error {
	if err := h.box.lock(op); err != nil {
		return err
	}
	if h.folder.gone {
		h.unlock()
		return fmt.Errorf("%s %q of %s: %w", op, h.folder.name, h.box.user.name, mailbox.ErrNoFolder)
	}
	return nil
}

func (h *handle) unlock() { h.box.user.mu.Unlock() }

func (h *handle) Name() string {
	h.box.user.mu.Lock()
	defer h.unlock()
	return h.folder.name
}

func (h *handle) Snapshot() (mailbox.Snapshot, error) {
	if err := h.lock("list"); err != nil {
		return mailbox.Snapshot{}, err
	}
	defer h.unlock()
	f := h.folder
	if h.snap.Version == f.version {
		return h.snap, nil
	}
	if h.snap.UIDValidity != f.uidValidity {
		clear(h.recent)
	}
	for i := len(f.msgs) - 1; i >= 0 && f.msgs[i].UID >= f.recentFrom; i-- {
		h.recent[f.msgs[i].UID] = true
	}
	f.recentFrom = f.uidNext
	s := mailbox.Snapshot{UIDValidity: f.uidValidity, UIDNext: f.uidNext, Version: f.version}
	s.Messages = make([]mailbox.Message, len(f.msgs))
	for i := range f.msgs {
		s.Messages[i] = f.msgs[i].Message
		s.Messages[i].Recent = h.recent[f.msgs[i].UID]
		if !f.msgs[i].Flags.Has(mailbox.Seen) {
			s.Unseen++
		}
	}
	h.snap = s
	return s, nil
}

func (h *handle) Status() (mailbox.Status, error) {
	if err := h.lock("status of"); err != nil {
		return mailbox.Status{}, err
	}
	defer h.unlock()
	f := h.folder
	s := mailbox.Status{UIDValidity: f.uidValidity, UIDNext: f.uidNext, Messages: len(f.msgs)}
	for i := range f.msgs {
		m := &f.msgs[i]
		s.Bytes += m.WireSize
		if !m.Flags.Has(mailbox.Seen) {
			s.Unseen++
		}
		if m.Flags.Has(mailbox.Deleted) {
			s.Deleted++
		}
		if m.UID >= f.recentFrom {
			s.Recent++
		}
	}
	return s, nil
}

func (h *handle) Changed(version uint64) <-chan struct{} {
	h.box.user.mu.Lock()
	defer h.unlock()
	if h.folder.version == version {
		return h.folder.changed
	}
	now := make(chan struct{})
	close(now)
	return now
}

func (h *handle) InternalDate(uid mailbox.UID) (time.Time, error) {
	if err := h.lockUIDs("date in"); err != nil {
		return time.Time{}, err
	}
	defer h.unlock()
	i := h.folder.find(uid)
	if i < 0 {
		return time.Time{}, h.noMessage("date", uid)
	}
	return h.folder.msgs[i].date, nil
}

func (h *handle) noMessage(op string, uid mailbox.UID) error {
	return fmt.Errorf("%s of message %d in %q of %s: %w", op, uid, h.folder.name, h.box.user.name, mailbox.ErrNoMessage)
}

func (h *handle) Open(uid mailbox.UID) (mailbox.Body, error) {
	if err := h.lockUIDs("open message in"); err != nil {
		return nil, err
	}
	defer h.unlock()
	i := h.folder.find(uid)
	if i < 0 {
		return nil, h.noMessage("open", uid)
	}
	m := h.folder.msgs[i]
	return &body{data: m.data, wire: m.WireSize}, nil
}

func (h *handle) SetFlags(uids []mailbox.UID, op mailbox.FlagOp, flags mailbox.Flags) ([]mailbox.Message, error) {
	if err := h.lockUIDs("flags in"); err != nil {
		return nil, err
	}
	defer h.unlock()
	var out []mailbox.Message
	changed := false
	for _, uid := range uids {
		i := h.folder.find(uid)
		if i < 0 {
			continue
		}
		m := &h.folder.msgs[i]
		next := apply(m.Flags, op, flags)
		changed = changed || !next.Equal(m.Flags)
		m.Flags = next
		now := m.Message
		now.Recent = h.recent[uid]
		out = append(out, now)
	}
	if changed {
		h.folder.touch()
	}
	return out, nil
}

// apply makes the flags after an operation; the slices of both stay as they are.
func apply(old mailbox.Flags, op mailbox.FlagOp, f mailbox.Flags) mailbox.Flags {
	switch op {
	case mailbox.FlagsAdd:
		old.System |= f.System
		old.Keywords = slices.Concat(old.Keywords, f.Keywords)
	case mailbox.FlagsRemove:
		old.System &^= f.System
		old.Keywords = slices.DeleteFunc(slices.Clone(old.Keywords), func(k string) bool {
			return slices.Contains(f.Keywords, k)
		})
	default:
		old = f
	}
	return normal(old)
}

func (h *handle) Expunge(uids []mailbox.UID) ([]mailbox.UID, error) {
	if err := h.lockUIDs("expunge in"); err != nil {
		return nil, err
	}
	defer h.unlock()
	return h.folder.remove(uids), nil
}

func (h *handle) ExpungeDeleted(uids []mailbox.UID) ([]mailbox.UID, error) {
	if err := h.lockUIDs("expunge in"); err != nil {
		return nil, err
	}
	defer h.unlock()
	var marked []mailbox.UID
	for _, uid := range uids {
		if i := h.folder.find(uid); i >= 0 && h.folder.msgs[i].Flags.Has(mailbox.Deleted) {
			marked = append(marked, uid)
		}
	}
	return h.folder.remove(marked), nil
}

// remove takes messages out and returns those that were there.
func (f *folder) remove(uids []mailbox.UID) []mailbox.UID {
	want := make(map[mailbox.UID]bool, len(uids))
	for _, uid := range uids {
		want[uid] = true
	}
	var gone []mailbox.UID
	kept := make([]message, 0, len(f.msgs))
	for _, m := range f.msgs {
		if want[m.UID] {
			gone = append(gone, m.UID)
		} else {
			kept = append(kept, m)
		}
	}
	if len(gone) > 0 {
		f.msgs = kept
		f.touch()
	}
	return gone
}

func (h *handle) Copy(uids []mailbox.UID, to string) (mailbox.CopyResult, error) {
	if err := h.lockUIDs("copy in"); err != nil {
		return mailbox.CopyResult{}, err
	}
	defer h.unlock()
	return h.copyTo(uids, to, true)
}

func (h *handle) Move(uids []mailbox.UID, to string) (mailbox.CopyResult, error) {
	if err := h.lockUIDs("move in"); err != nil {
		return mailbox.CopyResult{}, err
	}
	defer h.unlock()
	r, err := h.copyTo(uids, to, false)
	if err == nil {
		h.folder.remove(r.Source)
	}
	return r, err
}

func (h *handle) copyTo(uids []mailbox.UID, to string, more bool) (mailbox.CopyResult, error) {
	dest := h.box.user.folders[to]
	if dest == nil {
		return mailbox.CopyResult{}, fmt.Errorf("copy to %q of %s: %w", to, h.box.user.name, mailbox.ErrNoFolder)
	}
	var bytes int64
	msgs := make([]message, len(uids))
	for n, uid := range uids {
		i := h.folder.find(uid)
		if i < 0 {
			return mailbox.CopyResult{}, h.noMessage("copy", uid)
		}
		msgs[n] = h.folder.msgs[i]
		bytes += msgs[n].Size
	}
	if more {
		if err := h.box.user.fits(bytes, int64(len(msgs))); err != nil {
			return mailbox.CopyResult{}, err
		}
	}
	r := mailbox.CopyResult{UIDValidity: dest.uidValidity, Source: slices.Clone(uids)}
	for _, m := range msgs {
		if more {
			h.box.user.guid++
			m.GUID = fmt.Sprintf("%016x", h.box.user.guid)
		}
		r.Dest = append(r.Dest, dest.add(m))
	}
	return r, nil
}
