package maildir

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/state"
)

// Attributes in a folder's state: its special use, metadata and ACL, and in
// INBOX's the account's metadata. Entries and identifiers follow the prefixes.
const (
	useAttribute  = "specialuse"
	metadataKey   = "metadata/"
	accountKey    = "account/"
	aclKey        = "acl/"
	attributeSlop = 1024 // what an attribute takes in the journal beside its value
)

func attributeRecord(modseq uint64, key string, o op) state.Record {
	if o.removed {
		return state.RemoveAttribute(modseq, key)
	}
	return state.SetAttribute(modseq, key, o.value)
}

// attribute is a change of one attribute; nil takes it away.
func (f *folder) attribute(key string, value *string) op {
	o := op{kind: opAttribute, dir: f.rel, key: key, removed: value == nil}
	if value != nil {
		o.value = *value
	}
	return o
}

// setAttributes makes changes of attributes, all or none.
func (f *folder) setAttributes(ops []op) error {
	if len(ops) == 0 {
		return nil
	}
	apply := func() error {
		modseq, err := f.state.NextModSeq()
		if err != nil {
			return err
		}
		var records []state.Record
		for _, o := range ops {
			records = append(records, attributeRecord(modseq, o.key, o))
		}
		f.noteState(records...)
		f.a.uses[f.rel], _ = f.state.Attribute(useAttribute)
		f.step() // HIGHESTMODSEQ is another
		f.a.feed.Listing()
		return nil
	}
	// What another call looks at must be there: no commit that is not applied yet
	// changes attributes but one that is stuck.
	_, err := f.a.commitNow(f.a.epoch, f.bookkeeping(), &commit{ops: ops, apply: apply})
	return err
}

// annotated gives the folder that has metadata: INBOX has the account's, under
// another prefix.
func (a *Account) annotated(folder string) (f *folder, prefix string, err error) {
	if folder == "" {
		f, err = a.synced(mailbox.Inbox)
		return f, accountKey, err
	}
	f, err = a.synced(folder)
	return f, metadataKey, err
}

// attributes gives those whose keys have a prefix, without it.
func (f *folder) attributes(prefix string) map[string]string {
	all := map[string]string{}
	for _, key := range f.state.Attributes() {
		if name, is := strings.CutPrefix(key, prefix); is {
			all[name], _ = f.state.Attribute(key)
		}
	}
	return all
}

// Metadata is mailbox.Box's.
func (b *box) Metadata(folder string) (all map[string]string, err error) {
	err = b.do("metadata", func() error {
		f, prefix, err := b.a.annotated(folder)
		if err != nil {
			return err
		}
		all = f.attributes(prefix)
		if use, is := f.state.Attribute(useAttribute); is && folder != "" {
			all[mailbox.UseEntry] = use
		}
		return nil
	})
	return all, err
}

// SetMetadata is mailbox.Box's.
func (b *box) SetMetadata(folder string, change map[string]*string) error {
	size := int64(0)
	for name, value := range change {
		size += int64(len(name)) + attributeSlop
		if value != nil {
			size += int64(len(*value))
		}
	}
	return b.annotate("set metadata", size, func() error {
		f, prefix, err := b.a.annotated(folder)
		if err != nil {
			return err
		}
		about := f.name
		if folder == "" {
			about = ""
		}
		c, err := mailbox.CheckMetadata(about, change)
		if err != nil {
			return err
		}
		ops, err := f.metadataOps(prefix, c.Set)
		if err != nil {
			return err
		}
		if c.SetsUse {
			o, err := f.useOp(c.Use)
			if err != nil {
				return err
			}
			ops = append(ops, o)
		}
		return f.setAttributes(ops)
	})
}

// annotate is Account.change for what is said about folders; size is about what it
// writes, in bytes.
func (b *box) annotate(what string, size int64, do func() error) error {
	return b.change(context.Background(), what, size, func() (*commit, error) {
		if err := b.a.unstick(); err != nil {
			return nil, err
		}
		return nil, do()
	})
}

// metadataOps are changes of entries, if the folder can have so many.
func (f *folder) metadataOps(prefix string, set map[string]*string) (ops []op, err error) {
	has := f.attributes(prefix)
	before := len(has)
	for _, name := range slices.Sorted(maps.Keys(set)) {
		ops = append(ops, f.attribute(prefix+name, set[name]))
		if set[name] == nil {
			delete(has, name)
		} else {
			has[name] = ""
		}
	}
	if len(has) > mailbox.MaxMetadataEntries && len(has) > before {
		err = fmt.Errorf("folder %q: %d entries: %w", f.name, len(has), mailbox.ErrTooMuchMetadata)
	}
	return ops, err
}

// useOp gives the folder a special use that no other has, or "".
func (f *folder) useOp(use string) (o op, err error) {
	if use == "" {
		return f.attribute(useAttribute, nil), nil
	}
	return f.attribute(useAttribute, &use), f.a.useFree(use, f.rel)
}

// useFree refuses a special use that a folder other than rel has.
func (a *Account) useFree(use, rel string) error {
	rels, err := a.directories()
	if err != nil {
		return err
	}
	for _, other := range rels {
		has, err := a.useOf(other)
		if err != nil {
			return err
		}
		if other != rel && has == use {
			return fmt.Errorf("folder %q is %s: %w", other, use, mailbox.ErrUse)
		}
	}
	return nil
}

// useOf is the special use of a folder; it is read once.
func (a *Account) useOf(rel string) (use string, err error) {
	if f := a.folders[rel]; f != nil && f.loaded {
		use, _ = f.state.Attribute(useAttribute)
		a.uses[rel] = use
		return use, nil
	}
	use, known := a.uses[rel]
	if !known {
		if use, _, err = state.Peek(a.fs, a.dir(rel), useAttribute); err == nil {
			a.uses[rel] = use
		}
	}
	return use, err
}

// forgetUse is for a folder that has come, gone or got another name.
func (a *Account) forgetUse(rel string) { delete(a.uses, rel) }

// ACL is mailbox.Box's.
func (b *box) ACL(folder string) (acl mailbox.ACL, err error) {
	err = b.do("list rights", func() error {
		f, err := b.a.synced(folder)
		if err != nil {
			return err
		}
		acl = mailbox.ACL{}
		for identifier, rights := range f.attributes(aclKey) {
			acl[identifier] = mailbox.Rights(rights)
		}
		return nil
	})
	return acl, err
}

// SetACL is mailbox.Box's.
func (b *box) SetACL(folder, identifier string, r mailbox.Rights) error {
	return b.annotate("set rights", attributeSlop, func() error {
		r, err := mailbox.CheckACL(identifier, r)
		if err != nil {
			return err
		}
		f, err := b.a.synced(folder)
		if err != nil {
			return err
		}
		if r == "" {
			return f.setAttributes([]op{f.attribute(aclKey+identifier, nil)})
		}
		has := f.attributes(aclKey)
		if _, is := has[identifier]; !is && len(has) >= mailbox.MaxACLEntries {
			return fmt.Errorf("folder %q: %d entries: %w", f.name, len(has), mailbox.ErrTooMuchMetadata)
		}
		rights := string(r)
		return f.setAttributes([]op{f.attribute(aclKey+identifier, &rights)})
	})
}

// Rights is mailbox.Box's. Only the owner opens a Box here.
func (b *box) Rights(folder string) (r mailbox.Rights, err error) {
	err = b.do("rights", func() error {
		_, _, err := b.a.lookup(folder)
		r = mailbox.AllRights
		return err
	})
	if err != nil {
		return "", err
	}
	return r, nil
}

// Namespaces is mailbox.Box's.
func (b *box) Namespaces() []mailbox.Namespace {
	return []mailbox.Namespace{{Kind: mailbox.Personal}}
}

// markUse writes the special use of a folder that is being made, durably.
func (a *Account) markUse(folder state.Folder, use string) error {
	s, err := state.Load(a.fs, folder, a.o.Now(), false)
	if err != nil {
		return err
	}
	modseq, err := s.NextModSeq()
	if err != nil {
		return err
	}
	return errors.Join(s.Apply(state.SetAttribute(modseq, useAttribute, use)), s.Sync())
}
