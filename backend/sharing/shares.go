package sharing

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"waypost/backend/mailbox"
	"waypost/director"
)

const (
	// listFor is how long a list of what an owner shares is believed without a
	// change that was told by Changed: somebody may have edited the disk by hand.
	listFor = 30 * time.Second
	// maxOwners bounds the owners whose lists are kept.
	maxOwners = 10_000
)

// Shares knows what owners share, for all sessions of a backend, so that a listing
// opens a mailbox when something in it has changed, and not for each session. Whoever
// changes folders or their ACLs says so by Changed. Safe for concurrent use.
type Shares struct {
	now func() time.Time

	mu     sync.Mutex
	owners map[director.User]*owned
	gen    uint64
}

// NewShares makes one for a backend. now is the clock; nil is time.Now.
func NewShares(now func() time.Time) *Shares {
	if now == nil {
		now = time.Now
	}
	return &Shares{now: now, owners: make(map[director.User]*owned)}
}

// owned is what is known of one owner. It is replaced at each change.
type owned struct {
	gen uint64
	// changed is closed when this is not so any more.
	changed chan struct{}

	load sync.Mutex // held while the mailbox is read; it guards what follows
	list *list
}

// list is what an owner shared at an epoch. It is never changed.
type list struct {
	epoch director.Epoch
	read  time.Time
	acl   map[string]mailbox.ACL // of folders that have one
	names []string               // of these, sorted
}

// Changed says that an owner's folders or their ACLs are others now.
func (s *Shares) Changed(owner director.User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(owner)
}

func (s *Shares) forget(owner director.User) {
	if o := s.owners[owner]; o != nil {
		close(o.changed)
		delete(s.owners, owner)
	}
}

// of gives what is known of an owner.
func (s *Shares) of(owner director.User) *owned {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.owners[owner]
	if o != nil {
		return o
	}
	for other := range s.owners {
		if len(s.owners) < maxOwners {
			break
		}
		s.forget(other) // any: who asks for it reads it again
	}
	s.gen++
	o = &owned{gen: s.gen, changed: make(chan struct{})}
	s.owners[owner] = o
	return o
}

// lister is a Box that can tell its ACLs without opening each folder.
type lister interface {
	// ACLs gives those that are not empty, by folder.
	ACLs() (map[string]mailbox.ACL, error)
}

// list gives what an owner shares at epoch; open opens the mailbox if it has to be
// read. The list may be older than a change whose Changed comes after the call.
func (s *Shares) list(owner director.User, epoch director.Epoch, open func() (mailbox.Box, error)) (*list, *owned, error) {
	o := s.of(owner)
	o.load.Lock()
	defer o.load.Unlock()
	now := s.now()
	if o.list != nil && o.list.epoch == epoch && now.Sub(o.list.read) < listFor {
		return o.list, o, nil
	}
	box, err := open()
	if err != nil {
		return nil, nil, err
	}
	defer box.Close()
	l := &list{epoch: epoch, read: now}
	if l.acl, err = ACLs(box); err != nil {
		return nil, nil, fmt.Errorf("what %s shares: %w", owner, err)
	}
	for name := range l.acl {
		l.names = append(l.names, name)
	}
	slices.Sort(l.names)
	o.list = l
	return l, o, nil
}

// ACLs gives the ACLs of a Box's folders that have one, by folder.
func ACLs(box mailbox.Box) (map[string]mailbox.ACL, error) {
	if l, ok := box.(lister); ok {
		return l.ACLs()
	}
	infos, err := box.Folders()
	if err != nil {
		return nil, err
	}
	all := make(map[string]mailbox.ACL)
	for _, info := range infos {
		if info.NoSelect {
			continue
		}
		acl, err := box.ACL(info.Name)
		if err != nil {
			return nil, err
		}
		if len(acl) > 0 {
			all[info.Name] = acl
		}
	}
	return all, nil
}

// rights are a viewer's on a folder.
func (l *list) rights(viewer director.User, folder string) mailbox.Rights {
	return Effective(l.acl[folder], viewer)
}

// anyone is everybody's identifier: here, of the members of the owner's group.
const anyone = "anyone"

// Effective gives the rights that an ACL gives to somebody who is not the owner: what
// the entries for the name and for anyone give together, less what those with "-" in
// front take (RFC 4314, Section 2).
func Effective(acl mailbox.ACL, viewer director.User) mailbox.Rights {
	var given, taken strings.Builder
	for id, r := range acl {
		to := &given
		if name, negative := strings.CutPrefix(id, "-"); negative {
			id, to = name, &taken
		}
		if id == anyone || strings.EqualFold(id, string(viewer)) {
			to.WriteString(string(r))
		}
	}
	var b strings.Builder
	for _, c := range []byte(mailbox.AllRights) {
		if mailbox.Rights(given.String()).Has(c) && !mailbox.Rights(taken.String()).Has(c) {
			b.WriteByte(c)
		}
	}
	return mailbox.Rights(b.String())
}
