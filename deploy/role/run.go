package role

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
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
	"waypost/proxy"
)

func backendID(id string) director.BackendID { return director.BackendID(id) }

// Run runs one role until ctx ends, and returns when it has drained. ready is
// called once, when the role serves.
func Run(ctx context.Context, c Config, logTo io.Writer, ready func()) error {
	log, err := telemetry.NewLogger(logTo, orText(c.Node.LogFormat), orInfo(c.Node.LogLevel))
	if err != nil {
		return err
	}
	if role, err := c.Role(); err == nil && role == cluster.RoleBackend {
		var wg sync.WaitGroup
		defer wg.Wait()
		tuned, stop := context.WithCancel(ctx)
		defer stop()
		wg.Go(func() { allowGarbage(tuned) })
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
	store   director.Store
	dir     *director.Directory
	cache   *cache.Client
	members *member.Node
	metrics *telemetry.Server
	// load is what a backend gossips, once there is a backend.
	load atomic.Pointer[func() member.Load]
	// hooks are for tests.
	hooks Hooks
}

// Hooks let tests see and stop what a role does. The zero value is none.
type Hooks struct {
	// MoverAt is rebalance.Deps.At.
	MoverAt func(u director.User, point string)
}

// tier is a role's own part.
type tier struct {
	serve func(ctx context.Context) error
	ready <-chan struct{} // nil: ready at once
}

// Start is Run with a logger.
func Start(ctx context.Context, c Config, log *slog.Logger, ready func()) error {
	return StartWith(ctx, c, log, ready, Hooks{})
}

// StartWith is Start with hooks.
func StartWith(ctx context.Context, c Config, log *slog.Logger, ready func(), hooks Hooks) error {
	c = c.fill()
	role, err := c.Role()
	if err != nil {
		return err
	}
	if err := c.Validate(role); err != nil {
		return err
	}
	b := &base{cfg: c, role: role, reg: telemetry.NewRegistry(), hooks: hooks}
	if b.id, err = c.identity(role); err != nil {
		return err
	}
	b.log = log.With("node", b.id.Self().String())
	// What the tier stands on ends after it.
	under, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	if b.store, err = c.openStore(under, b.id, b.log); err != nil {
		return err
	}
	defer b.store.Close()
	b.dir = director.New(b.store)
	if role == cluster.RoleDirector {
		// A new directory is made before anything reads it. With etcd away the
		// director starts all the same, and tries again.
		first, cancel := context.WithTimeout(ctx, endWithin)
		if err := b.initDirectoryOnce(first, telemetry.NewID); err != nil {
			b.log.Warn("waiting for the directory", "error", err)
		}
		cancel()
	}
	if b.cache, err = cache.Open(under, cache.Options{Store: b.store, Snapshot: c.Directory.Snapshot, Log: b.log, Metrics: b.reg}); err != nil {
		return err
	}
	defer b.cache.Close()
	if err := b.join(under); err != nil {
		return err
	}
	defer b.leave()
	return b.run(ctx, ready)
}

// run serves metrics and the tier until ctx ends.
func (b *base) run(ctx context.Context, ready func()) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	if err := b.serveMetrics(&wg); err != nil {
		return err
	}
	defer b.stopMetrics()
	t, err := b.newTier()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() {
		select {
		case <-t.ready:
		case <-ctx.Done():
			return
		}
		if b.role != cluster.RoleBackend && b.cache.WaitReady(ctx) != nil {
			return
		}
		if ready != nil {
			ready()
		}
	})
	return t.serve(ctx)
}

func (b *base) serveMetrics(wg *sync.WaitGroup) error {
	if b.cfg.Node.Metrics == "" {
		return nil
	}
	var opts []telemetry.Option
	if b.cfg.Node.Pprof {
		opts = append(opts, telemetry.WithPprof())
	}
	s, err := telemetry.NewServer(b.cfg.Node.Metrics, b.reg, b.log, opts...)
	if err != nil {
		return err
	}
	s.Ready("directory", b.cache.Ready)
	s.Ready("certificate", b.id.Health)
	b.metrics = s
	wg.Go(func() {
		if err := s.Serve(); err != nil {
			b.log.Error("metrics", "error", err)
		}
	})
	return nil
}

// endWithin bounds what comes after a role's own drain.
const endWithin = 5 * time.Second

func (b *base) stopMetrics() {
	if b.metrics == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), endWithin)
	defer cancel()
	if err := b.metrics.Shutdown(ctx); err != nil {
		b.log.Warn("metrics", "error", err)
	}
}

// identity loads the node's certificate, which must be the role's and the id's.
func (c Config) identity(role cluster.Role) (*cluster.Identity, error) {
	id, err := cluster.LoadIdentity(c.Node.CA, c.Node.Cert, c.Node.Key)
	if err != nil {
		return nil, err
	}
	if want := (cluster.Peer{Role: role, ID: c.Node.ID}); id.Self() != want {
		return nil, fmt.Errorf("node.cert %s is of %s, this is %s: use the certificate that was issued for it (`waypost init node %s`)", c.Node.Cert, id.Self(), want, want)
	}
	return id, nil
}

// etcdTLS is how etcd is reached.
func (c Config) etcdTLS(id *cluster.Identity) (*tls.Config, error) {
	d := c.Directory
	switch d.TLS {
	case "", "cluster":
		return id.TLSForEtcd(), nil
	case "none":
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if d.CA != "" {
		pem, err := os.ReadFile(d.CA)
		if err != nil {
			return nil, fmt.Errorf("directory.ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("directory.ca: no certificate in %s", d.CA)
		}
	}
	if d.Cert != "" {
		pair, err := tls.LoadX509KeyPair(d.Cert, d.Key)
		if err != nil {
			return nil, fmt.Errorf("directory.cert, directory.key: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

func (c Config) openStore(ctx context.Context, id *cluster.Identity, log *slog.Logger) (director.Store, error) {
	t, err := c.etcdTLS(id)
	if err != nil {
		return nil, err
	}
	o := etcd.Options{Endpoints: c.Directory.Endpoints, TLS: t, Username: c.Directory.Username, Prefix: c.Directory.Prefix, Log: log}
	if c.Directory.PasswordFile != "" {
		pw, err := os.ReadFile(c.Directory.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("directory.password_file: %w", err)
		}
		o.Password = strings.TrimSpace(string(pw))
	}
	return etcd.Open(ctx, o)
}

// join makes the node known by gossip.
func (b *base) join(ctx context.Context) error {
	key, err := member.LoadKey(b.cfg.Gossip.KeyFile)
	if err != nil {
		return err
	}
	node := b.cfg.Node.Advertise
	if node == "" {
		node = b.cfg.Node.Listen
	}
	o := member.Options{Name: b.id.Self().String(), Node: node, Bind: b.cfg.Gossip.Listen, Advertise: b.cfg.Gossip.Advertise,
		Seeds: b.cfg.Gossip.Seeds, Key: key, Log: b.log}
	if b.role == cluster.RoleBackend {
		o.Load = func() member.Load {
			if f := b.load.Load(); f != nil {
				return (*f)()
			}
			return member.Load{}
		}
	}
	b.members, err = member.Join(ctx, o)
	return err
}

func (b *base) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), endWithin)
	defer cancel()
	if err := b.members.Leave(ctx); err != nil {
		b.log.Warn("leave", "error", err)
	}
}

// guard makes the login guard of proxies and submission.
func (b *base) guard() (*login.Guard, error) {
	l := b.cfg.Login
	if l.MaxHashes == 0 {
		l.MaxHashes = max(1, runtime.NumCPU()/2)
	}
	if l.MaxHashMemory == 0 {
		l.MaxHashMemory = 512 << 20
	}
	g, err := login.New(login.Options{
		Lookup: proxy.Lookup(b.cache, b.dir), Hasher: auth.NewHasher(l.MaxHashes, max(l.MaxHashMemory, auth.MaxMemoryBytes)), RememberFor: l.Remember,
		MaxPerUser: l.MaxPerUser, MaxPerAddress: l.MaxPerAddress, MaxPerUserAddress: l.MaxPerUserAddress, Observe: proxy.ObserveLogins(b.reg, string(b.role)),
	})
	if err != nil {
		return nil, err
	}
	b.cache.Subscribe(func(c director.Change) {
		if u, ok := strings.CutPrefix(c.Key, director.PrefixAccount); ok {
			g.Forget(u)
		}
	})
	return g, nil
}
