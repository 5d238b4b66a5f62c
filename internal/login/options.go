package login

import (
	"errors"
	"fmt"
	"time"

	"waypost/internal/config"
)

// Options configure a Guard. Lookup and Hasher are required; a zero value
// elsewhere means the default.
type Options struct {
	Lookup Lookup
	Hasher Hasher

	RememberFor time.Duration // how long a verified password needs no hash; default 10 minutes
	RememberMax int           // users remembered at most, the longest unseen go first; default 100,000
	TrustFor    time.Duration // how long an address counts as the user's own; default 24 hours

	MaxPerUser        int // connections of one user; default 50
	MaxPerAddress     int // connections of one address; default 200
	MaxPerUserAddress int // connections of one user at one address; default 20

	IPv4NetworkBits int // default 24
	IPv6AddressBits int // default 64
	IPv6NetworkBits int // default 48
	Throttle        ThrottleLimits

	Now     func() time.Time // default time.Now
	Observe func(Outcome)    // called once per decision, from many goroutines, and must not block
}

// ThrottleLimits are the limits of failed logins.
//
// Whoever changes AccountNetwork or Account must keep the first well below the
// second, both in Free and in the rate 1/Drain: that is what keeps one network
// from locking a user out everywhere.
type ThrottleLimits struct {
	AccountAddress Limit // default 5 free, one per 10 minutes, windows of 1 second to 15 minutes
	AccountNetwork Limit // default 15 free, one per 5 minutes, windows of 1 second to 15 minutes
	Account        Limit // default 150 free, one per minute, windows of 1 second to 1 minute
	Address        Limit // default 50 free, one per 30 seconds, windows of 1 second to 5 minutes
	Network        Limit // default 200 free, one per 10 seconds, windows of 1 second to 5 minutes
	MaxEntries     int   // of each of the five tables, the longest unseen go first; default 50,000
}

// Limit describes a counter of failures.
type Limit struct {
	Free  int           // failures that cost nothing
	Drain time.Duration // after which one failure is forgotten
	First time.Duration // the window after the first failure over Free; each further one doubles it
	Max   time.Duration // the longest window
}

func (o Options) withDefaults() (Options, error) {
	if o.Lookup == nil || o.Hasher == nil {
		return o, errors.New("login: options need a Lookup and a Hasher")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Observe == nil {
		o.Observe = func(Outcome) {}
	}
	config.Default(&o.RememberFor, 10*time.Minute)
	config.Default(&o.RememberMax, 100_000)
	config.Default(&o.TrustFor, 24*time.Hour)
	config.Default(&o.MaxPerUser, 50)
	config.Default(&o.MaxPerAddress, 200)
	config.Default(&o.MaxPerUserAddress, 20)
	config.Default(&o.IPv4NetworkBits, 24)
	config.Default(&o.IPv6AddressBits, 64)
	config.Default(&o.IPv6NetworkBits, 48)
	o.Throttle = o.Throttle.withDefaults()
	return o, o.check()
}

func (t ThrottleLimits) withDefaults() ThrottleLimits {
	config.Default(&t.AccountAddress, Limit{Free: 5, Drain: 10 * time.Minute, First: time.Second, Max: 15 * time.Minute})
	config.Default(&t.AccountNetwork, Limit{Free: 15, Drain: 5 * time.Minute, First: time.Second, Max: 15 * time.Minute})
	config.Default(&t.Account, Limit{Free: 150, Drain: time.Minute, First: time.Second, Max: time.Minute})
	config.Default(&t.Address, Limit{Free: 50, Drain: 30 * time.Second, First: time.Second, Max: 5 * time.Minute})
	config.Default(&t.Network, Limit{Free: 200, Drain: 10 * time.Second, First: time.Second, Max: 5 * time.Minute})
	config.Default(&t.MaxEntries, 50_000)
	return t
}

func (o Options) check() error {
	if o.RememberFor < 0 || o.RememberMax < 0 || o.TrustFor < 0 || o.Throttle.MaxEntries < 0 {
		return errors.New("login: negative size or time of what is remembered")
	}
	if o.MaxPerUser < 0 || o.MaxPerAddress < 0 || o.MaxPerUserAddress < 0 {
		return errors.New("login: negative limit of connections")
	}
	if o.IPv4NetworkBits < 1 || o.IPv4NetworkBits > 32 ||
		o.IPv6NetworkBits < 1 || o.IPv6NetworkBits > o.IPv6AddressBits || o.IPv6AddressBits > 128 {
		return errors.New("login: impossible network length")
	}
	for _, l := range []Limit{o.Throttle.AccountAddress, o.Throttle.AccountNetwork, o.Throttle.Account, o.Throttle.Address, o.Throttle.Network} {
		if l.Free < 1 || l.Drain <= 0 || l.First <= 0 || l.Max < l.First {
			return fmt.Errorf("login: impossible throttle limit %+v", l)
		}
	}
	return nil
}
