package imap

import (
	"fmt"
	"io"
	"strconv"

	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// Bounds of a MULTIAPPEND: messages, and bytes of those that are short enough to be held in
// memory until all are there.
const (
	maxAppends    = 1000
	maxAppendHeld = 16 << 20
	// maxAppendStaged bounds all of them, in bytes: those of a folder for which another user's
	// quota counts are not asked for one before they are on the disk.
	maxAppendStaged = 4 << 30
	heldMessage     = 1 << 20
)

// append implements APPEND (RFC 9051, Section 6.3.12) with MULTIAPPEND (RFC 3502), CATENATE (RFC
// 4469) and UTF8 (RFC 6855, Section 4).
func (s *session) append(c *cmd) error {
	name, err := s.mailboxArg(c)
	if err != nil {
		return err
	}
	a := &appending{s: s, c: c, name: folderName(name)}
	defer a.discard()
	for first := true; first || c.More(); first = false {
		if err := a.next(); err != nil {
			return s.failInto(err)
		}
	}
	if err := c.End(); err != nil {
		return err
	}
	r, err := a.commit()
	if err != nil {
		return err
	}
	c.code = appendCode(r)
	return nil
}

// appendCode is APPENDUID (RFC 4315, Section 3).
func appendCode(r mailbox.AppendResult) string {
	return "APPENDUID " + strconv.FormatUint(uint64(r.UIDValidity), 10) + " " +
		syntax.FormatRanges(syntax.Compact(r.UIDs))
}

// appending are the messages of one command.
type appending struct {
	s    *session
	c    *cmd
	name string
	all  []mailbox.NewMessage
	held int64
	// size is of all that is staged, in bytes.
	size int64
}

func (a *appending) discard() {
	for _, m := range a.all {
		m.Message.Discard()
	}
}

// next takes one message with its flags and its date.
func (a *appending) next() error {
	c := a.c
	if err := c.SP(); err != nil {
		return err
	}
	var m mailbox.NewMessage
	if c.Peek() == '(' {
		flags, err := c.Flags()
		if err == nil {
			m.Flags, err = parseFlags(flags)
		}
		if err == nil {
			err = c.SP()
		}
		if err != nil {
			return err
		}
	}
	if c.Peek() == '"' {
		date, err := c.DateTime()
		if err == nil {
			err = c.SP()
		}
		if err != nil {
			return err
		}
		m.Date = date
	}
	var err error
	if m.Message, err = a.message(); err != nil {
		return err
	}
	a.all = append(a.all, m)
	return nil
}

func (a *appending) message() (mailbox.Staged, error) {
	c := a.c
	switch {
	case c.TakeName("CATENATE"):
		if err := a.allowed(1); err != nil {
			return nil, err
		}
		if err := c.SP(); err != nil {
			return nil, err
		}
		if err := c.Expect('('); err != nil {
			return nil, err
		}
		k := &catenation{a: a}
		defer k.end()
		return a.stage(k)
	case c.TakeName("UTF8"):
		if err := c.SP(); err != nil {
			return nil, err
		}
		if err := c.Expect('('); err != nil {
			return nil, err
		}
		m, err := a.literal()
		if err == nil && !c.Take(')') {
			m.Discard()
			err = syntax.Syntax("expected )")
		}
		return m, err
	}
	return a.literal()
}

// literal takes a message as it is sent.
func (a *appending) literal() (mailbox.Staged, error) {
	lit, err := a.c.Stream(a.s.srv.limits.AppendBytes, func(l *syntax.Literal) error { return a.allowed(l.Size) })
	if err != nil {
		return nil, err
	}
	m, err := a.stage(lit)
	if err != nil {
		return nil, err
	}
	if err := lit.Close(); err != nil {
		m.Discard()
		return nil, err
	}
	return m, nil
}

func (a *appending) stage(r io.Reader) (mailbox.Staged, error) {
	m, err := a.s.data.Store.Stage(a.s.ctx, "", r, a.s.srv.limits.AppendBytes)
	if err != nil {
		return nil, err
	}
	// Together, and before the next one is taken: they fill the disk.
	a.size += m.Size()
	if err := a.fits(a.size); err != nil {
		m.Discard()
		return nil, err
	}
	if m.Size() <= heldMessage {
		if a.held += m.Size(); a.held > maxAppendHeld {
			m.Discard()
			return nil, no("LIMIT", "too much in one command")
		}
	}
	return m, nil
}

// allowed refuses, before it is sent, what cannot be stored.
func (a *appending) allowed(size int64) error {
	switch {
	case size == 0:
		return no("CANNOT", "an empty message cannot be stored")
	case len(a.all) == maxAppends:
		return no("LIMIT", "too many messages in one command")
	case len(a.all) == 0:
		if err := a.s.mayInsert(a.name); err != nil {
			return err
		}
		if _, err := a.s.box.Folder(a.name); err != nil {
			return err
		}
	}
	// An early word on what cannot fit: on disk a message is smaller, by half
	// at most. Append decides.
	if a.size+size > max(maxAppendStaged, a.s.srv.limits.AppendBytes) {
		return no("LIMIT", "too much in one command")
	}
	return a.fits(a.size + size/2)
}

// fits asks the quota, where it is the session's user's.
func (a *appending) fits(size int64) error {
	if !a.s.personal(a.name) {
		return nil
	}
	return a.s.box.Fits(size)
}

// commit stores the messages, all or none.
func (a *appending) commit() (mailbox.AppendResult, error) {
	r, err := a.s.box.Append(a.name, a.all)
	if err != nil {
		return r, a.s.failInto(err)
	}
	a.s.put(a.name, r.UIDs)
	a.s.srv.metrics.appended.Add(float64(len(a.all)))
	return r, nil
}

// put notes messages that the session itself has put into a folder, for NOTIFY.
func (s *session) put(name string, uids []mailbox.UID) {
	if s.view == nil || s.view.name != name {
		s.notify.added(name, uids)
	} else if s.notify.fetches() {
		s.view.own = append(s.view.own, uids...)
	}
}

// replace implements REPLACE and UID REPLACE (RFC 8508): the new message is stored before the
// old one goes, so that a crash between leaves both, never none.
func (s *session) replace(c *cmd) error {
	if err := c.SP(); err != nil {
		return err
	}
	n, err := c.Positive()
	if err != nil {
		return err
	}
	if err := s.may('e'); err != nil {
		return err
	}
	if err := s.may('t'); err != nil {
		return err
	}
	uid, ok := s.one(n, c.uid)
	if !ok {
		return no("NONEXISTENT", "no such message")
	}
	name, err := s.mailboxArg(c)
	if err != nil {
		return err
	}
	a := &appending{s: s, c: c, name: folderName(name)}
	defer a.discard()
	if err := a.next(); err != nil {
		return s.failInto(err)
	}
	if err := c.End(); err != nil {
		return err
	}
	r, err := a.commit()
	if err != nil {
		return err
	}
	s.out.Raw("* OK [").Raw(appendCode(r)).Raw("] replaced").CRLF()
	if _, err := s.view.folder.Expunge([]mailbox.UID{uid}); err != nil {
		s.way.midway = true
		return s.fail(fmt.Errorf("the message that was replaced: %w", err))
	}
	c.highest = true
	return nil
}

// one gives the UID of the message with a number, or false.
func (s *session) one(n uint32, byUID bool) (mailbox.UID, bool) {
	v := s.view
	if byUID {
		return mailbox.UID(n), v.index(mailbox.UID(n)) >= 0
	}
	if int64(n) > int64(v.told.Len()) {
		return 0, false
	}
	return v.told.At(int(n) - 1).UID, true
}
