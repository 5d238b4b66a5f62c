package memory

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"waypost/backend/index"
	"waypost/backend/mailbox"
)

// handle is an open folder.
type handle struct {
	box    *box
	folder *folder
	// uidValidity is the last Snapshot's, or 0. The user's lock guards it.
	uidValidity uint32
}

// lockUIDs is lock for what takes UIDs: they must still be what Snapshot said.
func (h *handle) lockUIDs(op string) error {
	if err := h.lock(op); err != nil {
		return err
	}
	if h.uidValidity != 0 && h.uidValidity != h.folder.uidValidity {
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
	s := h.look()
	h.folder.recentFrom = h.folder.uidNext
	return s, nil
}

func (h *handle) Peek() (mailbox.Snapshot, error) {
	if err := h.lock("look at"); err != nil {
		return mailbox.Snapshot{}, err
	}
	defer h.unlock()
	return h.look(), nil
}

// look gives the folder as it is. The caller holds the lock.
func (h *handle) look() mailbox.Snapshot {
	f := h.folder
	s := mailbox.Snapshot{
		ID: f.id, UIDValidity: f.uidValidity, UIDNext: f.uidNext, HighestModSeq: f.modSeq, Messages: f.msgs,
		Unseen: f.unseen, Keywords: f.keywords, Version: f.version,
	}
	first, _ := f.msgs.Find(f.recentFrom)
	for _, m := range f.msgs.From(first) {
		s.Recent = append(s.Recent, m.UID)
	}
	h.uidValidity = f.uidValidity
	return s
}

func (h *handle) Status() (mailbox.Status, error) {
	if err := h.lock("status of"); err != nil {
		return mailbox.Status{}, err
	}
	defer h.unlock()
	f := h.folder
	s := mailbox.Status{
		ID: f.id, UIDValidity: f.uidValidity, UIDNext: f.uidNext, HighestModSeq: f.modSeq, Messages: f.msgs.Len(), Unseen: f.unseen,
	}
	for _, m := range f.msgs.All() {
		s.Bytes += m.WireSize
		if m.Flags.Has(mailbox.Deleted) {
			s.Deleted++
			s.DeletedBytes += m.WireSize
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

// content finds a message. The caller holds the lock.
func (h *handle) content(op string, uid mailbox.UID) (*content, error) {
	c := h.folder.contents[uid]
	if c == nil {
		return nil, fmt.Errorf("%s message %d in %q of %s: %w", op, uid, h.folder.name, h.box.user.name, mailbox.ErrNoMessage)
	}
	return c, nil
}

func (h *handle) InternalDate(uid mailbox.UID) (time.Time, error) {
	if err := h.lockUIDs("date in"); err != nil {
		return time.Time{}, err
	}
	defer h.unlock()
	c, err := h.content("date of", uid)
	if err != nil {
		return time.Time{}, err
	}
	return c.date, nil
}

func (h *handle) Meta(uid mailbox.UID) (*mailbox.Meta, error) {
	if err := h.lockUIDs("look into"); err != nil {
		return nil, err
	}
	defer h.unlock()
	c, err := h.content("look into", uid)
	if err != nil {
		return nil, err
	}
	if c.meta == nil {
		if c.meta, err = index.Read(bytes.NewReader(c.wire), c.date); err != nil {
			return nil, fmt.Errorf("look into message %d in %q of %s: %w", uid, h.folder.name, h.box.user.name, err)
		}
	}
	return c.meta, nil
}

func (h *handle) Open(uid mailbox.UID) (mailbox.Body, error) {
	if err := h.lockUIDs("open message in"); err != nil {
		return nil, err
	}
	defer h.unlock()
	c, err := h.content("open", uid)
	if err != nil {
		return nil, err
	}
	return body{bytes.NewReader(c.wire)}, nil
}

func (h *handle) SetFlags(uids []mailbox.UID, c mailbox.FlagChange) (mailbox.FlagResult, error) {
	if err := h.lockUIDs("flags in"); err != nil {
		return mailbox.FlagResult{}, err
	}
	defer h.unlock()
	return h.folder.setFlags(uids, c), nil
}

func (h *handle) SaveDate(uid mailbox.UID) (time.Time, error) {
	if err := h.lockUIDs("save date in"); err != nil {
		return time.Time{}, err
	}
	defer h.unlock()
	_, err := h.content("save date of", uid)
	return h.folder.saved[uid], err
}

func (h *handle) EmailID(uid mailbox.UID) (string, error) {
	if err := h.lockUIDs("email id in"); err != nil {
		return "", err
	}
	defer h.unlock()
	c, err := h.content("email id of", uid)
	if err != nil {
		return "", err
	}
	return c.id, nil
}

func (h *handle) ExpungedSince(modSeq uint64) (uids []mailbox.UIDRange, complete bool, err error) {
	if err := h.lockUIDs("expunges in"); err != nil {
		return nil, false, err
	}
	defer h.unlock()
	var gone []mailbox.UID
	for _, x := range h.folder.history {
		if x.modSeq > modSeq {
			gone = append(gone, x.uid)
		}
	}
	slices.Sort(gone)
	for _, uid := range gone {
		if n := len(uids); n > 0 && uids[n-1].Last+1 == uid {
			uids[n-1].Last = uid
			continue
		}
		uids = append(uids, mailbox.UIDRange{First: uid, Last: uid})
	}
	return uids, modSeq >= h.folder.forgot, nil
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
		if m := h.folder.msgs.Get(uid); m != nil && m.Flags.Has(mailbox.Deleted) {
			marked = append(marked, uid)
		}
	}
	return h.folder.remove(marked), nil
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

// copyTo copies messages; more: as further ones, which the quota must hold and
// which have names of their own.
func (h *handle) copyTo(uids []mailbox.UID, to string, more bool) (mailbox.CopyResult, error) {
	u, f := h.box.user, h.folder
	dest := u.folders[to]
	if dest == nil {
		return mailbox.CopyResult{}, fmt.Errorf("copy to %q of %s: %w", to, u.name, mailbox.ErrNoFolder)
	}
	var size int64
	for _, uid := range uids {
		if _, err := h.content("copy", uid); err != nil {
			return mailbox.CopyResult{}, err
		}
		size += f.msgs.Get(uid).Size
	}
	if more {
		if err := u.fits(size, int64(len(uids))); err != nil {
			return mailbox.CopyResult{}, err
		}
	}
	r := mailbox.CopyResult{UIDValidity: dest.uidValidity, Source: slices.Clone(uids)}
	e := dest.msgs.Edit()
	for _, uid := range uids {
		m := *f.msgs.Get(uid)
		if more {
			u.guid++
			m.GUID = u.lastGUID()
		}
		r.Dest = append(r.Dest, dest.add(e, m, f.contents[uid]))
	}
	if len(uids) > 0 {
		dest.commit(e)
	}
	return r, nil
}
