// Package role runs one role of the cluster from its configuration: what is
// common to all of them (identity, directory, membership, telemetry) and the
// tier's own part. `waypost backend` and `waypost up` both come through here,
// so that the dev cluster is made of nothing but ordinary roles.
//
// It is the wiring: the only package, with its neighbours in deploy/, that
// imports the tiers.
package role

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"waypost/backend"
	"waypost/director/server"
	"waypost/internal/cluster"
	"waypost/mx"
	"waypost/proxy"
	"waypost/rebalance"
)

// Config is one role's file. Exactly one of the role sections is there; paths
// are relative to the file's folder.
type Config struct {
	Node      Node      `toml:"node"`
	Directory Directory `toml:"directory"`
	Gossip    Gossip    `toml:"gossip"`

	Director  *server.Config    `toml:"director"`
	Backend   *backend.Config   `toml:"backend"`
	MX        *mx.Config        `toml:"mx"`
	Proxy     *proxy.Config     `toml:"proxy"`
	Rebalance *rebalance.Config `toml:"rebalance"`
	// Login bounds logins, for the roles mx and proxy.
	Login Login `toml:"login"`
}

// Node is what every role has.
type Node struct {
	// ID is the node's name, like "b1"; it must be the certificate's.
	ID string `toml:"id"`
	// Listen is the node listener, host:port: mutual TLS between nodes.
	// Advertise is what others reach it at; empty: Listen.
	Listen    string `toml:"listen"`
	Advertise string `toml:"advertise"`
	// CA, Cert and Key are the cluster's certificates (waypost init).
	CA   string `toml:"ca"`
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
	// Metrics is host:port of /metrics, /healthz and /readyz, plain HTTP; empty: none.
	Metrics string `toml:"metrics"`
	Pprof   bool   `toml:"pprof"`
	// LogFormat is "text" or "json"; LogLevel "debug", "info", "warn" or "error".
	LogFormat string `toml:"log_format"`
	LogLevel  string `toml:"log_level"`
}

// Directory says where etcd is.
type Directory struct {
	// Endpoints like "https://10.0.0.1:2379".
	Endpoints []string `toml:"endpoints"`
	// Prefix of all keys; "/waypost/" by default.
	Prefix string `toml:"prefix"`
	// TLS toward etcd: "cluster" (the node's own certificate, for an etcd whose
	// certificate is of the cluster's CA; the default), "files" (CA, Cert and
	// Key below), or "none" for a trusted loopback.
	TLS  string `toml:"tls"`
	CA   string `toml:"ca"`
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
	// Username and PasswordFile, where etcd asks for them.
	Username     string `toml:"username"`
	PasswordFile string `toml:"password_file"`
	// Snapshot is a file by which the role can start without etcd; empty: none.
	Snapshot string `toml:"snapshot"`
}

// Gossip is the membership of nodes.
type Gossip struct {
	// Listen is host:port, UDP and TCP. Advertise is what others reach it at.
	Listen    string `toml:"listen"`
	Advertise string `toml:"advertise"`
	// Seeds are some other nodes' gossip addresses.
	Seeds []string `toml:"seeds"`
	// KeyFile holds the cluster's gossip key (waypost init).
	KeyFile string `toml:"key_file"`
}

// Login bounds the checking of passwords.
type Login struct {
	// MaxHashes is how many password hashes are computed at once (default: half
	// the processors, at least one), MaxHashMemory the bytes they may use
	// together (default 512 MiB).
	MaxHashes     int   `toml:"max_hashes"`
	MaxHashMemory int64 `toml:"max_hash_memory_bytes"`
	// Remember is how long a verified login costs no hash; 10m.
	Remember time.Duration `toml:"remember"`
	// MaxPerUser, MaxPerAddress and MaxPerUserAddress bound connections.
	MaxPerUser        int `toml:"max_per_user"`
	MaxPerAddress     int `toml:"max_per_address"`
	MaxPerUserAddress int `toml:"max_per_user_address"`
}

// Load reads and checks a file. Its errors say what to do.
func Load(path string, want cluster.Role) (Config, error) {
	// A proxy's zero values mean zero: what the file does not say must be there
	// before it is read.
	defaults := proxy.DefaultConfig()
	c := Config{Proxy: &defaults}
	md, err := toml.DecodeFile(path, &c)
	if !md.IsDefined("proxy") {
		c.Proxy = nil
	}
	if errors.Is(err, os.ErrNotExist) {
		return c, fmt.Errorf("no configuration at %s: make one with `waypost init`, or name it with --config", path)
	}
	if err != nil {
		return c, fmt.Errorf("configuration %s: %w", path, err)
	}
	if extra := md.Undecoded(); len(extra) > 0 {
		names := make([]string, len(extra))
		for i, k := range extra {
			names[i] = k.String()
		}
		return c, fmt.Errorf("configuration %s: unknown settings: %s", path, strings.Join(names, ", "))
	}
	c.resolve(filepath.Dir(path))
	if err := c.Validate(want); err != nil {
		return c, fmt.Errorf("configuration %s:\n%w", path, err)
	}
	return c, nil
}

// resolve makes paths absolute, beginning at the file's folder.
func (c *Config) resolve(dir string) {
	paths := []*string{&c.Node.CA, &c.Node.Cert, &c.Node.Key, &c.Directory.CA, &c.Directory.Cert, &c.Directory.Key,
		&c.Directory.PasswordFile, &c.Directory.Snapshot, &c.Gossip.KeyFile}
	if c.Backend != nil {
		paths = append(paths, &c.Backend.Data)
	}
	if c.MX != nil {
		paths = append(paths, &c.MX.SpoolDir, &c.MX.TLSCert, &c.MX.TLSKey)
	}
	if c.Proxy != nil {
		paths = append(paths, &c.Proxy.CertFile, &c.Proxy.KeyFile)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
}

// Role tells which role the file is for.
func (c Config) Role() (cluster.Role, error) {
	var have []cluster.Role
	for role, there := range map[cluster.Role]bool{
		cluster.RoleDirector: c.Director != nil, cluster.RoleBackend: c.Backend != nil, cluster.RoleMX: c.MX != nil,
		cluster.RoleProxy: c.Proxy != nil, cluster.RoleRebalance: c.Rebalance != nil,
	} {
		if there {
			have = append(have, role)
		}
	}
	if len(have) != 1 {
		return "", fmt.Errorf("want exactly one of the sections [director], [backend], [mx], [proxy], [rebalance], found %d", len(have))
	}
	return have[0], nil
}

// Validate says everything that is wrong, a line each.
func (c Config) Validate(want cluster.Role) error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	role, err := c.Role()
	switch {
	case err != nil:
		errs = append(errs, err)
	case want != "" && role != want:
		bad("this file is for the role %s, not %s", role, want)
	}
	if (cluster.Peer{Role: cluster.RoleMX, ID: c.Node.ID}).Validate() != nil {
		bad("node.id: say the node's name, like b1")
	}
	for name, v := range map[string]string{"node.listen": c.Node.Listen, "node.ca": c.Node.CA, "node.cert": c.Node.Cert, "node.key": c.Node.Key,
		"gossip.listen": c.Gossip.Listen, "gossip.key_file": c.Gossip.KeyFile} {
		if v == "" {
			bad("%s is missing", name)
		}
	}
	if len(c.Directory.Endpoints) == 0 {
		bad("directory.endpoints is missing: say where etcd is, like [\"https://127.0.0.1:2379\"]")
	}
	switch c.Directory.TLS {
	case "", "cluster", "files", "none":
	default:
		bad("directory.tls: want \"cluster\", \"files\" or \"none\", not %q", c.Directory.TLS)
	}
	errs = append(errs, c.fill().tierErrors()...)
	return errors.Join(errs...)
}

// fill copies what is common into the tier's section.
func (c Config) fill() Config {
	if c.Backend != nil {
		b := *c.Backend
		b.ID, b.Listen, b.Advertise = backendID(c.Node.ID), c.Node.Listen, c.Node.Advertise
		c.Backend = &b
	}
	if c.MX != nil {
		m := *c.MX
		m.ID = c.Node.ID
		c.MX = &m
	}
	if c.Rebalance != nil {
		r := *c.Rebalance
		r.ID, r.Listen = c.Node.ID, c.Node.Listen
		c.Rebalance = &r
	}
	if c.Director != nil {
		d := *c.Director
		d.ID, d.Listen = c.Node.ID, c.Node.Listen
		c.Director = &d
	}
	return c
}

func (c Config) tierErrors() []error {
	var errs []error
	add := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if c.Backend != nil {
		add(c.Backend.Validate())
	}
	if c.MX != nil {
		add(c.MX.Validate())
	}
	if c.Proxy != nil {
		add(c.Proxy.Validate())
	}
	if c.Rebalance != nil {
		add(c.Rebalance.Validate())
	}
	if c.Director != nil {
		add(c.Director.Validate())
	}
	return errs
}
