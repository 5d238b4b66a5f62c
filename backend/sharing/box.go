// Package sharing shows a user the folders that the other members of the same sharing
// group share (RFC 4314, RFC 2342): a mailbox.Box of all of them, in which the folder X
// of the user U is "U/X". Package mount puts it under a namespace.
//
// # Rights
//
// They are evaluated for each operation: l lists, r reads, s, t and w change \Seen,
// \Deleted and all other flags, i puts messages in, e expunges, k makes folders below,
// x deletes and renames, a reads and sets ACLs; p allows nothing. A folder on which the
// user has no right, or lacks the one that is needed as well as l and r, is not there:
// ErrNoFolder; otherwise it is ErrNoRight. Where only some flags may be changed the
// others stay as they are, and nothing fails; messages that are put in lose those that
// may not be set (RFC 4314, Section 4). A folder that is made has its parent's ACL.
// Flags, \Seen too, are the folder's, for all who see it. Special uses, private
// metadata and subscriptions of the owner are not shown; quota is the owner's.
//
// # Owners
//
// Each operation asks the Source whether the owner is of the same group and served
// here now, at which epoch. Where that is not so, because the owner is being moved,
// say, the folders are not there, with ErrAway; but Folder and Rights wait, at most
// maxAway, for an owner who is coming, so that nobody notices that a group moves. A Folder that has
// shown messages fails with mailbox.ErrStale when its owner leaves, so that the session
// that has it selected is handed off, or ends; no other session does. Done is never
// closed. That a right was revoked counts from the
// next operation on, also for Folders that are open.
//
// What members share is read once for all sessions (Shares). A Box keeps the mailboxes
// open whose folders were opened, at most maxOpen, beside those that Updates watches.
// Nothing is kept on disk. Safe for concurrent use.
package sharing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/feed"
	"waypost/director"
)

// maxOpen bounds the mailboxes that a Box keeps open for Folders. The one whose
// messages were shown last is never closed for another.
const maxOpen = 16

const (
	// maxAway is how long Folder and Rights wait for an owner: members of a group move together,
	// one of them some moments before the other.
	maxAway = 5 * time.Second
	// awayEvery is how often it looks.
	awayEvery = 10 * time.Millisecond
)

// Source tells who shares with whom, and opens mailboxes. All is asked often, and from
// memory.
type Source interface {
	// Others gives the other members of a user's sharing group that this backend
	// serves now, by name, at most director.MaxGroupMembers.
	Others(viewer director.User) []director.User
	// Epoch tells whether an owner is of the viewer's group and is served here now,
	// and at which epoch.
	Epoch(viewer, owner director.User) (director.Epoch, bool)
	// Shares tells whether they are members of one group, wherever the owner is.
	Shares(viewer, owner director.User) bool
	// Coming tells, of an owner of the viewer's group who is not served here, whether
	// that may change within moments, while the viewer is served here.
	Coming(viewer, owner director.User) bool
	// Open opens an owner's mailbox; errors as mailbox.Store's Open.
	Open(owner director.User, epoch director.Epoch) (mailbox.Box, error)
	// Stage is mailbox.Store's.
	Stage(ctx context.Context, header string, r io.Reader, max int64) (mailbox.Staged, error)
}

// Box is a viewer's. Close it.
type Box struct {
	viewer director.User
	src    Source
	shares *Shares
	log    *slog.Logger
	done   chan struct{} // never closed

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	open     map[director.User]*member
	clock    uint64
	pinned   *member
	over     bool
	feed     feed.Feed
	watching bool
}

var _ mailbox.Box = (*Box)(nil)

// member is an open mailbox of somebody else.
type member struct {
	mailbox.Box
	epoch director.Epoch
	used  uint64 // the Box's clock
}

// New makes a viewer's Box. It opens nothing yet.
func New(viewer director.User, src Source, shares *Shares, log *slog.Logger) *Box {
	b := &Box{viewer: viewer, src: src, shares: shares, log: log, done: make(chan struct{}), open: make(map[director.User]*member)}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// User is the viewer.
func (b *Box) User() director.User { return b.viewer }

// Done is mailbox.Box's.
func (b *Box) Done() <-chan struct{} { return b.done }

// Close closes all that is open. Folders fail with mailbox.ErrClosed then.
func (b *Box) Close() {
	b.mu.Lock()
	b.over = true
	b.mu.Unlock()
	b.cancel()
	b.tasks.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	for owner, m := range b.open {
		m.Close()
		delete(b.open, owner)
	}
	b.feed.Wake()
}

// fenced reports that the owner's mailbox is not served any more as it was.
func fenced(err error) bool {
	return errors.Is(err, mailbox.ErrStale) || errors.Is(err, mailbox.ErrFrozen) ||
		errors.Is(err, mailbox.ErrRefused) || errors.Is(err, mailbox.ErrClosed)
}

// split takes a name apart: "U" alone has no folder.
func split(name string) (owner director.User, folder string) {
	u, folder, _ := strings.Cut(name, string(mailbox.Separator))
	if strings.EqualFold(folder, mailbox.Inbox) {
		folder = mailbox.Inbox
	}
	return director.User(strings.ToLower(u)), folder
}

func join(owner director.User, folder string) string {
	return string(owner) + string(mailbox.Separator) + folder
}

// away is why nothing of an owner who is being moved is there now.
func (b *Box) away(owner director.User, why any) error {
	return fmt.Errorf("%w: %w: folders of %s for %s: %v", mailbox.ErrAway, mailbox.ErrNoFolder, owner, b.viewer, why)
}

func (b *Box) missing(name string) error {
	return fmt.Errorf("shared folder %q for %s: %w", name, b.viewer, mailbox.ErrNoFolder)
}

// state is what an operation on an owner's folders rests on.
type state struct {
	epoch director.Epoch
	list  *list
	owned *owned
}

// state asks what owner shares now; ErrNoFolder where that is nothing. It keeps no
// mailbox open.
func (b *Box) state(owner director.User) (st state, err error) {
	epoch, here := b.src.Epoch(b.viewer, owner)
	switch {
	case !here && b.src.Shares(b.viewer, owner):
		return st, b.away(owner, "not served here")
	case !here:
		return st, fmt.Errorf("%s shares nothing with %s: %w", owner, b.viewer, mailbox.ErrNoFolder)
	}
	st.epoch = epoch
	st.list, st.owned, err = b.shares.list(owner, epoch, func() (mailbox.Box, error) { return b.src.Open(owner, epoch) })
	if fenced(err) {
		err = b.away(owner, err)
	}
	return st, err
}

// member gives an owner's open mailbox.
func (b *Box) member(owner director.User, epoch director.Epoch) (*member, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return nil, fmt.Errorf("shared folders of %s: %w", owner, mailbox.ErrClosed)
	}
	b.clock++
	if m := b.open[owner]; m != nil {
		if m.epoch == epoch && !ended(m.Done()) {
			m.used = b.clock
			return m, nil
		}
		m.Close()
		delete(b.open, owner)
	}
	box, err := b.src.Open(owner, epoch)
	if fenced(err) {
		return nil, b.away(owner, err)
	}
	if err != nil {
		return nil, err
	}
	if len(b.open) >= maxOpen {
		b.closeOldest()
	}
	m := &member{Box: box, epoch: epoch, used: b.clock}
	b.open[owner] = m
	return m, nil
}

func (b *Box) closeOldest() {
	var oldest director.User
	for owner, m := range b.open {
		if m != b.pinned && (oldest == "" || m.used < b.open[oldest].used) {
			oldest = owner
		}
	}
	if m := b.open[oldest]; m != nil {
		m.Close()
		delete(b.open, oldest)
	}
}

func ended(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// denied is why a right that is needed is not there: who may neither list nor read a
// folder does not learn that there is one (RFC 4314, Section 6).
func (b *Box) denied(name string, has mailbox.Rights) error {
	if !has.Has('l') && !has.Has('r') {
		return b.missing(name)
	}
	return fmt.Errorf("shared folder %q for %s: %w", name, b.viewer, mailbox.ErrNoRight)
}

// may runs do on the owner's mailbox if the viewer has a right on a folder.
func (b *Box) may(name string, right byte, do func(m *member, folder string) error) error {
	owner, folder := split(name)
	st, err := b.state(owner)
	if err != nil {
		return err
	}
	if has := st.list.rights(b.viewer, folder); !has.Has(right) {
		return b.denied(name, has)
	}
	m, err := b.member(owner, st.epoch)
	if err != nil {
		return err
	}
	return b.soft(do(m, folder))
}

// soft keeps an owner's fence from ending the viewer's session.
func (b *Box) soft(err error) error {
	if fenced(err) {
		return fmt.Errorf("%w: %s", mailbox.ErrAway, err)
	}
	return err
}

// Folders lists what the viewer may list, with the owners above.
func (b *Box) Folders() ([]mailbox.FolderInfo, error) {
	var all []mailbox.FolderInfo
	for _, owner := range b.src.Others(b.viewer) {
		names, err := b.visible(owner)
		if errors.Is(err, mailbox.ErrNoFolder) {
			continue
		}
		if err != nil {
			b.log.Warn("shared folders not listed", "user", b.viewer, "owner", owner, "error", err)
			continue
		}
		all = append(all, tree(owner, names)...)
	}
	return all, nil
}

// visible gives the names of an owner's folders that the viewer may list, sorted.
func (b *Box) visible(owner director.User) ([]string, error) {
	st, err := b.state(owner)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range st.list.names {
		if st.list.rights(b.viewer, name).Has('l') {
			names = append(names, name)
		}
	}
	return names, nil
}

// tree adds the names above those of an owner's folders; none for none.
func tree(owner director.User, names []string) []mailbox.FolderInfo {
	all := make(map[string]*mailbox.FolderInfo)
	for _, name := range names {
		all[join(owner, name)] = &mailbox.FolderInfo{Name: join(owner, name)}
	}
	for _, name := range names {
		name = join(owner, name)
		for i := strings.LastIndexByte(name, mailbox.Separator); i > 0; i = strings.LastIndexByte(name, mailbox.Separator) {
			name = name[:i]
			if all[name] == nil {
				all[name] = &mailbox.FolderInfo{Name: name, NoSelect: true}
			}
			all[name].HasChildren = true
		}
	}
	infos := make([]mailbox.FolderInfo, 0, len(all))
	for _, info := range all {
		infos = append(infos, *info)
	}
	slices.SortFunc(infos, func(x, y mailbox.FolderInfo) int { return strings.Compare(x.Name, y.Name) })
	return infos
}

// Folder opens a folder on which the viewer has any of the rights that let him know
// of it (RFC 4314, Section 4: those for MYRIGHTS). What can be done with it is looked
// at then.
func (b *Box) Folder(name string) (mailbox.Folder, error) {
	var f mailbox.Folder
	err := b.await(name, func() (err error) {
		f, err = b.folder(name)
		return err
	})
	return f, err
}

// await does what needs the owner here, again and again while he is coming.
func (b *Box) await(name string, do func() error) error {
	err := do()
	if !errors.Is(err, mailbox.ErrAway) {
		return err
	}
	owner, _ := split(name)
	ctx, cancel := context.WithTimeout(b.ctx, maxAway)
	defer cancel()
	tick := time.NewTicker(awayEvery)
	defer tick.Stop()
	for errors.Is(err, mailbox.ErrAway) && b.src.Coming(b.viewer, owner) {
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
			err = do()
		}
	}
	return err
}

func (b *Box) folder(name string) (mailbox.Folder, error) {
	owner, inner := split(name)
	st, err := b.state(owner)
	if err != nil {
		return nil, err
	}
	if !knows(st.list.rights(b.viewer, inner)) {
		return nil, b.missing(name)
	}
	m, err := b.member(owner, st.epoch)
	if err != nil {
		return nil, err
	}
	f, err := m.Box.Folder(inner)
	if err != nil {
		if fenced(err) {
			err = b.away(owner, err)
		}
		return nil, err
	}
	return &folder{Folder: f, b: b, m: m, owner: owner, name: inner, gen: st.owned.gen}, nil
}

func knows(has mailbox.Rights) bool { return strings.ContainsAny(string(has), "lrikxa") }

// Rights are the viewer's.
func (b *Box) Rights(name string) (mailbox.Rights, error) {
	var has mailbox.Rights
	err := b.await(name, func() (err error) {
		has, err = b.rights(name)
		return err
	})
	return has, err
}

func (b *Box) rights(name string) (mailbox.Rights, error) {
	owner, inner := split(name)
	st, err := b.state(owner)
	if err != nil {
		return "", err
	}
	has := st.list.rights(b.viewer, inner)
	if !knows(has) {
		return "", b.missing(name)
	}
	return has, nil
}
