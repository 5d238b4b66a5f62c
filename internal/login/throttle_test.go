package login

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// fail tries n new wrong passwords and reports how many were looked at.
func (b *bench) fail(t *testing.T, n int, name, addr string) (looked int) {
	t.Helper()
	for range n {
		switch err := b.try(name, fmt.Sprint("wrong", rand.Int64()), addr); {
		case errors.Is(err, ErrBadCredentials):
			looked++
		case !errors.Is(err, ErrThrottled):
			t.Fatalf("error is %v", err)
		}
	}
	return looked
}

func TestThrottleGrows(t *testing.T) {
	b := newBench(t, Options{})
	if got := b.fail(t, 5, "alice", home); got != 5 { // free
		t.Fatalf("%d looked at", got)
	}
	for _, window := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second} {
		hashes := b.hasher.hashes()
		if got := b.fail(t, 10, "alice", home); got != 1 {
			t.Errorf("before a window of %v: %d looked at", window, got)
		}
		b.want(t, b.try("alice", "right", home), ErrThrottled, hashes+1) // no oracle
		b.advance(window - time.Nanosecond)
		b.want(t, b.try("alice", "right", home), ErrThrottled, hashes+1)
		b.advance(time.Nanosecond)
	}
	b.want(t, b.try("alice", "right", home), nil, 10)
}

func TestThrottleForgets(t *testing.T) {
	b := newBench(t, Options{})
	b.fail(t, 6, "alice", home)
	b.advance(time.Hour + time.Second)
	if got := b.fail(t, 5, "alice", home); got != 5 {
		t.Errorf("after an hour %d looked at", got)
	}
	b.advance(24 * time.Hour)
	b.want(t, b.try("alice", "right", home), nil, 12)
	b.want(t, b.try("alice", "wrong", home), ErrBadCredentials, 13)
	if got := b.Stats().Throttled; got != 5 {
		t.Errorf("%d counters", got)
	}
}

// TestLockOutStaysInItsNetwork: an attacker blocks the account for itself only.
func TestLockOutStaysInItsNetwork(t *testing.T) {
	b := newBench(t, Options{})
	b.fail(t, 1000, "alice", far)
	hashes := b.hasher.hashes()
	b.want(t, b.try("alice", "right", far), ErrThrottled, hashes)
	b.want(t, b.try("alice", "right", home), nil, hashes+1)
	b.want(t, b.try("alice", "right", home), nil, hashes+1)
	b.want(t, b.try("alice", "right", homeIPv6), nil, hashes+1)
	b.want(t, b.try("alice", "right", far), ErrThrottled, hashes+1) // remembered, but not from there
	b.want(t, b.try("bob", "right", far), nil, hashes+2)            // another user there
}

// TestOneNetworkNeverFillsAnAccount lets every address of one /24 try for a day,
// as often as it may, and asks for the right password elsewhere all along.
func TestOneNetworkNeverFillsAnAccount(t *testing.T) {
	b := newBench(t, Options{})
	where := place{net: netip.MustParsePrefix("198.51.100.0/24")}
	elsewhere := networks{v4Net: 24, v6Addr: 64, v6Net: 48}.place(netip.MustParseAddr(home))
	looked := 0
	for range 24 * 3600 {
		for range 4 {
			where.addr = netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(rand.IntN(256))}), 32)
			s := b.sealer.seal(true, "alice", 1, fmt.Sprint(rand.Int64()))
			if !b.throttle.state("alice", where, s, false, b.now()).blocked {
				b.throttle.failed("alice", where, s, b.now())
				looked++
			}
		}
		if b.throttle.state("alice", elsewhere, seal{}, false, b.now()).blocked {
			t.Fatalf("locked out elsewhere after %d passwords", looked)
		}
		b.advance(time.Second)
	}
	if looked > 15+30+24*12 {
		t.Errorf("%d passwords were looked at in a day", looked)
	}
}

func TestNetworkIsThrottledAcrossAccounts(t *testing.T) {
	b := newBench(t, Options{})
	looked := 0
	for i := range 100 { // one password, many accounts
		looked += b.fail(t, 1, fmt.Sprint("nobody", i), far)
	}
	if looked != 51 {
		t.Errorf("%d looked at from one address", looked)
	}
	b.want(t, b.try("alice", "right", far), ErrThrottled, 51)
	b.want(t, b.try("alice", "right", "198.51.100.2"), nil, 52)
	for i := range 1000 {
		b.fail(t, 1, fmt.Sprint("noone", i), fmt.Sprint("198.51.100.", i%256))
	}
	hashes := b.hasher.hashes()
	b.want(t, b.try("bob", "right", "198.51.100.200"), ErrThrottled, hashes)
	b.want(t, b.try("alice", "right", "198.51.100.2"), nil, hashes) // her own address
	b.want(t, b.try("bob", "right", home), nil, hashes+1)
}

// TestManyNetworksAgainstOneAccount: the account is closed to strangers, and
// open where the user has been, memory of the password or not.
func TestManyNetworksAgainstOneAccount(t *testing.T) {
	b := newBench(t, Options{})
	b.want(t, b.try("alice", "right", home), nil, 1)
	b.advance(time.Hour)
	looked := 0
	for i := range 400 {
		looked += b.fail(t, 1, "alice", fmt.Sprintf("203.0.%d.1", i%250))
	}
	if looked != 151 {
		t.Errorf("%d looked at", looked)
	}
	hashes := b.hasher.hashes()
	b.want(t, b.try("alice", "right", far), ErrThrottled, hashes)
	b.want(t, b.try("alice", "right", home), nil, hashes+1)
	b.advance(time.Minute)
	b.want(t, b.try("alice", "right", far), nil, hashes+1)
}

// TestRememberedPassesAtBlockedAddress: an attacker behind the user's own address.
func TestRememberedPassesAtBlockedAddress(t *testing.T) {
	b := newBench(t, Options{})
	b.want(t, b.try("alice", "right", home), nil, 1)
	looked := b.fail(t, 50, "alice", home)
	if looked != 6 {
		t.Errorf("%d looked at", looked)
	}
	b.want(t, b.try("alice", "right", home), nil, 7)
	b.want(t, b.try("alice", "right", next), nil, 7) // not her own: her neighbour's counters are empty
	b.fail(t, 100, "alice", home)                    // guesses against the memory
	b.want(t, b.try("alice", "right", home), ErrThrottled, 7)
	b.want(t, b.try("alice", "right", far), nil, 7)
	b.advance(time.Second) // the window passes
	b.want(t, b.try("alice", "right", home), nil, 7)
}

func TestRepeatedWrongPasswordCountsOnce(t *testing.T) {
	b := newBench(t, Options{})
	for range 100 {
		b.want(t, b.try("alice", "old", home), ErrBadCredentials, 1)
	}
	for range 100 { // an unknown user is answered alike
		b.want(t, b.try("nobody", "old", home), ErrBadCredentials, 2)
	}
	b.want(t, b.try("alice", "right", home), nil, 3)
	// A password that once was wrong may be set.
	b.set("alice", Account{User: "alice", Hash: "{PLAIN}old", Version: 2})
	b.want(t, b.try("alice", "old", home), nil, 4)
	if b.count(OutcomeRepeatedBad) != 198 {
		t.Errorf("outcomes: %v", b.outcomes)
	}
}

// TestGuessesAtOnce: a hundred connections do not find a hundred empty counters.
func TestGuessesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		b.hasher.hold = make(chan struct{})
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() { b.try("alice", fmt.Sprint("guess", i), far) })
		}
		synctest.Wait()
		if got := b.hasher.hashes(); got != 5 {
			t.Errorf("%d hashes at once", got)
		}
		close(b.hasher.hold)
		all.Wait()
		if b.count(OutcomeBadPassword) != 5 || b.count(OutcomeThrottled) != 95 {
			t.Errorf("outcomes: %v", b.outcomes)
		}
		if len(b.throttle.verifying) != 0 || len(b.flights) != 0 {
			t.Error("something is left behind")
		}
	})
}

func TestIPv6CountsByPrefix(t *testing.T) {
	b := newBench(t, Options{})
	if got := b.fail(t, 3, "alice", "2001:db8::1") + b.fail(t, 10, "alice", "2001:db8::ffff:1"); got != 6 {
		t.Errorf("%d looked at from one /64", got)
	}
	b.want(t, b.try("alice", "right", "2001:db8:0:1::1"), nil, 7)
	b.want(t, b.try("bob", "right", "::ffff:"+home), nil, 8)
	if got := b.fail(t, 10, "bob", home); got != 6 { // the same place, mapped or not
		t.Errorf("%d looked at", got)
	}
}

func TestThrottleIsBounded(t *testing.T) {
	b := newBench(t, Options{Throttle: ThrottleLimits{MaxEntries: 20}})
	for i := range 500 {
		b.fail(t, 1, fmt.Sprint("nobody", i), fmt.Sprintf("10.%d.%d.1", i/200, i%200))
		if got := b.Stats().Throttled; got > 100 {
			t.Fatalf("%d counters", got)
		}
	}
	b.advance(24 * time.Hour)
	for i := range 40 { // the expired make room faster than they are replaced
		b.fail(t, 1, fmt.Sprint("nobody", i%2), "10.9.9.9")
		b.advance(24 * time.Hour)
	}
	if got := b.throttle.accountAddress.len(); got > 2 {
		t.Errorf("%d counters left", got)
	}
}

// TestConcurrentLogins is for the race detector.
func TestConcurrentLogins(t *testing.T) {
	b := newBench(t, Options{RememberMax: 3, Throttle: ThrottleLimits{MaxEntries: 5}})
	var all sync.WaitGroup
	var logins atomic.Int64
	for worker := range 8 {
		all.Go(func() {
			for i := range 200 {
				name := []string{"alice", "alias", "bob", "off", "nobody"}[(worker+i)%5]
				addr := fmt.Sprintf("10.0.%d.%d", i%3, worker)
				if b.try(name, []string{"right", "right", "wrong"}[i%3], addr) == nil {
					logins.Add(1)
					if release, err := b.Acquire(name, netip.MustParseAddr(addr)); err == nil {
						release()
					}
				}
				if i%50 == 0 {
					b.Forget(name)
					b.advance(time.Minute)
				}
				b.Stats()
			}
		})
	}
	all.Wait()
	if s := b.Stats(); logins.Load() == 0 || s.Connections != 0 || s.Remembered > 3 || s.Throttled > 25 {
		t.Errorf("%d logins, %+v", logins.Load(), s)
	}
}

func TestConnectionLimits(t *testing.T) {
	b := newBench(t, Options{MaxPerUser: 4, MaxPerAddress: 5, MaxPerUserAddress: 3})
	var releases []func()
	acquire := func(user, addr string, want error) {
		t.Helper()
		release, err := b.Acquire(user, netip.MustParseAddr(addr))
		if !errors.Is(err, want) || (release == nil) != (err != nil) {
			t.Fatalf("Acquire(%s, %s): %v, want %v", user, addr, err, want)
		}
		if err == nil {
			releases = append(releases, release)
		}
	}
	for range 3 {
		acquire("alice", home, nil)
	}
	acquire("alice", home, ErrTooManyConnections) // user and address
	acquire("alice", far, nil)
	acquire("alice", next, ErrTooManyConnections) // user
	acquire("bob", home, nil)
	acquire("bob", home, nil)
	acquire("carol", home, ErrTooManyConnections) // address
	acquire("carol", next, nil)
	if b.count(OutcomeTooManyConnections) != 3 || b.Stats().Connections != 7 {
		t.Errorf("outcomes %v, stats %+v", b.outcomes, b.Stats())
	}
	releases[0]()
	releases[0]()
	acquire("alice", home, nil)
	acquire("alice", home, ErrTooManyConnections)
	for _, release := range releases {
		release()
	}
	if c := b.connections; c.len() != 0 || len(c.byUser)+len(c.byAddr)+len(c.byUserAddr) != 0 {
		t.Errorf("left behind: %+v", c)
	}
	// IPv6 counts by /64, and an unknown address is one place like another.
	for _, addr := range []string{"2001:db8::1", "2001:db8::2", "2001:db8::3"} {
		acquire("dave", addr, nil)
	}
	acquire("dave", "2001:db8::4", ErrTooManyConnections)
	if _, err := b.Acquire("erin", netip.Addr{}); err != nil {
		t.Errorf("no address: %v", err)
	}
}

// TestTableProperty compares a table with a plain map that forgets nothing.
func TestTableProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.IntRange(1, 5).Draw(rt, "limit")
		counters := newTable[*counter](limit)
		model := map[string]*counter{}
		now := time.Unix(0, 0)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			name := rapid.StringMatching("[a-h]").Draw(rt, "name")
			now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(rt, "pause")) * time.Second)
			got, found := counters.get(key{user: name}, now)
			if found && (got != model[name] || got.expired(now)) {
				rt.Fatalf("%s is another's, or expired", name)
			}
			if !found {
				c := &counter{limit: Limit{Free: 1, Drain: time.Minute, First: time.Second, Max: time.Second}, at: now}
				c.add(now)
				counters.put(key{user: name}, c, now)
				model[name] = c
			}
			if counters.len() > limit || counters.len() != len(counters.entries) {
				rt.Fatalf("%d entries, %d in the map, limit %d", counters.len(), len(counters.entries), limit)
			}
		}
	})
}

// TestErrorsTellNoSecret: what goes to a log must not hold the password.
func TestErrorsTellNoSecret(t *testing.T) {
	b := newBench(t, Options{})
	if err := b.try("alice", "hunter2", home); strings.Contains(fmt.Sprint(err), "hunter2") {
		t.Errorf("error is %v", err)
	}
}
