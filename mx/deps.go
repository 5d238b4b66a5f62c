package mx

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/director"
	"waypost/director/cache"
	"waypost/internal/cluster"
	"waypost/internal/login"
)

// Directory is what the mx reads of the routing directory; *cache.Client is it.
type Directory interface {
	Resolve(ctx context.Context, address string) (cache.Resolution, error)
	Location(u director.User) (r director.Record, known, stale bool)
	Account(u director.User) (a director.Account, version int64, known bool)
	Backend(id director.BackendID) (director.Backend, bool)
	// FreshUser reads location and account at one moment.
	FreshUser(ctx context.Context, u director.User) (r director.Record, a director.Account, exists bool, err error)
	WaitChange(ctx context.Context, u director.User, after director.Epoch) (director.Record, error)
	Subscribe(fn func(director.Change)) (cancel func())
}

var _ Directory = (*cache.Client)(nil)

// Liveness tells which backends are thought to be alive. It is a hint: what it
// does not know counts as alive, and is found out by dialling.
type Liveness interface {
	Alive(id director.BackendID) bool
	// OnUp has fn called when a backend comes up. fn does not block.
	OnUp(fn func(id director.BackendID)) (cancel func())
}

// Authenticator decides about logins of the submission service; *login.Guard
// is it.
type Authenticator interface {
	Login(ctx context.Context, a login.Attempt) (login.Account, error)
}

var _ Authenticator = (*login.Guard)(nil)

// Dialer connects to a backend's LMTP service.
type Dialer interface {
	DialLMTP(ctx context.Context, id director.BackendID, b director.Backend) (net.Conn, error)
}

// Deps are the mx's surroundings. Directory, Dialer and Log are required;
// Authenticator is where Config.Submission is set. Without Liveness all
// backends count as alive.
type Deps struct {
	Directory     Directory
	Dialer        Dialer
	Liveness      Liveness
	Authenticator Authenticator
	Log           *slog.Logger
	// Metrics gets the waypost_mx_ metrics; nil: nowhere.
	Metrics prometheus.Registerer
	// Random is spool.Options.Random.
	Random func(n int64) int64
}

// ClusterDialer reaches Waypost backends by mutual TLS as Identity, and foreign
// ones by plain TCP.
type ClusterDialer struct{ Identity *cluster.Identity }

// DialLMTP implements Dialer.
func (d ClusterDialer) DialLMTP(ctx context.Context, id director.BackendID, b director.Backend) (net.Conn, error) {
	if b.Kind == director.KindDovecot {
		if b.Dovecot == nil || b.Dovecot.LMTP == "" {
			return nil, fmt.Errorf("backend %s: no lmtp address in the directory", id)
		}
		var nd net.Dialer
		return nd.DialContext(ctx, "tcp", b.Dovecot.LMTP)
	}
	c, err := d.Identity.Dial(ctx, b.Node, cluster.Peer{Role: cluster.RoleBackend, ID: string(id)}, cluster.ProtoLMTP)
	if err != nil {
		return nil, err // not c: a nil *tls.Conn in an interface is not nil
	}
	return c, nil
}

// everAlive is the Liveness of those who have none.
type everAlive struct{}

func (everAlive) Alive(director.BackendID) bool        { return true }
func (everAlive) OnUp(func(director.BackendID)) func() { return func() {} }
