package login

import "net/netip"

// networks says which clients are counted as one.
type networks struct{ v4Net, v6Addr, v6Net int }

// place is where a client is. An unknown address is a place of its own, the
// zero one, which all such clients share.
type place struct {
	addr netip.Prefix // one customer: an IPv4 address, an IPv6 /64
	net  netip.Prefix // one neighbourhood
}

func (n networks) place(addr netip.Addr) place {
	addr = addr.Unmap().WithZone("")
	addrBits, netBits := n.v6Addr, n.v6Net
	if addr.Is4() {
		addrBits, netBits = 32, n.v4Net
	}
	// The only error is a length that does not fit the address, or no address.
	narrow, err := addr.Prefix(addrBits)
	if err != nil {
		return place{}
	}
	wide, err := addr.Prefix(netBits)
	if err != nil {
		return place{}
	}
	return place{addr: narrow, net: wide}
}
