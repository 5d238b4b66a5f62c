package maildir

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
)

// Expunge is mailbox.Folder's. If a file cannot be removed, those before it are
// gone nevertheless; the result names them.
func (h *handle) Expunge(uids []mailbox.UID) ([]mailbox.UID, error) {
	return h.expunge(uids, func(*mailbox.Message) bool { return true })
}

// ExpungeDeleted is mailbox.Folder's.
func (h *handle) ExpungeDeleted(uids []mailbox.UID) ([]mailbox.UID, error) {
	return h.expunge(uids, func(m *mailbox.Message) bool { return m.Flags.Has(mailbox.Deleted) })
}

func (h *handle) expunge(uids []mailbox.UID, doomed func(*mailbox.Message) bool) (removed []mailbox.UID, err error) {
	err = h.b.change(context.Background(), "expunge", int64(64*len(uids)), func() (c *commit, err error) {
		if err := h.sync(); err != nil {
			return nil, err
		}
		removed, c, err = h.f.expunge(uids, doomed)
		return c, err
	})
	return removed, err
}

// expunge removes at once the files of those of uids that are doomed when their
// turn comes, and leaves a commit to be waited for.
func (f *folder) expunge(uids []mailbox.UID, doomed func(*mailbox.Message) bool) (removed []mailbox.UID, c *commit, err error) {
	if err := errors.Join(f.a.unstickFor(), f.a.syncLinked()); err != nil {
		return nil, nil, err
	}
	e := f.msgs.Edit()
	var ops []op
	var bytes int64
	for _, uid := range f.pick(uids) {
		var gone *mailbox.Message
		seen := f.version
		_, err = f.chase(uid, func(m *mailbox.Message) error {
			if gone = nil; !doomed(m) {
				return nil
			}
			gone = m
			if err := f.a.fs.Remove(f.path(m.Ref)); err != nil {
				return err
			}
			f.a.wentName(f.rel, refBase(m.Ref), m.Size)
			return nil
		})
		if f.version != seen {
			// The folder was scanned meanwhile, and has seen what was cut so far.
			e = f.msgs.Edit()
		}
		if err != nil {
			break
		}
		if gone == nil || e.Get(uid) == nil {
			continue
		}
		f.cut(e, gone)
		removed = append(removed, uid)
		ops = append(ops, op{kind: opExpunge, dir: f.rel, base: refBase(gone.Ref)})
		bytes += countedSize(refBase(gone.Ref), gone.Size)
	}
	if len(removed) == 0 {
		return nil, f.pending(), err
	}
	f.msgs = e.Done()
	f.changed()
	// The state and the quota log follow once the record is durable: a crash before
	// may bring the messages back. The state would have forgotten what it knows of
	// them, and nothing else would tell that the log is wrong.
	c = &commit{ops: ops, bytes: -bytes, messages: -int64(len(removed))}
	c.apply = func() error { return f.expunged(removed, c) }
	f.expunging = c
	f.made(c, append(f.bookkeeping(), f.path("cur"), f.path("new")))
	return removed, c, err
}

// expunged brings an expunge that is durable into the state and the quota log.
func (f *folder) expunged(removed []mailbox.UID, c *commit) error {
	modseq, err := f.state.NextModSeq()
	if err != nil {
		return err
	}
	if f.expunging == c {
		f.expunging = nil
	}
	f.stateExpunged(modseq, removed)
	f.step() // HIGHESTMODSEQ is another
	f.a.addUsage(c.bytes, c.messages)
	return nil
}

// syncLinked makes second names of messages durable: from now on the first ones
// may go.
func (a *Account) syncLinked() error {
	for rel := range a.linked {
		if err := a.fs.SyncDir(a.dir(rel) + "/cur"); err != nil && !isGone(err) {
			return a.doubtSync(err)
		}
		delete(a.linked, rel)
	}
	return nil
}

// Copy is mailbox.Folder's.
func (h *handle) Copy(uids []mailbox.UID, to string) (result mailbox.CopyResult, err error) {
	err = h.b.write("copy", func() error {
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

// transfer is a copy or a move of messages from f to g, being made a commit.
type transfer struct {
	f, g  *folder
	kind  opKind
	ops   []op
	marks []marks // of ops
	from  []mailbox.UID
	save  op
	given claims
	done  int // how many of ops have their files
	// listed: the UIDs are in g's list.
	listed bool
	commit commit
}

// planAll adds messages that are there, file and all.
func (t *transfer) planAll(uids []mailbox.UID) error {
	for _, uid := range t.f.pick(uids) {
		there, err := t.f.chase(uid, func(m *mailbox.Message) error {
			_, err := t.f.a.fs.Lstat(t.f.path(m.Ref))
			return err
		})
		if err == nil && there {
			err = t.plan(t.f.msgs.Get(uid))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// plan adds one message. A file that is moved keeps its name, and so its GUID.
func (t *transfer) plan(m *mailbox.Message) error {
	letters, words, err := t.f.translate(t.g, m, &t.given)
	if err != nil {
		return err
	}
	o := op{kind: t.kind, fromDir: t.f.rel, fromBase: refBase(m.Ref), dir: t.g.rel, letters: letters}
	o.base = o.fromBase
	if t.kind == opMove {
		o.fields = t.f.fields[m.UID]
	} else {
		t.commit.bytes += m.Size
		t.commit.messages++
	}
	if t.kind == opCopy || t.g.taken(o.base) {
		o.base = name.WithSizes(t.f.a.names.Next(), m.Size, m.WireSize)
	}
	with := marks{words: words}
	if id := t.f.emailID(m.UID, o.fromBase); id != emailIDOf(o.base, o.fields) {
		with.email = id
	}
	t.ops, t.marks, t.from = append(t.ops, o), append(t.marks, with), append(t.from, m.UID)
	return nil
}

// run journals and applies what was planned.
func (t *transfer) run() (mailbox.CopyResult, error) {
	result := mailbox.CopyResult{UIDValidity: t.g.list.Header().Validity, Source: t.from}
	if len(t.ops) == 0 {
		return result, nil
	}
	if err := t.f.a.settle(); err != nil {
		return mailbox.CopyResult{}, err
	}
	first, err := t.g.promise(len(t.ops))
	if err != nil {
		return mailbox.CopyResult{}, err
	}
	touched := append(t.g.bookkeeping(), t.g.path("cur"), t.f.path("cur"), t.f.path("new"))
	for i := range t.ops {
		uid := first + mailbox.UID(i)
		t.ops[i].uid = uint32(uid)
		result.Dest = append(result.Dest, uid)
		touched = append(touched, t.g.path(refOf(false, t.ops[i].file())))
	}
	t.save = t.g.saveOp(first, len(t.ops))
	t.commit.ops = append(slices.Clone(t.ops), t.save)
	for i, m := range t.marks {
		if !m.none() {
			t.commit.ops = append(t.commit.ops, t.g.markOp(t.ops[i].base, m))
		}
	}
	t.commit.transfer, t.commit.apply = true, t.apply
	if _, err := t.g.commitNow(touched, len(t.ops), &t.commit); err != nil {
		return mailbox.CopyResult{}, err
	}
	return result, nil
}

// apply gives the files their names and brings both memories up to date.
func (t *transfer) apply() error {
	into, err := t.g.state.NextModSeq()
	if err != nil {
		return err
	}
	from, err := t.f.state.NextModSeq()
	if err != nil {
		return err
	}
	if !t.listed {
		if err := t.g.enlist(t.ops); err != nil {
			return err
		}
		t.listed = true
	}
	for ; t.done < len(t.ops); t.done++ {
		if err := t.name(t.ops[t.done], t.from[t.done]); err != nil {
			return err
		}
	}
	t.remember(into, from)
	return nil
}

// name makes the file of one message appear in g. One that has gone meanwhile
// by other hands is no error: its UID names nothing then.
func (t *transfer) name(o op, uid mailbox.UID) error {
	m := t.f.msgs.Get(uid)
	if m == nil {
		return nil
	}
	from, to := t.f.path(m.Ref), t.g.path(refOf(false, o.file()))
	var err error
	if o.kind == opMove {
		err = t.f.a.fs.Rename(from, to)
	} else {
		err = t.f.a.link(from, to)
	}
	switch {
	case err == nil && o.kind == opMove:
		t.f.a.wentName(t.f.rel, o.fromBase, m.Size)
		fallthrough
	case err == nil:
		t.f.a.cameName(t.g.rel, o.base, m.Size)
	case errors.Is(err, fs.ErrExist) && o.kind == opCopy:
		t.f.a.disturbed()
		err = nil // an apply that was cut off after this
	}
	if isGone(err) {
		t.f.stale = true
		return nil
	}
	return err
}

// remember brings the memories up to date; modseq and left are the
// mod-sequences of the arrival and of the departure.
func (t *transfer) remember(modseq, left uint64) {
	f, g := t.f, t.g
	into, out := g.msgs.Edit(), f.msgs.Edit()
	var gone []mailbox.UID
	var list []marking
	for i, o := range t.ops {
		m := f.msgs.Get(t.from[i])
		if m == nil {
			g.list.Forget(o.base)
			continue
		}
		g.carry(f, o)
		if !t.marks[i].none() {
			list = append(list, g.mark(mailbox.UID(o.uid), t.marks[i]))
		}
		in := unnumbered{ref: refOf(false, o.file()), fields: o.fields, size: m.Size, wire: m.WireSize}
		g.add(into, g.message(mailbox.UID(o.uid), in, modseq), o.fields, true)
		if o.kind == opMove {
			f.cut(out, m)
			gone = append(gone, m.UID)
		}
	}
	g.msgs = into.Done()
	g.stateArrived(modseq, t.ops, []op{t.save}, list)
	g.changed()
	if t.kind == opCopy {
		f.a.linked[g.rel] = true
		f.a.addUsage(t.commit.bytes, t.commit.messages)
		return
	}
	f.msgs = out.Done()
	f.stateExpunged(left, gone)
	f.changed()
}

func (f *folder) copyTo(g *folder, uids []mailbox.UID) (mailbox.CopyResult, error) {
	t := transfer{f: f, g: g, kind: opCopy}
	if err := t.planAll(uids); err != nil {
		return mailbox.CopyResult{}, err
	}
	if err := f.a.fits(g.name, t.commit.bytes, t.commit.messages); err != nil {
		return mailbox.CopyResult{}, err
	}
	return t.run()
}

// translate gives the letters that mean in g what those of m mean here, and the
// keywords that have none there. Capitals mean the same everywhere; small letters
// without a meaning are left behind.
func (f *folder) translate(g *folder, m *mailbox.Message, given *claims) (letters string, words []string, err error) {
	letters = refName(m.Ref).Flags
	if f == g {
		return letters, f.marks[m.UID].words, nil
	}
	var capitals []byte
	for _, l := range []byte(letters) {
		if l < 'a' || l > 'z' {
			capitals = append(capitals, l)
		}
	}
	small, words, err := g.encode(f.flagsOf(m.UID, letters).Keywords, true, given)
	return name.Letters(string(capitals) + small), words, err
}

// Move is mailbox.Folder's. The files keep their names, and so their GUIDs.
func (h *handle) Move(uids []mailbox.UID, to string) (result mailbox.CopyResult, err error) {
	err = h.b.write("move", func() error {
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
	t := transfer{f: f, g: g, kind: opMove}
	if err := t.planAll(uids); err != nil {
		return mailbox.CopyResult{}, err
	}
	return t.run()
}

// renew is a move into the same folder: new UIDs, and nothing else.
func (f *folder) renew(uids []mailbox.UID) (mailbox.CopyResult, error) {
	result := mailbox.CopyResult{UIDValidity: f.list.Header().Validity, Source: f.pick(uids)}
	if len(result.Source) == 0 {
		return result, nil
	}
	if err := f.a.settle(); err != nil {
		return mailbox.CopyResult{}, err
	}
	first, err := f.promise(len(result.Source))
	if err != nil {
		return mailbox.CopyResult{}, err
	}
	var ops []op
	for i, uid := range result.Source {
		m := f.msgs.Get(uid)
		ops = append(ops, op{kind: opNumber, dir: f.rel, base: refBase(m.Ref), fields: f.fields[uid], uid: uint32(first) + uint32(i)})
		result.Dest = append(result.Dest, first+mailbox.UID(i))
	}
	save := f.saveOp(first, len(ops))
	all := append(slices.Clone(ops), save)
	for i, uid := range result.Source {
		if has := f.marks[uid]; !has.none() {
			all = append(all, f.markOp(ops[i].base, has))
		}
	}
	apply := func() error { return f.renewed(result.Source, ops, save) }
	_, err = f.commitNow(f.bookkeeping(), len(ops), &commit{ops: all, apply: apply})
	return result, err
}

func (f *folder) renewed(sources []mailbox.UID, ops []op, save op) error {
	modseq, err := f.state.NextModSeq()
	if err != nil {
		return err
	}
	if err := f.enlist(ops); err != nil {
		return err
	}
	e := f.msgs.Edit()
	var list []marking
	for i, uid := range sources {
		m := f.msgs.Get(uid)
		if m == nil {
			continue
		}
		if has := f.marks[uid]; !has.none() {
			list = append(list, f.mark(mailbox.UID(ops[i].uid), has))
			f.mark(uid, marks{})
		}
		now := *m
		now.UID, now.ModSeq = mailbox.UID(ops[i].uid), modseq
		f.add(e, now, ops[i].fields, false)
		f.count(m, -1)
		delete(f.fields, uid)
		e.Delete(uid)
	}
	f.msgs = e.Done()
	f.recent = slices.DeleteFunc(f.recent, func(uid mailbox.UID) bool { return f.msgs.Get(uid) == nil })
	f.stateArrived(modseq, ops, []op{save}, list)
	f.stateExpunged(modseq, sources)
	f.newVersion()
	return nil
}
