package imap

import (
	"errors"
	"slices"
	"strings"

	"waypost/backend/mailbox"
)

// aclArgs takes a mailbox and n further strings.
func (s *session) aclArgs(c *cmd, n int) (name string, rest []string, err error) {
	if name, err = s.mailboxArg(c); err != nil {
		return "", nil, err
	}
	for range n {
		if err := c.SP(); err != nil {
			return "", nil, err
		}
		a, err := c.AString()
		if err != nil {
			return "", nil, err
		}
		rest = append(rest, a)
	}
	return folderName(name), rest, c.End()
}

// getACL implements GETACL (RFC 4314, Section 3.3).
func (s *session) getACL(c *cmd) error {
	name, _, err := s.aclArgs(c, 0)
	if err == nil {
		err = s.mayFolder(name, 'a')
	}
	if err != nil {
		return err
	}
	acl, err := s.box.ACL(name)
	if err != nil {
		return s.fail(err)
	}
	s.out.Raw("* ACL ").Mailbox(name)
	if s.personal(name) {
		s.out.SP().AString(string(s.box.User())).SP().Raw(string(mailbox.AllRights))
	}
	who := make([]string, 0, len(acl))
	for id := range acl {
		who = append(who, id)
	}
	slices.Sort(who)
	for _, id := range who {
		s.out.SP().AString(id).SP().AString(string(acl[id]))
	}
	s.out.CRLF()
	return s.out.Err()
}

// setACL implements SETACL (RFC 4314, Section 3.1).
func (s *session) setACL(c *cmd) error {
	name, args, err := s.aclArgs(c, 2)
	if err == nil {
		err = s.mayFolder(name, 'a')
	}
	if err != nil {
		return err
	}
	id, change := args[0], args[1]
	sign := byte(0)
	if change != "" && (change[0] == '+' || change[0] == '-') {
		sign, change = change[0], change[1:]
	}
	if strings.ToLower(change) != change {
		return bad("rights are lower case letters")
	}
	rights, ok := mailbox.ParseRights(change)
	if !ok {
		return bad("unknown right")
	}
	if s.owner(name, id) {
		return no("CANNOT", "the owner has all rights")
	}
	if sign != 0 {
		acl, err := s.box.ACL(name)
		if err != nil {
			return s.fail(err)
		}
		rights = combine(acl[id], sign, rights)
	}
	return s.aclChange(name, id, rights)
}

// combine adds rights to what there was, or takes them away.
func combine(had mailbox.Rights, sign byte, change mailbox.Rights) mailbox.Rights {
	var b strings.Builder
	for _, r := range []byte(mailbox.AllRights) {
		if sign == '+' && (had.Has(r) || change.Has(r)) || sign == '-' && had.Has(r) && !change.Has(r) {
			b.WriteByte(r)
		}
	}
	return mailbox.Rights(b.String())
}

// deleteACL implements DELETEACL (RFC 4314, Section 3.2).
func (s *session) deleteACL(c *cmd) error {
	name, args, err := s.aclArgs(c, 1)
	if err == nil {
		err = s.mayFolder(name, 'a')
	}
	if err != nil {
		return err
	}
	if s.owner(name, args[0]) {
		return no("CANNOT", "the owner has all rights")
	}
	return s.aclChange(name, args[0], "")
}

func (s *session) aclChange(name, id string, rights mailbox.Rights) error {
	err := s.box.SetACL(name, id, rights)
	switch {
	case errors.Is(err, mailbox.ErrBadRights):
		return bad("identifier or rights not possible")
	case errors.Is(err, mailbox.ErrTooMuchMetadata):
		return no("LIMIT", "too many entries")
	}
	return s.fail(err)
}

// listRights implements LISTRIGHTS (RFC 4314, Section 3.4): the owner's rights go with the
// ownership, anybody else's are free, one by one.
func (s *session) listRights(c *cmd) error {
	name, args, err := s.aclArgs(c, 1)
	if err == nil {
		err = s.mayFolder(name, 'a')
	}
	if err != nil {
		return err
	}
	s.out.Raw("* LISTRIGHTS ").Mailbox(name).SP().AString(args[0])
	if s.owner(name, args[0]) {
		s.out.SP().Raw(string(mailbox.AllRights))
	} else {
		s.out.Raw(` ""`)
		for _, r := range []byte(mailbox.AllRights) {
			s.out.SP().Byte(r)
		}
	}
	s.out.CRLF()
	return s.out.Err()
}

// myRights implements MYRIGHTS (RFC 4314, Section 3.5).
func (s *session) myRights(c *cmd) error {
	name, _, err := s.aclArgs(c, 0)
	if err != nil {
		return err
	}
	if _, err := s.box.Folder(name); err != nil {
		return s.fail(err)
	}
	rights, err := s.box.Rights(name)
	if err != nil {
		return s.fail(err)
	}
	if rights == "" {
		return no("NONEXISTENT", "no such mailbox") // whose existence is not to be told
	}
	s.tellMyRights(name, rights)
	return s.out.Err()
}

func (s *session) tellMyRights(name string, rights mailbox.Rights) {
	s.out.Raw("* MYRIGHTS ").Mailbox(name).SP().AString(string(rights)).CRLF()
}

// personal reports a folder of the session's own user.
func (s *session) personal(name string) bool {
	for _, ns := range s.box.Namespaces() {
		if ns.Kind != mailbox.Personal && strings.HasPrefix(name, ns.Prefix) {
			return false
		}
	}
	return true
}

// owner reports that id names the folder's owner.
func (s *session) owner(name, id string) bool {
	return s.personal(name) && strings.EqualFold(id, string(s.box.User()))
}
