package initialize

import (
	"bytes"
	"embed"
	"fmt"
	"net"
	"strings"
	"text/template"

	"waypost/internal/cluster"
)

//go:embed template/*.tmpl
var templates embed.FS

// stateRoot is where nodes keep their data, as the systemd units have it.
const stateRoot = "/var/lib/waypost"

// settings are what differs between the files of two nodes.
type settings struct {
	Node
	Cluster                        string
	Listen, Advertise              string
	GossipListen, GossipAdvertise  string
	Metrics                        string
	Seeds, Etcd                    []string
	EtcdTLS                        string
	State                          string
	Hostname                       string
	Admin                          string
	SMTP, Submission               string
	IMAP, IMAPS, POP3, POP3S       string
	ManageSieve                    string
	DirectorySnapshot, ClientsCert string
}

// Render gives the commented configuration file of a node of the plan.
func (p *Plan) Render(n Node) ([]byte, error) {
	t, err := template.New("").Funcs(template.FuncMap{"list": quoteList}).ParseFS(templates, "template/*.tmpl")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, string(n.Role)+".tmpl", p.settings(n)); err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", n.Peer(), err)
	}
	return b.Bytes(), nil
}

func quoteList(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = fmt.Sprintf("%q", s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func (p *Plan) settings(n Node) settings {
	s := settings{
		Node: n, Cluster: p.Cluster, Etcd: p.Etcd, EtcdTLS: p.etcdTLS(), Seeds: p.seeds(n),
		Listen: join(bind(n.Host), nodePort+n.Slot), Advertise: join(n.Host, nodePort+n.Slot),
		GossipListen: join(gossipBind(n.Host), gossipPort+n.Slot), GossipAdvertise: join(n.Host, gossipPort+n.Slot),
		// Monitoring is plain HTTP: not for everybody unless the operator says so.
		Metrics:  join("127.0.0.1", metricsPort+n.Slot),
		Hostname: n.Host,
		Admin:    join(bind(n.Host), adminPort+n.RoleSlot),
		State:    stateRoot + "/" + n.Name(),
	}
	if loopback(n.Host) {
		// A trial on one machine runs as anybody, so it stays in its own folder.
		s.State = "state"
	}
	if net.ParseIP(n.Host) != nil || n.Host == "localhost" {
		s.Hostname = n.ID + "." + p.Cluster
	}
	s.DirectorySnapshot = s.State + "/directory.snapshot"
	s.ClientsCert = n.Name() + "-tls"
	s.clientPorts()
	return s
}

// gossipBind is bind for an address that must not be empty.
func gossipBind(host string) string {
	if b := bind(host); b != "" {
		return b
	}
	return "0.0.0.0"
}

// clientPorts are the well-known ones on the first mx and proxy of a real host,
// and high ones that need no privilege elsewhere.
func (s *settings) clientPorts() {
	at, i := bind(s.Host), s.RoleSlot
	if i == 0 && !loopback(s.Host) {
		s.SMTP, s.Submission = join(at, 25), join(at, 587)
		s.IMAP, s.IMAPS, s.POP3, s.POP3S = join(at, 143), join(at, 993), join(at, 110), join(at, 995)
		s.ManageSieve = join(at, 4190)
		return
	}
	s.SMTP, s.Submission = join(at, 2525+i), join(at, 1587+i)
	// 1993 and 1995 are two apart, so these go by tens.
	s.IMAP, s.IMAPS, s.POP3, s.POP3S = join(at, 1143+i), join(at, 1993+10*i), join(at, 1110+i), join(at, 1995+10*i)
	s.ManageSieve = join(at, 14190+i)
}

// etcdServer is one etcd server that the plan's endpoints name.
type etcdServer struct {
	Cluster, ID, Host string
	Client, Peer      string // URLs as others use them
	ListenClient      string
	ListenPeer        string
	InitialCluster    string
	PeerName          string
}

// etcdPeerName is a name in the certificates of etcd servers, and of nobody
// else: their peer ports ask for it.
const etcdPeerName = "etcd-peer.waypost"

// etcdPrefix is what all keys of Waypost begin with: director/etcd's default.
const etcdPrefix = "/waypost/"

// etcdServers are the servers behind the https endpoints.
func (p *Plan) etcdServers() ([]etcdServer, error) {
	addrs, err := p.etcdAddrs()
	if err != nil {
		return nil, err
	}
	servers := make([]etcdServer, len(addrs))
	members := make([]string, len(addrs))
	for i, a := range addrs {
		s := etcdServer{Cluster: p.Cluster, ID: fmt.Sprintf("etcd%d", i+1), Host: a.host, Client: a.url, PeerName: etcdPeerName}
		s.Peer = "https://" + join(a.host, a.port+1) // 2379 and 2380, as everywhere
		s.ListenClient = "https://" + join(gossipBind(a.host), a.port)
		s.ListenPeer = "https://" + join(gossipBind(a.host), a.port+1)
		members[i] = s.ID + "=" + s.Peer
		servers[i] = s
	}
	for i := range servers {
		servers[i].InitialCluster = strings.Join(members, ",")
	}
	return servers, nil
}

func (s etcdServer) peer() cluster.Peer { return cluster.Peer{Role: cluster.RoleEtcd, ID: s.ID} }

func (s etcdServer) render() ([]byte, error) { return renderEtcd("etcd.tmpl", s) }

// renderAuth gives the script that switches on etcd's access control.
func (p *Plan) renderAuth() ([]byte, error) {
	var endpoints []string
	for _, e := range p.Etcd {
		if strings.HasPrefix(e, "https:") {
			endpoints = append(endpoints, strings.ReplaceAll(e, "'", `'\''`)) // in single quotes there
		}
	}
	admin := cluster.Peer{Role: cluster.RoleAdmin, ID: AdminID}
	return renderEtcd("auth.tmpl", struct {
		Cluster, Endpoints, Prefix string
		Admin                      cluster.Peer
		AdminStem                  string
		Nodes                      []Node
	}{p.Cluster, strings.Join(endpoints, ","), etcdPrefix, admin, strings.TrimSuffix(cluster.CertPath("", admin), ".crt"), p.Nodes})
}

func renderEtcd(name string, data any) ([]byte, error) {
	t, err := template.New("").ParseFS(templates, "template/"+name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, name, data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b.Bytes(), nil
}
