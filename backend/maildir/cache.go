package maildir

import (
	"container/list"
	"sync"
)

// Cache keeps what is known of folders in memory when nobody has the mailbox open any more, for
// the Accounts that share it: who comes back soon, as webmail does for every request, finds
// folders read. When it is too much, what was longest without a user goes. An Account that is
// closed is out at once. It is safe for concurrent use.
type Cache struct {
	max int64

	// mu is taken after an Account's, and held for a few steps.
	mu    sync.Mutex
	bytes int64
	idle  list.List // of *kept, the longest idle first
	at    map[*Account]*list.Element
}

// kept is an Account without a Box.
type kept struct {
	a     *Account
	bytes int64
}

// NewCache makes one for about max bytes.
func NewCache(max int64) *Cache { return &Cache{max: max, at: map[*Account]*list.Element{}} }

// Bytes is about how much memory is kept now.
func (c *Cache) Bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}

// put takes an Account in that has no Box any more. evict follows, without a lock.
func (c *Cache) put(a *Account, bytes int64) {
	c.take(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes += bytes
	c.at[a] = c.idle.PushBack(&kept{a, bytes})
}

// take takes an Account out that is in use, or closed.
func (c *Cache) take(a *Account) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.at[a]; e != nil {
		c.remove(e)
	}
}

func (c *Cache) remove(e *list.Element) *Account {
	k := c.idle.Remove(e).(*kept)
	c.bytes -= k.bytes
	delete(c.at, k.a)
	return k.a
}

// evict has Accounts forget their folders until the rest is not too much.
func (c *Cache) evict() {
	for {
		c.mu.Lock()
		if c.bytes <= c.max {
			c.mu.Unlock()
			return
		}
		a := c.remove(c.idle.Front())
		c.mu.Unlock()
		a.mu.Lock()
		if a.forgettable() && !a.closed {
			for _, f := range a.folders {
				f.confirm()
			}
			a.forgetFolders()
		}
		a.mu.Unlock()
	}
}

// What a message takes in memory, in bytes: in Messages, in the uidlist, in the state and in the
// index's table, names included; and a folder, beside its messages. As measured.
const (
	messageBytes = 400
	folderBytes  = 4 << 10
)

// unused is called when the last Box was closed. It reports that the Cache has the folders now.
func (a *Account) unused() bool {
	c := a.o.Cache
	if c == nil || a.closed {
		a.forgetFolders()
		return false
	}
	var bytes int64
	for _, f := range a.folders {
		bytes += folderBytes
		if f.loaded {
			bytes += messageBytes * int64(f.msgs.Len())
			f.saveViewSometimes()
		}
		if f.meta != nil {
			f.meta.Rest()
		}
	}
	c.put(a, bytes)
	return true
}
