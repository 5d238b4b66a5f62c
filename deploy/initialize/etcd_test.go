package initialize_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"waypost/deploy/initialize"
	"waypost/internal/cluster"
)

// The configuration that init writes for etcd makes Debian's etcd serve, for
// holders of a certificate of the cluster and for nobody else.
func TestEtcdServesTheClusterOnly(t *testing.T) {
	program, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("etcd is missing: apt-get install etcd-server")
	}
	port := freePair(t)
	dir := filepath.Join(t.TempDir(), "cluster")
	endpoint := fmt.Sprintf("https://127.0.0.1:%d", port)
	plan, err := initialize.Create(initialize.Options{Dir: dir, Cluster: "c", Directors: 1, Etcd: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	startEtcd(t, program, filepath.Join(dir, "nodes", "etcd-etcd1"))

	folder, peer := filepath.Dir(initialize.ConfigPath(dir, plan.Nodes[0])), plan.Nodes[0].Peer()
	id, err := cluster.LoadIdentity(filepath.Join(folder, cluster.AuthorityCert), cluster.CertPath(folder, peer), cluster.KeyPath(folder, peer))
	if err != nil {
		t.Fatal(err)
	}
	member := client(id.TLSForEtcd())
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for err = get(ctx, member, endpoint+"/health"); err != nil; err = get(ctx, member, endpoint+"/health") {
		select {
		case <-ctx.Done():
			t.Fatalf("etcd does not serve: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	ca, err := os.ReadFile(filepath.Join(folder, cluster.AuthorityCert))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	if err := get(ctx, client(&tls.Config{RootCAs: roots}), endpoint+"/health"); err == nil {
		t.Error("etcd lets in a client without a certificate")
	}
}

func client(c *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}, Timeout: 5 * time.Second}
}

func get(ctx context.Context, c *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return err
}

// freePair finds two free ports, one after the other: etcd's.
func freePair(t *testing.T) int {
	t.Helper()
	for range 100 {
		a, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := a.Addr().(*net.TCPAddr).Port
		b, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		a.Close()
		if err == nil {
			b.Close()
			return port
		}
	}
	t.Fatal("no two free ports")
	return 0
}

func startEtcd(t *testing.T, program, dir string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(program, "--config-file", "etcd-etcd1.yml")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("etcd said:\n%s", log.String())
		}
	})
}
