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

	"waypost/backend/index"
	"waypost/backend/journal"
	"waypost/backend/mailbox"
	"waypost/backend/mailbox/feed"
	"waypost/backend/maildir/deliveries"
	"waypost/backend/maildir/name"
	"waypost/backend/quota"
	"waypost/director"
	"waypost/internal/vfs"
)

const (
	maildirName    = "Maildir"
	deliveriesName = "deliveries"
	memoriesName   = "memories"
	quotaName      = "maildirsize"
)

// ErrClosed: the handle or its Account has been closed.
var ErrClosed = mailbox.ErrClosed

// ErrUncertain: a sync failed, so that it is not known what a crash would leave.
// The Account takes no more writes; it is to be closed.
var ErrUncertain = errors.New("what is on the disk is not known")

// Guard is the user's lock and fence.
type Guard interface {
	// Enter waits for the user's lock and checks the fence for epoch. leave
	// gives the lock back. Its errors are handed to the protocols unchanged.
	Enter(epoch director.Epoch) (leave func(), err error)
}

// Outbox takes messages that leave. Put must be idempotent by ID, and need not
// sync: the journal has the message until a checkpoint has passed it. link gives
// the message's file another name on the same file system.
type Outbox interface {
	Put(user director.User, o mailbox.Outbound, link func(path string) error) error
	// Paths are what Put changes for an id: files and their folder.
	Paths(user director.User, id string) []string
}

// Options say what an Account is made of. All but Host, CreateFolderOnDelivery,
// Outbox, MaxFolders and Cache must be set.
type Options struct {
	FS      vfs.FS
	Journal *journal.Journal
	User    director.User
	// Root is the user's folder, which Create has made.
	Root  string
	Guard Guard
	// Limit is the user's quota as it is now. It must not block.
	Limit func() mailbox.Limit
	Log   *slog.Logger
	Now   func() time.Time
	// Host stands in the names of files.
	Host string
	// CreateFolderOnDelivery makes folders that a delivery names; otherwise
	// such a message goes to INBOX.
	CreateFolderOnDelivery bool
	// Outbox is needed for deliveries with Outbound.
	Outbox Outbox
	// Recount counts the quota anew: the process that had the mailbox open last
	// may have been killed between an expunge and its line in the quota log.
	Recount bool
	// Extra is what folders may hold beyond the quota, by name.
	Extra map[string]Extra
	// Warnings are thresholds in per cent of the quota; Warn is called with the
	// highest that a change has crossed upwards, under the locks: it must not wait.
	Warnings []int
	Warn     func(percent int, used mailbox.Usage, limit mailbox.Limit)
	// UTF8Folders names new folders in UTF-8 on the disk, where that can be told
	// from modified UTF-7.
	UTF8Folders bool
	// Uses are the special uses that names of folders tell.
	Uses mailbox.Uses
	// MaxFolders bounds the folders beside INBOX that may come to be; 0 stands
	// for DefaultMaxFolders. Those there already are served, however many.
	MaxFolders int
	// Views names the run of processes, none of which began after a power cut, in which views of
	// folders are believed (see viewName); "": none are kept. Killed is when the process began if the one
	// before did not end cleanly, else zero.
	Views  string
	Killed time.Time
	// Cache, if not nil, keeps folders in memory when the last Box is closed.
	Cache *Cache
}

// DefaultMaxFolders is how many folders a user may have beside INBOX.
const DefaultMaxFolders = 1000

// Account is one user's mailbox in this process. It is safe for concurrent use.
type Account struct {
	o       Options
	fs      vfs.FS
	maildir string
	names   *name.Generator
	quota   *quota.Log
	scratch index.Scratch

	// mu guards all below, and with Guard's lock the tree. It is taken after
	// Guard's lock, and held for whole operations.
	mu     sync.Mutex
	closed bool
	boxes  int
	// served is the epoch of the last Box: folders kept from another are not used.
	served director.Epoch
	// viewLeast is from how many messages on folders have views.
	viewLeast int
	folders   map[string]*folder // by directory
	version   uint64             // of the last change in any folder
	feed      feed.Feed          // what changed, for who asks about all folders
	// uses are the special uses of folders, by directory, as far as asked for.
	uses map[string]string
	// ids and memories are read at the first delivery.
	ids      *deliveries.Log
	memories *deliveries.Memory
	// commits are journaled and not applied yet, in order; stuck says that the
	// first could not be; reserved is what they add to the quota; arriving are
	// those of deliveries, by id.
	commits  []*commit
	stuck    bool
	late     late
	reserved mailbox.Usage
	arriving map[string]*commit
	// seen is when a subfolder for deliveries was last found, by its path.
	seen map[string]time.Time
	// learning counts the commits that bring a memory, by its key.
	learning map[string]int
	// unwritten are folders whose state could not be written to the end.
	unwritten map[*folder]bool
	// linked are the directories that have got second names of messages since
	// the last sync of them: before a first name is removed they are synced.
	linked map[string]bool
	// epoch is that of the operation under way.
	epoch director.Epoch
	// uncertain is set once the journal or a sync has failed; broken says so
	// without the lock.
	uncertain error
	broken    atomic.Bool
	// lost: the disk may have given up what a sync was to make durable. The next sync
	// would succeed without it.
	lost bool
	// unsure are files that were replaced with an error, or may have been: the new
	// contents may be seen, and may not last.
	unsure map[string]bool
	// unsynced are the directories in which messages went from new to cur.
	unsynced map[string]bool
	// recount: the quota log is wrong, or may be. counting is the recount under way,
	// counters those that have not ended yet; countErr is why the last one failed,
	// countAgain when there may be another.
	recount    bool
	counting   *recount
	counters   sync.WaitGroup
	countErr   error
	countAgain time.Time
	tally      tally
	limit      mailbox.Limit // as the quota log knows it
	poll       *feed.Poller  // while somebody waits for changes
}

// Open opens the user's tree. It never makes one: a missing tree is an error
// (fs.ErrNotExist). The caller holds the user's lock, and has no other Account
// of the user open.
func Open(o Options) (*Account, error) {
	if o.MaxFolders == 0 {
		o.MaxFolders = DefaultMaxFolders
	}
	a := &Account{
		o: o, fs: o.FS, viewLeast: viewLeast, maildir: filepath.Join(o.Root, maildirName),
		names:   name.NewGenerator(o.Host, os.Getpid(), o.Now),
		folders: map[string]*folder{}, arriving: map[string]*commit{}, learning: map[string]int{}, linked: map[string]bool{},
		seen: map[string]time.Time{}, unsynced: map[string]bool{}, unwritten: map[*folder]bool{}, unsure: map[string]bool{}, uses: map[string]string{}, limit: o.Limit(), recount: o.Recount,
	}
	for _, sub := range subfolders {
		info, err := o.FS.Lstat(filepath.Join(a.maildir, sub))
		if err == nil && !info.IsDir() {
			err = fs.ErrInvalid
		}
		if err != nil {
			return nil, fmt.Errorf("open mailbox %s: %w", o.Root, err)
		}
	}
	var err error
	if a.quota, err = quota.Open(o.FS, filepath.Join(a.maildir, quotaName), quota.Limit(a.limit)); err != nil {
		return nil, fmt.Errorf("open mailbox %s: %w", o.Root, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, _, err := a.usage(); err != nil {
		return nil, errors.Join(fmt.Errorf("open mailbox %s: %w", o.Root, err), a.quota.Close())
	}
	return a, nil
}

// Box gives a handle at epoch. done is what its Done returns.
func (a *Account) Box(user director.User, epoch director.Epoch, done <-chan struct{}) mailbox.Box {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.boxes++; a.o.Cache != nil {
		a.o.Cache.take(a)
		if a.boxes == 1 && epoch != a.served {
			a.forgetFolders()
		}
	}
	a.served = epoch
	return &box{a: a, user: user, epoch: epoch, done: done}
}

// Flushed makes everything durable in the files themselves, without the
// journal. The caller holds the user's lock; it calls this before the user is
// handed on, since records of an epoch that is over are not replayed (R2).
func (a *Account) Flushed() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.flush()
	if err == nil {
		err = a.quota.Sync()
	}
	if err == nil {
		err = a.o.Journal.Flush(string(a.o.User))
	}
	if err != nil {
		return fmt.Errorf("flush mailbox %s: %w", a.o.Root, err)
	}
	return nil
}

// Close ends the poller and a recount and makes all handles fail. A second call does nothing.
// An Account that has journaled what it could not bring into the files yet
// stays open, and says so by an error. One that has doubts, too, goes, and fails the
// journal: the next Account would not know what is to be done still, but a replay does.
// Where the doubts are about this user's files alone (ownFault), no other user is to
// suffer for that: it stays open, takes no writes, and the next Close tries again.
func (a *Account) Close() error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return nil
	}
	err := a.flush()
	if err != nil && (a.uncertain == nil || a.keepsMore() && ownFault(a.uncertain)) {
		a.mu.Unlock()
		return fmt.Errorf("close mailbox %s: %w", a.o.Root, err)
	}
	if a.keepsMore() {
		a.o.Journal.Fail(fmt.Errorf("mailbox %s: closed with what is not in its files: %w", a.o.Root, err))
	}
	a.closed = true
	if a.o.Cache != nil {
		a.o.Cache.take(a)
	}
	a.stopRecount()
	a.forgetFolders()
	p := a.poll
	a.mu.Unlock()
	if p != nil {
		p.Stop()
	}
	a.counters.Wait()
	if a.ids != nil {
		a.ids.Close()
	}
	if a.memories != nil {
		a.memories.Close()
	}
	if err = errors.Join(err, a.quota.Close()); err != nil {
		return fmt.Errorf("close mailbox %s: %w", a.o.Root, err)
	}
	return nil
}

// Closed tells whether Close has closed it.
func (a *Account) Closed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.closed
}

// forgettable: nobody needs what is known of the folders, not even what is not written yet.
func (a *Account) forgettable() bool {
	return a.boxes == 0 && len(a.commits) == 0 && len(a.unwritten) == 0
}

// forgetFolders drops what is known of the folders and wakes who waits.
func (a *Account) forgetFolders() {
	for _, f := range a.folders {
		f.close()
	}
	clear(a.folders)
	a.feed.Wake()
}

// dir is the path of a folder's directory; rel is "" for INBOX.
func (a *Account) dir(rel string) string {
	if rel == "" {
		return a.maildir
	}
	return a.maildir + "/" + rel
}

func (a *Account) writable() error {
	switch {
	case a.closed:
		return ErrClosed
	case a.uncertain != nil:
		return a.uncertain
	}
	return nil
}

// doubtSync is doubt for the error of a sync that opens what it syncs; who has no
// descriptor for that has synced nothing, and may try again.
func (a *Account) doubtSync(err error) error {
	if noDescriptor(err) {
		return err
	}
	a.lost = a.lost || !ownFault(err)
	return a.doubt(err)
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
// and whoever opened it closes it (see Close).
func (a *Account) Broken() bool { return a.broken.Load() }

// nextVersion gives a number no folder has had yet.
func (a *Account) nextVersion() uint64 {
	a.version++
	return a.version
}

// deliveryLog gives the log of ids, read at the first call.
func (a *Account) deliveryLog() (log *deliveries.Log, err error) {
	if a.ids == nil {
		if log, err = deliveries.Open(a.fs, filepath.Join(a.o.Root, deliveriesName), deliveries.Keep, a.o.Now()); err != nil {
			return nil, err
		}
		a.ids = log
	}
	return a.ids, nil
}

// memoryLog gives what filters remember, read at the first call.
func (a *Account) memoryLog() (memory *deliveries.Memory, err error) {
	if a.memories == nil {
		if memory, err = deliveries.OpenMemory(a.fs, filepath.Join(a.o.Root, memoriesName), a.o.Now()); err != nil {
			return nil, err
		}
		a.memories = memory
	}
	return a.memories, nil
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
	if b.shut() {
		b.a.o.Cache.evict()
	}
}

// shut ends the handle, and reports that the Account's Cache has grown.
func (b *box) shut() (cached bool) {
	a := b.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if b.closed {
		return false
	}
	b.closed = true
	if a.boxes--; a.forgettable() {
		cached = a.unused()
	}
	return cached
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
	b.a.epoch = b.epoch
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

// change is do for operations that write. op may leave a ticket to be waited for
// when the locks are given back; admitted is about what it writes into the
// journal, in bytes.
func (b *box) change(ctx context.Context, what string, admitted int64, op func() (*commit, error)) error {
	a := b.a
	if err := a.o.Journal.Admit(ctx, int(admitted)); err != nil {
		return b.named(what, err)
	}
	var c *commit
	err := b.counted(ctx, func() error {
		return b.do(what, func() (err error) {
			if err := a.writable(); err != nil {
				return err
			}
			c, err = op()
			return err
		})
	})
	if c != nil {
		err = errors.Join(err, b.named(what, a.finished(c)))
	}
	return err
}

// write is change for what waits under the locks.
func (b *box) write(what string, op func() error) error {
	return b.change(context.Background(), what, 4096, func() (*commit, error) {
		if err := b.a.unstick(); err != nil {
			return nil, err
		}
		return nil, op()
	})
}

func (b *box) named(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", what, b.user, outOfSpace(err))
}

func (b *box) Limit() mailbox.Limit { return b.a.o.Limit() }

func (b *box) Fits(size int64) error {
	return b.counted(context.Background(), func() error {
		return b.do("quota", func() error { return b.a.fits(mailbox.Inbox, size, 1) })
	})
}

func (b *box) Folder(name string) (mailbox.Folder, error) {
	var h *handle
	err := b.do("open folder", func() error {
		f, err := b.a.folder(name)
		if err != nil {
			return err
		}
		h = &handle{b: b, f: f, name: f.name}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}
