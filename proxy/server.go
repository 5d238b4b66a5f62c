package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"waypost/internal/deflate"
	"waypost/internal/frames"
	"waypost/internal/telemetry"
	"waypost/proxy/managesieve"
)

// abortWait is how long Shutdown waits for sessions that were told to end:
// their last words, TLS's goodbyes, and a password hash under way.
const abortWait = 15 * time.Second

// ErrSessionsLeft is what Shutdown gives when some sessions did not end.
var ErrSessionsLeft = errors.New("proxy: sessions have not ended")

// Address is one address that a Server listens on.
type Address struct {
	// Name is "imap", "imaps", "pop3", "pop3s" or "managesieve".
	Name string
	Addr net.Addr
}

// Server is one proxy. Serve accepts; Shutdown must be called in the end.
type Server struct {
	cfg       Config
	deps      Deps
	dir       Directory
	log       *slog.Logger
	metrics   *metrics
	tls       map[string]*tls.Config // by protocol; nil without a certificate
	nets      []netip.Prefix         // plaintext_from
	seed      maphash.Seed
	registry  *registry
	gate      *gate
	delay     *loginDelay // of POP3
	listeners []listener
	buffers   bufferPool
	deflater  deflate.Deflater
	links     *links
	resumes   *pacing
	parked    atomic.Int64  // bytes of sessions that wait to be resumed
	tries     atomic.Uint64 // Hellos sent: wire.Hello.Try

	// mu makes sure that no connection is admitted once draining is set.
	mu          sync.Mutex
	draining    atomic.Bool
	connections sync.WaitGroup
	unsubscribe func()
}

type listener struct {
	net.Listener
	name     string
	protocol string
	secure   bool // TLS comes first
}

// New checks cfg, reads the certificate and listens, but accepts nobody before
// Serve. Its error names the setting, file or address at fault.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return Assemble(cfg, deps)
}

// Assemble is New without the check of the settings: with no address in them it
// makes a proxy that a simulation asks by Find.
func Assemble(cfg Config, deps Deps) (*Server, error) {
	if deps.Directory == nil || deps.Guard == nil || deps.Dial == nil || deps.Log == nil || deps.Node == "" {
		return nil, errors.New("proxy: Deps are not complete")
	}
	if len(cfg.ManageSieve) > 0 && len(deps.Sieve.Extensions) == 0 {
		return nil, errors.New("proxy: managesieve: Deps.Sieve has no extensions")
	}
	if deps.Metrics == nil {
		deps.Metrics = prometheus.NewRegistry()
	}
	nets, err := cfg.plaintextNets()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, deps: deps, dir: deps.Directory, log: deps.Log, metrics: newMetrics(deps.Metrics),
		tls: map[string]*tls.Config{}, nets: nets, seed: maphash.MakeSeed(),
		registry: newRegistry(deps.Node), gate: newGate(cfg), delay: newLoginDelay(cfg.POP3LoginDelay),
		resumes: newPacing(cfg.ResumeConcurrency),
	}
	if cfg.CertFile != "" {
		cert, err := loadCertificate(cfg.CertFile, cfg.KeyFile, deps.Log)
		if err != nil {
			return nil, err
		}
		telemetry.NewMetrics(deps.Metrics, "proxy").GaugeFunc("certificate_expires_timestamp_seconds",
			"When the clients' certificate ends, in Unix time.", cert.expires)
		for _, protocol := range protocols {
			s.tls[protocol] = cert.config(protocol)
		}
	}
	if err := s.listen(); err != nil {
		s.closeListeners()
		return nil, err
	}
	s.links = newLinks(s.dialNode, deps.Log, frames.Options{HandOff: true})
	s.unsubscribe = s.dir.Subscribe(s.watch)
	return s, nil
}

func (s *Server) listen() error {
	// Set on the listener, for Linux hands it on to what is accepted, instead of four times on
	// each connection (tcp(7)).
	for _, kind := range []struct {
		name, protocol string
		secure         bool
		addresses      []string
	}{
		{"imap", protoIMAP, false, s.cfg.IMAP}, {"imaps", protoIMAP, true, s.cfg.IMAPS},
		{"pop3", protoPOP3, false, s.cfg.POP3}, {"pop3s", protoPOP3, true, s.cfg.POP3S},
		{"managesieve", protoManageSieve, false, s.cfg.ManageSieve},
	} {
		for _, address := range kind.addresses {
			lc := net.ListenConfig{KeepAlive: -1, Control: patient}
			if kind.protocol == protoPOP3 {
				lc.Control = impatient
			}
			ln, err := lc.Listen(context.Background(), "tcp", address)
			if err != nil {
				return fmt.Errorf("proxy: %s: %w", kind.name, err)
			}
			s.listeners = append(s.listeners, listener{Listener: ln, name: kind.name, protocol: kind.protocol, secure: kind.secure})
		}
	}
	return nil
}

// patient asks a silent peer after 2 minutes, every 30 seconds, 4 times: a phone sleeps well.
func patient(_, _ string, c syscall.RawConn) error {
	return keepAlive(c, [][2]int{{unix.TCP_KEEPIDLE, 120}, {unix.TCP_KEEPINTVL, 30}, {unix.TCP_KEEPCNT, 4}})
}

// impatient gives up a peer that the network does not reach for a minute, whether it is idle or
// in the middle of a message: its session has the maildrop, and it comes again.
func impatient(_, _ string, c syscall.RawConn) error {
	return keepAlive(c, [][2]int{{unix.TCP_KEEPIDLE, 20}, {unix.TCP_KEEPINTVL, 10}, {unix.TCP_KEEPCNT, 4}, {unix.TCP_USER_TIMEOUT, 60_000}})
}

func keepAlive(c syscall.RawConn, options [][2]int) error {
	var err error
	set := func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		for _, o := range options {
			err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, o[0], o[1]))
		}
	}
	return errors.Join(c.Control(set), err)
}

func (s *Server) closeListeners() {
	for _, l := range s.listeners {
		_ = l.Close() // closing twice is an error of no interest
	}
}

// Addrs are the addresses listened on, in the order of the configuration.
func (s *Server) Addrs() []Address {
	addrs := make([]Address, 0, len(s.listeners))
	for _, l := range s.listeners {
		addrs = append(addrs, Address{Name: l.name, Addr: l.Addr()})
	}
	return addrs
}

// Sessions is how many clients are connected, logged in or not.
func (s *Server) Sessions() int { return s.registry.len() }

// mayPlaintext reports whether a client may log in without TLS.
func (s *Server) mayPlaintext(addr netip.Addr) bool {
	return s.cfg.AllowPlaintext || slices.ContainsFunc(s.nets, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// Serve accepts clients until ctx ends or Shutdown is called, and then returns
// nil. The end of ctx stops the accepting only: sessions go on until Shutdown.
func (s *Server) Serve(ctx context.Context) error {
	unhook := context.AfterFunc(ctx, s.closeListeners)
	defer unhook()
	// Sessions outlive ctx; Shutdown ends them one by one.
	base := context.WithoutCancel(ctx)
	var accepting sync.WaitGroup
	errs := make(chan error, len(s.listeners))
	for _, l := range s.listeners {
		accepting.Go(func() {
			if err := s.accept(ctx, base, l); err != nil {
				errs <- err
				s.closeListeners()
			}
		})
	}
	accepting.Wait()
	close(errs)
	return <-errs
}

func (s *Server) accept(ctx, base context.Context, l listener) error {
	for wait := time.Duration(0); ; {
		conn, err := l.Accept()
		switch {
		case err == nil:
			wait = 0
			s.admit(base, conn, l)
		case ctx.Err() != nil || s.draining.Load():
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("proxy: %s: %w", l.name, err)
		default:
			// Mostly a shortage of descriptors or memory, which passes.
			wait = min(max(2*wait, 5*time.Millisecond), time.Second)
			s.log.Warn("accept failed", "listener", l.name, "error", err, "retry_in", wait)
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			}
		}
	}
}

// admit starts the goroutine of a connection, or turns it away.
func (s *Server) admit(base context.Context, conn net.Conn, l listener) {
	place, full := s.gate.enter(addrPort(conn.RemoteAddr()).Addr())
	if full != "" {
		s.metrics.turnedAway.WithLabelValues(full).Inc()
		s.turnAway(conn, l)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Load() {
		place.leave()
		s.turnAway(conn, l)
		return
	}
	s.metrics.open.Inc()
	s.connections.Go(func() {
		defer s.metrics.open.Dec()
		s.serve(base, conn, l, place)
	})
}

// turnAway says why, where that fits, in one write that cannot block.
func (s *Server) turnAway(conn net.Conn, l listener) {
	if !l.secure && conn.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
		text := "* BYE [UNAVAILABLE] Too many connections.\r\n"
		switch l.protocol {
		case protoPOP3:
			text = "-ERR [SYS/TEMP] Too many connections.\r\n"
		case protoManageSieve:
			text = managesieve.Busy
		}
		_, _ = io.WriteString(conn, text) // a courtesy
	}
	_ = conn.Close()
}

// Shutdown drains: it stops accepting, ends connections that have not logged
// in, gives sessions until ctx ends, and drain_wait at most, to end by
// themselves, and then ends them, IMAP's with BYE. It returns when all are
// gone, or ErrSessionsLeft.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.draining.Store(true)
	s.mu.Unlock()
	s.closeListeners()
	defer s.unsubscribe()
	defer s.links.close()
	s.registry.endAll(errShutdown, true)
	gone := make(chan struct{})
	go func() {
		s.connections.Wait()
		close(gone)
	}()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DrainWait)
	defer cancel()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	s.registry.endAll(errShutdown, false)
	t := time.NewTimer(abortWait)
	defer t.Stop()
	select {
	case <-gone:
		return nil
	case <-t.C:
		return fmt.Errorf("%w: %d", ErrSessionsLeft, s.registry.len())
	}
}
