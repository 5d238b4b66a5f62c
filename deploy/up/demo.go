package up

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/cluster"
)

const (
	demoDomain   = "example.test"
	demoPassword = "waypost"
	demoWithin   = time.Minute
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
	if err := backendsKnown(ctx, c); err != nil {
		return err
	}
	known, err := c.Domains(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(known, func(d admin.Domain) bool { return d.Domain == demoDomain }) {
		if _, err := c.CreateDomain(ctx, demoDomain); err != nil && !errors.Is(err, director.ErrExists) {
			return err
		}
	}
	for _, u := range demoUsers {
		if _, err := c.User(ctx, director.User(u)); !errors.Is(err, director.ErrNotFound) {
			if err != nil {
				return err
			}
			continue
		}
		_, err := c.CreateUser(ctx, admin.CreateUser{User: u, Password: demoPassword, QuotaBytes: 1 << 30})
		if err != nil && !errors.Is(err, director.ErrExists) {
			return err
		}
	}
	return nil
}

// backendsKnown waits until the director has heard of every backend's room by
// gossip: only then are users spread.
func backendsKnown(ctx context.Context, c *admin.Client) error {
	for {
		bs, err := c.Backends(ctx)
		if err != nil && !errors.Is(err, director.ErrUnavailable) {
			return err
		}
		known := 0
		for _, b := range bs {
			if b.Alive != nil && *b.Alive && b.CapacityBytes != nil {
				known++
			}
		}
		if known == backends {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d backends are known by gossip: %w", known, backends, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
