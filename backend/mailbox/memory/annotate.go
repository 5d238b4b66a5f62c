package memory

import (
	"fmt"
	"maps"

	"waypost/backend/mailbox"
)

// annotated gives a folder for what is said about it, with the user's lock held.
func (b *box) annotated(op, name string) (*folder, error) {
	if err := b.lock(op); err != nil {
		return nil, err
	}
	f := b.user.folders[name]
	if f == nil {
		b.user.mu.Unlock()
		return nil, fmt.Errorf("%s %q of %s: %w", op, name, b.user.name, mailbox.ErrNoFolder)
	}
	return f, nil
}

func (b *box) Metadata(name string) (map[string]string, error) {
	if name == "" {
		if err := b.lock("metadata of"); err != nil {
			return nil, err
		}
		defer b.user.mu.Unlock()
		return maps.Clone(b.user.metadata), nil
	}
	f, err := b.annotated("metadata of", name)
	if err != nil {
		return nil, err
	}
	defer b.user.mu.Unlock()
	all := maps.Clone(f.metadata)
	if f.use != "" {
		all[mailbox.UseEntry] = f.use
	}
	return all, nil
}

func (b *box) SetMetadata(name string, change map[string]*string) error {
	c, err := mailbox.CheckMetadata(name, change)
	if err != nil {
		return fmt.Errorf("set metadata of %q of %s: %w", name, b.user.name, err)
	}
	if name == "" {
		if err := b.lock("set metadata of"); err != nil {
			return err
		}
		defer b.user.mu.Unlock()
		return b.user.setMetadata(b.user.metadata, c.Set)
	}
	f, err := b.annotated("set metadata of", name)
	if err != nil {
		return err
	}
	defer b.user.mu.Unlock()
	if c.SetsUse && c.Use != "" {
		if err := b.user.useFree(f, c.Use); err != nil {
			return err
		}
	}
	if err := b.user.setMetadata(f.metadata, c.Set); err != nil {
		return err
	}
	if c.SetsUse {
		f.use = c.Use
	}
	return nil
}

// setMetadata changes entries, all or none.
func (u *user) setMetadata(entries map[string]string, set map[string]*string) error {
	now := maps.Clone(entries)
	for name, value := range set {
		if value == nil {
			delete(now, name)
		} else {
			now[name] = *value
		}
	}
	if len(now) > mailbox.MaxMetadataEntries && len(now) > len(entries) {
		return fmt.Errorf("set metadata of %s: %w", u.name, mailbox.ErrTooMuchMetadata)
	}
	clear(entries)
	maps.Copy(entries, now)
	u.feed.Listing()
	return nil
}

// setUse gives a folder a special use.
func (u *user) setUse(f *folder, text string) error {
	use, err := mailbox.ParseUse(text)
	if err == nil {
		err = u.useFree(f, use)
	}
	if err == nil {
		f.use = use
	}
	return err
}

// useFree refuses a use that another folder has.
func (u *user) useFree(f *folder, use string) error {
	for _, g := range u.folders {
		if g != f && g.use == use {
			return fmt.Errorf("%s is %q of %s: %w", use, g.name, u.name, mailbox.ErrUse)
		}
	}
	return nil
}

func (b *box) ACL(name string) (mailbox.ACL, error) {
	f, err := b.annotated("list rights of", name)
	if err != nil {
		return nil, err
	}
	defer b.user.mu.Unlock()
	return maps.Clone(f.acl), nil
}

func (b *box) SetACL(name, identifier string, r mailbox.Rights) error {
	r, err := mailbox.CheckACL(identifier, r)
	if err != nil {
		return fmt.Errorf("set rights of %q of %s: %w", name, b.user.name, err)
	}
	f, err := b.annotated("set rights of", name)
	if err != nil {
		return err
	}
	defer b.user.mu.Unlock()
	_, is := f.acl[identifier]
	switch {
	case r == "":
		delete(f.acl, identifier)
	case !is && len(f.acl) >= mailbox.MaxACLEntries:
		return fmt.Errorf("set rights of %q of %s: %w", name, b.user.name, mailbox.ErrTooMuchMetadata)
	default:
		f.acl[identifier] = r
	}
	b.user.feed.Listing()
	return nil
}

func (b *box) Rights(name string) (mailbox.Rights, error) {
	if _, err := b.annotated("rights on", name); err != nil {
		return "", err
	}
	defer b.user.mu.Unlock()
	return mailbox.AllRights, nil
}

func (b *box) Namespaces() []mailbox.Namespace { return []mailbox.Namespace{{Kind: mailbox.Personal}} }

func (b *box) Updates(since uint64) (mailbox.Updates, <-chan struct{}) {
	b.user.mu.Lock()
	defer b.user.mu.Unlock()
	if _, open := b.user.boxes[b]; !open {
		u, _ := b.user.feed.Since(since)
		done := make(chan struct{})
		close(done)
		return u, done
	}
	return b.user.feed.Since(since)
}
