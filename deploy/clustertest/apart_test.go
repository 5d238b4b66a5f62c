package clustertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"waypost/deploy/role"
	"waypost/director"
	"waypost/director/admin"
	"waypost/director/etcd/embedded"
	"waypost/internal/cluster"
)

// apart is a cluster that `waypost init` made, each role a process of its own.
type apart struct {
	*clients
	host  string
	nodes []apartNode
	procs map[string]*service
}

type apartNode struct {
	Role   cluster.Role `json:"role"`
	ID     string       `json:"id"`
	Config string       `json:"config"`
}

func (n apartNode) name() string { return string(n.Role) + "-" + n.ID }

// identity is what the node proves itself with.
func (n apartNode) identity(t *testing.T) *cluster.Identity {
	t.Helper()
	dir, p := filepath.Dir(n.Config), cluster.Peer{Role: n.Role, ID: n.ID}
	id, err := cluster.LoadIdentity(filepath.Join(dir, cluster.AuthorityCert), cluster.CertPath(dir, p), cluster.KeyPath(dir, p))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestRolesApart: what an operator does who does not use `waypost up`: init,
// an etcd, each role from its file, and then the commands.
func TestRolesApart(t *testing.T) {
	beside(t)
	t.Run("Debian's etcd", func(t *testing.T) {
		need(t, "etcd", "swaks", "curl")
		a := newApart(t)
		a.debianEtcd(t)
		a.life(t)
		a.certificates(t)
		a.end(t)
	})
	t.Run("embedded etcd", func(t *testing.T) {
		need(t, "swaks", "curl")
		a := newApart(t)
		a.embeddedEtcd(t)
		a.life(t)
		a.end(t)
	})
}

func newApart(t *testing.T) *apart {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "made")
	a := &apart{clients: &clients{testCluster: &testCluster{t: t, dir: dir}, dir: t.TempDir(), sent: make(mailbags)}, host: loopbackHost(t), procs: make(map[string]*service)}
	args := []string{"init", "--dir", dir, "--cluster", "apart", "--backends", "2", "--mx", "1", "--proxies", "1", "--etcd", "https://" + a.host + ":2379"}
	for _, n := range []string{"director/d1", "backend/b1", "backend/b2", "mx/mx1", "proxy/p1", "rebalance/r1"} {
		args = append(args, "--host", n+"="+a.host)
	}
	var made struct {
		Nodes []apartNode `json:"nodes"`
	}
	waypostJSON(t, a.dir, &made, args...)
	if a.nodes = made.Nodes; len(a.nodes) != 6 {
		t.Fatalf("init made %+v", a.nodes)
	}
	for _, n := range a.nodes {
		a.edit(t, n)
		if out := waypost(t, a.dir, "", string(n.Role), "--config", n.Config, "--check-config"); out != "ok\n" {
			t.Errorf("--check-config of %s: %s", n.name(), out)
		}
	}
	a.ca = filepath.Join(dir, "nodes", "proxy-p1", "proxy-p1-tls.crt")
	return a
}

// edit does to a file what an operator would: metrics are on 127.0.0.1, where
// other tests are, and trace headers are to have a name that plain knows.
func (a *apart) edit(t *testing.T, n apartNode) {
	t.Helper()
	b, err := os.ReadFile(n.Config)
	if err != nil {
		t.Fatal(err)
	}
	hostname := fmt.Sprintf("hostname = %q", n.ID+".example.test")
	text := strings.NewReplacer(`metrics = "127.0.0.1:`, `metrics = "`+a.host+":", `#hostname = ""`, hostname, `hostname = "mx1.apart"`, hostname).Replace(string(b))
	put(t, filepath.Dir(n.Config), filepath.Base(n.Config), text, 0o644)
}

func (a *apart) etcdDir() string { return filepath.Join(a.testCluster.dir, "nodes", "etcd-etcd1") }

// debianEtcd runs it from the file that init made.
func (a *apart) debianEtcd(t *testing.T) {
	t.Helper()
	path, err := lookTool("etcd")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--config-file", "etcd-etcd1.yml")
	cmd.Dir = a.etcdDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	startService(t, "etcd", a.clients.dir, cmd, false)
}

// embeddedEtcd runs ours with the certificate that init made.
func (a *apart) embeddedEtcd(t *testing.T) {
	t.Helper()
	dir, p := a.etcdDir(), cluster.Peer{Role: cluster.RoleEtcd, ID: "etcd1"}
	file := put(t, dir, "embedded.json", string(mustJSON(t, embedded.EmbedOptions{
		Dir: filepath.Join(dir, "state"), ClientAddr: a.host + ":2379", PeerAddr: a.host + ":2380",
		CAFile: filepath.Join(dir, cluster.AuthorityCert), CertFile: cluster.CertPath(dir, p), KeyFile: cluster.KeyPath(dir, p),
	})), 0o600)
	e := &proc{name: "etcd", spec: "etcd " + file, logPath: filepath.Join(a.clients.dir, "etcd.log")}
	e.start(t)
	t.Cleanup(e.kill)
	e.waitReady(t)
}

// life starts all roles, makes a user, and has it get mail, read and move.
func (a *apart) life(t *testing.T) {
	t.Helper()
	for _, n := range a.nodes {
		a.procs[n.name()] = startService(t, n.name(), a.clients.dir, command(a.clients.dir, string(n.Role), "--config", n.Config), true)
	}
	for _, p := range a.procs {
		p.hears(t, "READY=1")
	}
	data := []string{"--data", a.testCluster.dir}
	do := func(stdin string, args ...string) string {
		t.Helper()
		return waypost(t, a.clients.dir, stdin, append(args, data...)...)
	}
	do("", "domain", "add", "example.test")
	do(password+"\n", "user", "add", "alice@example.test", "--home", "b1", "--quota-bytes", "1GiB")
	a.alice = "alice@example.test"
	server := a.host + ":2525"
	a.deliver(t, server, "before the move")
	a.readAll(t)

	var m admin.Move
	waypostJSON(t, a.clients.dir, &m, append(data, "move", string(a.alice), "--to", "b2")...)
	if m.Phase != director.PhaseDone || m.From != "b1" || m.To != "b2" || m.Messages != 2 {
		t.Errorf("move: %+v", m)
	}
	var u admin.User
	waypostJSON(t, a.clients.dir, &u, append(data, "user", "show", string(a.alice))...)
	if u.Home != "b2" || u.UsedMessages == nil || *u.UsedMessages != 2 {
		t.Errorf("after the move: %+v", u)
	}
	a.readAll(t)
	a.deliver(t, server, "after the move")
	a.readAll(t)
	var s admin.Status
	waypostJSON(t, a.clients.dir, &s, append(data, "status")...)
	if len(s.Nodes) != len(a.nodes) {
		t.Errorf("status knows %d nodes of %d: %+v", len(s.Nodes), len(a.nodes), s.Nodes)
	}
}

// deliver sends a message from outside, and one from the user.
func (a *apart) deliver(t *testing.T, server, what string) {
	t.Helper()
	text := letter("from outside " + what)
	a.swaksOK(t, text, server, "--to", string(a.alice))
	a.sent.add(text, string(a.alice))
	text = letter("submitted " + what)
	ca := filepath.Join(a.testCluster.dir, "nodes", "mx-mx1", "mx-mx1-tls.crt")
	file := put(t, a.clients.dir, "submit.eml", text, 0o600)
	must(t, a.clients.dir, "curl", "-sS", "--ssl-reqd", "--cacert", ca, "-u", string(a.alice)+":"+password,
		"smtp://"+a.host+":1587/client.example.org", "--mail-from", string(a.alice), "--mail-rcpt", string(a.alice), "-T", file)
	a.sent.add(text, string(a.alice))
}

func (a *apart) readAll(t *testing.T) {
	t.Helper()
	n := len(a.sent[string(a.alice)])
	for _, url := range []string{"imaps://" + a.host + ":1993/", "pop3s://" + a.host + ":1995/", "imap://" + a.host + ":1143/", "pop3://" + a.host + ":1110/"} {
		a.sent.same(t, url, string(a.alice), a.curlAll(t, url, "INBOX", a.alice, n, []string{"--ssl-reqd", "--cacert", a.ca}))
	}
	// Without TLS no password is asked for.
	if r := run(t, a.clients.dir, "curl", "-sS", "-u", string(a.alice)+":"+password, "imap://"+a.host+":1143/"); r.code != 67 {
		t.Errorf("a login in plaintext: curl ended with %d: %s", r.code, r.out)
	}
}

// end stops all roles as systemd does.
func (a *apart) end(t *testing.T) {
	t.Helper()
	for i := len(a.nodes) - 1; i >= 0; i-- {
		p := a.procs[a.nodes[i].name()]
		if err := p.stop(); err != nil {
			t.Errorf("%s ended with %v after SIGTERM", p.name, err)
		}
		p.hears(t, "STOPPING=1")
	}
}

// listener is where a node talks to others.
func (a *apart) listener(t *testing.T, name string) string {
	t.Helper()
	n := a.node(t, name)
	c, err := role.Load(n.Config, n.Role)
	if err != nil {
		t.Fatal(err)
	}
	return c.Node.Listen
}

func (a *apart) node(t *testing.T, name string) apartNode {
	t.Helper()
	for _, n := range a.nodes {
		if n.name() == name {
			return n
		}
	}
	t.Fatal(fmt.Errorf("no node %s", name))
	return apartNode{}
}
