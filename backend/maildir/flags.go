package maildir

import (
	"context"
	"fmt"
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
	f.words, f.wordsFile = words, file
	clear(f.meaning)
	f.reread()
}

// reread works out anew what the letters of all messages mean.
func (f *folder) reread() {
	e := f.msgs.Edit()
	for _, m := range f.msgs.All() {
		if flags := f.flags(refName(m.Ref).Flags); !flags.Equal(m.Flags) {
			now := *m
			now.Flags = flags
			f.replace(e, m, now)
		}
	}
	f.msgs = e.Done()
}

// claims are letters that an operation has given out, and no file may carry yet.
type claims [keywords.Max]bool

// letters gives the letters of keywords. With add, those that have none get
// one, durably; without, they are left out. Letters that are in given, where
// the result's are added, are not given to other words.
func (f *folder) letters(list []string, add bool, given *claims) (string, error) {
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
		l, _, err := words.Add(word, func(l byte) bool { return used[l-'a'] || given[l-'a'] })
		if err != nil {
			return "", fmt.Errorf("folder %q: %w", f.name, err)
		}
		given[l-'a'] = true
		grown = true
		b = append(b, l)
	}
	if !grown && (len(b) == 0 || !f.a.unsure[f.path(keywordsName)]) {
		return string(b), nil
	}
	data := words.Format()
	if err := f.a.replace(f.path(keywordsName), data); err != nil {
		return "", err
	}
	file, err := f.a.stampOf(f.path(keywordsName))
	if err != nil {
		return "", err
	}
	f.setWords(data, file)
	return string(b), nil
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
func (h *handle) SetFlags(uids []mailbox.UID, op mailbox.FlagOp, flags mailbox.Flags) (changed []mailbox.Message, err error) {
	err = h.b.change(context.Background(), "set flags", int64(64*len(uids)), func() (c *commit, err error) {
		if err := h.sync(); err != nil {
			return nil, err
		}
		changed, c, err = h.f.setFlags(uids, op, flags)
		return c, err
	})
	return changed, err
}

// setFlags renames the files at once, and leaves a commit to be waited for.
func (f *folder) setFlags(uids []mailbox.UID, how mailbox.FlagOp, flags mailbox.Flags) ([]mailbox.Message, *commit, error) {
	if err := f.a.unstickFor(); err != nil {
		return nil, nil, err
	}
	words, err := f.letters(flags.Keywords, how != mailbox.FlagsRemove, new(claims))
	if err != nil {
		return nil, nil, err
	}
	modseq, err := f.state.NextModSeq()
	if err != nil {
		return nil, nil, err
	}
	letters := systemLetters(flags.System) + words
	r := renames{f: f}
	var there []mailbox.UID
	for _, uid := range f.pick(uids) {
		is, err := f.chase(uid, func(m *mailbox.Message) error {
			return r.to(m, f.combine(refName(m.Ref).Flags, how, letters))
		})
		if err != nil {
			r.undo(modseq)
			return nil, nil, err
		}
		if is {
			there = append(there, uid)
		}
	}
	c := f.pending()
	if len(r.done) > 0 {
		c = r.commit(modseq)
	}
	var result []mailbox.Message
	for _, uid := range there {
		if m := f.msgs.Get(uid); m != nil {
			result = append(result, *m)
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
	was, is string // refs
}

// to gives m other letters. A message in new moves to cur: those in new have
// none. The memory follows in commit.
func (r *renames) to(m *mailbox.Message, letters string) error {
	n := refName(m.Ref)
	if letters == n.Flags && !refIsNew(m.Ref) {
		return nil
	}
	n.Flags = letters
	ref := refOf(false, n.String())
	if err := r.f.a.fs.Rename(r.f.path(m.Ref), r.f.path(ref)); err != nil {
		return err
	}
	r.f.a.keptName(r.f.rel, n.Base, m.Size)
	r.done = append(r.done, renamed{m.UID, m.Ref, ref})
	return nil
}

// commit takes the renames into the memory and the journal.
func (r *renames) commit(modseq uint64) *commit {
	f := r.f
	e := f.msgs.Edit()
	ops := make([]op, 0, len(r.done))
	touched := append(f.bookkeeping(), f.path("cur"), f.path("new"))
	for _, d := range r.done {
		m := f.msgs.Get(d.uid)
		if m == nil || m.Ref != d.was && m.Ref != d.is {
			continue // a scan in between has seen it
		}
		n := refName(d.is)
		now := *m
		now.Ref, now.Flags, now.ModSeq = d.is, f.flags(n.Flags), modseq
		f.replace(e, m, now)
		ops = append(ops, op{kind: opFlags, dir: f.rel, base: n.Base, letters: n.Flags, uid: uint32(d.uid)})
		touched = append(touched, f.path(d.is))
	}
	f.msgs = e.Done()
	f.stateChanged(modseq, ops)
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
	for _, d := range slices.Backward(r.done) {
		if err := r.f.a.fs.Rename(r.f.path(d.is), r.f.path(d.was)); err != nil {
			r.f.a.o.Log.Warn("maildir: flags not set back", "root", r.f.a.o.Root, "folder", r.f.name, "error", err)
			if !isGone(err) {
				left = append(left, d)
			}
		}
	}
	if r.done = left; len(left) > 0 {
		r.commit(modseq)
	}
	r.f.a.disturbed()
	r.f.stale = true
	r.f.newVersion()
}
