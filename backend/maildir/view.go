package maildir

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"waypost/backend/maildir/name"
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
	// viewLeast is from how many messages on a view is kept: listing fewer is quick.
	viewLeast = 200
	// viewMoment is how long a moment is at most in which a folder's time stays the same.
	viewMoment = time.Second
	// viewPause and viewShare bound how often a view is kept of a folder that stays in memory.
	viewPause = 5 * time.Minute
	viewShare = 1000
	// viewFresh is how many messages may be new for a view still to be used.
	viewFresh = 1000
)

// errView: a view that cannot be used; the folder is read.
var errView = errors.New("no view of the folder")

// viewHead is what a view has beside the messages.
type viewHead struct {
	run string
	// saved is when the view was written.
	saved    time.Time
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

// hasView tells whether views of the folder are kept.
func (f *folder) hasView() bool { return f.a.o.Views != "" && f.msgs.Len() >= f.a.viewLeast }

// confirm looks once more for what may hide behind the modification times of a folder that nobody
// uses any more. Its view is believed then for as long as they stay as they are; otherwise
// it would be some minutes after the folder was last read, and whoever came later would read it anew.
func (f *folder) confirm() {
	if !f.loaded || !f.hasView() || !f.seen.unconfirmed || f.a.o.Now().Sub(f.seen.since) < granularity || !f.settled() {
		return
	}
	if now, err := f.stamps(); err != nil || now != f.seen.stamps {
		return // it will be read in any case
	}
	if err := f.rescan(nil, nil); err != nil {
		f.a.o.Log.Info("maildir: folder not confirmed", "root", f.a.o.Root, "folder", f.name, "error", err)
	}
}

// saveView keeps the view of a folder that is let go.
func (f *folder) saveView() {
	if !f.hasView() || f.viewed == f.version && f.viewUnsure == f.seen.unconfirmed || !f.settled() {
		return
	}
	start := time.Now()
	var data []byte
	head, err := f.viewHead()
	if err == nil {
		data, err = f.encodeView(head)
	}
	if err == nil {
		// Not durable: a crash leaves another, or one that its checksum or its run gives away.
		err = vfs.ReplaceUnsynced(f.a.fs, f.path(viewName), data, 0o600)
	}
	f.viewSaved, f.viewTook = start, time.Since(start)
	switch {
	case err == nil:
		f.viewed, f.viewUnsure = f.version, head.seen.unconfirmed
	case !errors.Is(err, errView):
		f.a.o.Log.Info("maildir: view of a folder not kept", "root", f.a.o.Root, "folder", f.name, "error", err)
	}
}

// saveViewSometimes keeps the view of a folder that stays in memory, for the case that the process is
// killed: at most one part in viewShare of the time goes for it.
func (f *folder) saveViewSometimes() {
	if f.viewSaved.IsZero() || time.Since(f.viewSaved) >= max(viewPause, viewShare*f.viewTook) {
		f.saveView()
	}
}

func (f *folder) viewHead() (h viewHead, err error) {
	h = viewHead{run: f.a.o.Views, saved: f.a.o.Now(), seen: f.seen, foreign: f.foreign, words: f.wordsFile, messages: f.msgs.Len()}
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
	killed := h.saved.Before(f.a.o.Killed)
	if killed && h.within(was[0]) {
		return nil, errView
	}
	if now[1].is(was[1]) && !(killed && h.within(was[1])) {
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

// within tells whether a folder with a stamp may have changed after the view was written without
// another stamp: the view is of the moment of a change.
func (h *viewHead) within(s stamp) bool { return h.saved.Sub(s.mtime) < viewMoment }

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
