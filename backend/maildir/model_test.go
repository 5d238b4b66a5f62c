package maildir

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/keywords"
)

// What a user's mailbox must hold, as far as clients were told.

// modelMsg is a message. The zero UID and date are those that nobody was told.
type modelMsg struct {
	content int
	uid     mailbox.UID
	flags   mailbox.Flags
	date    int64 // in nanoseconds
	saved   int64 // in seconds
	email   string
	// or are other flags that it may have, optional that it may be gone: a change
	// was under way.
	or       *mailbox.Flags
	optional bool
}

type modelFolder struct {
	validity uint32 // 0: not told
	id       string // "": not told
	msgs     []modelMsg
	// notes are the metadata, the ACL and the special use.
	notes map[string]string
	// crowded: it has had more keywords at once than there are letters, so that any
	// may be beyond them on some message.
	crowded bool
}

// model is one user's mailbox.
type model struct {
	folders map[string]*modelFolder
	subs    map[string]bool
	// notes are the account's metadata.
	notes map[string]string
}

func newModel() *model {
	return &model{folders: map[string]*modelFolder{mailbox.Inbox: newModelFolder()}, subs: map[string]bool{}, notes: map[string]string{}}
}

func newModelFolder() *modelFolder { return &modelFolder{notes: map[string]string{}} }

// annotated gives what is said about a folder, or the account.
func (m *model) annotated(folder string) map[string]string {
	if folder == "" {
		return m.notes
	}
	return m.folders[folder].notes
}

// used tells whether a folder has that special use.
func (m *model) used(use string) bool {
	for _, f := range m.folders {
		if f.notes[mailbox.UseEntry] == use {
			return true
		}
	}
	return false
}

func (m *model) clone() *model {
	c := &model{folders: map[string]*modelFolder{}, subs: maps.Clone(m.subs), notes: maps.Clone(m.notes)}
	for name, f := range m.folders {
		c.folders[name] = &modelFolder{f.validity, f.id, slices.Clone(f.msgs), maps.Clone(f.notes), f.crowded}
	}
	return c
}

func (m *model) names() []string { return slices.Sorted(maps.Keys(m.folders)) }

func (m *model) add(folder string, msg modelMsg) {
	f := m.folders[folder]
	f.msgs = append(f.msgs, msg)
}

func (m *model) create(folder string) {
	if m.folders[folder] == nil {
		m.folders[folder] = newModelFolder()
	}
}

// rename moves a folder with its children; the caller knows that it can be.
func (m *model) rename(from, to string) {
	for _, name := range m.names() {
		if rest, is := strings.CutPrefix(name, from); is && (rest == "" || rest[0] == '/') {
			m.folders[to+rest] = m.folders[name]
			delete(m.folders, name)
		}
	}
}

func (f *modelFolder) find(uid mailbox.UID) *modelMsg {
	for i := range f.msgs {
		if f.msgs[i].uid == uid {
			return &f.msgs[i]
		}
	}
	return nil
}

func (f *modelFolder) remove(uids []mailbox.UID) (removed []modelMsg) {
	f.msgs = slices.DeleteFunc(f.msgs, func(m modelMsg) bool {
		gone := slices.Contains(uids, m.uid)
		if gone {
			removed = append(removed, m)
		}
		return gone
	})
	slices.SortFunc(removed, func(a, b modelMsg) int { return int(a.uid) - int(b.uid) })
	return removed
}

// seenMsg and seenFolder are what a mailbox shows.
type seenMsg struct {
	mailbox.Message
	content int
	date    int64
	saved   int64
	email   string
}

type seenFolder struct {
	validity uint32
	next     mailbox.UID
	high     uint64
	msgs     []seenMsg
	id       string
	notes    map[string]string
}

type seenBox struct {
	folders map[string]*seenFolder
	subs    []string
	usage   mailbox.Usage
	notes   map[string]string
}

// told is what clients know of a folder, by UIDVALIDITY.
type told struct {
	next mailbox.UID
	high uint64
	what map[mailbox.UID]int
	// flags by UID and mod-sequence.
	flags map[string]string
}

// ledgers are all that a user's clients were told.
type ledgers map[uint32]*told

// note checks what is seen against all that was told before, and adds it.
func (l ledgers) note(name string, f *seenFolder) error {
	t := l[f.validity]
	if t == nil {
		t = &told{what: map[mailbox.UID]int{}, flags: map[string]string{}}
		l[f.validity] = t
	}
	if f.next < t.next || f.high < t.high {
		return fmt.Errorf("%s: UIDNEXT %d after %d, HIGHESTMODSEQ %d after %d", name, f.next, t.next, f.high, t.high)
	}
	t.next, t.high = f.next, f.high
	last := mailbox.UID(0)
	for _, m := range f.msgs {
		if m.UID <= last || m.UID >= f.next {
			return fmt.Errorf("%s: UID %d after %d, UIDNEXT %d", name, m.UID, last, f.next)
		}
		if m.ModSeq > f.high || m.ModSeq == 0 {
			return fmt.Errorf("%s: UID %d has MODSEQ %d of %d", name, m.UID, m.ModSeq, f.high)
		}
		last = m.UID
		if had, is := t.what[m.UID]; is && had != m.content {
			return fmt.Errorf("%s: UID %d was message %d and is %d", name, m.UID, had, m.content)
		}
		t.what[m.UID] = m.content
		key, flags := flagsKey(m), flagText(m.Flags)
		if had, is := t.flags[key]; is && had != flags {
			return fmt.Errorf("%s: UID %d at MODSEQ %d had %q and has %q", name, m.UID, m.ModSeq, had, flags)
		}
		t.flags[key] = flags
	}
	return nil
}

func flagsKey(m seenMsg) string { return fmt.Sprint(m.UID, " ", m.ModSeq) }

// match compares what is seen with the model, and on success learns from it.
func (m *model) match(seen *seenBox, l ledgers) error {
	if want, got := m.names(), slices.Sorted(maps.Keys(seen.folders)); !slices.Equal(want, got) {
		return fmt.Errorf("folders %q, want %q", got, want)
	}
	if want, got := slices.Sorted(maps.Keys(m.subs)), slices.Sorted(slices.Values(seen.subs)); !slices.Equal(want, got) {
		return fmt.Errorf("subscriptions %q, want %q", got, want)
	}
	if !maps.Equal(m.notes, seen.notes) {
		return fmt.Errorf("the account has metadata %q, want %q", seen.notes, m.notes)
	}
	for name, f := range m.folders {
		if err := f.match(seen.folders[name], l); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (f *modelFolder) match(seen *seenFolder, l ledgers) error {
	if f.validity != 0 && seen.validity != f.validity {
		return fmt.Errorf("UIDVALIDITY %d, was %d", seen.validity, f.validity)
	}
	if f.id != "" && seen.id != f.id {
		return fmt.Errorf("MAILBOXID %s, was %s", seen.id, f.id)
	}
	if !maps.Equal(f.notes, seen.notes) {
		return fmt.Errorf("metadata and rights are %q, want %q", seen.notes, f.notes)
	}
	if f.validity == 0 && l[seen.validity] != nil && len(l[seen.validity].what) > 0 {
		return fmt.Errorf("UIDVALIDITY %d was another folder's", seen.validity)
	}
	var first mailbox.UID // those that nobody was told of are numbered from here
	if t := l[seen.validity]; t != nil {
		first = t.next
	}
	f.crowd()
	left := slices.Clone(seen.msgs)
	var now []modelMsg
	for pass := range 2 {
		for _, m := range f.msgs {
			if (m.uid == 0) != (pass == 1) {
				continue
			}
			i := slices.IndexFunc(left, func(s seenMsg) bool {
				return m.uid == s.UID || m.uid == 0 && s.content == m.content && s.UID >= first && m.likes(s)
			})
			if i < 0 && m.optional {
				continue
			}
			if i < 0 {
				return fmt.Errorf("message %d, UID %d, flags %q is not there; told UIDs up to %d, left %v", m.content, m.uid, flagText(m.flags), first, left)
			}
			s := left[i]
			if !m.likes(s) && !(f.crowded && m.mixed(s)) {
				return fmt.Errorf("message %d, UID %d, flags %q, date %d, saved %d, id %s is %d, %q, %d, %d, %s", m.content, m.uid,
					flagText(m.flags), m.date, m.saved, m.email, s.content, flagText(s.Flags), s.date, s.saved, s.email)
			}
			if m.or != nil && l[seen.validity] != nil {
				// A change that nobody was told of may be in the files, and not in the
				// journal: then the mod-sequence does not tell of it.
				delete(l[seen.validity].flags, flagsKey(s))
			}
			left = slices.Delete(left, i, i+1)
			now = append(now, modelMsg{content: s.content, uid: s.UID, flags: s.Flags, date: s.date, saved: s.saved, email: s.email})
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("message %d, UID %d, flags %q should not be there", left[0].content, left[0].UID, flagText(left[0].Flags))
	}
	f.msgs, f.validity, f.id = now, seen.validity, seen.id
	return nil
}

// crowd sees whether the letters for keywords have run out.
func (f *modelFolder) crowd() {
	words := map[string]bool{}
	for _, m := range f.msgs {
		all := m.flags.Keywords
		if m.or != nil {
			all = slices.Concat(all, m.or.Keywords)
		}
		for _, w := range all {
			words[w] = true
		}
	}
	f.crowded = f.crowded || len(words) > keywords.Max
}

func (m *modelMsg) likes(s seenMsg) bool {
	return m.same(s) && (m.flags.Equal(s.Flags) || m.or != nil && m.or.Equal(s.Flags))
}

// same tells whether it is the message, whatever its flags.
func (m *modelMsg) same(s seenMsg) bool {
	return m.content == s.content && (m.date == 0 || m.date == s.date) && (m.saved == 0 || m.saved == s.saved) &&
		(m.email == "" || m.email == s.email)
}

// mixed tells whether flags are those of a change that was under way, half done:
// keywords without letters are changed apart.
func (m *modelMsg) mixed(s seenMsg) bool {
	if m.or == nil || !m.same(s) || s.Flags.System != m.flags.System && s.Flags.System != m.or.System {
		return false
	}
	was, is := m.flags.Keywords, m.or.Keywords
	for _, w := range slices.Concat(was, is, s.Flags.Keywords) {
		a, b, has := slices.Contains(was, w), slices.Contains(is, w), slices.Contains(s.Flags.Keywords, w)
		if a == b && has != a {
			return false
		}
	}
	return true
}
