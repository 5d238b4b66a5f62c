package memory

import (
	"fmt"
	"slices"
	"time"

	"waypost/backend/mailbox"
)

// folder is a folder's content; the user's lock guards it.
type folder struct {
	user        *user
	name        string
	gone        bool
	uidValidity uint32
	uidNext     mailbox.UID
	// recentFrom: messages from this UID on were shown by no Snapshot yet.
	recentFrom mailbox.UID
	version    uint64
	modSeq     uint64        // of the last change
	changed    chan struct{} // closed at the next change
	msgs       mailbox.Messages
	unseen     int
	// keywords are those that messages have or had, sorted; never changed.
	keywords []string
	contents map[mailbox.UID]*content  // of msgs
	saved    map[mailbox.UID]time.Time // of msgs
	// id is the MAILBOXID.
	id string
	// history has expunges, rising by mod-sequence; of those up to forgot nothing
	// is in it.
	history  []expunge
	forgot   uint64
	use      string
	metadata map[string]string
	acl      mailbox.ACL
}

// expunge is that of one message.
type expunge struct {
	modSeq uint64
	uid    mailbox.UID
}

// maxHistory is how many expunges are remembered.
const maxHistory = 10_000

// content is what a message says, for all its copies.
type content struct {
	id   string // EMAILID
	date time.Time
	wire []byte
	meta *mailbox.Meta // nil until somebody asks
}

func (u *user) newFolder(name string) *folder {
	u.uidValidity++
	return &folder{
		id: fmt.Sprint("f", u.uidValidity), saved: make(map[mailbox.UID]time.Time), metadata: make(map[string]string), acl: make(mailbox.ACL),
		user: u, name: name, uidValidity: u.uidValidity, uidNext: 1, recentFrom: 1,
		version: 1, modSeq: 1, changed: make(chan struct{}), contents: make(map[mailbox.UID]*content),
	}
}

// touch tells everybody that the folder changed.
func (f *folder) touch() {
	f.version++
	if !f.gone {
		f.user.feed.Messages(f.name)
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

// append puts a staged message in an edit of f.msgs. commit follows.
func (f *folder) append(e *mailbox.Editor, s mailbox.Staged, flags mailbox.Flags, date time.Time) mailbox.UID {
	f.user.guid++
	return f.add(e, mailbox.Message{
		Flags: normal(flags), Size: s.Size(), WireSize: s.WireSize(), GUID: f.user.lastGUID(),
	}, &content{id: f.user.lastGUID(), date: date, wire: s.(*staged).wire})
}

func (u *user) lastGUID() string { return fmt.Sprintf("%016x", u.guid) }

// add puts a message in an edit of f.msgs, under a new UID. commit follows.
func (f *folder) add(e *mailbox.Editor, m mailbox.Message, c *content) mailbox.UID {
	m.UID, m.ModSeq = f.uidNext, f.modSeq+1
	f.uidNext++
	f.contents[m.UID] = c
	f.saved[m.UID] = time.Unix(time.Now().Unix(), 0)
	f.learn(m.Flags)
	if !m.Flags.Has(mailbox.Seen) {
		f.unseen++
	}
	e.Append(m)
	return m.UID
}

// learn notes keywords.
func (f *folder) learn(flags mailbox.Flags) {
	for _, w := range flags.Keywords {
		if i, ok := slices.BinarySearch(f.keywords, w); !ok {
			f.keywords = slices.Insert(slices.Clip(f.keywords), i, w)
		}
	}
}

// drop takes a message out in an edit of f.msgs. commit follows.
func (f *folder) drop(e *mailbox.Editor, m *mailbox.Message) {
	if !m.Flags.Has(mailbox.Seen) {
		f.unseen--
	}
	delete(f.contents, m.UID)
	delete(f.saved, m.UID)
	e.Delete(m.UID)
}

// expunged notes that a message is gone since the latest mod-sequence.
func (f *folder) expunged(uid mailbox.UID) {
	f.history = append(f.history, expunge{f.modSeq, uid})
	if len(f.history) > maxHistory {
		f.forgot = f.history[maxHistory/2].modSeq
		f.history = slices.DeleteFunc(f.history, func(x expunge) bool { return x.modSeq <= f.forgot })
	}
}

// commit makes an edit the folder's state.
func (f *folder) commit(e *mailbox.Editor) {
	f.modSeq++
	f.msgs = e.Done()
	f.touch()
}

// empty takes all messages out and returns what was there. commit follows,
// unless nothing was.
func (f *folder) empty() (mailbox.Messages, map[mailbox.UID]*content) {
	msgs, contents := f.msgs, f.contents
	f.msgs, f.contents, f.unseen = mailbox.Messages{}, make(map[mailbox.UID]*content), 0
	f.saved = make(map[mailbox.UID]time.Time)
	return msgs, contents
}

// fill puts messages of another place in, under new UIDs.
func (f *folder) fill(msgs mailbox.Messages, contents map[mailbox.UID]*content) {
	e := f.msgs.Edit()
	for _, m := range msgs.All() {
		f.add(e, *m, contents[m.UID])
	}
	f.commit(e)
}

// normal gives keywords sorted and without repetition, in a slice of its own.
func normal(f mailbox.Flags) mailbox.Flags {
	f.Keywords = slices.Compact(slices.Sorted(slices.Values(f.Keywords)))
	return f
}

// setFlags changes flags and returns the messages as they are afterwards.
func (f *folder) setFlags(uids []mailbox.UID, c mailbox.FlagChange) (r mailbox.FlagResult) {
	e := f.msgs.Edit()
	changed := false
	for _, uid := range slices.Compact(slices.Sorted(slices.Values(uids))) {
		old := e.Get(uid)
		if old == nil {
			continue
		}
		if c.Conditional && old.ModSeq > c.UnchangedSince {
			r.Modified = append(r.Modified, uid)
			continue
		}
		m := *old
		m.Flags = apply(old.Flags, c.Op, c.Flags)
		if !m.Flags.Equal(old.Flags) {
			f.unseen += unseen(m.Flags) - unseen(old.Flags)
			m.ModSeq = f.modSeq + 1
			changed = e.Set(m)
			f.learn(m.Flags)
		}
		r.Changed = append(r.Changed, m)
	}
	if changed {
		f.commit(e)
	}
	return r
}

// unseen is 1 without Seen.
func unseen(f mailbox.Flags) int {
	if f.Has(mailbox.Seen) {
		return 0
	}
	return 1
}

// apply makes the flags after an operation; the slices of both stay as they are.
func apply(old mailbox.Flags, op mailbox.FlagOp, f mailbox.Flags) mailbox.Flags {
	switch op {
	case mailbox.FlagsAdd:
		old.System |= f.System
		old.Keywords = slices.Concat(old.Keywords, f.Keywords)
	case mailbox.FlagsRemove:
		old.System &^= f.System
		old.Keywords = slices.DeleteFunc(slices.Clone(old.Keywords), func(k string) bool {
			return slices.Contains(f.Keywords, k)
		})
	default:
		old = f
	}
	return normal(old)
}

// remove takes messages out and returns those that were there, rising.
func (f *folder) remove(uids []mailbox.UID) []mailbox.UID {
	e := f.msgs.Edit()
	var gone []mailbox.UID
	for _, uid := range uids {
		if m := e.Get(uid); m != nil {
			f.drop(e, m)
			gone = append(gone, uid)
		}
	}
	slices.Sort(gone)
	if len(gone) > 0 {
		f.commit(e)
		for _, uid := range gone {
			f.expunged(uid)
		}
	}
	return gone
}
