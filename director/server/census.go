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
// a second or so; counts are kept for censusRest times as long as they took, so
// that counting costs a small part of one processor, and nothing is kept where
// it is quick.
type census struct {
	users func(func(director.User, director.Record) bool)

	mu    sync.Mutex // held while counting: others wait for the same answer
	last  *tally
	taken int // how often it was counted
	until time.Time
}

const censusRest = 20

// count gives a tally that callers must not change, and its number.
func (c *census) count() (*tally, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	start := time.Now()
	if c.last != nil && start.Before(c.until) {
		return c.last, c.taken
	}
	t := &tally{homes: map[director.BackendID]int{}, states: map[director.State]int{}, domains: map[string]int{}}
	c.users(func(u director.User, r director.Record) bool {
		t.states[r.State]++
		if r.State != director.Deleted {
			t.homes[r.Home]++
			t.domains[u.Domain()]++
		}
		return true
	})
	now := time.Now()
	c.last, c.until = t, now.Add(censusRest*now.Sub(start)-censusFree)
	c.taken++
	return c.last, c.taken
}

// censusFree is what a count may cost without being kept.
const censusFree = 20 * time.Millisecond
