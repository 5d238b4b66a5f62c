package clustertest

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/backend/sftp"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/wire"
)

const (
	dRole, bRole, mRole = cluster.RoleDirector, cluster.RoleBackend, cluster.RoleMX
	pRole, rRole, aRole = cluster.RoleProxy, cluster.RoleRebalance, cluster.RoleAdmin
)

// allowedCalls are who may make which control call of a backend.
var allowedCalls = map[string][]cluster.Role{
	control.PathLook:     {rRole, aRole, dRole, bRole},
	control.PathPrepare:  {dRole},
	control.PathStage:    {rRole},
	control.PathFreeze:   {rRole},
	control.PathSeal:     {rRole},
	control.PathPull:     {rRole},
	control.PathSending:  {rRole},
	control.PathManifest: {bRole},
	control.PathUsage:    {dRole, aRole},
	control.PathSessions: {dRole, aRole},
	control.PathKick:     {dRole, aRole},
}

// allowedProtocols are who may speak what to a backend.
var allowedProtocols = map[string][]cluster.Role{
	cluster.ProtoLMTP:    {mRole, bRole},
	cluster.ProtoSession: {pRole},
	cluster.ProtoSFTP:    {bRole},
	cluster.ProtoControl: {rRole, aRole, dRole, bRole},
}

// certificates: who may do what is decided by certificates, each tried against
// a running backend.
func (a *apart) certificates(t *testing.T) {
	ids := map[cluster.Role]*cluster.Identity{aRole: a.operator(t)}
	for _, n := range a.nodes {
		ids[n.Role] = n.identity(t) // of backends: b2's
	}
	b1 := a.listener(t, "backend-b1")
	t.Run("control calls", func(t *testing.T) { a.controlCalls(t, ids, b1) })
	t.Run("protocols", func(t *testing.T) { a.protocols(t, ids, b1) })
	t.Run("strangers", func(t *testing.T) { a.strangers(t) })
	t.Run("a session as somebody else's home", func(t *testing.T) { a.wrongHome(t, ids[pRole], b1) })
	t.Run("a tree that is not moved", func(t *testing.T) { a.unmovedTree(t, ids[bRole]) })
}

func (a *apart) operator(t *testing.T) *cluster.Identity {
	t.Helper()
	dir := filepath.Join(a.testCluster.dir, "admin")
	p := cluster.Peer{Role: cluster.RoleAdmin, ID: "cli"}
	id, err := cluster.LoadIdentity(filepath.Join(dir, cluster.AuthorityCert), cluster.CertPath(dir, p), cluster.KeyPath(dir, p))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// controlCalls makes every call with every certificate. The user is none, so
// that a call that is allowed does nothing.
func (a *apart) controlCalls(t *testing.T, ids map[cluster.Role]*cluster.Identity, addr string) {
	for role, id := range ids {
		client := control.NewClient(id, addr, cluster.Peer{Role: cluster.RoleBackend, ID: "b1"})
		for path, allowed := range allowedCalls {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			_, err := control.Call[json.RawMessage](ctx, client, path, control.MoveRequest{User: "", Epoch: 99})
			cancel()
			var refusal *control.Error
			said := errors.As(err, &refusal)
			switch {
			case slices.Contains(allowed, role):
				if err != nil && (!said || refusal.Code == control.CodeForbidden) {
					t.Errorf("%s calls %s: %v, though it may", role, path, err)
				}
			case err == nil:
				t.Errorf("%s calls %s, though it may not", role, path)
			case slices.Contains(allowedProtocols[cluster.ProtoControl], role):
				if !control.IsCode(err, control.CodeForbidden) {
					t.Errorf("%s calls %s: %v, want code %s", role, path, err, control.CodeForbidden)
				}
			case said:
				t.Errorf("%s calls %s and is answered: %v", role, path, err)
			}
		}
	}
}

// protocols opens every protocol with every certificate.
func (a *apart) protocols(t *testing.T, ids map[cluster.Role]*cluster.Identity, addr string) {
	for role, id := range ids {
		for proto, allowed := range allowedProtocols {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			c, err := id.Dial(ctx, addr, cluster.Peer{Role: cluster.RoleBackend, ID: "b1"}, proto)
			cancel()
			if err == nil {
				err = stays(c)
			}
			if may := slices.Contains(allowed, role); may != (err == nil) {
				t.Errorf("%s speaks %s: %v; it may: %v", role, proto, err, may)
			}
		}
		// And one that is not for a backend.
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		c, err := id.Dial(ctx, addr, cluster.Peer{Role: cluster.RoleBackend, ID: "b1"}, "h2")
		cancel()
		if err == nil && stays(c) == nil {
			t.Errorf("%s speaks h2", role)
		}
	}
}

// stays tells whether the far end keeps a connection on which nothing is said:
// nil, or how it ended.
func stays(c net.Conn) error {
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(700 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err // nil: it spoke first
}

// strangers have no certificate, one of another cluster of the same name, or an
// old one: they do not get past the handshake anywhere.
func (a *apart) strangers(t *testing.T) {
	other := filepath.Join(t.TempDir(), "other")
	waypost(t, a.clients.dir, "", "init", "--dir", other, "--cluster", "apart", "--backends", "2", "--mx", "1", "--proxies", "1")
	foreign := func(p cluster.Peer, folder string) tls.Certificate {
		c, err := tls.LoadX509KeyPair(cluster.CertPath(folder, p), cluster.KeyPath(folder, p))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ca, err := cluster.LoadAuthority(filepath.Join(a.testCluster.dir, "pki"))
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err := ca.Issue(cluster.Peer{Role: cluster.RoleRebalance, ID: "r1"}, nil, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	expired, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(expired.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the certificate has ended", patience, func() error {
		if !time.Now().After(leaf.NotAfter) {
			return fmt.Errorf("it ends at %s", leaf.NotAfter)
		}
		return nil
	})
	callers := map[string][]tls.Certificate{
		"without a certificate":   nil,
		"another cluster's mover": {foreign(cluster.Peer{Role: cluster.RoleRebalance, ID: "r1"}, filepath.Join(other, "nodes", "rebalance-r1"))},
		"another cluster's admin": {foreign(cluster.Peer{Role: cluster.RoleAdmin, ID: "cli"}, filepath.Join(other, "admin"))},
		"an ended certificate":    {expired},
		"the clients' one":        {foreign(cluster.Peer{Role: cluster.RoleProxy, ID: "p1-tls"}, filepath.Join(a.testCluster.dir, "nodes", "proxy-p1"))},
	}
	places := map[string]string{a.host + ":2379": "h2", a.host + ":8080": "http/1.1"}
	for _, n := range a.nodes {
		places[a.listener(t, n.name())] = cluster.ProtoControl
	}
	// The operator's own gets in where all may: what follows is not for nothing.
	callers["the operator"] = []tls.Certificate{foreign(cluster.Peer{Role: cluster.RoleAdmin, ID: "cli"}, filepath.Join(a.testCluster.dir, "admin"))}
	open := []string{a.host + ":2379", a.host + ":8080", a.listener(t, "backend-b1"), a.listener(t, "mx-mx1"), a.listener(t, "proxy-p1")}
	for who, certs := range callers {
		for addr, proto := range places {
			d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, Certificates: certs, NextProtos: []string{proto}}}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			c, err := d.DialContext(ctx, "tcp", addr)
			cancel()
			if err == nil {
				err = stays(c) // in TLS 1.3 the refusal shows at the first read
			}
			switch {
			case who == "the operator" && slices.Contains(open, addr):
				if err != nil {
					t.Errorf("%s does not get in at %s (%s): %v", who, addr, proto, err)
				}
			case who != "the operator" && err == nil:
				t.Errorf("%s gets in at %s (%s)", who, addr, proto)
			}
		}
	}
}

// wrongHome: even a proxy is served only what the directory says is there.
func (a *apart) wrongHome(t *testing.T, proxy *cluster.Identity, addr string) {
	for _, h := range []wire.Hello{
		{Home: "b2", Epoch: 3}, // where the user is: but this is b1
		{Home: "b1", Epoch: 1}, // where it was
		{Home: "b1", Epoch: 3},
		{Home: "b1", Epoch: 99},
	} {
		h.Version, h.Protocol, h.User, h.Client, h.Session = wire.Version, "imap", string(a.alice), "192.0.2.1:1", "test"
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		c, err := proxy.Dial(ctx, addr, cluster.Peer{Role: cluster.RoleBackend, ID: "b1"}, cluster.ProtoSession)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		var w wire.Welcome
		if err := errors.Join(wire.Write(c, h), wire.Read(bufio.NewReader(c), &w)); err != nil || w.Status == wire.StatusOK {
			t.Errorf("session at %s, epoch %d on b1: %+v, %v", h.Home, h.Epoch, w, err)
		}
		c.Close()
	}
}

// unmovedTree: another backend reads a tree only as the target of its move.
func (a *apart) unmovedTree(t *testing.T, b2 *cluster.Identity) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	waypost(t, a.clients.dir, password+"\n", "user", "add", "bob@example.test", "--home", "b1", "--data", a.testCluster.dir)
	addr := a.listener(t, "backend-b1")
	for _, epoch := range []director.Epoch{0, 1, 2} {
		c, err := sftp.Dial(ctx, b2, addr, "b1", "bob@example.test", epoch)
		if err == nil {
			c.Close()
			t.Errorf("b2 reads bob's tree at epoch %d, and no move says so", epoch)
		}
		client := control.NewClient(b2, addr, cluster.Peer{Role: cluster.RoleBackend, ID: "b1"})
		if m, err := control.Call[control.Manifest](ctx, client, control.PathManifest, control.ManifestRequest{User: "bob@example.test", Epoch: epoch}); err == nil {
			t.Errorf("b2 reads bob's manifest at epoch %d: %+v", epoch, m)
		}
	}
}
