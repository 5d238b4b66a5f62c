package initialize_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"waypost/deploy/initialize"
	"waypost/internal/cluster"
)

var update = flag.Bool("update", false, "write deploy/examples anew")

// examplePlan is the cluster of deploy/examples: one node of each role, each on
// a machine of its own.
func examplePlan(t *testing.T) initialize.Plan {
	t.Helper()
	plan, err := initialize.NewPlan(initialize.Options{
		Dir: "unused", Cluster: "example", Directors: 1, Backends: 1, MX: 1, Proxies: 1, Movers: 1,
		Hosts: map[cluster.Peer]string{
			{Role: cluster.RoleDirector, ID: "d1"}:  "10.0.0.10",
			{Role: cluster.RoleBackend, ID: "b1"}:   "10.0.0.11",
			{Role: cluster.RoleMX, ID: "mx1"}:       "mx1.example.org",
			{Role: cluster.RoleProxy, ID: "p1"}:     "imap.example.org",
			{Role: cluster.RoleRebalance, ID: "r1"}: "10.0.0.12",
		},
		Etcd: []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// The examples are what `waypost init` writes, to the byte. After a change of
// the templates: go test ./deploy/initialize -run Examples -update
func TestExamplesAreWhatInitWrites(t *testing.T) {
	plan := examplePlan(t)
	for _, n := range plan.Nodes {
		want, err := plan.Render(n)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("..", "examples", string(n.Role)+".toml")
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from what init writes", path)
		}
	}
}
