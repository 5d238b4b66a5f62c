package cluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLoadIdentityErrors(t *testing.T) {
	tc, other := newTestCluster(t, "prod"), newTestCluster(t, "test")
	tc.identity(RoleBackend, "b1")
	other.identity(RoleBackend, "b1")
	b1 := Peer{RoleBackend, "b1"}
	ca, cert, key := tc.caFile(), CertPath(tc.dir, b1), KeyPath(tc.dir, b1)
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("no certificate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	both := filepath.Join(t.TempDir(), "both.crt")
	if err := os.WriteFile(both, append(readAll(t, ca), readAll(t, other.caFile())...), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "missing")
	tests := []struct {
		name          string
		ca, cert, key string
		want          []string
	}{
		{"no ca", missing, cert, key, []string{missing, "ca.crt"}},
		{"no certificate", ca, missing, key, []string{missing, "issue one"}},
		{"no key", ca, cert, missing, []string{missing, "issue a new pair"}},
		{"junk ca", junk, cert, key, []string{junk, "holds no certificate"}},
		{"key as ca", key, cert, key, []string{key, "PRIVATE KEY"}},
		{"node as ca", cert, cert, key, []string{cert, "no waypost cluster authority"}},
		{"two clusters", both, cert, key, []string{both, "two clusters"}},
		{"junk certificate", ca, junk, key, []string{junk, "issue a new pair"}},
		{"pair apart", ca, cert, KeyPath(other.dir, b1), []string{cert, KeyPath(other.dir, b1)}},
		{"other cluster", ca, CertPath(other.dir, b1), KeyPath(other.dir, b1), []string{CertPath(other.dir, b1), ca}},
		{"authority as node", ca, ca, filepath.Join(tc.dir, AuthorityKey), []string{ca}},
	}
	for _, tt := range tests {
		_, err := LoadIdentity(tt.ca, tt.cert, tt.key)
		if err == nil {
			t.Errorf("%s: no error", tt.name)
			continue
		}
		for _, want := range tt.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", tt.name, err, want)
			}
		}
		if strings.HasPrefix(tt.name, "no ") && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v is not fs.ErrNotExist", tt.name, err)
		}
	}
}

func TestIdentityExpired(t *testing.T) {
	tc := newTestCluster(t, "prod")
	id := tc.identity(RoleBackend, "b1")
	later := func() time.Time { return time.Now().Add(2 * NodeValidity) }
	_, err := loadIdentity(id.caFile, id.certFile, id.keyFile, later)
	if err == nil || !strings.Contains(err.Error(), "expired") || !strings.Contains(err.Error(), id.certFile) {
		t.Fatalf("expired certificate: %v", err)
	}
}

func TestIdentityReloads(t *testing.T) {
	tc := newTestCluster(t, "prod")
	b1 := Peer{RoleBackend, "b1"}
	first := tc.identity(RoleBackend, "b1")
	clock := time.Now()
	id, err := loadIdentity(first.caFile, first.certFile, first.keyFile, func() time.Time { return clock })
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string { return id.credentials().cert.Leaf.SerialNumber.String() }
	write := func(certPEM, keyPEM []byte) {
		t.Helper()
		if err := os.WriteFile(id.certFile, certPEM, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(id.keyFile, keyPEM, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	issue := func(p Peer) ([]byte, []byte) {
		t.Helper()
		certPEM, keyPEM, err := tc.ca.Issue(p, nil, NodeValidity)
		if err != nil {
			t.Fatal(err)
		}
		return certPEM, keyPEM
	}
	old := serial()
	write(issue(b1))
	if serial() != old {
		t.Error("files were read again within a minute")
	}
	clock = clock.Add(reloadEvery)
	renewed := serial()
	if renewed == old || id.Health() != nil {
		t.Errorf("renewed files were not taken: %v", id.Health())
	}

	// Only half of a pair, then another node's: the good one stays.
	certPEM, _ := issue(b1)
	if err := os.WriteFile(id.certFile, certPEM, 0o644); err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(reloadEvery)
	if serial() != renewed || id.Health() == nil {
		t.Errorf("half a pair: health %v", id.Health())
	}
	write(issue(Peer{RoleAdmin, "root"}))
	clock = clock.Add(reloadEvery)
	if serial() != renewed || id.Self() != b1 || id.Health() == nil {
		t.Errorf("another node's pair: health %v", id.Health())
	}

	write(issue(b1))
	clock = clock.Add(reloadEvery)
	if serial() == renewed || id.Health() != nil {
		t.Errorf("mended pair was not taken: %v", id.Health())
	}
	clock = id.Expires().Add(-time.Hour)
	if id.Health() == nil {
		t.Error("healthy an hour before its end")
	}
}

// TestAuthorityRollover replaces the authority of running nodes.
func TestAuthorityRollover(t *testing.T) {
	tc, next := newTestCluster(t, "prod"), newTestCluster(t, "prod")
	server, client := tc.identity(RoleBackend, "b1"), tc.identity(RoleMX, "mx1")
	m, _ := startMux(t, server, func(m *Mux) { m.Handle(ProtoLMTP, []Role{RoleMX}, echo) })
	newClient := next.identity(RoleMX, "mx1")
	if probe(t, newClient, m.Addr().String(), Peer{RoleBackend, ""}, ProtoLMTP) == nil {
		t.Fatal("a strange authority was trusted")
	}
	bundle := append(readAll(t, tc.caFile()), readAll(t, next.caFile())...)
	if err := os.WriteFile(tc.caFile(), bundle, 0o644); err != nil {
		t.Fatal(err)
	}
	server.mu.Lock()
	server.checked = time.Time{}
	server.mu.Unlock()
	if err := probe(t, client, m.Addr().String(), Peer{RoleBackend, "b1"}, ProtoLMTP); err != nil {
		t.Fatalf("old client: %v", err)
	}
	// The new client trusts only the new authority; so let it trust both.
	newClient.current.Store(&credentials{roots: server.credentials().roots, cert: newClient.credentials().cert, stamp: newClient.credentials().stamp})
	if err := probe(t, newClient, m.Addr().String(), Peer{RoleBackend, "b1"}, ProtoLMTP); err != nil {
		t.Fatalf("new client: %v", err)
	}
}
