package cache

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"waypost/director"
)

// groups is the index of accounts by sharing group. It is changed with an account's
// entry, under the lock of that user's shard, so that it is never behind it; and it
// has what accounts have: no more users than there are, and no group without one.
type groups struct {
	mu sync.RWMutex
	by map[string]map[director.User]struct{}
}

// groupOf gives an account's group. Nearly all accounts have none, and millions
// are taken in at a start: they are only read where the key's name is seen.
func groupOf(a *account) string {
	if a == nil || !strings.Contains(a.raw, `"group":`) {
		return ""
	}
	d, err := director.DecodeAccount([]byte(a.raw))
	if err != nil {
		return ""
	}
	return d.Group
}

// change takes a user from the group of one account to that of the next. The
// caller holds the lock of the user's shard.
func (g *groups) change(u director.User, was, is *account) {
	from, to := groupOf(was), groupOf(is)
	if from == to {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if from != "" {
		delete(g.by[from], u)
		if len(g.by[from]) == 0 {
			delete(g.by, from)
		}
	}
	if to == "" {
		return
	}
	if g.by == nil {
		g.by = map[string]map[director.User]struct{}{}
	}
	if g.by[to] == nil {
		g.by[to] = map[director.User]struct{}{}
	}
	g.by[to][u] = struct{}{}
}

func (g *groups) members(group string) []director.User {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return slices.Sorted(maps.Keys(g.by[group]))
}
