package up

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/cluster"
)

const (
	demoDomain   = "example.test"
	demoPassword = "waypost"
	demoWithin   = 30 * time.Second
)

var demoUsers = []string{"alice@example.test", "bob@example.test", "carol@example.test"}

// demo makes a domain and some users through the admin API, as an operator
// would. What is there already stays.
func (l layout) demo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, demoWithin)
	defer cancel()
	id, err := cluster.LoadIdentity(filepath.Join(l.pki(), cluster.AuthorityCert), cluster.CertPath(l.pki(), adminPeer), cluster.KeyPath(l.pki(), adminPeer))
	if err != nil {
		return err
	}
	c := admin.NewClient(l.addr(portAdmin), id)
	defer c.Close()
	if _, err := c.CreateDomain(ctx, demoDomain); err != nil && !errors.Is(err, director.ErrExists) {
		return err
	}
	for _, u := range demoUsers {
		if err := patiently(ctx, func() error {
			_, err := c.CreateUser(ctx, admin.CreateUser{User: u, Password: demoPassword, QuotaBytes: 1 << 30})
			return err
		}); err != nil && !errors.Is(err, director.ErrExists) {
			return err
		}
	}
	return nil
}

// patiently waits for backends that have just started to be seen alive.
func patiently(ctx context.Context, try func() error) error {
	for {
		err := try()
		if !errors.Is(err, admin.ErrNoRoom) && !errors.Is(err, director.ErrUnavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
