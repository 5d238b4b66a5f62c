package up

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"waypost/backend"
	"waypost/deploy/role"
	"waypost/director/etcd/embedded"
	"waypost/director/server"
	"waypost/internal/cluster"
	"waypost/mx"
	"waypost/proxy"
	"waypost/rebalance"
)

// The ports of design.md, "The operator's interface". Those between the nodes
// begin at 17000: node listeners there, gossip at 17100, metrics at 17200.
const (
	portSMTP1, portSMTP2   = 2525, 2526
	portSubmission         = 1587
	portIMAP1, portIMAP2   = 1143, 1144
	portIMAPS              = 1993
	portPOP1, portPOP2     = 1110, 1111
	portPOP3S              = 1995
	portManageSieve        = 14190
	portAdmin              = 8080
	portEtcd, portEtcdPeer = 12379, 12380
	portNode               = 17000
	portGossip             = 17100
	portMetrics            = 17200
)

const loopback = "127.0.0.1"

// backends is how many storage nodes the cluster has.
const backends = 3

// hostname is what the demo cluster calls itself to clients.
const hostname = "mail.example.test"

// layout is where everything of a data folder lies, and listens.
type layout struct {
	dir    string
	offset int
}

func (l layout) addr(port int) string {
	return net.JoinHostPort(loopback, strconv.Itoa(port+l.offset))
}
func (l layout) pki() string       { return filepath.Join(l.dir, "pki") }
func (l layout) tls() string       { return filepath.Join(l.dir, "tls") }
func (l layout) etcd() string      { return filepath.Join(l.dir, "etcd") }
func (l layout) gossipKey() string { return filepath.Join(l.dir, "gossip.key") }

var etcdPeer = cluster.Peer{Role: cluster.RoleEtcd, ID: "e1"}
var adminPeer = cluster.Peer{Role: cluster.RoleAdmin, ID: "operator"}
var publicPeer = cluster.Peer{Role: cluster.RoleProxy, ID: "public"}

// Unit is one role of the cluster, with what clients reach it at.
type Unit struct {
	Peer   cluster.Peer
	Config role.Config
	Serves []Listener
}

// Listener is a line of what `up` prints.
type Listener struct{ What, Addr string }

// units are the roles, in the order in which they start; they stop in reverse.
func (l layout) units() []Unit {
	var us []Unit
	add := func(r cluster.Role, id string, fill func(*role.Config) []Listener) {
		n := len(us)
		p := cluster.Peer{Role: r, ID: id}
		c := role.Config{
			Node: role.Node{ID: id, Listen: l.addr(portNode + n), CA: filepath.Join(l.pki(), cluster.AuthorityCert),
				Cert: cluster.CertPath(l.pki(), p), Key: cluster.KeyPath(l.pki(), p), Metrics: l.addr(portMetrics + n)},
			Directory: role.Directory{Endpoints: []string{"https://" + l.addr(portEtcd)}, Snapshot: filepath.Join(l.dir, "snapshots", id)},
			Gossip:    role.Gossip{Listen: l.addr(portGossip + n), Seeds: []string{l.addr(portGossip)}, KeyFile: l.gossipKey()},
		}
		us = append(us, Unit{p, c, nil})
		us[n].Serves = fill(&us[n].Config)
	}
	add(cluster.RoleDirector, "d1", func(c *role.Config) []Listener {
		c.Director = &server.Config{Admin: l.addr(portAdmin)}
		return []Listener{{"console and admin API", l.addr(portAdmin)}}
	})
	for i := range backends {
		id := fmt.Sprintf("b%d", i+1)
		add(cluster.RoleBackend, id, func(c *role.Config) []Listener {
			c.Backend = &backend.Config{Data: filepath.Join(l.dir, id), Hostname: id + ".example.test", CreateFolders: true}
			return nil
		})
	}
	l.addMX(add)
	l.addProxies(add)
	add(cluster.RoleRebalance, "r1", func(c *role.Config) []Listener {
		c.Rebalance = &rebalance.Config{}
		return nil
	})
	return us
}

type adder func(cluster.Role, string, func(*role.Config) []Listener)

func (l layout) certFiles() (cert, key string) {
	return cluster.CertPath(l.tls(), publicPeer), cluster.KeyPath(l.tls(), publicPeer)
}

func (l layout) addMX(add adder) {
	cert, key := l.certFiles()
	for i, port := range []int{portSMTP1, portSMTP2} {
		id := fmt.Sprintf("mx%d", i+1)
		add(cluster.RoleMX, id, func(c *role.Config) []Listener {
			c.MX = &mx.Config{Listen: []string{l.addr(port)}, Hostname: hostname, SpoolDir: filepath.Join(l.dir, id), TLSCert: cert, TLSKey: key, DrainTimeout: drain}
			out := []Listener{{"SMTP", l.addr(port)}}
			if i == 0 {
				c.MX.Submission = []string{l.addr(portSubmission)}
				out = append(out, Listener{"submission", l.addr(portSubmission)})
			}
			return out
		})
	}
}

// plaintextFrom lets the first tour use curl without TLS, from this machine only.
var plaintextFrom = []string{"127.0.0.0/8", "::1/128"}

func (l layout) addProxies(add adder) {
	cert, key := l.certFiles()
	for i, ports := range [][2]int{{portIMAP1, portPOP1}, {portIMAP2, portPOP2}} {
		id := fmt.Sprintf("p%d", i+1)
		add(cluster.RoleProxy, id, func(c *role.Config) []Listener {
			p := proxy.DefaultConfig()
			p.IMAP, p.POP3 = []string{l.addr(ports[0])}, []string{l.addr(ports[1])}
			p.CertFile, p.KeyFile, p.PlaintextFrom, p.DrainWait = cert, key, plaintextFrom, drain
			c.Proxy = &p
			out := []Listener{{"IMAP", l.addr(ports[0])}, {"POP3", l.addr(ports[1])}}
			if i == 0 {
				c.Proxy.IMAPS, c.Proxy.POP3S = []string{l.addr(portIMAPS)}, []string{l.addr(portPOP3S)}
				c.Proxy.ManageSieve = []string{l.addr(portManageSieve)}
				out = append(out, Listener{"IMAPS", l.addr(portIMAPS)}, Listener{"POP3S", l.addr(portPOP3S)}, Listener{"ManageSieve", l.addr(portManageSieve)})
			}
			return out
		})
	}
}

// etcdOptions is the embedded etcd: loopback, mutual TLS by the cluster's CA,
// and access by certificate: what faces the internet only reads.
func (l layout) etcdOptions(us []Unit) embedded.EmbedOptions {
	var readers, writers []string
	for _, u := range us {
		switch u.Peer.Role {
		case cluster.RoleMX, cluster.RoleProxy:
			readers = append(readers, u.Peer.String())
		default:
			writers = append(writers, u.Peer.String())
		}
	}
	return embedded.EmbedOptions{Readers: readers, Writers: writers,
		Dir: l.etcd(), ClientAddr: l.addr(portEtcd), PeerAddr: l.addr(portEtcdPeer),
		CAFile: filepath.Join(l.pki(), cluster.AuthorityCert), CertFile: cluster.CertPath(l.pki(), etcdPeer), KeyFile: cluster.KeyPath(l.pki(), etcdPeer)}
}

// ports lists every TCP address that must be free, what clients use first.
func (l layout) ports(us []Unit) []string {
	var out []string
	for _, u := range us {
		for _, s := range u.Serves {
			out = append(out, s.Addr)
		}
	}
	out = append(out, l.addr(portEtcd), l.addr(portEtcdPeer))
	for _, u := range us {
		out = append(out, u.Config.Node.Listen, u.Config.Gossip.Listen, u.Config.Node.Metrics)
	}
	return out
}

// drain is how long clients have to finish when the cluster stops.
const drain = 3 * time.Second

// readyWithin bounds the start of the whole cluster.
const readyWithin = 60 * time.Second
