package initialize_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"waypost/deploy/initialize"
	"waypost/director"
	"waypost/director/etcd"
	"waypost/internal/cluster"
)

// walledEtcd is Debian's etcd, of a cluster that init made.
type walledEtcd struct {
	t        *testing.T
	dir      string
	port     int
	endpoint string
}

func startWalled(t *testing.T) *walledEtcd {
	t.Helper()
	program, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("etcd is missing: apt-get install etcd-server")
	}
	if _, err := exec.LookPath("etcdctl"); err != nil {
		t.Skip("etcdctl is missing: apt-get install etcd-client")
	}
	w := &walledEtcd{t: t, dir: filepath.Join(t.TempDir(), "cluster"), port: freePair(t)}
	w.endpoint = fmt.Sprintf("https://127.0.0.1:%d", w.port)
	o := initialize.Options{Dir: w.dir, Cluster: "c", Directors: 1, Backends: 1, MX: 1, Proxies: 1, Movers: 1, Etcd: []string{w.endpoint}}
	if _, err := initialize.Create(o); err != nil {
		t.Fatal(err)
	}
	startEtcd(t, program, filepath.Join(w.dir, "nodes", "etcd-etcd1"))
	return w
}

func (w *walledEtcd) identity(folder string, p cluster.Peer) *cluster.Identity {
	w.t.Helper()
	id, err := cluster.LoadIdentity(filepath.Join(folder, cluster.AuthorityCert), cluster.CertPath(folder, p), cluster.KeyPath(folder, p))
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// node is the identity of a node that init made.
func (w *walledEtcd) node(r cluster.Role, id string) *cluster.Identity {
	return w.identity(filepath.Join(w.dir, "nodes", string(r)+"-"+id), cluster.Peer{Role: r, ID: id})
}

func (w *walledEtcd) store(r cluster.Role, id string) *etcd.Store {
	w.t.Helper()
	s, err := etcd.Open(w.t.Context(), etcd.Options{Endpoints: []string{w.endpoint}, TLS: w.node(r, id).TLSForEtcd()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = s.Close() })
	return s
}

func (w *walledEtcd) ready(ctx context.Context) {
	w.t.Helper()
	c := client(w.node(cluster.RoleDirector, "d1").TLSForEtcd())
	for err := get(ctx, c, w.endpoint+"/health"); err != nil; err = get(ctx, c, w.endpoint+"/health") {
		select {
		case <-ctx.Done():
			w.t.Fatalf("etcd does not serve: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (w *walledEtcd) auth(ctx context.Context, nodes ...string) {
	w.t.Helper()
	script := filepath.Join(w.dir, "nodes", "etcd-etcd1", "auth.sh")
	out, err := exec.CommandContext(ctx, "sh", append([]string{script}, nodes...)...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("auth.sh %v: %v\n%s", nodes, err, out)
	}
}

func write(ctx context.Context, s *etcd.Store, key string, lease director.LeaseID) error {
	_, done, err := s.Commit(ctx, nil, []director.Op{{Key: key, Value: []byte("v"), Lease: lease}})
	if err == nil && !done {
		err = errors.New("not done")
	}
	return err
}

// After auth.sh the roles of the nodes are enforced by etcd, and everything that
// a tier does with the directory works.
func TestAccessControl(t *testing.T) {
	w := startWalled(t)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	w.ready(ctx)
	proxy := w.store(cluster.RoleProxy, "p1")
	if err := write(ctx, proxy, "open", 0); err != nil {
		t.Fatalf("before auth.sh: %v", err)
	}
	w.auth(ctx)
	w.auth(ctx) // again does no harm
	d := w.store(cluster.RoleDirector, "d1")
	lease, err := d.Grant(ctx, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := write(ctx, d, "leased", lease.ID()); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		role   cluster.Role
		id     string
		writes bool
	}{
		{cluster.RoleDirector, "d1", true}, {cluster.RoleBackend, "b1", true}, {cluster.RoleRebalance, "r1", true},
		{cluster.RoleProxy, "p1", false}, {cluster.RoleMX, "mx1", false},
	} {
		s := w.store(r.role, r.id)
		if err := write(ctx, s, "key", 0); (err == nil) != r.writes {
			t.Errorf("%s/%s writes: %v, want %v", r.role, r.id, err, r.writes)
		}
		e, err := s.Get(ctx, "leased")
		if err != nil || string(e.Value) != "v" {
			t.Errorf("%s/%s reads %+v, %v", r.role, r.id, e, err)
		}
		for b := range s.Watch(ctx, "leased", e.Rev-1) {
			if b.Err != nil {
				t.Errorf("%s/%s watches: %v", r.role, r.id, b.Err)
			}
			if b.Err != nil || len(b.Changes) == 1 {
				break
			}
		}
	}
	if err := lease.Revoke(ctx); err != nil {
		t.Error(err)
	}
	if e, err := proxy.Get(ctx, "leased"); err != nil || e.Rev != 0 {
		t.Errorf("after its lease: %+v, %v", e, err)
	}
	b4 := cluster.Peer{Role: cluster.RoleBackend, ID: "b4"}
	if _, _, err := initialize.AddNode(w.dir, b4, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := w.store(b4.Role, b4.ID).Get(ctx, "key"); err == nil {
		t.Error("a node that is nobody's reads")
	}
	w.auth(ctx, b4.String())
	if err := write(ctx, w.store(b4.Role, b4.ID), "key", 0); err != nil {
		t.Errorf("the node that was added: %v", err)
	}
}

// At the peer port etcd servers alone are let in.
func TestPeerPortIsForServers(t *testing.T) {
	w := startWalled(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	w.ready(ctx)
	url := fmt.Sprintf("https://127.0.0.1:%d/version", w.port+1)
	if err := get(ctx, client(w.node(cluster.RoleEtcd, "etcd1").TLSForEtcd()), url); err != nil {
		t.Errorf("an etcd server: %v", err)
	}
	for _, r := range []struct {
		role cluster.Role
		id   string
	}{{cluster.RoleDirector, "d1"}, {cluster.RoleBackend, "b1"}, {cluster.RoleProxy, "p1"}} {
		if err := get(ctx, client(w.node(r.role, r.id).TLSForEtcd()), url); err == nil {
			t.Errorf("%s/%s is let in", r.role, r.id)
		}
	}
	admin := w.identity(filepath.Join(w.dir, "admin"), cluster.Peer{Role: cluster.RoleAdmin, ID: initialize.AdminID})
	if err := get(ctx, client(admin.TLSForEtcd()), url); err == nil {
		t.Error("the operator is let in")
	}
}

func TestScriptIsForTheOwnerToRun(t *testing.T) {
	dir, _ := trial(t)
	info, err := os.Stat(filepath.Join(dir, "nodes", "etcd-etcd1", "auth.sh"))
	if err != nil || info.Mode().Perm()&0o100 == 0 {
		t.Errorf("%v, %v", info, err)
	}
}
