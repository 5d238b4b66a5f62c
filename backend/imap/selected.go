package imap

import (
	"errors"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"waypost/backend/mailbox"
)

// retryAfter is how long IDLE waits before it reads a folder again that could
// not be read.
const retryAfter = 10 * time.Second

// selected gives the view, or the error for a folder that is no more.
func (s *session) selected() (*view, error) {
	if s.view == nil || s.view.dead {
		return nil, no(imap.ResponseCodeNonExistent, "the selected mailbox was deleted")
	}
	return s.view, nil
}

// writable is selected for commands that change messages.
func (s *session) writable() (*view, error) {
	v, err := s.selected()
	if err == nil && v.readOnly {
		err = no(imap.ResponseCodeNoPerm, "the mailbox was selected read-only")
	}
	return v, err
}

// unselect forgets the folder.
func (s *session) unselect() {
	s.dropBody()
	s.view, s.saved = nil, nil
}

// Select implements SELECT and EXAMINE.
func (s *session) Select(name string, o *imap.SelectOptions) (*imap.SelectData, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unselect()
	name = folderName(name)
	folder, err := s.box.Folder(name)
	if err != nil {
		return nil, s.fail("SELECT", err)
	}
	snap, err := folder.Snapshot()
	if err != nil {
		return nil, s.fail("SELECT", err)
	}
	v := newView(name, folder, o.ReadOnly, snap)
	s.view = v
	data := &imap.SelectData{
		Flags: v.mailboxFlags(), NumMessages: uint32(v.told.Len()), NumRecent: uint32(len(v.recent)),
		UIDNext: imap.UID(snap.UIDNext), UIDValidity: snap.UIDValidity,
	}
	if !o.ReadOnly {
		data.PermanentFlags = append(v.mailboxFlags(), imap.FlagWildcard)
	}
	if snap.Unseen > 0 {
		data.FirstUnseenSeqNum = v.firstUnseen()
	}
	return data, nil
}

// firstUnseen gives a sequence number, or 0.
func (v *view) firstUnseen() uint32 {
	for i, m := range v.told.All() {
		if !m.Flags.Has(mailbox.Seen) {
			return uint32(i + 1)
		}
	}
	return 0
}

// Unselect implements UNSELECT, and the end of CLOSE.
func (s *session) Unselect() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unselect()
	return nil
}

// Poll tells, before a command's OK, what has changed. The command has been
// done: nothing here makes it fail. A fence ends the session behind the OK.
func (s *session) Poll(w *imapserver.UpdateWriter, allowExpunge bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.view == nil || s.view.dead {
		return nil
	}
	switch err := s.view.sync(w, allowExpunge); {
	case err == nil:
	case fenced(err):
		s.c.end(endMoving)
	case renumbered(err), errors.Is(err, mailbox.ErrNoFolder):
		s.c.end(endFolder)
	default:
		s.srv.metrics.failures.Inc()
		s.log.Warn("imap view not brought up to date", "folder", s.view.name, "error", err)
	}
	return nil
}

// Idle implements RFC 2177 (RFC 9051, Section 6.3.13). That the session must
// end, the reading side learns.
func (s *session) Idle(w *imapserver.UpdateWriter, stop <-chan struct{}) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.idling.Add(1)
	defer s.idling.Done()
	s.dropBody()
	s.mu.Unlock()
	for {
		changed, retry, err := s.idleOnce(w, stop)
		if err != nil {
			return err
		}
		select {
		case <-stop:
			return nil
		case <-changed:
		case <-retry:
		}
	}
}

// idleOnce brings the client up to date and gives what to wait for.
func (s *session) idleOnce(w *imapserver.UpdateWriter, stop <-chan struct{}) (changed <-chan struct{}, retry <-chan time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-stop:
		return nil, nil, nil
	default:
	}
	if s.view == nil || s.view.dead {
		return nil, nil, nil
	}
	err = s.view.sync(w, true)
	switch {
	case err == nil:
		if err := s.c.flush(); err != nil {
			return nil, nil, err
		}
		return s.view.folder.Changed(s.view.version), nil, nil
	case fenced(err):
		s.c.end(endMoving)
	case renumbered(err), errors.Is(err, mailbox.ErrNoFolder):
		s.c.end(endFolder)
	default:
		s.log.Warn("imap view not brought up to date", "folder", s.view.name, "error", err)
		return nil, time.After(retryAfter), nil
	}
	return nil, nil, nil
}

// Expunge implements EXPUNGE, UID EXPUNGE and CLOSE; Poll tells what is gone.
func (s *session) Expunge(_ *imapserver.ExpungeWriter, uids *imap.UIDSet) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.writable()
	if err != nil {
		if s.c.in.verb() == "CLOSE" {
			return nil // it removes nothing then (RFC 9051, Section 6.4.1)
		}
		return err
	}
	snap, err := v.snapshot()
	if err == nil && snap.UIDValidity != v.uidValidity {
		return s.end(endFolder)
	}
	if err != nil {
		return s.fail("EXPUNGE", err)
	}
	among := merge([]span{{0, v.told.Len()}}, v.told.Len())
	if uids != nil {
		among = v.resolve(*uids, s.saved)
	}
	doomed := v.doomed(snap.Messages, among)
	if len(doomed) == 0 {
		return nil
	}
	// Who takes a flag away meanwhile has been told OK: the store looks again.
	if _, err := v.folder.ExpungeDeleted(doomed); err != nil {
		return s.fail("EXPUNGE", err)
	}
	return nil
}

// doomed gives those messages of spans that have Deleted now.
func (v *view) doomed(now mailbox.Messages, spans []span) []mailbox.UID {
	if len(spans) == 0 {
		return nil
	}
	first, last := v.told.At(spans[0].lo).UID, v.told.At(spans[len(spans)-1].hi-1).UID
	var uids []mailbox.UID
	from, _ := now.Find(first)
	for _, m := range now.From(from) {
		if m.UID > last {
			break
		}
		if m.Flags.Has(mailbox.Deleted) && contains(spans, v.index(m.UID)) {
			uids = append(uids, m.UID)
		}
	}
	return uids
}

// Store implements STORE and UID STORE.
func (s *session) Store(w *imapserver.FetchWriter, set imap.NumSet, f *imap.StoreFlags, _ *imap.StoreOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.writable()
	if err != nil {
		return err
	}
	flags, err := parseFlags(f.Flags)
	if err != nil {
		return err
	}
	op := storeOp(f.Op)
	uids := v.uids(v.resolve(set, s.saved))
	if len(uids) == 0 {
		return nil
	}
	msgs, err := v.folder.SetFlags(uids, op, flags)
	if err != nil {
		return s.fail("STORE", err)
	}
	_, byUID := set.(imap.UIDSet)
	for _, m := range msgs {
		i := v.index(m.UID)
		if i < 0 {
			continue
		}
		if f.Silent {
			// What the client takes it to be now; if something else changed
			// the message too, Poll tells.
			v.flags[m.UID] = applyFlags(v.toldFlags(v.told.At(i)), op, flags)
			v.learn(flags)
			continue
		}
		v.flags[m.UID] = m.Flags
		v.learn(m.Flags)
		rw := w.CreateMessage(uint32(i + 1))
		if byUID {
			rw.WriteUID(imap.UID(m.UID))
		}
		rw.WriteFlags(wireFlags(m.Flags, v.recent[m.UID]))
		if err := rw.Close(); err != nil {
			return err
		}
	}
	return nil
}

// Copy implements COPY and UID COPY.
func (s *session) Copy(set imap.NumSet, dest string) (*imap.CopyData, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.selected()
	if err != nil {
		return nil, err
	}
	return s.transfer("COPY", v, set, dest, v.folder.Copy)
}

// Move implements RFC 6851; Poll tells what is gone from here.
func (s *session) Move(w *imapserver.MoveWriter, set imap.NumSet, dest string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.writable()
	if err != nil {
		return err
	}
	if folderName(dest) == v.name {
		return no(imap.ResponseCodeCannot, "the mailbox is the selected one")
	}
	data, err := s.transfer("MOVE", v, set, dest, v.folder.Move)
	if err != nil || data == nil {
		return err
	}
	return w.WriteCopyData(data)
}

// transfer gives nil data where the set names no message.
func (s *session) transfer(op string, v *view, set imap.NumSet, dest string, do func([]mailbox.UID, string) (mailbox.CopyResult, error)) (*imap.CopyData, error) {
	dest = folderName(dest)
	uids := v.uids(v.resolve(set, s.saved))
	if len(uids) == 0 {
		if _, err := s.box.Folder(dest); err != nil {
			return nil, s.failInto(op, err)
		}
		return nil, nil
	}
	r, err := do(uids, dest)
	if err != nil {
		return nil, s.failInto(op, err)
	}
	if len(r.Source) == 0 {
		return nil, nil
	}
	data := &imap.CopyData{UIDValidity: r.UIDValidity}
	for i := range r.Source {
		data.SourceUIDs.AddNum(imap.UID(r.Source[i]))
		data.DestUIDs.AddNum(imap.UID(r.Dest[i]))
	}
	return data, nil
}
