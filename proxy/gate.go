package proxy

import (
	"net/netip"
	"sync"
)

// gate bounds connections before anything is known of their users; the Guard
// bounds them afterwards. Its map holds only addresses that are connected.
type gate struct {
	maxOpen, maxStrangers, maxPerAddress int

	mu        sync.Mutex // protects what follows, and every slot
	open      int
	strangers int
	byAddress map[netip.Prefix]int // strangers
}

func newGate(c Config) *gate {
	return &gate{
		maxOpen: c.MaxConnections, maxStrangers: c.MaxUnauthenticated, maxPerAddress: c.MaxUnauthenticatedPerAddress,
		byAddress: map[netip.Prefix]int{},
	}
}

// slot is one connection's place.
type slot struct {
	gate     *gate
	address  netip.Prefix
	stranger bool
	gone     bool
}

// enter gives a place, or the reason why there is none.
func (g *gate) enter(addr netip.Addr) (*slot, string) {
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	// The zero prefix of no address is a place of its own.
	prefix, _ := addr.Prefix(bits)
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.open >= g.maxOpen:
		return nil, "connections"
	case g.strangers >= g.maxStrangers:
		return nil, "unauthenticated"
	case g.byAddress[prefix] >= g.maxPerAddress:
		return nil, "unauthenticated_of_address"
	}
	g.open++
	g.strangers++
	g.byAddress[prefix]++
	return &slot{gate: g, address: prefix, stranger: true}, ""
}

// authenticated frees the stranger's place.
func (s *slot) authenticated() {
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	s.known()
}

// known is authenticated with mu held.
func (s *slot) known() {
	if !s.stranger {
		return
	}
	s.stranger = false
	s.gate.strangers--
	if s.gate.byAddress[s.address]--; s.gate.byAddress[s.address] == 0 {
		delete(s.gate.byAddress, s.address)
	}
}

// leave frees the place.
func (s *slot) leave() {
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	if s.gone {
		return
	}
	s.gone = true
	s.known()
	s.gate.open--
}
