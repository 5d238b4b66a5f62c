package maildir

import (
	"errors"
	"slices"
	"strings"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/uidlist"
)

// errNotPlain: something is not as it mostly is in a folder.
var errNotPlain = errors.New("not plain")

// loadFiles does what rescan does for a folder of which the memory has nothing yet, with less work for each
// message: entries, those of its uidlist, are in the order of their UIDs already. It reports false, and
// has changed nothing, where all is not plain: two files of one base, or lines without
// files in a folder that is changing, in which they may have been passed over.
func (f *folder) loadFiles(entries []uidlist.Entry, recent map[string]bool) (plain bool, err error) {
	f.stale, f.noted = false, false
	before, err := f.stamps()
	if err != nil {
		return false, nil
	}
	start := f.a.o.Now()
	refs, fresh, err := f.listFor(entries)
	if err != nil {
		return false, nil // rescan meets the same, or not
	}
	unconfirmed := start.Sub(before[0].mtime) < granularity || start.Sub(before[1].mtime) < granularity
	missing := map[string]uidlist.Entry{}
	for i, ref := range refs {
		if ref == "" {
			missing[entries[i].Base] = entries[i]
		}
	}
	if len(missing) > 0 {
		if after, err := f.stamps(); err != nil || unconfirmed || after != before {
			return false, nil
		}
	}
	f.take(entries, refs, recent)
	f.fresh = slices.Grow(f.fresh, len(fresh))
	for _, x := range fresh {
		m := f.newMessage(x, uidlist.Entry{})
		m.recent = m.recent || recent[x.Base]
		f.fresh = append(f.fresh, m)
	}
	if len(missing) > 0 {
		if err = f.vanished(missing); err == nil {
			err = f.syncForeign()
		}
	}
	if err != nil {
		f.stale = true
		return false, err
	}
	f.seen = scanned{
		stamps: before, at: start, since: start, took: f.a.o.Now().Sub(start),
		unconfirmed: unconfirmed, recent: unconfirmed,
	}
	return true, nil
}

// listFor lists the folder: refs are the places of the files of entries, fresh the others.
func (f *folder) listFor(entries []uidlist.Entry) (refs []string, fresh []found, err error) {
	refs = make([]string, len(entries))
	places := uidlist.PlacesOf(entries)
	others := map[string]bool{}
	for _, sub := range []string{"cur", "new"} {
		isNew := sub == "new"
		err := f.a.eachMessage(f.path(sub), func(file string, n name.Name) error {
			if i, is := places.Find(entries, n.Base); is {
				if refs[i] != "" {
					return errNotPlain
				}
				refs[i] = refOf(isNew, file)
				return nil
			}
			if others[n.Base] {
				return errNotPlain
			}
			others[n.Base] = true
			fresh = append(fresh, found{n, file, isNew})
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return refs, fresh, nil
}

// take takes the messages of entries that have files into the memory, which has none.
func (f *folder) take(entries []uidlist.Entry, refs []string, recent map[string]bool) {
	all := make([]mailbox.Message, 0, len(entries))
	together(refs)
	for i, e := range entries {
		ref := refs[i]
		if ref == "" {
			continue
		}
		n := refName(ref)
		m := f.sized(unnumbered{ref: ref, fields: e.Fields}, n.Base, e)
		uid := mailbox.UID(e.UID)
		all = append(all, mailbox.Message{
			UID: uid, Flags: f.flagsOf(uid, n.Flags), Size: m.size, WireSize: m.wire,
			ModSeq: f.state.ModSeq(e.UID), GUID: guidOf(n.Base, m.fields), Ref: ref,
		})
		f.count(&all[len(all)-1], 1)
		if m.fields != "" {
			f.fields[uid] = m.fields
		}
		if refIsNew(ref) || recent[n.Base] {
			f.recent = append(f.recent, uid)
		}
	}
	f.msgs = mailbox.NewMessages(all)
}

// together puts strings that are used in their order into memory in that order, some hundred in one
// piece: one that is kept keeps these.
func together(list []string) {
	var b strings.Builder
	for some := range slices.Chunk(list, 256) {
		size := 0
		for _, s := range some {
			size += len(s)
		}
		b.Reset()
		b.Grow(size)
		for _, s := range some {
			b.WriteString(s)
		}
		text := b.String()
		for i, s := range some {
			some[i], text = text[:len(s)], text[len(s):]
		}
	}
}
