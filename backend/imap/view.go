package imap

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"sort"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"waypost/backend/mailbox"
)

// errView: the folder is not the one the client was told of.
var errView = errors.New("the folder does not fit the session's view")

// view is what the client of one session knows of the selected folder. Message
// n of the client is told[n-1]; only sync changes that.
type view struct {
	name     string
	folder   mailbox.Folder
	readOnly bool
	dead     bool // the session itself deleted it

	uidValidity uint32
	version     uint64 // of the last snapshot seen
	// told is in sequence order. It is the snapshot's own slice, never written
	// to, unless leftover: then it holds expunged messages that the client
	// could not be told of yet.
	told     []mailbox.Message
	leftover bool
	// flags are those told by an answer to a command, newer than told's.
	flags    map[mailbox.UID]mailbox.Flags
	keywords map[string]bool // all told by a FLAGS response
	learned  bool            // keywords has one that is not told yet
}

func newView(name string, folder mailbox.Folder, readOnly bool, snap mailbox.Snapshot) *view {
	v := &view{
		name: name, folder: folder, readOnly: readOnly, uidValidity: snap.UIDValidity, version: snap.Version,
		told: snap.Messages, flags: make(map[mailbox.UID]mailbox.Flags), keywords: make(map[string]bool),
	}
	for i := range v.told {
		v.learn(v.told[i].Flags)
	}
	v.learned = false // SELECT tells them
	return v
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

// toldFlags are the flags of told[i] as the client knows them.
func (v *view) toldFlags(i int) mailbox.Flags {
	if f, ok := v.flags[v.told[i].UID]; ok {
		return f
	}
	return v.told[i].Flags
}

// index finds a UID in told, or gives -1.
func (v *view) index(uid mailbox.UID) int {
	i, ok := slices.BinarySearchFunc(v.told, uid, func(m mailbox.Message, uid mailbox.UID) int {
		return int(int64(m.UID) - int64(uid))
	})
	if !ok {
		return -1
	}
	return i
}

func countRecent(msgs []mailbox.Message) uint32 {
	var n uint32
	for i := range msgs {
		if msgs[i].Recent {
			n++
		}
	}
	return n
}

// difference is what a snapshot has that told has not.
type difference struct {
	gone    []int    // indices in told, rising
	changed [][2]int // indices in told and in the snapshot
	fresh   int      // new messages at the snapshot's end
}

// compare walks both by UID. UIDs only grow, so a message that turns up in the
// middle is none of this folder.
func (v *view) compare(now []mailbox.Message) (difference, error) {
	var d difference
	i, j := 0, 0
	for i < len(v.told) && j < len(now) {
		switch {
		case v.told[i].UID == now[j].UID:
			if !v.toldFlags(i).Equal(now[j].Flags) {
				d.changed = append(d.changed, [2]int{i, j})
			}
			i++
			j++
		case v.told[i].UID < now[j].UID:
			d.gone = append(d.gone, i)
			i++
		default:
			return d, fmt.Errorf("message %d was not there before: %w", now[j].UID, errView)
		}
	}
	for ; i < len(v.told); i++ {
		d.gone = append(d.gone, i)
	}
	d.fresh = len(now) - j
	return d, nil
}

// sync brings the client's view up to date (RFC 9051, Section 5.2 and 7.4.1).
// Errors of the folder leave the view as it is; errView is one of them.
func (v *view) sync(w *imapserver.UpdateWriter, allowExpunge bool) error {
	snap, err := v.folder.Snapshot()
	if err != nil {
		return err
	}
	if snap.UIDValidity != v.uidValidity {
		return fmt.Errorf("UIDVALIDITY is %d, was %d: %w", snap.UIDValidity, v.uidValidity, errView)
	}
	if snap.Version == v.version && (!v.leftover || !allowExpunge) {
		return nil
	}
	d, err := v.compare(snap.Messages)
	if err != nil {
		return err
	}
	v.version = snap.Version
	next := snap.Messages
	leftover := len(d.gone) > 0 && !allowExpunge
	if leftover {
		next = v.withLeftovers(snap.Messages, d)
	}
	v.told, v.leftover = next, leftover
	clear(v.flags)
	return v.tell(w, d, snap.Messages)
}

// withLeftovers puts the messages that are gone into the snapshot's place, with
// the flags last told.
func (v *view) withLeftovers(now []mailbox.Message, d difference) []mailbox.Message {
	next := make([]mailbox.Message, 0, len(v.told)+d.fresh)
	next = append(next, v.told...)
	for _, i := range d.gone {
		next[i].Flags = v.toldFlags(i)
	}
	for i, j := 0, 0; i < len(next) && j < len(now); i++ {
		if next[i].UID == now[j].UID {
			next[i] = now[j]
			j++
		}
	}
	return append(next, now[len(now)-d.fresh:]...)
}

// tell writes the difference.
func (v *view) tell(w *imapserver.UpdateWriter, d difference, now []mailbox.Message) error {
	if !v.leftover {
		for _, i := range slices.Backward(d.gone) {
			if err := w.WriteExpunge(uint32(i + 1)); err != nil {
				return err
			}
		}
	}
	if d.fresh > 0 {
		if err := w.WriteNumMessages(uint32(len(v.told))); err != nil {
			return err
		}
		if err := w.WriteNumRecent(countRecent(v.told)); err != nil {
			return err
		}
	}
	for _, c := range d.changed {
		v.learn(now[c[1]].Flags)
	}
	for i := len(now) - d.fresh; i < len(now); i++ {
		v.learn(now[i].Flags)
	}
	if v.learned {
		v.learned = false
		if err := w.WriteMailboxFlags(v.mailboxFlags()); err != nil {
			return err
		}
	}
	for _, c := range d.changed {
		n := c[1] + 1
		if v.leftover {
			n = c[0] + 1
		}
		m := now[c[1]]
		if err := w.WriteMessageFlags(uint32(n), imap.UID(m.UID), wireFlags(m.Flags, m.Recent)); err != nil {
			return err
		}
	}
	return nil
}

// span is a run of indices of told, hi excluded.
type span struct{ lo, hi int }

// resolve gives the messages of a set, as spans in order that do not overlap.
// Numbers that name nothing are passed over. saved is what '$' stands for.
func (v *view) resolve(set imap.NumSet, saved imap.UIDSet) []span {
	var spans []span
	n := len(v.told)
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
			last = uint32(v.told[n-1].UID)
		}
		for _, r := range set {
			lo, hi := ordered(uint32(r.Start), uint32(r.Stop), last)
			from := sort.Search(n, func(i int) bool { return uint32(v.told[i].UID) >= lo })
			to := sort.Search(n, func(i int) bool { return uint32(v.told[i].UID) > hi })
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

// each gives the indices of spans.
func each(spans []span) iter.Seq[int] {
	return func(yield func(int) bool) {
		for _, s := range spans {
			for i := s.lo; i < s.hi; i++ {
				if !yield(i) {
					return
				}
			}
		}
	}
}

// uids gives the UIDs of spans.
func (v *view) uids(spans []span) []mailbox.UID {
	var out []mailbox.UID
	for i := range each(spans) {
		out = append(out, v.told[i].UID)
	}
	return out
}
