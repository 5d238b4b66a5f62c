package memory

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"waypost/backend/mailbox"
	"waypost/director"
)

// box is a handle at one epoch.
type box struct {
	user  *user
	epoch director.Epoch
	done  chan struct{}
}

func (b *box) User() director.User   { return b.user.name }
func (b *box) Done() <-chan struct{} { return b.done }

// Close forgets the handle; Done stays as it is.
func (b *box) Close() {
	b.user.mu.Lock()
	defer b.user.mu.Unlock()
	delete(b.user.boxes, b)
}

// check is the fence (R1). The caller holds the user's lock.
func (b *box) check() error {
	switch {
	case b.user.fence != nil:
		return b.user.fence
	case b.user.epoch != b.epoch:
		return mailbox.ErrStale
	}
	return b.user.fault
}

// lock takes the user's lock and checks the fence under it. On error the lock
// is not held.
func (b *box) lock(op string) error {
	b.user.mu.Lock()
	if err := b.check(); err != nil {
		b.user.mu.Unlock()
		return fmt.Errorf("%s %s: %w", op, b.user.name, err)
	}
	return nil
}

func (b *box) Folders() ([]mailbox.FolderInfo, error) {
	if err := b.lock("list folders of"); err != nil {
		return nil, err
	}
	defer b.user.mu.Unlock()
	all := make(map[string]bool) // name → has messages of its own
	for name := range b.user.folders {
		all[name] = true
		for p := parent(name); p != ""; p = parent(p) {
			if !all[p] {
				all[p] = b.user.folders[p] != nil
			}
		}
	}
	names := slices.SortedFunc(maps.Keys(all), func(x, y string) int {
		if (x == mailbox.Inbox) != (y == mailbox.Inbox) {
			if x == mailbox.Inbox {
				return -1
			}
			return 1
		}
		return strings.Compare(x, y)
	})
	infos := make([]mailbox.FolderInfo, len(names))
	for i, name := range names {
		infos[i] = mailbox.FolderInfo{
			Name: name, Subscribed: b.user.subscribed[name], NoSelect: !all[name],
			HasChildren: slices.ContainsFunc(names, func(n string) bool { return parent(n) == name }),
		}
		if f := b.user.folders[name]; f != nil {
			infos[i].SpecialUse = f.use
		}
	}
	return infos, nil
}

// parent is the folder above, or "".
func parent(name string) string {
	i := strings.LastIndexByte(name, mailbox.Separator)
	return name[:max(i, 0)]
}

// validName refuses what a Maildir++ could not store either.
func validName(name string) error {
	for part := range strings.SplitSeq(name, string(mailbox.Separator)) {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "\x00\r\n") {
			return mailbox.ErrBadName
		}
	}
	return nil
}

func (b *box) CreateFolder(name, use string) error {
	if err := b.lock("create folder of"); err != nil {
		return err
	}
	defer b.user.mu.Unlock()
	return b.user.create(name, use)
}

func (u *user) create(name, use string) error {
	if err := validName(name); err != nil {
		return fmt.Errorf("create folder %q of %s: %w", name, u.name, err)
	}
	if u.folders[name] != nil || strings.EqualFold(name, mailbox.Inbox) {
		return fmt.Errorf("create folder %q of %s: %w", name, u.name, mailbox.ErrFolderExists)
	}
	f := u.newFolder(name)
	if use != "" {
		if err := u.setUse(f, use); err != nil {
			return fmt.Errorf("create folder %q of %s: %w", name, u.name, err)
		}
	}
	u.folders[name] = f
	u.feed.Listing()
	return nil
}

func (b *box) DeleteFolder(name string) error {
	if err := b.lock("delete folder of"); err != nil {
		return err
	}
	defer b.user.mu.Unlock()
	f := b.user.folders[name]
	switch {
	case name == mailbox.Inbox:
		return fmt.Errorf("delete folder %q of %s: %w", name, b.user.name, mailbox.ErrBadName)
	case f == nil:
		return fmt.Errorf("delete folder %q of %s: %w", name, b.user.name, mailbox.ErrNoFolder)
	}
	delete(b.user.folders, name)
	f.gone = true
	f.touch()
	b.user.feed.Listing()
	return nil
}

func (b *box) RenameFolder(from, to string) error {
	if err := b.lock("rename folder of"); err != nil {
		return err
	}
	defer b.user.mu.Unlock()
	u := b.user
	// A name without a folder may be a parent of others.
	parent := u.folders[from] == nil
	if parent && !slices.ContainsFunc(slices.Collect(maps.Keys(u.folders)), func(name string) bool {
		return strings.HasPrefix(name, from+string(mailbox.Separator))
	}) {
		return fmt.Errorf("rename folder %q of %s: %w", from, u.name, mailbox.ErrNoFolder)
	}
	if strings.HasPrefix(to, from+string(mailbox.Separator)) && from != mailbox.Inbox {
		return fmt.Errorf("rename folder %q of %s into itself: %w", from, u.name, mailbox.ErrBadName)
	}
	if err := u.create(to, ""); err != nil {
		return err
	}
	if from == mailbox.Inbox {
		inbox := u.folders[from]
		inbox.modSeq++
		for _, m := range inbox.msgs.All() {
			inbox.expunged(m.UID)
		}
		u.folders[to].fill(inbox.empty())
		inbox.touch()
		return nil
	}
	for name, f := range maps.Clone(u.folders) {
		if name == from || strings.HasPrefix(name, from+string(mailbox.Separator)) {
			delete(u.folders, name)
			f.name = to + strings.TrimPrefix(name, from)
			u.folders[f.name] = f
		}
	}
	if parent {
		delete(u.folders, to)
	}
	u.feed.Listing()
	return nil
}

func (b *box) Subscribe(name string, on bool) error {
	if err := b.lock("subscribe for"); err != nil {
		return err
	}
	defer b.user.mu.Unlock()
	if err := validName(name); err != nil {
		return fmt.Errorf("subscribe %s to %q: %w", b.user.name, name, err)
	}
	if on {
		b.user.subscribed[name] = true
	} else {
		delete(b.user.subscribed, name)
	}
	b.user.feed.Listing()
	return nil
}

func (b *box) Subscriptions() ([]string, error) {
	if err := b.lock("list subscriptions of"); err != nil {
		return nil, err
	}
	defer b.user.mu.Unlock()
	return slices.Sorted(maps.Keys(b.user.subscribed)), nil
}

func (b *box) Folder(name string) (mailbox.Folder, error) {
	if err := b.lock("open folder of"); err != nil {
		return nil, err
	}
	defer b.user.mu.Unlock()
	f := b.user.folders[name]
	if f == nil {
		return nil, fmt.Errorf("open folder %q of %s: %w", name, b.user.name, mailbox.ErrNoFolder)
	}
	return &handle{box: b, folder: f}, nil
}

func (b *box) Usage() (mailbox.Usage, error) {
	if err := b.lock("usage of"); err != nil {
		return mailbox.Usage{}, err
	}
	defer b.user.mu.Unlock()
	return b.user.usage(), nil
}

func (b *box) Limit() mailbox.Limit {
	b.user.mu.Lock()
	defer b.user.mu.Unlock()
	return b.user.limit
}

func (b *box) Fits(size int64) error {
	if err := b.lock("quota of"); err != nil {
		return err
	}
	defer b.user.mu.Unlock()
	return b.user.fits(size, 1)
}
