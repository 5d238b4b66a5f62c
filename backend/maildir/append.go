package maildir

import (
	"errors"
	"io/fs"
	"strings"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/keywords"
	"waypost/backend/maildir/name"
)

// append is Box.Append.
func (b *box) append(folder string, s *staged, flags mailbox.Flags, date time.Time) (uint32, mailbox.UID, error) {
	a := b.a
	f, err := a.synced(folder)
	if err != nil {
		return 0, 0, err
	}
	if err := a.fits(f.name, s.size, 1); err != nil {
		return 0, 0, err
	}
	letters, err := f.lettersFor(flags)
	if err != nil {
		return 0, 0, err
	}
	if err := s.hold(); err != nil { // to the end of apply
		return 0, 0, err
	}
	// Commits before this one may number messages.
	if err := a.settle(); err != nil {
		s.Discard()
		return 0, 0, err
	}
	uid, err := f.promise(1)
	if err != nil {
		s.Discard()
		return 0, 0, err
	}
	o := op{
		kind: opCreate, dir: f.rel, base: name.WithSizes(a.names.Next(), s.size, s.wire),
		letters: letters, uid: uint32(uid), body: s.ref(), at: date,
	}
	if date.IsZero() {
		o.at = s.arrived()
	}
	c := commit{ops: []op{o}, bytes: s.size, messages: 1}
	c.apply = f.arrival(s, o, &c)
	touched := append(f.bookkeeping(), f.path("cur"), f.path(refOf(false, o.file())))
	queued, err := f.commitNow(touched, &c)
	if !queued {
		s.Discard()
	} else {
		s.referred(c.record.last())
	}
	if err != nil {
		return 0, 0, err
	}
	return f.list.Header().Validity, uid, nil
}

// commitNow is Account.commitNow for ops with promised UIDs of this folder: if
// the journal does not take them they are promised no more.
func (f *folder) commitNow(touched []string, c *commit) (queued bool, err error) {
	queued, err = f.a.commitNow(f.a.epoch, touched, c)
	if !queued {
		f.promised -= uint32(len(c.ops))
	}
	return queued, err
}

// arrival is what applies the opCreate of a staged message that has a UID.
func (f *folder) arrival(s *staged, o op, c *commit) func() error {
	listed := false
	return func() error {
		if !listed {
			if err := f.enlist([]op{o}); err != nil {
				return err
			}
			listed = true
		}
		modseq, err := f.state.NextModSeq()
		if err != nil {
			return err
		}
		before := f.stampsNow()
		if err := f.a.place(s, f.rel, refOf(o.inNew, o.file()), o.at); err != nil {
			return err
		}
		f.arrived(o, s, modseq, before)
		f.a.addUsage(c.bytes, c.messages)
		s.Discard()
		return nil
	}
}

// place gives a staged message its name in the folder rel.
func (a *Account) place(s *staged, rel, ref string, date time.Time) error {
	path := a.dir(rel) + "/" + ref
	err := s.linkTo(path, date)
	if isGone(err) {
		clear(a.seen)
		if err := a.completeFolder(rel); err != nil {
			return err
		}
		err = s.linkTo(path, date)
	}
	switch {
	case err == nil:
		a.cameName(rel, refBase(ref), s.size)
	case errors.Is(err, fs.ErrExist):
		a.disturbed()
		err = nil // an apply that was cut off after this
	}
	return err
}

// arrived takes a message whose file has got its name into the memory.
func (f *folder) arrived(o op, s *staged, modseq uint64, before *[2]stamp) {
	m := unnumbered{ref: refOf(o.inNew, o.file()), fields: o.fields, size: s.size, wire: s.wire, recent: true}
	switch {
	case !f.loaded:
		return
	case o.uid == 0:
		f.fresh = append(f.fresh, m)
	default:
		e := f.msgs.Edit()
		f.add(e, f.message(mailbox.UID(o.uid), m, modseq), m.fields, true)
		f.msgs = e.Done()
		f.stateArrived(modseq, []op{o})
	}
	if before == nil || *before != f.seen.stamps {
		// Somebody else has changed the folder, too.
		f.stale = true
		f.newVersion()
		return
	}
	f.changed()
}

// stampsNow gives the folder's times before a change of ours, nil if they are of
// no use.
func (f *folder) stampsNow() *[2]stamp {
	if !f.loaded {
		return nil
	}
	now, err := f.stamps()
	if err != nil {
		return nil
	}
	return &now
}

// file is the name of the message's file. One in new has no flags.
func (o op) file() string { return fileName(o.inNew, o.base, o.letters) }

func fileName(inNew bool, base, letters string) string {
	if inNew {
		return base
	}
	return name.Name{Base: base, Flags: letters}.String()
}

// lettersFor are the letters of flags in a file name of the folder.
func (f *folder) lettersFor(flags mailbox.Flags) (string, error) {
	words, err := f.letters(flags.Keywords, true, new(claims))
	if err != nil {
		return "", err
	}
	return name.Letters(systemLetters(flags.System) + words), nil
}

// readyFor sees to it that lettersFor can give the letters of flags. A folder that
// nobody has loaded is loaded only for a keyword that is new there: a free letter is
// one that no message carries.
func (f *folder) readyFor(flags mailbox.Flags) error {
	if f.loaded || f.gone {
		return f.sync()
	}
	if err := f.readWords(); err != nil {
		return err
	}
	for _, word := range flags.Keywords {
		if f.words.Letter(word) == 0 {
			return f.sync()
		}
	}
	return nil
}

// ErrTooManyKeywords: a folder has no letter left for another keyword; the
// change was not made.
var ErrTooManyKeywords = keywords.ErrTooMany

// isGone tells whether err says that a file has another name by now, or none.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func systemLetters(s mailbox.System) string {
	var b strings.Builder
	for _, l := range systemFlags {
		if s&l.flag != 0 {
			b.WriteByte(l.letter)
		}
	}
	return b.String()
}
