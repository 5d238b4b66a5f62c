package role

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"waypost/backend"
	"waypost/backend/sieve"
	"waypost/director"
	"waypost/director/member"
	"waypost/director/server"
	"waypost/internal/cluster"
	"waypost/internal/telemetry"
	"waypost/mx"
	"waypost/proxy"
	"waypost/proxy/managesieve"
	"waypost/rebalance"
)

// newTier makes the role's own part on its base.
func (b *base) newTier() (tier, error) {
	switch b.role {
	case cluster.RoleDirector:
		return b.newDirector()
	case cluster.RoleBackend:
		return b.newBackend()
	case cluster.RoleMX:
		return b.newMX()
	case cluster.RoleProxy:
		return b.newProxy()
	case cluster.RoleRebalance:
		return b.newMover()
	}
	return tier{}, fmt.Errorf("no such role: %s", b.role)
}

var atOnce = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

func (b *base) newBackend() (tier, error) {
	s, err := backend.New(*b.cfg.Backend, backend.Deps{Identity: b.id, Directory: b.dir, Cache: b.cache, Log: b.log, Metrics: b.reg, MX: b.mxNodes})
	if err != nil {
		return tier{}, err
	}
	load := func() member.Load {
		users, sessions, used, capacity := s.Load()
		return member.Load{Users: users, Sessions: sessions, UsedBytes: used, CapacityBytes: capacity}
	}
	b.load.Store(&load)
	return tier{serve: s.Serve, ready: s.Ready()}, nil
}

// mxNodes are the mx hosts that are alive, by the addresses of their listeners.
func (b *base) mxNodes() map[string]cluster.Peer {
	nodes := map[string]cluster.Peer{}
	for _, m := range b.members.Members() {
		if m.Role == cluster.RoleMX && m.Alive && m.Node != "" {
			nodes[m.Node] = m.Peer()
		}
	}
	return nodes
}

func (b *base) newMover() (tier, error) {
	s, err := rebalance.New(*b.cfg.Rebalance, rebalance.Deps{Identity: b.id, Directory: b.dir, Log: b.log, Metrics: b.reg, At: b.hooks.MoverAt})
	return tier{serve: s.Serve, ready: atOnce}, err
}

// liveness is membership as the mx sees it.
type liveness struct{ members *member.Node }

// Alive believes that a backend lives unless it was seen to die.
func (l liveness) Alive(id director.BackendID) bool {
	alive, known := l.members.Alive(cluster.RoleBackend, string(id))
	return alive || !known
}

// OnUp calls fn when a backend is seen alive.
func (l liveness) OnUp(fn func(director.BackendID)) (cancel func()) {
	return l.members.Subscribe(func(e member.Event) {
		if e.Kind == member.Up && e.Member.Role == cluster.RoleBackend {
			fn(director.BackendID(e.Member.ID))
		}
	})
}

// node runs a node listener with control calls beside a tier that has none of
// its own: serve runs the tier, and shut ends it within a bound of its own.
func (b *base) node(control http.Handler, serve func(context.Context) error, shut func(context.Context) error) (tier, error) {
	mux, err := b.id.Listen(b.cfg.Node.Listen, b.log)
	if err != nil {
		return tier{}, err
	}
	mux.HandleHTTP(cluster.ProtoControl, []cluster.Role{cluster.RoleDirector, cluster.RoleAdmin, cluster.RoleBackend}, control)
	run := func(ctx context.Context) error {
		var wg sync.WaitGroup
		defer wg.Wait()
		nodeCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
		defer stop()
		wg.Go(func() {
			if err := mux.Serve(nodeCtx); err != nil && !errors.Is(err, cluster.ErrMuxClosed) {
				b.log.Error("node listener", "error", err)
			}
		})
		err := serve(ctx)
		err = errors.Join(err, shut(context.WithoutCancel(ctx)))
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endWithin)
		defer cancel()
		if serr := mux.Shutdown(end); serr != nil && !errors.Is(serr, context.DeadlineExceeded) {
			err = errors.Join(err, serr)
		}
		return err
	}
	return tier{serve: run, ready: atOnce}, nil
}

// sieveCapabilities are what every backend of this version understands: the proxy
// announces them before it knows the user.
var sieveCapabilities = managesieve.Capabilities{
	Extensions: sieve.Extensions(), Notify: sieve.NotifyMethods(), MaxRedirects: backend.MaxRedirects,
}

func (b *base) newProxy() (tier, error) {
	guard, err := b.guard()
	if err != nil {
		return tier{}, err
	}
	s, err := proxy.New(*b.cfg.Proxy, proxy.Deps{Node: b.cfg.Node.ID, Directory: b.cache, Guard: guard, Dial: proxy.ClusterDialer(b.id), Sieve: sieveCapabilities, Log: b.log, Metrics: b.reg})
	if err != nil {
		return tier{}, err
	}
	return b.node(s.Control(), s.Serve, s.Shutdown)
}

func (b *base) newMX() (tier, error) {
	guard, err := b.guard()
	if err != nil {
		return tier{}, err
	}
	s, err := mx.New(*b.cfg.MX, mx.Deps{Directory: b.cache, Dialer: mx.ClusterDialer{Identity: b.id}, Liveness: liveness{b.members}, Authenticator: guard, Log: b.log, Metrics: b.reg})
	if err != nil {
		return tier{}, err
	}
	return b.node(s.Control(), s.Serve, s.Shutdown)
}

func (b *base) newDirector() (tier, error) {
	s, err := server.New(*b.cfg.Director, server.Deps{Identity: b.id, Directory: b.dir, Cache: b.cache, Members: b.members, Log: b.log, Metrics: b.reg})
	if err != nil {
		return tier{}, err
	}
	ready := make(chan struct{})
	serve := func(ctx context.Context) error {
		if err := b.initDirectory(ctx); err != nil {
			return err
		}
		close(ready)
		return s.Serve(ctx)
	}
	return tier{serve: serve, ready: ready}, nil
}

// initDirectory makes schema and era when the directory is new. It is the
// director's to do; all others wait for it.
func (b *base) initDirectory(ctx context.Context) error {
	for {
		err := b.initDirectoryOnce(ctx, telemetry.NewID)
		if err == nil || ctx.Err() != nil || errors.Is(err, director.ErrInvalid) {
			return err
		}
		b.log.Warn("waiting for the directory", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}
