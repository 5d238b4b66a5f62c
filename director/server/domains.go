package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/lmtp"
)

// maxMembers bounds an address; more could not be expanded in one delivery.
const maxMembers = 1000

func (s *Server) listDomains(ctx context.Context, _ *call) (any, error) {
	addresses := map[string]int{}
	_, err := s.dir.Store().List(ctx, director.PrefixAddress, func(e director.Entry) error {
		domain, _, _ := strings.Cut(strings.TrimPrefix(e.Key, director.PrefixAddress), "/")
		addresses[domain]++
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	t, _ := s.census.count()
	list := []admin.Domain{}
	_, err = s.dir.Store().List(ctx, director.PrefixDomain, func(e director.Entry) error {
		d, err := director.DecodeDomain(e.Value)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(e.Key, director.PrefixDomain)
		list = append(list, admin.Domain{Domain: name, Users: t.domains[name], Addresses: addresses[name], Created: d.Created})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list domains: %w", err)
	}
	slices.SortFunc(list, func(a, b admin.Domain) int { return cmp.Compare(a.Domain, b.Domain) })
	return list, nil
}

func (s *Server) postDomain(ctx context.Context, c *call) (any, error) {
	req, err := decode[admin.CreateDomain](c)
	if err != nil {
		return nil, err
	}
	c.object = req.Domain
	name, now := strings.ToLower(strings.TrimSpace(req.Domain)), s.uniqueNow()
	if err := s.dir.CreateDomain(ctx, name, now); err != nil {
		return nil, err
	}
	return admin.Domain{Domain: name, Created: now}, nil
}

// deleteDomain proves with the store that the domain is empty. Another director
// may add a user between proof and removal: that user stays, gets no mail, and
// is back when the domain is added again.
func (s *Server) deleteDomain(ctx context.Context, c *call) (any, error) {
	c.object = c.r.PathValue("domain")
	name := strings.ToLower(c.object)
	s.creating.Lock()
	defer s.creating.Unlock()
	if _, err := s.dir.Domain(ctx, name); err != nil {
		return nil, fmt.Errorf("delete domain %s: %w", name, err)
	}
	users, err := s.countUsers(ctx, func(u director.User, _ director.Record) bool { return u.Domain() == name })
	if err != nil {
		return nil, fmt.Errorf("delete domain %s: %w", name, err)
	}
	addresses := 0
	_, err = s.dir.Store().List(ctx, director.PrefixAddress+name+"/", func(director.Entry) error { addresses++; return nil })
	if err != nil {
		return nil, fmt.Errorf("delete domain %s: %w", name, err)
	}
	if users+addresses > 0 {
		return nil, fmt.Errorf("domain %s has %d users and %d addresses: %w", name, users, addresses, admin.ErrInUse)
	}
	if err := s.dir.DeleteDomain(ctx, name); err != nil {
		return nil, err
	}
	return admin.Done{Done: true}, nil
}

// countUsers counts users by the store itself, tombstones excepted.
func (s *Server) countUsers(ctx context.Context, match func(director.User, director.Record) bool) (int, error) {
	n := 0
	_, err := s.dir.Store().List(ctx, director.PrefixLocation, func(e director.Entry) error {
		r, err := director.DecodeRecord(e.Value)
		if err != nil {
			return err
		}
		if r.State != director.Deleted && match(director.User(strings.TrimPrefix(e.Key, director.PrefixLocation)), r) {
			n++
		}
		return nil
	})
	return n, err
}

func (s *Server) listAddresses(ctx context.Context, c *call) (any, error) {
	prefix := director.PrefixAddress
	if domain := strings.ToLower(c.r.URL.Query().Get("domain")); domain != "" {
		if err := director.ValidDomain(domain); err != nil {
			return nil, err
		}
		prefix += domain + "/"
	}
	list := []admin.Address{}
	_, err := s.dir.Store().List(ctx, prefix, func(e director.Entry) error {
		a, err := director.DecodeAddress(e.Value)
		if err != nil {
			return err
		}
		domain, local, _ := strings.Cut(strings.TrimPrefix(e.Key, director.PrefixAddress), "/")
		list = append(list, admin.Address{Address: local + "@" + domain, Members: a.Members})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	slices.SortFunc(list, func(a, b admin.Address) int { return cmp.Compare(a.Address, b.Address) })
	return list, nil
}

// pathAddress reads {address}; its local part may be the catch-all's.
func (c *call) pathAddress() (local, domain string, err error) {
	c.object = c.r.PathValue("address")
	local, domain, ok := strings.Cut(strings.ToLower(c.object), "@")
	if ok && local == director.CatchAll {
		return local, domain, director.ValidDomain(domain)
	}
	u, err := director.ParseUser(c.object)
	return u.Local(), u.Domain(), err
}

func (s *Server) putAddress(ctx context.Context, c *call) (any, error) {
	local, domain, err := c.pathAddress()
	if err != nil {
		return nil, err
	}
	req, err := decode[admin.PutAddress](c)
	if err != nil {
		return nil, err
	}
	members, err := s.checkMembers(ctx, req.Members)
	if err != nil {
		return nil, fmt.Errorf("address %s@%s: %w", local, domain, err)
	}
	if err := s.dir.PutAddress(ctx, local, domain, director.Address{Members: members}); err != nil {
		return nil, err
	}
	return admin.Address{Address: local + "@" + domain, Members: members}, nil
}

// checkMembers gives the members in canonical form, each once. The sub-address
// of a member is kept as it was written: it names a folder. A member of another
// domain is a forward to the outside, which the mx send on if they have a
// smarthost, and whose local part only that domain understands.
func (s *Server) checkMembers(ctx context.Context, members []string) ([]string, error) {
	if len(members) == 0 || len(members) > maxMembers {
		return nil, fmt.Errorf("%d members: want 1 to %d: %w", len(members), maxMembers, director.ErrInvalid)
	}
	ours := map[string]bool{}
	var out []string
	for _, m := range members {
		m = strings.TrimSpace(m)
		domain := strings.ToLower(m[strings.LastIndexByte(m, '@')+1:])
		known, asked := ours[domain]
		if !asked && director.ValidDomain(domain) == nil {
			_, err := s.dir.Domain(ctx, domain)
			if err != nil && !errors.Is(err, director.ErrNotFound) {
				return nil, err
			}
			known = err == nil
			ours[domain] = known
		}
		member, err := canonicalMember(m, domain, known)
		if err != nil {
			return nil, fmt.Errorf("member %s: %w", m, err)
		}
		if !slices.Contains(out, member) {
			out = append(out, member)
		}
	}
	return out, nil
}

// canonicalMember is how a member is kept.
func canonicalMember(m, domain string, ours bool) (string, error) {
	if !ours {
		local := strings.TrimSuffix(m[:len(m)-len(domain)], "@")
		outside := local + "@" + domain
		switch {
		case local == "" || len(outside) > maxOutside || lmtp.CheckAddress(outside) != nil:
			return "", fmt.Errorf("want local@domain: %w", director.ErrInvalid)
		case director.ValidDomain(domain) != nil || !strings.Contains(domain, "."):
			return "", fmt.Errorf("%q is no domain of mail: %w", domain, director.ErrInvalid)
		}
		return outside, nil
	}
	base, folder := director.SplitSubaddress(m)
	u, err := director.ParseUser(base)
	if err != nil {
		return "", err
	}
	if folder != "" {
		return u.Local() + "+" + folder + "@" + domain, nil
	}
	return string(u), nil
}

// maxOutside bounds an address outside (RFC 5321, Section 4.5.3.1.3).
const maxOutside = 254

func (s *Server) deleteAddress(ctx context.Context, c *call) (any, error) {
	local, domain, err := c.pathAddress()
	if err != nil {
		return nil, err
	}
	if err := s.dir.DeleteAddress(ctx, local, domain); err != nil {
		return nil, err
	}
	return admin.Done{Done: true}, nil
}
