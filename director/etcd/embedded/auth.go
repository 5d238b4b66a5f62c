package embedded

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"waypost/director/etcd/zaplog"
)

// The users and roles of etcd's access control. etcd demands the user root.
const (
	rootName   = "root"
	readRole   = "waypost-read"
	writeRole  = "waypost-write"
	etcdPrefix = "/waypost/" // as etcd.DefaultPrefix, which this package does not import

	// authLimit bounds each step: there are some for each node, and on a busy disk each takes long.
	authLimit = 30 * time.Second
)

// restrict switches access control on, where it is wanted: users are the common
// names of certificates, and have no passwords. All of it may be done again.
func (m *Embedded) restrict(ctx context.Context, o EmbedOptions) error {
	if len(o.Readers)+len(o.Writers) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(authLimit, func() { cancel(fmt.Errorf("no answer in %v", authLimit)) })
	defer limit.Stop()
	c, self, err := m.ownClient(o)
	if err != nil {
		return fmt.Errorf("etcd access control: %w", err)
	}
	defer c.Close()
	prefix := o.Prefix
	if prefix == "" {
		prefix = etcdPrefix
	}
	err = grantAll(ctx, c, prefix, map[string][]string{rootName: {rootName, self}, readRole: o.Readers, writeRole: o.Writers},
		func() { limit.Reset(authLimit) })
	if err == nil {
		_, err = c.AuthEnable(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("etcd access control cannot be switched on: %w", err)
	}
	return nil
}

// ownClient connects with the member's certificate, and gives its common name.
func (m *Embedded) ownClient(o EmbedOptions) (*clientv3.Client, string, error) {
	pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
	if err != nil {
		return nil, "", err
	}
	ca, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, "", err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, "", fmt.Errorf("%s holds no certificate", o.CAFile)
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{m.Endpoint()}, Context: m.closing,
		TLS:    &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{pair}},
		Logger: zaplog.New(m.log, slog.LevelDebug, slog.LevelDebug),
	})
	return c, pair.Leaf.Subject.CommonName, err
}

// grantAll sees to it that the roles are there, and each has its users. It calls step after each
// that was done.
func grantAll(ctx context.Context, c *clientv3.Client, prefix string, users map[string][]string, step func()) error {
	// Listed first: the member logs a warning for each thing asked for in vain.
	roles, err := c.RoleList(ctx)
	if err != nil {
		return fmt.Errorf("roles: %w", err)
	}
	all, err := c.UserList(ctx)
	if err != nil {
		return fmt.Errorf("users: %w", err)
	}
	for role, kind := range map[string]clientv3.PermissionType{
		rootName: clientv3.PermissionType(clientv3.PermReadWrite), readRole: clientv3.PermissionType(clientv3.PermRead), writeRole: clientv3.PermissionType(clientv3.PermReadWrite),
	} {
		if !slices.Contains(roles.Roles, role) {
			if _, err := c.RoleAdd(ctx, role); err != nil {
				return fmt.Errorf("role %s: %w", role, err)
			}
		}
		if role != rootName { // which may do all by itself
			if _, err := c.RoleGrantPermission(ctx, role, prefix, clientv3.GetPrefixRangeEnd(prefix), kind); err != nil {
				return fmt.Errorf("role %s: %w", role, err)
			}
		}
		step()
		for _, user := range users[role] {
			if err := grant(ctx, c, user, role, slices.Contains(all.Users, user)); err != nil {
				return fmt.Errorf("user %s: %w", user, err)
			}
			step()
		}
	}
	return nil
}

func grant(ctx context.Context, c *clientv3.Client, user, role string, known bool) error {
	if !known {
		if _, err := c.UserAddWithOptions(ctx, user, "", &clientv3.UserAddOptions{NoPassword: true}); err != nil {
			return err
		}
	}
	have, err := c.UserGet(ctx, user)
	if err != nil || slices.Contains(have.Roles, role) {
		return err
	}
	_, err = c.UserGrantRole(ctx, user, role)
	return err
}
