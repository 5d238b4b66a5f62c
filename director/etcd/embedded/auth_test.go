package embedded_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/etcd"
	"waypost/director/etcd/embedded"
	"waypost/internal/cluster"
)

const patience = 30 * time.Second

// walled is a member with the certificates of a cluster.
type walled struct {
	t   *testing.T
	dir string
	ca  *cluster.Authority
	o   embedded.EmbedOptions
}

var (
	memberPeer = cluster.Peer{Role: cluster.RoleEtcd, ID: "e1"}
	director1  = cluster.Peer{Role: cluster.RoleDirector, ID: "d1"}
	proxy1     = cluster.Peer{Role: cluster.RoleProxy, ID: "p1"}
	stranger   = cluster.Peer{Role: cluster.RoleBackend, ID: "b9"}
)

func newWalled(t *testing.T) *walled {
	t.Helper()
	w := &walled{t: t, dir: t.TempDir()}
	var err error
	if w.ca, err = cluster.CreateAuthority(w.dir, "test"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []cluster.Peer{memberPeer, director1, proxy1, stranger} {
		if err := w.ca.IssueTo(w.dir, p, []string{"127.0.0.1"}); err != nil {
			t.Fatal(err)
		}
	}
	w.o = embedded.EmbedOptions{
		Dir: filepath.Join(w.dir, "data"), CAFile: filepath.Join(w.dir, cluster.AuthorityCert),
		CertFile: cluster.CertPath(w.dir, memberPeer), KeyFile: cluster.KeyPath(w.dir, memberPeer),
	}
	return w
}

func (w *walled) start(ctx context.Context) *embedded.Embedded {
	w.t.Helper()
	m, err := embedded.StartEmbedded(ctx, w.o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = m.Close() })
	return m
}

func (w *walled) tls(p cluster.Peer) *tls.Config {
	w.t.Helper()
	id, err := cluster.LoadIdentity(filepath.Join(w.dir, cluster.AuthorityCert), cluster.CertPath(w.dir, p), cluster.KeyPath(w.dir, p))
	if err != nil {
		w.t.Fatal(err)
	}
	return id.TLSForEtcd()
}

func (w *walled) store(m *embedded.Embedded, p cluster.Peer) *etcd.Store {
	w.t.Helper()
	s, err := etcd.Open(w.t.Context(), etcd.Options{Endpoints: []string{m.Endpoint()}, TLS: w.tls(p)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(ctx context.Context, s *etcd.Store, key string, lease director.LeaseID) error {
	_, done, err := s.Commit(ctx, nil, []director.Op{{Key: key, Value: []byte("v"), Lease: lease}})
	if err == nil && !done {
		err = errors.New("not done")
	}
	return err
}

// Certificates write, read or do nothing by their common name, also after a
// restart with more of them.
func TestAccessByCommonName(t *testing.T) {
	w := newWalled(t)
	w.o.Writers, w.o.Readers = []string{director1.String()}, []string{proxy1.String()}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m := w.start(ctx)
	d, p, x := w.store(m, director1), w.store(m, proxy1), w.store(m, stranger)
	l, err := d.Grant(ctx, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := put(ctx, d, "a", l.ID()); err != nil {
		t.Fatal(err)
	}
	e, err := p.Get(ctx, "a")
	if err != nil || string(e.Value) != "v" {
		t.Fatalf("a reader reads %+v, %v", e, err)
	}
	if err := put(ctx, p, "a", 0); err == nil {
		t.Error("a reader writes")
	}
	if _, err := x.Get(ctx, "a"); err == nil {
		t.Error("a certificate that is nobody's reads")
	}
	for b := range p.Watch(ctx, "a", e.Rev-1) {
		if b.Err != nil {
			t.Fatalf("a reader watches: %v", b.Err)
		}
		if len(b.Changes) == 1 {
			break
		}
	}
	if err := l.Revoke(ctx); err != nil {
		t.Error(err)
	}
	if e, err := d.Get(ctx, "a"); err != nil || e.Rev != 0 {
		t.Errorf("after its lease: %+v, %v", e, err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	w.o.Writers = append(w.o.Writers, stranger.String())
	m = w.start(ctx)
	if err := put(ctx, w.store(m, stranger), "b", 0); err != nil {
		t.Errorf("a new writer: %v", err)
	}
	if err := put(ctx, w.store(m, proxy1), "b", 0); err == nil {
		t.Error("a reader writes after the restart")
	}
}

// The peer port is for the member alone: raft knows no permissions.
func TestPeerPortIsForMembers(t *testing.T) {
	w := newWalled(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.o.PeerAddr = ln.Addr().String()
	ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m := w.start(ctx)
	u, err := url.Parse(m.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		addr string
		peer cluster.Peer
		ok   bool
	}{
		{w.o.PeerAddr, memberPeer, true}, {w.o.PeerAddr, director1, false}, {w.o.PeerAddr, proxy1, false}, {u.Host, proxy1, true},
	} {
		if err := answers(ctx, c.addr, w.tls(c.peer)); (err == nil) != c.ok {
			t.Errorf("%s at %s: %v, want let in %v", c.peer, c.addr, err, c.ok)
		}
	}
}

// answers tells whether an HTTP request gets any answer.
func answers(ctx context.Context, addr string, c *tls.Config) error {
	conn, err := (&tls.Dialer{Config: c}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := conn.Write([]byte("GET /version HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

func TestAccessNeedsCertificates(t *testing.T) {
	_, err := embedded.StartEmbedded(t.Context(), embedded.EmbedOptions{Dir: t.TempDir(), Writers: []string{"x"}})
	if err == nil {
		t.Error("started without a certificate")
	}
}
