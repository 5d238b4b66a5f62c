package maildir

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"waypost/backend/journal"
	"waypost/backend/mailbox"
	"waypost/backend/maildir/subscriptions"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
)

const (
	subscriptionsName = "subscriptions"
	// folderMark is an empty file that says "part of a Maildir++"; delivery
	// agents find the quota log one level up by it.
	folderMark = "maildirfolder"
)

// Folders is mailbox.Box's.
func (b *box) Folders() (list []mailbox.FolderInfo, err error) {
	err = b.do("list folders", func() error {
		rels, err := b.a.directories()
		if err != nil {
			return err
		}
		subscribed, err := b.a.subscriptions()
		if err != nil {
			return err
		}
		list = describe(rels, subscribed)
		b.a.addUses(rels, list)
		return nil
	})
	return list, err
}

// describe makes the listing: INBOX first, the others by name, with the parents
// that have no directory of their own.
func describe(rels, subscribed []string) []mailbox.FolderInfo {
	all := map[string]*mailbox.FolderInfo{mailbox.Inbox: {Name: mailbox.Inbox}}
	for _, rel := range rels {
		if folder, ok := folderOf(rel); ok {
			all[folder] = &mailbox.FolderInfo{Name: folder}
		}
	}
	for _, rel := range rels {
		folder, _ := folderOf(rel)
		for {
			i := strings.LastIndexByte(folder, mailbox.Separator)
			if i < 0 {
				break
			}
			folder = folder[:i]
			if all[folder] == nil {
				all[folder] = &mailbox.FolderInfo{Name: folder, NoSelect: true}
			}
			all[folder].HasChildren = true
		}
	}
	for _, folder := range subscribed {
		if all[folder] != nil {
			all[folder].Subscribed = true
		}
	}
	list := make([]mailbox.FolderInfo, 0, len(all))
	for _, info := range all {
		list = append(list, *info)
	}
	slices.SortFunc(list, func(x, y mailbox.FolderInfo) int {
		if (x.Name == mailbox.Inbox) != (y.Name == mailbox.Inbox) {
			if x.Name == mailbox.Inbox {
				return -1
			}
			return 1
		}
		return strings.Compare(x.Name, y.Name)
	})
	return list
}

// addUses puts special uses into a listing.
func (a *Account) addUses(rels []string, list []mailbox.FolderInfo) {
	uses := map[string]string{}
	for _, rel := range rels {
		folder, _ := folderOf(rel)
		use, err := a.useOf(rel)
		if err != nil {
			a.o.Log.Warn("maildir: special use not known", "root", a.o.Root, "folder", folder, "error", err)
		}
		uses[folder] = use
	}
	for i := range list {
		list[i].SpecialUse = uses[list[i].Name]
	}
	a.o.Uses.Mark(list)
}

// CreateFolder is mailbox.Box's.
func (b *box) CreateFolder(folder, use string) error {
	return b.write("create folder", func() error {
		_, err := b.a.makeFolder(folder, use)
		return err
	})
}

// makeFolder makes a folder under a hidden name and then names it, so that it is
// whole or not there.
func (a *Account) makeFolder(folder, use string) (rel string, err error) {
	if _, _, err := a.lookup(folder); err == nil {
		return "", fmt.Errorf("folder %q: %w", folder, mailbox.ErrFolderExists)
	} else if !errors.Is(err, mailbox.ErrNoFolder) {
		return "", err
	}
	folder, err = canonical(folder)
	if err != nil {
		return "", err
	}
	if rel, err = newDirectory(folder, a.o.UTF8Folders); err != nil {
		return "", err
	}
	rels, err := a.directories()
	if err != nil {
		return "", err
	}
	if len(rels) >= a.o.MaxFolders {
		return "", fmt.Errorf("folder %q: %d there already: %w", folder, len(rels), mailbox.ErrTooManyFolders)
	}
	if use != "" {
		if use, err = mailbox.ParseUse(use); err == nil {
			err = a.useFree(use, rel)
		}
		if err != nil {
			return "", fmt.Errorf("folder %q: %w", folder, err)
		}
	}
	hidden := a.dir(hiddenPrefix + "new." + a.names.Next())
	if err := a.furnish(hidden, use); err != nil {
		return "", errors.Join(err, a.fs.RemoveAll(hidden))
	}
	if err := a.settle(); err != nil {
		return "", errors.Join(err, a.fs.RemoveAll(hidden))
	}
	if err := a.fs.Rename(hidden, a.dir(rel)); err != nil {
		return "", errors.Join(err, a.fs.RemoveAll(hidden))
	}
	a.notedFolder(rel)
	if err := a.fs.SyncDir(a.maildir); err != nil {
		a.unsure[a.dir(rel)] = true // taken back, a crash may bring it back, empty
		if noDescriptor(err) && a.fs.Rename(a.dir(rel), hidden) == nil {
			a.relocated(rel, filepath.Base(hidden))
			return "", errors.Join(err, a.fs.RemoveAll(hidden))
		}
		return "", a.doubt(err)
	}
	a.forgetUse(rel)
	a.feed.Listing()
	// The record tells replay that what it says of a folder of that name, up to
	// here, is about another one.
	return rel, a.noteFolder(op{kind: opMakeDir, dir: rel})
}

// noteFolder journals a change of a folder, and waits for it. Everything before
// it is in the files.
func (a *Account) noteFolder(ops ...op) error {
	r, err := a.logFolder(ops...)
	r.applied()
	return err
}

// logFolder is noteFolder for a change that is still to be made: the caller says
// when it was applied.
func (a *Account) logFolder(ops ...op) (*record, error) {
	r := a.log(a.epoch, ops, nil)
	if err := r.wait(); err != nil {
		return r, a.doubt(err)
	}
	return r, nil
}

func (a *Account) furnish(dir, use string) error {
	for _, sub := range subfolders {
		if err := vfs.MkdirAll(a.fs, dir+"/"+sub, 0o700); err != nil {
			return err
		}
	}
	if err := vfs.CreateFile(a.fs, dir+"/"+folderMark, nil, 0o600); err != nil {
		return err
	}
	validity, err := nextValidity(a.fs, a.maildir, 0, a.o.Now())
	if err != nil {
		return err
	}
	h := uidlist.Header{Validity: validity, Next: 1, GUID: newGUID()}
	if use != "" {
		if err := a.markUse(stateOf(dir, h), use); err != nil {
			return err
		}
	}
	// This syncs dir with all that is in it.
	_, err = uidlist.Create(a.fs, dir, h)
	return err
}

// DeleteFolder is mailbox.Box's. A folder with children stays as their parent,
// without messages (RFC 9051, Section 6.3.5).
func (b *box) DeleteFolder(folder string) error {
	var hidden string
	err := b.write("delete folder", func() (err error) {
		hidden, err = b.a.deleteFolder(folder)
		return err
	})
	if err != nil {
		return err
	}
	// Many files take long to remove. Nobody looks at the hidden name, so that
	// the user's lock need not wait for it.
	if err := b.a.fs.RemoveAll(hidden); err != nil {
		b.a.o.Log.Warn("maildir: deleted folder not removed; the next recovery does it", "root", b.a.o.Root, "error", err)
	}
	return nil
}

// deleteFolder gives a folder a hidden name, durably, under which the caller
// removes it.
func (a *Account) deleteFolder(folder string) (hidden string, err error) {
	rel, _, err := a.lookup(folder)
	if err != nil {
		return "", err
	}
	if rel == "" {
		return "", fmt.Errorf("folder %q: %w", mailbox.Inbox, mailbox.ErrBadName)
	}
	// Messages that have left the folder may still be in it on the disk.
	if err := a.flushNames(); err != nil {
		return "", err
	}
	held, err := countFolder(a.fs, a.dir(rel))
	if err != nil {
		return "", err
	}
	steps := []renameStep{{from: rel, to: hiddenPrefix + "deleted." + a.names.Next()}}
	if err := a.renameDirectories(steps); err != nil {
		return "", err
	}
	if f := a.folders[rel]; f != nil {
		f.gone = true
		f.close()
		f.newVersion()
		delete(a.folders, rel)
		delete(a.unwritten, f)
	}
	a.forgetUse(rel)
	a.feed.Listing()
	a.addUsage(-held.Bytes, -held.Messages)
	return a.dir(steps[0].to), nil
}

// flushNames makes all names of messages durable.
func (a *Account) flushNames() error {
	if err := a.settle(); err != nil {
		return err
	}
	if err := a.syncRest(); err != nil {
		return err
	}
	// What is put off is unapplied, and may stay so: its lines name no message.
	if err := a.o.Journal.Flush(string(a.o.User)); err != nil && !errors.Is(err, journal.ErrUnapplied) {
		return a.doubtSync(err)
	}
	return nil
}

// RenameFolder is mailbox.Box's.
func (b *box) RenameFolder(from, to string) error {
	return b.write("rename folder", func() error {
		source, err := canonical(from)
		if err != nil {
			return err
		}
		target, err := canonical(to)
		if err != nil {
			return err
		}
		if source == mailbox.Inbox {
			return b.a.renameInbox(target)
		}
		return b.a.renameFolder(source, target)
	})
}

// renameInbox moves the messages of INBOX into a new folder; INBOX stays (RFC
// 9051, Section 6.3.6).
func (a *Account) renameInbox(to string) error {
	inbox, err := a.synced(mailbox.Inbox)
	if err != nil {
		return err
	}
	if _, err := a.makeFolder(to, ""); err != nil {
		return err
	}
	g, err := a.synced(to)
	if err != nil {
		return err
	}
	var uids []mailbox.UID
	for _, m := range inbox.msgs.All() {
		uids = append(uids, m.UID)
	}
	_, err = inbox.moveTo(g, uids)
	return err
}

func (a *Account) renameFolder(from, to string) error {
	if to == mailbox.Inbox {
		return fmt.Errorf("folder %q: %w", to, mailbox.ErrFolderExists)
	}
	if to == from || strings.HasPrefix(to, from+string(mailbox.Separator)) {
		return fmt.Errorf("folder %q into %q: %w", from, to, mailbox.ErrBadName)
	}
	steps, err := a.renameSteps(from, to)
	if err != nil {
		return err
	}
	// Paths that the journal remembers for Flush are about to change.
	if err := a.flushNames(); err != nil {
		return err
	}
	if err := a.renameDirectories(steps); err != nil {
		return err
	}
	a.feed.Listing()
	for _, s := range steps {
		a.forgetUse(s.from)
		a.forgetUse(s.to)
		if f := a.folders[s.from]; f != nil {
			f.close()
			delete(a.folders, s.from)
			f.rel, f.name, f.loaded = s.to, s.name, false
			a.folders[s.to] = f
		}
	}
	return nil
}

// renameDirectories does all of the steps or none, durably. Replay goes on with
// them if they are the last folder operation.
func (a *Account) renameDirectories(steps []renameStep) error {
	ops := make([]op, len(steps))
	for i, s := range steps {
		ops[i] = op{kind: opRenameDir, fromDir: s.from, dir: s.to}
	}
	r, err := a.logFolder(ops...)
	defer r.applied()
	if err != nil {
		return err
	}
	for i, s := range steps {
		if err := a.fs.Rename(a.dir(s.from), a.dir(s.to)); err != nil {
			return errors.Join(err, a.renameBack(steps, i))
		}
		a.relocated(s.from, s.to)
	}
	if err := a.fs.SyncDir(a.maildir); err != nil {
		if noDescriptor(err) {
			return errors.Join(err, a.renameBack(steps, len(steps)))
		}
		a.unsure[a.dir(steps[0].to)] = true
		return a.doubt(err)
	}
	return nil
}

// renameBack takes back the first done of steps, and what the journal says of all.
func (a *Account) renameBack(steps []renameStep, done int) error {
	a.unsure[a.dir(steps[0].to)] = true // a crash may leave what is taken back
	var ops []op
	for i, s := range slices.Backward(steps) {
		ops = append(ops, op{kind: opRenameDir, fromDir: s.to, dir: s.from})
		if i >= done {
			continue
		}
		if err := a.fs.Rename(a.dir(s.to), a.dir(s.from)); err != nil {
			return a.doubt(err)
		}
		a.disturbed() // of one that is no folder for a moment all was forgotten
	}
	return a.noteFolder(ops...)
}

// renameStep is the rename of one directory.
type renameStep struct{ from, to, name string }

// renameSteps lists the renames of a folder and its children: ErrNoFolder if
// there are none, ErrFolderExists if one of the new names is taken.
func (a *Account) renameSteps(from, to string) ([]renameStep, error) {
	rels, err := a.directories()
	if err != nil {
		return nil, err
	}
	var steps []renameStep
	for _, rel := range rels {
		folder, _ := folderOf(rel)
		rest, ok := strings.CutPrefix(folder, from)
		if !ok || rest != "" && rest[0] != mailbox.Separator {
			continue
		}
		target, err := newDirectory(to+rest, a.o.UTF8Folders)
		if err != nil {
			return nil, err
		}
		if _, _, err := a.lookup(to + rest); err == nil {
			return nil, fmt.Errorf("folder %q: %w", to+rest, mailbox.ErrFolderExists)
		} else if !errors.Is(err, mailbox.ErrNoFolder) {
			return nil, err
		}
		steps = append(steps, renameStep{rel, target, to + rest})
	}
	if len(steps) == 0 {
		return nil, fmt.Errorf("folder %q: %w", from, mailbox.ErrNoFolder)
	}
	return steps, nil
}

// Subscriptions is mailbox.Box's.
func (b *box) Subscriptions() (list []string, err error) {
	err = b.do("subscriptions", func() error {
		list, err = b.a.subscriptions()
		return err
	})
	return list, err
}

func (a *Account) subscriptions() ([]string, error) {
	data, err := vfs.ReadFile(a.fs, a.dir(subscriptionsName))
	if isGone(err) {
		return nil, nil
	}
	return subscriptions.Parse(data, mailbox.Separator), err
}

// Subscribe is mailbox.Box's.
func (b *box) Subscribe(folder string, on bool) error {
	return b.write("subscribe", func() error {
		list, err := b.a.subscriptions()
		if err != nil {
			return err
		}
		// What others have subscribed to may have a name that we would refuse;
		// it must be possible to be rid of it.
		if i := slices.Index(list, folder); i < 0 || on {
			if folder, err = canonical(folder); err != nil {
				return err
			}
			if _, _, err := b.a.lookup(folder); err != nil && !errors.Is(err, mailbox.ErrNoFolder) {
				return err
			}
		}
		i := slices.Index(list, folder)
		switch {
		case on == (i >= 0):
			if !b.a.unsure[b.a.dir(subscriptionsName)] {
				return nil
			}
		case on:
			list = append(list, folder)
		default:
			list = slices.Delete(list, i, i+1)
		}
		b.a.feed.Listing()
		return b.a.replace(b.a.dir(subscriptionsName), subscriptions.Format(list, mailbox.Separator))
	})
}
