package initialize

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"waypost/internal/cluster"
	"waypost/internal/durable"
)

// planFile holds the Plan in the cluster's folder.
const planFile = "cluster.json"

const planVersion = 1

// DefaultEtcd is where etcd is if nothing else is said.
const DefaultEtcd = "https://127.0.0.1:2379"

// Plan says which nodes the cluster has; everything that is generated follows
// from it.
type Plan struct {
	Version int      `json:"v"`
	Cluster string   `json:"cluster"`
	Etcd    []string `json:"etcd"`
	Nodes   []Node   `json:"nodes"`
}

// Node is one process and the machine it runs on.
type Node struct {
	Role cluster.Role `json:"role"`
	ID   string       `json:"id"`
	Host string       `json:"host"` // name or IP address that the other nodes reach it at
	// Slot counts the nodes of one host from 0, RoleSlot those of one role
	// there: they keep the ports apart.
	Slot     int `json:"slot"`
	RoleSlot int `json:"role_slot"`
}

// Peer is the node's name in certificates.
func (n Node) Peer() cluster.Peer { return cluster.Peer{Role: n.Role, ID: n.ID} }

// Name is "<role>-<id>", the stem of the node's files.
func (n Node) Name() string { return string(n.Role) + "-" + n.ID }

// The first ports of a host; further nodes of that host get the next ones.
const (
	nodePort    = 7400
	gossipPort  = 7946
	metricsPort = 9400
	adminPort   = 8080
)

// addNode takes a node into the plan. The error says what to do.
func (p *Plan) addNode(peer cluster.Peer, host string) (Node, error) {
	if err := peer.Validate(); err != nil {
		return Node{}, err
	}
	if !configured(peer.Role) {
		return Node{}, fmt.Errorf("role %s has no file of its own: choose director, backend, mx, proxy or rebalance", peer.Role)
	}
	if err := validHost(host); err != nil {
		return Node{}, fmt.Errorf("%s: %w", peer, err)
	}
	n := Node{Role: peer.Role, ID: peer.ID, Host: host}
	for _, have := range p.Nodes {
		switch {
		case have.Peer() == peer:
			return Node{}, fmt.Errorf("%s is in this cluster already: choose another id: %w", peer, fs.ErrExist)
		case have.Host == host:
			n.Slot = max(n.Slot, have.Slot+1)
			if have.Role == peer.Role {
				n.RoleSlot = max(n.RoleSlot, have.RoleSlot+1)
			}
		}
	}
	p.Nodes = append(p.Nodes, n)
	return n, nil
}

func configured(r cluster.Role) bool {
	switch r {
	case cluster.RoleDirector, cluster.RoleBackend, cluster.RoleMX, cluster.RoleProxy, cluster.RoleRebalance:
		return true
	}
	return false
}

// validHost takes an IP address or a host name, without a port.
func validHost(host string) error {
	if net.ParseIP(host) != nil {
		return nil
	}
	if host == "" || len(host) > 253 || strings.Trim(strings.ToLower(host), "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return fmt.Errorf("host %q: want a host name or an IP address, without a port", host)
	}
	return nil
}

// etcdAddr is where an etcd server serves clients. Its peers have the next port.
type etcdAddr struct {
	url, host string
	port      int
}

// etcdAddrs are the etcd servers that get a certificate and a configuration of this
// cluster: those of https endpoints.
func (p *Plan) etcdAddrs() ([]etcdAddr, error) {
	var addrs []etcdAddr
	for _, e := range p.Etcd {
		u, err := url.Parse(e)
		if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
			return nil, fmt.Errorf("etcd %q: want a URL like %s", e, DefaultEtcd)
		}
		port, err := strconv.ParseUint(u.Port(), 10, 16)
		if err != nil || port == 0 || port == math.MaxUint16 {
			return nil, fmt.Errorf("etcd %q: want a URL like %s, with a port below %d", e, DefaultEtcd, math.MaxUint16)
		}
		if u.Scheme != "https" {
			continue
		}
		a := etcdAddr{e, u.Hostname(), int(port)}
		for _, other := range addrs {
			if d := a.port - other.port; a.host == other.host && d >= -1 && d <= 1 {
				return nil, fmt.Errorf("etcd %q and %q: want ports two apart on one host, since a server takes the next one, too, for the others", other.url, e)
			}
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// etcdTLS is the directory.tls that suits the endpoints.
func (p *Plan) etcdTLS() string {
	if slices.ContainsFunc(p.Etcd, func(e string) bool { return strings.HasPrefix(e, "https:") }) {
		return "cluster"
	}
	return "none"
}

// admin is where the first director's admin API is reached.
func (p *Plan) admin() string {
	for _, n := range p.Nodes {
		if n.Role == cluster.RoleDirector {
			return join(n.Host, adminPort+n.RoleSlot)
		}
	}
	return ""
}

// maxSeeds is enough for a node to find the rest.
const maxSeeds = 3

// seeds are other nodes' gossip addresses: the first of each role, so that they
// lie on several machines where there are several.
func (p *Plan) seeds(self Node) []string {
	seeds := []string{}
	seen := map[cluster.Role]bool{}
	for _, n := range p.Nodes {
		if n == self || seen[n.Role] || len(seeds) == maxSeeds {
			continue
		}
		seen[n.Role] = true
		seeds = append(seeds, join(n.Host, gossipPort+n.Slot))
	}
	return seeds
}

func join(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// bind is the address to listen on: the host's own if it is one, else all.
func bind(host string) string {
	if net.ParseIP(host) != nil || host == "localhost" {
		return host
	}
	return ""
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// readPlan reads the plan of the cluster in dir.
func readPlan(dir string) (Plan, error) {
	var p Plan
	path := filepath.Join(dir, planFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, fmt.Errorf("no cluster in %s (no %s there): say where `waypost init` made it, with --dir", dir, planFile)
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("%s: %w", path, err)
	}
	if p.Version > planVersion {
		return p, fmt.Errorf("%s was written by a newer waypost: use that one", path)
	}
	return p, nil
}

func (p *Plan) write(dir string) error {
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(dir, planFile), append(data, '\n'), 0o644)
}
