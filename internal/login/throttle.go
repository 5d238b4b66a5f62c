package login

import (
	"math"
	"slices"
	"sync"
	"time"
)

const (
	// maxBadSeals is how many wrong passwords of one address count once only.
	maxBadSeals = 4
	// maxGuesses is how many tries against a remembered password a trusted
	// address has while it is blocked. They drain like its failures.
	maxGuesses = 100
)

// throttle counts failed logins. See the package comment for its rules.
type throttle struct {
	limits ThrottleLimits

	mu             sync.Mutex // guards what follows
	accountAddress *table[*counter]
	accountNetwork *table[*counter]
	account        *table[*counter]
	address        *table[*counter]
	network        *table[*counter]
	// verifying counts passwords of a user that are being hashed for a network:
	// without it, a hundred guesses at once would all find the counters empty.
	verifying map[key]int
}

// counter leaks: it holds level at the time at, and one less each drain.
type counter struct {
	limit Limit
	level float64
	at    time.Time
	until time.Time // blocked before that

	guesses float64  // of the account-and-address counter only
	bad     []uint64 // likewise: heads of seals found wrong, latest last
}

func (c *counter) leak(now time.Time) {
	if leaked := float64(now.Sub(c.at)) / float64(c.limit.Drain); leaked > 0 {
		c.level = max(0, c.level-leaked)
		c.guesses = max(0, c.guesses-leaked)
		c.at = now
	}
}

func (c *counter) expired(now time.Time) bool {
	leaked := float64(now.Sub(c.at)) / float64(c.limit.Drain)
	return !now.Before(c.until) && leaked >= max(c.level, c.guesses)
}

// add counts a failure and opens a window when it is one too many.
func (c *counter) add(now time.Time) {
	c.leak(now)
	c.level++
	over := int(math.Ceil(c.level - float64(c.limit.Free)))
	if over < 1 {
		return
	}
	window := c.limit.First
	for ; over > 1 && window < c.limit.Max; over-- {
		window *= 2
	}
	if until := now.Add(min(window, c.limit.Max)); until.After(c.until) {
		c.until = until
	}
}

func (c *counter) knowsBad(s seal) bool { return slices.Contains(c.bad, s.head()) }

// head is enough of a seal to tell wrong passwords apart.
func (s seal) head() uint64 {
	var head uint64
	for _, octet := range s[:8] {
		head = head<<8 | uint64(octet)
	}
	return head
}

func newThrottle(limits ThrottleLimits) *throttle {
	return &throttle{
		limits:         limits,
		accountAddress: newTable[*counter](limits.MaxEntries),
		accountNetwork: newTable[*counter](limits.MaxEntries),
		account:        newTable[*counter](limits.MaxEntries),
		address:        newTable[*counter](limits.MaxEntries),
		network:        newTable[*counter](limits.MaxEntries),
		verifying:      make(map[key]int),
	}
}

// throttleState is what the counters say about an attempt.
type throttleState struct {
	blocked  bool
	knownBad bool // this password failed from this address before
	mayGuess bool // a remembered password may still be compared while blocked
}

// state judges an attempt. trusted means that the user logged in from the
// address lately: then only the counter of this user at this address counts.
func (t *throttle) state(user string, where place, s seal, trusted bool, now time.Time) throttleState {
	t.mu.Lock()
	defer t.mu.Unlock()
	state := throttleState{mayGuess: true}
	if c, found := t.accountAddress.get(key{user, where.addr}, now); found {
		c.leak(now)
		state.blocked = now.Before(c.until)
		state.knownBad = c.knowsBad(s)
		state.mayGuess = c.guesses < maxGuesses
	}
	if trusted {
		return state
	}
	state.blocked = state.blocked ||
		blocked(t.accountNetwork, key{user, where.net}, now) ||
		blocked(t.account, key{user: user}, now) ||
		blocked(t.address, key{net: where.addr}, now) ||
		blocked(t.network, key{net: where.net}, now)
	return state
}

// placeBlocked tells of what strangers at a place did, whoever the user is.
func (t *throttle) placeBlocked(where place, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return blocked(t.address, key{net: where.addr}, now) || blocked(t.network, key{net: where.net}, now)
}

func blocked(counters *table[*counter], k key, now time.Time) bool {
	c, found := counters.get(k, now)
	return found && now.Before(c.until)
}

// failed counts a wrong password, unless the address tried it before.
func (t *throttle) failed(user string, where place, s seal, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := counterOf(t.accountAddress, key{user, where.addr}, t.limits.AccountAddress, now)
	if own.knowsBad(s) {
		return
	}
	if len(own.bad) == maxBadSeals {
		own.bad = slices.Delete(own.bad, 0, 1)
	}
	own.bad = append(own.bad, s.head())
	own.add(now)
	counterOf(t.accountNetwork, key{user, where.net}, t.limits.AccountNetwork, now).add(now)
	counterOf(t.account, key{user: user}, t.limits.Account, now).add(now)
	counterOf(t.address, key{net: where.addr}, t.limits.Address, now).add(now)
	counterOf(t.network, key{net: where.net}, t.limits.Network, now).add(now)
}

// guessed counts a password that a blocked but trusted address tried against
// the remembered one.
func (t *throttle) guessed(user string, where place, s seal, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	own := counterOf(t.accountAddress, key{user, where.addr}, t.limits.AccountAddress, now)
	own.leak(now)
	if !own.knowsBad(s) {
		own.guesses = min(own.guesses+1, maxGuesses)
	}
}

func counterOf(counters *table[*counter], k key, limit Limit, now time.Time) *counter {
	c, found := counters.get(k, now)
	if !found {
		c = &counter{limit: limit, at: now}
		counters.put(k, c, now)
	}
	return c
}

// begin takes a place among the passwords of a user that a network may have
// verified at the same time, and reports whether there was one.
func (t *throttle) begin(user string, where place) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := key{user, where.net}
	if t.verifying[k] >= t.limits.AccountAddress.Free {
		return false
	}
	t.verifying[k]++
	return true
}

func (t *throttle) end(user string, where place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	lessOne(t.verifying, key{user, where.net})
}

func (t *throttle) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.accountAddress.len() + t.accountNetwork.len() + t.account.len() + t.address.len() + t.network.len()
}
