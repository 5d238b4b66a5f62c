package imap

import (
	"math"
	"slices"

	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// resync is what a client says of the folder as it last knew it (RFC 7162, Section
// 3.2.5).
type resync struct {
	uidValidity uint32
	modSeq      uint64
	known       []syntax.Range // nil: all
	// seqs and uids pair sequence numbers and UIDs that the client had.
	seqs, uids []syntax.Range
}

// selectBox implements SELECT and EXAMINE (RFC 9051, Section 6.3.2 and 6.3.3).
func (s *session) selectBox(c *cmd) error {
	if err := c.SP(); err != nil {
		return err
	}
	name, err := c.Mailbox()
	if err != nil {
		return err
	}
	condstore, known, err := s.selectParams(c)
	if err == nil {
		err = c.End()
	}
	if err != nil {
		return err
	}
	had := s.view != nil
	s.unselect()
	if had && (s.enabled.qresync || s.enabled.rev2) {
		// RFC 7162, Section 3.2.11.
		s.out.Raw("* OK [CLOSED] the previous mailbox is closed").CRLF()
	}
	name = folderName(name)
	rights, err := s.box.Rights(name)
	if err != nil {
		return s.fail(err)
	}
	if !rights.Has('r') {
		return no("NOPERM", "permission denied")
	}
	folder, err := s.box.Folder(name)
	if err != nil {
		return s.fail(err)
	}
	readOnly := c.name == "EXAMINE" || !writable(rights)
	snap, err := show(folder, readOnly)
	if err != nil {
		return s.fail(err)
	}
	if condstore {
		s.enabled.condstore = true
	}
	v := newView(name, folder, readOnly, snap)
	var gone []mailbox.UIDRange
	if known = known.of(snap); known != nil {
		// Before anything is told: a SELECT that is cut off is executed again elsewhere.
		if gone, err = v.expungedSince(known.modSeq, known.agreed(v)); err != nil {
			return s.fail(err)
		}
	}
	s.view = v
	s.tellSelected(snap, rights)
	if known != nil {
		s.resync(known, gone)
	}
	c.code = "READ-WRITE"
	if readOnly {
		c.code = "READ-ONLY"
	}
	return nil
}

// writable reports rights to change anything in the folder (RFC 4314, Section 5.2).
func writable(r mailbox.Rights) bool {
	return slices.ContainsFunc([]byte("swite"), r.Has)
}

// selectParams takes SELECT's parameters (RFC 4466, Section 2.1).
func (s *session) selectParams(c *cmd) (condstore bool, known *resync, err error) {
	if !c.Take(' ') {
		return false, nil, nil
	}
	err = c.List(false, func() error {
		name, err := c.Name()
		switch {
		case err != nil:
			return err
		case name == "CONDSTORE":
			condstore = true
			return nil
		case name != "QRESYNC":
			return bad("unknown parameter")
		case !s.enabled.qresync:
			return bad("QRESYNC is not enabled")
		}
		known = &resync{}
		if err := c.SP(); err != nil {
			return err
		}
		return known.parse(c)
	})
	return condstore, known, err
}

func (r *resync) parse(c *cmd) error {
	i := 0
	return c.List(false, func() (err error) {
		i++
		switch {
		case i == 1:
			r.uidValidity, err = c.Positive()
		case i == 2:
			r.modSeq, err = c.Number64()
		case c.Peek() == '(' && r.seqs == nil:
			err = r.pairs(c)
		case i == 3:
			r.known, err = plainSet(c)
		default:
			err = syntax.Syntax("unexpected parameter of QRESYNC")
		}
		return err
	})
}

func (r *resync) pairs(c *cmd) (err error) {
	err = c.Expect('(')
	if err == nil {
		r.seqs, err = plainSet(c)
	}
	if err == nil {
		err = c.SP()
	}
	if err == nil {
		r.uids, err = plainSet(c)
	}
	if err == nil {
		err = c.Expect(')')
	}
	return err
}

// plainSet is a set without '*' and '$' (RFC 7162, Section 7: known-uids).
func plainSet(c *cmd) ([]syntax.Range, error) {
	set, err := c.Set()
	if err != nil {
		return nil, err
	}
	if set.Saved || slices.ContainsFunc(set.Ranges, func(r syntax.Range) bool { return r.Start == 0 || r.Stop == 0 }) {
		return nil, syntax.Syntax("'*' and '$' are not possible here")
	}
	return set.Ranges, nil
}

// tellSelected writes the untagged responses of SELECT.
func (s *session) tellSelected(snap mailbox.Snapshot, rights mailbox.Rights) {
	v, o := s.view, s.out
	o.Raw("* FLAGS ").Atoms(v.mailboxFlags()).CRLF()
	permanent := []string{}
	if !v.readOnly && rights.Has('w') {
		permanent = append(v.mailboxFlags(), `\*`)
	}
	o.Raw("* OK [PERMANENTFLAGS ").Atoms(permanent).Raw("] flags that can be set").CRLF()
	o.Raw("* ").Number(uint64(v.told.Len())).Raw(" EXISTS").CRLF()
	if s.enabled.rev2 {
		o.Raw("* LIST () ").String(s.separator()).SP().Mailbox(v.name).CRLF()
	} else {
		o.Raw("* ").Number(uint64(len(v.recent))).Raw(" RECENT").CRLF()
		if i := v.firstUnseen(snap.Unseen); i >= 0 && !s.enabled.uidOnly {
			o.Raw("* OK [UNSEEN ").Number(uint64(i + 1)).Raw("] first unseen").CRLF()
		}
	}
	o.Raw("* OK [UIDVALIDITY ").Number(uint64(snap.UIDValidity)).Raw("] UIDs valid").CRLF()
	o.Raw("* OK [UIDNEXT ").Number(uint64(snap.UIDNext)).Raw("] predicted next UID").CRLF()
	o.Raw("* OK [HIGHESTMODSEQ ").Number(snap.HighestModSeq).Raw("] highest").CRLF()
	if snap.ID != "" {
		o.Raw("* OK [MAILBOXID (").Raw(snap.ID).Raw(")] ok").CRLF()
	}
}

// firstUnseen gives the index of the first message without \Seen, of which there are n, or −1.
// It looks from both ends, some messages at a time: what is unseen is mostly new.
func (v *view) firstUnseen(n int) int {
	const block = 128
	for lo, hi := 0, v.told.Len(); n > 0 && lo < hi; {
		end := min(lo+block, hi)
		if first, count := v.unseenIn(lo, end); count > 0 {
			return first
		}
		lo = end
		begin := max(hi-block, lo)
		first, count := v.unseenIn(begin, hi)
		if n -= count; n <= 0 && count > 0 {
			return first
		}
		hi = begin
	}
	return -1
}

// unseenIn gives the first message without \Seen from lo on and before hi, and how many there are.
func (v *view) unseenIn(lo, hi int) (first, count int) {
	for i, m := range v.told.From(lo) {
		if i >= hi {
			break
		}
		if m.Flags.Has(mailbox.Seen) {
			continue
		}
		if count++; count == 1 {
			first = i
		}
	}
	return first, count
}

// resync tells what has changed since the client was last here: what is gone, then what is
// otherwise (RFC 7162, Section 3.2.5.2).
func (s *session) resync(known *resync, gone []mailbox.UIDRange) {
	s.tellVanished(gone, known.known)
	spans := s.view.all()
	if known.known != nil {
		spans = s.resolve(syntax.Set{Ranges: known.known}, true)
	}
	for i, m := range s.view.messages(spans) {
		if m.ModSeq > known.modSeq {
			s.tellState(i, m, true, true)
		}
	}
}

// of gives r, if it is about the folder as it is.
func (r *resync) of(snap mailbox.Snapshot) *resync {
	if r == nil || r.uidValidity != snap.UIDValidity {
		return nil
	}
	return r
}

// agreed gives the highest UID up to which the client has just the messages that there are: it
// has as many as we up to there.
func (r *resync) agreed(v *view) mailbox.UID {
	seqs, uids := expand(r.seqs), expand(r.uids)
	if len(seqs) != len(uids) {
		return 0
	}
	var last mailbox.UID
	for i, seq := range seqs {
		if int(seq) > v.told.Len() || v.told.At(int(seq)-1).UID != mailbox.UID(uids[i]) {
			break
		}
		last = mailbox.UID(uids[i])
	}
	return last
}

// maxPairs bounds the pairs that are looked at.
const maxPairs = 10000

func expand(all []syntax.Range) []uint32 {
	var out []uint32
	for _, r := range all {
		lo, hi := ordered(r, 0)
		for n := uint64(lo); n <= uint64(hi) && len(out) < maxPairs; n++ {
			out = append(out, uint32(n))
		}
	}
	return out
}

// expungedSince gives what was expunged since modSeq. Where history does not reach back it is all
// above the UID from that is not there.
func (v *view) expungedSince(modSeq uint64, from mailbox.UID) ([]mailbox.UIDRange, error) {
	history, complete, err := v.folder.ExpungedSince(modSeq)
	if err == nil && !complete {
		history = v.absent(from)
	}
	return history, err
}

// tellVanished writes VANISHED (EARLIER) for what was expunged among known (nil: all).
func (s *session) tellVanished(history []mailbox.UIDRange, known []syntax.Range) {
	gone := make([]syntax.Range, 0, len(history))
	for _, r := range history {
		gone = s.view.outside(gone, r)
	}
	if known != nil {
		gone = intersect(gone, known)
	}
	if len(gone) > 0 {
		s.out.Raw("* VANISHED (EARLIER) ").Ranges(gone).CRLF()
	}
}

// asked are the UIDs that a set names, whether there are such messages or not: '*' is whatever
// may have been the last one.
func (s *session) asked(set syntax.Set) []syntax.Range {
	if set.Saved {
		return append([]syntax.Range{}, syntax.Compact(s.saved)...)
	}
	all := slices.Clone(set.Ranges)
	for i := range all {
		lo, hi := ordered(all[i], math.MaxUint32)
		all[i] = syntax.Range{Start: lo, Stop: hi}
	}
	return all
}

// outside appends those of a range that the view has not. What it has, and the folder not any
// more, is told as gone later, with the effect on message numbers that EARLIER does not have
// (RFC 7162, Section 3.2.10.1).
func (v *view) outside(out []syntax.Range, r mailbox.UIDRange) []syntax.Range {
	next := r.First
	i, _ := v.told.Find(r.First)
	for _, m := range v.told.From(i) {
		if m.UID > r.Last {
			break
		}
		if m.UID > next {
			out = append(out, syntax.Range{Start: uint32(next), Stop: uint32(m.UID - 1)})
		}
		if m.UID == r.Last {
			return out
		}
		next = m.UID + 1
	}
	if next <= r.Last {
		out = append(out, syntax.Range{Start: uint32(next), Stop: uint32(r.Last)})
	}
	return out
}

// absent gives the UIDs above from that no message of the view has.
func (v *view) absent(from mailbox.UID) []mailbox.UIDRange {
	var out []mailbox.UIDRange
	next := from + 1
	i, _ := v.told.Find(next)
	for _, m := range v.told.From(i) {
		if m.UID > next {
			out = append(out, mailbox.UIDRange{First: next, Last: m.UID - 1})
		}
		next = m.UID + 1
	}
	if v.uidNext > next {
		out = append(out, mailbox.UIDRange{First: next, Last: v.uidNext - 1})
	}
	return out
}

// intersect gives what is in both; a rises and does not overlap.
func intersect(a, b []syntax.Range) []syntax.Range {
	b = slices.Clone(b)
	for i := range b {
		b[i].Start, b[i].Stop = ordered(b[i], 0)
	}
	slices.SortFunc(b, func(x, y syntax.Range) int { return int(int64(x.Start) - int64(y.Start)) })
	var out []syntax.Range
	for i, j := 0, 0; i < len(a) && j < len(b); {
		lo, hi := max(a[i].Start, b[j].Start), min(a[i].Stop, b[j].Stop)
		if n := len(out); n > 0 {
			lo = max(lo, out[n-1].Stop+1)
		}
		if lo <= hi {
			out = append(out, syntax.Range{Start: lo, Stop: hi})
		}
		if a[i].Stop < b[j].Stop {
			i++
		} else {
			j++
		}
	}
	return out
}

// unselect forgets the folder.
func (s *session) unselect() {
	s.drop()
	if s.view != nil {
		s.notify.left(s.view)
	}
	s.view, s.saved, s.updates = nil, nil, nil
}

// closeBox implements CLOSE and UNSELECT (RFC 9051, Section 6.4.1 and 6.4.2).
func (s *session) closeBox(c *cmd) error {
	if err := c.End(); err != nil {
		return err
	}
	if c.name == "CLOSE" && !s.view.readOnly && !s.view.dead {
		rights, err := s.viewRights()
		if err != nil {
			return s.fail(err)
		}
		// Without the right it only leaves the folder (RFC 4314, Section 4). Its OK tells no
		// HIGHESTMODSEQ: that would be above changes of others, and these removals, of which
		// the client was not told, and a resync from there would lose them.
		if rights.Has('e') {
			if _, err := s.remove(s.view.all()); err != nil {
				return err
			}
		}
	}
	s.unselect()
	return nil
}
