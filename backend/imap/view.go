package imap

import (
	"iter"
	"math"
	"slices"
	"strings"

	"waypost/backend/imap/search"
	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// view is what the client of one session knows of the selected folder. Message
// n of the client is told.At(n-1); only sync changes that.
type view struct {
	name     string
	folder   mailbox.Folder
	readOnly bool
	dead     bool // the session itself deleted it

	id          string // the folder's MAILBOXID
	uidValidity uint32
	version     uint64 // of the last snapshot seen
	highest     uint64 // HIGHESTMODSEQ as the client was told
	synced      uint64 // HIGHESTMODSEQ of that snapshot
	uidNext     mailbox.UID
	// anew: the session comes from elsewhere, and no snapshot was told here.
	anew bool
	// last are that snapshot's messages. told are the same, unless there are
	// leftovers: messages, rising, that are expunged and of which the client
	// could not be told yet.
	last, told mailbox.Messages
	leftovers  []mailbox.UID
	// news are what answers to commands have told, newer than told has it.
	news map[mailbox.UID]state
	// owed is what the client takes messages to be that have changed since, and of which NOTIFY
	// leaves it untold; held: so it does of new messages. own are new messages that the
	// session itself has put here.
	owed map[mailbox.UID]state
	held bool
	own  []mailbox.UID
	// keywords are all told by a FLAGS response, sorted; unknown is one that is not told
	// yet.
	keywords []string
	unknown  bool
	// recent are those of told that are \Recent in this session, noted those
	// that snapshots said to be and that sync has not looked at yet.
	recent map[mailbox.UID]struct{}
	noted  []mailbox.UID
	// ghosts are those of leftovers, rising, that were gone before the session came here: of
	// them it knows the UIDs only.
	ghosts []mailbox.UID
	// drift is what has changed since the last checkpoint.
	drift drift
	// unfetched are messages of which NOTIFY's data items are still to be told.
	unfetched []mailbox.UID
}

// state is what changes in a message.
type state struct {
	flags  mailbox.Flags
	modSeq uint64
}

func newView(name string, folder mailbox.Folder, readOnly bool, snap mailbox.Snapshot) *view {
	v := &view{
		name: name, folder: folder, readOnly: readOnly, id: snap.ID, uidValidity: snap.UIDValidity, version: snap.Version,
		highest: snap.HighestModSeq, synced: snap.HighestModSeq, uidNext: snap.UIDNext, last: snap.Messages, told: snap.Messages, keywords: snap.Keywords,
	}
	v.noted = snap.Recent
	v.settleRecent()
	return v
}

// snapshot takes one for a command. Whoever takes a snapshot must note its
// recent ones: no other will have them, unless he only looks.
func (v *view) snapshot() (mailbox.Snapshot, error) {
	snap, err := show(v.folder, v.readOnly)
	if err == nil && snap.UIDValidity == v.uidValidity {
		if v.readOnly {
			v.noted = nil // they are among them again
		}
		v.noted = append(v.noted, snap.Recent...)
	}
	return snap, err
}

// show takes a snapshot; one that is read-only does not take \Recent from others (RFC 3501, Section 6.3.2).
func show(f mailbox.Folder, readOnly bool) (mailbox.Snapshot, error) {
	if readOnly {
		return f.Peek()
	}
	return f.Snapshot()
}

// settleRecent takes over what was noted and is told by now.
func (v *view) settleRecent() {
	var later []mailbox.UID
	for _, uid := range v.noted {
		if v.told.Get(uid) != nil {
			if v.recent == nil {
				v.recent = make(map[mailbox.UID]struct{})
			}
			v.recent[uid] = struct{}{}
			v.drift.recent = append(v.drift.recent, uid)
		} else if v.held {
			later = append(later, uid)
		}
	}
	v.noted = later
}

// learn notes keywords that the client was not told of.
func (v *view) learn(f mailbox.Flags) {
	for _, k := range f.Keywords {
		if i, ok := slices.BinarySearch(v.keywords, k); !ok {
			// The old slice may be other sessions' too.
			v.keywords = slices.Insert(slices.Clip(v.keywords), i, k)
			v.unknown = true
		}
	}
}

// spell gives keywords that the folder has in another case, which are the same (RFC 9051, Section
// 9), the spelling that they have there.
func (v *view) spell(f *mailbox.Flags) {
	for i, k := range f.Keywords {
		if _, ok := slices.BinarySearch(v.keywords, k); ok {
			continue
		}
		same := func(had string) bool { return strings.EqualFold(had, k) }
		if at := slices.IndexFunc(v.keywords, same); at >= 0 {
			f.Keywords[i] = v.keywords[at]
		} else if at := slices.IndexFunc(f.Keywords[:i], same); at >= 0 {
			f.Keywords[i] = f.Keywords[at]
		}
	}
	slices.Sort(f.Keywords)
	f.Keywords = slices.Compact(f.Keywords)
}

// mailboxFlags is the FLAGS response's list.
func (v *view) mailboxFlags() []string {
	return wireFlags(nil, mailbox.Flags{System: math.MaxUint8, Keywords: v.keywords}, false)
}

// state is one of told's as the client knows it.
func (v *view) state(m *mailbox.Message) state {
	if st, ok := v.news[m.UID]; ok {
		return st
	}
	return state{m.Flags, m.ModSeq}
}

// believed is what the client takes the state of one of told's to be.
func (v *view) believed(m *mailbox.Message) state {
	if st, ok := v.owed[m.UID]; ok {
		return st
	}
	return v.state(m)
}

// anyFlags are what no message has: what the client takes for the flags of one of which that is not
// known, for the session comes from elsewhere.
const anyFlags mailbox.System = math.MaxUint8

// unsure reports that what the client takes the state of a message to be is not known.
func (v *view) unsure(uid mailbox.UID) bool {
	st, ok := v.owed[uid]
	return ok && st.flags.System == anyFlags
}

// ghost reports that nothing is known of one of told's but its UID.
func (v *view) ghost(uid mailbox.UID) bool {
	if len(v.ghosts) == 0 || len(v.leftovers) == 0 {
		return false
	}
	_, is := slices.BinarySearch(v.ghosts, uid)
	_, left := slices.BinarySearch(v.leftovers, uid)
	return is && left
}

// change notes a message's state of which the client was not told all, or which told does not have.
func (v *view) change(uid mailbox.UID, st state) {
	if m := v.told.Get(uid); m != nil && m.ModSeq == st.modSeq && m.Flags.Equal(st.flags) {
		delete(v.news, uid) // nothing was changed, and no sync will come for it
		return
	}
	if v.news == nil {
		v.news = make(map[mailbox.UID]state)
	}
	v.news[uid] = st
}

// tell notes what an answer to a command tells of a message.
func (v *view) tell(uid mailbox.UID, st state) {
	v.change(uid, st)
	delete(v.owed, uid)
	v.learn(st.flags)
}

// isRecent reports \Recent.
func (v *view) isRecent(uid mailbox.UID) bool {
	_, ok := v.recent[uid]
	return ok
}

// index finds a UID in told, or gives -1.
func (v *view) index(uid mailbox.UID) int {
	if i, ok := v.told.Find(uid); ok {
		return i
	}
	return -1
}

// lastUID is that of the last message, 0 where there is none.
func (v *view) lastUID() mailbox.UID {
	if n := v.told.Len(); n > 0 {
		return v.told.At(n - 1).UID
	}
	return 0
}

// all is told.
func (v *view) all() []search.Span { return []search.Span{{Lo: 0, Hi: v.told.Len()}} }

// resolve gives the messages of a set, as spans of told's indices, in order, that do
// not overlap. Numbers that name nothing are passed over.
func (s *session) resolve(set syntax.Set, byUID bool) []search.Span {
	v := s.view
	var spans []search.Span
	switch n := v.told.Len(); {
	case set.Saved:
		return v.spansOf(s.saved)
	case byUID:
		var last uint32
		if n > 0 {
			last = uint32(v.told.At(n - 1).UID)
		}
		for _, r := range set.Ranges {
			lo, hi := ordered(r, last)
			from, _ := v.told.Find(mailbox.UID(lo))
			to, ok := v.told.Find(mailbox.UID(hi))
			if ok {
				to++
			}
			spans = append(spans, search.Span{Lo: from, Hi: to})
		}
	default:
		for _, r := range set.Ranges {
			lo, hi := ordered(r, uint32(n))
			spans = append(spans, search.Span{Lo: int(lo) - 1, Hi: int(min(hi, uint32(n)))})
		}
	}
	return merge(spans, v.told.Len())
}

// numbers checks that a set of sequence numbers names no more than there are: more is a
// client that has lost its place. "1:*" of an empty folder is nothing.
func (s *session) numbers(set syntax.Set, byUID bool) error {
	if byUID || set.Saved || s.view.dead {
		return nil
	}
	n := max(uint32(s.view.told.Len()), 1)
	for _, r := range set.Ranges {
		if r.Start > n || r.Stop > n {
			return bad("no message has such a number")
		}
	}
	return nil
}

// spansOf gives the spans of UIDs that rise.
func (v *view) spansOf(uids []mailbox.UID) []search.Span {
	var spans []search.Span
	for _, uid := range uids {
		if i := v.index(uid); i >= 0 {
			if n := len(spans); n > 0 && spans[n-1].Hi == i {
				spans[n-1].Hi++
				continue
			}
			spans = append(spans, search.Span{Lo: i, Hi: i + 1})
		}
	}
	return spans
}

// ordered resolves '*' and puts the smaller number first (RFC 9051, Section 9:
// sequence-set).
func ordered(r syntax.Range, star uint32) (lo, hi uint32) {
	a, b := r.Start, r.Stop
	if a == 0 {
		a = star
	}
	if b == 0 {
		b = star
	}
	return min(a, b), max(a, b)
}

func merge(spans []search.Span, n int) []search.Span {
	slices.SortFunc(spans, func(a, b search.Span) int { return a.Lo - b.Lo })
	out := spans[:0]
	for _, s := range spans {
		s.Lo, s.Hi = max(s.Lo, 0), min(s.Hi, n)
		if len(out) > 0 {
			s.Lo = max(s.Lo, out[len(out)-1].Hi)
		}
		if s.Lo < s.Hi {
			out = append(out, s)
		}
	}
	return out
}

// messages gives those of spans with their indices.
func (v *view) messages(spans []search.Span) iter.Seq2[int, *mailbox.Message] {
	return func(yield func(int, *mailbox.Message) bool) {
		for _, s := range spans {
			for i, m := range v.told.From(s.Lo) {
				if i >= s.Hi {
					break
				}
				if !yield(i, m) {
					return
				}
			}
		}
	}
}

// uids gives the UIDs of spans.
func (v *view) uids(spans []search.Span) []mailbox.UID {
	n := 0
	for _, s := range spans {
		n += s.Hi - s.Lo
	}
	out := make([]mailbox.UID, 0, n)
	for _, m := range v.messages(spans) {
		out = append(out, m.UID)
	}
	return out
}
