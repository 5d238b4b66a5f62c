package carried

import (
	"encoding/binary"

	"waypost/backend/mailbox"
)

// version is that of the form.
const version = 1

// Encode writes a State.
func Encode(s *State) []byte {
	w := writer{make([]byte, 0, 256+len(s.Pending))}
	w.byte(version)
	w.text(s.Session)
	w.text(s.Client)
	w.text(s.User)
	w.byte(byte(s.Enabled))
	w.bools(s.Deflate, s.Selected != nil, s.Notify != nil, s.Updates != nil)
	w.number(uint64(s.Bads))
	w.number(uint64(s.Waited.Milliseconds()))
	if s.Selected != nil {
		w.selected(s.Selected)
	}
	w.ranges(s.Saved)
	if s.Updates != nil {
		w.updates(s.Updates)
	}
	if s.Notify != nil {
		w.notify(s.Notify)
	}
	u := &s.UnderWay
	w.bools(u.Answered, u.Lost)
	w.number(uint64(u.Granted))
	w.number(uint64(u.Left))
	w.number(uint64(u.After))
	w.number(uint64(len(s.Pending)))
	return append(w.b, s.Pending...)
}

type writer struct{ b []byte }

func (w *writer) byte(c byte) { w.b = append(w.b, c) }

// number writes an unsigned one, seven bits a byte.
func (w *writer) number(n uint64) { w.b = binary.AppendUvarint(w.b, n) }

func (w *writer) text(s string) {
	w.number(uint64(len(s)))
	w.b = append(w.b, s...)
}

func (w *writer) texts(all []string) {
	w.number(uint64(len(all)))
	for _, s := range all {
		w.text(s)
	}
}

// bools writes at most eight in a byte.
func (w *writer) bools(all ...bool) {
	var b byte
	for i, is := range all {
		if is {
			b |= 1 << i
		}
	}
	w.byte(b)
}

// ranges writes how far each begins behind the end of the one before it, and how long it is.
func (w *writer) ranges(all []mailbox.UIDRange) {
	w.number(uint64(len(all)))
	next := mailbox.UID(0)
	for _, r := range all {
		w.number(uint64(r.First - next))
		w.number(uint64(r.Last - r.First))
		next = r.Last
	}
}

func (w *writer) selected(s *Selected) {
	w.text(s.Name)
	w.text(s.ID)
	w.number(uint64(s.UIDValidity))
	w.bools(s.ReadOnly, s.Dead, s.Untold)
	w.ranges(s.Told)
	w.number(uint64(s.UIDNext))
	w.number(s.Highest)
	w.number(s.Synced)
	for _, r := range [][]mailbox.UIDRange{s.Unsure, s.Recent, s.Noted, s.Own, s.Unfetched} {
		w.ranges(r)
	}
	w.texts(s.Keywords)
}

func (w *writer) updates(u *Updates) {
	w.ranges(u.Stale)
	w.number(uint64(len(u.All)))
	for _, u := range u.All {
		w.text(u.Tag)
		w.bools(u.ByUID)
		w.text(u.Keys)
		w.ranges(u.Hits)
	}
}

func (w *writer) notify(n *Notify) {
	w.byte(n.Selected)
	w.bools(n.Delayed)
	w.text(n.Fetch)
	w.number(uint64(len(n.Groups)))
	for _, g := range n.Groups {
		w.byte(g.Filter)
		w.byte(g.Events)
		w.texts(g.Names)
	}
	w.entries(n.Account)
	w.number(uint64(len(n.Folders)))
	for i := range n.Folders {
		f := &n.Folders[i]
		w.text(f.Name)
		w.byte(f.Flags)
		w.text(f.ID)
		w.bools(f.Counts)
		if f.Counts {
			w.number(uint64(f.UIDValidity))
			w.number(uint64(f.UIDNext))
			w.number(uint64(f.Messages))
			w.number(uint64(f.Unseen + 1))
			w.number(f.ModSeq)
		}
		w.entries(f.Metadata)
	}
}

// entries writes one more than how many there are, 0 for nil.
func (w *writer) entries(all []Entry) {
	if all == nil {
		w.number(0)
		return
	}
	w.number(uint64(len(all)) + 1)
	for _, e := range all {
		w.text(e.Name)
		w.b = binary.BigEndian.AppendUint64(w.b, e.Hash)
	}
}
