package imap

import (
	"errors"
	"strings"

	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// create implements CREATE (RFC 9051, Section 6.3.4) with special uses (RFC 6154, Section 3).
func (s *session) create(c *cmd) error {
	name, err := s.mailboxArg(c)
	if err != nil {
		return err
	}
	use, err := createParams(c)
	if err == nil {
		err = c.End()
	}
	if err != nil {
		return err
	}
	// A trailing separator only says that children will come (RFC 9051, Section 6.3.4).
	name = folderName(strings.TrimSuffix(name, string(mailbox.Separator)))
	if err := s.mayBelow(name); err != nil {
		return err
	}
	if err := s.box.CreateFolder(name, use); err != nil {
		return s.fail(err)
	}
	s.notify.created(name)
	if folder, err := s.box.Folder(name); err == nil {
		if st, err := folder.Status(); err == nil && st.ID != "" {
			c.code = "MAILBOXID (" + st.ID + ")" // RFC 8474, Section 4.1
		}
	}
	return nil
}

// mailboxArg takes a command's first argument.
func (s *session) mailboxArg(c *cmd) (string, error) {
	if err := c.SP(); err != nil {
		return "", err
	}
	return c.Mailbox()
}

// onlyMailbox takes the one argument of a command.
func (s *session) onlyMailbox(c *cmd) (string, error) {
	name, err := s.mailboxArg(c)
	if err == nil {
		err = c.End()
	}
	return folderName(name), err
}

// createParams takes CREATE's parameters: "(USE (\Drafts))". One folder has one use.
func createParams(c *cmd) (use string, err error) {
	if !c.Take(' ') {
		return "", nil
	}
	err = c.List(false, func() error {
		if !c.TakeName("USE") {
			return bad("unknown parameter")
		}
		if err := c.SP(); err != nil {
			return err
		}
		return c.List(true, func() error {
			f, err := c.Flag()
			if err == nil && use != "" {
				err = no("USEATTR", "a mailbox can have one special use")
			}
			use = f
			return err
		})
	})
	return use, err
}

// mayBelow checks the right to make a folder: k on its parent (RFC 4314, Section 4).
func (s *session) mayBelow(name string) error {
	i := strings.LastIndexByte(name, mailbox.Separator)
	if i < 0 {
		return nil
	}
	rights, err := s.box.Rights(name[:i])
	if err == nil && !rights.Has('k') {
		return no("NOPERM", "permission denied")
	}
	return nil // without a parent the store decides
}

// mayFolder checks a right on a folder.
func (s *session) mayFolder(name string, right byte) error {
	rights, err := s.box.Rights(name)
	if err != nil {
		return s.fail(err)
	}
	if !rights.Has(right) {
		return no("NOPERM", "permission denied")
	}
	return nil
}

// delete implements DELETE (RFC 9051, Section 6.3.5).
func (s *session) delete(c *cmd) error {
	name, err := s.onlyMailbox(c)
	if err != nil {
		return err
	}
	if err := s.mayFolder(name, 'x'); err != nil {
		return err
	}
	if err := s.box.DeleteFolder(name); err != nil {
		return s.fail(err)
	}
	s.notify.deleted(name)
	if s.view != nil && s.view.name == name {
		s.view.dead = true
	}
	return nil
}

// rename implements RENAME (RFC 9051, Section 6.3.6).
func (s *session) rename(c *cmd) error {
	from, err := s.mailboxArg(c)
	if err != nil {
		return err
	}
	to, err := s.mailboxArg(c)
	if err == nil {
		err = c.End()
	}
	if err != nil {
		return err
	}
	from, to = folderName(from), folderName(strings.TrimSuffix(to, string(mailbox.Separator)))
	rights, err := s.box.Rights(from)
	switch {
	case errors.Is(err, mailbox.ErrNoFolder): // it may be a parent of others only: the store decides
	case err != nil:
		return s.fail(err)
	case !rights.Has('x'):
		return no("NOPERM", "permission denied")
	}
	if err := s.mayBelow(to); err != nil {
		return err
	}
	if err := s.box.RenameFolder(from, to); err != nil {
		return s.fail(err)
	}
	s.follow(from, to)
	s.notify.renamed(from, to)
	return nil
}

// follow keeps the view on the selected folder when it, or one above it, was renamed: its UIDs
// are the same if its UIDVALIDITY is.
func (s *session) follow(from, to string) {
	if s.view == nil || from == mailbox.Inbox {
		return
	}
	rest, below := strings.CutPrefix(s.view.name, from)
	if !below || rest != "" && rest[0] != mailbox.Separator {
		return
	}
	folder, err := s.box.Folder(to + rest)
	if err != nil && !fenced(err) {
		s.view.dead = true
		return
	}
	s.view.name = to + rest
	var snap mailbox.Snapshot
	if err == nil {
		// From its Snapshot on the new handle knows which UIDs it may take.
		s.view.folder = folder
		snap, err = s.view.snapshot()
	}
	switch {
	case fenced(err):
		s.c.end(endMoving)
	case err != nil || snap.UIDValidity != s.view.uidValidity:
		s.c.end(endFolder)
	}
}

// subscribe implements SUBSCRIBE and UNSUBSCRIBE (RFC 9051, Section 6.3.7 and 6.3.8).
func (s *session) subscribe(c *cmd) error {
	name, err := s.onlyMailbox(c)
	if err != nil {
		return err
	}
	on := c.name == "SUBSCRIBE"
	if err := s.box.Subscribe(name, on); err != nil {
		return s.fail(err)
	}
	s.notify.subscribed(name, on)
	return nil
}

// statusItems are those of STATUS.
type statusItems []string

// status implements STATUS (RFC 9051, Section 6.3.11).
func (s *session) status(c *cmd) error {
	name, err := s.mailboxArg(c)
	if err == nil {
		err = c.SP()
	}
	if err != nil {
		return err
	}
	items, err := s.statusArgs(c)
	if err == nil {
		err = c.End()
	}
	if err != nil {
		return err
	}
	name = folderName(name)
	if err := s.mayFolder(name, 'r'); err != nil {
		return err
	}
	return s.fail(s.tellStatus(name, items))
}

// statusArgs takes STATUS's items.
func (s *session) statusArgs(c *cmd) (statusItems, error) {
	var items statusItems
	err := c.List(false, func() error {
		name, err := c.Name()
		if err != nil {
			return err
		}
		switch name {
		case "MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "DELETED", "SIZE", "APPENDLIMIT",
			"MAILBOXID", "DELETED-STORAGE":
		case "HIGHESTMODSEQ":
			s.enabled.condstore = true // RFC 7162, Section 3.1
		default:
			return bad("unknown status item")
		}
		if len(items) == 32 {
			return syntax.Syntax("too many status items")
		}
		items = append(items, name)
		return nil
	})
	return items, err
}

// tellStatus writes a STATUS response.
func (s *session) tellStatus(name string, items statusItems) error {
	folder, err := s.box.Folder(name)
	if err != nil {
		return err
	}
	st, err := folder.Status()
	if err != nil {
		return err
	}
	s.writeStatus(name, st, items)
	return s.out.Err()
}

func (s *session) writeStatus(name string, st mailbox.Status, items statusItems) {
	s.out.Raw("* STATUS ").Mailbox(name).SP().List(len(items), func(i int) {
		s.out.Raw(items[i]).SP()
		number := func(n int64) { s.out.Number(uint64(n)) }
		switch items[i] {
		case "MESSAGES":
			number(int64(st.Messages))
		case "RECENT":
			number(int64(st.Recent))
		case "UIDNEXT":
			number(int64(st.UIDNext))
		case "UIDVALIDITY":
			number(int64(st.UIDValidity))
		case "UNSEEN":
			number(int64(st.Unseen))
		case "DELETED":
			number(int64(st.Deleted))
		case "DELETED-STORAGE":
			number((st.DeletedBytes + 1023) / 1024) // RFC 9208, Section 5.1.1: units of 1,024
		case "SIZE":
			number(st.Bytes)
		case "APPENDLIMIT":
			number(s.srv.limits.AppendBytes)
		case "HIGHESTMODSEQ":
			s.out.Number(st.HighestModSeq)
		case "MAILBOXID":
			s.out.Byte('(').Raw(st.ID).Byte(')')
		}
	}).CRLF()
}
