package uidlist

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Ensure sees to it, after a crash, that the file has the entries want, which the
// journal knows, beside have, which Load gave; that the next UID is at least
// next; and that no damage is left. It gives all entries in the order of UIDs.
// If anything had to be mended the file is rewritten whole, and is durable with
// all in it; else it is as durable as it was before. Doing it again changes
// nothing. The error is ErrBadEntry for an entry that cannot be.
//
// Where want contradicts the file, want counts: it was told to clients. A file
// that has two UIDs keeps the higher, which it got when it came back. Entries in
// want whose files are gone do no harm: they become stale lines.
func (l *List) Ensure(have, want []Entry, next uint32) (all []Entry, err error) {
	next = max(next, l.header.Next)
	for _, e := range want {
		if e.UID == 0 || e.UID >= maxNext || !e.legible() {
			return nil, fmt.Errorf("ensure UID %d, %.300q in %s: %w", e.UID, e.Base, l.path, ErrBadEntry)
		}
		next = max(next, e.UID+1)
	}
	if next > maxNext {
		return nil, fmt.Errorf("ensure next UID %d in %s: %w", next, l.path, ErrBadEntry)
	}
	all = merge(have, want)
	if !l.doubtful && next == l.header.Next && slices.Equal(all, have) {
		return all, nil
	}
	return all, l.rewrite(all, next)
}

// merge prefers the fields of have where both have an entry: those may have
// been measured since.
func merge(have, want []Entry) []Entry {
	byUID := make(map[uint32]Entry, len(have)+len(want))
	for _, e := range have {
		byUID[e.UID] = e
	}
	for _, e := range want {
		if byUID[e.UID].Base != e.Base {
			byUID[e.UID] = e
		}
	}
	highest := make(map[string]uint32, len(byUID))
	for uid, e := range byUID {
		highest[e.Base] = max(highest[e.Base], uid)
	}
	all := slices.SortedFunc(maps.Values(byUID), func(a, b Entry) int { return cmp.Compare(a.UID, b.UID) })
	return slices.DeleteFunc(all, func(e Entry) bool { return highest[e.Base] != e.UID })
}
