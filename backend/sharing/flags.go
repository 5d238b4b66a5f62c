package sharing

import (
	"slices"

	"waypost/backend/mailbox"
)

// others are the system flags that w is for.
const others = mailbox.Answered | mailbox.Flagged | mailbox.Draft

// systemOf gives the system flags that rights let set and clear (RFC 4314, Section 2.1).
func systemOf(has mailbox.Rights) (may mailbox.System) {
	if has.Has('s') {
		may |= mailbox.Seen
	}
	if has.Has('t') {
		may |= mailbox.Deleted
	}
	if has.Has('w') {
		may |= others
	}
	return may
}

// settable gives those of the flags that rights let set.
func settable(f mailbox.Flags, has mailbox.Rights) mailbox.Flags {
	f.System &= systemOf(has)
	if !has.Has('w') {
		f.Keywords = nil
	}
	return f
}

// free reports rights over all flags.
func free(has mailbox.Rights) bool { return has.Has('s') && has.Has('t') && has.Has('w') }

// SetFlags needs the right to some of the flags that are named, and changes those
// (RFC 4314, Section 4); where all are replaced, the others stay.
func (f *folder) SetFlags(uids []mailbox.UID, c mailbox.FlagChange) (mailbox.FlagResult, error) {
	has, err := f.rights()
	if err != nil {
		return mailbox.FlagResult{}, err
	}
	if free(has) {
		r, err := f.Folder.SetFlags(uids, c)
		return r, f.result(err)
	}
	named := c.Flags
	c.Flags = settable(named, has)
	none := c.Flags.System == 0 && len(c.Flags.Keywords) == 0
	nothingNamed := named.System == 0 && len(named.Keywords) == 0
	if systemOf(has) == 0 || none && !nothingNamed {
		return mailbox.FlagResult{}, f.b.denied(f.Name(), has)
	}
	if c.Op == mailbox.FlagsSet {
		r, err := f.replace(uids, c, has)
		return r, f.result(err)
	}
	r, err := f.Folder.SetFlags(uids, c)
	return r, f.result(err)
}

// replace sets the flags of c, and clears the others that the viewer may: in two
// steps, as those of other kinds stay. A condition is for the first.
func (f *folder) replace(uids []mailbox.UID, c mailbox.FlagChange, has mailbox.Rights) (mailbox.FlagResult, error) {
	c.Op = mailbox.FlagsAdd
	first, err := f.Folder.SetFlags(uids, c)
	if err != nil || len(first.Changed) == 0 {
		return first, err
	}
	clear := mailbox.FlagChange{Op: mailbox.FlagsRemove}
	clear.Flags.System = systemOf(has) &^ c.Flags.System
	left := make([]mailbox.UID, len(first.Changed))
	for i, m := range first.Changed {
		left[i] = m.UID
		if has.Has('w') {
			clear.Flags.Keywords = append(clear.Flags.Keywords, m.Flags.Keywords...)
		}
	}
	slices.Sort(clear.Flags.Keywords)
	clear.Flags.Keywords = slices.DeleteFunc(slices.Compact(clear.Flags.Keywords), func(k string) bool {
		return slices.Contains(c.Flags.Keywords, k)
	})
	second, err := f.Folder.SetFlags(left, clear)
	second.Modified = first.Modified
	return second, err
}
