// Package login decides whether a client may log in, and how many connections
// it may hold. The proxies and the mx's submission service share it; it knows
// nothing of the directory beyond the Lookup it is given, and nothing of any
// protocol.
//
// A Guard owns, in memory only, the logins it remembers, the throttle's
// counters, and the count of open connections. Nothing survives a restart,
// which costs each client one password hash and attackers nothing they could
// plan with. Every table is bounded. A Guard is safe for concurrent use, starts
// no goroutine and needs no closing.
//
// # Remembered logins
//
// A password hash is made to be slow, and mail clients log in all day. So a
// verified login is remembered for a short while as an HMAC-SHA256, under a key
// drawn at start and never written anywhere, over user, account version and
// password. The password itself is not kept. A changed version or Forget makes
// the memory useless at once; whether the account is disabled and which
// services it has is read afresh at every login.
//
// # Throttling
//
// Failures fill five leaking counters: per account and address, per account and
// network, per account, per address, per network. An "address" is an IPv4 /32 or
// IPv6 /64 and a "network" an IPv4 /24 or IPv6 /48. Up to a counter's Free
// failures cost nothing; each one over it opens a window, twice as long as the
// last, in which attempts get ErrThrottled and no password is looked at: a right
// one is refused like a wrong one. No login is delayed by holding it.
//
// The counters are sized so that one network alone can never fill the counter
// of an account (it is stopped by its own before), and so cannot lock the user
// out elsewhere. While its address or network is blocked a name is not even
// looked up, unless it is, but for case and outer blanks, the canonical name of
// a user who logged in from there lately. An address from which the user logged in lately is judged by
// its own counter with that user alone: strangers, whether in the same network
// or in many, do not lock it out. Even when that one is full, the remembered
// password passes from there; a stranger sharing the address could try
// passwords against that memory, so such tries are counted, and too many of
// them close this door too.
//
// The same wrong password again, from the same address, is refused without a
// hash and counts once: it is a telephone that nobody told of the new password.
package login

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"waypost/internal/auth"
)

// What Login and Acquire may answer. ErrBadCredentials, ErrDisabled and
// ErrServiceDenied are permanent; the others are temporary, and a protocol must
// say so, or clients throw good passwords away.
var (
	ErrBadCredentials     = errors.New("login: bad credentials")
	ErrDisabled           = errors.New("login: account disabled") // only after the right password
	ErrServiceDenied      = errors.New("login: service not allowed for the account")
	ErrThrottled          = errors.New("login: too many failures, try again later")
	ErrTooManyConnections = errors.New("login: too many connections")
	ErrUnavailable        = errors.New("login: cannot be decided now")
	ErrOverloaded         = errors.New("login: too many logins at once")
)

// ErrUnknownUser is what a Lookup returns for a name that is no user's. Login
// answers ErrBadCredentials, after as much work as for a user.
var ErrUnknownUser = errors.New("login: unknown user")

// Account is what a login needs to know of a user.
type Account struct {
	User     string   // the canonical name, one per user however many names log in
	Hash     string   // in a form of package auth
	Version  int64    // changes whenever Hash or Disabled does
	Disabled bool     // refused after the right password
	Services []string // allowed; empty means all
}

// Lookup finds the account that a login name belongs to. It returns
// ErrUnknownUser only if the directory said so; any other error (ErrUnavailable
// is the usual one) means that it could not be asked.
type Lookup func(ctx context.Context, name string) (Account, error)

// Hasher computes password hashes; *auth.Hasher is one.
type Hasher interface {
	Verify(ctx context.Context, stored, password string) (bool, error)
	// Burn takes as long as Verify does for an ordinary hash.
	Burn(ctx context.Context, password string) error
}

// Attempt is one client's wish to log in.
type Attempt struct {
	Name     string // as the client sent it
	Password string
	Service  string     // "imap", "pop3", "submission", ...
	Remote   netip.Addr // the client's, never a proxy's
}

// Outcome names how a decision came about, for metrics.
type Outcome string

// Outcomes of Login, and of an Acquire that was refused.
const (
	OutcomeVerified           Outcome = "verified"   // by its hash
	OutcomeRemembered         Outcome = "remembered" // without
	OutcomeBadPassword        Outcome = "bad_password"
	OutcomeRepeatedBad        Outcome = "repeated_bad_password" // known, so without a hash
	OutcomeUnknownUser        Outcome = "unknown_user"
	OutcomeThrottled          Outcome = "throttled"
	OutcomeDisabled           Outcome = "disabled"
	OutcomeServiceDenied      Outcome = "service_denied"
	OutcomeUnavailable        Outcome = "unavailable"
	OutcomeOverloaded         Outcome = "overloaded"
	OutcomeTooManyConnections Outcome = "too_many_connections"
)

const maxNameBytes = 512

// Guard decides about logins and connections.
type Guard struct {
	lookup  Lookup
	hasher  Hasher
	now     func() time.Time
	observe func(Outcome)
	nets    networks
	sealer  sealer

	remembered  *memory
	throttle    *throttle
	connections *connections

	mu      sync.Mutex // guards flights; never held while hashing
	flights map[seal]*flight
}

// New makes a Guard. The error tells which option is wrong.
func New(o Options) (*Guard, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Guard{
		lookup: o.Lookup, hasher: o.Hasher, now: o.Now, observe: o.Observe,
		nets:        networks{v4Net: o.IPv4NetworkBits, v6Addr: o.IPv6AddressBits, v6Net: o.IPv6NetworkBits},
		sealer:      newSealer(),
		remembered:  newMemory(o.RememberMax, o.RememberFor, o.TrustFor),
		throttle:    newThrottle(o.Throttle),
		connections: newConnections(o.MaxPerUser, o.MaxPerAddress, o.MaxPerUserAddress),
		flights:     make(map[seal]*flight),
	}, nil
}

// claim is an attempt together with what it is judged by.
type claim struct {
	account  Account
	known    bool // false: there is no such user, and account has only a name
	password string
	where    place
	seal     seal // of user, version and password
}

// Login decides about an attempt and returns the account as the directory knows
// it now. Errors are ErrBadCredentials, ErrDisabled, ErrServiceDenied,
// ErrThrottled, ErrUnavailable (wrapping the cause: the directory's, ctx's, or a
// stored hash that cannot be verified) and ErrOverloaded.
func (g *Guard) Login(ctx context.Context, a Attempt) (Account, error) {
	account, outcome, err := g.decide(ctx, a)
	g.observe(outcome)
	if err != nil {
		return Account{}, fmt.Errorf("login of %.64q: %w", a.Name, err)
	}
	return account, nil
}

func (g *Guard) decide(ctx context.Context, a Attempt) (Account, Outcome, error) {
	if !plausible(a) {
		return Account{}, OutcomeBadPassword, ErrBadCredentials
	}
	where := g.nets.place(a.Remote)
	if now := g.now(); g.throttle.placeBlocked(where, now) && !g.remembered.trusts(canonical(a.Name), where.addr, now) {
		// Whoever is stopped anyway does not cost the directory a read either.
		return Account{}, OutcomeThrottled, ErrThrottled
	}
	c, err := g.claim(ctx, a, where)
	if err != nil {
		return Account{}, OutcomeUnavailable, err
	}
	outcome, err := g.authenticate(ctx, c)
	if err != nil {
		return Account{}, outcome, err
	}
	switch {
	case c.account.Disabled:
		return Account{}, OutcomeDisabled, ErrDisabled
	case len(c.account.Services) > 0 && !slices.Contains(c.account.Services, a.Service):
		return Account{}, OutcomeServiceDenied, ErrServiceDenied
	}
	return c.account, outcome, nil
}

// plausible refuses what no account can have, before it costs anything.
func plausible(a Attempt) bool {
	return a.Name != "" && len(a.Name) <= maxNameBytes &&
		a.Password != "" && len(a.Password) <= auth.MaxPasswordBytes &&
		!strings.Contains(a.Name, "\x00") && !strings.Contains(a.Password, "\x00")
}

// canonical is what the name of a user mostly is that has not been looked up.
func canonical(name string) string { return strings.ToLower(strings.TrimSpace(name)) }

func (g *Guard) claim(ctx context.Context, a Attempt, where place) (claim, error) {
	c := claim{known: true, password: a.Password, where: where}
	var err error
	c.account, err = g.lookup(ctx, a.Name)
	if errors.Is(err, ErrUnknownUser) {
		c.account, c.known = Account{User: strings.ToLower(a.Name)}, false
	} else if err != nil {
		return claim{}, fmt.Errorf("%w: look up: %w", ErrUnavailable, err)
	}
	c.seal = g.sealer.seal(c.known, c.account.User, c.account.Version, c.password)
	return c, nil
}

// authenticate decides whether the password is right, by memory where it can.
func (g *Guard) authenticate(ctx context.Context, c claim) (Outcome, error) {
	now := g.now()
	var recalled recollection
	if c.known {
		recalled = g.remembered.recall(c.account.User, c.seal, c.where.addr, now)
	}
	state := g.throttle.state(c.account.User, c.where, c.seal, recalled.address, now)
	switch {
	case state.blocked && !(recalled.password && recalled.address && state.mayGuess):
		if recalled.address && !recalled.password {
			g.throttle.guessed(c.account.User, c.where, c.seal, now)
		}
		return OutcomeThrottled, ErrThrottled
	case recalled.password:
		g.remembered.trust(c.account.User, c.where.addr, now)
		return OutcomeRemembered, nil
	case state.knownBad:
		return OutcomeRepeatedBad, ErrBadCredentials
	}
	return g.verify(ctx, c)
}

// Forget drops what is remembered of a user: the password and the addresses. The
// watcher of the directory calls it when the user's record changes.
func (g *Guard) Forget(user string) { g.remembered.forget(user) }

// Acquire counts a connection of a user at the client's address (never a
// proxy's; IPv6 counts by /64) until release is called, which may be done more
// than once. The error is ErrTooManyConnections.
func (g *Guard) Acquire(user string, addr netip.Addr) (release func(), err error) {
	release, err = g.connections.acquire(user, g.nets.place(addr).addr)
	if err != nil {
		g.observe(OutcomeTooManyConnections)
	}
	return release, err
}

// Stats are the sizes of a Guard's tables.
type Stats struct {
	Remembered  int // users
	Throttled   int // counters of failures
	Connections int
}

// Stats returns the present sizes. Expired entries count until they are met.
func (g *Guard) Stats() Stats {
	return Stats{Remembered: g.remembered.len(), Throttled: g.throttle.len(), Connections: g.connections.len()}
}
