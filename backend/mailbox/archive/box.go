package archive

import (
	"context"
	"fmt"
	"sync"

	"waypost/backend/mailbox"
	"waypost/director"
)

// box is an archive as one session has it.
type box struct {
	owner Owner
	shelf *shelf

	// mu is held for reading by operations, so that Close waits for them.
	mu     sync.RWMutex
	closed bool
}

var _ mailbox.Box = (*box)(nil)

// User is mailbox.Box's.
func (b *box) User() director.User { return b.owner.User }

// Done is mailbox.Box's.
func (b *box) Done() <-chan struct{} { return b.owner.Done }

// Close is mailbox.Box's.
func (b *box) Close() {
	b.mu.Lock()
	was := b.closed
	b.closed = true
	b.mu.Unlock()
	if !was {
		b.shelf.set.release(b.shelf)
	}
}

// named says in an error what was done, and where.
func (b *box) named(what, folder string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %q of archive %s of %s: %w", what, folder, b.shelf.config.Name, b.owner.User, err)
}

// do runs op while the Box is open.
func (b *box) do(what, folder string, op func() error) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return b.named(what, folder, mailbox.ErrClosed)
	}
	return b.named(what, folder, op())
}

// fenced is do under the fence.
func (b *box) fenced(what, folder string, op func() error) error {
	return b.do(what, folder, func() error {
		if err := b.owner.Guard(func() error { return nil }); err != nil {
			return err
		}
		return op()
	})
}

// there checks the fence, and that there is such a folder.
func (b *box) there(what, name string) error {
	return b.fenced(what, name, func() error {
		_, err := b.path(name)
		return err
	})
}

// path gives a folder's place in the archive.
func (b *box) path(name string) (string, error) {
	path, ok := b.shelf.tree.path(name)
	if !ok {
		return "", mailbox.ErrNoFolder
	}
	if b.shelf.tree.count == 0 {
		return path, nil
	}
	if err := b.shelf.tree.straight(b.shelf.set.o.FS, path); err != nil {
		return "", err
	}
	if _, _, err := b.shelf.source(path).stamp(b.shelf.set.o.Now()); absent(err) {
		return "", mailbox.ErrNoFolder
	} else if err != nil {
		return "", err
	}
	return path, nil
}

// Folders is mailbox.Box's, without the folders above.
func (b *box) Folders() (infos []mailbox.FolderInfo, err error) {
	err = b.fenced("list", "", func() error {
		o := &b.shelf.set.o
		names := b.shelf.tree.list(o.FS, b.shelf.config.Format == FormatMaildir, maxFolders, func(err error) {
			o.Log.Warn("archive: not listed in full", "user", b.owner.User, "archive", b.shelf.config.Name, "error", err)
		})
		if len(names) >= maxFolders {
			o.Log.Warn("archive: too many folders, not all are listed", "user", b.owner.User, "archive", b.shelf.config.Name, "listed", len(names))
		}
		for _, name := range names {
			infos = append(infos, mailbox.FolderInfo{Name: name})
		}
		return nil
	})
	return infos, err
}

// Folder is mailbox.Box's.
func (b *box) Folder(name string) (mailbox.Folder, error) {
	if err := b.there("open", name); err != nil {
		return nil, err
	}
	return &handle{b: b, name: name}, nil
}

func (b *box) readOnly(what, folder string) error { return b.named(what, folder, mailbox.ErrReadOnly) }

// CreateFolder is mailbox.Box's, and fails.
func (b *box) CreateFolder(name, _ string) error { return b.readOnly("create", name) }

// DeleteFolder is mailbox.Box's, and fails.
func (b *box) DeleteFolder(name string) error { return b.readOnly("delete", name) }

// RenameFolder is mailbox.Box's, and fails.
func (b *box) RenameFolder(from, _ string) error { return b.readOnly("rename", from) }

// Subscribe is mailbox.Box's, and fails: who mounts the Box has subscriptions.
func (b *box) Subscribe(name string, _ bool) error { return b.readOnly("subscribe to", name) }

// Subscriptions is mailbox.Box's: there are none.
func (b *box) Subscriptions() ([]string, error) { return nil, nil }

// Usage is mailbox.Box's: an archive does not count.
func (b *box) Usage() (mailbox.Usage, error) { return mailbox.Usage{}, nil }

// Limit is mailbox.Box's.
func (b *box) Limit() mailbox.Limit { return mailbox.Limit{} }

// Fits is mailbox.Box's.
func (b *box) Fits(int64) error { return b.readOnly("put messages into", "") }

// Deliver is mailbox.Box's, and fails.
func (b *box) Deliver(context.Context, mailbox.Delivery) error { return b.readOnly("deliver to", "") }

// Remembers is mailbox.Box's: nothing.
func (b *box) Remembers(string) (bool, error) { return false, nil }

// Append is mailbox.Box's, and fails.
func (b *box) Append(folder string, _ []mailbox.NewMessage) (mailbox.AppendResult, error) {
	return mailbox.AppendResult{}, b.readOnly("append to", folder)
}

// Metadata is mailbox.Box's: there is none.
func (b *box) Metadata(folder string) (map[string]string, error) {
	if folder != "" {
		if err := b.there("metadata of", folder); err != nil {
			return nil, err
		}
	}
	return map[string]string{}, nil
}

// SetMetadata is mailbox.Box's, and fails.
func (b *box) SetMetadata(folder string, _ map[string]*string) error {
	return b.readOnly("set metadata of", folder)
}

// ACL is mailbox.Box's: empty.
func (b *box) ACL(folder string) (mailbox.ACL, error) {
	if err := b.there("ACL of", folder); err != nil {
		return nil, err
	}
	return mailbox.ACL{}, nil
}

// SetACL is mailbox.Box's, and fails.
func (b *box) SetACL(folder, _ string, _ mailbox.Rights) error {
	return b.readOnly("set ACL of", folder)
}

// Rights is mailbox.Box's.
func (b *box) Rights(folder string) (mailbox.Rights, error) {
	if err := b.there("rights to", folder); err != nil {
		return "", err
	}
	return "lr", nil
}

// Namespaces is mailbox.Box's.
func (b *box) Namespaces() []mailbox.Namespace {
	return []mailbox.Namespace{{Kind: mailbox.Personal}}
}

// Updates is mailbox.Box's, of folders in memory.
func (b *box) Updates(since uint64) (mailbox.Updates, <-chan struct{}) {
	return b.shelf.updates(since)
}
