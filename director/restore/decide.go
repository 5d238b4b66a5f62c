// Package restore brings back a directory that was lost, or that went back in time
// (R10): from what the store still has (an etcd snapshot that the operator put
// back, a node's copy of the directory, or nothing) and from the fences on all
// backends' disks, which never lie about the past: the highest epoch wins.
//
// Decide is the pure rule for one user. Run closes the directory (no era: nothing
// that is guarded can change, and no cache takes what it reads for true), sweeps
// the fences, writes each record above every epoch found, sets a new era, and by
// that opens it. A user about whom the fences do not agree is left closed: the
// record is busy at a home that is none, so that mail waits and logins are told to
// come again; and at an epoch so low that no backend lets go of anything by it.
//
// Run may be broken off at any point and made again; until it has ended the
// directory stays closed. Only an operator's tool calls it, with movers stopped or
// not: without an era they change nothing.
package restore

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"waypost/director"
)

// Undecided is the home of users who are left closed, and Nobody their peer. No
// backend has such a name.
const (
	Undecided director.BackendID = "_undecided"
	Nobody    director.BackendID = "_nobody"
)

// The states of fences that count, as backends tell them (package backend/fence).
const (
	Serving    = "serving"
	Frozen     = "frozen"
	Incoming   = "incoming"
	Sealed     = "sealed"
	Gone       = "gone"
	Unreadable = "unreadable"
)

// Fence is a user's fence on one backend.
type Fence struct {
	State string
	Epoch director.Epoch
}

// World is what is known of backends.
type World struct {
	// Silent are those that may have fences and were not asked, or not believed.
	Silent map[director.BackendID]bool
	// Lost are those that will not come back; Foreign those without fences.
	Lost, Foreign map[director.BackendID]bool
}

// Claims are what is known of one user.
type Claims struct {
	// Record is what the store, or a copy of it, still has; nil: nothing.
	Record *director.Record
	// Account tells whether there is one.
	Account bool
	Fences  map[director.BackendID]Fence
}

// Verdict is what kind of decision it is.
type Verdict string

const (
	// Decided: the record says who serves the user, or that it was deleted.
	Decided Verdict = "decided"
	// Closed: nobody serves the user until an operator decides.
	Closed Verdict = "closed"
	// None: there never was a record, and there shall be none.
	None Verdict = "none"
)

// Decision is what becomes of one user.
type Decision struct {
	Verdict Verdict
	// Record is what is to be written; not for None.
	Record director.Record
	// Why explains Closed, and whatever of Decided an operator should look at.
	Why string
}

// claim is one backend's fence.
type claim struct {
	id director.BackendID
	Fence
}

// decider is one Decide.
type decider struct {
	w   World
	c   Claims
	top director.Epoch // the highest epoch of all
	// fences are the highest of those, by state, highest epoch first.
	by map[string][]claim
}

// Decide decides about one user. It is safe, whatever it decides: a backend serves
// only at the epoch of the record, which is above every fence that was found, and
// of those that were not found none can be adopted by it.
func Decide(w World, c Claims) Decision {
	d := &decider{w: w, c: c, by: map[string][]claim{}}
	if c.Record != nil && c.Record.Home == Undecided {
		d.c.Record = nil // ours, of an earlier run
	}
	for _, id := range slices.Sorted(maps.Keys(c.Fences)) {
		f := c.Fences[id]
		d.by[f.State] = append(d.by[f.State], claim{id, f})
		d.top = max(d.top, f.Epoch)
	}
	for _, list := range d.by {
		slices.SortStableFunc(list, func(a, b claim) int { return cmp.Compare(b.Epoch, a.Epoch) })
	}
	behind := d.behind()
	if d.c.Record != nil {
		d.top = max(d.top, d.c.Record.Epoch)
	}
	switch {
	case len(d.by[Unreadable]) > 0:
		return d.closed("the fence on %s cannot be read", d.by[Unreadable][0].id)
	case !behind || w.Foreign[d.home()] && len(d.by[Serving]) == 0:
		return d.byRecord(*d.c.Record)
	}
	return d.byFences()
}

// behind tells whether the fences know of something that came after the record: a
// tree, or that the home let go. Staging that is filled, or was let go of, is of
// moves that have come to nothing: a flip leaves a tree.
func (d *decider) behind() bool {
	r := d.c.Record
	if r == nil {
		return true
	}
	if f := d.c.Fences[r.Home]; f.State == Gone && f.Epoch > r.Epoch {
		return true
	}
	for _, state := range []string{Serving, Frozen, Sealed} {
		if list := d.by[state]; len(list) > 0 && list[0].Epoch > r.Epoch {
			return true
		}
	}
	// An epoch has one record. Who has a tree at this one, and is not the home, was
	// it once: the directory went back, and was written to before it was closed (R7).
	for _, c := range slices.Concat(d.by[Serving], d.by[Frozen]) {
		if c.id != r.Home && c.Epoch == r.Epoch {
			return true
		}
	}
	return false
}

func (d *decider) home() director.BackendID {
	if d.c.Record == nil {
		return ""
	}
	return d.c.Record.Home
}

func (d *decider) active(home director.BackendID, why string) Decision {
	return Decision{Verdict: Decided, Record: director.Record{Home: home, Epoch: d.top + 1, State: director.Active}, Why: why}
}

func (d *decider) deleted(home director.BackendID) Decision {
	return Decision{Verdict: Decided, Record: director.Record{Home: home, Epoch: d.top + 1, State: director.Deleted}}
}

// closed leaves the user to an operator. The record's epoch is not above that of any
// fence with a tree, known or not: by R4 frozen trees, staging and sealed ones stay.
// (What was sealed at 0, before there was a record, has no mail yet.)
func (d *decider) closed(format string, a ...any) Decision {
	low := d.top
	if len(d.w.Silent) > 0 {
		low = 1
	}
	for _, state := range []string{Serving, Frozen, Incoming, Sealed} {
		for _, c := range d.by[state] {
			low = min(low, c.Epoch)
		}
	}
	return Decision{Verdict: Closed, Why: fmt.Sprintf(format, a...),
		Record: director.Record{Home: Undecided, Epoch: max(low, 1), State: director.Busy, Peer: Nobody}}
}

// absent leaves a user closed of whom no backend has a mailbox. home refuses the
// user (R4) until one was restored there, or the user was deleted; both want a
// record that is active.
func (d *decider) absent(home director.BackendID, format string, a ...any) Decision {
	return Decision{Verdict: Closed, Why: fmt.Sprintf(format, a...),
		Record: director.Record{Home: home, Epoch: d.top + 1, State: director.Active}}
}

// byRecord is for a record that is not behind.
func (d *decider) byRecord(r director.Record) Decision {
	f := d.c.Fences[r.Home]
	whole := f.State == Serving || f.State == Frozen
	switch {
	case r.State == director.Deleted:
		return d.deleted(r.Home)
	case d.w.Foreign[r.Home]:
		return d.active(r.Home, "")
	case r.State == director.Busy && whole && f.State == Frozen && d.w.Silent[r.Peer]:
		return d.closed("%s froze the user at epoch %d for a move to %s, which did not answer", r.Home, f.Epoch, r.Peer)
	case r.State == director.Busy && whole:
		return d.active(r.Home, "") // the move is rolled back: its target served nobody
	case r.State == director.Busy && (d.w.Silent[r.Home] || d.w.Lost[r.Home]):
		return d.closed("the user was being moved from %s, which did not answer, to %s", r.Home, r.Peer)
	case d.w.Lost[r.Home]:
		return d.active(r.Home, "the home is lost: waypost backend lost restores its users")
	case d.w.Silent[r.Home]:
		return d.active(r.Home, fmt.Sprintf("the home %s did not answer; if its fence is above, it refuses the user", r.Home))
	case whole || f.State == Sealed:
		return d.active(r.Home, "")
	}
	const why = "the directory says %q, but %s has no mailbox of the user: restore it from a backup"
	if len(d.by[Serving])+len(d.by[Frozen])+len(d.by[Sealed])+len(d.w.Silent) == 0 {
		return d.absent(r.Home, why, r, r.Home)
	}
	return d.closed(why, r, r.Home)
}

// byFences is for what came after the record, or without one.
func (d *decider) byFences() Decision {
	serving, frozen, sealed := first(d.by[Serving]), first(d.by[Frozen]), first(d.by[Sealed])
	if r := d.c.Record; r != nil && r.State == director.Deleted && r.Epoch > max(serving.Epoch, frozen.Epoch, sealed.Epoch) {
		return d.deleted(r.Home)
	}
	switch {
	case serving.id != "" && serving.Epoch >= frozen.Epoch:
		return d.byServing(serving, frozen, sealed)
	case frozen.id != "":
		return d.byFrozen(frozen, sealed)
	case sealed.id != "":
		return d.bySealed(sealed)
	}
	return d.byNone()
}

func first(list []claim) claim {
	if len(list) == 0 {
		return claim{}
	}
	return list[0]
}

// twice gives the other of two that claim the same epoch.
func twice(list []claim) (director.BackendID, bool) {
	if len(list) > 1 && list[1].Epoch == list[0].Epoch {
		return list[1].id, true
	}
	return "", false
}

// byServing: whoever serves was never frozen since, so no flip came after. What let
// go of staging later was a move's target that it came back from.
func (d *decider) byServing(serving, frozen, sealed claim) Decision {
	if other, is := twice(d.by[Serving]); is {
		return d.closed("%s and %s both serve the user at epoch %d", serving.id, other, serving.Epoch)
	}
	switch {
	case frozen.id != "" && frozen.Epoch == serving.Epoch:
		return d.closed("%s serves the user at epoch %d, and %s froze it at the same", serving.id, serving.Epoch, frozen.id)
	case sealed.id != "" && sealed.Epoch > serving.Epoch:
		return d.closed("%s serves the user at epoch %d, but %s has sealed a copy at %d: one of the two disks went back", serving.id, serving.Epoch, sealed.id, sealed.Epoch)
	}
	why := ""
	if list := d.by[Serving]; len(list) > 1 {
		why = fmt.Sprintf("%s has an older mailbox that it served at epoch %d, and refuses from now on", list[1].id, list[1].Epoch)
	}
	return d.active(serving.id, why)
}

// byFrozen: a move froze the user here, and what became of it is not known from
// this backend. Its target has sealed and not adopted, or has let go: then the tree
// here is whole, and nothing was written elsewhere.
func (d *decider) byFrozen(frozen, sealed claim) Decision {
	if other, is := twice(d.by[Frozen]); is {
		return d.closed("%s and %s both froze the user at epoch %d", frozen.id, other, frozen.Epoch)
	}
	if sealed.id != "" && sealed.Epoch > frozen.Epoch {
		return d.closed("%s froze the user at epoch %d, but %s has sealed a copy at %d", frozen.id, frozen.Epoch, sealed.id, sealed.Epoch)
	}
	target := sealed.id != "" && sealed.Epoch == frozen.Epoch
	for _, c := range d.by[Incoming] {
		target = target || c.Epoch == frozen.Epoch
	}
	for _, c := range d.by[Gone] {
		if c.Epoch > frozen.Epoch+1 {
			return d.closed("%s froze the user at epoch %d, and %s let go of it at %d: it may have been the home between", frozen.id, frozen.Epoch, c.id, c.Epoch)
		}
		target = target || c.Epoch == frozen.Epoch+1
	}
	if silent := d.silent(); !target && len(silent) > 0 {
		return d.closed("%s froze the user at epoch %d for a move, and its target may be %s, which did not answer", frozen.id, frozen.Epoch, silent[0])
	}
	return d.active(frozen.id, "")
}

// bySealed: staging that is whole, and nothing else.
func (d *decider) bySealed(sealed claim) Decision {
	other, both := twice(d.by[Sealed])
	switch {
	case sealed.Epoch == 0 && d.c.Record == nil && (!d.c.Account || both):
		// No record leaves more alone than any record would: there is none so low.
		return Decision{Verdict: None, Why: fmt.Sprintf("%s has prepared a user of whom no record is known", sealed.id)}
	case both:
		return d.closed("%s and %s both sealed a copy at epoch %d, and no source is left", sealed.id, other, sealed.Epoch)
	}
	if silent := d.silent(); len(silent) > 0 && !d.goneAt(sealed.Epoch+1) {
		return d.closed("%s has sealed a copy at epoch %d, and the source may be %s, which did not answer", sealed.id, sealed.Epoch, silent[0])
	}
	for _, c := range d.by[Gone] {
		if c.Epoch > sealed.Epoch+1 {
			return d.closed("%s has sealed a copy at epoch %d, but %s let go of the user at %d", sealed.id, sealed.Epoch, c.id, c.Epoch)
		}
	}
	return d.active(sealed.id, "")
}

func (d *decider) goneAt(e director.Epoch) bool {
	return slices.ContainsFunc(d.by[Gone], func(c claim) bool { return c.Epoch == e })
}

// byNone: nobody has a tree. Without an account it was deleted; the tombstone keeps
// the epoch (R12).
func (d *decider) byNone() Decision {
	if r := d.c.Record; r != nil && r.State == director.Deleted {
		return d.deleted(r.Home)
	}
	silent := d.silent()
	switch gone := first(d.by[Gone]); {
	case len(silent) > 0:
		return d.closed("no backend that answered has a mailbox of the user; %s did not answer", silent[0])
	case gone.id != "" && (d.c.Account || d.c.Record != nil):
		return d.absent(gone.id, "no backend has a mailbox of the user: restore it from a backup, or delete the user")
	case gone.id == "":
		return d.closed("no backend has a mailbox of the user: restore it from a backup")
	default:
		return d.deleted(gone.id)
	}
}

func (d *decider) silent() []director.BackendID { return slices.Sorted(maps.Keys(d.w.Silent)) }

// Force decides as an operator says: home serves. The error says why it cannot.
func Force(c Claims, home director.BackendID) (Decision, error) {
	d := &decider{c: c}
	for _, f := range c.Fences {
		d.top = max(d.top, f.Epoch)
	}
	if c.Record != nil {
		d.top = max(d.top, c.Record.Epoch)
	}
	switch f := c.Fences[home]; f.State {
	case Serving, Frozen, Sealed:
		return d.active(home, "decided by the operator"), nil
	default:
		return Decision{}, fmt.Errorf("%s has no whole mailbox of the user (fence %q %d): %w", home, f.State, f.Epoch, director.ErrIllegal)
	}
}
