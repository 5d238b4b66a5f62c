package cluster

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCreateAuthorityRefusesToOverwrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "pki")
	if _, err := CreateAuthority(dir, "prod"); err != nil {
		t.Fatal(err)
	}
	before := readAll(t, filepath.Join(dir, AuthorityKey))
	if _, err := CreateAuthority(dir, "prod"); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("second CreateAuthority: %v", err)
	}
	if !bytes.Equal(before, readAll(t, filepath.Join(dir, AuthorityKey))) {
		t.Fatal("key was replaced")
	}
	// Half of an authority is not overwritten either.
	if err := os.Remove(filepath.Join(dir, AuthorityCert)); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateAuthority(dir, "prod"); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("CreateAuthority beside a key: %v", err)
	}
}

func TestAuthorityFiles(t *testing.T) {
	tc := newTestCluster(t, "prod")
	for name, want := range map[string]fs.FileMode{AuthorityCert: 0o644, AuthorityKey: 0o600} {
		info, err := os.Stat(filepath.Join(tc.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode().Perm(), want)
		}
	}
	a, err := LoadAuthority(tc.dir)
	if err != nil {
		t.Fatal(err)
	}
	if a.Cluster() != "prod" || !bytes.Equal(a.CertPEM(), tc.ca.CertPEM()) {
		t.Fatal("loaded authority differs from the created one")
	}
	key, ok := a.key.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		t.Fatalf("authority key is %T", a.key)
	}
}

func TestBadNames(t *testing.T) {
	for _, name := range []string{"", "Prod", "a/b", "a b", "-a", ".a", "a:1", "a@b", strings.Repeat("a", 64), "ä"} {
		if _, err := CreateAuthority(t.TempDir(), name); err == nil {
			t.Errorf("cluster name %q was taken", name)
		}
	}
	tc := newTestCluster(t, "prod")
	for _, p := range []Peer{{}, {RoleBackend, ""}, {"root", "b1"}, {RoleBackend, "../b1"}, {RoleBackend, "b1/x"}, {RoleBackend, "b%31"}} {
		if _, _, err := tc.ca.Issue(p, nil, time.Hour); err == nil {
			t.Errorf("certificate issued for %+v", p)
		}
		if err := tc.ca.IssueTo(tc.dir, p, nil); err == nil {
			t.Errorf("IssueTo wrote files for %+v", p)
		}
	}
	if _, _, err := tc.ca.Issue(Peer{RoleMX, "mx1"}, nil, 0); err == nil {
		t.Error("certificate issued with no validity")
	}
}

func TestLoadAuthorityErrors(t *testing.T) {
	if _, err := LoadAuthority(t.TempDir()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "waypost init") {
		t.Errorf("no authority: %v", err)
	}
	tc, other := newTestCluster(t, "prod"), newTestCluster(t, "prod")
	key := filepath.Join(tc.dir, AuthorityKey)
	if err := os.WriteFile(key, readAll(t, filepath.Join(other.dir, AuthorityKey)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAuthority(tc.dir); err == nil || !strings.Contains(err.Error(), key) {
		t.Errorf("foreign key: %v", err)
	}
}

func TestIssuedCertificate(t *testing.T) {
	tc := newTestCluster(t, "prod")
	certPEM, keyPEM, err := tc.ca.Issue(Peer{RoleEtcd, "e1"}, []string{"127.0.0.1", "::1", "etcd.example.test", ""}, 100*365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	leaf := pair.Leaf
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "waypost://prod/etcd/e1" {
		t.Errorf("URIs %v", leaf.URIs)
	}
	for _, host := range []string{"127.0.0.1", "::1", "etcd.example.test"} {
		if err := leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if leaf.IsCA || !leaf.NotAfter.Equal(tc.ca.cert.NotAfter) {
		t.Errorf("IsCA %v, NotAfter %v", leaf.IsCA, leaf.NotAfter)
	}
	roots := x509.NewCertPool()
	roots.AddCert(tc.ca.cert)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := verifyPeer(leaf, roots, "prod", usage, time.Now()); err != nil {
			t.Error(err)
		}
	}
	if _, err := verifyPeer(leaf, roots, "test", x509.ExtKeyUsageClientAuth, time.Now()); !errors.Is(err, errCluster) {
		t.Errorf("name of another cluster: %v", err)
	}
}

func TestIssueToKeepsAndReplaces(t *testing.T) {
	tc := newTestCluster(t, "prod")
	p := Peer{RoleBackend, "b1"}
	start := time.Now()
	clock := start
	tc.ca.now = func() time.Time { return clock }
	issue := func(hosts ...string) string {
		t.Helper()
		if err := tc.ca.IssueTo(tc.dir, p, hosts); err != nil {
			t.Fatal(err)
		}
		if _, err := tls.LoadX509KeyPair(CertPath(tc.dir, p), KeyPath(tc.dir, p)); err != nil {
			t.Fatal(err)
		}
		return string(readAll(t, CertPath(tc.dir, p)))
	}
	first := issue("127.0.0.1")
	if info, err := os.Stat(KeyPath(tc.dir, p)); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v %v", info, err)
	}
	if issue("127.0.0.1") != first || issue() != first {
		t.Error("a good certificate was replaced")
	}
	second := issue("127.0.0.1", "b1.example.test")
	if second == first {
		t.Error("a new host made no new certificate")
	}
	clock = start.Add(NodeValidity - RenewBefore - time.Hour)
	if issue("127.0.0.1") != second {
		t.Error("replaced too early")
	}
	clock = start.Add(NodeValidity - RenewBefore + time.Hour)
	third := issue("127.0.0.1")
	if third == second {
		t.Error("not renewed near its end")
	}
	// A key that does not belong to the certificate, as after a crash.
	_, otherKey, err := tc.ca.Issue(p, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(KeyPath(tc.dir, p), otherKey, 0o600); err != nil {
		t.Fatal(err)
	}
	fourth := issue("127.0.0.1")
	if fourth == third {
		t.Error("a broken pair was kept")
	}
	// A pair of another authority.
	other := newTestCluster(t, "prod")
	if err := other.ca.IssueTo(tc.dir, p, nil); err != nil {
		t.Fatal(err)
	}
	if got := string(readAll(t, CertPath(tc.dir, p))); got == fourth {
		t.Error("a pair of another authority was kept")
	}
}

// TestPeerOf looks at names that only somebody with the authority's key could
// have signed; they must not be read as another peer's.
func TestPeerOf(t *testing.T) {
	tests := []struct {
		uris []string
		ok   bool
	}{
		{[]string{"waypost://prod/backend/b1"}, true},
		{[]string{"https://example.test/", "waypost://prod/backend/b1"}, true},
		{nil, false},
		{[]string{"https://prod/backend/b1"}, false},
		{[]string{"waypost://prod/backend/b1", "waypost://prod/admin/root"}, false},
		{[]string{"waypost://prod/backend/b1/"}, false},
		{[]string{"waypost://prod//backend/b1"}, false},
		{[]string{"waypost://prod/backend/"}, false},
		{[]string{"waypost://prod/backend"}, false},
		{[]string{"waypost://prod/backend/b1?x"}, false},
		{[]string{"waypost://prod/backend/b1#x"}, false},
		{[]string{"waypost://prod:1/backend/b1"}, false},
		{[]string{"waypost://u@prod/backend/b1"}, false},
		{[]string{"waypost://PROD/backend/b1"}, false},
		{[]string{"waypost://prod/backend/%62%31"}, false},
		{[]string{"waypost://prod/owner/b1"}, false},
		{[]string{"waypost:prod/backend/b1"}, false},
	}
	for _, tt := range tests {
		cert := &x509.Certificate{}
		for _, s := range tt.uris {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			cert.URIs = append(cert.URIs, u)
		}
		cluster, p, err := peerOf(cert)
		if ok := err == nil; ok != tt.ok || ok && (cluster != "prod" || p != Peer{RoleBackend, "b1"}) {
			t.Errorf("%q: %q %v %v", tt.uris, cluster, p, err)
		}
	}
}
