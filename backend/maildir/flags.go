package maildir

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/keywords"
	"waypost/backend/maildir/name"
)

// keywordsName is the file of package keywords in each folder.
const keywordsName = "dovecot-keywords"

// systemFlags pairs the letters of file names with flags. The letter P (passed)
// and any other capital are kept and mean nothing here.
var systemFlags = [...]struct {
	letter byte
	flag   mailbox.System
}{
	{'D', mailbox.Draft}, {'F', mailbox.Flagged}, {'R', mailbox.Answered},
	{'S', mailbox.Seen}, {'T', mailbox.Deleted},
}

// setWords takes over the contents of the keywords file.
func (f *folder) setWords(data []byte, file stamp) {
	words, bad := keywords.Parse(data)
	if bad > 0 {
		f.a.o.Log.Warn("maildir: lines of the keywords file not legible", "root", f.a.o.Root, "folder", f.name, "lines", bad)
	}
	f.words, f.wordsFile, f.vocabulary = words, file, nil
	clear(f.meaning)
	f.reread()
}

// reread works out anew what the letters of all messages mean.
func (f *folder) reread() {
	e := f.msgs.Edit()
	for _, m := range f.msgs.All() {
		if flags := f.flagsOf(m.UID, refName(m.Ref).Flags); !flags.Equal(m.Flags) {
			now := *m
			now.Flags = flags
			f.replace(e, m, now)
		}
	}
	f.msgs = e.Done()
}

// claims are letters that an operation has given out, and no file may carry yet.
type claims [keywords.Max]bool

// encode gives the letters of keywords, and those for which there are no letters
// left. With add, those that have none get one, durably; without, they are left
// out. Letters that are in given, where the result's are added, are not given to
// other words.
func (f *folder) encode(list []string, add bool, given *claims) (letters string, beyond []string, err error) {
	var b []byte
	words, grown := f.words, false
	var used *claims
	for _, word := range list {
		if l := words.Letter(word); l != 0 || !add {
			if l != 0 {
				b = append(b, l)
				given[l-'a'] = true
			}
			continue
		}
		if used == nil {
			used = f.lettersInUse()
		}
		word = f.spelling(word)
		l, _, err := words.Add(word, func(l byte) bool { return used[l-'a'] || given[l-'a'] })
		if errors.Is(err, keywords.ErrTooMany) {
			if err = f.room(word, len(beyond)); err == nil && !containsWord(beyond, word) {
				beyond = append(beyond, word)
			}
			if err == nil {
				continue
			}
		}
		if err != nil {
			return "", nil, fmt.Errorf("folder %q: %w", f.name, err)
		}
		given[l-'a'] = true
		grown = true
		b = append(b, l)
	}
	slices.Sort(beyond)
	if !grown && (len(b) == 0 || !f.a.unsure[f.path(keywordsName)]) {
		return string(b), beyond, nil
	}
	data := words.Format()
	if err := f.a.replace(f.path(keywordsName), data); err != nil {
		return "", nil, err
	}
	file, err := f.a.stampOf(f.path(keywordsName))
	if err != nil {
		return "", nil, err
	}
	f.setWords(data, file)
	f.step() // for Snapshot.Keywords, whatever becomes of the messages
	return string(b), beyond, nil
}

func (f *folder) lettersInUse() *claims {
	var used claims
	note := func(ref string) {
		for _, l := range []byte(refName(ref).Flags) {
			if l >= 'a' && l <= 'z' {
				used[l-'a'] = true
			}
		}
	}
	for _, m := range f.msgs.All() {
		note(m.Ref)
	}
	for _, m := range f.fresh {
		note(m.ref)
	}
	for _, c := range f.a.commits {
		for _, o := range c.ops {
			if o.dir == f.rel {
				note(refOf(false, o.file()))
			}
		}
	}
	return &used
}

// flags are what letters mean in this folder. The result is shared.
func (f *folder) flags(letters string) mailbox.Flags {
	if known, ok := f.meaning[letters]; ok {
		return known
	}
	var flags mailbox.Flags
	for _, l := range []byte(letters) {
		for _, s := range systemFlags {
			if s.letter == l {
				flags.System |= s.flag
			}
		}
		if word := f.words.Word(l); word != "" {
			flags.Keywords = append(flags.Keywords, word)
		}
	}
	slices.Sort(flags.Keywords)
	flags.Keywords = slices.Compact(flags.Keywords)
	f.meaning[strings.Clone(letters)] = flags
	return flags
}

// keywords are Snapshot.Keywords: all that have a letter, or that messages have beyond these.
func (f *folder) keywords() []string {
	if f.vocabulary == nil {
		all := make([]string, 0, len(f.beyond))
		for l := byte('a'); l <= 'z'; l++ {
			if word := f.words.Word(l); word != "" {
				all = append(all, word)
			}
		}
		all = slices.AppendSeq(all, maps.Keys(f.beyond))
		slices.Sort(all)
		f.vocabulary = slices.Clip(slices.Compact(all))
	}
	return f.vocabulary
}

// unknown are those letters that have no meaning here: a change of flags keeps
// them.
func (f *folder) unknown(letters string) string {
	var b []byte
	for _, l := range []byte(letters) {
		known := f.words.Word(l) != ""
		for _, s := range systemFlags {
			known = known || s.letter == l
		}
		if !known {
			b = append(b, l)
		}
	}
	return string(b)
}

// SetFlags is mailbox.Folder's.
func (h *handle) SetFlags(uids []mailbox.UID, change mailbox.FlagChange) (result mailbox.FlagResult, err error) {
	err = h.b.change(context.Background(), "set flags", int64(64*len(uids)), func() (c *commit, err error) {
		if err := h.sync(); err != nil {
			return nil, err
		}
		result, c, err = h.f.setFlags(uids, change)
		return c, err
	})
	return result, err
}

// setFlags renames the files at once, and leaves a commit to be waited for.
func (f *folder) setFlags(uids []mailbox.UID, change mailbox.FlagChange) (result mailbox.FlagResult, c *commit, err error) {
	if err := f.a.unstickFor(); err != nil {
		return result, nil, err
	}
	edit := flagEdit{FlagChange: change}
	words, beyond, err := f.encode(change.Flags.Keywords, change.Op != mailbox.FlagsRemove, new(claims))
	if err != nil {
		return result, nil, err
	}
	edit.letters, edit.words = systemLetters(change.Flags.System)+words, beyond
	modseq, err := f.state.NextModSeq()
	if err != nil {
		return result, nil, err
	}
	r := renames{f: f}
	var there []mailbox.UID
	for _, uid := range f.pick(uids) {
		refused := false
		is, err := f.chase(uid, func(m *mailbox.Message) error {
			if refused = change.Conditional && m.ModSeq > change.UnchangedSince; refused {
				return nil
			}
			return r.to(m, &edit)
		})
		switch {
		case err != nil:
			r.undo(modseq)
			return mailbox.FlagResult{}, nil, err
		case is && refused:
			result.Modified = append(result.Modified, uid)
		case is:
			there = append(there, uid)
		}
	}
	c = f.pending()
	if len(r.done) > 0 {
		c = r.commit(modseq)
	}
	for _, uid := range there {
		if m := f.msgs.Get(uid); m != nil {
			result.Changed = append(result.Changed, *m)
		}
	}
	return result, c, nil
}

func (f *folder) combine(old string, op mailbox.FlagOp, letters string) string {
	switch op {
	case mailbox.FlagsAdd:
		return name.Letters(old + letters)
	case mailbox.FlagsRemove:
		return name.Letters(strings.Map(func(l rune) rune {
			if strings.ContainsRune(letters, l) {
				return -1
			}
			return l
		}, old))
	default:
		return name.Letters(f.unknown(old) + letters)
	}
}

// renames changes names of messages, and can take that back.
type renames struct {
	f    *folder
	done []renamed
}

type renamed struct {
	uid     mailbox.UID
	was, is string // refs; the same where only marks change
	// words are the keywords it has beyond its letters afterwards, if marked.
	words  []string
	marked bool
}

// to gives m other flags. A message in new moves to cur: those in new have
// no letters. The memory follows in commit.
func (r *renames) to(m *mailbox.Message, edit *flagEdit) error {
	n, has := refName(m.Ref), r.f.marks[m.UID].words
	letters, words := edit.apply(r.f, n.Flags, has)
	d := renamed{m.UID, m.Ref, m.Ref, words, !slices.Equal(words, has)}
	if letters != n.Flags {
		n.Flags = letters
		d.is = refOf(false, n.String())
		if err := r.f.a.fs.Rename(r.f.path(d.was), r.f.path(d.is)); err != nil {
			return err
		}
		r.f.a.keptName(r.f.rel, n.Base, m.Size)
	}
	if d.marked || d.is != d.was {
		r.done = append(r.done, d)
	}
	return nil
}

// commit takes the renames into the memory and the journal.
func (r *renames) commit(modseq uint64) *commit {
	f := r.f
	e := f.msgs.Edit()
	ops := make([]op, 0, len(r.done))
	uids := make([]op, 0, len(r.done))
	var list []marking
	touched := append(f.bookkeeping(), f.path("cur"), f.path("new"))
	for _, d := range r.done {
		m := f.msgs.Get(d.uid)
		if m == nil || m.Ref != d.was && m.Ref != d.is {
			continue // a scan in between has seen it
		}
		n := refName(d.is)
		if d.is != d.was {
			ops = append(ops, op{kind: opFlags, dir: f.rel, base: n.Base, letters: n.Flags})
			touched = append(touched, f.path(d.is))
		}
		if d.marked {
			is := marks{d.words, f.marks[d.uid].email}
			list = append(list, f.mark(d.uid, is))
			ops = append(ops, f.markOp(n.Base, is))
		}
		uids = append(uids, op{uid: uint32(d.uid)})
		now := *m
		now.Ref, now.Flags, now.ModSeq = d.is, f.flagsOf(d.uid, n.Flags), modseq
		f.replace(e, m, now)
	}
	f.msgs = e.Done()
	f.stateChanged(modseq, uids)
	f.noteMarks(modseq, list)
	f.changed()
	c := &commit{ops: ops}
	f.made(c, touched)
	return c
}

// undo takes the renames back after an error. The folder is scanned next time,
// whatever came of it: a disk on which that fails, too, may leave some flags
// changed. Those clients will see, so that the journal must have them: else a replay
// would take the flags back that it knows.
func (r *renames) undo(modseq uint64) {
	var left []renamed
	back := map[string]string{}
	for _, d := range slices.Backward(r.done) {
		if d.is == d.was {
			continue
		}
		if err := r.f.a.fs.Rename(r.f.path(d.is), r.f.path(d.was)); err != nil {
			r.f.a.o.Log.Warn("maildir: flags not set back", "root", r.f.a.o.Root, "folder", r.f.name, "error", err)
			if !isGone(err) {
				left = append(left, d)
			}
			continue
		}
		back[r.f.path(d.is)] = r.f.path(d.was) // a scan in between has seen it there
	}
	r.f.a.renamed(back)
	if r.done = left; len(left) > 0 {
		r.commit(modseq)
	}
	r.f.a.disturbed()
	r.f.stale = true
	r.f.newVersion()
}
