package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/login"
	"waypost/internal/telemetry"
	"waypost/proxy/managesieve"
)

// Deps are what a Server works with; all but Metrics are needed, and Sieve where
// the configuration has an address for ManageSieve.
type Deps struct {
	// Node is this proxy's id, like "p1".
	Node      string
	Directory Directory
	Guard     Guard
	Dial      Dialer
	Log       *slog.Logger
	Metrics   prometheus.Registerer
	// Sieve is what the backends' Sieve can do, as ManageSieve clients are told
	// before they log in.
	Sieve managesieve.Capabilities
	// Jitter spreads what many sessions would do at once; nil: at random between
	// d/2 and 3d/2.
	Jitter func(d time.Duration) time.Duration
}

// Directory is what a proxy asks of the directory; *cache.Client is one.
type Directory interface {
	// Location and Account answer from memory.
	Location(u director.User) (rec director.Record, known, stale bool)
	Account(u director.User) (acct director.Account, version int64, known bool)
	Backend(id director.BackendID) (director.Backend, bool)
	// Fresh reads linearizably; errors wrap ErrNotFound or ErrUnavailable.
	Fresh(ctx context.Context, u director.User) (director.Record, error)
	// WaitChange waits for an epoch above after.
	WaitChange(ctx context.Context, u director.User, after director.Epoch) (director.Record, error)
	// Subscribe calls fn, which does not block, with every change. A change
	// without a key means that anything may be different.
	Subscribe(fn func(director.Change)) (cancel func())
}

// Guard decides about passwords and counts connections; *login.Guard is one.
type Guard interface {
	Login(ctx context.Context, a login.Attempt) (login.Account, error)
	Acquire(user string, addr netip.Addr) (release func(), err error)
}

// Dialer opens a connection to the node listener of a Waypost backend, proved
// to be that backend, for the session protocol.
type Dialer func(ctx context.Context, id director.BackendID, addr string) (net.Conn, error)

// ClusterDialer dials as the cluster's node id.
func ClusterDialer(id *cluster.Identity) Dialer {
	return func(ctx context.Context, b director.BackendID, addr string) (net.Conn, error) {
		c, err := id.Dial(ctx, addr, cluster.Peer{Role: cluster.RoleBackend, ID: string(b)}, cluster.ProtoSession)
		if err != nil {
			return nil, err // never a nil *tls.Conn in the interface
		}
		return c, nil
	}
}

// ObserveLogins counts a Guard's outcomes, "remembered" among them, for
// login.Options.Observe.
func ObserveLogins(reg prometheus.Registerer, role string) func(login.Outcome) {
	decisions := telemetry.NewMetrics(reg, role).CounterVec("login_decisions_total",
		"Decisions about names and passwords by how they came about.", "outcome")
	return func(o login.Outcome) { decisions.WithLabelValues(string(o)).Inc() }
}
