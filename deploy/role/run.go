package role

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/director"
	"waypost/director/cache"
	"waypost/director/etcd"
	"waypost/director/member"
	"waypost/internal/auth"
	"waypost/internal/cluster"
	"waypost/internal/login"
	"waypost/internal/telemetry"
)

func backendID(id string) director.BackendID { return director.BackendID(id) }

// Run runs one role until ctx ends, and returns when it has drained. ready is
// called once, when the role serves.
func Run(ctx context.Context, c Config, logTo io.Writer, ready func()) error {
	log, err := telemetry.NewLogger(logTo, orText(c.Node.LogFormat), orInfo(c.Node.LogLevel))
	if err != nil {
		return err
	}
	return Start(ctx, c, log, ready)
}

func orText(s string) string {
	if s == "" {
		return "text"
	}
	return s
}

func orInfo(s string) string {
	if s == "" {
		return "info"
	}
	return s
}

// base is what every role stands on.
type base struct {
	cfg     Config
	role    cluster.Role
	id      *cluster.Identity
	log     *slog.Logger
	reg     *prometheus.Registry
	dir     *director.Directory
	cache   *cache.Client
	members *member.Node
	metrics *telemetry.Server
	// load is what a backend gossips; nil for others. It is set by the tier.
	mu   sync.Mutex
	load func() member.Load
}

// tier is a role's own part.
type tier struct {
	serve func(ctx context.Context) error
	ready <-chan struct{} // nil: ready at once
}

// Start is Run with a logger.
func Start(ctx context.Context, c Config, log *slog.Logger, ready func()) error {
	c = c.fill()
	role, err := c.Role()
	if err != nil {
		return err
	}
	if err := c.Validate(role); err != nil {
		return err
	}
	b := &base{cfg: c, role: role, reg: telemetry.NewRegistry()}
	if b.id, err = b.identity(); err != nil {
		return err
	}
	b.log = log.With("node", b.id.Self().String())
	// What the tiers stand on ends after them.
	under, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	store, err := b.openStore(under)
	if err != nil {
		return err
	}
	defer store.Close()
	b.dir = director.New(store)
	if b.cache, err = cache.Open(under, cache.Options{Store: store, Snapshot: c.Directory.Snapshot, Log: b.log, Metrics: b.reg}); err != nil {
		return err
	}
	defer b.cache.Close()
	if err := b.openMetrics(); err != nil {
		return err
	}
	t, err := b.newTier()
	if err != nil {
		return errors.Join(err, b.metrics.close())
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if b.metrics != nil {
		wg.Go(func() {
			if err := b.metrics.Serve(); err != nil {
				b.log.Error("metrics", "error", err)
			}
		})
		defer b.metrics.Shutdown(context.WithoutCancel(ctx))
	}
	if err := b.join(ctx); err != nil {
		return err
	}
	defer b.leave()
	wg.Go(func() { whenReady(ctx, b, t, ready) })
	return t.serve(ctx)
}
