package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// dialTimeout bounds a Dial whose context has no nearer deadline.
const dialTimeout = 15 * time.Second

// ErrWrongPeer says that whoever answered holds a good certificate of this
// cluster, but is not the peer that was wanted.
var ErrWrongPeer = errors.New("answered by another node")

func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}
}

// Dial connects to addr ("host:port") and proves that want answers there and
// speaks proto; a want without ID is any process of its role. Connecting and
// handshake together end with ctx, and after 15 s at the latest. The deadlines
// of the connection are then the caller's.
func (id *Identity) Dial(ctx context.Context, addr string, want Peer, proto string) (*tls.Conn, error) {
	if !want.Role.Valid() || proto == "" {
		return nil, fmt.Errorf("dial %s at %s: role and protocol must be given", want, addr)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	d := net.Dialer{KeepAliveConfig: keepAlive()}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", want, err)
	}
	c := tls.Client(raw, id.clientTLS(want, proto))
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("dial %s at %s: %w", want, addr, err), raw.Close())
	}
	return c, nil
}

func (id *Identity) clientTLS(want Peer, proto string) *tls.Config {
	c := id.credentials()
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{c.cert},
		NextProtos:   []string{proto},
		Time:         id.now,
		// The usual check is of host names, which mean nothing here.
		// VerifyConnection does the whole check instead: chain, time, usage,
		// cluster and name.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			p, err := id.verifyState(c, cs, x509.ExtKeyUsageServerAuth)
			if err != nil {
				return err
			}
			if !p.matches(want) {
				return fmt.Errorf("%w: %s", ErrWrongPeer, p)
			}
			if cs.NegotiatedProtocol != proto {
				return fmt.Errorf("%s does not speak %s", p, proto)
			}
			return nil
		},
	}
}

// verifyState checks the far end's certificate and returns its name.
func (id *Identity) verifyState(c *credentials, cs tls.ConnectionState, usage x509.ExtKeyUsage) (Peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return Peer{}, errors.New("no cluster certificate was offered")
	}
	return verifyPeer(cs.PeerCertificates[0], c.roots, id.cluster, usage, id.now())
}

// serverTLS is the configuration of all listeners. Go sets up each connection
// anew through GetConfigForClient, so that renewed files are taken up. protos
// is asked then, too; check, where not nil, has the last word on the peer.
func (id *Identity) serverTLS(protos func() []string, check func(Peer) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := id.credentials()
			return &tls.Config{
				MinVersion:             tls.VersionTLS13,
				Certificates:           []tls.Certificate{c.cert},
				ClientAuth:             tls.RequireAndVerifyClientCert,
				ClientCAs:              c.roots,
				NextProtos:             protos(),
				SessionTicketsDisabled: true,
				Time:                   id.now,
				VerifyConnection: func(cs tls.ConnectionState) error {
					p, err := id.verifyState(c, cs, x509.ExtKeyUsageClientAuth)
					if err != nil || check == nil {
						return err
					}
					return check(p)
				},
			}, nil
		},
	}
}

// TLSForEtcd is for clients of an etcd whose servers have certificates of this
// cluster's authority. They are verified by host name, as etcd's own tools do.
// A renewed certificate of ours is taken up; a changed authority is not.
func (id *Identity) TLSForEtcd() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    id.credentials().roots,
		Time:       id.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &id.credentials().cert, nil
		},
	}
}

// ServerTLS is for an ordinary HTTPS server, such as the admin API: it demands a
// certificate of this cluster with one of the allowed roles, and fails the
// handshake otherwise. With no roles it admits nobody. It offers HTTP/1.1 only.
// Wrap the server's handler in WithPeer to have PeerFrom work.
func (id *Identity) ServerTLS(allowed ...Role) *tls.Config {
	protos := func() []string { return []string{"http/1.1"} }
	return id.serverTLS(protos, func(p Peer) error {
		if !rolesAllow(allowed, p.Role) {
			return fmt.Errorf("%s may not connect here", p)
		}
		return nil
	})
}

// WithPeer puts the verified peer of a ServerTLS connection into the context of
// each request, for PeerFrom. A request without one is refused with 403.
func (id *Identity) WithPeer(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || !r.TLS.HandshakeComplete || len(r.TLS.PeerCertificates) == 0 {
			http.Error(w, "a cluster certificate is needed", http.StatusForbidden)
			return
		}
		// The handshake has verified the chain; only the name is read here.
		name, p, err := peerOf(r.TLS.PeerCertificates[0])
		if err != nil || name != id.cluster {
			http.Error(w, "a cluster certificate is needed", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r.WithContext(withPeer(r.Context(), p)))
	})
}

// HTTPClient speaks HTTP/1.1 to want over connections of Dial, which it keeps
// for the next request. The host of a request's URL is the node's address:
// https://10.0.0.5:7400/path. Requests over plain http fail, and redirects are
// not followed. The caller bounds each request by its context.
func (id *Identity) HTTPClient(want Peer, proto string) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				return id.Dial(ctx, addr, want, proto)
			},
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				return nil, fmt.Errorf("dial %s: only https reaches a cluster node", want)
			},
			MaxIdleConns:           64,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        httpIdleTimeout / 2, // before the server does
			MaxResponseHeaderBytes: maxHeaderBytes,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
