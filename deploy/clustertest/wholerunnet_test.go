package clustertest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waypost/deploy/up"
	"waypost/director/etcd/embedded"
	"waypost/internal/cluster"
)

// network is a bridge, with a backend in a network namespace of its own behind it. Taken
// off the bridge, the backend is cut off as by a broken switch: nothing is refused,
// packets go nowhere, and connections live on if it does not last.
type network struct {
	t                 *testing.T
	bridge, wire, far string // interfaces
	space             string // network namespace
	here, there       string // addresses
}

// cutBackend is the backend that has a network of its own.
const cutBackend = "b3"

func newNetwork(t *testing.T) *network {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	clearLeftovers(t)
	n := &network{t: t, bridge: "wpb-" + own(), wire: "wpw-" + own(), far: "wpf-" + own(), space: "wp-" + own()}
	// Part of what is set aside for benchmarks between networks (RFC 2544): nobody's here.
	a, b := 18+rand.IntN(2), rand.IntN(256)
	n.here, n.there = fmt.Sprintf("198.%d.%d.1", a, b), fmt.Sprintf("198.%d.%d.2", a, b)
	if out, err := ip("netns", "add", n.space); err != nil {
		t.Skipf("needs network namespaces: %v: %s", err, out)
	}
	t.Cleanup(func() {
		_, _ = ip("netns", "del", n.space) // the wire goes with it
		_, _ = ip("link", "del", n.bridge)
	})
	for _, args := range []string{
		"link add " + n.bridge + " type bridge", "addr add " + n.here + "/24 dev " + n.bridge, "link set " + n.bridge + " up",
		"link add " + n.wire + " type veth peer name " + n.far + " netns " + n.space,
		"link set " + n.wire + " master " + n.bridge + " up",
		"-n " + n.space + " addr add " + n.there + "/24 dev " + n.far,
		"-n " + n.space + " link set " + n.far + " up", "-n " + n.space + " link set lo up",
	} {
		if out, err := ip(strings.Fields(args)...); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	return n
}

func ip(args ...string) ([]byte, error) {
	path, err := lookTool("ip")
	if err != nil {
		return nil, err
	}
	return exec.Command(path, args...).CombinedOutput()
}

// change has the nodes talk over the bridge, and gives them time: what is measured is the
// pause, not how long a login is tried.
func (n *network) change(c *testCluster, us []up.Unit, etcd *embedded.EmbedOptions) {
	on := func(host, addr string) string {
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			n.t.Fatal(err)
		}
		return net.JoinHostPort(host, port)
	}
	pki := filepath.Join(c.dir, "pki")
	ca, err := cluster.LoadAuthority(pki)
	if err == nil {
		err = ca.IssueTo(pki, cluster.Peer{Role: cluster.RoleEtcd, ID: "e1"}, []string{"127.0.0.1", "localhost", n.here})
	}
	if err != nil {
		n.t.Fatal(err)
	}
	etcd.ClientAddr = on(n.here, etcd.ClientAddr)
	c.networks, c.freeMover = map[string]string{cutBackend: n.space}, true
	for i := range us {
		k, host := &us[i].Config, n.here
		if us[i].Peer.ID == cutBackend {
			host = n.there
		}
		k.Node.Listen, k.Gossip.Listen = on(host, k.Node.Listen), on(host, k.Gossip.Listen)
		k.Directory.Endpoints = []string{"https://" + etcd.ClientAddr}
		k.Gossip.Seeds = []string{on(n.here, k.Gossip.Seeds[0])}
		if k.Proxy != nil {
			// All clients have one address.
			k.Login.MaxPerAddress, k.Proxy.MaxUnauthenticatedPerAddress = 5000, 2000
			k.Proxy.DeadWait = k.Proxy.LoginWait
		}
		if k.MX != nil {
			k.MX.MaxConnectionsPerIP = 1000
		}
		if k.Rebalance != nil {
			// On a machine that is never idle the mover would yield all the time.
			k.Rebalance.Concurrency, k.Rebalance.YieldWait, k.Rebalance.RetryWait = 6, time.Second, 2*time.Second
		}
	}
}

// cut takes the backend off the network; mend puts it back.
func (n *network) cut()  { n.set("nomaster") }
func (n *network) mend() { n.set("master", n.bridge) }

func (n *network) set(args ...string) {
	n.t.Helper()
	if out, err := ip(append([]string{"link", "set", n.wire}, args...)...); err != nil {
		n.t.Errorf("ip link set: %v: %s", err, out)
	}
}
