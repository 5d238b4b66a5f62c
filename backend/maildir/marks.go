package maildir

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/keywords"
	"waypost/backend/maildir/state"
)

// marks are what a message has in its folder's state: keywords beyond those that
// have letters, sorted, and its email id where its name gives another. They go by
// its UID there, and by its base in the journal.
type marks struct {
	words []string
	email string
}

func (m marks) none() bool { return len(m.words) == 0 && m.email == "" }

// The keys of marks in the state: a keyword follows the first.
const (
	wordMark  = "keyword/"
	emailMark = "emailid"
)

// maxWords is how many keywords without letters a folder can have.
const maxWords = 500 - keywords.Max

// marking is a change of a message's marks.
type marking struct {
	uid     mailbox.UID
	was, is marks
}

// mark gives a message marks in the memory; those of the result are the state's
// still to come (noteMarks).
func (f *folder) mark(uid mailbox.UID, is marks) marking {
	was := f.marks[uid]
	for _, w := range was.words {
		if f.beyond[w]--; f.beyond[w] == 0 {
			delete(f.beyond, w)
			f.vocabulary = nil
		}
	}
	for _, w := range is.words {
		if f.beyond[w]++; f.beyond[w] == 1 {
			f.vocabulary = nil
		}
	}
	if f.marks[uid] = is; is.none() {
		delete(f.marks, uid)
	}
	return marking{uid, was, is}
}

// readMarks takes over the marks that the state has.
func (f *folder) readMarks() {
	all := map[mailbox.UID]marks{}
	f.state.EachMark(func(key string, uid uint32, text string) {
		m := all[mailbox.UID(uid)]
		if word, is := strings.CutPrefix(key, wordMark); is {
			m.words = append(m.words, word)
		} else if key == emailMark {
			m.email = text
		}
		all[mailbox.UID(uid)] = m
	})
	for uid, m := range all {
		slices.Sort(m.words)
		f.mark(uid, m)
	}
}

// noteMarks takes changes of marks into the folder's state.
func (f *folder) noteMarks(modseq uint64, list []marking) {
	var records []state.Record
	set, removed := map[string][]uint32{}, map[string][]uint32{}
	for _, m := range list {
		for _, w := range m.is.words {
			if !slices.Contains(m.was.words, w) {
				set[w] = append(set[w], uint32(m.uid))
			}
		}
		for _, w := range m.was.words {
			if !slices.Contains(m.is.words, w) {
				removed[w] = append(removed[w], uint32(m.uid))
			}
		}
		if m.is.email != m.was.email {
			records = append(records, emailRecord(modseq, m.is.email, uint32(m.uid)))
		}
	}
	for w, uids := range set {
		records = append(records, state.SetMark(modseq, wordMark+w, "", uids...))
	}
	for w, uids := range removed {
		records = append(records, state.RemoveMark(modseq, wordMark+w, uids...))
	}
	if len(records) > 0 {
		f.noteState(records...)
	}
}

func emailRecord(modseq uint64, email string, uid uint32) state.Record {
	if email == "" {
		return state.RemoveMark(modseq, emailMark, uid)
	}
	return state.SetMark(modseq, emailMark, email, uid)
}

// markOp says in the journal which marks a message has.
func (f *folder) markOp(base string, m marks) op {
	return op{kind: opMarks, dir: f.rel, base: base, marks: m}
}

// flagsOf are the flags of a message that has these letters.
func (f *folder) flagsOf(uid mailbox.UID, letters string) mailbox.Flags {
	return withWords(f.flags(letters), f.marks[uid].words)
}

// withWords adds keywords. The slices stay as they are.
func withWords(flags mailbox.Flags, words []string) mailbox.Flags {
	if len(words) == 0 {
		return flags
	}
	flags.Keywords = slices.Clone(flags.Keywords)
	for _, w := range words {
		if !containsWord(flags.Keywords, w) {
			flags.Keywords = append(flags.Keywords, w)
		}
	}
	slices.Sort(flags.Keywords)
	return flags
}

// containsWord compares as keywords are compared: in any case.
func containsWord(list []string, word string) bool {
	return slices.ContainsFunc(list, func(w string) bool { return strings.EqualFold(w, word) })
}

// spelling is how a folder writes a keyword: as some message has it already.
func (f *folder) spelling(word string) string {
	for w := range maps.Keys(f.beyond) {
		if strings.EqualFold(w, word) {
			return w
		}
	}
	return word
}

// room refuses a further keyword without a letter in a folder that has too many;
// more are on their way there.
func (f *folder) room(word string, more int) error {
	if f.beyond[word] == 0 && len(f.beyond)+more >= maxWords {
		return fmt.Errorf("keyword %q: %w", word, ErrTooManyKeywords)
	}
	return nil
}

// flagEdit is a change of flags as file names and marks have it. Words are what
// Keywords come to that have no letter.
type flagEdit struct {
	mailbox.FlagChange
	letters string
	words   []string
}

// apply gives what a message has afterwards.
func (e *flagEdit) apply(f *folder, was string, has []string) (letters string, words []string) {
	letters = f.combine(was, e.Op, e.letters)
	switch e.Op {
	case mailbox.FlagsAdd:
		words = slices.Compact(slices.Sorted(slices.Values(slices.Concat(has, e.words))))
	case mailbox.FlagsRemove:
		words = slices.DeleteFunc(slices.Clone(has), func(w string) bool { return containsWord(e.Flags.Keywords, w) })
	default:
		words = e.words
	}
	// A keyword may have got a letter since.
	words = slices.DeleteFunc(slices.Clone(words), func(w string) bool {
		l := f.words.Letter(w)
		return l != 0 && strings.IndexByte(letters, l) >= 0
	})
	return letters, words
}
