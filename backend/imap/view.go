package imap

import (
	"iter"
	"math"
	"slices"

	"github.com/emersion/go-imap/v2"

	"waypost/backend/mailbox"
)

// view is what the client of one session knows of the selected folder. Message
// n of the client is told.At(n-1); only sync changes that.
type view struct {
	name     string
	folder   mailbox.Folder
	readOnly bool
	dead     bool // the session itself deleted it

	uidValidity uint32
	version     uint64 // of the last snapshot seen
	// last are that snapshot's messages. told are the same, unless there are
	// leftovers: messages, rising, that are expunged and of which the client
	// could not be told yet.
	last, told mailbox.Messages
	leftovers  []mailbox.UID
	// flags are those told by an answer to a command, newer than told's.
	flags    map[mailbox.UID]mailbox.Flags
	keywords map[string]bool // all told by a FLAGS response
	learned  bool            // keywords has one that is not told yet
	// recent are those of told that are \Recent in this session, noted those
	// that snapshots said to be and that sync has not looked at yet.
	recent map[mailbox.UID]bool
	noted  []mailbox.UID
}

func newView(name string, folder mailbox.Folder, readOnly bool, snap mailbox.Snapshot) *view {
	v := &view{
		name: name, folder: folder, readOnly: readOnly, uidValidity: snap.UIDValidity, version: snap.Version,
		last: snap.Messages, told: snap.Messages,
		flags: make(map[mailbox.UID]mailbox.Flags), keywords: make(map[string]bool), recent: make(map[mailbox.UID]bool),
	}
	for _, m := range v.told.All() {
		v.learn(m.Flags)
	}
	v.learned = false // SELECT tells them
	v.noted = snap.Recent
	v.settleRecent()
	return v
}

// snapshot takes one for a command. Whoever takes a snapshot must note its
// recent ones: no other will have them.
func (v *view) snapshot() (mailbox.Snapshot, error) {
	snap, err := v.folder.Snapshot()
	if err == nil && snap.UIDValidity == v.uidValidity {
		v.noted = append(v.noted, snap.Recent...)
	}
	return snap, err
}

// settleRecent takes over what was noted and is told by now.
func (v *view) settleRecent() {
	for _, uid := range v.noted {
		if v.told.Get(uid) != nil {
			v.recent[uid] = true
		}
	}
	v.noted = nil
}

// learn remembers keywords.
func (v *view) learn(f mailbox.Flags) {
	for _, k := range f.Keywords {
		if !v.keywords[k] {
			v.keywords[k] = true
			v.learned = true
		}
	}
}

// mailboxFlags is the FLAGS response's list.
func (v *view) mailboxFlags() []imap.Flag {
	f := mailbox.Flags{System: math.MaxUint8}
	for k := range v.keywords {
		f.Keywords = append(f.Keywords, k)
	}
	slices.Sort(f.Keywords)
	return wireFlags(f, false)
}

// toldFlags are the flags of one of told as the client knows them.
func (v *view) toldFlags(m *mailbox.Message) mailbox.Flags {
	if f, ok := v.flags[m.UID]; ok {
		return f
	}
	return m.Flags
}

// index finds a UID in told, or gives -1.
func (v *view) index(uid mailbox.UID) int {
	if i, ok := v.told.Find(uid); ok {
		return i
	}
	return -1
}

// span is a run of indices of told, hi excluded.
type span struct{ lo, hi int }

// resolve gives the messages of a set, as spans in order that do not overlap.
// Numbers that name nothing are passed over. saved is what '$' stands for.
func (v *view) resolve(set imap.NumSet, saved imap.UIDSet) []span {
	var spans []span
	n := v.told.Len()
	if imap.IsSearchRes(set) {
		set = saved
	}
	switch set := set.(type) {
	case imap.SeqSet:
		for _, r := range set {
			lo, hi := ordered(r.Start, r.Stop, uint32(n))
			spans = append(spans, span{int(lo) - 1, int(min(hi, uint32(n)))})
		}
	case imap.UIDSet:
		var last uint32
		if n > 0 {
			last = uint32(v.told.At(n - 1).UID)
		}
		for _, r := range set {
			lo, hi := ordered(uint32(r.Start), uint32(r.Stop), last)
			from, _ := v.told.Find(mailbox.UID(lo))
			to, ok := v.told.Find(mailbox.UID(hi))
			if ok {
				to++
			}
			spans = append(spans, span{from, to})
		}
	}
	return merge(spans, n)
}

// ordered resolves '*', which the library writes as 0, and puts the smaller
// number first (RFC 9051, Section 9: sequence-set).
func ordered(a, b, star uint32) (lo, hi uint32) {
	if a == 0 {
		a = star
	}
	if b == 0 {
		b = star
	}
	return min(a, b), max(a, b)
}

func merge(spans []span, n int) []span {
	slices.SortFunc(spans, func(a, b span) int { return a.lo - b.lo })
	out := spans[:0]
	for _, s := range spans {
		s.lo, s.hi = max(s.lo, 0), min(s.hi, n)
		if len(out) > 0 {
			s.lo = max(s.lo, out[len(out)-1].hi)
		}
		if s.lo < s.hi {
			out = append(out, s)
		}
	}
	return out
}

// messages gives those of spans with their indices.
func (v *view) messages(spans []span) iter.Seq2[int, *mailbox.Message] {
	return func(yield func(int, *mailbox.Message) bool) {
		for _, s := range spans {
			for i, m := range v.told.From(s.lo) {
				if i >= s.hi {
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
func (v *view) uids(spans []span) []mailbox.UID {
	var out []mailbox.UID
	for _, m := range v.messages(spans) {
		out = append(out, m.UID)
	}
	return out
}
