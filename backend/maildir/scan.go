package maildir

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/lineend"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
)

const (
	// granularity is how close two changes of a folder may be that its
	// modification time does not tell apart; generous, for network file systems.
	granularity = 2 * time.Second
	// restFactor bounds the share of time that is spent on scans whose only
	// reason is granularity: one of restFactor, in folders that others change.
	// In those that only we have changed for foreignMemory, a foreign change is
	// missed only if it is the first, came within a moment of one of ours, and
	// none came after it: there it is one of ownRestFactor, so that a change now
	// and then does not cost a scan each.
	restFactor    = 200
	ownRestFactor = 20_000
	foreignMemory = time.Hour
	// maxUnconfirmed is how long own changes, one after the other, may put
	// such a scan off.
	maxUnconfirmed = time.Minute
)

// scanned is what is known of the last look at cur and new.
type scanned struct {
	stamps [2]stamp
	// at and took are the scan's; since is the time of the last own change.
	at, since time.Time
	took      time.Duration
	// unconfirmed: a foreign change may hide behind the modification times.
	// recent: those were too recent at the scan.
	unconfirmed, recent bool
}

// found is a file of a scan.
type found struct {
	name.Name
	file  string
	isNew bool
}

func (a *Account) stampOf(path string) (stamp, error) {
	info, err := a.fs.Lstat(path)
	if err != nil {
		return stamp{}, err
	}
	s := stamp{mtime: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = st.Ino
	}
	if !info.IsDir() {
		s.size = info.Size()
	}
	return s, nil
}

// stamps are those of cur and new.
func (f *folder) stamps() (s [2]stamp, err error) {
	if s[0], err = f.a.stampOf(f.path("cur")); err != nil {
		return s, err
	}
	s[1], err = f.a.stampOf(f.path("new"))
	return s, err
}

// outdated tells whether the disk may differ from the memory.
func (f *folder) outdated() bool {
	now, err := f.stamps()
	if err != nil || now != f.seen.stamps {
		return true
	}
	return f.seen.overdue(f.foreign, f.a.o.Now())
}

// overdue tells whether it is time to look for what may hide behind the modification
// times. foreign is when a scan last found what others had changed.
func (s *scanned) overdue(foreign, clock time.Time) bool {
	if !s.unconfirmed {
		return false
	}
	age := clock.Sub(s.at)
	quiet := clock.Sub(s.since) >= granularity || age >= maxUnconfirmed
	factor := time.Duration(ownRestFactor)
	if s.recent || clock.Sub(foreign) < foreignMemory {
		factor = restFactor
	}
	return quiet && age >= max(granularity, factor*s.took)
}

// rescan compares the folder's files with the memory. known are the entries of
// a uidlist that was just read; nil if the memory has them. recent are the bases
// of messages that are recent still.
func (f *folder) rescan(known map[string]uidlist.Entry, recent map[string]bool) error {
	f.stale, f.noted = false, false // what happens from here on may set it again
	err := f.scan(known, recent)
	if err != nil {
		f.stale = true
	}
	return err
}

func (f *folder) scan(known map[string]uidlist.Entry, recent map[string]bool) error {
	before, err := f.stamps()
	if err != nil {
		return f.missing(err)
	}
	start := f.a.o.Now()
	files, err := f.readFiles()
	if err != nil {
		return f.missing(err)
	}
	recently := func(s stamp) bool { return start.Sub(s.mtime) < granularity }
	unconfirmed := recently(before[0]) || recently(before[1])
	if f.anyMissing(files, known) {
		// A file that was renamed during the scan may have been passed over
		// under both names.
		after, err := f.stamps()
		if err != nil {
			return f.missing(err)
		}
		if unconfirmed || after != before {
			again, err := f.readFiles()
			if err != nil {
				return f.missing(err)
			}
			maps.Copy(files, again)
		}
	}
	changed, err := f.apply(files, known, recent)
	if err != nil {
		return err
	}
	if changed {
		f.newVersion()
		if f.loaded {
			f.foreign = start
			f.a.disturbed()
		}
	}
	f.seen = scanned{
		stamps: before, at: start, since: start, took: f.a.o.Now().Sub(start),
		unconfirmed: unconfirmed, recent: unconfirmed,
	}
	return nil
}

// missing turns the error of a scan into ErrNoFolder if the folder is gone.
func (f *folder) missing(err error) error {
	if !isGone(err) {
		return err
	}
	if there, statErr := isDirectory(f.a.fs, f.path()); statErr == nil && !there && f.rel != "" {
		return mailbox.ErrNoFolder
	}
	f.loaded = false
	return err
}

// readFiles lists cur and new by base. Where two files have one base it makes
// sure that this is not a rename under way, and then gives one another name.
func (f *folder) readFiles() (map[string]found, error) {
	files, twice, err := f.listFiles()
	if err != nil || len(twice) == 0 {
		return files, err
	}
	files, twice, err = f.listFiles()
	for _, extra := range twice {
		if err != nil {
			return nil, err
		}
		err = f.separate(files, extra)
	}
	return files, err
}

func (f *folder) listFiles() (files map[string]found, twice []found, err error) {
	files = make(map[string]found, f.msgs.Len()+len(f.fresh))
	for _, sub := range []string{"cur", "new"} {
		err := f.a.eachMessage(f.path(sub), func(file string, n name.Name) error {
			this := found{n, file, sub == "new"}
			if _, is := files[n.Base]; is {
				twice = append(twice, this)
			} else {
				files[n.Base] = this
			}
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return files, twice, nil
}

// separate resolves two files of one base: two names of the same bytes become
// one, another message gets a name of its own.
func (f *folder) separate(files map[string]found, extra found) error {
	first := files[extra.Base]
	same, err := f.a.sameFile(f.pathOf(first), f.pathOf(extra))
	if isGone(err) {
		f.stale = true
		return nil
	}
	if err != nil {
		return err
	}
	if same {
		return f.a.fs.Remove(f.pathOf(extra))
	}
	old := f.pathOf(extra)
	extra.Base = f.a.names.Next() + strings.TrimPrefix(extra.Base, name.Unique(extra.Base))
	extra.file = extra.Name.String()
	f.a.o.Log.Warn("maildir: two messages of one name", "root", f.a.o.Root, "folder", f.name, "file", old, "renamed", extra.file)
	if err := f.a.fs.Rename(old, f.pathOf(extra)); err != nil {
		return err
	}
	f.a.renamed(map[string]string{old: f.pathOf(extra)})
	files[extra.Base] = extra
	return nil
}

func (f *folder) pathOf(x found) string {
	if x.isNew {
		return f.path("new", x.file)
	}
	return f.path("cur", x.file)
}

func (a *Account) sameFile(one, other string) (bool, error) {
	first, err := a.stampOf(one)
	if err != nil {
		return false, err
	}
	second, err := a.stampOf(other)
	return err == nil && first.inode == second.inode, err
}

func (f *folder) anyMissing(files map[string]found, known map[string]uidlist.Entry) bool {
	for base := range known {
		if _, is := files[base]; !is {
			return true
		}
	}
	for _, m := range f.msgs.All() {
		if _, is := files[refBase(m.Ref)]; !is {
			return true
		}
	}
	return false
}

// apply makes the memory what the scan found and reports whether that changed
// anything. It uses files up.
func (f *folder) apply(files map[string]found, known map[string]uidlist.Entry, recent map[string]bool) (changed bool, err error) {
	foreign, err := f.follow(files)
	if err != nil {
		return false, err
	}
	foreign = foreign || f.untold
	changed = foreign
	moved := map[string]string{}
	f.fresh = slices.DeleteFunc(f.fresh, func(m unnumbered) bool {
		x, is := files[refBase(m.ref)]
		if !is {
			return true
		}
		if ref := refOf(x.isNew, x.file); ref != m.ref {
			moved[f.path(m.ref)] = f.path(ref)
			return true // it comes anew, below
		}
		delete(files, refBase(m.ref))
		return false
	})
	f.a.renamed(moved)
	var numbered []uidlist.Entry
	there := map[uint32]unnumbered{}
	for base, x := range files {
		e, is := known[base]
		m := f.newMessage(x, e)
		m.recent = m.recent || recent[base]
		changed = true
		if is {
			numbered = append(numbered, e)
			there[e.UID] = m
			delete(known, base)
		} else {
			f.fresh = append(f.fresh, m)
		}
	}
	if len(known) > 0 {
		if err := f.vanished(known); err != nil {
			return false, err
		}
		foreign = true
	}
	if foreign {
		if err := f.syncForeign(); err != nil {
			return false, err
		}
	}
	f.admit(numbered, there)
	return changed, nil
}

// follow finds the messages of the memory in files again, and takes them out of
// there; those that are gone leave the memory.
func (f *folder) follow(files map[string]found) (changed bool, err error) {
	modseq, err := f.state.NextModSeq()
	if err != nil {
		return false, err
	}
	e := f.msgs.Edit()
	var gone []mailbox.UID
	moved := map[string]string{}
	for _, m := range f.msgs.All() {
		base := refBase(m.Ref)
		x, is := files[base]
		if !is {
			gone = append(gone, m.UID)
			f.cut(e, m)
			continue
		}
		delete(files, base)
		ref := refOf(x.isNew, x.file)
		if ref == m.Ref {
			continue
		}
		now := *m
		now.Ref, now.Flags = ref, f.flagsOf(m.UID, x.Flags)
		if !now.Flags.Equal(m.Flags) {
			now.ModSeq = modseq
			f.stateChanged(modseq, []op{{uid: uint32(m.UID)}})
		}
		moved[f.path(m.Ref)] = f.path(ref)
		f.replace(e, m, now)
	}
	f.msgs = e.Done()
	changed = len(moved) > 0
	f.a.renamed(moved)
	if len(gone) > 0 {
		f.stateExpunged(modseq, gone)
		f.a.recount = true
	}
	return changed || len(gone) > 0, nil
}

// vanished notes numbered messages whose files went while nobody looked.
func (f *folder) vanished(known map[string]uidlist.Entry) error {
	// Those that were expunged here have lines until the uidlist is rewritten.
	expunged, _ := f.state.ExpungedSince(0)
	var gone []mailbox.UID
	for base, e := range known {
		f.list.Forget(base)
		if !inRanges(expunged, e.UID) {
			f.mark(mailbox.UID(e.UID), marks{})
			gone = append(gone, mailbox.UID(e.UID))
		}
	}
	if len(gone) == 0 {
		return nil
	}
	modseq, err := f.state.NextModSeq()
	if err != nil {
		return err
	}
	slices.Sort(gone)
	f.stateExpunged(modseq, gone)
	// By others, or by an expunge that a crash cut off before the quota log.
	f.a.recount = true
	return nil
}

// inRanges tells whether uid is in set, which is ascending.
func inRanges(set []state.Range, uid uint32) bool {
	i := sort.Search(len(set), func(i int) bool { return set[i].Last >= uid })
	return i < len(set) && set[i].First <= uid
}

// admit takes numbered messages into the memory: at a load all there are, else
// those that came back.
func (f *folder) admit(entries []uidlist.Entry, there map[uint32]unnumbered) {
	if len(entries) == 0 {
		return
	}
	slices.SortFunc(entries, func(a, b uidlist.Entry) int { return cmp.Compare(a.UID, b.UID) })
	all := make([]mailbox.Message, 0, len(entries)+f.msgs.Len())
	for _, m := range f.msgs.All() {
		all = append(all, *m)
	}
	for _, e := range entries {
		m := there[e.UID]
		if m.fields == "" {
			m.fields = e.Fields
		}
		message := f.message(mailbox.UID(e.UID), m, f.state.ModSeq(e.UID))
		all = append(all, message)
		f.count(&message, 1)
		if m.fields != "" {
			f.fields[message.UID] = m.fields
		}
		if m.recent {
			f.recent = append(f.recent, message.UID)
		}
	}
	slices.SortFunc(all, func(a, b mailbox.Message) int { return cmp.Compare(a.UID, b.UID) })
	slices.Sort(f.recent)
	f.msgs = mailbox.NewMessages(all)
}

// newMessage makes a message of a file. What neither the name nor the uidlist
// tells of its size is measured, once.
func (f *folder) newMessage(x found, e uidlist.Entry) unnumbered {
	return f.sized(unnumbered{ref: refOf(x.isNew, x.file), fields: e.Fields, recent: x.isNew}, x.Base, e)
}

// sized gives m, whose base and line these are, its sizes.
func (f *folder) sized(m unnumbered, base string, e uidlist.Entry) unnumbered {
	// A field stands before the name: `waypost repair` writes one where the name
	// is wrong, which nobody may change.
	size, wire := name.Sizes(base)
	if m.size = sizeField(e, 'S'); m.size < 0 {
		m.size = size
	}
	if m.wire = sizeField(e, 'W'); m.wire < 0 {
		m.wire = wire
	}
	if m.size >= 0 && m.wire >= 0 {
		return m
	}
	count, err := f.a.measure(f.path(m.ref))
	if err != nil {
		// It must not look expunged. Its size stays a guess until the folder is
		// loaded again; Open measures for itself.
		f.a.o.Log.Warn("maildir: message not measured", "root", f.a.o.Root, "folder", f.name, "file", m.ref, "error", err)
		f.stale = f.stale || isGone(err)
		m.size, m.wire = max(m.size, 0), max(m.wire, m.size, 0)
		return m
	}
	m.size, m.wire = count.Size, count.Wire
	// Dovecot, too, keeps sizes there that the name does not tell. A line that
	// is in the file already is written anew, or each login would read the
	// message again.
	e.Fields = withField(e, 'S', m.size)
	m.fields = withField(e, 'W', m.wire)
	f.measured = f.measured || e.UID != 0
	return m
}

func sizeField(e uidlist.Entry, key byte) int64 {
	if e.Fields == "" {
		return -1
	}
	text, ok := e.Field(key)
	if !ok {
		return -1
	}
	n, err := strconv.ParseUint(text, 10, 62)
	if err != nil {
		return -1
	}
	return int64(n)
}

// withField gives the fields with one set, in place of what it was.
func withField(e uidlist.Entry, key byte, n int64) string {
	fields := slices.DeleteFunc(strings.Fields(e.Fields), func(f string) bool { return f[0] == key })
	return strings.Join(append(fields, fmt.Sprintf("%c%d", key, n)), " ")
}

// measure reads a file for its sizes.
func (a *Account) measure(path string) (count lineend.Counter, err error) {
	file, err := a.fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return count, err
	}
	defer file.Close()
	_, err = io.Copy(&count, file)
	return count, err
}

// readWords reads the keywords file if it is another than before.
func (f *folder) readWords() error {
	now, err := f.wordsStamp()
	if err != nil || now == f.wordsFile {
		return err
	}
	data, err := vfs.ReadFile(f.a.fs, f.path(keywordsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f.setWords(data, now)
	f.newVersion()
	return nil
}
