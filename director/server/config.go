package server

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"waypost/internal/cluster"
	"waypost/internal/config"
)

// Config is the [director] table of a director's TOML file.
type Config struct {
	// ID is the node's name, like "d1". Required; it is the certificate's.
	ID string `toml:"id"`
	// Listen is the node listener's address, host:port. Required.
	Listen string `toml:"listen"`
	// Admin is the address of admin API and console, host:port, HTTPS for
	// holders of an admin certificate. Required.
	Admin string `toml:"admin"`
	// MaxHashes is how many passwords are hashed at once, 19 MiB each; half the
	// processors by default.
	MaxHashes int `toml:"max_hashes"`
	// MaxConnections bounds the admin connections; 256 by default.
	MaxConnections int `toml:"max_connections"`
	// UsageTimeout is how long a user's home has to tell its usage; 2s.
	UsageTimeout time.Duration `toml:"usage_timeout"`
	// NodeTimeout is how long nodes have for everything else; 15s.
	NodeTimeout time.Duration `toml:"node_timeout"`
	// DrainWait bounds how long a stop lets requests end by themselves; 10s.
	DrainWait time.Duration `toml:"drain_wait"`
}

// withDefaults fills what is unset.
func (c Config) withDefaults() Config {
	config.Default(&c.MaxHashes, max(1, runtime.NumCPU()/2))
	config.Default(&c.MaxConnections, 256)
	config.Default(&c.UsageTimeout, 2*time.Second)
	config.Default(&c.NodeTimeout, 15*time.Second)
	config.Default(&c.DrainWait, 10*time.Second)
	return c
}

// Validate says what is wrong, all at once; what is unset has its default.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("director: "+format, a...)) }
	if err := (cluster.Peer{Role: cluster.RoleDirector, ID: c.ID}).Validate(); err != nil {
		bad("id: %w", err)
	}
	for name, addr := range map[string]string{"listen": c.Listen, "admin": c.Admin} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			bad("%s is %q: want host:port", name, addr)
		}
	}
	if c.MaxHashes < 0 || c.MaxConnections < 0 {
		bad("max_hashes, max_connections: not below 0")
	}
	if c.UsageTimeout < 0 || c.NodeTimeout < 0 || c.DrainWait < 0 {
		bad("usage_timeout, node_timeout, drain_wait: not below 0")
	}
	return errors.Join(errs...)
}
