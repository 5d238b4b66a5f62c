package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"waypost/director"
	"waypost/internal/login"
)

// AccountReader reads accounts linearizably; *director.Directory is one.
type AccountReader interface {
	Account(ctx context.Context, u director.User) (director.Versioned[director.Account], error)
}

// AccountCache answers from memory; *cache.Client is one.
type AccountCache interface {
	Account(u director.User) (acct director.Account, version int64, known bool)
	// Location tells by stale whether the memory may be behind.
	Location(u director.User) (rec director.Record, known, stale bool)
	// Subscribe is Directory's.
	Subscribe(fn func(director.Change)) (cancel func())
}

const (
	// unknownFor and unknownMost bound the memory of names that are no user's.
	unknownFor  = 10 * time.Second
	unknownMost = 10_000
)

// Lookup is the login.Lookup of a proxy. What the memory does not know, or has
// as disabled, is read linearizably before it is believed, so that a user can
// log in as soon as it was added or enabled; other known users need no store.
// That a name is no user's is remembered for a short while, as long as the
// memory's watch tells of new users. Lookup subscribes for as long as memory
// lives.
func Lookup(memory AccountCache, store AccountReader) login.Lookup {
	nobody := newUnknownNames(time.Now)
	memory.Subscribe(nobody.watch)
	return func(ctx context.Context, name string) (login.Account, error) {
		u, err := director.ParseUser(name)
		if err != nil {
			return login.Account{}, fmt.Errorf("%w: %w", login.ErrUnknownUser, err)
		}
		acct, version, known := memory.Account(u)
		if !known || acct.Disabled {
			if _, _, stale := memory.Location(u); !known && !stale && nobody.has(u) {
				return login.Account{}, login.ErrUnknownUser
			}
			v, err := store.Account(ctx, u)
			switch {
			case errors.Is(err, director.ErrNotFound):
				nobody.add(u)
				return login.Account{}, login.ErrUnknownUser
			case err != nil:
				return login.Account{}, err
			}
			acct, version = v.Value, v.Rev
		}
		return login.Account{
			User: string(u), Hash: acct.Hash, Version: version, Disabled: acct.Disabled, Services: acct.Services,
		}, nil
	}
}

// unknownNames remembers names that are no user's, the latest unknownMost.
type unknownNames struct {
	now func() time.Time

	mu    sync.Mutex // guards what follows
	until map[director.User]time.Time
	order [unknownMost]director.User // a ring, oldest at next
	next  int
}

func newUnknownNames(now func() time.Time) *unknownNames {
	return &unknownNames{now: now, until: make(map[director.User]time.Time)}
}

func (n *unknownNames) has(u director.User) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	until, found := n.until[u]
	return found && n.now().Before(until)
}

// add remembers u. A name that is in the ring twice goes with its older place,
// which costs a read and no more.
func (n *unknownNames) add(u director.User) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.until, n.order[n.next])
	n.order[n.next] = u
	n.next = (n.next + 1) % unknownMost
	n.until[u] = n.now().Add(unknownFor)
}

// watch forgets a name as soon as there is an account of it.
func (n *unknownNames) watch(ch director.Change) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ch.Key == "" {
		clear(n.until)
	} else if name, ok := strings.CutPrefix(ch.Key, director.PrefixAccount); ok {
		delete(n.until, director.User(name))
	}
}
