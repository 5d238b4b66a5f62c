package maildir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/deliveries"
	"waypost/backend/maildir/name"
	"waypost/backend/quota"
	"waypost/director"
)

const (
	maildirName    = "Maildir"
	deliveriesName = "deliveries"
	quotaName      = "maildirsize"
)

// ErrClosed: the handle or its Account has been closed.
var ErrClosed = mailbox.ErrClosed

// ErrUncertain: a sync failed, so that it is not known what a crash would leave.
// The Account takes no more writes; close it and open it again with Recover.
var ErrUncertain = errors.New("what is on the disk is not known")

// Guard is the user's lock and fence.
type Guard interface {
	// Enter waits for the user's lock and checks the fence for epoch. leave
	// gives the lock back. Its errors are handed to the protocols unchanged.
	Enter(epoch director.Epoch) (leave func(), err error)
}

// Options say what an Account is made of. All but Host, Recover,
// CreateFolderOnDelivery and MaxFolders must be set.
type Options struct {
	// Root is the user's folder, which Create has made.
	Root  string
	Guard Guard
	// Limit is the user's quota as it is now. It must not block.
	Limit func() mailbox.Limit
	Log   *slog.Logger
	Now   func() time.Time
	// Host stands in the names of files.
	Host string
	// Recover says that the last process to open the user did not close it:
	// logged deliveries are finished and the quota is counted anew.
	Recover bool
	// CreateFolderOnDelivery makes folders that a delivery names; otherwise
	// such a message goes to INBOX.
	CreateFolderOnDelivery bool
	// MaxFolders bounds the folders beside INBOX that may come to be; 0 stands
	// for DefaultMaxFolders. Those there already are served, however many.
	MaxFolders int
}

// DefaultMaxFolders is how many folders a user may have beside INBOX.
const DefaultMaxFolders = 1000

// Account is one user's mailbox in this process. It is safe for concurrent use.
type Account struct {
	o       Options
	maildir string
	names   *name.Generator
	quota   *quota.Log

	// mu guards all below, and with Guard's lock the tree. It is taken after
	// Guard's lock, and held for whole operations.
	mu      sync.Mutex
	closed  bool
	boxes   int
	folders map[string]*folder // by directory
	version uint64             // of the last change in any folder
	// log is read at the first delivery.
	log *deliveries.Log
	// pending are logged deliveries whose rename failed: file → directory.
	pending map[string]string
	// uncertain is set once a sync has failed; broken says so without the lock.
	uncertain error
	broken    atomic.Bool
	// unsynced are the directories in which messages went from new to cur.
	unsynced map[string]bool
	// recount: an addition to the quota log failed.
	recount bool
	limit   mailbox.Limit // as the quota log knows it
	poll    *poller       // while somebody waits for changes
}

// Open opens the user's tree. It never makes one: a missing tree is an error
// (fs.ErrNotExist). The caller holds the user's lock, and has no other Account
// of the user open.
func Open(o Options) (*Account, error) {
	if o.MaxFolders == 0 {
		o.MaxFolders = DefaultMaxFolders
	}
	a := &Account{
		o: o, maildir: filepath.Join(o.Root, maildirName),
		names:   name.NewGenerator(o.Host, os.Getpid(), o.Now),
		folders: map[string]*folder{}, pending: map[string]string{}, unsynced: map[string]bool{}, limit: o.Limit(),
	}
	for _, sub := range subfolders {
		info, err := os.Stat(filepath.Join(a.maildir, sub))
		if err == nil && !info.IsDir() {
			err = fs.ErrInvalid
		}
		if err != nil {
			return nil, fmt.Errorf("open mailbox %s: %w", o.Root, err)
		}
	}
	var err error
	if a.quota, err = quota.Open(filepath.Join(a.maildir, quotaName), quota.Limit(a.limit)); err != nil {
		return nil, fmt.Errorf("open mailbox %s: %w", o.Root, err)
	}
	if err := a.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("open mailbox %s: %w", o.Root, err), a.quota.Close())
	}
	return a, nil
}

func (a *Account) start() error {
	if a.o.Recover {
		if err := a.recoverTree(); err != nil {
			return err
		}
	}
	_, err := a.usage()
	return err
}

// Box gives a handle at epoch. done is what its Done returns.
func (a *Account) Box(user director.User, epoch director.Epoch, done <-chan struct{}) mailbox.Box {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.boxes++
	return &box{a: a, user: user, epoch: epoch, done: done}
}

// Flushed finishes what is pending and makes sure that all is durable. The
// caller holds the user's lock; it calls this before it freezes.
func (a *Account) Flushed() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.flush(); err != nil {
		return fmt.Errorf("flush mailbox %s: %w", a.o.Root, err)
	}
	return nil
}

func (a *Account) flush() error {
	if err := a.writable(); err != nil {
		return err
	}
	if err := a.finishPending(); err != nil {
		return err
	}
	if err := a.syncCollected(); err != nil {
		return err
	}
	if _, err := a.usage(); err != nil {
		return err
	}
	return a.quota.Sync()
}

// Close flushes, ends the poller and makes all handles fail. After an error the
// next Open needs Recover. A second call does nothing.
func (a *Account) Close() error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil
	}
	err := a.flush()
	a.closed = true
	a.forgetFolders()
	p := a.poll
	a.mu.Unlock()
	if p != nil {
		p.stop()
	}
	if err = errors.Join(err, a.quota.Close()); err != nil {
		return fmt.Errorf("close mailbox %s: %w", a.o.Root, err)
	}
	return nil
}

// forgetFolders drops what is known of the folders and wakes who waits.
func (a *Account) forgetFolders() {
	for _, f := range a.folders {
		f.wake()
	}
	clear(a.folders)
}

// dir is the path of a folder's directory; rel is "" for INBOX.
func (a *Account) dir(rel string) string { return filepath.Join(a.maildir, rel) }

func (a *Account) writable() error {
	switch {
	case a.closed:
		return ErrClosed
	case a.uncertain != nil:
		return a.uncertain
	}
	return nil
}

// doubt makes the Account refuse further writes.
func (a *Account) doubt(err error) error {
	if a.uncertain == nil {
		a.uncertain = fmt.Errorf("%w: %w", ErrUncertain, err)
		a.broken.Store(true)
		a.o.Log.Error("maildir: a sync failed; no more writes until the mailbox is opened anew", "root", a.o.Root, "error", err)
	}
	return a.uncertain
}

// Broken reports whether a sync has failed: the Account takes no more writes,
// and whoever opened it closes it and opens it again with Recover.
func (a *Account) Broken() bool { return a.broken.Load() }

// nextVersion gives a number no folder has had yet.
func (a *Account) nextVersion() uint64 {
	a.version++
	return a.version
}

// deliveryLog gives the log, read at the first call.
func (a *Account) deliveryLog() (*deliveries.Log, error) {
	if a.log == nil {
		log, err := deliveries.Open(filepath.Join(a.o.Root, deliveriesName), a.o.Now())
		if err != nil {
			return nil, err
		}
		a.log = log
	}
	return a.log, nil
}

// box is one handle.
type box struct {
	a     *Account
	user  director.User
	epoch director.Epoch
	done  <-chan struct{}
	// closed is guarded by a.mu.
	closed bool
}

var _ mailbox.Box = (*box)(nil)

func (b *box) User() director.User   { return b.user }
func (b *box) Done() <-chan struct{} { return b.done }

func (b *box) Close() {
	a := b.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if b.closed {
		return
	}
	b.closed = true
	if a.boxes--; a.boxes == 0 {
		a.forgetFolders()
	}
}

// enter takes the locks for an operation.
func (b *box) enter() (leave func(), err error) {
	unguard, err := b.a.o.Guard.Enter(b.epoch)
	if err != nil {
		return nil, err
	}
	b.a.mu.Lock()
	if b.closed || b.a.closed {
		b.a.mu.Unlock()
		unguard()
		return nil, fmt.Errorf("%s: %w", b.user, ErrClosed)
	}
	return func() { b.a.mu.Unlock(); unguard() }, nil
}

// do runs an operation under the locks. Its errors name it and the user;
// Guard's do not come this way.
func (b *box) do(what string, op func() error) error {
	leave, err := b.enter()
	if err != nil {
		return err
	}
	defer leave()
	return b.named(what, op())
}

// change is do for operations that write.
func (b *box) change(what string, op func() error) error {
	return b.do(what, func() error {
		if err := b.a.writable(); err != nil {
			return err
		}
		return op()
	})
}

func (b *box) named(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", what, b.user, outOfSpace(err))
}

func (b *box) Limit() mailbox.Limit { return b.a.o.Limit() }

func (b *box) Usage() (u mailbox.Usage, err error) {
	err = b.do("usage", func() error { u, err = b.a.usage(); return err })
	return u, err
}

func (b *box) Fits(size int64) error {
	return b.do("quota", func() error { return b.a.fits(size, 1) })
}

func (b *box) Folder(name string) (mailbox.Folder, error) {
	var h *handle
	err := b.do("open folder", func() error {
		f, err := b.a.folder(name)
		if err != nil {
			return err
		}
		h = &handle{b: b, f: f, name: f.name, recent: map[mailbox.UID]struct{}{}}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

func (b *box) Deliver(ctx context.Context, id string, m mailbox.Staged, folder string, force bool) error {
	return b.change("deliver", func() error {
		s, err := own(m)
		if err != nil {
			return err
		}
		// The last moment to turn back: from here on it is brief.
		if err := ctx.Err(); err != nil {
			return err
		}
		return b.a.deliver(id, s, folder, force)
	})
}

func (b *box) Append(folder string, m mailbox.Staged, flags mailbox.Flags, date time.Time) (validity uint32, uid mailbox.UID, err error) {
	err = b.change("append", func() error {
		s, err := own(m)
		if err != nil {
			return err
		}
		validity, uid, err = b.a.append(folder, s, flags, date)
		return err
	})
	return validity, uid, err
}
