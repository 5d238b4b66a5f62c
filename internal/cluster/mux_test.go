package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestMuxRoles(t *testing.T) {
	tc := newTestCluster(t, "prod")
	m, log := startMux(t, tc.identity(RoleBackend, "b1"), func(m *Mux) {
		m.Handle(ProtoLMTP, []Role{RoleMX}, echo)
		m.Handle(ProtoSession, []Role{RoleProxy}, echo)
		m.Handle(ProtoSFTP, []Role{RoleBackend, RoleRebalance}, echo)
		m.Handle(ProtoControl, nil, echo)
	})
	allowed := map[string][]Role{ProtoLMTP: {RoleMX}, ProtoSession: {RoleProxy}, ProtoSFTP: {RoleBackend, RoleRebalance}, ProtoControl: nil}
	for _, role := range []Role{RoleDirector, RoleBackend, RoleMX, RoleProxy, RoleRebalance, RoleAdmin, RoleEtcd} {
		id := tc.identity(role, "n1")
		for proto, roles := range allowed {
			err := probe(t, id, m.Addr().String(), Peer{RoleBackend, "b1"}, proto)
			if want := rolesAllow(roles, role); (err == nil) != want {
				t.Errorf("%s over %s: %v, want allowed %v", role, proto, err, want)
			}
			if err != nil {
				log.waitFor(t, "peer="+string(role)+"/n1")
			}
		}
	}
	if n := strings.Count(log.String(), "cluster peer refused"); n != 7*4-4 {
		t.Errorf("%d refusals logged, want %d", n, 7*4-4)
	}
}

func TestDialWant(t *testing.T) {
	tc := newTestCluster(t, "prod")
	client := tc.identity(RoleMX, "mx1")
	m, _ := startMux(t, tc.identity(RoleBackend, "b1"), func(m *Mux) { m.Handle(ProtoLMTP, []Role{RoleMX}, echo) })
	tests := []struct {
		want Peer
		ok   bool
	}{
		{Peer{RoleBackend, "b1"}, true},
		{Peer{RoleBackend, ""}, true},
		{Peer{RoleBackend, "b2"}, false},
		{Peer{RoleBackend, "B1"}, false},
		{Peer{RoleDirector, "b1"}, false},
		{Peer{RoleDirector, ""}, false},
	}
	for _, tt := range tests {
		err := probe(t, client, m.Addr().String(), tt.want, ProtoLMTP)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v, want success %v", tt.want, err, tt.ok)
		}
		if !tt.ok && !errors.Is(err, ErrWrongPeer) {
			t.Errorf("%s: %v is not ErrWrongPeer", tt.want, err)
		}
	}
	if err := probe(t, client, m.Addr().String(), Peer{RoleBackend, "b1"}, ProtoSession); err == nil {
		t.Error("a protocol that is not served was dialled")
	}
	if err := probe(t, client, m.Addr().String(), Peer{"", "b1"}, ProtoLMTP); err == nil {
		t.Error("dialled without a role")
	}
}

func TestMuxStrangers(t *testing.T) {
	tc, other, twin := newTestCluster(t, "prod"), newTestCluster(t, "test"), newTestCluster(t, "prod")
	server := tc.identity(RoleBackend, "b1")
	m, log := startMux(t, server, func(m *Mux) { m.Handle(ProtoLMTP, []Role{RoleMX}, echo) })
	addr, mx1, b1 := m.Addr().String(), Peer{RoleMX, "mx1"}, Peer{RoleBackend, "b1"}

	issue := func(a *Authority, age time.Duration) (certPEM, keyPEM []byte) {
		t.Helper()
		a.now = func() time.Time { return time.Now().Add(-age) }
		certPEM, keyPEM, err := a.Issue(mx1, nil, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return certPEM, keyPEM
	}
	twinCert, twinKey := issue(twin.ca, 0)
	otherCert, otherKey := issue(other.ca, 0)
	oldCert, oldKey := issue(tc.ca, 2*time.Hour)
	soonCert, soonKey := issue(tc.ca, -2*time.Hour-backdate)
	goodCert, goodKey := issue(tc.ca, 0)
	tests := []struct {
		name string
		id   *Identity
		ok   bool
	}{
		{"good", rogue(t, server, goodCert, goodKey), true},
		{"authority of the same name", rogue(t, server, twinCert, twinKey), false},
		{"other cluster", rogue(t, server, otherCert, otherKey), false},
		{"expired", rogue(t, server, oldCert, oldKey), false},
		{"not yet valid", rogue(t, server, soonCert, soonKey), false},
	}
	for _, tt := range tests {
		if err := probe(t, tt.id, addr, b1, ProtoLMTP); (err == nil) != tt.ok {
			t.Errorf("%s: %v, want success %v", tt.name, err, tt.ok)
		}
	}
	log.waitFor(t, "cluster handshake failed")

	// A client of the other cluster does not trust this server either.
	if err := probe(t, other.identity(RoleMX, "mx1"), addr, b1, ProtoLMTP); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("client of another cluster: %v", err)
	}
	// Nor does anybody trust a server whose certificate has ended.
	late := rogue(t, tc.identity(RoleMX, "mx2"), goodCert, goodKey)
	late.now = func() time.Time { return time.Now().Add(2 * NodeValidity) }
	if err := probe(t, late, addr, b1, ProtoLMTP); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired server: %v", err)
	}
}

// TestMuxRaw are callers that do not use Dial.
func TestMuxRaw(t *testing.T) {
	tc := newTestCluster(t, "prod")
	server, client := tc.identity(RoleBackend, "b1"), tc.identity(RoleMX, "mx1")
	m, log := startMux(t, server, func(m *Mux) { m.Handle(ProtoLMTP, []Role{RoleMX}, echo) })
	base := client.clientTLS(Peer{RoleBackend, "b1"}, ProtoLMTP)
	tests := []struct {
		name   string
		change func(*tls.Config)
		log    string
	}{
		{"no ALPN", func(c *tls.Config) { c.NextProtos, c.VerifyConnection = nil, nil }, "no protocol was asked for"},
		{"unknown ALPN", func(c *tls.Config) { c.NextProtos, c.VerifyConnection = []string{"h2"}, nil }, "unsupported application protocol"},
		{"no certificate", func(c *tls.Config) { c.Certificates = nil }, "didn't provide a certificate"},
		{"TLS 1.2", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, "unsupported versions"},
	}
	for _, tt := range tests {
		cfg := base.Clone()
		tt.change(cfg)
		if err := rawExchange(t, m.Addr().String(), cfg); err == nil {
			t.Errorf("%s: served", tt.name)
		}
		log.waitFor(t, tt.log)
	}
	if err := rawExchange(t, m.Addr().String(), base); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

func rawExchange(t *testing.T, addr string, cfg *tls.Config) error {
	t.Helper()
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(testTimeout))
	c := tls.Client(raw, cfg)
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

func TestMuxSlowHello(t *testing.T) {
	tc := newTestCluster(t, "prod")
	m, log := startMux(t, tc.identity(RoleBackend, "b1"), func(m *Mux) { m.handshakeTimeout = 50 * time.Millisecond })
	raw, err := net.Dial("tcp", m.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(testTimeout))
	if _, err := raw.Write([]byte{22, 3, 1}); err != nil { // the beginning of a ClientHello
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, raw); errors.Is(err, context.DeadlineExceeded) || errIsTimeout(err) {
		t.Fatal("a silent client was kept")
	}
	log.waitFor(t, "handshake took too long")
}

// One address full of silent callers leaves room for the others.
func TestMuxSilentFlood(t *testing.T) {
	tc := newTestCluster(t, "prod")
	m, log := startMux(t, tc.identity(RoleBackend, "b1"), func(m *Mux) { m.Handle(ProtoLMTP, []Role{RoleMX}, echo) })
	flooder := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for range defaultMaxHandshakes {
		c, err := flooder.DialContext(t.Context(), "tcp", m.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	log.waitFor(t, "too many")
	if err := probe(t, tc.identity(RoleMX, "mx1"), m.Addr().String(), Peer{RoleBackend, "b1"}, ProtoLMTP); err != nil {
		t.Errorf("another address: %v", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.handshakes > freeHandshakes+1 || len(m.handshaking) > 2 {
		t.Errorf("%d handshakes of %v", m.handshakes, m.handshaking)
	}
}

func errIsTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestDialHonoursContext(t *testing.T) {
	tc := newTestCluster(t, "prod")
	ln, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = tc.identity(RoleMX, "mx1").Dial(ctx, ln.Addr().String(), Peer{RoleBackend, "b1"}, ProtoLMTP)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("dial of a silent server: %v", err)
	}
}

func TestMuxMaxConns(t *testing.T) {
	tc := newTestCluster(t, "prod")
	m, log := startMux(t, tc.identity(RoleBackend, "b1"), func(m *Mux) {
		m.SetMaxConns(1)
		m.Handle(ProtoLMTP, []Role{RoleMX}, echo)
	})
	client := tc.identity(RoleMX, "mx1")
	first, err := client.Dial(t.Context(), m.Addr().String(), Peer{RoleBackend, "b1"}, ProtoLMTP)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := first.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(first, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := probe(t, client, m.Addr().String(), Peer{RoleBackend, "b1"}, ProtoLMTP); err == nil {
		t.Fatal("a connection above the bound was served")
	}
	log.waitFor(t, "too many")
}

func TestMuxShutdownWaits(t *testing.T) {
	tc := newTestCluster(t, "prod")
	buf, log := newLog()
	m, err := tc.identity(RoleBackend, "b1").Listen("127.0.0.1:0", log)
	if err != nil {
		t.Fatal(err)
	}
	entered, release := make(chan struct{}), make(chan struct{})
	m.Handle(ProtoControl, []Role{RoleAdmin}, func(ctx context.Context, c *tls.Conn, from Peer) {
		if p, ok := PeerFrom(ctx); !ok || p != from {
			t.Errorf("PeerFrom gives %v %v", p, ok)
		}
		close(entered)
		<-m.Draining()
		<-release
		if ctx.Err() != nil {
			t.Error("the handler's context ended during a graceful shutdown")
		}
		_, _ = c.Write([]byte("done"))
	})
	served := make(chan error, 1)
	go func() { served <- m.Serve(t.Context()) }()
	client := tc.identity(RoleAdmin, "root")
	c, err := client.Dial(t.Context(), m.Addr().String(), Peer{RoleBackend, "b1"}, ProtoControl)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testTimeout))
	<-entered
	halfway, err := net.Dial("tcp", m.Addr().String()) // never says hello
	if err != nil {
		t.Fatal(err)
	}
	defer halfway.Close()

	shut := make(chan error, 1)
	go func() { shut <- m.Shutdown(t.Context()) }()
	if err := <-served; !errors.Is(err, ErrMuxClosed) {
		t.Fatalf("Serve: %v", err)
	}
	<-m.Draining()
	select {
	case err := <-shut:
		t.Fatalf("Shutdown did not wait: %v", err)
	default:
	}
	close(release)
	if err := <-shut; err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "done" {
		t.Fatalf("the handler's last words: %q %v", got, err)
	}
	if _, err := net.Dial("tcp", m.Addr().String()); err == nil {
		t.Fatal("still listening")
	}
	if s := buf.String(); s != "" {
		t.Fatalf("a shutdown logged %s", s)
	}
}

func TestMuxShutdownCuts(t *testing.T) {
	tc := newTestCluster(t, "prod")
	_, log := newLog()
	m, err := tc.identity(RoleBackend, "b1").Listen("127.0.0.1:0", log)
	if err != nil {
		t.Fatal(err)
	}
	entered, left := make(chan struct{}), make(chan struct{})
	m.Handle(ProtoControl, []Role{RoleAdmin}, func(ctx context.Context, c *tls.Conn, _ Peer) {
		defer close(left)
		close(entered)
		_, _ = c.Read(make([]byte, 1)) // a handler that forgot its deadline
		<-ctx.Done()
	})
	serveCtx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- m.Serve(serveCtx) }()
	c, err := tc.identity(RoleAdmin, "root").Dial(t.Context(), m.Addr().String(), Peer{RoleBackend, "b1"}, ProtoControl)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-entered
	stop()
	if err := <-served; err != nil {
		t.Fatalf("Serve after its context ended: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Shutdown: %v", err)
	}
	<-left
}
