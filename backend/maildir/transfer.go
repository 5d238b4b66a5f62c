package maildir

import (
	"errors"
	"os"
	"slices"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/uidlist"
)

// Expunge is mailbox.Folder's. If a file cannot be removed, those before it are
// gone nevertheless; the result names them.
func (h *handle) Expunge(uids []mailbox.UID) ([]mailbox.UID, error) {
	return h.expunge(uids, func(*message) bool { return true })
}

// ExpungeDeleted is mailbox.Folder's.
func (h *handle) ExpungeDeleted(uids []mailbox.UID) ([]mailbox.UID, error) {
	return h.expunge(uids, func(m *message) bool { return h.f.flags(m.letters()).Has(mailbox.Deleted) })
}

func (h *handle) expunge(uids []mailbox.UID, doomed func(*message) bool) (removed []mailbox.UID, err error) {
	err = h.b.change("expunge", func() error {
		if err := h.sync(); err != nil {
			return err
		}
		removed, err = h.f.expunge(uids, doomed)
		return err
	})
	return removed, err
}

// expunge removes those of uids that are doomed when their turn comes.
func (f *folder) expunge(uids []mailbox.UID, doomed func(*message) bool) (removed []mailbox.UID, err error) {
	open, err := f.a.openDirectories(f.path(), "cur", "new")
	if err != nil {
		return nil, err
	}
	defer closeAll(open)
	var gone []*message
	var bytes int64
	touched := 1
	for _, uid := range f.pick(uids) {
		var m *message
		remove := false
		m, err = f.chase(uid, func(m *message) error {
			if remove = doomed(m); !remove {
				return nil
			}
			return os.Remove(f.where(m))
		})
		if err != nil {
			break
		}
		if m == nil || !remove {
			continue
		}
		if m.isNew {
			touched = 2
		}
		gone, removed = append(gone, m), append(removed, uid)
		bytes += m.size
	}
	if len(gone) == 0 {
		return nil, err
	}
	f.drop(gone)
	f.changed()
	f.a.addUsage(-bytes, -int64(len(gone)))
	return removed, errors.Join(err, syncAll(open[:touched]))
}

// Copy is mailbox.Folder's.
func (h *handle) Copy(uids []mailbox.UID, to string) (result mailbox.CopyResult, err error) {
	err = h.b.change("copy", func() error {
		g, err := h.destination(to)
		if err != nil {
			return err
		}
		result, err = h.f.copyTo(g, uids)
		return err
	})
	return result, err
}

// destination gives the folder to, and brings both folders up to date.
func (h *handle) destination(to string) (*folder, error) {
	if err := h.sync(); err != nil {
		return nil, err
	}
	return h.b.a.synced(to)
}

func (f *folder) copyTo(g *folder, uids []mailbox.UID) (mailbox.CopyResult, error) {
	uids = f.pick(uids)
	var bytes int64
	for _, uid := range uids {
		bytes += f.find(uid).size
	}
	if err := f.a.fits(bytes, int64(len(uids))); err != nil {
		return mailbox.CopyResult{}, err
	}
	var all []arrival
	var sources []mailbox.UID
	var given claims
	for _, uid := range uids {
		in := arrival{}
		m, err := f.chase(uid, func(m *message) (err error) {
			in, err = f.linkInto(g, m, &given)
			return err
		})
		if err != nil {
			return mailbox.CopyResult{}, errors.Join(err, g.abandon(all))
		}
		if m != nil {
			all, sources = append(all, in), append(sources, uid)
		}
	}
	return g.take(all, sources)
}

// linkInto gives m a second name in the tmp of g.
func (f *folder) linkInto(g *folder, m *message, given *claims) (arrival, error) {
	letters, err := f.translate(g, m.letters(), given)
	if err != nil {
		return arrival{}, err
	}
	in := arrival{letters: letters, size: m.size, wire: m.wire}
	in.entry.Base = name.WithSizes(f.a.names.Next(), m.size, m.wire)
	return in, link(f.where(m), g.path("tmp", in.entry.Base))
}

// abandon removes what was linked into tmp.
func (f *folder) abandon(all []arrival) (err error) {
	for _, in := range all {
		err = errors.Join(err, os.Remove(f.path("tmp", in.entry.Base)))
	}
	return err
}

// take admits arrivals and pairs their UIDs with those at the source.
func (f *folder) take(all []arrival, sources []mailbox.UID) (mailbox.CopyResult, error) {
	if len(all) > 0 {
		if err := f.admit(all); err != nil {
			return mailbox.CopyResult{}, err
		}
	}
	result := mailbox.CopyResult{UIDValidity: f.list.Header().Validity, Source: sources}
	for _, in := range all {
		result.Dest = append(result.Dest, mailbox.UID(in.entry.UID))
	}
	return result, nil
}

// translate gives the letters that mean in g what letters mean here. Capitals
// mean the same everywhere; small letters without a meaning are left behind.
func (f *folder) translate(g *folder, letters string, given *claims) (string, error) {
	if f == g {
		return letters, nil
	}
	var capitals []byte
	for _, l := range []byte(letters) {
		if l < 'a' || l > 'z' {
			capitals = append(capitals, l)
		}
	}
	words, err := g.letters(f.flags(letters).Keywords, true, given)
	return name.Letters(string(capitals) + words), err
}

// Move is mailbox.Folder's. The files keep their names, and so their GUIDs.
func (h *handle) Move(uids []mailbox.UID, to string) (result mailbox.CopyResult, err error) {
	err = h.b.change("move", func() error {
		g, err := h.destination(to)
		if err != nil {
			return err
		}
		if g == h.f {
			result, err = g.renew(uids)
		} else {
			result, err = h.f.moveTo(g, uids)
		}
		return err
	})
	return result, err
}

func (f *folder) moveTo(g *folder, uids []mailbox.UID) (mailbox.CopyResult, error) {
	sources := f.pick(uids)
	open, err := f.a.openDirectories(f.path(), "cur", "new")
	if err != nil {
		return mailbox.CopyResult{}, err
	}
	defer closeAll(open)
	taken := map[string]bool{}
	for _, m := range slices.Concat(g.msgs, g.fresh) {
		taken[m.baseName()] = true
	}
	var all []arrival
	var moved []*message
	var given claims
	for _, uid := range sources {
		m := f.find(uid)
		letters, err := f.translate(g, m.letters(), &given)
		if err != nil {
			return mailbox.CopyResult{}, err
		}
		entry := m.entry()
		entry.UID = 0
		if taken[entry.Base] {
			entry.Base = name.WithSizes(f.a.names.Next(), m.size, m.wire)
		}
		all = append(all, arrival{entry: entry, letters: letters, size: m.size, wire: m.wire, from: f.where(m)})
		moved = append(moved, m)
	}
	result, err := g.take(all, sources)
	if err != nil {
		// Some may have left, or been renamed by others: look.
		f.stale = true
		return mailbox.CopyResult{}, err
	}
	if len(moved) == 0 {
		return result, nil
	}
	f.drop(moved)
	f.changed()
	// The new names are synced already: a crash shows both, or the new one.
	return result, syncAll(open)
}

// renew is a move into the same folder: new UIDs, and nothing else.
func (f *folder) renew(uids []mailbox.UID) (mailbox.CopyResult, error) {
	result := mailbox.CopyResult{UIDValidity: f.list.Header().Validity, Source: f.pick(uids)}
	var moved []*message
	var entries []uidlist.Entry
	for _, uid := range result.Source {
		m := f.find(uid)
		moved, entries = append(moved, m), append(entries, m.entry())
	}
	f.drop(moved)
	if err := f.give(entries); err != nil {
		f.loaded = false
		return mailbox.CopyResult{}, err
	}
	for i, m := range moved {
		m.uid = mailbox.UID(entries[i].UID)
		result.Dest = append(result.Dest, m.uid)
	}
	f.msgs = append(f.msgs, moved...)
	f.newVersion()
	return result, nil
}
