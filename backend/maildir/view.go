package maildir

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"slices"
	"strings"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/packed"
	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
)

// viewName is a folder's view: what memory knew of its messages when it was last
// let go, so that who comes next need not list cur, and read the uidlist. It is
// derived, never synced, and counts only while all that it was made of is as it
// was: cur, the uidlist, the state and the keywords by their inodes, sizes and times.
// Of new, which deliveries change, it need not be: that is listed then.
const viewName = "waypost-index.view"

const (
	viewMagic = "waypost view 1\n"
	// viewLeast is from how many messages on a view is kept: listing fewer is quick.
	viewLeast = 200
	// viewFresh is how many messages may be new for a view still to be used.
	viewFresh = 1000
)

// errView: a view that cannot be used; the folder is read.
var errView = errors.New("no view of the folder")

// viewHead is what a view has beside the messages.
type viewHead struct {
	run      string
	seen     scanned
	foreign  time.Time
	list     uidlist.Saved
	words    stamp
	messages int
}

// settled tells whether the memory is what the disk has, and nothing is under way.
func (f *folder) settled() bool {
	a := f.a
	return f.loaded && !f.gone && !f.stale && !f.untold && !f.measured && !f.numbering && f.promised == 0 && f.expunging == nil && len(f.fresh) == 0 &&
		!a.unwritten[f] && len(a.unsure) == 0 && a.uncertain == nil && len(a.commits) == 0 && !a.stuck
}

// saveView keeps the view of a folder that is let go.
func (f *folder) saveView() {
	if f.a.o.Views == "" || f.msgs.Len() < f.a.viewLeast || f.viewed == f.version || !f.settled() {
		return
	}
	var data []byte
	head, err := f.viewHead()
	if err == nil {
		data, err = f.encodeView(head)
	}
	if err == nil {
		// Not durable: a crash leaves another, or one that its checksum or its run gives away.
		err = vfs.ReplaceUnsynced(f.a.fs, f.path(viewName), data, 0o600)
	}
	if err != nil && !errors.Is(err, errView) {
		f.a.o.Log.Info("maildir: view of a folder not kept", "root", f.a.o.Root, "folder", f.name, "error", err)
	}
}

func (f *folder) viewHead() (h viewHead, err error) {
	h = viewHead{run: f.a.o.Views, seen: f.seen, foreign: f.foreign, words: f.wordsFile, messages: f.msgs.Len()}
	now, err := f.stamps()
	if err != nil {
		return h, err
	}
	if now != f.seen.stamps {
		return h, errView
	}
	if words, err := f.wordsStamp(); err != nil || words != f.wordsFile {
		return h, errors.Join(err, errView)
	}
	var ok bool
	if h.list, ok = f.list.Save(); !ok {
		return h, errView
	}
	return h, nil
}

func writeStamp(w *packed.Writer, s stamp) {
	w.Uint(s.inode)
	w.Int(s.size)
	w.Time(s.mtime)
}

func readStamp(r *packed.Reader) stamp {
	s := stamp{inode: r.Uint(), size: r.Int(), mtime: r.Time()}
	if s.inode == 0 {
		return stamp{} // of a file that is not there
	}
	return s
}

func (f *folder) encodeView(h viewHead) ([]byte, error) {
	w := &packed.Writer{Bytes: append(make([]byte, 0, 1024+128*h.messages), viewMagic...)}
	w.Text(h.run)
	writeStamp(w, h.seen.stamps[0])
	writeStamp(w, h.seen.stamps[1])
	w.Time(h.seen.at)
	w.Time(h.seen.since)
	w.Int(int64(h.seen.took))
	w.Bool(h.seen.unconfirmed)
	w.Bool(h.seen.recent)
	w.Time(h.foreign)
	l := h.list
	w.Uint(uint64(l.Header.Validity))
	w.Uint(uint64(l.Header.Next))
	w.Text(l.Header.GUID)
	w.Texts(l.Header.Other)
	w.Int(l.Size)
	w.Uint(uint64(l.Lines))
	w.Uint(uint64(l.Stale))
	w.Uint(l.Inode)
	w.Int(l.FileSize)
	w.Int(l.Modified)
	w.Texts(l.Gone)
	writeStamp(w, h.words)
	if !f.state.Save(w) {
		return nil, errView
	}
	w.Uint(uint64(h.messages))
	last := mailbox.UID(0)
	for _, m := range f.msgs.All() {
		w.Uint(uint64(m.UID - last))
		last = m.UID
		w.Int(m.Size)
		w.Int(m.WireSize)
		w.Uint(m.ModSeq)
		w.Text(m.Ref)
		w.Text(f.fields[m.UID])
	}
	return binary.LittleEndian.AppendUint32(w.Bytes, crc32.Checksum(w.Bytes, viewTable)), nil
}

var viewTable = crc32.MakeTable(crc32.Castagnoli)

// readView gives what is behind the head of a legible view of this run.
func (f *folder) readView() (h viewHead, r *packed.Reader, err error) {
	data, err := vfs.ReadFile(f.a.fs, f.path(viewName))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errView
		}
		return h, nil, err
	}
	text := string(data)
	body := len(text) - crc32.Size
	if body < len(viewMagic) || !strings.HasPrefix(text, viewMagic) ||
		crc32.Checksum(data[:body], viewTable) != binary.LittleEndian.Uint32(data[body:]) {
		return h, nil, errView
	}
	r = &packed.Reader{Rest: text[len(viewMagic):body]}
	h.run = r.Text()
	h.seen.stamps[0], h.seen.stamps[1] = readStamp(r), readStamp(r)
	h.seen.at, h.seen.since, h.seen.took = r.Time(), r.Time(), time.Duration(r.Int())
	h.seen.unconfirmed, h.seen.recent = r.Bool(), r.Bool()
	h.foreign = r.Time()
	l := &h.list
	l.Header.Validity, l.Header.Next = uint32(r.Uint()), uint32(r.Uint())
	l.Header.GUID, l.Header.Other = r.Text(), r.Texts()
	l.Size, l.Lines, l.Stale = r.Int(), int(r.Uint()), int(r.Uint())
	l.Inode, l.FileSize, l.Modified = r.Uint(), r.Int(), r.Int()
	l.Gone = r.Texts()
	h.words = readStamp(r)
	if r.Failed || h.run != f.a.o.Views {
		return h, nil, errView
	}
	return h, r, nil
}

// loadView makes the memory of the folder's view; recent are the bases of messages that
// are recent still. The error is errView, or wraps it, where the view does not fit the disk, or is
// not there: the folder is to be read.
func (f *folder) loadView(recent map[string]bool) error {
	if f.a.o.Views == "" || len(f.a.unsure) > 0 {
		return errView
	}
	h, r, err := f.readView()
	if err != nil {
		return err
	}
	fresh, err := f.fits(&h)
	if err != nil {
		return err
	}
	list, err := uidlist.Resume(f.a.fs, f.path(), h.list)
	if err != nil {
		return errors.Join(errView, err)
	}
	folderState, err := state.Resume(f.a.fs, stateOf(f.path(), list.Header()), r)
	if err != nil {
		return errors.Join(errView, err)
	}
	f.list, f.state = list, folderState
	f.empty()
	f.readMarks()
	if err := f.readWords(); err != nil {
		return err
	}
	if err := f.takeView(r, fresh, recent); err != nil {
		return err
	}
	if err := f.ensureID(); err != nil {
		return err
	}
	f.stale, f.noted = false, false
	f.seen, f.foreign = h.seen, h.foreign
	return nil
}

// fits compares the disk with what the view was made of, and gives the files of new
// if that has changed; nil if not. The view's seen is what it is now.
func (f *folder) fits(h *viewHead) (fresh map[string]found, err error) {
	now, err := f.stamps()
	if err != nil {
		return nil, err
	}
	words, err := f.wordsStamp()
	if err != nil {
		return nil, err
	}
	was := h.seen.stamps
	if !now[0].is(was[0]) || now[1].inode != was[1].inode || !words.is(h.words) {
		return nil, errView
	}
	h.seen.stamps = now
	start := f.a.o.Now()
	if h.seen.overdue(h.foreign, start) {
		return nil, errView
	}
	if now[1].is(was[1]) {
		return nil, nil
	}
	fresh = map[string]found{}
	err = f.a.eachMessage(f.path("new"), func(file string, n name.Name) error {
		if _, twice := fresh[n.Base]; twice || len(fresh) > viewFresh+h.list.Lines {
			return errView
		}
		fresh[n.Base] = found{n, file, true}
		return nil
	})
	if err != nil {
		return nil, err
	}
	recently := start.Sub(now[1].mtime) < granularity
	h.seen.unconfirmed, h.seen.recent = h.seen.unconfirmed || recently, h.seen.recent || recently
	return fresh, nil
}

// takeView takes the messages over. fresh are the files of new, if those are not the
// same as before.
func (f *folder) takeView(r *packed.Reader, fresh map[string]found, recent map[string]bool) error {
	n := r.Len()
	all := make([]mailbox.Message, 0, n)
	uid := mailbox.UID(0)
	for range n {
		uid += mailbox.UID(r.Uint())
		m := unnumbered{size: r.Int(), wire: r.Int()}
		modseq := r.Uint()
		m.ref, m.fields = r.Text(), r.Text()
		if r.Failed || len(m.ref) < len("cur/x") || uid == 0 {
			return errView
		}
		base := refBase(m.ref)
		if fresh != nil {
			x, is := fresh[base]
			if refIsNew(m.ref) != is || is && refOf(true, x.file) != m.ref {
				return errView // taken to cur, or removed, or there twice
			}
			delete(fresh, base)
		}
		if refIsNew(m.ref) || recent[base] {
			f.recent = append(f.recent, uid)
		}
		if m.fields != "" {
			f.fields[uid] = m.fields
		}
		all = append(all, f.message(uid, m, modseq))
		f.count(&all[len(all)-1], 1)
	}
	if len(r.Rest) > 0 || len(fresh) > viewFresh {
		return errView
	}
	f.msgs = mailbox.NewMessages(all)
	for _, x := range fresh {
		f.fresh = append(f.fresh, f.newMessage(x, uidlist.Entry{}))
	}
	slices.SortFunc(f.fresh, func(a, b unnumbered) int { return strings.Compare(a.ref, b.ref) })
	return nil
}

// wordsStamp is the keywords file's, zero if there is none.
func (f *folder) wordsStamp() (stamp, error) {
	now, err := f.a.stampOf(f.path(keywordsName))
	if errors.Is(err, fs.ErrNotExist) {
		return stamp{}, nil
	}
	if err != nil {
		return stamp{}, fmt.Errorf("keywords: %w", err)
	}
	return now, nil
}

// is compares stamps of which one was written down.
func (s stamp) is(other stamp) bool {
	return s.inode == other.inode && s.size == other.size && s.mtime.Equal(other.mtime)
}
