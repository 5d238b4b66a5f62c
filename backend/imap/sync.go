package imap

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"waypost/backend/mailbox"
)

// errView: the folder is not the one the client was told of.
var errView = errors.New("the folder does not fit the session's view")

// difference is what a snapshot has that told has not. What it costs to find,
// and to tell, depends on the number of changes, not on that of messages.
type difference struct {
	gone    []mailbox.UID // in told and not in the snapshot, rising
	changed []mailbox.UID // with flags that the client does not know, rising
	fresh   []*mailbox.Message
	// edits are the snapshot's messages that are not like last's.
	edits []*mailbox.Message
}

// compare finds what has happened since the last snapshot. UIDs only grow, so a
// message that turns up in the middle is none of this folder, unless it is one
// that was gone and of which the client does not know that yet.
func (v *view) compare(now mailbox.Messages) (difference, error) {
	var d difference
	look := slices.Collect(maps.Keys(v.flags)) // may differ from what was told
	back := make(map[mailbox.UID]bool)
	for ch := range mailbox.Diff(v.last, now) {
		switch {
		case ch.Is == nil:
			d.gone = append(d.gone, ch.Was.UID)
			continue
		case ch.Was != nil:
		case v.told.Get(ch.Is.UID) != nil:
			back[ch.Is.UID] = true
		case v.told.Len() > 0 && v.told.At(v.told.Len()-1).UID > ch.Is.UID:
			return d, fmt.Errorf("message %d was not there before: %w", ch.Is.UID, errView)
		default:
			d.fresh = append(d.fresh, ch.Is)
			continue
		}
		d.edits = append(d.edits, ch.Is)
		look = append(look, ch.Is.UID)
	}
	for _, uid := range v.leftovers {
		if !back[uid] {
			d.gone = append(d.gone, uid)
		}
	}
	slices.Sort(d.gone)
	slices.Sort(look)
	for _, uid := range slices.Compact(look) {
		was, is := v.told.Get(uid), now.Get(uid)
		if was != nil && is != nil && !v.toldFlags(was).Equal(is.Flags) {
			d.changed = append(d.changed, uid)
		}
	}
	return d, nil
}

// sync brings the client's view up to date (RFC 9051, Section 5.2 and 7.4.1).
// Errors of the folder leave the view as it is; errView is one of them.
func (v *view) sync(w *imapserver.UpdateWriter, allowExpunge bool) error {
	snap, err := v.snapshot()
	if err != nil {
		return err
	}
	if snap.UIDValidity != v.uidValidity {
		return fmt.Errorf("UIDVALIDITY is %d, was %d: %w", snap.UIDValidity, v.uidValidity, errView)
	}
	if snap.Version == v.version && (len(v.leftovers) == 0 || !allowExpunge) {
		v.settleRecent()
		return nil
	}
	d, err := v.compare(snap.Messages)
	if err != nil {
		return err
	}
	numbers := v.take(snap, d, allowExpunge)
	return v.tell(w, d, numbers)
}

// take makes the snapshot the view, and gives the sequence numbers that are
// expunged by it, falling.
func (v *view) take(snap mailbox.Snapshot, d difference, allowExpunge bool) (expunged []uint32) {
	if len(d.gone) == 0 || allowExpunge {
		for _, uid := range slices.Backward(d.gone) {
			expunged = append(expunged, uint32(v.index(uid)+1))
			delete(v.recent, uid)
		}
		v.told, v.leftovers = snap.Messages, nil
	} else {
		v.told, v.leftovers = v.withLeftovers(d), d.gone
	}
	v.version, v.last = snap.Version, snap.Messages
	clear(v.flags)
	v.settleRecent()
	return expunged
}

// withLeftovers is told up to date, but for the messages that are gone; those
// have the flags last told.
func (v *view) withLeftovers(d difference) mailbox.Messages {
	e := v.told.Edit()
	for _, uid := range d.gone {
		if f, ok := v.flags[uid]; ok {
			m := *e.Get(uid)
			m.Flags = f
			e.Set(m)
		}
	}
	for _, m := range d.edits {
		e.Set(*m)
	}
	for _, m := range d.fresh {
		e.Append(*m)
	}
	return e.Done()
}

// tell writes the difference, of which the view has been made already.
func (v *view) tell(w *imapserver.UpdateWriter, d difference, expunged []uint32) error {
	for _, n := range expunged {
		if err := w.WriteExpunge(n); err != nil {
			return err
		}
	}
	if len(d.fresh) > 0 {
		if err := w.WriteNumMessages(uint32(v.told.Len())); err != nil {
			return err
		}
		if err := w.WriteNumRecent(uint32(len(v.recent))); err != nil {
			return err
		}
	}
	for _, uid := range d.changed {
		v.learn(v.told.Get(uid).Flags)
	}
	for _, m := range d.fresh {
		v.learn(m.Flags)
	}
	if v.learned {
		v.learned = false
		if err := w.WriteMailboxFlags(v.mailboxFlags()); err != nil {
			return err
		}
	}
	for _, uid := range d.changed {
		i := v.index(uid)
		flags := wireFlags(v.told.At(i).Flags, v.recent[uid])
		if err := w.WriteMessageFlags(uint32(i+1), imap.UID(uid), flags); err != nil {
			return err
		}
	}
	return nil
}
