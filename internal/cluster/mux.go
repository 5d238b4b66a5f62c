package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	handshakeTimeout = 10 * time.Second

	// DefaultMaxConns bounds the connections of a Mux that have proved who they
	// are; those that have not yet are bounded apart, so that strangers cannot
	// take the places of nodes.
	DefaultMaxConns      = 16384
	defaultMaxHandshakes = 512

	// Half of the handshakes are for whoever comes; the rest only for addresses
	// that have few under way, so that one silent caller cannot shut everybody
	// out, and a proxy may open many sessions at once.
	freeHandshakes       = defaultMaxHandshakes / 2
	handshakesPerAddress = 64

	// abortWait is how long Shutdown and Close wait for handlers whose
	// connections they have closed.
	abortWait = 5 * time.Second

	refusalLogEvery = time.Second
)

// ErrMuxClosed is what Serve gives after Shutdown or Close.
var ErrMuxClosed = errors.New("cluster listener closed")

// Handler serves one connection of a verified peer. The connection has no
// deadlines: setting them is the handler's. It is closed when the handler
// returns. ctx ends when the handler must end at once; Mux.Draining tells when
// it should come to an end by itself.
type Handler = func(ctx context.Context, c *tls.Conn, from Peer)

// Mux is one listening address that carries several protocols, told apart by
// ALPN, each open to the roles it was given. A caller without a certificate of
// this cluster fails the handshake; one whose role is not allowed for the
// protocol it asks for, or that asks for none, is closed after the handshake,
// with one line in the log.
//
// Handle and HandleHTTP may be called before and while it serves. A Mux must be
// ended by Shutdown or Close, also after Serve has returned: that is what waits
// for the handlers.
type Mux struct {
	id  *Identity
	ln  net.Listener
	log *slog.Logger
	tls *tls.Config

	handshakeTimeout time.Duration

	base  context.Context // handlers' context; ends when they must
	abort context.CancelFunc
	drain context.Context // ends when Shutdown or Close begins
	stop  context.CancelFunc

	wg sync.WaitGroup // connections and HTTP servers

	// mu guards the fields below and is held for moments only.
	mu          sync.Mutex
	routes      map[string]route
	servers     []*http.Server
	conns       map[net.Conn]bool // true once the peer is known
	handshakes  int
	handshaking map[netip.Addr]int // the same by source address
	established int
	maxConns    int
	refusedAt   time.Time
	refused     int
}

type route struct {
	allowed []Role
	handle  Handler
}

// Listen opens addr ("host:port", port 0 for any) for this process's peers. It
// accepts nobody before Serve.
func (id *Identity) Listen(addr string, log *slog.Logger) (*Mux, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive()}
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cluster listener of %s: %w", id.self, err)
	}
	m := &Mux{
		id: id, ln: ln, log: log, handshakeTimeout: handshakeTimeout,
		routes: map[string]route{}, conns: map[net.Conn]bool{}, handshaking: map[netip.Addr]int{}, maxConns: DefaultMaxConns,
	}
	m.base, m.abort = context.WithCancel(context.Background())
	m.drain, m.stop = context.WithCancel(m.base)
	m.tls = id.serverTLS(m.protos, nil)
	return m, nil
}

// SetMaxConns changes the bound on established connections.
func (m *Mux) SetMaxConns(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.maxConns = n
}

// Handle has h serve proto for peers of the allowed roles, each connection in a
// goroutine of its own. A second call for one proto replaces the first.
func (m *Mux) Handle(proto string, allowed []Role, h func(ctx context.Context, c *tls.Conn, from Peer)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.routes[proto] = route{slices.Clone(allowed), h}
}

// Addr is the address listened on.
func (m *Mux) Addr() net.Addr { return m.ln.Addr() }

// Draining is closed when Shutdown or Close begins. Handlers that wait for
// their peer's next request should return then.
func (m *Mux) Draining() <-chan struct{} { return m.drain.Done() }

func (m *Mux) protos() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := make([]string, 0, len(m.routes))
	for name := range m.routes {
		names = append(names, name)
	}
	return names
}

// Serve accepts connections until ctx ends, and then returns nil, or until
// Shutdown or Close, and then returns ErrMuxClosed. The end of ctx stops the
// accepting only: connections go on until Shutdown or Close.
func (m *Mux) Serve(ctx context.Context) error {
	unhook := context.AfterFunc(ctx, func() { m.ln.Close() })
	defer unhook()
	for wait := time.Duration(0); ; {
		c, err := m.ln.Accept()
		switch {
		case err == nil:
			wait = 0
			m.admit(c)
		case m.drain.Err() != nil:
			return ErrMuxClosed
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("cluster listener: %w", err)
		default:
			// Mostly a shortage of descriptors or memory, which passes.
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			m.log.Warn("cluster accept failed", "error", err, "retry_in", wait)
			pause(ctx, m.drain, wait)
		}
	}
}

func pause(a, b context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-a.Done():
	case <-b.Done():
	case <-t.C:
	}
}

// admit starts the goroutine of a new connection, or closes it when there are
// too many.
func (m *Mux) admit(c net.Conn) {
	from := source(c)
	m.mu.Lock()
	closing := m.drain.Err() != nil
	full := m.handshakes >= defaultMaxHandshakes || m.established >= m.maxConns ||
		m.handshakes >= freeHandshakes && m.handshaking[from] >= handshakesPerAddress
	if !closing && !full {
		m.conns[c] = false
		m.handshakes++
		m.handshaking[from]++
		m.wg.Add(1)
	}
	m.mu.Unlock()
	switch {
	case closing:
		c.Close()
	case full:
		c.Close()
		m.logFull()
	default:
		go m.serveConn(c)
	}
}

// logFull says at most once a second that connections are turned away.
func (m *Mux) logFull() {
	now := time.Now()
	m.mu.Lock()
	m.refused++
	n := m.refused
	due := now.Sub(m.refusedAt) >= refusalLogEvery
	if due {
		m.refusedAt, m.refused = now, 0
	}
	m.mu.Unlock()
	if due {
		m.log.Warn("cluster connections refused: too many", "count", n)
	}
}

func (m *Mux) serveConn(raw net.Conn) {
	defer m.wg.Done()
	defer m.forget(raw)
	c := tls.Server(raw, m.tls)
	ctx, cancel := context.WithTimeout(m.drain, m.handshakeTimeout)
	err := c.HandshakeContext(ctx)
	cancel()
	if err != nil {
		m.logHandshake(raw, err)
		return
	}
	defer c.Close()
	cs := c.ConnectionState()
	_, from, err := peerOf(cs.PeerCertificates[0])
	if err != nil {
		m.logHandshake(raw, err)
		return
	}
	r, refusal := m.establish(raw, cs.NegotiatedProtocol, from)
	if refusal != "" {
		m.log.Warn("cluster peer refused", "peer", from.String(), "remote", raw.RemoteAddr().String(),
			"protocol", cs.NegotiatedProtocol, "reason", refusal)
		return
	}
	r.handle(withPeer(m.base, from), c, from)
}

// logHandshake reports a failed handshake. One that was cut off by Shutdown, or
// whose caller went away without a word as a port probe does, is nothing to
// report.
func (m *Mux) logHandshake(raw net.Conn, err error) {
	if errors.Is(err, io.EOF) || m.drain.Err() != nil {
		return
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("handshake took too long")
	}
	m.log.Warn("cluster handshake failed", "remote", raw.RemoteAddr().String(), "error", err)
}

// establish decides whether from may speak proto here, and counts it if so. The
// refusal is for the log; it is empty if there is none.
func (m *Mux) establish(raw net.Conn, proto string, from Peer) (r route, refusal string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, known := m.routes[proto]
	switch {
	case proto == "":
		return r, "no protocol was asked for"
	case !known:
		return r, "unknown protocol"
	case !rolesAllow(r.allowed, from.Role):
		return r, "role not allowed for this protocol"
	case m.established >= m.maxConns:
		return r, "too many connections"
	case m.drain.Err() != nil:
		return r, "shutting down"
	}
	m.conns[raw] = true
	m.handshakeOver(raw)
	m.established++
	return r, ""
}

func (m *Mux) forget(raw net.Conn) {
	raw.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conns[raw] {
		m.established--
	} else {
		m.handshakeOver(raw)
	}
	delete(m.conns, raw)
}

// handshakeOver uncounts a handshake; the caller holds mu.
func (m *Mux) handshakeOver(raw net.Conn) {
	m.handshakes--
	from := source(raw)
	if m.handshaking[from]--; m.handshaking[from] == 0 {
		delete(m.handshaking, from)
	}
}

// source is the address that a connection comes from.
func source(c net.Conn) netip.Addr {
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// Shutdown stops accepting, ends handshakes and idle HTTP connections, and waits
// for the handlers. When ctx ends before they have, it closes their connections
// and contexts and returns ctx's error.
func (m *Mux) Shutdown(ctx context.Context) error {
	servers := m.beginDrain()
	var ends sync.WaitGroup
	for _, s := range servers {
		ends.Go(func() {
			if s.Shutdown(ctx) != nil {
				s.Close()
			}
		})
	}
	done := m.finished()
	select {
	case <-done:
		ends.Wait()
		m.abort()
		return nil
	case <-ctx.Done():
		m.abortAll(servers)
		ends.Wait()
		return fmt.Errorf("cluster listener: connections cut: %w", ctx.Err())
	}
}

// Close ends everything at once.
func (m *Mux) Close() error {
	m.abortAll(m.beginDrain())
	return nil
}

// beginDrain stops the accepting. After it, no connection and no server is added.
func (m *Mux) beginDrain() []*http.Server {
	m.mu.Lock()
	m.stop()
	servers := m.servers
	m.mu.Unlock()
	m.ln.Close()
	return servers
}

func (m *Mux) finished() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		m.wg.Wait()
		close(done)
	}()
	return done
}

// abortAll ends contexts and connections, and waits a moment for the handlers
// to notice.
func (m *Mux) abortAll(servers []*http.Server) {
	m.abort()
	for _, s := range servers {
		s.Close()
	}
	m.mu.Lock()
	for c := range m.conns {
		c.Close()
	}
	m.mu.Unlock()
	t := time.NewTimer(abortWait)
	defer t.Stop()
	select {
	case <-m.finished():
	case <-t.C:
		m.log.Error("cluster handlers did not end after their connections were closed")
	}
}
