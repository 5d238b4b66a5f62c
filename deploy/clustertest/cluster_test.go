package clustertest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"waypost/deploy/clifile"
	"waypost/deploy/up"
	"waypost/director"
	"waypost/director/admin"
	"waypost/director/etcd/embedded"
	"waypost/internal/cluster"
)

const patience = 60 * time.Second

// testCluster is a cluster of processes on loopback.
type testCluster struct {
	t      *testing.T
	dir    string
	offset int
	procs  map[string]*proc
	order  []string
	admin  *admin.Client
	ca     string // that clients trust
	// networks are the network namespaces of those processes that have one.
	networks map[string]string
	// freeMover has the mover not ask at each point.
	freeMover bool
	// etcdFiles are the configurations of Debian's etcd servers, where those are to run.
	etcdFiles []string
}

// proc is one process, which may be killed and started again.
type proc struct {
	name, spec string
	logPath    string
	// network is the network namespace it runs in; empty: the test's.
	network string
	// free is a mover that does not ask at each point.
	free bool

	mu    sync.Mutex
	cmd   *exec.Cmd
	in    io.WriteCloser
	ended chan struct{}
	ready chan struct{}
	// at gets the points of a mover.
	at chan string
}

// newCluster plans a cluster in a fresh folder and starts it.
func newCluster(t *testing.T) *testCluster {
	t.Helper()
	return newClusterWith(t, nil)
}

// newClusterWith lets a test change the plan before anything is started.
func newClusterWith(t *testing.T, change func(*testCluster, []up.Unit, *embedded.EmbedOptions)) *testCluster {
	t.Helper()
	c := &testCluster{t: t, dir: t.TempDir(), procs: make(map[string]*proc)}
	c.offset = freeOffset(t)
	us, etcd, err := up.Plan(c.dir, c.offset)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range us {
		switch {
		case u.Config.Backend != nil:
			u.Config.Backend.OwnerGrace = 4 * time.Second
		case u.Config.Rebalance != nil:
			u.Config.Rebalance.LeaseTTL = 2 * time.Second
			u.Config.Rebalance.Concurrency = 4
		case u.Config.MX != nil:
			u.Config.MX.SpoolMinBackoff = time.Second
			u.Config.MX.SpoolMaxBackoff = 5 * time.Second
		}
	}
	if change != nil {
		change(c, us, &etcd)
	}
	c.add("e1", "etcd", mustJSON(t, etcd))
	for i, file := range c.etcdFiles {
		name := fmt.Sprintf("e%d", i+1)
		if i > 0 {
			c.add(name, "etcd", nil)
		}
		c.procs[name].spec = kindDebianEtcd + " " + file
	}
	for _, u := range us {
		var b strings.Builder
		if err := toml.NewEncoder(&b).Encode(u.Config); err != nil {
			t.Fatal(err)
		}
		c.add(u.Peer.ID, string(u.Peer.Role), []byte(b.String()))
	}
	for n, net := range c.networks {
		c.procs[n].network = net
	}
	c.procs["r1"].free = c.freeMover
	c.ca = filepath.Join(c.dir, "tls", cluster.AuthorityCert)
	t.Cleanup(c.stop)
	for _, n := range c.order {
		c.procs[n].start(t)
	}
	for _, n := range c.order {
		c.procs[n].waitReady(t)
	}
	c.admin = c.adminClient()
	return c
}

// offsets are the shifts that tests of this process have, several at once. A port that is
// free may be that of a process which another test has just killed, or is about to start.
var offsets = struct {
	mu    sync.Mutex
	taken map[int]bool
}{taken: make(map[int]bool)}

// reserve takes a shift for the test, unless the ports of another are among its own.
func reserve(t *testing.T, off int) bool {
	offsets.mu.Lock()
	defer offsets.mu.Unlock()
	for other := range offsets.taken {
		if d := off - other; d%100 == 0 && max(d, -d) <= 200 { // 17000, 17100 and 17200 and on
			return false
		}
	}
	offsets.taken[off] = true
	t.Cleanup(func() {
		offsets.mu.Lock()
		defer offsets.mu.Unlock()
		delete(offsets.taken, off)
	})
	return true
}

// freeOffset finds a shift at which the cluster's ports are free. They lie
// below the range that the system hands out by itself.
func freeOffset(t *testing.T) int {
	t.Helper()
	ports := []int{1110, 1111, 1143, 1144, 1587, 1993, 1995, 2525, 2526, 8080, 12379, 12380}
	for n := range 9 { // the roles: node listener, gossip, metrics
		ports = append(ports, 17000+n, 17100+n, 17200+n)
	}
	for range 50 {
		off := 10 * rand.IntN(1200)
		free := true
		for _, p := range ports {
			ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(p+off))
			if err != nil {
				free = false
				break
			}
			ln.Close()
		}
		if free && reserve(t, off) {
			return off
		}
	}
	t.Fatal("no free ports")
	return 0
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (c *testCluster) add(name, kind string, file []byte) {
	path := filepath.Join(c.dir, name+".conf")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.procs[name] = &proc{name: name, spec: kind + " " + path, logPath: filepath.Join(c.dir, name+".log")}
	c.order = append(c.order, name)
}

func (c *testCluster) addr(port int) string { return "127.0.0.1:" + strconv.Itoa(port+c.offset) }

func (c *testCluster) adminClient() *admin.Client {
	f, err := clifile.Read(c.dir)
	if err != nil {
		c.t.Fatal(err)
	}
	id, err := cluster.LoadIdentity(f.CA, f.Cert, f.Key)
	if err != nil {
		c.t.Fatal(err)
	}
	return admin.NewClient(f.Admin, id)
}

// stop ends all processes, and shows their logs if the test failed.
func (c *testCluster) stop() {
	for i := len(c.order) - 1; i >= 0; i-- {
		c.procs[c.order[i]].signal(syscall.SIGTERM)
	}
	for _, n := range c.order {
		c.procs[n].waitEnd(10 * time.Second)
	}
	if !c.t.Failed() {
		return
	}
	keep := os.Getenv("WAYPOST_KEEP")
	for _, n := range c.order {
		b, _ := os.ReadFile(c.procs[n].logPath)
		if keep != "" {
			_ = os.WriteFile(filepath.Join(keep, n+".log"), b, 0o600)
		}
		if len(b) > 3000 {
			b = b[len(b)-3000:]
		}
		c.t.Logf("--- the end of %s's log\n%s", n, b)
	}
}

func (p *proc) start(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(os.Args[0])
	if p.network != "" {
		cmd = exec.Command("nsenter", "--net=/run/netns/"+p.network, os.Args[0])
	}
	cmd.Env = append(os.Environ(), envChild+"="+p.spec, "GORACE=halt_on_error=1")
	if p.free {
		cmd.Env = append(cmd.Env, envFree+"=1")
	}
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.cmd, p.ended, p.ready, p.at = cmd, make(chan struct{}), make(chan struct{}), make(chan string, 64)
	go p.read(cmd, out, p.ready, p.at, p.ended)
}

func (p *proc) read(cmd *exec.Cmd, out io.Reader, ready chan struct{}, at chan string, ended chan struct{}) {
	defer close(ended)
	defer close(at)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		switch point, isPoint := strings.CutPrefix(lines.Text(), "at "); {
		case isPoint:
			at <- point
		case lines.Text() == "ready":
			close(ready)
		}
	}
	_ = cmd.Wait() // how it ended shows in its log
}

// goOn lets a mover that waits at a point go on.
func (p *proc) goOn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = io.WriteString(p.in, "\n") // a dead mover needs none
}

func (p *proc) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(sig) // it may have ended
	}
}

func (p *proc) waitEnd(d time.Duration) {
	p.mu.Lock()
	ended, cmd := p.ended, p.cmd
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	select {
	case <-ended:
	case <-time.After(d):
		_ = cmd.Process.Kill()
		<-ended
	}
}

// kill is kill -9.
func (p *proc) kill() {
	p.signal(syscall.SIGKILL)
	p.waitEnd(10 * time.Second)
}

func (p *proc) waitReady(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	ready, ended := p.ready, p.ended
	p.mu.Unlock()
	select {
	case <-ready:
	case <-ended:
		t.Fatalf("%s ended before it was ready", p.name)
	case <-time.After(patience):
		t.Fatalf("%s is not ready", p.name)
	}
}

func (c *testCluster) restart(name string) {
	c.t.Helper()
	c.procs[name].kill()
	c.procs[name].start(c.t)
}

// eventually polls a condition that nothing announces, until a deadline.
func eventually(t *testing.T, what string, within time.Duration, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, within, err)
		}
		<-tick.C
	}
}

// withUsers makes the domain and n users, u0@example.test and on, with a hash
// that costs nothing to check.
func (c *testCluster) withUsers(n int) []director.User {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	eventually(c.t, "domain", patience, func() error {
		_, err := c.admin.CreateDomain(ctx, "example.test")
		if errors.Is(err, director.ErrExists) {
			return nil
		}
		return err
	})
	users := make([]director.User, n)
	for i := range users {
		users[i] = director.User(fmt.Sprintf("u%d@example.test", i))
		eventually(c.t, "user", patience, func() error {
			_, err := c.admin.CreateUser(ctx, admin.CreateUser{User: string(users[i]), PasswordHash: passwordHash})
			if errors.Is(err, director.ErrExists) {
				return nil
			}
			return err
		})
	}
	return users
}

const (
	password     = "secret"
	passwordHash = "{SHA256}K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols="
)
