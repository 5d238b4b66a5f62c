package sharing

import (
	"waypost/backend/mailbox"
	"waypost/director"
)

// Told gives a Box that says of what its user changes to Shares, for all who see it.
func Told(box mailbox.Box, s *Shares) mailbox.Box { return &told{box, s} }

type told struct {
	mailbox.Box
	s *Shares
}

func (t *told) user() director.User { return t.Box.User() }

// SetACL is mailbox.Box's.
func (t *told) SetACL(folder, identifier string, r mailbox.Rights) error {
	defer t.s.Changed(t.user())
	return t.Box.SetACL(folder, identifier, r)
}

// CreateFolder is mailbox.Box's.
func (t *told) CreateFolder(name, use string) error {
	defer t.s.Changed(t.user())
	return t.Box.CreateFolder(name, use)
}

// DeleteFolder is mailbox.Box's.
func (t *told) DeleteFolder(name string) error {
	defer t.s.Changed(t.user())
	return t.Box.DeleteFolder(name)
}

// RenameFolder is mailbox.Box's.
func (t *told) RenameFolder(from, to string) error {
	defer t.s.Changed(t.user())
	return t.Box.RenameFolder(from, to)
}

// ACLs are those of the Box.
func (t *told) ACLs() (map[string]mailbox.ACL, error) { return ACLs(t.Box) }
