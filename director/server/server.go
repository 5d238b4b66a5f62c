// Package server is the director role: the admin API of director/admin, a
// status page for browsers, and look-ups for foreign software.
//
// It owns no state. Everything it changes is one guarded transaction in the
// directory (R6), and a new user's mailbox is made at its home before its
// record is published (R12); so any number of directors may run, and one that
// dies in the middle of a request leaves nothing half done that matters: at
// worst an empty mailbox that nobody is sent to. A move is only written down
// here; movers carry it out.
//
// Who may call is decided by certificates: the admin listener takes the roles
// admin and director, the node listener (look-ups only) the same. Every change
// leaves one line in the log that names the certificate's holder. Passwords
// come over mutual TLS, are hashed here, and are neither kept nor logged.
//
// Reads of one user, domain or move are linearizable; lists, counts and the
// status come from the watch-fed cache and still work without the store.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"

	"waypost/director"
	"waypost/director/cache"
	"waypost/director/member"
	"waypost/internal/cluster"
)

// Members is what a director asks of the membership; *member.Node is one.
type Members interface {
	Members() []member.Member
	Member(role cluster.Role, id string) (member.Member, bool)
}

var _ Members = (*member.Node)(nil)

// Deps is what a director is given. All are required.
type Deps struct {
	Identity  *cluster.Identity
	Directory *director.Directory
	Cache     *cache.Client
	Members   Members
	Log       *slog.Logger
	Metrics   prometheus.Registerer
}

// Server is a director. New, then Serve once.
type Server struct {
	cfg     Config
	id      *cluster.Identity
	dir     *director.Directory
	cache   *cache.Client
	members Members
	log     *slog.Logger

	nodes   *nodes
	census  *census
	placer  *placer
	moves   *moveTracker
	metrics *metrics
	hashing chan struct{} // one place for each password that may be hashed at once
	// grouping is the lock of what changes sharing groups and where they live.
	grouping chan struct{}

	// creating is held for reading while a user is published, and for writing
	// while a domain or backend is proved to be empty and removed.
	creating sync.RWMutex
	lastTime atomic.Int64 // unix nanoseconds; see uniqueNow

	mux      *cluster.Mux
	admin    net.Listener
	http     *http.Server
	base     context.Context // requests' context; ends when they must
	abort    context.CancelFunc
	draining context.Context // ends when streams should come to an end
	drain    context.CancelFunc
}

// New opens the listeners; nobody is answered before Serve. The error names
// the address or setting at fault.
func New(cfg Config, d Deps) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if self := d.Identity.Self(); self != (cluster.Peer{Role: cluster.RoleDirector, ID: cfg.ID}) {
		return nil, fmt.Errorf("director %s: the certificate is that of %s", cfg.ID, self)
	}
	s := &Server{
		cfg: cfg, id: d.Identity, dir: d.Directory, cache: d.Cache, members: d.Members, log: d.Log,
		nodes: newNodes(d.Identity), hashing: make(chan struct{}, cfg.MaxHashes), grouping: make(chan struct{}, 1),
	}
	s.census = &census{users: d.Cache.Users}
	s.placer = newPlacer(s.census)
	s.moves = newMoveTracker(d.Directory, d.Log)
	s.base, s.abort = context.WithCancel(context.Background())
	s.draining, s.drain = context.WithCancel(s.base)
	var err error
	if s.metrics, err = newMetrics(d.Metrics, s); err != nil {
		return nil, fmt.Errorf("director %s: %w", cfg.ID, err)
	}
	if err := s.listen(); err != nil {
		s.abort()
		s.metrics.unregister()
		return nil, fmt.Errorf("director %s: %w", cfg.ID, err)
	}
	return s, nil
}

func (s *Server) listen() error {
	var err error
	if s.mux, err = s.id.Listen(s.cfg.Listen, s.log); err != nil {
		return err
	}
	roles := []cluster.Role{cluster.RoleAdmin, cluster.RoleDirector}
	s.mux.HandleHTTP(cluster.ProtoControl, roles, s.lookupRoutes())
	ln, err := net.Listen("tcp", s.cfg.Admin)
	if err != nil {
		return errors.Join(fmt.Errorf("admin listener: %w", err), s.mux.Close())
	}
	s.admin = tls.NewListener(netutil.LimitListener(ln, s.cfg.MaxConnections), s.id.ServerTLS(roles...))
	s.http = &http.Server{
		Handler:           s.id.WithPeer(http.NewCrossOriginProtection().Handler(s.routes())),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return s.base },
	}
	return nil
}

// AdminAddr is the address of the admin API, host:port.
func (s *Server) AdminAddr() string { return s.admin.Addr().String() }

// NodeAddr is the address of the node listener, host:port.
func (s *Server) NodeAddr() string { return s.mux.Addr().String() }

// Serve answers until ctx ends; then it stops accepting, lets requests end for
// Config.DrainWait, and returns nil. It returns earlier only with an error.
func (s *Server) Serve(ctx context.Context) error {
	defer s.metrics.unregister()
	defer s.nodes.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	failed := make(chan error, 2)
	running.Go(func() { failed <- ignore(s.mux.Serve(ctx), cluster.ErrMuxClosed) })
	running.Go(func() { failed <- ignore(s.http.Serve(s.admin), http.ErrServerClosed) })
	running.Go(func() { s.moves.run(ctx, s.cache) })
	s.log.Info("director serves", "admin", s.AdminAddr(), "node", s.NodeAddr())

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	cancel()
	err = errors.Join(err, s.shutdown())
	running.Wait()
	if err != nil {
		return fmt.Errorf("director %s: %w", s.cfg.ID, err)
	}
	return nil
}

// shutdown ends both listeners and what hangs on them.
func (s *Server) shutdown() error {
	s.drain()
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.DrainWait)
	defer cancel()
	err := s.http.Shutdown(ctx)
	s.abort()
	if errors.Is(err, context.DeadlineExceeded) {
		s.log.Warn("admin requests were cut off by the stop")
		err = s.http.Close()
	}
	return errors.Join(err, s.mux.Close())
}

// Close gives up the listeners of a director that was never served.
func (s *Server) Close() error {
	s.abort()
	s.metrics.unregister()
	return errors.Join(s.admin.Close(), s.mux.Close())
}

func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// uniqueNow is a time that no other account made by this process has: an
// account's time tells two creations of one user apart, even when everything
// else is equal.
func (s *Server) uniqueNow() time.Time {
	for {
		last, now := s.lastTime.Load(), time.Now().UnixNano()
		now = max(now, last+1)
		if s.lastTime.CompareAndSwap(last, now) {
			return time.Unix(0, now).UTC()
		}
	}
}
