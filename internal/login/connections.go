package login

import (
	"fmt"
	"net/netip"
	"sync"
)

// connections counts what is open. Its maps hold only what is, so the limits of
// the listeners bound them.
type connections struct {
	maxUser, maxAddr, maxUserAddr int

	mu         sync.Mutex // guards what follows
	open       int
	byUser     map[string]int
	byAddr     map[netip.Prefix]int
	byUserAddr map[key]int
}

func newConnections(maxUser, maxAddr, maxUserAddr int) *connections {
	return &connections{
		maxUser: maxUser, maxAddr: maxAddr, maxUserAddr: maxUserAddr,
		byUser: make(map[string]int), byAddr: make(map[netip.Prefix]int), byUserAddr: make(map[key]int),
	}
}

func (c *connections) acquire(user string, addr netip.Prefix) (release func(), err error) {
	both := key{user, addr}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.byUser[user] >= c.maxUser:
		return nil, fmt.Errorf("connection of %.64q: %w: %d of the user", user, ErrTooManyConnections, c.maxUser)
	case c.byAddr[addr] >= c.maxAddr:
		return nil, fmt.Errorf("connection of %.64q: %w: %d from %v", user, ErrTooManyConnections, c.maxAddr, addr)
	case c.byUserAddr[both] >= c.maxUserAddr:
		return nil, fmt.Errorf("connection of %.64q: %w: %d of the user from %v", user, ErrTooManyConnections, c.maxUserAddr, addr)
	}
	c.open++
	c.byUser[user]++
	c.byAddr[addr]++
	c.byUserAddr[both]++
	return sync.OnceFunc(func() { c.release(user, addr) }), nil
}

func (c *connections) release(user string, addr netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
	lessOne(c.byUser, user)
	lessOne(c.byAddr, addr)
	lessOne(c.byUserAddr, key{user, addr})
}

// lessOne leaves no zero behind: the maps must not grow with everyone ever seen.
func lessOne[K comparable](count map[K]int, k K) {
	if count[k]--; count[k] == 0 {
		delete(count, k)
	}
}

func (c *connections) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open
}
