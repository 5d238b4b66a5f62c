package imap

import (
	"strconv"

	"waypost/backend/imap/search"
	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// alive refuses commands on a folder that the session itself has deleted.
func (s *session) alive() error {
	if s.view.dead {
		return no("NONEXISTENT", "the selected mailbox was deleted")
	}
	return nil
}

// may refuses commands on messages for which the session lacks a right (RFC 4314, Section 4), or
// that was selected read-only.
func (s *session) may(right byte) error {
	if err := s.alive(); err != nil {
		return err
	}
	if s.view.readOnly {
		return no("NOPERM", "the mailbox was selected read-only")
	}
	rights, err := s.viewRights()
	if err != nil {
		return s.fail(err)
	}
	if !rights.Has(right) {
		return no("NOPERM", "permission denied")
	}
	return nil
}

// viewRights gives the rights on the selected folder. Where these cannot be told because
// another user's folder is not served here any more, the error says that.
func (s *session) viewRights() (mailbox.Rights, error) {
	rights, err := s.box.Rights(s.view.name)
	return rights, s.ofView(err)
}

// ofView gives, for an error, that which the selected folder has by now, if it has been fenced:
// by its name another user's folder is then simply not there.
func (s *session) ofView(err error) error {
	if err != nil {
		if _, gone := s.view.folder.Status(); fenced(gone) {
			return gone
		}
	}
	return err
}

// set takes the set of a command on messages.
func (s *session) set(c *cmd) (syntax.Set, error) {
	if err := c.SP(); err != nil {
		return syntax.Set{}, err
	}
	set, err := c.Set()
	if err == nil && set.Saved && !c.uid && s.enabled.uidOnly {
		err = bad("UIDs only")
	}
	return set, err
}

// store implements STORE and UID STORE (RFC 9051, Section 6.4.6; RFC 7162, Section 3.1.3).
func (s *session) store(c *cmd) error {
	set, err := s.set(c)
	if err != nil {
		return err
	}
	change, silent, err := s.storeArgs(c)
	if err == nil {
		err = c.End()
	}
	if err == nil {
		err = s.numbers(set, c.uid)
	}
	if err == nil {
		err = s.mayStore(change.Flags)
	}
	if err != nil {
		return err
	}
	uids := s.view.uids(s.resolve(set, c.uid))
	if len(uids) == 0 {
		return nil
	}
	s.view.spell(&change.Flags)
	r, err := s.view.folder.SetFlags(uids, change)
	if err != nil {
		return s.fail(err)
	}
	s.tellStored(c, r.Changed, change, silent)
	if len(r.Modified) > 0 {
		c.code = "MODIFIED " + s.modified(r.Modified, c.uid)
	}
	return s.out.Err()
}

// mayStore checks the rights to change flags: to any of those that are named, of which the
// folder changes no others (RFC 4314, Section 4: a NO is what clients cannot handle).
func (s *session) mayStore(f mailbox.Flags) error {
	needs := []byte{}
	if f.System&^(mailbox.Seen|mailbox.Deleted) != 0 || len(f.Keywords) > 0 {
		needs = append(needs, 'w')
	}
	if f.Has(mailbox.Seen) {
		needs = append(needs, 's')
	}
	if f.Has(mailbox.Deleted) {
		needs = append(needs, 't')
	}
	if len(needs) == 0 {
		needs = append(needs, 'w')
	}
	var err error
	for _, right := range needs {
		if err = s.may(right); err == nil {
			return nil
		}
	}
	return err
}

func (s *session) storeArgs(c *cmd) (change mailbox.FlagChange, silent bool, err error) {
	if err := c.SP(); err != nil {
		return change, false, err
	}
	if c.Peek() == '(' {
		err := c.List(false, func() error {
			if !c.TakeName("UNCHANGEDSINCE") {
				return bad("unknown modifier")
			}
			if err := c.SP(); err != nil {
				return err
			}
			n, err := c.Number64()
			change.Conditional, change.UnchangedSince = true, n
			s.enabled.condstore = true
			return err
		})
		if err == nil {
			err = c.SP()
		}
		if err != nil {
			return change, false, err
		}
	}
	change.Op = mailbox.FlagsSet
	switch {
	case c.Take('+'):
		change.Op = mailbox.FlagsAdd
	case c.Take('-'):
		change.Op = mailbox.FlagsRemove
	}
	name, err := c.Name()
	if err != nil {
		return change, false, err
	}
	silent = name == "FLAGS.SILENT"
	if name != "FLAGS" && !silent {
		return change, false, bad("unknown data item")
	}
	if err := c.SP(); err != nil {
		return change, false, err
	}
	flags, err := storeFlags(c)
	if err != nil {
		return change, false, err
	}
	change.Flags, err = parseFlags(flags)
	return change, silent, err
}

// storeFlags takes flags with or without parentheses.
func storeFlags(c *cmd) ([]string, error) {
	if c.Peek() == '(' {
		return c.Flags()
	}
	var flags []string
	for {
		f, err := c.Flag()
		if err != nil {
			return nil, err
		}
		flags = append(flags, f)
		if !c.Take(' ') {
			return flags, nil
		}
	}
}

// tellStored answers a STORE: the state of each message that was to be changed.
func (s *session) tellStored(c *cmd, changed []mailbox.Message, change mailbox.FlagChange, silent bool) {
	v := s.view
	for k := range changed {
		m := &changed[k]
		i := v.index(m.UID)
		if i < 0 {
			continue
		}
		st := state{m.Flags, m.ModSeq}
		switch {
		case silent && change.Op != mailbox.FlagsSet && v.unsure(m.UID):
			// What it makes of what the client knows, nobody knows: sync tells.
			v.change(m.UID, st)
		case silent:
			// What the client takes it to be now; if something else changed
			// the message too, sync tells.
			st.flags = applyFlags(v.believed(v.told.At(i)).flags, change.Op, change.Flags)
			v.tell(m.UID, st)
		default:
			v.tell(m.UID, st)
		}
		if silent && !s.enabled.condstore {
			v.unknown = false
			continue
		}
		s.tellKeywords()
		s.tellState(i, m, !silent, c.uid || s.enabled.qresync)
	}
}

// modified is MODIFIED's set: UIDs or sequence numbers.
func (s *session) modified(uids []mailbox.UID, byUID bool) string {
	ranges := syntax.Compact(uids)
	if !byUID {
		var numbers []uint32
		for _, uid := range uids {
			if i := s.view.index(uid); i >= 0 {
				numbers = append(numbers, uint32(i+1))
			}
		}
		ranges = syntax.Compact(numbers)
	}
	return syntax.FormatRanges(ranges)
}

// expunge implements EXPUNGE and UID EXPUNGE (RFC 9051, Section 6.4.3 and 6.4.9); sync
// tells what is gone.
func (s *session) expunge(c *cmd) error {
	var among []search.Span
	if c.uid {
		set, err := s.set(c)
		if err != nil {
			return err
		}
		among = s.resolve(set, true)
	} else {
		among = s.view.all()
	}
	if err := c.End(); err != nil {
		return err
	}
	if err := s.may('e'); err != nil {
		return err
	}
	gone, err := s.remove(among)
	c.highest = len(gone) > 0
	return err
}

// remove expunges those messages of spans that have \Deleted.
func (s *session) remove(spans []search.Span) ([]mailbox.UID, error) {
	v := s.view
	snap, err := v.snapshot()
	if err == nil && snap.UIDValidity != v.uidValidity {
		return nil, s.end(endFolder)
	}
	if err != nil {
		return nil, s.fail(err)
	}
	doomed := v.doomed(snap.Messages, merge(spans, v.told.Len()))
	if len(doomed) == 0 {
		return nil, nil
	}
	// Who takes a flag away meanwhile has been told OK: the store looks again.
	gone, err := v.folder.ExpungeDeleted(doomed)
	if err != nil {
		return nil, s.fail(err)
	}
	return gone, nil
}

// doomed gives those messages of spans that have \Deleted now.
func (v *view) doomed(now mailbox.Messages, spans []search.Span) []mailbox.UID {
	var uids []mailbox.UID
	for _, span := range spans {
		first, last := v.told.At(span.Lo).UID, v.told.At(span.Hi-1).UID
		from, _ := now.Find(first)
		for _, m := range now.From(from) {
			if m.UID > last {
				break
			}
			if m.Flags.Has(mailbox.Deleted) && v.index(m.UID) >= 0 {
				uids = append(uids, m.UID)
			}
		}
	}
	return uids
}

// copy implements COPY and UID COPY (RFC 9051, Section 6.4.7).
func (s *session) copy(c *cmd) error {
	r, err := s.transfer(c, false)
	if err != nil || len(r.Source) == 0 {
		return err
	}
	c.code = copyCode(r)
	return nil
}

// move implements RFC 6851 (RFC 9051, Section 6.4.8); sync tells what is gone from here.
func (s *session) move(c *cmd) error {
	r, err := s.transfer(c, true)
	if err != nil || len(r.Source) == 0 {
		return err
	}
	// Before the EXPUNGEs, so that a client knows why they come.
	s.out.Raw("* OK [").Raw(copyCode(r)).Raw("] moved").CRLF()
	c.highest = true
	return s.out.Err()
}

// copyCode is COPYUID (RFC 4315, Section 3).
func copyCode(r mailbox.CopyResult) string {
	return "COPYUID " + strconv.FormatUint(uint64(r.UIDValidity), 10) + " " +
		syntax.FormatRanges(syntax.Compact(r.Source)) + " " + syntax.FormatRanges(syntax.Compact(r.Dest))
}

// transfer gives an empty result where the set names no message.
func (s *session) transfer(c *cmd, move bool) (mailbox.CopyResult, error) {
	none := mailbox.CopyResult{}
	set, err := s.set(c)
	if err == nil {
		err = c.SP()
	}
	if err != nil {
		return none, err
	}
	dest, err := c.Mailbox()
	if err == nil {
		err = c.End()
	}
	if err == nil {
		err = s.numbers(set, c.uid)
	}
	if err == nil {
		err = s.alive()
	}
	if err == nil && move {
		if err = s.may('e'); err == nil {
			err = s.may('t')
		}
	}
	if err != nil {
		return none, err
	}
	dest = folderName(dest)
	if err := s.mayInsert(dest); err != nil {
		return none, err
	}
	if move && dest == s.view.name {
		return none, no("CANNOT", "the mailbox is the selected one")
	}
	uids := s.view.uids(s.resolve(set, c.uid))
	if len(uids) == 0 {
		return none, nil
	}
	do := s.view.folder.Copy
	if move {
		do = s.view.folder.Move
	}
	r, err := do(uids, dest)
	if err != nil {
		return none, s.failInto(s.ofView(err))
	}
	s.put(dest, r.Dest)
	return r, nil
}

// mayInsert checks that messages may be put into a folder, and that it is there.
func (s *session) mayInsert(name string) error {
	rights, err := s.box.Rights(name)
	if err != nil {
		return s.failInto(err)
	}
	if !rights.Has('i') {
		return no("NOPERM", "permission denied")
	}
	return nil
}
