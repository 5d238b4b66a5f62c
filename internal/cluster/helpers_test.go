package cluster

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const testTimeout = 20 * time.Second

// testCluster is an authority and a folder of certificates.
type testCluster struct {
	t   *testing.T
	dir string
	ca  *Authority
}

func newTestCluster(t *testing.T, name string) *testCluster {
	t.Helper()
	dir := t.TempDir()
	ca, err := CreateAuthority(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return &testCluster{t, dir, ca}
}

func (tc *testCluster) identity(role Role, nodeID string) *Identity {
	tc.t.Helper()
	p := Peer{role, nodeID}
	if err := tc.ca.IssueTo(tc.dir, p, []string{"127.0.0.1", "localhost"}); err != nil {
		tc.t.Fatal(err)
	}
	id, err := LoadIdentity(tc.caFile(), CertPath(tc.dir, p), KeyPath(tc.dir, p))
	if err != nil {
		tc.t.Fatal(err)
	}
	return id
}

func (tc *testCluster) caFile() string { return filepath.Join(tc.dir, AuthorityCert) }

// rogue gives an identity that carries the given files unchecked: what an
// intruder would write for himself.
func rogue(t *testing.T, trust *Identity, certPEM, keyPEM []byte) *Identity {
	t.Helper()
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	id := &Identity{self: trust.self, cluster: trust.cluster, now: time.Now, checked: time.Now().Add(time.Hour)}
	id.current.Store(&credentials{roots: trust.credentials().roots, cert: pair})
	return id
}

// logBuffer collects log lines and lets tests wait for one.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
	grew chan struct{}
}

func newLog() (*logBuffer, *slog.Logger) {
	b := &logBuffer{grew: make(chan struct{}, 1)}
	return b, slog.New(slog.NewTextHandler(b, nil))
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Write(p)
	select {
	case b.grew <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBuffer) waitFor(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(testTimeout)
	for !strings.Contains(b.String(), want) {
		select {
		case <-b.grew:
		case <-deadline:
			t.Fatalf("log never said %q; it has:\n%s", want, b.String())
		}
	}
}

// startMux serves until the test ends.
func startMux(t *testing.T, id *Identity, setup func(*Mux)) (*Mux, *logBuffer) {
	t.Helper()
	buf, log := newLog()
	m, err := id.Listen("127.0.0.1:0", log)
	if err != nil {
		t.Fatal(err)
	}
	setup(m)
	served := make(chan error, 1)
	go func() { served <- m.Serve(t.Context()) }()
	t.Cleanup(func() {
		m.Close()
		<-served
	})
	return m, buf
}

// echo is a handler that sends back what it gets.
func echo(_ context.Context, c *tls.Conn, _ Peer) {
	_ = c.SetDeadline(time.Now().Add(testTimeout))
	_, _ = io.Copy(c, c)
}

// probe dials and exchanges a byte with an echo handler.
func probe(t *testing.T, id *Identity, addr string, want Peer, proto string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	c, err := id.Dial(ctx, addr, want, proto)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testTimeout))
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

func readAll(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
