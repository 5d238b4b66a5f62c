package embedded

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const patience = 30 * time.Second

func startErr(t *testing.T, o EmbedOptions) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := StartEmbedded(ctx, o)
	if err == nil {
		if cerr := m.Close(); cerr != nil {
			t.Error(cerr)
		}
		return nil
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("the error has more than one line: %q", err)
	}
	return err
}

func TestClearErrors(t *testing.T) {
	dir := t.TempDir()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := ln.Addr().String()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o    EmbedOptions
		want string
	}{
		"port taken":      {EmbedOptions{Dir: filepath.Join(dir, "a"), ClientAddr: taken}, taken},
		"peer port taken": {EmbedOptions{Dir: filepath.Join(dir, "b"), PeerAddr: taken}, taken},
		"not a folder":    {EmbedOptions{Dir: filepath.Join(file, "x")}, "cannot be made"},
		"no folder":       {EmbedOptions{}, "no data folder"},
		"no port":         {EmbedOptions{Dir: dir, ClientAddr: "localhost"}, "want host:port"},
		"no CA":           {EmbedOptions{Dir: dir, CertFile: file}, "needs its key"},
		"no certificate":  {EmbedOptions{Dir: dir, CertFile: file, KeyFile: file, CAFile: file}, file},
	} {
		if err := startErr(t, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
}

func TestRestartAndLock(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := StartEmbedded(ctx, EmbedOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := startErr(t, EmbedOptions{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("the folder is in use: %v", err)
	}
	c := client(t, m.Endpoint(), nil)
	if _, err := c.Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	// Other ports: `--offset` may change between two starts.
	if m, err = StartEmbedded(ctx, EmbedOptions{Dir: dir, ClientAddr: "localhost:0", PeerAddr: "localhost:0"}); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	r, err := client(t, m.Endpoint(), nil).Get(ctx, "k")
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("after the restart: %v, %v", r, err)
	}
}

func client(t *testing.T, endpoint string, cfg *tls.Config) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, TLS: cfg, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestClientCertificates: with certificates nobody comes in without one.
func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile, caFile := certificates(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := StartEmbedded(ctx, EmbedOptions{Dir: filepath.Join(dir, "data"), CertFile: certFile, KeyFile: keyFile, CAFile: caFile})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(caFile)
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		t.Fatal(err)
	}
	if _, err := client(t, m.Endpoint(), &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}).Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool}}).DialContext(ctx, "tcp", strings.TrimPrefix(m.Endpoint(), "https://"))
	if err != nil {
		return // refused at once
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	var alert *net.OpError // with TLS 1.3 the refusal comes with the first read
	if _, err := conn.Read(make([]byte, 1)); !errors.As(err, &alert) || !strings.Contains(err.Error(), "certificate required") {
		t.Fatalf("a client without certificate came in: %v", err)
	}
}

// certificates makes a CA and one certificate for 127.0.0.1.
func certificates(t *testing.T, dir string) (certFile, keyFile, caFile string) {
	t.Helper()
	caKey, ca := certificate(t, nil, nil)
	key, cert := certificate(t, ca, caKey)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", cert.Raw), write("key.pem", "PRIVATE KEY", der), write("ca.pem", "CERTIFICATE", ca.Raw)
}

func certificate(t *testing.T, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, parentKey = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}
