package maildir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"waypost/backend/journal"
	"waypost/backend/maildir/deliveries"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
	"waypost/director"
	"waypost/internal/vfs"
)

// Replayer brings folded records about. All fields must be set; nobody may
// have a mailbox open.
type Replayer struct {
	FS vfs.FS
	// Incoming is the folder of the Stager.
	Incoming string
	// Read gives a record's data.
	Read   func(journal.LSN) ([]byte, error)
	Outbox Outbox
	Log    *slog.Logger
	Now    func() time.Time

	// written has a name of each body that is in some tree by now.
	written map[bodyAt]string
}

// bodyAt is a body with a modification time, which all its names share.
type bodyAt struct {
	bodyRef
	at int64
}

// Apply brings about what the records of u say of the tree at root. It syncs
// nothing: the journal keeps its records until all is synced (journal.Start).
// It may be called again after a crash, with the same records. A tree that is
// not there is left so: whoever removed it knew why.
func (p *Replayer) Apply(r *Replay, u director.User, root string) error {
	f := r.users[u]
	if f == nil {
		return nil
	}
	if p.written == nil {
		p.written = map[bodyAt]string{}
	}
	t := treeReplay{Replayer: p, user: u, root: root, maildir: filepath.Join(root, maildirName)}
	there, err := isDirectory(p.FS, t.maildir)
	if err == nil && !there {
		p.Log.Warn("maildir: the journal has records of a mailbox that is not there", "user", u, "root", root)
		return nil
	}
	if err == nil {
		err = t.apply(f)
	}
	if err != nil {
		return fmt.Errorf("replay the journal for %s: %w", u, err)
	}
	return nil
}

// treeReplay is one user's.
type treeReplay struct {
	*Replayer
	user          director.User
	root, maildir string
	// files are the messages on the disk, by folder and base; a base may have
	// several names.
	files map[*dirFold]map[string][]found
	// linked are the folders in which files have got other names.
	linked map[*dirFold]bool
}

func (t *treeReplay) apply(f *userFold) error {
	if err := t.folders(f); err != nil {
		return err
	}
	t.files, t.linked = map[*dirFold]map[string][]found{}, map[*dirFold]bool{}
	dirs := make([]*dirFold, 0, len(f.folders))
	for rel, d := range f.folders {
		if !strings.HasPrefix(rel, hiddenPrefix) {
			dirs = append(dirs, d)
		}
	}
	slices.SortFunc(dirs, func(a, b *dirFold) int { return strings.Compare(a.rel, b.rel) })
	for _, d := range dirs {
		if err := t.list(d); err != nil {
			return err
		}
	}
	// First all that is to be there gets its place, then what is not to be there
	// goes: it may be the first name of a copy.
	for _, pass := range []bool{true, false} {
		for d := range t.linked {
			if err := t.FS.SyncDir(t.path(d, "cur")); err != nil {
				return err
			}
		}
		for _, d := range dirs {
			for _, base := range d.order {
				if m := d.msgs[base]; m.present == pass {
					if err := t.settleMessage(d, base, m); err != nil {
						return fmt.Errorf("folder %q: message %s: %w", d.rel, base, err)
					}
				}
			}
		}
	}
	for _, d := range dirs {
		if err := t.numbers(d); err != nil {
			return fmt.Errorf("folder %q: %w", d.rel, err)
		}
	}
	return t.userFiles(f)
}

// folders does again what of the last folder operation is not done.
func (t *treeReplay) folders(f *userFold) error {
	for _, o := range f.lastFolder {
		if o.kind != opRenameDir {
			continue
		}
		there, err := isDirectory(t.FS, t.dir(o.dir))
		if err == nil && !there {
			err = t.FS.Rename(t.dir(o.fromDir), t.dir(o.dir))
		}
		if err != nil && !isGone(err) {
			return err
		}
	}
	return nil
}

func (t *treeReplay) dir(rel string) string { return filepath.Join(t.maildir, rel) }

// list reads which messages a folder has. A folder that has lost its subfolders,
// or itself, gets them again: the journal has messages for it.
func (t *treeReplay) list(d *dirFold) error {
	files := map[string][]found{}
	t.files[d] = files
	for _, sub := range subfolders {
		if err := vfs.MkdirAll(t.FS, filepath.Join(t.dir(d.rel), sub), 0o700); err != nil {
			return err
		}
	}
	for _, sub := range []string{"cur", "new"} {
		err := eachMessage(t.FS, filepath.Join(t.dir(d.rel), sub), func(file string, n name.Name) error {
			files[n.Base] = append(files[n.Base], found{n, file, sub == "new"})
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *treeReplay) path(d *dirFold, ref string) string { return filepath.Join(t.dir(d.rel), ref) }

// settleMessage brings about one message.
func (t *treeReplay) settleMessage(d *dirFold, base string, m *msgFold) error {
	have := t.files[d][base]
	if !m.present {
		return t.removeAll(d, base, have)
	}
	want := refOf(m.inNew, fileName(m.inNew, base, m.letters))
	if len(have) > 0 {
		first := have[0]
		if !m.known || m.inNew && !first.isNew && first.Flags == "" {
			want = refOf(first.isNew, first.file) // it was taken from new to cur
		}
		if m.known && !refIsNew(want) && !strings.HasSuffix(want, first.Extra) {
			want += first.Extra
		}
	}
	switch {
	case m.file.body != nil:
		// Whatever bytes an unsynced file may have: the journal has the right ones.
		if err := t.write(d, base, want, *m.file.body); err != nil {
			return err
		}
	case len(have) > 0:
		if err := t.rename(t.path(d, refOf(have[0].isNew, have[0].file)), t.path(d, want)); err != nil {
			return err
		}
	case !m.known:
		// No record has changed it: it was removed, by others or by an expunge that
		// nobody was told of.
		return nil
	default:
		if there, err := t.fetch(m.file, t.path(d, want)); err != nil || !there {
			return err
		}
		t.linked[d] = true
	}
	for _, x := range have {
		if ref := refOf(x.isNew, x.file); ref != want {
			if err := t.FS.Remove(t.path(d, ref)); err != nil && !isGone(err) {
				return err
			}
		}
	}
	n, _ := name.Parse(want[len("cur/"):])
	t.files[d][base] = []found{{n, want[len("cur/"):], refIsNew(want)}}
	return nil
}

func (t *treeReplay) rename(from, to string) error {
	if from == to {
		return nil
	}
	return t.FS.Rename(from, to)
}

func (t *treeReplay) removeAll(d *dirFold, base string, have []found) error {
	for _, x := range have {
		if err := t.FS.Remove(t.path(d, refOf(x.isNew, x.file))); err != nil && !isGone(err) {
			return err
		}
	}
	delete(t.files[d], base)
	return nil
}

// fetch gives another name to a file that was on the disk before, under one of
// the names it had; those that it is not to have any more go in the second pass.
func (t *treeReplay) fetch(file *fileFold, path string) (there bool, err error) {
	for _, at := range slices.Backward(file.names) {
		if from, there := t.find(at); there {
			return true, t.FS.Link(from, path)
		}
	}
	// Somebody else has removed it.
	t.Log.Warn("maildir: journaled message not on the disk", "user", t.user, "file", path)
	return false, nil
}

func (t *treeReplay) find(at namedIn) (path string, there bool) {
	for _, x := range t.files[at.dir][at.base] {
		path := t.path(at.dir, refOf(x.isNew, x.file))
		if _, err := t.FS.Lstat(path); err == nil {
			return path, true
		}
	}
	return "", false
}

// write makes a message's file from its body.
func (t *treeReplay) write(d *dirFold, base, ref string, o op) error {
	tmp := filepath.Join(t.dir(d.rel), "tmp", base)
	if err := t.FS.Remove(tmp); err != nil && !isGone(err) {
		return err
	}
	if err := t.body(o, tmp); err != nil {
		return err
	}
	to := t.path(d, ref)
	// A rename between two names of one file does nothing.
	if err := t.FS.Remove(to); err != nil && !isGone(err) {
		return err
	}
	if err := t.FS.Rename(tmp, to); err != nil {
		return err
	}
	t.written[bodyAt{o.body, o.at.UnixNano()}] = to
	return nil
}

// body makes a file of a body, or another name of one made before.
func (t *treeReplay) body(o op, path string) error {
	if first := t.written[bodyAt{o.body, o.at.UnixNano()}]; first != "" {
		if err := t.FS.Link(first, path); err == nil {
			return nil
		}
	}
	src, err := t.source(o.body)
	if err != nil {
		return err
	}
	f, err := t.FS.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return errors.Join(err, src.Close())
	}
	_, err = io.Copy(f, src)
	if err == nil {
		err = f.SetModTime(o.at)
	}
	return errors.Join(err, f.Close(), src.Close())
}

// source reads a body where it is.
func (t *treeReplay) source(b bodyRef) (io.ReadCloser, error) {
	if b.file != "" {
		return t.FS.OpenFile(filepath.Join(t.Incoming, b.file), os.O_RDONLY, 0)
	}
	data, err := t.Read(b.lsn)
	if err == nil && int64(len(data)) != b.size {
		err = fmt.Errorf("journal record %d has %d bytes, not the %d of the message", b.lsn, len(data), b.size)
	}
	return io.NopCloser(bytes.NewReader(data)), err
}

// numbers makes sure of the UIDs, and that who asks what has changed is told of
// all that the journal has: lines of the state may be lost. It gives them a new
// mod-sequence, over all that were given out.
func (t *treeReplay) numbers(d *dirFold) error {
	dir := t.dir(d.rel)
	if err := t.asOnDisk(filepath.Join(dir, uidlist.FileName), filepath.Join(dir, state.FileName)); err != nil {
		return err
	}
	list, have, err := uidlist.Load(t.FS, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, uidlist.ErrCorrupt):
		// It is begun anew, under another UIDVALIDITY, when the folder is opened.
		return nil
	case err != nil:
		return err
	}
	all, err := list.Ensure(have, d.uids, d.next)
	if err != nil {
		return err
	}
	s, err := state.Load(t.FS, stateOf(dir, list.Header()), t.Now(), true)
	if err != nil {
		return err
	}
	modseq, err := s.NextModSeq()
	if err != nil {
		return err
	}
	var changed, gone []uint32
	last := make(map[string]uint32, len(all))
	for _, e := range all {
		last[e.Base] = e.UID
	}
	for _, e := range slices.Concat(have, d.uids) {
		if last[e.Base] != e.UID {
			gone = append(gone, e.UID) // it was numbered anew
		}
	}
	for base, m := range d.msgs {
		uid := last[base]
		switch {
		case uid == 0:
		case m.present:
			changed = append(changed, uid)
		default:
			gone = append(gone, uid)
		}
	}
	for _, e := range d.uids {
		if last[e.Base] == e.UID && d.msgs[e.Base] == nil {
			changed = append(changed, e.UID)
		}
	}
	records := []state.Record{state.Change(modseq, changed...), state.Expunge(modseq, gone...)}
	return s.Ensure(slices.Concat(records, d.annotations(s, modseq, last))...)
}

// asOnDisk has these files read as the disk has them. A flush that failed, for which
// the process before ended, may have left of them more to be seen; to find there what
// the journal has, and leave it at that, would be to lose it.
func (t *treeReplay) asOnDisk(paths ...string) error {
	for _, path := range paths {
		if err := vfs.DropCache(t.FS, path); err != nil {
			return err
		}
	}
	return nil
}

// userFiles brings about what is the user's and no folder's. The quota is
// counted anew when the mailbox is opened.
func (t *treeReplay) userFiles(f *userFold) error {
	err := t.FS.Remove(filepath.Join(t.maildir, quotaName))
	if err != nil && !isGone(err) {
		return err
	}
	deliveriesPath, memoriesPath := filepath.Join(t.root, deliveriesName), filepath.Join(t.root, memoriesName)
	if err := t.asOnDisk(deliveriesPath, memoriesPath); err != nil {
		return err
	}
	if len(f.delivered) > 0 {
		log, err := deliveries.Open(t.FS, deliveriesPath, deliveries.Keep, t.Now())
		if err == nil {
			err = log.Ensure(f.delivered)
		}
		if err != nil {
			return err
		}
	}
	if len(f.memories) > 0 {
		memory, err := deliveries.OpenMemory(t.FS, memoriesPath, t.Now())
		if err == nil {
			err = memory.Ensure(f.memories)
		}
		if err != nil {
			return err
		}
	}
	for _, o := range f.outbound {
		link := func(path string) error { return t.body(o, path) }
		if err := t.Outbox.Put(t.user, o.out, link); err != nil {
			return err
		}
	}
	return nil
}
