package backend

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"waypost/backend/fence"
	"waypost/backend/fulltext"
	"waypost/backend/mailbox"
	"waypost/backend/maildir"
	"waypost/backend/scripts"
	"waypost/backend/sharing"
	"waypost/director"
)

// user is one user's place in memory: the lock that serialises everything that
// is done to the mailbox, the fence under it, and the open mailbox.
type user struct {
	name director.User
	b    *Server

	// mu is the user's lock of R1. It is held for one mailbox operation or one
	// fence change, never over the network.
	mu    sync.Mutex
	fence fence.Fence
	// unsure: the last change of the fence failed, and its file may say so all the same.
	unsure bool
	acct   *maildir.Account
	// script is the active Sieve script, once read; it goes with acct.
	script *scripts.Active
	// left is closed when the fence leaves the epoch it serves, the mailbox is closed, or the
	// backend stops: sessions are handed off.
	left chan struct{}
	// why it was closed last: a word of the metrics.
	why string
	// lastLimit is the quota as last known.
	lastLimit atomic.Pointer[mailbox.Limit]
	// furnished is the open mailbox in which the folders of auto_folders are, under
	// furnishing, which is taken before mu.
	furnishing sync.Mutex
	furnished  *maildir.Account
	// alarm is why requests are refused, empty when they are not.
	alarm string

	// tree is held while staging or trash of this user is worked on: pulls,
	// seals, drops, manifests. It is taken before mu.
	tree sync.Mutex
	// stopPull ends a running pull; set under mu.
	stopPull context.CancelFunc

	// refs and idle belong to the table, under its lock. idle is the place in
	// the table's list while refs is 0.
	refs int
	idle *list.Element
}

// users is the table of those in memory.
type users struct {
	mu      sync.Mutex
	open    map[director.User]*user
	fences  map[director.User]fence.Fence // all fences of the disk, as last put
	unused  list.List                     // of *user, the longest unused first
	maxIdle int
}

// all gives those that are in memory now.
func (t *users) all() []*user {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.open))
}

// use finds or makes a user's entry; release must follow.
func (b *Server) use(name director.User) *user {
	t := &b.users
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.open[name]
	if u == nil {
		u = &user{name: name, b: b, fence: t.fences[name], left: make(chan struct{})}
		t.open[name] = u
	}
	t.hold(u)
	return u
}

// hold takes a reference. Called under the table's lock.
func (t *users) hold(u *user) {
	u.refs++
	if u.idle != nil {
		t.unused.Remove(u.idle)
		u.idle = nil
	}
}

// drop gives a reference back, and tells whether it was the last one.
func (t *users) drop(u *user) bool {
	u.refs--
	return u.refs == 0
}

// release gives use back. An unused mailbox stays open while there are few, so
// that the next delivery finds it read.
func (b *Server) release(u *user) {
	t := &b.users
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.drop(u) {
		return
	}
	u.idle = t.unused.PushBack(u)
	if t.unused.Len() <= t.maxIdle {
		return
	}
	victim := t.unused.Front().Value.(*user)
	// It stays in the table, held, while its files are closed: nobody may open
	// the same mailbox a second time meanwhile.
	t.hold(victim)
	t.mu.Unlock()
	victim.mu.Lock()
	if err := victim.closeAccount(); err != nil {
		b.log.Error("close mailbox", "user", victim.name, "error", err)
	}
	keep := victim.acct != nil || victim.alarm != "" || victim.unsure
	victim.mu.Unlock()
	t.mu.Lock()
	switch {
	case !t.drop(victim): // somebody came
	case keep:
		victim.idle = t.unused.PushBack(victim)
	default:
		delete(t.open, victim.name)
	}
}

// Enter implements maildir.Guard: R1, under the user's lock.
func (u *user) Enter(epoch director.Epoch) (leave func(), err error) {
	u.mu.Lock()
	if u.fence.State == fence.Serving && u.fence.Epoch == epoch && u.alarm == "" {
		if err := u.sure(); err != nil {
			u.mu.Unlock()
			return nil, err
		}
		u.mend()
		return u.mu.Unlock, nil
	}
	defer u.mu.Unlock()
	return nil, u.refusal(epoch)
}

// sure writes the fence again if a change of it has failed: what is taken in under an epoch
// that its file does not have would not be replayed (R2). Called under mu.
func (u *user) sure() error {
	if !u.unsure {
		return nil
	}
	if err := u.b.fences.Put(u.name, u.fence); err != nil {
		return fmt.Errorf("user %s: %w: %w", u.name, mailbox.ErrRefused, err)
	}
	u.unsure = false
	return nil
}

// mend closes a mailbox under which a sync has failed: nobody knows what is on
// the disk, and the next opening reads it anew. If it knew what nobody else does, that
// has failed the journal, and this process ends. One that stays open, since the fault is
// its user's own, is still read, and refuses writes. Called under mu.
func (u *user) mend() {
	if u.acct == nil || !u.acct.Broken() {
		return
	}
	if err := u.closeAccount(); err != nil {
		u.b.log.Error("close mailbox", "user", u.name, "error", err)
	}
}

// refusal says why epoch is not served. Called under mu.
func (u *user) refusal(epoch director.Epoch) error {
	var err error
	switch {
	case u.alarm != "":
		err = fmt.Errorf("%w: %s", mailbox.ErrRefused, u.alarm)
	case u.fence.State == fence.Frozen && epoch <= u.fence.Epoch:
		err = mailbox.ErrFrozen
	case epoch <= u.fence.Epoch, u.fence.State == fence.Serving:
		err = mailbox.ErrStale
	default:
		err = mailbox.ErrRefused
	}
	return fmt.Errorf("user %s: asked for epoch %d, fence is %s: %w", u.name, epoch, u.fence, err)
}

// setFence makes a change of the fence durable. What the journal has of the
// epoch that ends is brought into the files before: it will not be replayed any
// more (R2). Called under mu.
func (u *user) setFence(f fence.Fence) error {
	if u.fence.State == fence.Serving {
		if err := u.flush(); err != nil {
			return err
		}
	}
	return u.putFence(f)
}

// putFence is setFence when the tree is durable already.
func (u *user) putFence(f fence.Fence) error {
	if err := u.b.fences.Put(u.name, f); err != nil {
		u.unsure = true
		return err
	}
	u.unsure = false
	u.b.log.Info("fence changed", "user", u.name, "from", u.fence.String(), "to", f.String())
	was := u.fence.State
	if was == fence.Serving {
		u.hangUp(leftMoving)
	}
	u.fence = f
	// After a rollback the tree is still what it was.
	if f.State == fence.Gone || f.State == fence.Serving && was != fence.Frozen && was != fence.Serving {
		if err := u.b.digests.forget(u.name); err != nil {
			u.b.log.Warn("what was known for a move is not removed", "user", u.name, "error", err)
		}
	}
	t := &u.b.users
	t.mu.Lock()
	t.fences[u.name] = f
	t.mu.Unlock()
	return nil
}

// flush makes the live tree durable without the journal. Called under mu.
func (u *user) flush() error {
	if u.acct != nil {
		return u.acct.Flushed()
	}
	if err := u.b.journal.Flush(string(u.name)); err != nil {
		return fmt.Errorf("flush the mailbox of %s: %w", u.name, err)
	}
	return nil
}

// account opens the live tree. Called under mu.
func (u *user) account() (*maildir.Account, error) {
	if u.acct != nil {
		return u.acct, nil
	}
	a, err := maildir.Open(maildir.Options{
		FS: u.b.digests.files, Journal: u.b.journal, Outbox: u.b.outbox,
		User:                   u.name,
		Root:                   u.b.disk.live(u.name),
		Guard:                  u,
		Limit:                  u.limit,
		Log:                    u.b.log.With("user", u.name),
		Now:                    time.Now,
		Host:                   u.b.cfg.Hostname,
		CreateFolderOnDelivery: u.b.cfg.CreateFolders,
		Recount:                u.b.toRecount(u.name),
		MaxFolders:             u.b.cfg.MaxFolders,
		UTF8Folders:            u.b.cfg.UTF8FolderNames,
		Uses:                   u.b.uses,
		Extra:                  u.b.quotaExtra,
		Warnings:               u.b.cfg.QuotaWarnings,
		Warn:                   u.b.warner(u.name),
		Cache:                  u.b.folders,
		Views:                  u.b.views,
		Killed:                 u.b.killed,
	})
	if err != nil {
		return nil, fmt.Errorf("open the mailbox of %s: %w", u.name, err)
	}
	u.acct = a
	u.b.recounted(u.name)
	return a, nil
}

// limit is the user's quota, the last known one while the account is not.
func (u *user) limit() mailbox.Limit {
	if l, ok := u.b.limit(u.name); ok {
		u.lastLimit.Store(&l)
		return l
	}
	if l := u.lastLimit.Load(); l != nil {
		return *l
	}
	return mailbox.Limit{}
}

// hangUp has the sessions of this user handed off: what they were opened for is no more.
// Called under mu.
func (u *user) hangUp(why string) {
	u.why = why
	close(u.left)
	u.left = make(chan struct{})
	u.b.texts.Revoke(u.name)
}

// closeAccount closes the live tree's files, and with them whatever was opened
// on them. A mailbox that has journaled what it could not bring into its files
// yet stays open. Called under mu.
func (u *user) closeAccount() error { return u.closeFor(leftClosed) }

// closeFor is closeAccount, with why for the sessions that go by it.
func (u *user) closeFor(why string) error {
	if u.acct == nil {
		return nil
	}
	err := u.acct.Close()
	if err != nil && !u.acct.Closed() {
		return err
	}
	u.acct, u.script = nil, nil
	u.hangUp(why)
	return err
}

// Open implements mailbox.Store: R1 for a whole handle, and the place where a
// request makes this backend look (R4).
func (b *Server) Open(ctx context.Context, name director.User, home director.BackendID, epoch director.Epoch) (mailbox.Box, error) {
	if home != b.cfg.ID {
		return nil, fmt.Errorf("user %s: asked for home %s, this is %s: %w", name, home, b.cfg.ID, mailbox.ErrStale)
	}
	u := b.use(name)
	h, err := u.open(epoch)
	if errors.Is(err, mailbox.ErrRefused) || errors.Is(err, mailbox.ErrStale) && u.behind(epoch) {
		if lookErr := b.look(ctx, u); lookErr != nil {
			err = errors.Join(err, lookErr)
		} else {
			h, err = u.open(epoch)
		}
	}
	if err != nil {
		b.release(u)
		b.metrics.fenceRefusal(err)
		return nil, err
	}
	if len(b.cfg.AutoFolders) > 0 {
		u.furnish(h.Box)
	}
	return h, nil
}

// furnish makes the folders that every account has, where they are missing, once for each
// opening of the mailbox. It is no reason to refuse a session or a message if it cannot.
func (u *user) furnish(box mailbox.Box) {
	u.furnishing.Lock()
	defer u.furnishing.Unlock()
	u.mu.Lock()
	acct := u.acct
	u.mu.Unlock()
	if acct == nil || u.furnished == acct {
		return
	}
	u.furnished = acct
	for _, folder := range u.b.cfg.AutoFolders {
		err := box.CreateFolder(folder, "")
		if errors.Is(err, mailbox.ErrFolderExists) {
			continue
		}
		if err == nil {
			err = box.Subscribe(folder, true)
		}
		if err != nil {
			u.b.log.Warn("folder that every account has not made", "user", u.name, "folder", folder, "error", err)
		}
	}
}

// behind tells whether the request knows more than the fence.
func (u *user) behind(epoch director.Epoch) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return epoch > u.fence.Epoch
}

func (u *user) open(epoch director.Epoch) (*handle, error) {
	leave, err := u.Enter(epoch)
	if err != nil {
		return nil, err
	}
	defer leave()
	a, err := u.account()
	if err != nil {
		return nil, err
	}
	return &handle{Box: sharing.Told(a.Box(u.name, epoch, u.left), u.b.shares), b: u.b, u: u, epoch: epoch, texts: u.lease()}, nil
}

// handle gives the table's reference back with the box.
type handle struct {
	mailbox.Box
	b     *Server
	u     *user
	epoch director.Epoch
	texts *fulltext.Lease // nil: no index of texts
	once  sync.Once
}

// Close ends the handle; further calls do nothing.
func (h *handle) Close() {
	h.once.Do(func() {
		h.Box.Close()
		if h.texts != nil {
			h.texts.Release()
		}
		h.b.release(h.u)
	})
}
