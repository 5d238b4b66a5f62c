package mx

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"waypost/internal/config"
	"waypost/mx/relay"
)

// Config is the mx role's settings; the TOML file has these names. A zero value
// means the default that is named.
type Config struct {
	// ID is the mx's name in the cluster, like "mx1". Hostname.
	ID string `toml:"id"`
	// Listen are the host:ports for mail from anywhere. No AUTH there.
	Listen []string `toml:"listen"`
	// Submission are the host:ports for the cluster's own users: STARTTLS and
	// AUTH before mail. Needs TLSCert.
	Submission []string `toml:"submission"`
	// Hostname is the name in greeting, EHLO and Received. Required.
	Hostname string `toml:"hostname"`
	// SpoolDir is the folder of mail that waits. Required; made when missing.
	SpoolDir string `toml:"spool_dir"`
	// TLSCert and TLSKey are PEM files; both or neither. With them STARTTLS is
	// offered. Read again when they change.
	TLSCert string `toml:"tls_cert"`
	TLSKey  string `toml:"tls_key"`

	// MaxMessageBytes bounds one message, and is what SIZE announces; a message
	// must stay below it. 1 GiB.
	MaxMessageBytes int64 `toml:"max_message_bytes"`
	// MaxRecipients is how many RCPTs a message may have. 100.
	MaxRecipients int `toml:"max_recipients"`
	// MaxUsers is how many mailboxes those may expand to. 5,000.
	MaxUsers int `toml:"max_users"`
	// MaxConnections bounds the inbound service's clients; MaxConnectionsPerIP those of one address
	// (IPv6: one /64) of all services. 2,000 and 50.
	MaxConnections int `toml:"max_connections"`
	// MaxSubmissions bounds the clients of the submission service, which do not
	// count against MaxConnections. 500.
	MaxSubmissions      int `toml:"max_submissions"`
	MaxConnectionsPerIP int `toml:"max_connections_per_ip"`
	// MaxRefused is how many refused recipients end a connection. 100.
	MaxRefused int `toml:"max_refused"`
	// MemoryBytes is how much of a message's copy stays in memory before it
	// becomes a file. 256 KiB.
	MemoryBytes int `toml:"memory_bytes"`

	// CommandTimeout is how long a command line may take to come; 5m
	// (RFC 5321, Section 4.5.3.2.7).
	CommandTimeout time.Duration `toml:"command_timeout"`
	// IdleTimeout and IdleCommands bound how long, and for how many commands, a
	// connection may be open without sending a message. 10m, 100.
	IdleTimeout  time.Duration `toml:"idle_timeout"`
	IdleCommands int           `toml:"idle_commands"`
	// DataTimeout is how long the next bytes of a message may take; 3m.
	DataTimeout time.Duration `toml:"data_timeout"`
	// MinRate is the least bytes per second of a message, on average after
	// RateGrace. 200 and 30s.
	MinRate   int           `toml:"min_rate"`
	RateGrace time.Duration `toml:"rate_grace"`

	// DialTimeout bounds reaching a backend, LMTP greeting included. 2s.
	DialTimeout time.Duration `toml:"dial_timeout"`
	// RcptTimeout is how long a backend may take to answer at RCPT. 5s.
	RcptTimeout time.Duration `toml:"rcpt_timeout"`
	// BusyWait is how long one RCPT waits for users who are being moved before
	// their mail goes to the spool. 1500ms.
	BusyWait time.Duration `toml:"busy_wait"`
	// StallTimeout is how long a backend may take no bytes of a message before
	// it is dropped and its recipients are spooled. 5s.
	StallTimeout time.Duration `toml:"stall_timeout"`
	// CommitTimeout is how long it may take, after the message, to give all its
	// answers. 1m; the sender waits for them, and need not for more than 10m.
	CommitTimeout time.Duration `toml:"commit_timeout"`
	// DirectoryTimeout bounds each linearizable read of the directory. 3s.
	DirectoryTimeout time.Duration `toml:"directory_timeout"`
	// DrainTimeout bounds the end: unfinished transactions are cut after it. 30s.
	DrainTimeout time.Duration `toml:"drain_timeout"`

	// SpoolConcurrency is how many spooled messages are tried at once. 16.
	SpoolConcurrency int `toml:"spool_concurrency"`
	// SpoolMaxEntries bounds the spool; when it is full, mail that would need
	// it gets 452. 1,000,000.
	SpoolMaxEntries int `toml:"spool_max_entries"`
	// SpoolMinBackoff and SpoolMaxBackoff bound the wait between tries. 5s, 5m.
	SpoolMinBackoff time.Duration `toml:"spool_min_backoff"`
	SpoolMaxBackoff time.Duration `toml:"spool_max_backoff"`

	// Relay is the way out, by a smarthost; without one nothing leaves.
	Relay relay.Config `toml:"relay"`
}

func (c Config) withDefaults() Config {
	config.Default(&c.ID, c.Hostname)
	config.Default(&c.MaxMessageBytes, 1<<30)
	config.Default(&c.MaxRecipients, 100)
	config.Default(&c.MaxUsers, 5000)
	config.Default(&c.MaxConnections, 2000)
	config.Default(&c.MaxConnectionsPerIP, 50)
	config.Default(&c.MaxSubmissions, 500)
	config.Default(&c.IdleTimeout, 10*time.Minute)
	config.Default(&c.IdleCommands, 100)
	config.Default(&c.MaxRefused, 100)
	config.Default(&c.MemoryBytes, 256<<10)
	config.Default(&c.CommandTimeout, 5*time.Minute)
	config.Default(&c.DataTimeout, 3*time.Minute)
	config.Default(&c.MinRate, 200)
	config.Default(&c.RateGrace, 30*time.Second)
	config.Default(&c.DialTimeout, 2*time.Second)
	config.Default(&c.RcptTimeout, 5*time.Second)
	config.Default(&c.BusyWait, 1500*time.Millisecond)
	config.Default(&c.StallTimeout, 5*time.Second)
	config.Default(&c.CommitTimeout, time.Minute)
	config.Default(&c.DirectoryTimeout, 3*time.Second)
	config.Default(&c.DrainTimeout, 30*time.Second)
	config.Default(&c.SpoolConcurrency, 16)
	config.Default(&c.SpoolMaxEntries, 1_000_000)
	config.Default(&c.SpoolMinBackoff, 5*time.Second)
	config.Default(&c.SpoolMaxBackoff, 5*time.Minute)
	return c
}

// Validate says what is wrong, one error per setting.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("mx: "+format, a...)) }
	if c.Hostname == "" || strings.ContainsFunc(c.Hostname, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("()<>@,;:\\\"", r) }) {
		bad("hostname %q: say the host name that senders see", c.Hostname)
	}
	if c.SpoolDir == "" {
		bad("spool_dir: say the folder for mail that waits")
	}
	if len(c.Listen)+len(c.Submission) == 0 {
		bad("listen, submission: say at least one host:port")
	}
	for _, a := range append(c.Listen[:len(c.Listen):len(c.Listen)], c.Submission...) {
		if _, _, err := net.SplitHostPort(a); err != nil {
			bad("listen, submission: %q is no host:port: %w", a, err)
		}
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		bad("tls_cert, tls_key: say both or neither")
	}
	if len(c.Submission) > 0 && c.TLSCert == "" {
		bad("submission: needs tls_cert and tls_key, because passwords go over TLS only")
	}
	if c.MaxMessageBytes < 0 || c.MaxMessageBytes > 1<<32-1 {
		bad("max_message_bytes: want 0 to 4294967295") // larger SIZEs are not parsed
	}
	for name, n := range map[string]int{"max_recipients": c.MaxRecipients, "max_users": c.MaxUsers, "max_connections": c.MaxConnections,
		"max_submissions": c.MaxSubmissions, "idle_commands": c.IdleCommands, "max_connections_per_ip": c.MaxConnectionsPerIP, "max_refused": c.MaxRefused, "memory_bytes": c.MemoryBytes, "min_rate": c.MinRate,
		"spool_concurrency": c.SpoolConcurrency, "spool_max_entries": c.SpoolMaxEntries} {
		if n < 0 {
			bad("%s: not below 0", name)
		}
	}
	for name, d := range map[string]time.Duration{"command_timeout": c.CommandTimeout, "data_timeout": c.DataTimeout, "rate_grace": c.RateGrace,
		"dial_timeout": c.DialTimeout, "rcpt_timeout": c.RcptTimeout, "busy_wait": c.BusyWait, "stall_timeout": c.StallTimeout,
		"commit_timeout": c.CommitTimeout, "directory_timeout": c.DirectoryTimeout, "drain_timeout": c.DrainTimeout,
		"idle_timeout": c.IdleTimeout, "spool_min_backoff": c.SpoolMinBackoff, "spool_max_backoff": c.SpoolMaxBackoff} {
		if d < 0 {
			bad("%s: not below 0", name)
		}
	}
	return errors.Join(append(errs, c.Relay.Validate())...)
}
