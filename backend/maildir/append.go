package maildir

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/keywords"
	"waypost/backend/maildir/name"
)

// Append is mailbox.Box's.
func (b *box) Append(folder string, all []mailbox.NewMessage) (result mailbox.AppendResult, err error) {
	size := int64(0)
	for _, m := range all {
		size += m.Message.Size()
	}
	err = b.change(context.Background(), "append", size, func() (*commit, error) {
		if err := b.a.unstick(); err != nil {
			return nil, err
		}
		result, err = b.a.append(folder, all)
		return nil, err
	})
	return result, err
}

// appending is an Append being made a commit.
type appending struct {
	f    *folder
	list []arrival
	// save says when they were saved.
	save   op
	commit commit
	// listed: the UIDs are in the list; done is how many have their files.
	listed bool
	done   int
	modseq uint64
}

// arrival is a staged message with its opCreate.
type arrival struct {
	s     *staged
	o     op
	marks marks
}

func (a *Account) append(folder string, all []mailbox.NewMessage) (result mailbox.AppendResult, err error) {
	f, err := a.synced(folder)
	if err != nil {
		return result, err
	}
	t := appending{f: f}
	if err := t.plan(all); err != nil {
		t.release()
		return result, err
	}
	result.UIDValidity = f.list.Header().Validity
	if len(t.list) == 0 {
		return result, nil
	}
	// Commits before this one may number messages.
	if err := a.settle(); err != nil {
		t.release()
		return mailbox.AppendResult{}, err
	}
	if result.UIDs, err = t.run(); err != nil {
		return mailbox.AppendResult{}, err
	}
	return result, nil
}

// plan makes the ops, all but the UIDs, and holds the messages to the end of
// apply.
func (t *appending) plan(all []mailbox.NewMessage) error {
	a, f := t.f.a, t.f
	var given claims
	for _, m := range all {
		s, err := own(m.Message)
		if err != nil {
			return err
		}
		t.commit.bytes += s.size
		t.commit.messages++
		if err := a.fits(f.name, t.commit.bytes, t.commit.messages); err != nil {
			return err
		}
		words, beyond, err := f.encode(m.Flags.Keywords, true, &given)
		if err != nil {
			return err
		}
		if err := s.hold(); err != nil {
			return err
		}
		o := op{
			kind: opCreate, dir: f.rel, base: name.WithSizes(a.names.Next(), s.size, s.wire),
			letters: name.Letters(systemLetters(m.Flags.System) + words), body: s.ref(), at: m.Date,
		}
		if m.Date.IsZero() {
			o.at = s.arrived()
		}
		t.list = append(t.list, arrival{s, o, marks{words: beyond}})
	}
	return nil
}

// run numbers, journals and applies what was planned.
func (t *appending) run() (uids []mailbox.UID, err error) {
	f, c := t.f, &t.commit
	first, err := f.promise(len(t.list))
	if err != nil {
		t.release()
		return nil, err
	}
	touched := append(f.bookkeeping(), f.path("cur"))
	for i := range t.list {
		o := &t.list[i].o
		o.uid = uint32(first) + uint32(i)
		uids = append(uids, mailbox.UID(o.uid))
		touched = append(touched, f.path(refOf(false, o.file())))
		c.ops = append(c.ops, *o)
		if !t.list[i].marks.none() {
			c.ops = append(c.ops, f.markOp(o.base, t.list[i].marks))
		}
	}
	t.save = f.saveOp(first, len(t.list))
	c.ops = append(c.ops, t.save)
	c.apply = func() error {
		if err := t.apply(); err != nil {
			return err
		}
		f.a.addUsage(c.bytes, c.messages)
		t.release()
		return nil
	}
	held := t.list // apply lets go of them
	queued, err := f.commitNow(touched, len(held), c)
	if !queued {
		t.release()
		return nil, err
	}
	for _, m := range held {
		m.s.referred(c.record.last())
	}
	return uids, err
}

// release gives the messages back.
func (t *appending) release() {
	for _, m := range t.list {
		m.s.Discard()
	}
	t.list = nil
}

// apply gives the files their names and brings the memory up to date.
func (t *appending) apply() (err error) {
	f := t.f
	ops := make([]op, len(t.list))
	var list []marking
	for i, m := range t.list {
		ops[i] = m.o
		if !m.marks.none() {
			list = append(list, marking{uid: mailbox.UID(m.o.uid), is: m.marks})
		}
	}
	if !t.listed {
		if err := f.enlist(ops); err != nil {
			return err
		}
		t.listed = true
	}
	if t.modseq == 0 {
		if t.modseq, err = f.state.NextModSeq(); err != nil {
			return err
		}
	}
	for ; t.done < len(t.list); t.done++ {
		m := t.list[t.done]
		before := f.stampsNow()
		if err := f.a.place(m.s, f.rel, refOf(false, m.o.file()), m.o.at); err != nil {
			return err
		}
		f.arrived(m, t.modseq, before)
	}
	f.stateArrived(t.modseq, ops, []op{t.save}, list)
	return nil
}

// commitNow is Account.commitNow for ops that give n promised UIDs of this folder:
// if the journal does not take them they are promised no more.
func (f *folder) commitNow(touched []string, n int, c *commit) (queued bool, err error) {
	queued, err = f.a.commitNow(f.a.epoch, touched, c)
	if !queued {
		f.promised -= uint32(n)
	}
	return queued, err
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

// arrived takes a message whose file has got its name into the memory. The state
// of one that has a UID is the caller's to note.
func (f *folder) arrived(a arrival, modseq uint64, before *[2]stamp) {
	o := a.o
	m := unnumbered{ref: refOf(o.inNew, o.file()), fields: o.fields, size: a.s.size, wire: a.s.wire, recent: true, delivered: true}
	switch {
	case !f.loaded:
		f.a.feed.Messages(f.name)
		return
	case o.uid == 0:
		f.fresh = append(f.fresh, m)
	default:
		uid := mailbox.UID(o.uid)
		f.mark(uid, a.marks)
		e := f.msgs.Edit()
		f.add(e, f.message(uid, m, modseq), m.fields, true)
		f.msgs = e.Done()
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

// readyFor sees to it that encode can give the letters of flags. A folder that
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

// ErrTooManyKeywords: a folder has no room for another keyword, with a letter or
// without; the change was not made.
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
