package initialize

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"waypost/deploy/clifile"
	"waypost/director/member"
	"waypost/internal/cluster"
	"waypost/internal/durable"
)

// Options describe a new cluster.
type Options struct {
	// Dir is the folder to make; it may exist if it is empty.
	Dir string
	// Cluster is the cluster's name, lower case.
	Cluster string
	// How many nodes of each role: d1…, b1…, mx1…, p1…, r1….
	Directors, Backends, MX, Proxies, Movers int
	// Hosts says where nodes run; 127.0.0.1 for those that are not named. A
	// node named here that the counts do not make is an error.
	Hosts map[cluster.Peer]string
	// Etcd are the endpoints of etcd; DefaultEtcd if there are none. The servers
	// of https endpoints get certificates of this cluster.
	Etcd []string
}

// AdminID is the id of the operator's certificate.
const AdminID = "cli"

const (
	pkiFolder   = "pki"
	adminFolder = "admin"
	nodesFolder = "nodes"
	gossipFile  = "gossip.key"
	defaultHost = "127.0.0.1"
)

// ConfigPath is the configuration file of a node in the cluster's folder.
func ConfigPath(dir string, n Node) string {
	return filepath.Join(nodeDir(dir, n.Name()), n.Name()+".toml")
}

func nodeDir(dir, name string) string { return filepath.Join(dir, nodesFolder, name) }

// NewPlan makes the plan of a new cluster, and says what is wrong with o.
func NewPlan(o Options) (Plan, error) {
	p := Plan{Version: planVersion, Cluster: o.Cluster, Etcd: o.Etcd}
	if len(p.Etcd) == 0 {
		p.Etcd = []string{DefaultEtcd}
	}
	if _, err := p.etcdAddrs(); err != nil {
		return p, err
	}
	used := 0
	for _, g := range []struct {
		role   cluster.Role
		prefix string
		count  int
	}{
		{cluster.RoleDirector, "d", o.Directors}, {cluster.RoleBackend, "b", o.Backends}, {cluster.RoleMX, "mx", o.MX},
		{cluster.RoleProxy, "p", o.Proxies}, {cluster.RoleRebalance, "r", o.Movers},
	} {
		if g.count < 0 || g.count > 1000 {
			return p, fmt.Errorf("%d nodes of role %s: want 0 to 1000", g.count, g.role)
		}
		for i := range g.count {
			peer := cluster.Peer{Role: g.role, ID: g.prefix + strconv.Itoa(i+1)}
			host, named := o.Hosts[peer]
			if named {
				used++
			} else {
				host = defaultHost
			}
			if _, err := p.addNode(peer, host); err != nil {
				return p, err
			}
		}
	}
	if used != len(o.Hosts) {
		return p, unknownHost(p, o.Hosts)
	}
	if o.Directors == 0 {
		return p, errors.New("a cluster needs at least one director")
	}
	return p, nil
}

func unknownHost(p Plan, hosts map[cluster.Peer]string) error {
	for _, n := range p.Nodes {
		delete(hosts, n.Peer())
	}
	for peer := range hosts {
		return fmt.Errorf("host for %s: this cluster would have no such node; raise the number of that role", peer)
	}
	return nil
}

// Create makes the cluster's folder.
func Create(o Options) (Plan, error) {
	p, err := NewPlan(o)
	if err != nil {
		return p, err
	}
	if err := claimEmpty(o.Dir); err != nil {
		return p, err
	}
	if err := create(o.Dir, p); err != nil {
		return p, fmt.Errorf("%w; remove %s and try again", err, o.Dir)
	}
	return p, nil
}

// claimEmpty makes the folder, and refuses one that holds anything.
func claimEmpty(dir string) error {
	if dir == "" {
		return errors.New("say the folder to make, with --dir")
	}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return durable.MkdirAll(dir, 0o755)
	case err != nil:
		return err
	case len(entries) > 0:
		return fmt.Errorf("%s is not empty: nothing is overwritten; choose another folder, or add a node to the cluster there with `waypost init node`: %w", dir, fs.ErrExist)
	}
	return nil
}

func create(dir string, p Plan) error {
	ca, err := cluster.CreateAuthority(filepath.Join(dir, pkiFolder), p.Cluster)
	if err != nil {
		return err
	}
	if _, err := member.LoadOrCreateKey(filepath.Join(dir, pkiFolder, gossipFile)); err != nil {
		return err
	}
	for _, n := range p.Nodes {
		if err := makeNode(dir, ca, p, n); err != nil {
			return err
		}
	}
	if err := makeEtcd(dir, ca, p); err != nil {
		return err
	}
	if err := makeAdmin(dir, ca, p); err != nil {
		return err
	}
	return p.write(dir)
}

// makeNode makes the folder that is copied to the node.
func makeNode(dir string, ca *cluster.Authority, p Plan, n Node) error {
	folder := nodeDir(dir, n.Name())
	if _, err := os.Lstat(folder); err == nil {
		return fmt.Errorf("%s: %w", folder, fs.ErrExist)
	}
	if err := ca.IssueTo(folder, n.Peer(), nodeHosts(n)); err != nil {
		return err
	}
	gossip, err := os.ReadFile(filepath.Join(dir, pkiFolder, gossipFile))
	if err != nil {
		return err
	}
	config, err := p.Render(n)
	if err != nil {
		return err
	}
	files := []file{
		{cluster.AuthorityCert, ca.CertPEM(), 0o644},
		{gossipFile, gossip, 0o600},
		{n.Name() + ".toml", config, 0o644},
	}
	if n.Role == cluster.RoleMX || n.Role == cluster.RoleProxy {
		cert, key, err := selfSigned(p.settings(n).Hostname, n.Host)
		if err != nil {
			return err
		}
		files = append(files, file{n.Name() + "-tls.crt", cert, 0o644}, file{n.Name() + "-tls.key", key, 0o600})
	}
	return createAll(folder, files)
}

// nodeHosts go into a node's certificate. Nodes look at its URI only; browsers
// at a director's console look at these.
func nodeHosts(n Node) []string {
	hosts := []string{n.Host}
	if loopback(n.Host) {
		hosts = append(hosts, "localhost")
	}
	return hosts
}

type file struct {
	name string
	data []byte
	perm fs.FileMode
}

func createAll(folder string, files []file) error {
	for _, f := range files {
		if err := durable.CreateFile(filepath.Join(folder, f.name), f.data, f.perm); err != nil {
			return err
		}
	}
	return nil
}

func makeEtcd(dir string, ca *cluster.Authority, p Plan) error {
	servers, err := p.etcdServers()
	if err != nil {
		return err
	}
	for i, s := range servers {
		folder := nodeDir(dir, "etcd-"+s.ID)
		if err := ca.IssueTo(folder, s.peer(), etcdCertHosts(s.Host)); err != nil {
			return err
		}
		config, err := s.render()
		if err != nil {
			return err
		}
		files := []file{{cluster.AuthorityCert, ca.CertPEM(), 0o644}, {"etcd-" + s.ID + ".yml", config, 0o644}}
		if i == 0 { // once is enough for all
			script, err := p.renderAuth()
			if err != nil {
				return err
			}
			files = append(files, file{"auth.sh", script, 0o755})
		}
		if err := createAll(folder, files); err != nil {
			return err
		}
	}
	return nil
}

// etcdCertHosts have the loopback names too, for etcdctl on the server itself,
// and the name that lets a server in at the others' peer ports.
func etcdCertHosts(host string) []string {
	hosts := []string{"localhost", "127.0.0.1", "::1", etcdPeerName}
	if !slices.Contains(hosts, host) {
		hosts = append(hosts, host)
	}
	return hosts
}

// makeAdmin makes the operator's folder, and the cli.json of the cluster's.
func makeAdmin(dir string, ca *cluster.Authority, p Plan) error {
	folder := filepath.Join(dir, adminFolder)
	self := cluster.Peer{Role: cluster.RoleAdmin, ID: AdminID}
	if err := ca.IssueTo(folder, self, nil); err != nil {
		return err
	}
	if err := createAll(folder, []file{{cluster.AuthorityCert, ca.CertPEM(), 0o644}}); err != nil {
		return err
	}
	f := clifile.File{
		Admin: p.admin(), CA: filepath.Join(folder, cluster.AuthorityCert),
		Cert: cluster.CertPath(folder, self), Key: cluster.KeyPath(folder, self),
	}
	var err error
	for _, path := range []*string{&f.CA, &f.Cert, &f.Key} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	return errors.Join(clifile.Write(folder, f), clifile.Write(dir, f))
}

// AddNode issues one more node into the cluster's folder.
func AddNode(dir string, peer cluster.Peer, host string) (Plan, Node, error) {
	p, err := readPlan(dir)
	if err != nil {
		return p, Node{}, err
	}
	ca, err := cluster.LoadAuthority(filepath.Join(dir, pkiFolder))
	if err != nil {
		return p, Node{}, err
	}
	if host == "" {
		host = defaultHost
	}
	n, err := p.addNode(peer, host)
	if err != nil {
		return p, n, err
	}
	if err := makeNode(dir, ca, p, n); err != nil {
		return p, n, fmt.Errorf("%w; remove %s and try again", err, nodeDir(dir, n.Name()))
	}
	return p, n, p.write(dir)
}

// Renew replaces the certificates that end within cluster.RenewBefore, and
// returns the files it replaced. Running nodes take up new files by themselves
// once these are copied to them.
func Renew(dir string) ([]string, error) {
	p, err := readPlan(dir)
	if err != nil {
		return nil, err
	}
	ca, err := cluster.LoadAuthority(filepath.Join(dir, pkiFolder))
	if err != nil {
		return nil, err
	}
	var renewed []string
	renew := func(folder string, peer cluster.Peer, hosts []string) error {
		path := cluster.CertPath(folder, peer)
		before, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := ca.IssueTo(folder, peer, hosts); err != nil {
			return err
		}
		after, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(before, after) {
			renewed = append(renewed, path)
		}
		return err
	}
	for _, n := range p.Nodes {
		if err := renew(nodeDir(dir, n.Name()), n.Peer(), nodeHosts(n)); err != nil {
			return renewed, err
		}
	}
	servers, err := p.etcdServers()
	if err != nil {
		return renewed, err
	}
	for _, s := range servers {
		if err := renew(nodeDir(dir, "etcd-"+s.ID), s.peer(), etcdCertHosts(s.Host)); err != nil {
			return renewed, err
		}
	}
	return renewed, renew(filepath.Join(dir, adminFolder), cluster.Peer{Role: cluster.RoleAdmin, ID: AdminID}, nil)
}
