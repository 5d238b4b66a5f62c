package cache

import (
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"waypost/director"
)

const (
	// negativeLimit bounds what is remembered to be unknown.
	negativeLimit = 100_000
	// negativeFor is how long it is believed.
	negativeFor = 30 * time.Second
	// stripes is how finely changes are told apart.
	stripes = 1024
)

// negatives remembers which names a linearizable read did not find. The memory
// is asked first, so that a name that was created since is never hidden; the
// stripes keep a slow read from remembering what a change has overtaken.
type negatives struct {
	seed maphash.Seed

	mu       sync.Mutex           // protects what follows
	new, old map[string]time.Time // expiries; old was full first
	counts   [stripes]uint32
	all      uint32
}

// token is the count of changes at a name's stripe when a read of it began.
type token struct{ stripe, all uint32 }

func newNegatives() *negatives {
	return &negatives{seed: maphash.MakeSeed(), new: map[string]time.Time{}}
}

func (n *negatives) stripe(name string) *uint32 {
	return &n.counts[maphash.String(n.seed, name)%stripes]
}

// begin is called before the read whose result add will be told.
func (n *negatives) begin(name string) token {
	n.mu.Lock()
	defer n.mu.Unlock()
	return token{*n.stripe(name), n.all}
}

// add remembers that name is unknown, unless it changed since begin.
func (n *negatives) add(name string, t token, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if (token{*n.stripe(name), n.all}) != t {
		return
	}
	if len(n.new) >= negativeLimit/2 {
		n.new, n.old = map[string]time.Time{}, n.new
	}
	n.new[strings.Clone(name)] = now.Add(negativeFor)
}

func (n *negatives) has(name string, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	until, ok := n.new[name]
	if !ok {
		until, ok = n.old[name]
	}
	return ok && now.Before(until)
}

// forget drops a name that is known now.
func (n *negatives) forget(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	*n.stripe(name)++
	delete(n.new, name)
	delete(n.old, name)
}

// clear drops everything.
func (n *negatives) clear() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all++
	n.new, n.old = map[string]time.Time{}, nil
}

// changed drops what a change of the watch concerns.
func (n *negatives) changed(k *kind, key string) {
	switch k.prefix {
	case director.PrefixLocation:
		n.forget(key)
	case director.PrefixDomain:
		n.forget(domainName(key))
	case director.PrefixAddress:
		domain, local, _ := strings.Cut(key, "/")
		n.forget(local + "@" + domain)
	}
}

// domainName is how a domain is remembered: no address looks like it.
func domainName(domain string) string { return "@" + domain }
