package cluster

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Bounds of HTTP between nodes. A handler that streams for longer may move its
// own deadlines with http.ResponseController.
const (
	httpHeaderTimeout = 10 * time.Second
	httpReadTimeout   = 5 * time.Minute
	httpWriteTimeout  = 10 * time.Minute
	httpIdleTimeout   = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
)

// HandleHTTP has h serve HTTP/1.1 over proto for peers of the allowed roles.
// PeerFrom of a request's context gives the peer. A request has 5 minutes to
// arrive and 10 to be answered.
func (m *Mux) HandleHTTP(proto string, allowed []Role, h http.Handler) {
	q := &connQueue{conns: make(chan net.Conn), closed: make(chan struct{}), addr: m.Addr()}
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: httpHeaderTimeout,
		ReadTimeout:       httpReadTimeout,
		WriteTimeout:      httpWriteTimeout,
		IdleTimeout:       httpIdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(m.log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return m.base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if pc, ok := c.(*peerConn); ok {
				ctx = withPeer(ctx, pc.from)
			}
			return ctx
		},
	}
	m.mu.Lock()
	if m.drain.Err() != nil {
		m.mu.Unlock()
		return
	}
	m.servers = append(m.servers, s)
	m.wg.Add(1)
	m.mu.Unlock()
	go func() {
		defer m.wg.Done()
		// It ends, with http.ErrServerClosed, by Shutdown or Close only: the
		// queue has no other errors.
		_ = s.Serve(q)
	}()
	m.Handle(proto, allowed, q.hand)
}

// connQueue is the listener through which a Mux hands connections to an
// http.Server.
type connQueue struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	addr   net.Addr
}

// hand gives c to the HTTP server and waits until that has closed it.
func (q *connQueue) hand(ctx context.Context, c *tls.Conn, from Peer) {
	pc := &peerConn{Conn: c, from: from, done: make(chan struct{})}
	select {
	case q.conns <- pc:
	case <-q.closed:
		return
	}
	select {
	case <-pc.done:
	case <-ctx.Done():
	}
}

func (q *connQueue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *connQueue) Close() error {
	q.once.Do(func() { close(q.closed) })
	return nil
}

func (q *connQueue) Addr() net.Addr { return q.addr }

// peerConn tells when the HTTP server is done with a connection. It also hides
// the tls.Conn from that server, which would look at its ALPN name.
type peerConn struct {
	net.Conn
	from Peer
	done chan struct{}
	once sync.Once
}

func (c *peerConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.done) })
	return err
}
