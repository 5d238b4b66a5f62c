package maildir

import (
	"slices"

	"waypost/backend/index"
	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
)

// How messages come into a folder's memory, change there, and leave it.

// message makes what clients see of a message.
func (f *folder) message(uid mailbox.UID, m unnumbered, modseq uint64) mailbox.Message {
	n := refName(m.ref)
	return mailbox.Message{
		UID: uid, Flags: f.flagsOf(uid, n.Flags), Size: m.size, WireSize: m.wire,
		ModSeq: modseq, GUID: guidOf(n.Base, m.fields), Ref: m.ref,
	}
}

// add takes in a message with a higher UID than all others.
func (f *folder) add(e *mailbox.Editor, m mailbox.Message, fields string, recent bool) {
	e.Append(m)
	f.count(&m, 1)
	if fields != "" {
		f.fields[m.UID] = fields
	}
	if recent {
		f.recent = append(f.recent, m.UID)
	}
	if f.bases != nil {
		f.bases[refBase(m.Ref)] = struct{}{}
	}
}

// taken tells whether a message of the folder has that base.
func (f *folder) taken(base string) bool {
	if f.bases == nil {
		f.bases = make(map[string]struct{}, f.msgs.Len())
		for _, m := range f.msgs.All() {
			f.bases[refBase(m.Ref)] = struct{}{}
		}
	}
	_, is := f.bases[base]
	return is || slices.ContainsFunc(f.fresh, func(m unnumbered) bool { return refBase(m.ref) == base })
}

// replace puts m in the place of was, which has the same UID.
func (f *folder) replace(e *mailbox.Editor, was *mailbox.Message, m mailbox.Message) {
	f.count(was, -1)
	f.count(&m, 1)
	e.Set(m)
}

// cut takes a message out whose file has left the folder.
func (f *folder) cut(e *mailbox.Editor, m *mailbox.Message) {
	base := refBase(m.Ref)
	f.list.Forget(base)
	delete(f.bases, base)
	if f.meta != nil {
		f.meta.Forget(base)
	}
	f.count(m, -1)
	f.mark(m.UID, marks{})
	delete(f.fields, m.UID)
	if i, is := slices.BinarySearch(f.recent, m.UID); is {
		f.recent = slices.Delete(f.recent, i, i+1)
	}
	e.Delete(m.UID)
}

func (f *folder) count(m *mailbox.Message, n int) {
	if !m.Flags.Has(mailbox.Seen) {
		f.unseen += n
	}
	if m.Flags.Has(mailbox.Deleted) {
		f.deleted += n
		f.deletedBytes += int64(n) * m.WireSize
	}
	f.wireBytes += int64(n) * m.WireSize
}

// noteState takes records into the folder's state. What cannot be written now
// counts, and is written before a checkpoint passes the record that says it.
func (f *folder) noteState(records ...state.Record) {
	if err := f.state.Apply(records...); err != nil {
		f.a.o.Log.Warn("maildir: folder state not written", "root", f.a.o.Root, "folder", f.name, "error", err)
		f.a.unwritten[f] = true
	}
}

func (f *folder) stateChanged(modseq uint64, ops []op) {
	f.noteState(state.Change(modseq, uidsOf(ops)...))
}

// stateArrived is stateChanged for messages that are new in the folder, and have
// these save dates and marks.
func (f *folder) stateArrived(modseq uint64, ops, saves []op, list []marking) {
	f.stateChanged(modseq, ops)
	for _, o := range saves {
		f.noteState(saveRecord(o))
	}
	f.noteMarks(modseq, list)
}

func uidsOf(ops []op) []uint32 {
	uids := make([]uint32, len(ops))
	for i, o := range ops {
		uids[i] = o.uid
	}
	return uids
}

func (f *folder) stateExpunged(modseq uint64, uids []mailbox.UID) {
	numbers := make([]uint32, len(uids))
	for i, uid := range uids {
		numbers[i] = uint32(uid)
	}
	f.noteState(state.Expunge(modseq, numbers...))
}

// guidOf names a message for life. An older POP3 UIDL that the uidlist keeps
// stands before the GUID, so that POP3 clients know their messages again.
func guidOf(base, fields string) string {
	if fields != "" {
		e := uidlist.Entry{Fields: fields}
		for _, key := range []byte{'P', 'G'} {
			if v, ok := e.Field(key); ok && v != "" {
				return v
			}
		}
	}
	return name.Unique(base)
}

// carry hands on what the index of f knows of a message that comes from there.
func (g *folder) carry(f *folder, o op) {
	if f.meta != nil {
		if err := f.meta.Carry(o.fromBase, g.index(), o.base); err != nil {
			f.a.o.Log.Warn("maildir: index not written", "root", f.a.o.Root, "folder", g.name, "error", err)
		}
	}
}

// index gives the folder's index.
func (f *folder) index() *index.Index {
	if f.meta == nil {
		f.meta = index.Open(f.a.fs, f.path(), f.list.Header().GUID)
	}
	return f.meta
}
