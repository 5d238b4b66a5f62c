package maildir

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/keywords"
	"waypost/backend/maildir/name"
	"waypost/internal/durable"
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
	if !grown {
		return string(b), nil
	}
	data := words.Format()
	if err := durable.WriteFile(f.path(keywordsName), data, 0o600); err != nil {
		return "", err
	}
	file, err := stampOf(f.path(keywordsName))
	if err != nil {
		return "", err
	}
	f.setWords(data, file)
	return string(b), nil
}

func (f *folder) lettersInUse() *claims {
	var used claims
	for _, m := range slices.Concat(f.msgs, f.fresh) {
		for _, l := range []byte(m.letters()) {
			if l >= 'a' && l <= 'z' {
				used[l-'a'] = true
			}
		}
	}
	return &used
}

// letters are the flags in a message's file name.
func (m *message) letters() string {
	n, _ := name.Parse(m.file)
	return n.Flags
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
	err = h.b.change("set flags", func() error {
		if err := h.sync(); err != nil {
			return err
		}
		changed, err = h.setFlags(uids, op, flags)
		return err
	})
	return changed, err
}

func (h *handle) setFlags(uids []mailbox.UID, op mailbox.FlagOp, flags mailbox.Flags) ([]mailbox.Message, error) {
	f := h.f
	words, err := f.letters(flags.Keywords, op != mailbox.FlagsRemove, new(claims))
	if err != nil {
		return nil, err
	}
	letters := systemLetters(flags.System) + words
	open, err := f.a.openDirectories(f.path(), "cur", "new")
	if err != nil {
		return nil, err
	}
	defer closeAll(open)
	r := renames{f: f}
	var there []mailbox.UID
	for _, uid := range f.pick(uids) {
		m, err := f.chase(uid, func(m *message) error {
			return r.to(m, f.combine(m.letters(), op, letters))
		})
		if err != nil {
			r.undo()
			return nil, err
		}
		if m != nil {
			there = append(there, uid)
		}
	}
	if len(r.done) > 0 {
		f.changed()
		if err := syncAll(open[:r.touched()]); err != nil {
			return nil, err
		}
	}
	var result []mailbox.Message
	for _, uid := range there {
		if m := f.find(uid); m != nil {
			result = append(result, h.show(m))
		}
	}
	return result, nil
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
	uid      mailbox.UID
	from, to string // paths
	was      string // file name
	wasNew   bool
}

// to gives m other letters. A message in new moves to cur: those in new have
// none.
func (r *renames) to(m *message, letters string) error {
	n, _ := name.Parse(m.file)
	if letters == n.Flags && !m.isNew {
		return nil
	}
	n.Flags = letters
	file := n.String()
	from, to := r.f.where(m), r.f.path("cur", file)
	if err := os.Rename(from, to); err != nil {
		return err
	}
	r.done = append(r.done, renamed{m.uid, from, to, m.file, m.isNew})
	m.file, m.isNew = file, false
	return nil
}

// touched is how many of cur, new were changed.
func (r *renames) touched() int {
	for _, d := range r.done {
		if d.wasNew {
			return 2
		}
	}
	return 1
}

// undo takes the renames back after an error. The folder is scanned next time,
// whatever came of it.
func (r *renames) undo() {
	for _, d := range slices.Backward(r.done) {
		if err := os.Rename(d.to, d.from); err != nil {
			r.f.a.o.Log.Warn("maildir: flags not set back", "root", r.f.a.o.Root, "folder", r.f.name, "error", err)
			continue
		}
		// After an ErrRenumbered the UID may be another's.
		m := r.f.find(d.uid)
		if n, _ := name.Parse(d.was); m != nil && m.baseName() == n.Base {
			m.file, m.isNew = d.was, d.wasNew
		}
	}
	r.f.stale = true
	r.f.newVersion()
}
