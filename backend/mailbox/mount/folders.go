package mount

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"waypost/backend/mailbox"
)

// Folders is mailbox.Box's.
func (b *box) Folders() ([]mailbox.FolderInfo, error) {
	all := map[string]mailbox.FolderInfo{}
	own, err := b.Box.Folders()
	if err != nil {
		return nil, err
	}
	for _, info := range own {
		info.Name = b.mounts[0].outer(info.Name)
		if b.hidden(info.Name) {
			if !info.NoSelect {
				b.warned.Do(func() {
					b.o.Log.Warn("folder hidden by a namespace of the same name", "user", b.User(), "folder", info.Name)
				})
			}
			continue
		}
		info.HasChildren = false
		all[info.Name] = info
	}
	subs, err := b.Subscriptions()
	if err != nil {
		return nil, err
	}
	for _, m := range b.mounts[1:] {
		infos, err := m.Box.Folders()
		if err != nil {
			b.o.Log.Warn("folders of a namespace not listed", "user", b.User(), "namespace", m.Prefix, "error", err)
			continue
		}
		for _, info := range infos {
			name := m.outer(info.Name)
			_, subscribed := slices.BinarySearch(subs, name)
			all[name] = mailbox.FolderInfo{Name: name, Subscribed: subscribed, NoSelect: info.NoSelect}
		}
	}
	parents(all, subs)
	return sorted(all), nil
}

// hidden tells whether a name of the personal Box is another Box's here.
func (b *box) hidden(name string) bool {
	m, _, err := b.resolve(name)
	return err != nil || m != b.mounts[0]
}

// parents adds those that are missing, and marks all of them.
func parents(all map[string]mailbox.FolderInfo, subs []string) {
	for _, name := range slices.Collect(maps.Keys(all)) {
		for i := strings.LastIndexByte(name, mailbox.Separator); i > 0; i = strings.LastIndexByte(name, mailbox.Separator) {
			name = name[:i]
			info, there := all[name]
			if there && info.HasChildren {
				break
			}
			if !there {
				_, subscribed := slices.BinarySearch(subs, name)
				info = mailbox.FolderInfo{Name: name, NoSelect: true, Subscribed: subscribed}
			}
			info.HasChildren = true
			all[name] = info
		}
	}
}

// sorted gives INBOX first, the rest by name.
func sorted(all map[string]mailbox.FolderInfo) []mailbox.FolderInfo {
	return slices.SortedFunc(maps.Values(all), func(x, y mailbox.FolderInfo) int {
		switch {
		case x.Name == y.Name:
			return 0
		case x.Name == mailbox.Inbox:
			return -1
		case y.Name == mailbox.Inbox:
			return 1
		}
		return strings.Compare(x.Name, y.Name)
	})
}

// Subscriptions is mailbox.Box's. What the personal Box keeps is a name without the prefix, as
// on the disk of those who had it before; a name of a namespace is kept as it is.
func (b *box) Subscriptions() ([]string, error) {
	subs, err := b.Box.Subscriptions()
	if err != nil || !b.o.Inbox {
		return subs, err
	}
	subs = slices.Clone(subs)
	for i, name := range subs {
		if !b.mounted(name) {
			subs[i] = b.mounts[0].outer(name)
		}
	}
	slices.Sort(subs)
	return subs, nil
}

// Subscribe is mailbox.Box's.
func (b *box) Subscribe(name string, on bool) error {
	if b.o.Inbox && !b.mounted(name) {
		var err error
		if _, name, err = b.fresh(name); err != nil {
			return err
		}
	}
	return b.Box.Subscribe(name, on)
}

// mounted tells whether a name is one of a mounted Box.
func (b *box) mounted(name string) bool {
	return slices.ContainsFunc(b.mounts[1:], func(m *Mount) bool { return name == m.base() || strings.HasPrefix(name, m.Prefix) })
}

// CreateFolder is mailbox.Box's.
func (b *box) CreateFolder(name, use string) error {
	m, inner, err := b.fresh(name)
	if err != nil {
		return err
	}
	return m.Box.CreateFolder(inner, use)
}

// DeleteFolder is mailbox.Box's.
func (b *box) DeleteFolder(name string) error { return b.without(name, mailbox.Box.DeleteFolder) }

// RenameFolder is mailbox.Box's, within one Box. A mounted Box's INBOX stays, and
// nothing gets a name that is above a namespace: its children might be hidden then.
func (b *box) RenameFolder(from, to string) error {
	m, inner, err := b.resolve(from)
	if err != nil {
		return err
	}
	dest, name, err := b.fresh(to)
	if err != nil {
		return err
	}
	above := slices.ContainsFunc(b.mounts[1:], func(x *Mount) bool { return strings.HasPrefix(x.Prefix, to+string(mailbox.Separator)) })
	if m != dest || above || m != b.mounts[0] && (inner == mailbox.Inbox || name == mailbox.Inbox) {
		return fmt.Errorf("rename folder %q of %s to %q: another namespace: %w", from, b.User(), to, mailbox.ErrBadName)
	}
	return m.Box.RenameFolder(inner, name)
}

// Folder is mailbox.Box's.
func (b *box) Folder(name string) (mailbox.Folder, error) {
	m, inner, err := b.resolve(name)
	if err != nil {
		return nil, err
	}
	f, err := m.Box.Folder(inner)
	if err != nil {
		return nil, err
	}
	return &folder{Folder: f, b: b, m: m}, nil
}
