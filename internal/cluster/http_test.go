package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

func whoAmI(w http.ResponseWriter, r *http.Request) {
	p, ok := PeerFrom(r.Context())
	fmt.Fprintf(w, "%s %v", p, ok)
}

func get(t *testing.T, c *http.Client, url string) (int, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func TestHTTPPeer(t *testing.T) {
	tc := newTestCluster(t, "prod")
	m, _ := startMux(t, tc.identity(RoleBackend, "b1"), func(m *Mux) {
		m.HandleHTTP(ProtoControl, []Role{RoleRebalance, RoleAdmin}, http.HandlerFunc(whoAmI))
		m.Handle(ProtoLMTP, []Role{RoleMX}, echo)
	})
	url := "https://" + m.Addr().String() + "/look"
	b1 := Peer{RoleBackend, "b1"}
	mover := tc.identity(RoleRebalance, "r1").HTTPClient(b1, ProtoControl)
	defer mover.CloseIdleConnections()
	for range 2 {
		if code, body, err := get(t, mover, url); err != nil || code != 200 || body != "rebalance/r1 true" {
			t.Fatalf("%d %q %v", code, body, err)
		}
	}
	m.mu.Lock()
	conns := m.established
	m.mu.Unlock()
	if conns != 1 {
		t.Errorf("%d connections for two requests", conns)
	}
	if _, _, err := get(t, mover, "http://"+m.Addr().String()+"/look"); err == nil {
		t.Error("a request over plain http was sent")
	}
	if _, _, err := get(t, tc.identity(RoleMX, "mx1").HTTPClient(b1, ProtoControl), url); err == nil {
		t.Error("mx was let in to control")
	}
	wrong := tc.identity(RoleRebalance, "r2").HTTPClient(Peer{RoleBackend, "b2"}, ProtoControl)
	if _, _, err := get(t, wrong, url); !errors.Is(err, ErrWrongPeer) {
		t.Errorf("b1 answered for b2: %v", err)
	}
}

func TestHTTPShutdown(t *testing.T) {
	tc := newTestCluster(t, "prod")
	_, log := newLog()
	m, err := tc.identity(RoleBackend, "b1").Listen("127.0.0.1:0", log)
	if err != nil {
		t.Fatal(err)
	}
	entered, release := make(chan struct{}), make(chan struct{})
	var served atomic.Bool
	m.HandleHTTP(ProtoControl, []Role{RoleAdmin}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		served.Store(true)
		fmt.Fprint(w, "late")
	}))
	done := make(chan error, 1)
	go func() { done <- m.Serve(t.Context()) }()
	client := tc.identity(RoleAdmin, "root").HTTPClient(Peer{RoleBackend, ""}, ProtoControl)
	body := make(chan string, 1)
	go func() {
		_, s, err := get(t, client, "https://"+m.Addr().String()+"/")
		body <- fmt.Sprint(s, err)
	}()
	<-entered
	shut := make(chan error, 1)
	go func() { shut <- m.Shutdown(t.Context()) }()
	<-done
	close(release)
	if got := <-body; got != "late<nil>" {
		t.Fatalf("response during shutdown: %s", got)
	}
	if err := <-shut; err != nil || !served.Load() {
		t.Fatalf("Shutdown: %v, served %v", err, served.Load())
	}
}

func TestServerTLS(t *testing.T) {
	tc := newTestCluster(t, "prod")
	director := tc.identity(RoleDirector, "d1")
	srv := httptest.NewUnstartedServer(director.WithPeer(http.HandlerFunc(whoAmI)))
	_, log := newLog()
	srv.Config.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	srv.TLS = director.ServerTLS(RoleAdmin)
	srv.StartTLS()
	defer srv.Close()

	roots := x509.NewCertPool()
	roots.AddCert(tc.ca.cert)
	client := func(id *Identity) *http.Client {
		cfg := &tls.Config{RootCAs: roots}
		if id != nil {
			cfg.Certificates = []tls.Certificate{id.credentials().cert}
		}
		return &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
	}
	if code, body, err := get(t, client(tc.identity(RoleAdmin, "root")), srv.URL); err != nil || code != 200 || body != "admin/root true" {
		t.Errorf("admin: %d %q %v", code, body, err)
	}
	for name, id := range map[string]*Identity{"mx": tc.identity(RoleMX, "mx1"), "stranger": newTestCluster(t, "prod").identity(RoleAdmin, "root"), "nobody": nil} {
		if code, body, err := get(t, client(id), srv.URL); err == nil {
			t.Errorf("%s: %d %q", name, code, body)
		}
	}
}

func TestWithPeerWithoutTLS(t *testing.T) {
	tc := newTestCluster(t, "prod")
	w := httptest.NewRecorder()
	tc.identity(RoleDirector, "d1").WithPeer(http.HandlerFunc(whoAmI)).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusForbidden {
		t.Fatalf("plain request: %d", w.Code)
	}
}

func TestTLSForEtcd(t *testing.T) {
	tc := newTestCluster(t, "prod")
	etcd := tc.identity(RoleEtcd, "e1")
	clients := x509.NewCertPool()
	clients.AddCert(tc.ca.cert)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{etcd.credentials().cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := make(chan error, 1)
	serve := func() {
		c, err := ln.Accept()
		if err == nil {
			_ = c.SetDeadline(time.Now().Add(testTimeout))
			err = c.(*tls.Conn).HandshakeContext(t.Context())
			c.Close()
		}
		accepted <- err
	}
	id := tc.identity(RoleDirector, "d1")
	go serve()
	c, err := tls.Dial("tcp", ln.Addr().String(), id.TLSForEtcd())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	// The host name counts.
	go serve()
	cfg := id.TLSForEtcd()
	cfg.ServerName = "elsewhere.example.test"
	if c, err := tls.Dial("tcp", ln.Addr().String(), cfg); err == nil {
		c.Close()
		t.Fatal("the certificate's host names were not checked")
	}
	<-accepted
}
