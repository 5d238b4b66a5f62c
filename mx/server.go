package mx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/emersion/go-smtp"

	"waypost/director"
	"waypost/director/cache"
	"waypost/mx/relay"
	"waypost/mx/spool"
)

// Server is an mx. Make it with New, run it with Serve.
type Server struct {
	cfg   Config
	dir   Directory
	auth  Authenticator
	log   *slog.Logger
	met   *metrics
	spool *spool.Spool
	relay *relay.Queue
	homes *homes
	slots *slots
	tls   *tls.Config

	clients   clients
	listeners []gate
	servers   []*smtp.Server
	live      Liveness

	// ctx ends what is under way when Shutdown's time is over.
	ctx      context.Context
	cancel   context.CancelFunc
	begun    atomic.Bool   // Serve, or Shutdown in its place
	down     chan struct{} // closed by the first Shutdown
	downOnce sync.Once
	ended    chan struct{} // closed when everything has ended
	serving  sync.WaitGroup
	conns    sync.WaitGroup // clients.open, and
	messages sync.WaitGroup // what they send; none is added while draining
}

// New opens the spool and the listeners. Nothing is accepted before Serve;
// Shutdown frees them even if it is never called.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return Assemble(cfg, deps)
}

// Assemble is New without the check that there is something to listen on: an
// mx that a simulation gives its messages by Take.
func Assemble(cfg Config, deps Deps) (*Server, error) {
	cfg = cfg.withDefaults()
	if deps.Directory == nil || deps.Dialer == nil || deps.Log == nil || len(cfg.Submission) > 0 && deps.Authenticator == nil {
		return nil, errors.New("mx: a dependency is missing")
	}
	if deps.Liveness == nil {
		deps.Liveness = everAlive{}
	}
	srv := &Server{cfg: cfg, dir: deps.Directory, auth: deps.Authenticator, log: deps.Log.With("mx", cfg.ID), live: deps.Liveness,
		down: make(chan struct{}), ended: make(chan struct{}), slots: newSlots(cfg.SpoolConcurrency)}
	srv.clients = clients{open: map[*guard]netip.Prefix{}, byNet: map[netip.Prefix]int{}, byKind: map[service]int{}}
	srv.homes = &homes{dir: deps.Directory, dial: deps.Dialer, live: deps.Liveness, cfg: cfg, idle: map[director.BackendID][]idleConn{}}
	srv.ctx, srv.cancel = context.WithCancel(context.Background())
	if err := srv.open(deps); err != nil {
		srv.cancel()
		srv.closeListeners()
		return nil, errors.Join(err, srv.closeQueues())
	}
	return srv, nil
}

func (srv *Server) open(deps Deps) (err error) {
	if srv.cfg.TLSCert != "" {
		if srv.tls, err = loadCertificate(srv.cfg.TLSCert, srv.cfg.TLSKey); err != nil {
			return err
		}
	}
	srv.spool, err = spool.Open(srv.cfg.SpoolDir, spool.Options{
		Log: srv.log, MemoryBytes: srv.cfg.MemoryBytes, MaxEntries: srv.cfg.SpoolMaxEntries, Concurrency: srv.cfg.SpoolConcurrency,
		MinBackoff: srv.cfg.SpoolMinBackoff, MaxBackoff: srv.cfg.SpoolMaxBackoff, Random: deps.Random,
	})
	if err != nil {
		return err
	}
	if err := srv.openRelay(deps); err != nil {
		return err
	}
	srv.met = newMetrics(deps.Metrics, srv.spool)
	for sv, addrs := range map[service][]string{inbound: srv.cfg.Listen, submission: srv.cfg.Submission} {
		for _, a := range addrs {
			ln, err := net.Listen("tcp", a)
			if err != nil {
				return fmt.Errorf("mx: %s: %w", sv, err)
			}
			srv.listeners = append(srv.listeners, gate{ln, srv, sv})
			srv.servers = append(srv.servers, srv.smtpServer(sv))
		}
	}
	return nil
}

// maxLineBytes bounds a line. go-smtp's default breaks BDAT; 64 KiB also
// bounds what a line may cost.
const maxLineBytes = 64 << 10

func (srv *Server) smtpServer(sv service) *smtp.Server {
	s := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return srv.newSession(c, sv) }))
	s.Domain = srv.cfg.Hostname
	s.MaxRecipients = srv.cfg.MaxRecipients
	s.MaxMessageBytes = srv.cfg.MaxMessageBytes
	s.MaxLineLength = maxLineBytes
	s.ReadTimeout = srv.cfg.CommandTimeout
	s.EnableSMTPUTF8 = true
	s.AllowInsecureAuth = true // TLS is the guard's; the session offers AUTH only over it
	s.ErrorLog = smtpLog{srv.log}
	// Reports go to our own users alone, and there are none of ours to be had
	// without the relay.
	s.EnableDSN = sv == submission && srv.relay.Enabled()
	return s
}

// smtpLog takes what go-smtp has to say.
type smtpLog struct{ log *slog.Logger }

func (l smtpLog) Printf(format string, v ...any) {
	l.log.Warn("smtp", "err", fmt.Sprintf(format, v...))
}
func (l smtpLog) Println(v ...any) { l.log.Warn("smtp", "err", strings.TrimSpace(fmt.Sprintln(v...))) }

// InboundAddrs and SubmissionAddrs are what is listened on, in no order.
func (srv *Server) InboundAddrs() []net.Addr { return srv.addrs(inbound) }

// SubmissionAddrs: see InboundAddrs.
func (srv *Server) SubmissionAddrs() []net.Addr { return srv.addrs(submission) }

func (srv *Server) addrs(sv service) (out []net.Addr) {
	for _, l := range srv.listeners {
		if l.service == sv {
			out = append(out, l.Addr())
		}
	}
	return out
}

// Serve takes mail and works on the spool until ctx ends, which drains as
// Shutdown does for at most Config.DrainTimeout, or until Shutdown, and returns
// when all has ended. It may be called once.
func (srv *Server) Serve(ctx context.Context) error {
	if !srv.begun.CompareAndSwap(false, true) {
		return errors.New("mx: Serve was called already, or Shutdown before it")
	}
	unsubscribe := srv.dir.Subscribe(srv.changed)
	unwatch := srv.live.OnUp(func(id director.BackendID) { srv.spool.WakeHome(id) })
	failed := make(chan error, len(srv.servers))
	for i, s := range srv.servers {
		srv.serving.Go(func() {
			err := s.Serve(srv.listeners[i])
			if err != nil && !(errors.Is(err, net.ErrClosed) && srv.draining()) {
				failed <- fmt.Errorf("mx: %w", err)
			}
		})
	}
	spoolCtx, stopSpool := context.WithCancel(srv.ctx)
	defer stopSpool()
	srv.serving.Go(func() { srv.spool.Run(spoolCtx, srv.retry) })
	srv.serving.Go(func() { srv.relay.Run(spoolCtx) })
	var err error
	select {
	case <-ctx.Done():
	case <-srv.down:
	case err = <-failed:
	}
	unwatch()
	unsubscribe()
	srv.drain()
	stopSpool()
	srv.serving.Wait()
	srv.homes.close()
	err = errors.Join(err, srv.closeQueues())
	close(srv.ended)
	return err
}

// closeQueues closes what has been opened of them.
func (srv *Server) closeQueues() (err error) {
	if srv.relay != nil {
		err = srv.relay.Close()
	}
	if srv.spool != nil {
		err = errors.Join(err, srv.spool.Close())
	}
	return err
}

// drain ends taking mail: no new clients, the idle ones are sent away, and
// messages under way are finished within DrainTimeout.
func (srv *Server) drain() {
	srv.clients.mu.Lock()
	srv.clients.draining = true
	srv.clients.mu.Unlock()
	// Ours, not go-smtp's: its Shutdown closes only those whose Serve has begun.
	srv.closeListeners()
	srv.clients.each((*guard).drain)
	ctx, cancel := context.WithTimeout(srv.ctx, srv.cfg.DrainTimeout)
	defer cancel()
	var all sync.WaitGroup
	for _, s := range srv.servers {
		all.Go(func() { s.Shutdown(ctx) })
	}
	all.Wait()
	if ctx.Err() != nil {
		srv.log.Warn("messages under way are cut")
	}
	srv.clients.mu.Lock()
	srv.cancel() // no message begins from here on
	srv.clients.mu.Unlock()
	srv.clients.each((*guard).abort)
	srv.conns.Wait()
	srv.messages.Wait()
}

func (srv *Server) draining() bool {
	srv.clients.mu.Lock()
	defer srv.clients.mu.Unlock()
	return srv.clients.draining
}

// beginMessage counts a message; false when it is too late for one.
func (srv *Server) beginMessage() bool {
	srv.clients.mu.Lock()
	defer srv.clients.mu.Unlock()
	if srv.ctx.Err() != nil {
		return false
	}
	srv.messages.Add(1)
	return true
}

// Shutdown makes Serve drain and waits for it. When ctx ends first, what is
// under way is cut: its senders get no 250.
func (srv *Server) Shutdown(ctx context.Context) error {
	if srv.begun.CompareAndSwap(false, true) { // Serve was never called
		srv.cancel()
		srv.closeListeners()
		defer close(srv.ended)
		return srv.closeQueues()
	}
	srv.downOnce.Do(func() { close(srv.down) })
	select {
	case <-srv.ended:
		return nil
	case <-ctx.Done():
	}
	srv.cancel()
	<-srv.ended
	return ctx.Err()
}

func (srv *Server) closeListeners() {
	for _, l := range srv.listeners {
		l.Close()
	}
}

// changed is told of every change of the directory.
func (srv *Server) changed(ch director.Change) {
	switch {
	case cache.IsReload(ch):
		srv.spool.WakeAll()
	case strings.HasPrefix(ch.Key, director.PrefixBackend):
		srv.spool.WakeHome(director.BackendID(strings.TrimPrefix(ch.Key, director.PrefixBackend)))
	case strings.HasPrefix(ch.Key, director.PrefixLocation) && !ch.Deleted:
		if r, err := director.DecodeRecord(ch.Value); err == nil && r.State != director.Busy {
			srv.spool.Wake(director.User(strings.TrimPrefix(ch.Key, director.PrefixLocation)))
		}
	}
}

func (srv *Server) isPostmaster(address string) bool {
	return strings.EqualFold(address, "postmaster@"+srv.cfg.Hostname)
}

func (srv *Server) alarmStale(log *slog.Logger, u director.User, rec director.Record) {
	srv.met.staleTwice.Inc()
	log.Error("ALARM: refused as stale twice at the same home and epoch", "user", u, "record", rec.String())
}
