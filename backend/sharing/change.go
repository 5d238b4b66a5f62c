package sharing

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"waypost/backend/mailbox"
)

// mayBelow runs do on the owner's mailbox if the viewer may make a folder of that name:
// k on the next folder above that there is (RFC 4314, Section 4). acl is that folder's.
func (b *Box) mayBelow(name string, do func(m *member, folder string, acl mailbox.ACL) error) error {
	owner, folder := split(name)
	st, err := b.state(owner)
	if err != nil {
		return err
	}
	m, err := b.member(owner, st.epoch)
	if err != nil {
		return err
	}
	infos, err := m.Folders()
	if err != nil {
		return b.soft(err)
	}
	above := parentOf(folder)
	for above != "" && !slices.ContainsFunc(infos, func(i mailbox.FolderInfo) bool { return i.Name == above && !i.NoSelect }) {
		above = parentOf(above)
	}
	has := st.list.rights(b.viewer, above)
	switch {
	case folder == "" || above == "":
		return fmt.Errorf("folder %q for %s: only the owner makes folders there: %w", name, b.viewer, mailbox.ErrNoRight)
	case !has.Has('k'):
		return b.denied(join(owner, above), has)
	}
	return b.soft(do(m, folder, st.list.acl[above]))
}

func parentOf(folder string) string {
	return folder[:max(strings.LastIndexByte(folder, mailbox.Separator), 0)]
}

// CreateFolder makes a folder with the ACL of the one above. Nobody gives other users'
// folders a special use.
func (b *Box) CreateFolder(name, use string) error {
	if use != "" {
		return fmt.Errorf("create folder %q for %s: another user's: %w", name, b.viewer, mailbox.ErrUse)
	}
	return b.mayBelow(name, func(m *member, folder string, acl mailbox.ACL) error {
		defer b.shares.Changed(m.User())
		if err := m.CreateFolder(folder, ""); err != nil {
			return err
		}
		for _, id := range slices.Sorted(maps.Keys(acl)) {
			if err := m.SetACL(folder, id, acl[id]); err != nil {
				// Without its ACL it would not be there for who has made it.
				if undo := m.DeleteFolder(folder); undo != nil {
					b.log.Warn("folder left without its ACL", "owner", m.User(), "folder", folder, "error", undo)
				}
				return err
			}
		}
		return nil
	})
}

// DeleteFolder needs x.
func (b *Box) DeleteFolder(name string) error {
	return b.may(name, 'x', func(m *member, folder string) error {
		defer b.shares.Changed(m.User())
		return m.DeleteFolder(folder)
	})
}

// RenameFolder needs x, and k on the new parent. It stays the owner's, and nobody
// empties another user's INBOX by it.
func (b *Box) RenameFolder(from, to string) error {
	owner, inner := split(from)
	if dest, _ := split(to); dest != owner || inner == mailbox.Inbox {
		return fmt.Errorf("rename folder %q for %s to %q: %w", from, b.viewer, to, mailbox.ErrBadName)
	}
	return b.may(from, 'x', func(_ *member, inner string) error {
		return b.mayBelow(to, func(m *member, name string, _ mailbox.ACL) error {
			defer b.shares.Changed(m.User())
			return m.RenameFolder(inner, name)
		})
	})
}

// Subscribe is not done here: subscriptions are the viewer's own Box's.
func (b *Box) Subscribe(name string, _ bool) error { return b.missing(name) }

// Subscriptions are the viewer's own Box's.
func (b *Box) Subscriptions() ([]string, error) { return nil, nil }

// Append needs i.
func (b *Box) Append(name string, all []mailbox.NewMessage) (r mailbox.AppendResult, err error) {
	has, err := b.Rights(name)
	if err != nil {
		return r, err
	}
	err = b.may(name, 'i', func(m *member, folder string) (err error) {
		all = slices.Clone(all)
		for i := range all {
			all[i].Flags = settable(all[i].Flags, has)
		}
		r, err = m.Append(folder, all)
		return err
	})
	return r, err
}

// Metadata gives the shared entries: private ones are the owner's own (RFC 5464,
// Section 1). It needs l and one of r, s, w, i, p (Section 3.3).
func (b *Box) Metadata(name string) (shared map[string]string, err error) {
	if name == "" {
		return map[string]string{}, nil
	}
	err = b.annotated(name, func(m *member, folder string) error {
		all, err := m.Metadata(folder)
		if err != nil {
			return err
		}
		maps.DeleteFunc(all, func(entry, _ string) bool { return !isShared(entry) })
		shared = all
		return nil
	})
	return shared, err
}

func isShared(entry string) bool { return strings.HasPrefix(strings.ToLower(entry), "/shared/") }

// annotated is may for what metadata needs.
func (b *Box) annotated(name string, do func(m *member, folder string) error) error {
	return b.may(name, 'l', func(m *member, folder string) error {
		has, err := b.Rights(name)
		if err == nil && !strings.ContainsAny(string(has), "rswip") {
			err = b.denied(name, has)
		}
		if err != nil {
			return err
		}
		return do(m, folder)
	})
}

// SetMetadata sets shared entries, with w beside what Metadata needs.
func (b *Box) SetMetadata(name string, change map[string]*string) error {
	for entry := range change {
		if name == "" || !isShared(entry) {
			return fmt.Errorf("metadata %.40q of %q for %s: another user's: %w", entry, name, b.viewer, mailbox.ErrNoRight)
		}
	}
	return b.annotated(name, func(*member, string) error {
		return b.may(name, 'w', func(m *member, folder string) error { return m.SetMetadata(folder, change) })
	})
}

// ACL needs a.
func (b *Box) ACL(name string) (acl mailbox.ACL, err error) {
	err = b.may(name, 'a', func(m *member, folder string) (err error) {
		acl, err = m.ACL(folder)
		return err
	})
	return acl, err
}

// SetACL needs a.
func (b *Box) SetACL(name, identifier string, r mailbox.Rights) error {
	return b.may(name, 'a', func(m *member, folder string) error {
		defer b.shares.Changed(m.User())
		return m.SetACL(folder, identifier, r)
	})
}

// Namespaces are told by who shows this Box under one.
func (b *Box) Namespaces() []mailbox.Namespace { return nil }

// Usage is nothing: what is here counts for the owners.
func (b *Box) Usage() (mailbox.Usage, error) { return mailbox.Usage{}, nil }

// Limit is none, as Usage.
func (b *Box) Limit() mailbox.Limit { return mailbox.Limit{} }

// Fits leaves it to Append, which knows the owner.
func (b *Box) Fits(int64) error { return nil }

// Deliver is refused: mail comes to its owner.
func (b *Box) Deliver(context.Context, mailbox.Delivery) error {
	return fmt.Errorf("deliver to what others share with %s: %w", b.viewer, mailbox.ErrNoRight)
}

// Remembers is of deliveries.
func (b *Box) Remembers(string) (bool, error) { return false, nil }
