package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/proxy/proxytest"
)

// cell is a cluster of one backend and one proxy, with real certificates.
type cell struct {
	*house
	dir string
}

func newCell(t *testing.T) *cell {
	t.Helper()
	h, b := homely(t)
	c := &cell{house: h, dir: t.TempDir()}
	a, err := cluster.CreateAuthority(c.dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []cluster.Peer{{Role: cluster.RoleBackend, ID: "b1"}, {Role: cluster.RoleProxy, ID: "p1"}, {Role: cluster.RoleAdmin, ID: "op"}, {Role: cluster.RoleMX, ID: "mx1"}} {
		if err := a.IssueTo(c.dir, p, nil); err != nil {
			t.Fatal(err)
		}
	}
	m := c.mux(cluster.Peer{Role: cluster.RoleBackend, ID: "b1"})
	m.Handle(cluster.ProtoSession, []cluster.Role{cluster.RoleProxy}, func(_ context.Context, conn *tls.Conn, _ cluster.Peer) {
		b.serve(conn)
	})
	h.dir.backends["b1"] = director.Backend{Kind: director.KindWaypost, Node: m.Addr().String()}
	h.dials = ClusterDialer(c.identity(cluster.Peer{Role: cluster.RoleProxy, ID: "p1"}))
	return c
}

func (c *cell) identity(p cluster.Peer) *cluster.Identity {
	c.t.Helper()
	id, err := cluster.LoadIdentity(filepath.Join(c.dir, cluster.AuthorityCert), cluster.CertPath(c.dir, p), cluster.KeyPath(c.dir, p))
	if err != nil {
		c.t.Fatal(err)
	}
	return id
}

// mux serves a node's listener until the test ends.
func (c *cell) mux(p cluster.Peer) *cluster.Mux {
	c.t.Helper()
	m, err := c.identity(p).Listen("127.0.0.1:0", c.logger())
	if err != nil {
		c.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- m.Serve(context.Background()) }()
	c.t.Cleanup(func() {
		_ = m.Close()
		<-served
	})
	return m
}

// A client over TLS, a backend over mutual TLS: all of both ways arrives, and
// the end of one side is the end of the other.
func TestOverMutualTLS(t *testing.T) {
	c := newCell(t)
	c.cfg.CertFile, c.cfg.KeyFile = proxytest.Certificate(t, t.TempDir())
	c.cfg.IMAPS = []string{"127.0.0.1:0"}
	c.start()
	k := c.dial("imaps")
	k.StartTLS(proxytest.ClientTLS(t, c.cfg.CertFile))
	k.Run(nil, "S: * OK ...\nC- a LOGIN alice@example.test secret\\r\\nfirst\\r\\n\nS: a OK [CAPABILITY IMAP4rev1 HOME=b1] Logged in.\nS: first")
	const lines = 2000
	line := append(bytes.Repeat([]byte("0123456789"), 200), "\r\n"...)
	sent := make(chan error, 1)
	go func() {
		for range lines {
			if _, err := k.Conn.Write(line); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	got := make([]byte, len(line))
	for i := range lines {
		if _, err := io.ReadFull(k.R, got); err != nil || !bytes.Equal(got, line) {
			t.Fatalf("line %d: %v", i, err)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	c.until("an idle session holds no buffer", func() bool { return c.server.buffers.inUse.Load() == 0 })
	k.Run(nil, "C: LOGOUT\nS: * BYE bye\nS: LOGOUT OK done\nEND")
}

// A proxy that is sent to the wrong backend logs nobody in there.
func TestWrongBackend(t *testing.T) {
	c := newCell(t)
	c.house.dir.backends["b2"] = c.house.dir.backends["b1"]
	c.house.dir.set(alice, active("b2", 3))
	c.cfg.DeadWait = 10 * time.Millisecond
	c.start()
	c.dial("imap").Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret\nS: a NO [UNAVAILABLE] ...")
}

func TestControlCalls(t *testing.T) {
	c := newCell(t)
	c.start()
	m := c.mux(cluster.Peer{Role: cluster.RoleProxy, ID: "p1"})
	m.HandleHTTP(cluster.ProtoControl, []cluster.Role{cluster.RoleAdmin, cluster.RoleMX}, c.server.Control())
	k := c.imap()
	ctx, cancel := context.WithTimeout(context.Background(), proxytest.Patience)
	defer cancel()
	post := func(role cluster.Role, id, path string, req, reply any) int {
		t.Helper()
		body, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		client := c.identity(cluster.Peer{Role: role, ID: id}).HTTPClient(cluster.Peer{Role: cluster.RoleProxy, ID: "p1"}, cluster.ProtoControl)
		defer client.CloseIdleConnections()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+m.Addr().String()+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(reply); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	var list []control.Session
	if code := post(cluster.RoleAdmin, "op", control.PathSessions, control.SessionsRequest{User: alice}, &list); code != http.StatusOK || len(list) != 1 || list[0].Backend != "b1" {
		t.Fatalf("%d: %+v", code, list)
	}
	var refusal control.Error
	if code := post(cluster.RoleMX, "mx1", control.PathKick, control.KickRequest{User: alice}, &refusal); code != http.StatusForbidden || refusal.Code != control.CodeForbidden {
		t.Fatalf("an mx kicked: %d, %+v", code, refusal)
	}
	var reply control.KickReply
	if code := post(cluster.RoleAdmin, "op", control.PathKick, control.KickRequest{User: alice}, &reply); code != http.StatusOK || reply.Kicked != 1 {
		t.Fatalf("%d: %+v", code, reply)
	}
	k.Run(nil, "S: * BYE Session ended by the administrator.\nEND")
	if code := post(cluster.RoleAdmin, "op", control.PathSessions, control.SessionsRequest{}, &list); code != http.StatusOK || len(list) != 0 {
		t.Fatalf("%d: %+v", code, list)
	}
}
