package maildir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/keywords"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/uidlist"
)

// brokenName is where a uidlist goes that could not be believed, for the
// operator to look at.
const brokenName = uidlist.FileName + ".broken"

// message is what the memory holds of one message. One without a UID is in
// folder.fresh.
type message struct {
	uid mailbox.UID
	// file is its name, in new if isNew and else in cur; base is the length of
	// the part before the flags.
	file  string
	base  int
	isNew bool
	// fields are those of its line in the uidlist.
	fields     string
	size, wire int64
	// recent: no handle's Snapshot has shown it.
	recent bool
}

func (m *message) baseName() string { return m.file[:m.base] }

func (m *message) entry() uidlist.Entry {
	return uidlist.Entry{UID: uint32(m.uid), Fields: m.fields, Base: m.baseName()}
}

// folder is what all handles of a folder share. a.mu guards it.
type folder struct {
	a    *Account
	rel  string // its directory under Maildir
	name string
	// gone: the folder was deleted.
	gone bool
	// loaded: what follows was read from the disk. stale: it must be compared
	// with the disk whatever the times say.
	loaded, stale bool

	// measured: sizes were found that the uidlist lacks.
	measured bool

	list  *uidlist.List
	msgs  []*message // ascending by UID
	fresh []*message // without UID yet
	words keywords.Table
	// wordsFile is the keywords file as it was when words were read.
	wordsFile stamp
	// meaning remembers what letters mean; it is emptied when words change.
	meaning map[string]mailbox.Flags

	seen scanned // what the last scan, and own changes since, left
	view *mailbox.Snapshot
	// version changes with all that a Snapshot shows.
	version uint64
	// wait is closed at the next change; nil while nobody waits.
	wait chan struct{}
}

// folder gives a folder that exists.
func (a *Account) folder(folderName string) (*folder, error) {
	rel, canon, err := a.lookup(folderName)
	if err != nil {
		return nil, err
	}
	f := a.folders[rel]
	if f == nil {
		f = &folder{a: a, rel: rel, name: canon, version: a.nextVersion(), meaning: map[string]mailbox.Flags{}}
		a.folders[rel] = f
	}
	return f, nil
}

// synced gives a folder that exists, up to date.
func (a *Account) synced(folderName string) (*folder, error) {
	f, err := a.folder(folderName)
	if err != nil {
		return nil, err
	}
	return f, f.sync()
}

// path is a path in the folder.
func (f *folder) path(parts ...string) string {
	return filepath.Join(append([]string{f.a.maildir, f.rel}, parts...)...)
}

// changed says that the memory was changed as the disk was, by us.
func (f *folder) changed() {
	f.restamp()
	f.newVersion()
}

// restamp takes over the times that our own change has left.
func (f *folder) restamp() {
	now, err := f.stamps()
	if err != nil {
		f.stale = true
		return
	}
	f.seen.stamps, f.seen.since, f.seen.unconfirmed = now, f.a.o.Now(), true
}

// newVersion says that a Snapshot would show something else now.
func (f *folder) newVersion() {
	f.version = f.a.nextVersion()
	f.view = nil
	f.wake()
}

func (f *folder) wake() {
	if f.wait != nil {
		close(f.wait)
		f.wait = nil
	}
}

// sync brings the memory up to date with the disk. Afterwards every message
// has a durable UID.
func (f *folder) sync() error {
	if f.gone {
		return fmt.Errorf("folder %q: %w", f.name, mailbox.ErrNoFolder)
	}
	err := f.read()
	if err == nil {
		err = f.readWords()
	}
	if err == nil {
		err = f.number()
		if errors.Is(outOfSpace(err), mailbox.ErrNoSpace) {
			// Who wants to remove messages must be able to see them. The new
			// ones come when there is room to write down their UIDs.
			f.a.o.Log.Warn("maildir: no space to number messages", "root", f.a.o.Root, "folder", f.name, "messages", len(f.fresh))
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("folder %q: %w", f.name, err)
	}
	return nil
}

func (f *folder) read() error {
	if !f.loaded || !f.list.Intact() {
		return f.load()
	}
	if f.stale || f.outdated() {
		return f.rescan(nil)
	}
	return nil
}

// load reads the folder's files from the beginning.
func (f *folder) load() error {
	f.loaded = false
	if err := f.a.completeFolder(f.rel); err != nil {
		return err
	}
	list, entries, err := uidlist.Load(f.path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		list, err = f.renumber(uidlist.Header{})
	case errors.Is(err, uidlist.ErrCorrupt):
		f.a.o.Log.Warn("maildir: uidlist not usable", "root", f.a.o.Root, "folder", f.name, "error", err)
		if err = os.Rename(f.path(uidlist.FileName), f.path(brokenName)); err == nil {
			list, err = f.renumber(list.Header())
		}
	}
	if err != nil {
		return err
	}
	recent := map[string]bool{}
	for _, m := range append(f.msgs, f.fresh...) {
		if m.recent {
			recent[m.baseName()] = true
		}
	}
	f.list, f.msgs, f.fresh = list, nil, nil
	known := make(map[string]uidlist.Entry, len(entries))
	for _, e := range entries {
		known[e.Base] = e
	}
	if err := f.rescan(known); err != nil {
		return err
	}
	for _, m := range append(f.msgs, f.fresh...) {
		m.recent = m.recent || recent[m.baseName()]
	}
	f.loaded = true
	f.newVersion()
	return nil
}

// renumber begins a new uidlist under a higher UIDVALIDITY than any before.
func (f *folder) renumber(old uidlist.Header) (*uidlist.List, error) {
	if f.list != nil && f.list.Header().Validity > old.Validity {
		old.Validity = f.list.Header().Validity
	}
	validity, err := nextValidity(f.a.maildir, old.Validity, f.a.o.Now())
	if err != nil {
		return nil, err
	}
	if old.GUID == "" {
		old.GUID = newGUID()
	}
	f.a.o.Log.Warn("maildir: new UIDVALIDITY", "root", f.a.o.Root, "folder", f.name, "old", old.Validity, "new", validity)
	return uidlist.Create(f.path(), uidlist.Header{Validity: validity, Next: 1, GUID: old.GUID, Other: old.Other})
}

// number gives new messages their UIDs, in the order of their names.
func (f *folder) number() error {
	if len(f.fresh) > 0 {
		slices.SortFunc(f.fresh, func(a, b *message) int { return name.Compare(a.baseName(), b.baseName()) })
		entries := make([]uidlist.Entry, len(f.fresh))
		for i, m := range f.fresh {
			entries[i] = m.entry()
		}
		if err := f.give(entries); err != nil {
			return err
		}
		for i, m := range f.fresh {
			m.uid = mailbox.UID(entries[i].UID)
		}
		f.msgs = append(f.msgs, f.fresh...)
		f.fresh = nil
		f.newVersion()
	}
	if f.list.Untidy() || f.measured {
		if err := f.settle(f.list.Rewrite(f.live())); err != nil {
			return err
		}
		f.measured = false
	}
	return nil
}

// give gives entries their UIDs, durably.
func (f *folder) give(entries []uidlist.Entry) error {
	return f.settle(f.list.Add(entries, f.live))
}

// settle deals with a uidlist that could not be written.
func (f *folder) settle(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, uidlist.ErrCorrupt):
		f.loaded = false // used up: it is begun anew when it is loaded
		return err
	case !f.list.Intact():
		return f.a.doubt(err)
	}
	return err
}

// live are the entries of all numbered messages.
func (f *folder) live() []uidlist.Entry {
	all := make([]uidlist.Entry, len(f.msgs))
	for i, m := range f.msgs {
		all[i] = m.entry()
	}
	return all
}

// find gives the message with that UID, or nil.
func (f *folder) find(uid mailbox.UID) *message {
	i, ok := slices.BinarySearchFunc(f.msgs, uid, func(m *message, uid mailbox.UID) int {
		return int(int64(m.uid) - int64(uid))
	})
	if !ok {
		return nil
	}
	return f.msgs[i]
}

// pick gives those of the UIDs that exist, ascending, each once.
func (f *folder) pick(uids []mailbox.UID) []mailbox.UID {
	uids = slices.Compact(slices.Sorted(slices.Values(uids)))
	return slices.DeleteFunc(uids, func(uid mailbox.UID) bool { return f.find(uid) == nil })
}

// where is the path of a message's file.
func (f *folder) where(m *message) string {
	if m.isNew {
		return f.path("new", m.file)
	}
	return f.path("cur", m.file)
}

// chase runs do on the file of the message with that UID. If the file is not
// there, somebody else may have renamed it: the folder is scanned, and do tried
// once more; the error is ErrRenumbered if UIDs name other messages then. It
// returns nil for a message that is gone for good. Pointers to messages do not
// outlive it.
func (f *folder) chase(uid mailbox.UID, do func(m *message) error) (*message, error) {
	var err error
	validity := f.list.Header().Validity
	for range 2 {
		m := f.find(uid)
		if m == nil {
			return nil, nil
		}
		if err = do(m); !isGone(err) {
			return m, err
		}
		f.stale = true
		if err := f.sync(); err != nil {
			return nil, err
		}
		if f.list.Header().Validity != validity {
			return nil, fmt.Errorf("folder %q: %w", f.name, mailbox.ErrRenumbered)
		}
	}
	if f.find(uid) == nil {
		return nil, nil
	}
	return nil, err
}

// drop takes messages out of the memory whose files have left the folder.
func (f *folder) drop(gone []*message) {
	dead := make(map[*message]bool, len(gone))
	for _, m := range gone {
		dead[m] = true
		f.list.Forget(m.baseName())
	}
	f.msgs = slices.DeleteFunc(f.msgs, func(m *message) bool { return dead[m] })
}

// delivering runs rename, which brings file into new, and takes it into the
// memory.
func (f *folder) delivering(file string, rename func() error) error {
	before, err := f.stamps()
	intact := err == nil && before == f.seen.stamps
	if err := rename(); err != nil {
		f.stale = true
		return err
	}
	if !intact {
		f.stale = true
		f.newVersion()
		return nil
	}
	size, wire := name.Sizes(file)
	f.fresh = append(f.fresh, &message{file: file, base: len(file), isNew: true, size: size, wire: wire, recent: true})
	f.changed()
	return nil
}

// stamp tells whether a file or folder is as it was.
type stamp struct {
	inode uint64
	mtime time.Time
	size  int64
}
