package sharing

import (
	"context"
	"fmt"
	"sync"
	"time"

	"waypost/backend/mailbox"
	"waypost/director"
)

// folder is an open folder of an owner. What the viewer may do with it is looked at
// for each operation.
type folder struct {
	mailbox.Folder // the owner's
	b              *Box
	m              *member
	owner          director.User
	name           string

	mu sync.Mutex // guards what follows
	// shown: a session has seen messages of it, and must not be told that they, or
	// the folder, are simply not there.
	shown bool
	// gen is that of the owner's list at which the name was this folder's; id is
	// its MAILBOXID, once known.
	gen  uint64
	id   string
	wait waiting
}

var (
	_ mailbox.Folder  = (*folder)(nil)
	_ mailbox.Indexed = (*folder)(nil)
)

// waiting is a channel that Changed gave, and what it waits for.
type waiting struct {
	folder <-chan struct{}
	list   chan struct{}
	to     chan struct{}
}

// Name is mailbox.Folder's.
func (f *folder) Name() string { return join(f.owner, f.name) }

// rights are the viewer's now.
func (f *folder) rights() (mailbox.Rights, error) {
	epoch, here := f.b.src.Epoch(f.b.viewer, f.owner)
	switch {
	case !here && f.b.src.Shares(f.b.viewer, f.owner), here && epoch != f.m.epoch:
		return "", f.result(fmt.Errorf("shared folder %q: the owner is being moved: %w", f.Name(), mailbox.ErrStale))
	case !here:
		return "", f.b.missing(f.Name())
	}
	st, err := f.b.state(f.owner)
	if err != nil {
		return "", err
	}
	has := st.list.rights(f.b.viewer, f.name)
	if has == "" {
		return "", f.b.missing(f.Name())
	}
	return has, f.same(st.owned.gen)
}

// same makes sure that the name is still this folder's, once something is another
// in the owner's list.
func (f *folder) same(gen uint64) error {
	f.mu.Lock()
	id, old := f.id, gen != f.gen
	f.mu.Unlock()
	if !old {
		return nil
	}
	if id != "" {
		now, err := f.m.Box.Folder(f.name)
		if err != nil {
			return f.result(err)
		}
		st, err := now.Status()
		if err != nil {
			return f.result(err)
		}
		if st.ID != id {
			return f.b.missing(f.Name())
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gen = gen
	return nil
}

// may checks that the viewer has all the rights.
func (f *folder) may(needs string) error {
	has, err := f.rights()
	if err != nil {
		return err
	}
	for _, c := range []byte(needs) {
		if !has.Has(c) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if c == 'r' && f.shown {
				return f.b.missing(f.Name()) // what was seen may not be seen any more
			}
			return f.b.denied(f.Name(), has)
		}
	}
	return nil
}

// result is what an error of the owner's mailbox is to the viewer: a fence ends the
// session only if it has seen the folder.
func (f *folder) result(err error) error {
	if !fenced(err) {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shown {
		return err
	}
	return fmt.Errorf("%w: %s", f.b.missing(f.Name()), err)
}

// reading runs do if the viewer may read.
func reading[T any](f *folder, do func() (T, error)) (v T, err error) {
	if err = f.may("r"); err != nil {
		return v, err
	}
	v, err = do()
	return v, f.result(err)
}

// Snapshot needs r.
func (f *folder) Snapshot() (mailbox.Snapshot, error) { return f.show(f.Folder.Snapshot) }

// Peek needs r.
func (f *folder) Peek() (mailbox.Snapshot, error) { return f.show(f.Folder.Peek) }

func (f *folder) show(look func() (mailbox.Snapshot, error)) (mailbox.Snapshot, error) {
	s, err := reading(f, look)
	if err != nil {
		return s, err
	}
	f.mu.Lock()
	f.shown, f.id = true, s.ID
	f.mu.Unlock()
	f.b.pin(f.m)
	return s, nil
}

// Status needs r.
func (f *folder) Status() (mailbox.Status, error) {
	s, err := reading(f, f.Folder.Status)
	if err == nil {
		f.mu.Lock()
		f.id = s.ID
		f.mu.Unlock()
	}
	return s, err
}

// InternalDate needs r.
func (f *folder) InternalDate(uid mailbox.UID) (time.Time, error) {
	return reading(f, func() (time.Time, error) { return f.Folder.InternalDate(uid) })
}

// Meta needs r.
func (f *folder) Meta(uid mailbox.UID) (*mailbox.Meta, error) {
	return reading(f, func() (*mailbox.Meta, error) { return f.Folder.Meta(uid) })
}

// Open needs r.
func (f *folder) Open(uid mailbox.UID) (mailbox.Body, error) {
	return reading(f, func() (mailbox.Body, error) { return f.Folder.Open(uid) })
}

// SaveDate needs r.
func (f *folder) SaveDate(uid mailbox.UID) (time.Time, error) {
	return reading(f, func() (time.Time, error) { return f.Folder.SaveDate(uid) })
}

// EmailID needs r.
func (f *folder) EmailID(uid mailbox.UID) (string, error) {
	return reading(f, func() (string, error) { return f.Folder.EmailID(uid) })
}

// ExpungedSince needs r.
func (f *folder) ExpungedSince(modSeq uint64) (uids []mailbox.UIDRange, complete bool, err error) {
	if err = f.may("r"); err != nil {
		return nil, false, err
	}
	uids, complete, err = f.Folder.ExpungedSince(modSeq)
	return uids, complete, f.result(err)
}

// Expunge needs e.
func (f *folder) Expunge(uids []mailbox.UID) ([]mailbox.UID, error) {
	if err := f.may("e"); err != nil {
		return nil, err
	}
	gone, err := f.Folder.Expunge(uids)
	return gone, f.result(err)
}

// ExpungeDeleted needs e.
func (f *folder) ExpungeDeleted(uids []mailbox.UID) ([]mailbox.UID, error) {
	if err := f.may("e"); err != nil {
		return nil, err
	}
	gone, err := f.Folder.ExpungeDeleted(uids)
	return gone, f.result(err)
}

// Changed is mailbox.Folder's. It also tells that the owner's mailbox is served
// otherwise, or that the owner's list is another: the next Snapshot says what is so.
func (f *folder) Changed(version uint64) <-chan struct{} {
	now := f.b.shares.of(f.owner)
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.gen != f.gen {
		return closed()
	}
	inner := f.Folder.Changed(version)
	if f.wait.to != nil && f.wait.folder == inner && f.wait.list == now.changed {
		return f.wait.to
	}
	to := make(chan struct{})
	if !f.b.start(func(ctx context.Context) {
		defer close(to)
		select {
		case <-inner:
		case <-now.changed:
		case <-f.m.Done():
		case <-ctx.Done():
		}
	}) {
		return closed()
	}
	f.wait = waiting{folder: inner, list: now.changed, to: to}
	return to
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// pin keeps a mailbox open whose messages a session has seen.
func (b *Box) pin(m *member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pinned = m
}

// start runs a goroutine that Close waits for; false after Close.
func (b *Box) start(run func(ctx context.Context)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return false
	}
	b.tasks.Go(func() { run(b.ctx) })
	return true
}
