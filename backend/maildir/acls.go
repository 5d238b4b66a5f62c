package maildir

import (
	"waypost/backend/mailbox"
	"waypost/backend/maildir/state"
)

// ACLs gives the ACLs of all folders that have one, by folder. It loads no folder:
// who lists what an owner shares asks this of many owners.
func (b *box) ACLs() (all map[string]mailbox.ACL, err error) {
	err = b.do("list what is shared", func() error {
		rels, err := b.a.directories()
		if err != nil {
			return err
		}
		all = make(map[string]mailbox.ACL)
		for _, rel := range append(rels, "") {
			name, ok := folderOf(rel)
			if rel == "" {
				name, ok = mailbox.Inbox, true
			}
			if !ok {
				continue
			}
			entries, err := b.a.attributesOf(rel, aclKey)
			if err != nil {
				return err
			}
			for identifier, rights := range entries {
				if all[name] == nil {
					all[name] = mailbox.ACL{}
				}
				all[name][identifier] = mailbox.Rights(rights)
			}
		}
		return nil
	})
	return all, err
}

// attributesOf gives the attributes of a folder whose keys have a prefix, without it.
func (a *Account) attributesOf(rel, prefix string) (map[string]string, error) {
	if f := a.folders[rel]; f != nil && f.loaded {
		return f.attributes(prefix), nil
	}
	return state.PeekAll(a.fs, a.dir(rel), prefix)
}
