package mx

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// gate is a listener that admits clients within limits and guards them.
type gate struct {
	net.Listener
	srv     *Server
	service service
}

// Accept gives the next client that is within the limits.
func (l gate) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		ip := clientNet(c.RemoteAddr())
		g, reason := l.srv.admit(c, ip, l.service)
		l.srv.met.connections.WithLabelValues(string(l.service), reason).Inc()
		if g != nil {
			return g, nil
		}
		// A new connection's send buffer takes this at once.
		c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		io.WriteString(c, "421 4.7.0 Too many connections, try again later\r\n")
		c.Close()
	}
}

// clientNet is what connections are counted by: an IPv4 address or an IPv6 /64.
func clientNet(a net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip := ap.Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}

// clients counts the open connections.
type clients struct {
	mu       sync.Mutex
	open     map[*guard]netip.Prefix
	byNet    map[netip.Prefix]int
	byKind   map[service]int
	draining bool
}

func (srv *Server) admit(c net.Conn, from netip.Prefix, sv service) (g *guard, reason string) {
	limit := srv.cfg.MaxConnections
	if sv == submission {
		limit = srv.cfg.MaxSubmissions
	}
	cl := &srv.clients
	cl.mu.Lock()
	defer cl.mu.Unlock()
	switch {
	case cl.draining:
		return nil, "draining"
	case cl.byKind[sv] >= limit:
		return nil, "full"
	case cl.byNet[from] >= srv.cfg.MaxConnectionsPerIP:
		return nil, "full_for_ip"
	}
	g = newGuard(c, guardOptions{
		tls: srv.tls, hostname: srv.cfg.Hostname, commandTimeout: srv.cfg.CommandTimeout, dataTimeout: srv.cfg.DataTimeout,
		minRate: srv.cfg.MinRate, rateGrace: srv.cfg.RateGrace, onClose: func() { srv.left(g, sv) },
		idleTimeout: srv.cfg.IdleTimeout, idleCommands: srv.cfg.IdleCommands,
	})
	cl.open[g] = from
	cl.byNet[from]++
	cl.byKind[sv]++
	srv.conns.Add(1)
	srv.met.open.Inc()
	return g, "accepted"
}

func (srv *Server) left(g *guard, sv service) {
	cl := &srv.clients
	cl.mu.Lock()
	defer cl.mu.Unlock()
	from, ok := cl.open[g]
	if !ok {
		return
	}
	delete(cl.open, g)
	cl.byKind[sv]--
	if cl.byNet[from]--; cl.byNet[from] == 0 {
		delete(cl.byNet, from)
	}
	srv.met.open.Dec()
	srv.conns.Done()
}

// each calls f with every open connection.
func (cl *clients) each(f func(*guard)) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	for g := range cl.open {
		f(g)
	}
}

// certificate reads the STARTTLS certificate again when its files changed.
type certificate struct {
	certFile, keyFile string

	mu      sync.Mutex
	cert    *tls.Certificate
	stamp   [2]time.Time
	checked time.Time
}

const certCheck = 10 * time.Second

func loadCertificate(certFile, keyFile string) (*tls.Config, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("mx: tls_cert, tls_key: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}, nil
}

func (c *certificate) stamps() (s [2]time.Time, err error) {
	for i, f := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(f)
		if err != nil {
			return s, err
		}
		s[i] = info.ModTime()
	}
	return s, nil
}

func (c *certificate) load() error {
	stamp, err := c.stamps()
	if err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	c.cert, c.stamp, c.checked = &cert, stamp, time.Now()
	return nil
}

// get gives the certificate; one that cannot be read leaves the former.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) > certCheck {
		c.checked = time.Now()
		if s, err := c.stamps(); err == nil && s != c.stamp {
			c.load()
		}
	}
	return c.cert, nil
}
