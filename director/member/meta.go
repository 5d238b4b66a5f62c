package member

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"github.com/hashicorp/memberlist"
)

// meta is what gossip carries of a node, beside its name. memberlist panics
// over 512 bytes; fits makes sure at the start that no load can bring it there.
type meta struct {
	Node string `json:"n,omitempty"`
	Load *Load  `json:"l,omitempty"`
}

func decodeMeta(b []byte) (meta, error) {
	var m meta
	if err := json.Unmarshal(b, &m); err != nil {
		return meta{}, fmt.Errorf("gossip data: %w", err)
	}
	return m, nil
}

// metaBox holds this node's own meta, ready to be sent.
type metaBox struct {
	node string

	mu      sync.Mutex // guards what follows; memberlist asks at any time
	load    *Load
	encoded []byte
}

func encodeMeta(m meta) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		return nil // a struct of strings and numbers can always be written
	}
	return b
}

// fits reports whether the longest load would still fit.
func (b *metaBox) fits() error {
	longest := encodeMeta(meta{b.node, &Load{math.MinInt64, math.MinInt64, math.MinInt64, math.MinInt64}})
	if len(longest) > memberlist.MetaMaxSize {
		return fmt.Errorf("the node address %q is too long for gossip", b.node)
	}
	return nil
}

// set reports whether the load is another than before.
func (b *metaBox) set(l Load) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.load != nil && *b.load == l {
		return false
	}
	b.load, b.encoded = &l, nil
	return true
}

func (b *metaBox) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.encoded == nil {
		b.encoded = encodeMeta(meta{b.node, b.load})
	}
	return b.encoded
}

// delegate is memberlist's view of a node: its meta, and no messages of our own.
type delegate struct{ meta *metaBox }

func (d delegate) NodeMeta(int) []byte             { return d.meta.bytes() }
func (d delegate) NotifyMsg([]byte)                {}
func (d delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (d delegate) LocalState(bool) []byte          { return nil }
func (d delegate) MergeRemoteState([]byte, bool)   {}

func splitHostPort(addr string) (host string, port uint16, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("%q: want host:port", addr)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%q: want a port of 0 to 65535", addr)
	}
	return host, uint16(n), nil
}

// resolve makes an IP address of host:port; memberlist takes no names here.
func resolve(ctx context.Context, addr string) (netip.AddrPort, error) {
	host, port, err := splitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if host == "" {
		host = "0.0.0.0"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(ip.Unmap(), port), nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q: %w", addr, err)
	}
	best := ips[0]
	for _, ip := range ips {
		if ip.Unmap().Is4() {
			best = ip
			break
		}
	}
	return netip.AddrPortFrom(best.Unmap(), port), nil
}
