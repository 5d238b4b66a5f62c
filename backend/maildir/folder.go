package maildir

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/backend/maildir/keywords"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
)

// brokenName is where a uidlist goes that could not be believed, for the
// operator to look at.
const brokenName = uidlist.FileName + ".broken"

// unnumbered is a message that has no UID yet.
type unnumbered struct {
	ref        string
	fields     string
	size, wire int64
	recent     bool
	// delivered: by this process, so that its name tells when.
	delivered bool
}

// ref is the place of a message's file in the folder, "cur/<file>" or
// "new/<file>": what mailbox.Message.Ref is here.
func refOf(isNew bool, file string) string {
	if isNew {
		return "new/" + file
	}
	return "cur/" + file
}

func refIsNew(ref string) bool { return ref[0] == 'n' }

func refName(ref string) name.Name {
	n, _ := name.Parse(ref[len("cur/"):])
	return n
}

// refBase is refName's Base.
func refBase(ref string) string {
	base, _, _ := strings.Cut(ref[len("cur/"):], ":")
	return base
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
	// untold: what others removed is in the state and in the memory, but it is not
	// durable, and nobody was told.
	untold bool

	// measured: sizes were found that the uidlist lacks.
	measured bool

	list  *uidlist.List
	state *state.State
	meta  *index.Index // nil until somebody asks
	// msgs are the numbered messages; fields those of their lines in the uidlist
	// that have any.
	msgs   mailbox.Messages
	fields map[mailbox.UID]string
	fresh  []unnumbered
	// marks are those that messages have; beyond counts the messages that have a
	// keyword there.
	marks  map[mailbox.UID]marks
	beyond map[string]int
	// vocabulary are the keywords of words and beyond, sorted; nil until somebody asks. It
	// is shared, and never changed.
	vocabulary []string
	// bases are those of msgs, nil until somebody asks.
	bases map[string]struct{}
	// numbering: the UIDs of fresh are in the journal. promised is how many UIDs
	// are in the journal and not in the list yet.
	numbering bool
	promised  uint32
	// recent are the messages that no Snapshot has shown.
	recent []mailbox.UID
	// unseen, deleted, deletedBytes and wireBytes are sums over msgs.
	unseen, deleted         int
	deletedBytes, wireBytes int64

	words keywords.Table
	// wordsFile is the keywords file as it was when words were read.
	wordsFile stamp
	// meaning remembers what letters mean; it is emptied when words change.
	meaning map[string]mailbox.Flags

	// latest is the record of the last change that was made at once, nil once
	// somebody has waited for it.
	latest *record
	// expunging is the last expunge that the state has not been told of, or nil.
	expunging *commit

	seen scanned // what the last scan, and own changes since, left
	// foreign is when a scan last found what others had changed.
	foreign time.Time
	// viewUnsure: when the view on the disk was saved, the scan was unconfirmed.
	viewUnsure bool
	// version changes with all that a Snapshot shows; viewed is that of the view on the
	// disk.
	version, viewed uint64
	// viewSaved is when a view was last written, and viewTook how long that took.
	viewSaved time.Time
	viewTook  time.Duration
	// wait is closed at the next change; nil while nobody waits.
	wait chan struct{}
	// noted: the feed has been told that others have changed the folder. known:
	// it was loaded before.
	noted, known bool
}

// folder gives a folder that exists.
func (a *Account) folder(folderName string) (*folder, error) {
	rel, canon, err := a.lookup(folderName)
	if err != nil {
		return nil, err
	}
	return a.folderAt(rel, canon), nil
}

func (a *Account) folderAt(rel, canon string) *folder {
	f := a.folders[rel]
	if f == nil {
		f = &folder{a: a, rel: rel, name: canon, version: a.nextVersion(), meaning: map[string]mailbox.Flags{}}
		a.folders[rel] = f
	}
	return f
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

// newVersion says that a Snapshot would show other messages now.
func (f *folder) newVersion() {
	f.step()
	if f.known && !f.gone {
		f.a.feed.Messages(f.name)
	}
}

// step says that a Snapshot would show something else now.
func (f *folder) step() {
	f.version = f.a.nextVersion()
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
	if err := f.a.unstick(); err != nil {
		// What is on the disk is a step that is half done. What was before it is
		// still true, for who only looks.
		if f.loaded {
			return nil
		}
		return fmt.Errorf("folder %q: %w", f.name, err)
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
		return f.rescan(nil, nil)
	}
	if f.untold {
		return f.syncForeign()
	}
	return nil
}

// salvageGap is how many UIDs are skipped behind damage.
const salvageGap = 1000

// load reads the folder's files from the beginning.
func (f *folder) load() error {
	f.loaded = false
	if err := f.a.completeFolder(f.rel); err != nil {
		return err
	}
	recent := f.recentBases()
	switch err := f.loadView(recent); {
	case err == nil:
		f.isLoaded()
		if len(f.fresh) == 0 {
			f.viewed, f.viewUnsure = f.version, f.seen.unconfirmed
		}
		return nil
	case !errors.Is(err, errView):
		return err
	}
	list, entries, err := uidlist.Load(f.a.fs, f.path())
	switch {
	case err == nil && f.a.unsure[f.path(uidlist.FileName)]:
		err = list.Rewrite(entries)
	case errors.Is(err, fs.ErrNotExist):
		list, err = f.renumber(uidlist.Header{})
	case errors.Is(err, uidlist.ErrCorrupt):
		f.a.o.Log.Warn("maildir: uidlist not usable", "root", f.a.o.Root, "folder", f.name, "error", err)
		if err = f.a.fs.Rename(f.path(uidlist.FileName), f.path(brokenName)); err == nil {
			list, err = f.renumber(list.Header())
		}
	}
	if err == nil && list.Salvaged() {
		// Whoever wrote this was not the journal's user. UIDs of lines that are
		// lost must not be given again.
		f.a.o.Log.Warn("maildir: uidlist damaged", "root", f.a.o.Root, "folder", f.name)
		entries, err = list.Ensure(entries, nil, list.Header().Next+salvageGap)
	}
	if err != nil {
		f.a.unsure[f.path(uidlist.FileName)] = true
		return err
	}
	delete(f.a.unsure, f.path(uidlist.FileName))
	f.list = list
	if err = f.loadState(); err != nil {
		return err
	}
	f.empty()
	if err = f.ensureID(); err != nil {
		return err
	}
	f.readMarks()
	plain, err := f.loadFiles(entries, recent)
	if err == nil && !plain {
		known := make(map[string]uidlist.Entry, len(entries))
		for _, e := range entries {
			known[e.Base] = e
		}
		err = f.rescan(known, recent)
	}
	if err != nil {
		return err
	}
	f.isLoaded()
	return nil
}

func (f *folder) isLoaded() {
	f.loaded = true
	f.newVersion()
	f.known = true
}

// empty drops the messages from the memory.
func (f *folder) empty() {
	f.msgs, f.fresh, f.recent = mailbox.Messages{}, nil, nil
	f.fields, f.bases = map[mailbox.UID]string{}, nil
	f.marks, f.beyond, f.vocabulary = map[mailbox.UID]marks{}, map[string]int{}, nil
	f.unseen, f.deleted, f.deletedBytes, f.wireBytes = 0, 0, 0, 0
}

func (f *folder) recentBases() map[string]bool {
	recent := map[string]bool{}
	for _, uid := range f.recent {
		if m := f.msgs.Get(uid); m != nil {
			recent[refBase(m.Ref)] = true
		}
	}
	for _, m := range f.fresh {
		if m.recent {
			recent[refBase(m.ref)] = true
		}
	}
	return recent
}

// close gives back what the folder holds of the disk, and wakes who waits.
func (f *folder) close() {
	f.saveView()
	f.doubtState()
	if f.meta != nil {
		err := f.compactIndex()
		if err = errors.Join(err, f.meta.Close()); err != nil {
			f.a.o.Log.Warn("maildir: index not closed in order", "root", f.a.o.Root, "folder", f.name, "error", err)
		}
		f.meta = nil
	}
	f.loaded = false
	f.wake()
}

// compactIndex writes the index anew if most of it is about messages that are gone.
func (f *folder) compactIndex() error {
	if !f.loaded || f.gone || !f.meta.Wasteful(f.msgs.Len()) {
		return nil
	}
	return f.meta.Compact(f.taken)
}

// renumber begins a new uidlist under a higher UIDVALIDITY than any before.
func (f *folder) renumber(old uidlist.Header) (*uidlist.List, error) {
	if f.list != nil && f.list.Header().Validity > old.Validity {
		old.Validity = f.list.Header().Validity
	}
	validity, err := nextValidity(f.a.fs, f.a.maildir, old.Validity, f.a.o.Now())
	if err != nil {
		return nil, err
	}
	if old.GUID == "" {
		old.GUID = newGUID()
	}
	f.a.o.Log.Warn("maildir: new UIDVALIDITY", "root", f.a.o.Root, "folder", f.name, "old", old.Validity, "new", validity)
	return uidlist.Create(f.a.fs, f.path(), uidlist.Header{Validity: validity, Next: 1, GUID: old.GUID, Other: old.Other})
}

// number gives new messages their UIDs, in the order of their names.
func (f *folder) number() error {
	if f.numbering {
		return f.a.settle()
	}
	if len(f.fresh) > 0 {
		if err := f.numberFresh(); err != nil {
			return err
		}
	}
	if f.list.Untidy() || f.measured {
		if err := f.settle(f.list.Rewrite(f.live())); err != nil {
			return err
		}
		f.measured = false
	}
	return nil
}

func (f *folder) numberFresh() error {
	f.sortFresh()
	// Commits before this one may number messages, too.
	if err := f.a.settle(); err != nil {
		return err
	}
	first, err := f.promise(len(f.fresh))
	if err != nil {
		return err
	}
	dates := make([]int64, len(f.fresh))
	for i := range f.fresh {
		dates[i] = f.saved(&f.fresh[i])
	}
	saves := f.saveOps(first, dates)
	ops := make([]op, len(f.fresh), len(f.fresh)+len(saves))
	for i := range ops {
		m, o := &f.fresh[i], &ops[i]
		o.kind, o.dir, o.base, o.fields, o.uid = opNumber, f.rel, refBase(m.ref), m.fields, uint32(first)+uint32(i)
	}
	f.numbering = true
	queued, err := f.commitNow(f.bookkeeping(), len(ops), &commit{
		ops: append(ops, saves...), apply: func() error { return f.numbered(ops, saves) },
	})
	f.numbering = f.numbering && queued
	return err
}

// sortFresh brings the fresh messages into the order in which they get UIDs, and their names into
// memory in that order.
func (f *folder) sortFresh() {
	name.Sort(f.fresh, func(m unnumbered) string { return refBase(m.ref) })
	refs := make([]string, len(f.fresh))
	for i := range refs {
		refs[i] = f.fresh[i].ref
	}
	together(refs)
	for i, ref := range refs {
		f.fresh[i].ref = ref
	}
}

// lastUID leaves room to notice in time that the UIDs are used up.
const lastUID = math.MaxUint32 - 1<<20

// promise takes the next n UIDs, which the caller's commit gives to messages.
func (f *folder) promise(n int) (first mailbox.UID, err error) {
	next := uint64(f.list.Header().Next) + uint64(f.promised)
	if next+uint64(n) > lastUID {
		f.loaded = false // used up: it is begun anew when it is loaded
		return 0, fmt.Errorf("folder %q: %w: no UIDs left", f.name, uidlist.ErrCorrupt)
	}
	f.promised += uint32(n)
	return mailbox.UID(next), nil
}

// numbered puts into the list and the memory what numberFresh has journaled.
func (f *folder) numbered(ops, saves []op) error {
	changed, err := f.state.NextModSeq()
	if err != nil {
		return err
	}
	if err := f.enlist(ops); err != nil {
		return err
	}
	f.numbering = false
	e := f.msgs.Edit()
	var later []unnumbered // no op is about these
	fresh := f.findFresh(ops)
	for i := range ops {
		o, m := &ops[i], fresh(i)
		if m == nil || m.ref == "" {
			f.list.Forget(o.base)
			continue
		}
		f.add(e, f.message(mailbox.UID(o.uid), *m, changed), m.fields, m.recent)
		m.ref = "" // it is taken
	}
	f.msgs = e.Done()
	for _, m := range f.fresh {
		if m.ref != "" {
			later = append(later, m)
		}
	}
	f.fresh = later
	f.stateArrived(changed, ops, saves, nil)
	f.newVersion()
	return nil
}

// findFresh gives the fresh message of each of ops, nil if there is none any more. They were made
// from one list in one order, which seldom has changed meanwhile.
func (f *folder) findFresh(ops []op) func(i int) *unnumbered {
	at := func(i int) *unnumbered { return &f.fresh[i] }
	same := len(f.fresh) >= len(ops)
	for i := 0; same && i < len(ops); i++ {
		same = refBase(f.fresh[i].ref) == ops[i].base
	}
	if same {
		return at
	}
	places := make(map[string]int, len(f.fresh))
	for i := range f.fresh {
		places[refBase(f.fresh[i].ref)] = i
	}
	return func(i int) *unnumbered {
		if place, is := places[ops[i].base]; is {
			return at(place)
		}
		return nil
	}
}

// enlist appends the UIDs that ops promise to the list.
func (f *folder) enlist(ops []op) error {
	entries := make([]uidlist.Entry, len(ops))
	for i := range ops {
		entries[i] = ops[i].entry()
	}
	if err := f.settle(f.list.Add(entries, f.live)); err != nil {
		return err
	}
	for i := range ops {
		if entries[i].UID != ops[i].uid {
			return f.a.doubt(fmt.Errorf("folder %q: UID %d was promised and %d given", f.name, ops[i].uid, entries[i].UID))
		}
	}
	f.promised -= uint32(len(ops))
	return nil
}

// settle deals with a uidlist that could not be written.
func (f *folder) settle(err error) error {
	if err != nil && !f.list.Intact() {
		return f.a.doubt(err)
	}
	return err
}

// bookkeeping are the files that every numbering touches.
func (f *folder) bookkeeping() []string {
	return []string{f.path(uidlist.FileName), f.path(state.FileName)}
}

// live are the entries of all numbered messages.
func (f *folder) live() []uidlist.Entry {
	all := make([]uidlist.Entry, 0, f.msgs.Len())
	for _, m := range f.msgs.All() {
		all = append(all, f.entry(m))
	}
	return all
}

func (f *folder) entry(m *mailbox.Message) uidlist.Entry {
	return uidlist.Entry{UID: uint32(m.UID), Fields: f.fields[m.UID], Base: refBase(m.Ref)}
}

// pick gives those of the UIDs that exist, ascending, each once.
func (f *folder) pick(uids []mailbox.UID) []mailbox.UID {
	uids = slices.Compact(slices.Sorted(slices.Values(uids)))
	return slices.DeleteFunc(uids, func(uid mailbox.UID) bool { return f.msgs.Get(uid) == nil })
}

// chase runs do on the message with that UID. If its file is not there, somebody
// else may have renamed it: the folder is scanned, and do tried once more; the
// error is ErrRenumbered if UIDs name other messages then. It reports false for
// a message that is gone for good.
func (f *folder) chase(uid mailbox.UID, do func(m *mailbox.Message) error) (there bool, err error) {
	validity := f.list.Header().Validity
	for range 2 {
		m := f.msgs.Get(uid)
		if m == nil {
			return false, nil
		}
		if err = do(m); !isGone(err) {
			return true, err
		}
		f.stale = true
		if err := f.sync(); err != nil {
			return false, err
		}
		if f.list.Header().Validity != validity {
			return false, fmt.Errorf("folder %q: %w", f.name, mailbox.ErrRenumbered)
		}
	}
	if f.msgs.Get(uid) == nil {
		return false, nil
	}
	return true, err
}

// stamp tells whether a file or folder is as it was.
type stamp struct {
	inode uint64
	mtime time.Time
	size  int64
}
