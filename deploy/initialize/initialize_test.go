package initialize_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"waypost/deploy/clifile"
	"waypost/deploy/initialize"
	"waypost/deploy/role"
	"waypost/internal/cluster"
	"waypost/mx/relay"
)

func trial(t *testing.T) (string, initialize.Plan) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cluster")
	plan, err := initialize.Create(initialize.Options{Dir: dir, Cluster: "trial", Directors: 1, Backends: 3, MX: 2, Proxies: 2, Movers: 1})
	if err != nil {
		t.Fatal(err)
	}
	return dir, plan
}

func TestEveryFilePassesItsRolesCheck(t *testing.T) {
	dir, plan := trial(t)
	if len(plan.Nodes) != 9 {
		t.Errorf("%d nodes, want 9", len(plan.Nodes))
	}
	for _, n := range plan.Nodes {
		c, err := role.Load(initialize.ConfigPath(dir, n), n.Role)
		if err != nil {
			t.Errorf("%s: %v", n.Name(), err)
			continue
		}
		if err := role.Check(c); err != nil {
			t.Errorf("%s: %v", n.Name(), err)
		}
	}
}

// Every default that a file shows must be one that the role takes: all are
// switched on together.
func TestTheDefaultsShownAreTaken(t *testing.T) {
	dir, plan := trial(t)
	setting := regexp.MustCompile(`(?m)^#([a-z0-9_]+ = )`)
	for _, n := range plan.Nodes {
		path := initialize.ConfigPath(dir, n)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, setting.ReplaceAll(text, []byte("$1")), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := role.Load(path, n.Role); err != nil {
			t.Errorf("%s with its defaults written out: %v", n.Name(), err)
		}
	}
}

// A setting that a role has and no file tells of would be known to nobody.
func TestEverySettingIsShown(t *testing.T) {
	dir, plan := trial(t)
	for _, n := range plan.Nodes {
		text, err := os.ReadFile(initialize.ConfigPath(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		sections := []string{"node", "directory", "gossip", string(n.Role)}
		if n.Role == cluster.RoleMX || n.Role == cluster.RoleProxy {
			sections = append(sections, "login")
		}
		if n.Role == cluster.RoleMX {
			sections = append(sections, "mx.relay")
		}
		for _, s := range sections {
			_, body, ok := strings.Cut(string(text), "\n["+s+"]\n")
			if !ok {
				t.Errorf("%s: no section [%s]", n.Name(), s)
				continue
			}
			body, _, _ = strings.Cut(body, "\n[")
			for _, key := range settingsOf(t, s) {
				if !regexp.MustCompile(`(?m)^#?` + key + ` = `).MatchString(body) {
					t.Errorf("%s: [%s] does not show %s", n.Name(), s, key)
				}
			}
		}
	}
}

// settingsOf gives a section's keys, less those that role takes from [node].
func settingsOf(t *testing.T, section string) []string {
	if section == "mx.relay" {
		return keysOf(reflect.TypeFor[relay.Config](), section, nil)
	}
	fromNode := map[string]bool{"id": true, "listen": true, "advertise": true}
	typ := reflect.TypeFor[role.Config]()
	for i := range typ.NumField() {
		if typ.Field(i).Tag.Get("toml") != section {
			continue
		}
		s := typ.Field(i).Type
		if s.Kind() == reflect.Pointer {
			s = s.Elem()
		}
		return keysOf(s, section, fromNode)
	}
	t.Errorf("role.Config has no section %s", section)
	return nil
}

// keysOf are the keys of a section; those that are sections themselves are not.
func keysOf(s reflect.Type, section string, fromNode map[string]bool) (keys []string) {
	for j := range s.NumField() {
		key := s.Field(j).Tag.Get("toml")
		if key == "" || key == "-" || s.Field(j).Type.Kind() == reflect.Struct || section != "node" && section != "gossip" && fromNode[key] && !(section == "mx" && key == "listen") {
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

func TestSecretsAreForTheOwnerOnly(t *testing.T) {
	dir, _ := trial(t)
	found := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".key" {
			return err
		}
		found++
		info, err := d.Info()
		if err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// 9 nodes, 4 client certificates, 9 gossip keys and the first, authority, etcd, admin.
	if found != 26 {
		t.Errorf("%d keys, want 26", found)
	}
}

func TestTheAuthoritysKeyIsInNoNodesFolder(t *testing.T) {
	dir, _ := trial(t)
	found, err := filepath.Glob(filepath.Join(dir, "*", "*", cluster.AuthorityKey))
	if err != nil || len(found) > 0 {
		t.Errorf("found %v, %v", found, err)
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	dir, plan := trial(t)
	before := contents(t, dir)
	_, err := initialize.Create(initialize.Options{Dir: dir, Cluster: "other", Directors: 1})
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Create: %v, want ErrExist", err)
	}
	if _, _, err := initialize.AddNode(dir, plan.Nodes[0].Peer(), ""); !errors.Is(err, fs.ErrExist) {
		t.Errorf("AddNode of one that is there: %v, want ErrExist", err)
	}
	if _, err := initialize.Renew(dir); err != nil {
		t.Errorf("Renew with nothing to do: %v", err)
	}
	if !reflect.DeepEqual(before, contents(t, dir)) {
		t.Error("something was changed")
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAddNode(t *testing.T) {
	dir, _ := trial(t)
	plan, n, err := initialize.AddNode(dir, cluster.Peer{Role: cluster.RoleBackend, ID: "b4"}, "10.0.0.14")
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Nodes) != 10 {
		t.Errorf("%d nodes in the plan, want 10", len(plan.Nodes))
	}
	c, err := role.Load(initialize.ConfigPath(dir, n), cluster.RoleBackend)
	if err != nil {
		t.Fatal(err)
	}
	if err := role.Check(c); err != nil {
		t.Error(err)
	}
	if c.Node.Listen != "10.0.0.14:7400" || c.Backend.Data != "/var/lib/waypost/backend-b4/data" {
		t.Errorf("listens on %s, keeps %s", c.Node.Listen, c.Backend.Data)
	}
	for _, bad := range []cluster.Peer{{Role: cluster.RoleEtcd, ID: "e9"}, {Role: "mail", ID: "b1"}, {Role: cluster.RoleBackend, ID: "../b"}} {
		if _, _, err := initialize.AddNode(dir, bad, ""); err == nil {
			t.Errorf("AddNode took %v", bad)
		}
	}
}

func TestRenewMendsALostCertificate(t *testing.T) {
	dir, plan := trial(t)
	folder := filepath.Dir(initialize.ConfigPath(dir, plan.Nodes[1]))
	path := cluster.CertPath(folder, plan.Nodes[1].Peer())
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	renewed, err := initialize.Renew(dir)
	if err != nil || len(renewed) != 1 || renewed[0] != path {
		t.Fatalf("renewed %v, %v; want %s", renewed, err, path)
	}
	c, err := role.Load(initialize.ConfigPath(dir, plan.Nodes[1]), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := role.Check(c); err != nil {
		t.Error(err)
	}
}

func TestTheCommandsFindTheCluster(t *testing.T) {
	dir, _ := trial(t)
	for _, d := range []string{dir, filepath.Join(dir, "admin")} {
		f, err := clifile.Read(d)
		if err != nil {
			t.Fatal(err)
		}
		if f.Admin != "127.0.0.1:8080" {
			t.Errorf("admin API at %s", f.Admin)
		}
		id, err := cluster.LoadIdentity(f.CA, f.Cert, f.Key)
		if err != nil {
			t.Fatal(err)
		}
		if id.Self().Role != cluster.RoleAdmin || id.Cluster() != "trial" {
			t.Errorf("%s of %s", id.Self(), id.Cluster())
		}
	}
}

// On one machine no two nodes may want the same port.
func TestPortsDoNotClash(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "mail.example.org"} {
		o := initialize.Options{Dir: "unused", Cluster: "c", Directors: 2, Backends: 3, MX: 3, Proxies: 3, Movers: 2, Hosts: map[cluster.Peer]string{}}
		plan, err := initialize.NewPlan(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range plan.Nodes {
			o.Hosts[n.Peer()] = host
		}
		if plan, err = initialize.NewPlan(o); err != nil {
			t.Fatal(err)
		}
		port := regexp.MustCompile(`(?m)^(listen|admin|metrics|submission|imaps?|pop3s?) = \[?"[^"]*:(\d+)"`)
		owner := map[string]string{}
		for _, n := range plan.Nodes {
			text, err := plan.Render(n)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range port.FindAllStringSubmatch(string(text), -1) {
				if owner[m[2]] != "" {
					t.Errorf("%s: port %s of %s is %s's, too", host, m[2], n.Name(), owner[m[2]])
				}
				owner[m[2]] = n.Name()
			}
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	b1 := cluster.Peer{Role: cluster.RoleBackend, ID: "b1"}
	for name, o := range map[string]initialize.Options{
		"no director":      {Backends: 1},
		"too many":         {Directors: 1, Backends: 5000},
		"negative":         {Directors: 1, MX: -1},
		"host of nobody":   {Directors: 1, Hosts: map[cluster.Peer]string{b1: "10.0.0.1"}},
		"host with a port": {Directors: 1, Backends: 1, Hosts: map[cluster.Peer]string{b1: "10.0.0.1:7400"}},
		"host with quotes": {Directors: 1, Backends: 1, Hosts: map[cluster.Peer]string{b1: `a"b`}},
		"etcd no URL":      {Directors: 1, Etcd: []string{"127.0.0.1:2379"}},
		"etcd no port":     {Directors: 1, Etcd: []string{"https://etcd"}},
		"etcd last port":   {Directors: 1, Etcd: []string{"https://etcd:65535"}},
		"etcd twice":       {Directors: 1, Etcd: []string{"https://etcd:2379", "https://etcd:2379"}},
		"etcd among peers": {Directors: 1, Etcd: []string{"https://etcd:2380", "https://etcd:2379"}},
	} {
		o.Cluster = "c"
		if _, err := initialize.NewPlan(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestABadNameLeavesNothingBehind(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	if _, err := initialize.Create(initialize.Options{Dir: dir, Cluster: "Not A Name", Directors: 1}); err == nil {
		t.Fatal("taken")
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		t.Errorf("left %v", entries)
	}
}

func TestEtcdServersOfOneHost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	o := initialize.Options{Dir: dir, Cluster: "c", Directors: 1, Etcd: []string{"https://127.0.0.1:2379", "https://127.0.0.1:2479", "https://etcd.example.test:2379"}}
	if _, err := initialize.Create(o); err != nil {
		t.Fatal(err)
	}
	const members = "initial-cluster: etcd1=https://127.0.0.1:2380,etcd2=https://127.0.0.1:2480,etcd3=https://etcd.example.test:2380\n"
	for i, url := range o.Etcd {
		id := fmt.Sprintf("etcd%d", i+1)
		config, err := os.ReadFile(filepath.Join(dir, "nodes", "etcd-"+id, "etcd-"+id+".yml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"name: " + id + "\n", "advertise-client-urls: " + url + "\n", members} {
			if !strings.Contains(string(config), line) {
				t.Errorf("%s lacks %q:\n%s", id, line, config)
			}
		}
	}
}

func TestPlainEtcd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	plan, err := initialize.Create(initialize.Options{Dir: dir, Cluster: "c", Directors: 1, Etcd: []string{"http://127.0.0.1:2379"}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := role.Load(initialize.ConfigPath(dir, plan.Nodes[0]), "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Directory.TLS != "none" {
		t.Errorf("tls is %q", c.Directory.TLS)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "nodes", "etcd*")); len(found) > 0 {
		t.Errorf("made %v for an etcd without TLS", found)
	}
}
