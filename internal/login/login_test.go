package login

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"waypost/internal/auth"
)

// countingHasher takes "{PLAIN}password" at its word and counts.
type countingHasher struct {
	verified, burned atomic.Int64
	err              error
	hold             chan struct{} // when set, hashing lasts until it is closed
}

func (h *countingHasher) Verify(ctx context.Context, stored, password string) (bool, error) {
	h.verified.Add(1)
	return stored == "{PLAIN}"+password, h.wait(ctx)
}

func (h *countingHasher) Burn(ctx context.Context, _ string) error {
	h.burned.Add(1)
	return h.wait(ctx)
}

func (h *countingHasher) wait(ctx context.Context) error {
	if h.hold != nil {
		select {
		case <-h.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return h.err
}

func (h *countingHasher) hashes() int64 { return h.verified.Load() + h.burned.Load() }

// bench is a Guard with a directory, a clock and a hasher that a test controls.
type bench struct {
	*Guard
	hasher   *countingHasher
	mu       sync.Mutex
	accounts map[string]Account
	lookErr  error
	clock    time.Time
	outcomes map[Outcome]int
}

func newBench(t testing.TB, o Options) *bench {
	t.Helper()
	b := &bench{
		hasher:   &countingHasher{},
		clock:    time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC),
		outcomes: map[Outcome]int{},
		accounts: map[string]Account{
			"alice": {User: "alice", Hash: "{PLAIN}right", Version: 1},
			"alias": {User: "alice", Hash: "{PLAIN}right", Version: 1},
			"bob":   {User: "bob", Hash: "{PLAIN}right", Version: 1},
			"off":   {User: "off", Hash: "{PLAIN}right", Version: 1, Disabled: true},
			"imap":  {User: "imap", Hash: "{PLAIN}right", Version: 1, Services: []string{"imap"}},
		},
	}
	o.Lookup, o.Hasher, o.Now = b.find, b.hasher, b.now
	o.Observe = func(outcome Outcome) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.outcomes[outcome]++
	}
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	b.Guard = g
	return b
}

func (b *bench) find(_ context.Context, name string) (Account, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lookErr != nil {
		return Account{}, b.lookErr
	}
	if account, found := b.accounts[name]; found {
		return account, nil
	}
	return Account{}, ErrUnknownUser
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clock
}

func (b *bench) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = b.clock.Add(d)
}

func (b *bench) set(name string, account Account) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.accounts[name] = account
}

func (b *bench) count(outcome Outcome) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.outcomes[outcome]
}

// try logs in to IMAP.
func (b *bench) try(name, password, addr string) error {
	_, err := b.Login(context.Background(), Attempt{Name: name, Password: password, Service: "imap", Remote: netip.MustParseAddr(addr)})
	return err
}

// want checks an error and how many hashes there have been so far.
func (b *bench) want(t *testing.T, err, want error, hashes int64) {
	t.Helper()
	if !errors.Is(err, want) || want == nil && err != nil {
		t.Errorf("error is %v, want %v", err, want)
	}
	if got := b.hasher.hashes(); got != hashes {
		t.Errorf("%d hashes so far, want %d", got, hashes)
	}
}

const (
	home     = "192.0.2.1"
	next     = "192.0.2.77" // home's neighbour
	far      = "198.51.100.1"
	homeIPv6 = "2001:db8:1:1::1"
)

// An account without a hash is like any wrong password: no error that clients
// would retry, as slow, and throttled.
func TestEmptyHash(t *testing.T) {
	b := newBench(t, Options{})
	b.set("empty", Account{User: "empty", Version: 1})
	b.want(t, b.try("empty", "right", home), ErrBadCredentials, 1)
	if b.hasher.burned.Load() != 1 || b.count(OutcomeBadPassword) != 1 {
		t.Errorf("%d burned, outcomes %v", b.hasher.burned.Load(), b.outcomes)
	}
	if looked := b.fail(t, 20, "empty", home); looked != 5 {
		t.Errorf("%d looked at, want 5", looked)
	}
}

// A blocked address costs the directory nothing, except for a user whose own
// address it is.
func TestBlockedAddressIsNotLookedUp(t *testing.T) {
	b := newBench(t, Options{})
	b.want(t, b.try("alice", "right", home), nil, 1)
	for i := range 51 {
		b.fail(t, 1, fmt.Sprint("nobody", i), home)
	}
	b.lookErr = ErrUnavailable
	if err := b.try("nobody99", "x", home); !errors.Is(err, ErrThrottled) {
		t.Errorf("a stranger: %v", err)
	}
	if err := b.try(" Alice", "right", home); !errors.Is(err, ErrUnavailable) {
		t.Errorf("alice was not looked up: %v", err)
	}
	if err := b.try("nobody99", "x", far); !errors.Is(err, ErrUnavailable) {
		t.Errorf("elsewhere: %v", err)
	}
	b.lookErr = nil
	b.want(t, b.try("alice", "right", home), nil, 52)
}

func TestRememberedLoginCostsNoHash(t *testing.T) {
	b := newBench(t, Options{})
	b.want(t, b.try("alice", "right", home), nil, 1)
	for range 10 {
		b.want(t, b.try("alice", "right", home), nil, 1)
	}
	b.want(t, b.try("alias", "right", home), nil, 1) // another name of hers
	b.want(t, b.try("alice", "right", far), nil, 1)  // and another place
	b.want(t, b.try("bob", "right", home), nil, 2)   // another user with the same password
	b.want(t, b.try("alice", "wrong", home), ErrBadCredentials, 3)
	b.want(t, b.try("alice", "right", home), nil, 3)
	if b.count(OutcomeRemembered) != 13 || b.count(OutcomeVerified) != 2 || b.count(OutcomeBadPassword) != 1 {
		t.Errorf("outcomes: %v", b.outcomes)
	}
	b.advance(10*time.Minute - 1)
	b.want(t, b.try("alice", "right", home), nil, 3)
	b.advance(1) // however often it was used
	b.want(t, b.try("alice", "right", home), nil, 4)
}

func TestRememberedIsBoundToVersion(t *testing.T) {
	b := newBench(t, Options{})
	b.want(t, b.try("alice", "right", home), nil, 1)
	b.set("alice", Account{User: "alice", Hash: "{PLAIN}new", Version: 2})
	b.want(t, b.try("alice", "right", home), ErrBadCredentials, 2)
	b.want(t, b.try("alice", "new", home), nil, 3)
	b.want(t, b.try("alice", "new", home), nil, 3)
}

func TestForget(t *testing.T) {
	b := newBench(t, Options{})
	b.want(t, b.try("alice", "right", home), nil, 1)
	b.want(t, b.try("bob", "right", home), nil, 2)
	b.Forget("alice")
	b.Forget("nobody")
	if got := b.Stats().Remembered; got != 1 {
		t.Errorf("%d remembered", got)
	}
	b.want(t, b.try("bob", "right", home), nil, 2)
	b.want(t, b.try("alice", "right", home), nil, 3)
}

func TestRememberedIsBounded(t *testing.T) {
	b := newBench(t, Options{RememberMax: 10})
	for i := range 100 {
		name := fmt.Sprint("user", i)
		b.set(name, Account{User: name, Hash: "{PLAIN}right"})
		b.want(t, b.try(name, "right", home), nil, int64(i+1))
		if got := b.Stats().Remembered; got > 10 {
			t.Fatalf("%d remembered", got)
		}
	}
	b.want(t, b.try("user99", "right", home), nil, 100)
	b.want(t, b.try("user90", "right", home), nil, 100)
	b.want(t, b.try("user89", "right", home), nil, 101)
	for i := range maxTrusted + 10 {
		b.want(t, b.try("user99", "right", fmt.Sprint("203.0.113.", i)), nil, 101)
	}
	r, _ := b.remembered.users.get(key{user: "user99"}, b.now())
	if len(r.trusted) != maxTrusted || r.trusted[maxTrusted-1].addr != netip.MustParsePrefix("203.0.113.25/32") {
		t.Errorf("trusted: %v", r.trusted)
	}
}

func TestDecisions(t *testing.T) {
	right := Attempt{Name: "alice", Password: "right", Service: "imap", Remote: netip.MustParseAddr(home)}
	with := func(change func(*Attempt)) Attempt {
		a := right
		change(&a)
		return a
	}
	long := make([]byte, 2000)
	for i := range long {
		long[i] = 'x'
	}
	tests := []struct {
		name    string
		attempt Attempt
		hashErr error
		lookErr error
		want    error
		outcome Outcome
		hashes  int64
	}{
		{"right", right, nil, nil, nil, OutcomeVerified, 1},
		{"wrong", with(func(a *Attempt) { a.Password = "wrong" }), nil, nil, ErrBadCredentials, OutcomeBadPassword, 1},
		{"unknown", with(func(a *Attempt) { a.Name = "nobody" }), nil, nil, ErrBadCredentials, OutcomeUnknownUser, 1},
		{"no address", with(func(a *Attempt) { a.Remote = netip.Addr{} }), nil, nil, nil, OutcomeVerified, 1},
		{"disabled", with(func(a *Attempt) { a.Name = "off" }), nil, nil, ErrDisabled, OutcomeDisabled, 1},
		{"disabled wrong", with(func(a *Attempt) { a.Name, a.Password = "off", "x" }), nil, nil, ErrBadCredentials, OutcomeBadPassword, 1},
		{"service", with(func(a *Attempt) { a.Name = "imap" }), nil, nil, nil, OutcomeVerified, 1},
		{"other service", with(func(a *Attempt) { a.Name, a.Service = "imap", "pop3" }), nil, nil, ErrServiceDenied, OutcomeServiceDenied, 1},
		{"other service wrong", with(func(a *Attempt) { a.Name, a.Service, a.Password = "imap", "pop3", "x" }), nil, nil, ErrBadCredentials, OutcomeBadPassword, 1},
		{"empty password", with(func(a *Attempt) { a.Password = "" }), nil, nil, ErrBadCredentials, OutcomeBadPassword, 0},
		{"empty name", with(func(a *Attempt) { a.Name = "" }), nil, nil, ErrBadCredentials, OutcomeBadPassword, 0},
		{"NUL", with(func(a *Attempt) { a.Password = "right\x00" }), nil, nil, ErrBadCredentials, OutcomeBadPassword, 0},
		{"long password", with(func(a *Attempt) { a.Password = string(long) }), nil, nil, ErrBadCredentials, OutcomeBadPassword, 0},
		{"long name", with(func(a *Attempt) { a.Name = string(long) }), nil, nil, ErrBadCredentials, OutcomeBadPassword, 0},
		{"directory away", right, nil, ErrUnavailable, ErrUnavailable, OutcomeUnavailable, 0},
		{"directory broken", right, nil, errors.New("no route"), ErrUnavailable, OutcomeUnavailable, 0},
		{"overloaded", right, auth.ErrOverloaded, nil, ErrOverloaded, OutcomeOverloaded, 1},
		{"overloaded unknown", with(func(a *Attempt) { a.Name = "nobody" }), auth.ErrOverloaded, nil, ErrOverloaded, OutcomeOverloaded, 1},
		{"unusable hash", right, auth.ErrUnknownScheme, nil, ErrUnavailable, OutcomeUnavailable, 1},
		{"client gone", right, context.Canceled, nil, ErrUnavailable, OutcomeUnavailable, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, Options{})
			b.hasher.err, b.lookErr = test.hashErr, test.lookErr
			account, err := b.Login(t.Context(), test.attempt)
			b.want(t, err, test.want, test.hashes)
			if (account.User == "alice" || account.User == "imap") != (test.want == nil) {
				t.Errorf("account is %+v", account)
			}
			if len(b.outcomes) != 1 || b.count(test.outcome) != 1 {
				t.Errorf("outcomes: %v", b.outcomes)
			}
			if test.want != nil && !errors.Is(test.want, ErrBadCredentials) && b.Stats().Throttled != 0 {
				t.Error("counted as a failure")
			}
		})
	}
}

// TestDisabledSinceRemembered: memory spares the hash, never the account's state.
func TestDisabledSinceRemembered(t *testing.T) {
	b := newBench(t, Options{})
	b.want(t, b.try("alice", "right", home), nil, 1)
	b.set("alice", Account{User: "alice", Hash: "{PLAIN}right", Version: 1, Disabled: true})
	b.want(t, b.try("alice", "right", home), ErrDisabled, 1)
	b.set("alice", Account{User: "alice", Hash: "{PLAIN}right", Version: 1, Services: []string{"pop3"}})
	b.want(t, b.try("alice", "right", home), ErrServiceDenied, 1)
}

func TestUnknownUserBurns(t *testing.T) {
	b := newBench(t, Options{})
	b.want(t, b.try("nobody", "right", home), ErrBadCredentials, 1)
	if b.hasher.burned.Load() != 1 {
		t.Error("no hash was burned")
	}
	// A user who comes to be must not inherit what failed before.
	b.set("nobody", Account{User: "nobody", Hash: "{PLAIN}right"})
	b.want(t, b.try("nobody", "right", home), nil, 2)
}

// TestOneHashForManyAtOnce: a client opens its connections together.
func TestOneHashForManyAtOnce(t *testing.T) {
	for _, test := range []struct {
		password string
		want     error
	}{{"right", nil}, {"wrong", ErrBadCredentials}} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, Options{})
			b.hasher.hold = make(chan struct{})
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					if err := b.try("alice", test.password, home); !errors.Is(err, test.want) {
						t.Errorf("error is %v, want %v", err, test.want)
					}
				})
			}
			synctest.Wait()
			close(b.hasher.hold)
			all.Wait()
			b.want(t, b.try("alice", test.password, home), test.want, 1)
			if test.want != nil {
				b.want(t, b.try("alice", "right", home), nil, 2) // it counted once
			}
		})
	}
}

// TestLeaderHangsUp: those who wait for another's hash must not lose by his leaving.
func TestLeaderHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Options{})
		b.hasher.hold = make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			a := Attempt{Name: "alice", Password: "right", Service: "imap", Remote: netip.MustParseAddr(home)}
			if _, err := b.Login(ctx, a); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
				t.Errorf("leader: %v", err)
			}
		})
		synctest.Wait()
		for range 3 {
			all.Go(func() {
				if err := b.try("alice", "right", home); err != nil {
					t.Errorf("follower: %v", err)
				}
			})
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(b.hasher.hold)
		all.Wait()
		b.want(t, nil, nil, 2)
	})
}

func TestNewRefuses(t *testing.T) {
	good := Options{Lookup: (&bench{}).find, Hasher: &countingHasher{}}
	for name, change := range map[string]func(*Options){
		"no lookup":         func(o *Options) { o.Lookup = nil },
		"no hasher":         func(o *Options) { o.Hasher = nil },
		"negative memory":   func(o *Options) { o.RememberMax = -1 },
		"negative limit":    func(o *Options) { o.MaxPerUser = -1 },
		"network too long":  func(o *Options) { o.IPv4NetworkBits = 33 },
		"network > address": func(o *Options) { o.IPv6NetworkBits = 65 },
		"limit":             func(o *Options) { o.Throttle.Account = Limit{Free: 3} },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := New(good); err != nil {
		t.Errorf("good options: %v", err)
	}
}

func BenchmarkRemembered(b *testing.B) {
	bench := newBench(b, Options{})
	a := Attempt{Name: "alice", Password: "right", Service: "imap", Remote: netip.MustParseAddr(home)}
	if _, err := bench.Login(b.Context(), a); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := bench.Login(b.Context(), a); err != nil {
			b.Fatal(err)
		}
	}
}
