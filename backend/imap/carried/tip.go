package carried

import (
	"errors"
	"math"

	"waypost/backend/mailbox"
	"waypost/internal/handoff"
)

// Tip is what has changed of a State since it was encoded: numbers take the place of the
// State's, and the messages told of are those of the State, with Fresh and without Gone. What it
// has no field for is as it was.
type Tip struct {
	Bads    int
	Granted int // of UnderWay, which is else as in a session at rest
	// Selected: a mailbox is selected, the State's; what follows is about it.
	Selected        bool
	Untold          bool
	UIDNext         mailbox.UID
	Highest, Synced uint64
	// Fresh and Recent were told since, in addition; Gone are gone since.
	Fresh, Gone, Recent           []mailbox.UIDRange
	Unsure, Noted, Own, Unfetched []mailbox.UIDRange
	// Updated is what has changed in the results of the State's Updates, in their order.
	Updated []Updated
	Pending []byte
}

// Updated is what came to a result and what left it.
type Updated struct{ In, Out []mailbox.UIDRange }

// AppendTip writes a Tip behind dst.
func AppendTip(dst []byte, t *Tip) []byte {
	w := writer{dst}
	w.byte(version)
	w.bools(t.Selected, t.Untold, len(t.Updated) > 0)
	w.number(uint64(t.Bads))
	w.number(uint64(t.Granted))
	if t.Selected {
		w.number(uint64(t.UIDNext))
		w.number(t.Highest)
		w.number(t.Synced)
		for _, r := range [...][]mailbox.UIDRange{t.Fresh, t.Gone, t.Recent, t.Unsure, t.Noted, t.Own, t.Unfetched} {
			w.ranges(r)
		}
	}
	if len(t.Updated) > 0 {
		w.number(uint64(len(t.Updated)))
		for _, u := range t.Updated {
			w.ranges(u.In)
			w.ranges(u.Out)
		}
	}
	w.b = append(w.b, t.Pending...)
	return w.b
}

// Apply makes of a State what it is with a tip that AppendTip has written. The errors are
// *handoff.Errors of reason Version; then s is not to be used. Pending is a part of b.
func Apply(s *State, b []byte) error {
	if len(b) == 0 || b[0] != version {
		return &handoff.Error{Reason: handoff.Version, Err: errors.New("a tip of a version that is not known")}
	}
	r := reader{b: b[1:]}
	var t Tip
	var updated bool
	r.bools(&t.Selected, &t.Untold, &updated)
	t.Bads, t.Granted = int(r.upTo(math.MaxInt32)), int(r.upTo(math.MaxInt32))
	if t.Selected {
		t.UIDNext = mailbox.UID(r.upTo(math.MaxUint32))
		t.Highest, t.Synced = r.number(), r.number()
		for _, to := range [...]*[]mailbox.UIDRange{&t.Fresh, &t.Gone, &t.Recent, &t.Unsure, &t.Noted, &t.Own, &t.Unfetched} {
			*to = r.ranges()
		}
	}
	if updated {
		for range r.count(2) {
			t.Updated = append(t.Updated, Updated{r.ranges(), r.ranges()})
		}
	}
	t.Pending = r.b
	if t.Selected != (s.Selected != nil) || updated && (s.Updates == nil || len(t.Updated) != len(s.Updates.All)) {
		r.fail()
	}
	if r.err != nil {
		return &handoff.Error{Reason: handoff.Version, Err: r.err}
	}
	s.Bads, s.Waited, s.UnderWay, s.Pending = t.Bads, 0, UnderWay{Granted: t.Granted}, t.Pending
	if sel := s.Selected; sel != nil {
		sel.Untold, sel.UIDNext, sel.Highest, sel.Synced = t.Untold, t.UIDNext, t.Highest, t.Synced
		sel.Told = mailbox.Without(mailbox.Union(sel.Told, t.Fresh), t.Gone)
		sel.Recent = mailbox.Union(sel.Recent, t.Recent)
		sel.Unsure, sel.Noted, sel.Own, sel.Unfetched = t.Unsure, t.Noted, t.Own, t.Unfetched
	}
	for i, u := range t.Updated {
		up := &s.Updates.All[i]
		up.Hits = mailbox.Without(mailbox.Union(up.Hits, u.In), u.Out)
	}
	return nil
}
