package server

import (
	"sync"
	"time"

	"waypost/director"
)

// tally is one count of all users.
type tally struct {
	homes   map[director.BackendID]int // by home, tombstones excepted
	states  map[director.State]int
	domains map[string]int // tombstones excepted
}

// census counts the users in the cache's memory. A pass over ten million takes
// a second or so; so a count of many users is kept for restPerUser each, some
// twenty times what it costs, and one of few is never kept.
type census struct {
	users func(func(director.User, director.Record) bool)

	mu    sync.Mutex // held while counting: others wait for the same answer
	last  *tally
	taken int // how often it was counted
	until time.Time
}

const (
	restPerUser = 2 * time.Microsecond
	fewUsers    = 1000
)

// count gives a tally that callers must not change, and its number.
func (c *census) count() (*tally, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && time.Now().Before(c.until) {
		return c.last, c.taken
	}
	t := &tally{homes: map[director.BackendID]int{}, states: map[director.State]int{}, domains: map[string]int{}}
	all := 0
	c.users(func(u director.User, r director.Record) bool {
		all++
		t.states[r.State]++
		if r.State != director.Deleted {
			t.homes[r.Home]++
			t.domains[u.Domain()]++
		}
		return true
	})
	c.last, c.until = t, time.Time{}
	if all > fewUsers {
		c.until = time.Now().Add(time.Duration(all) * restPerUser)
	}
	c.taken++
	return c.last, c.taken
}
