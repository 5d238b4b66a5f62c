// Package embedded runs an etcd member in this process: the directory of
// `waypost up`, and of tests. It is a cluster of one, with its data on disk.
//
// It owns its data folder, which it locks. What a client was told is done
// survives a crash (etcd syncs its log). Old revisions are compacted away every
// hour, and the data may grow to 8 GiB.
package embedded

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"

	"waypost/director/etcd/zaplog"
	"waypost/internal/durable"
)

const (
	memberName = "waypost"
	// quotaBytes is four times etcd's default: ten million users need 2.1 GiB.
	quotaBytes = 8 << 30
	// retention is how long a tier may be away and still catch up by its watch.
	retention = "1h"
)

// EmbedOptions of StartEmbedded.
type EmbedOptions struct {
	// Dir is made if it is not there; nobody else may use it.
	Dir string
	// ClientAddr and PeerAddr are host:port; port 0 is a free one, and ""
	// "127.0.0.1:0".
	ClientAddr, PeerAddr string
	// CertFile, KeyFile and CAFile are PEM files: clients must then show a
	// certificate of that CA. All empty: plain connections.
	CertFile, KeyFile, CAFile string
	// Readers and Writers are common names of certificates of that CA: the ones
	// may read the keys under Prefix, the others write them too, and nobody else
	// gets at anything but the member's own certificate, which may do all. Both
	// empty: whoever has a certificate may do all. Once it was switched on it
	// stays so in this data folder; names can be added, and are never taken away.
	Readers, Writers []string
	// Prefix is as in etcd.Options, "" its default.
	Prefix string
	// Log may be nil; it gets etcd's warnings and errors.
	Log *slog.Logger
}

// Embedded is a running member.
type Embedded struct {
	etcd    *embed.Etcd
	lock    *durable.DirLock
	log     *slog.Logger
	scheme  string
	running sync.WaitGroup
	closing context.Context
	hangUp  context.CancelFunc // ends closing
	close   func() error
}

// StartEmbedded starts a member and waits until it serves. Its errors are one
// line each, and say what the operator can change.
func StartEmbedded(ctx context.Context, o EmbedOptions) (*Embedded, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	closing, hangUp := context.WithCancel(context.Background())
	cfg, err := config(o, closing)
	if err != nil {
		hangUp()
		return nil, err
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		hangUp()
		return nil, err
	}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		hangUp()
		return nil, errors.Join(startError(o, err), lock.Unlock())
	}
	m := &Embedded{etcd: e, lock: lock, log: o.Log, scheme: cfg.ListenClientUrls[0].Scheme, closing: closing, hangUp: hangUp}
	m.close = sync.OnceValue(m.shut)
	m.running.Go(m.tell)
	select {
	case <-e.Server.ReadyNotify():
		if err = m.restrict(ctx, o); err == nil {
			return m, nil
		}
	case <-e.Server.StopNotify():
		err = errors.New("etcd stopped while it started; see the log")
	case <-ctx.Done():
		err = fmt.Errorf("etcd does not get ready: %w", ctx.Err())
	}
	return nil, errors.Join(err, m.Close())
}

func config(o EmbedOptions, closing context.Context) (*embed.Config, error) {
	cfg := embed.NewConfig()
	scheme := "http"
	if o.CertFile == "" && len(o.Readers)+len(o.Writers) > 0 {
		return nil, errors.New("etcd: readers and writers need a certificate")
	}
	if o.CertFile != "" {
		if o.KeyFile == "" || o.CAFile == "" {
			return nil, errors.New("etcd: a certificate needs its key and the CA")
		}
		pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("etcd: certificate %s: %w", o.CertFile, err)
		}
		if pair.Leaf.Subject.CommonName == "" {
			return nil, fmt.Errorf("etcd: certificate %s has no common name", o.CertFile)
		}
		scheme = "https"
		cfg.ClientTLSInfo = transport.TLSInfo{CertFile: o.CertFile, KeyFile: o.KeyFile, TrustedCAFile: o.CAFile, ClientCertAuth: true}
		cfg.PeerTLSInfo = cfg.ClientTLSInfo
		// Whoever gets in there speaks raft, which knows no permissions. In a
		// cluster of one nobody has to but the member itself.
		cfg.PeerTLSInfo.AllowedCNs = []string{pair.Leaf.Subject.CommonName}
	}
	client, err := address(scheme, o.ClientAddr)
	if err != nil {
		return nil, err
	}
	peer, err := address(scheme, o.PeerAddr)
	if err != nil {
		return nil, err
	}
	cfg.Name = memberName
	cfg.Dir = o.Dir
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(memberName)
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, retention
	cfg.QuotaBackendBytes = quotaBytes
	cfg.EnableGRPCGateway = false
	cfg.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainStreamInterceptor(endWith(closing))}
	cfg.LogLevel = "warn"
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zaplog.New(slog.New(untilClosing{o.Log.Handler(), closing}), slog.LevelWarn, slog.LevelError))
	return cfg, nil
}

// untilClosing drops what etcd says while it is being closed: it calls its own
// listeners' end an error.
type untilClosing struct {
	slog.Handler
	closing context.Context
}

// Enabled implements slog.Handler.
func (h untilClosing) Enabled(ctx context.Context, l slog.Level) bool {
	return h.closing.Err() == nil && h.Handler.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (h untilClosing) Handle(ctx context.Context, r slog.Record) error {
	if h.closing.Err() != nil {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h untilClosing) WithAttrs(as []slog.Attr) slog.Handler {
	return untilClosing{h.Handler.WithAttrs(as), h.closing}
}

// WithGroup implements slog.Handler.
func (h untilClosing) WithGroup(name string) slog.Handler {
	return untilClosing{h.Handler.WithGroup(name), h.closing}
}

// endWith ends streams (watches, lease keeping) when the member closes: etcd
// would wait seven seconds for their clients.
func endWith(closing context.Context) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, cancel := context.WithCancel(ss.Context())
		defer cancel()
		defer context.AfterFunc(closing, cancel)()
		return handler(srv, stream{ss, ctx})
	}
}

// stream is a ServerStream with a context of ours.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s stream) Context() context.Context { return s.ctx }

func address(scheme, addr string) (url.URL, error) {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return url.URL{}, fmt.Errorf("etcd: address %q: want host:port", addr)
	}
	return url.URL{Scheme: scheme, Host: addr}, nil
}

// lockDir makes the folder, sees that it can be written, and keeps others out:
// etcd would wait for ever for a folder that another one uses.
func lockDir(dir string) (*durable.DirLock, error) {
	if dir == "" {
		return nil, errors.New("etcd: no data folder given")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("etcd data folder cannot be made: %w", err)
	}
	probe, err := os.CreateTemp(dir, durable.TempPrefix)
	if err != nil {
		return nil, fmt.Errorf("etcd data folder %s cannot be written: %w", dir, errors.Unwrap(err))
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return nil, fmt.Errorf("etcd data folder %s cannot be written: %w", dir, err)
	}
	lock, err := durable.Lock(dir)
	if err != nil {
		return nil, fmt.Errorf("etcd: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return lock, nil
}

func startError(o EmbedOptions, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) || strings.Contains(err.Error(), "address already in use") {
		return fmt.Errorf("etcd: port of %s or %s is taken by another process", o.ClientAddr, o.PeerAddr)
	}
	return fmt.Errorf("etcd does not start: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
}

// Endpoint is where clients connect, as a URL.
func (m *Embedded) Endpoint() string { return m.scheme + "://" + m.etcd.Clients[0].Addr().String() }

// tell logs what goes wrong while serving.
func (m *Embedded) tell() {
	for {
		select {
		case err, ok := <-m.etcd.Err():
			if !ok {
				return
			}
			m.log.Error("etcd listener failed", "err", err)
		case <-m.closing.Done():
			return
		}
	}
}

// Close stops the member and waits for it. Clients lose their connections.
func (m *Embedded) Close() error { return m.close() }

func (m *Embedded) shut() error {
	m.hangUp()
	m.running.Wait()
	m.etcd.Close()
	return m.lock.Unlock()
}
