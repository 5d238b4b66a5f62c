package cache

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"waypost/director"
)

const (
	// maxRecipients, maxDepth and maxVisits bound what one address expands to:
	// users, aliases within aliases, and addresses looked at.
	maxRecipients = 1000
	maxDepth      = 10
	maxVisits     = 4 * maxRecipients
	// maxAddress is more than an address of RFC 5321, Section 4.5.3.1.3 has.
	maxAddress = 512
)

// Errors of Resolve beside ErrUnavailable.
var (
	// ErrUnknownDomain: the domain is known not to be ours.
	ErrUnknownDomain = errors.New("not a domain of this cluster")
	// ErrUnknownUser: the address is known to lead to nobody.
	ErrUnknownUser = errors.New("no such address")
	// ErrExpansion: the address expands to too much. It is the configuration's
	// fault, and temporary until that is mended.
	ErrExpansion = errors.New("the address expands too far")
)

// Recipient is one mailbox that an address leads to.
type Recipient struct {
	User director.User
	// Folder is the sub-address, as written, where the address, or the member
	// of an alias that led here, is the user's own; else "".
	Folder string
	// Address is what Resolve was asked for.
	Address string
}

// Resolution is what an address means.
type Resolution struct {
	// Recipients are distinct users, at least one and at most 1000.
	Recipients []Recipient
	// Unresolved are members of aliases that lead to no user of this cluster:
	// they are of a foreign domain, or gone.
	Unresolved []string
}

// Resolve finds the mailboxes that mail for address, "local+folder@domain",
// goes to: those of the address record, else the user of that name, else the
// domain's catch-all. Aliases in aliases are expanded; an address that is met
// again while it is being expanded means the user of that name. "postmaster"
// alone is that of Options.PostmasterDomain.
//
// ErrUnknownDomain and ErrUnknownUser are permanent: they are said only after a
// linearizable read of at most 30 seconds ago. A tombstone is unknown. When
// that read is not possible the error wraps director.ErrUnavailable: temporary.
func (c *Client) Resolve(ctx context.Context, address string) (Resolution, error) {
	x := &expansion{c: c, ctx: ctx, address: address, visited: map[string]visit{}, users: map[director.User]bool{}}
	start := address
	if strings.EqualFold(address, "postmaster") {
		d := c.postmasterDomain()
		if d == "" && c.Stale() {
			return Resolution{}, fmt.Errorf("resolve %q: no domain is known yet: %w", address, director.ErrUnavailable)
		}
		start = "postmaster@" + d
	}
	if err := x.expand(start, 0); err != nil {
		return Resolution{}, fmt.Errorf("resolve %q: %w", address, err)
	}
	if len(x.out.Recipients) == 0 {
		// What leads outside is the mx's to look at.
		return x.out, fmt.Errorf("resolve %q: no member leads to a user: %w", address, ErrUnknownUser)
	}
	return x.out, nil
}

func (c *Client) postmasterDomain() string {
	if c.opts.PostmasterDomain != "" {
		return c.opts.PostmasterDomain
	}
	return c.st.Load().firstDomain()
}

// visit is how far the expansion of an address has come.
type visit int

const (
	unseen visit = iota
	underway
	ended
)

// expansion is one Resolve.
type expansion struct {
	c       *Client
	ctx     context.Context
	address string
	out     Resolution
	visited map[string]visit
	users   map[director.User]bool
}

// expand adds what one address leads to.
func (x *expansion) expand(address string, depth int) error {
	n, err := parse(address)
	if err != nil {
		return err
	}
	switch x.visited[n.base] {
	case ended:
		return nil
	case underway:
		return x.again(n)
	}
	if depth > maxDepth || len(x.visited) >= maxVisits {
		return ErrExpansion
	}
	x.visited[n.base] = underway
	defer func() { x.visited[n.base] = ended }()
	m, err := x.c.meaning(x.ctx, n)
	if err != nil {
		return err
	}
	if m.user != "" {
		return x.add(m.user, n.folder)
	}
	for _, member := range m.members {
		if err := x.member(member, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// member expands one member of an alias; one that leads nowhere does not spoil
// the others.
func (x *expansion) member(address string, depth int) error {
	err := x.expand(address, depth)
	if errors.Is(err, ErrUnknownUser) || errors.Is(err, ErrUnknownDomain) {
		x.out.Unresolved = append(x.out.Unresolved, address)
		return nil
	}
	return err
}

// again ends a loop: info@ with the member info@ means the mailbox info@.
func (x *expansion) again(n name) error {
	if n.user == "" {
		return nil
	}
	live, err := x.c.live(x.ctx, n.user)
	if err != nil || !live {
		return err
	}
	return x.add(n.user, n.folder)
}

func (x *expansion) add(u director.User, folder string) error {
	if x.users[u] {
		return nil
	}
	if len(x.users) >= maxRecipients {
		return ErrExpansion
	}
	x.users[u] = true
	x.out.Recipients = append(x.out.Recipients, Recipient{User: u, Folder: folder, Address: x.address})
	return nil
}

// name is an address taken apart.
type name struct {
	base, local, domain, folder string
	user                        director.User // "" if no user can have this name
}

func parse(address string) (name, error) {
	if len(address) > maxAddress {
		return name{}, fmt.Errorf("address of %d bytes: %w", len(address), ErrUnknownUser)
	}
	base, folder := director.SplitSubaddress(address)
	at := strings.LastIndexByte(base, '@')
	if at < 0 {
		return name{}, fmt.Errorf("%q has no domain: %w", base, ErrUnknownUser)
	}
	n := name{base: base, local: base[:at], domain: base[at+1:], folder: folder}
	if director.ValidDomain(n.domain) != nil {
		return name{}, fmt.Errorf("%q: %w", n.domain, ErrUnknownDomain)
	}
	if u, err := director.ParseUser(base); err == nil && string(u) == base {
		n.user = u
	}
	return n, nil
}

func (n name) addressKey() string  { return n.domain + "/" + n.local }
func (n name) catchAllKey() string { return n.domain + "/" + director.CatchAll }

// unknownName is how it is remembered that nobody has this name; names that
// nobody can have share one.
func (n name) unknownName() string {
	if n.user == "" {
		return "?@" + n.domain
	}
	return n.base
}

// meaning is either a user or the members of an alias or catch-all.
type meaning struct {
	user    director.User
	members []string
}

// meaning looks in memory first. What is not there is unknown only if a
// linearizable read said so, now or a short time ago.
func (c *Client) meaning(ctx context.Context, n name) (meaning, error) {
	st := c.st.Load()
	ours := st.domain(n.domain)
	if ours && n.user != "" {
		if a, ok := st.address(n.addressKey()); ok {
			return meaning{members: a.Members}, nil
		}
		if r, ok := st.location(n.user); ok && r.State != director.Deleted {
			return meaning{user: n.user}, nil
		}
	}
	now := c.opts.Now()
	if !c.Stale() {
		if !ours && c.neg.has(domainName(n.domain), now) {
			return meaning{}, fmt.Errorf("%q: %w", n.domain, ErrUnknownDomain)
		}
		if ours && c.neg.has(n.unknownName(), now) {
			a, ok := st.address(n.catchAllKey())
			return catchAll(n, a, ok)
		}
	}
	return c.readMeaning(ctx, n)
}

// catchAll is what is left of an unknown name.
func catchAll(n name, a director.Address, ok bool) (meaning, error) {
	if !ok {
		return meaning{}, fmt.Errorf("%q: %w", n.base, ErrUnknownUser)
	}
	return meaning{members: a.Members}, nil
}

// readMeaning reads all that a name can mean at one revision.
func (c *Client) readMeaning(ctx context.Context, n name) (meaning, error) {
	domainToken, nameToken := c.neg.begin(domainName(n.domain)), c.neg.begin(n.unknownName())
	keys := []string{director.DomainKey(n.domain), director.PrefixAddress + n.catchAllKey()}
	if n.user != "" {
		keys = append(keys, director.PrefixAddress+n.addressKey(), director.LocationKey(n.user))
	}
	st, es, err := c.readAll(ctx, keys)
	if err != nil {
		return meaning{}, unavailable(err)
	}
	now := c.opts.Now()
	if es[0].Rev == 0 {
		c.neg.add(domainName(n.domain), domainToken, now)
		return meaning{}, fmt.Errorf("%q: %w", n.domain, ErrUnknownDomain)
	}
	c.neg.forget(domainName(n.domain))
	if n.user != "" {
		m, known, err := c.known(st, n, es[2], es[3])
		if known || err != nil {
			c.neg.forget(n.unknownName())
			return m, err
		}
	}
	c.neg.add(n.unknownName(), nameToken, now)
	if es[1].Rev == 0 {
		return catchAll(n, director.Address{}, false)
	}
	a, err := director.DecodeAddress(es[1].Value)
	if err != nil {
		return meaning{}, unavailable(err)
	}
	return catchAll(n, a, true)
}

// known is what an address record or a location that was read means.
func (c *Client) known(st *state, n name, address, location director.Entry) (meaning, bool, error) {
	if address.Rev != 0 {
		a, err := director.DecodeAddress(address.Value)
		if err != nil {
			return meaning{}, false, unavailable(err)
		}
		return meaning{members: a.Members}, true, nil
	}
	r, err := c.learn(st, n.user, location)
	switch {
	case errors.Is(err, director.ErrNotFound):
		return meaning{}, false, nil
	case err != nil:
		return meaning{}, false, unavailable(err)
	case r.State == director.Deleted:
		return meaning{}, false, nil
	}
	return meaning{user: n.user}, true, nil
}

// live tells whether a user is there, in memory or by a linearizable read.
func (c *Client) live(ctx context.Context, u director.User) (bool, error) {
	r, known := c.st.Load().location(u)
	if known && r.State != director.Deleted {
		return true, nil
	}
	r, err := c.Fresh(ctx, u)
	if errors.Is(err, director.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, unavailable(err)
	}
	return r.State != director.Deleted, nil
}
