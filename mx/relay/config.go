package relay

import (
	"errors"
	"fmt"
	"net"
	"time"

	"waypost/internal/config"
)

// Ways to have TLS.
const (
	TLSStart = "starttls" // required, not tried
	TLSOnly  = "tls"      // from the first byte (RFC 8314, Section 3.3)
	TLSNone  = "none"     // for a smarthost on this machine
)

// Config is the relay's settings, [mx.relay] in the TOML file. A zero value
// means the default that is named.
type Config struct {
	// Smarthost is the host:port that takes all mail to other domains. Empty:
	// nothing leaves.
	Smarthost string `toml:"smarthost"`
	// TLS is "starttls" (the default), "tls" or "none".
	TLS string `toml:"tls"`
	// ServerName is the name in the smarthost's certificate. Smarthost's host.
	ServerName string `toml:"server_name"`
	// CAFile has the certificates that verify it. The system's.
	CAFile string `toml:"ca_file"`
	// Username and PasswordFile are for AUTH; both or neither. The password is
	// the file's first line.
	Username     string `toml:"username"`
	PasswordFile string `toml:"password_file"`

	// MaxConnections bounds the connections to the smarthost. 4.
	MaxConnections int `toml:"max_connections"`
	// BatchRecipients is how many recipients one transaction has. 20.
	BatchRecipients int `toml:"batch_recipients"`
	// ConnectTimeout bounds connecting, TLS handshake included, and each of its
	// replies. 30s.
	ConnectTimeout time.Duration `toml:"connect_timeout"`
	// CommandTimeout bounds each reply and write; DataTimeout the answer to the
	// message (RFC 5321, Section 4.5.3.2). 5m, 10m.
	CommandTimeout time.Duration `toml:"command_timeout"`
	DataTimeout    time.Duration `toml:"data_timeout"`
	// IdleTimeout is how long an idle connection is kept. 30s.
	IdleTimeout time.Duration `toml:"idle_timeout"`

	// GiveUpAfter is the age at which what is left of an entry has failed, and
	// WarnAfter the age at which its sender is told of the delay. 120h, 4h.
	GiveUpAfter time.Duration `toml:"give_up_after"`
	WarnAfter   time.Duration `toml:"warn_after"`
	// HoldMin and HoldMax bound how long all wait after the smarthost failed as
	// a whole; it doubles. 30s, 15m.
	HoldMin time.Duration `toml:"hold_min"`
	HoldMax time.Duration `toml:"hold_max"`

	// UserPerHour and UserPerDay bound the outside recipients of one user, by
	// this mx. 500, 5,000.
	UserPerHour int `toml:"user_per_hour"`
	UserPerDay  int `toml:"user_per_day"`
	// MaxEntries bounds the queue. 200,000.
	MaxEntries int `toml:"max_entries"`
	// RememberIDs is how long ids are known after their end. 168h.
	RememberIDs time.Duration `toml:"remember_ids"`
}

// Enabled reports whether mail can leave.
func (c Config) Enabled() bool { return c.Smarthost != "" }

// WithDefaults fills in what is zero.
func (c Config) WithDefaults() Config {
	config.Default(&c.TLS, TLSStart)
	if host, _, err := net.SplitHostPort(c.Smarthost); err == nil {
		config.Default(&c.ServerName, host)
	}
	config.Default(&c.MaxConnections, 4)
	config.Default(&c.BatchRecipients, 20)
	config.Default(&c.ConnectTimeout, 30*time.Second)
	config.Default(&c.CommandTimeout, 5*time.Minute)
	config.Default(&c.DataTimeout, 10*time.Minute)
	config.Default(&c.IdleTimeout, 30*time.Second)
	config.Default(&c.GiveUpAfter, 5*24*time.Hour)
	config.Default(&c.WarnAfter, 4*time.Hour)
	config.Default(&c.HoldMin, 30*time.Second)
	config.Default(&c.HoldMax, 15*time.Minute)
	config.Default(&c.UserPerHour, 500)
	config.Default(&c.UserPerDay, 5000)
	config.Default(&c.MaxEntries, 200_000)
	config.Default(&c.RememberIDs, 7*24*time.Hour)
	return c
}

// Validate says what is wrong, one error per setting.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("mx.relay: "+format, a...)) }
	if c.Smarthost != "" {
		if _, _, err := net.SplitHostPort(c.Smarthost); err != nil {
			bad("smarthost: %q is no host:port: %w", c.Smarthost, err)
		}
	}
	switch c.TLS {
	case "", TLSStart, TLSOnly, TLSNone:
	default:
		bad("tls: want %q, %q or %q", TLSStart, TLSOnly, TLSNone)
	}
	if (c.Username == "") != (c.PasswordFile == "") {
		bad("username, password_file: say both or neither")
	}
	if c.TLS == TLSNone && c.Username != "" {
		bad("username: a password goes over TLS only")
	}
	for name, n := range map[string]int{"max_connections": c.MaxConnections, "batch_recipients": c.BatchRecipients,
		"user_per_hour": c.UserPerHour, "user_per_day": c.UserPerDay, "max_entries": c.MaxEntries} {
		if n < 0 {
			bad("%s: not below 0", name)
		}
	}
	for name, d := range map[string]time.Duration{"connect_timeout": c.ConnectTimeout, "command_timeout": c.CommandTimeout,
		"data_timeout": c.DataTimeout, "idle_timeout": c.IdleTimeout, "give_up_after": c.GiveUpAfter, "warn_after": c.WarnAfter,
		"hold_min": c.HoldMin, "hold_max": c.HoldMax, "remember_ids": c.RememberIDs} {
		if d < 0 {
			bad("%s: not below 0", name)
		}
	}
	return errors.Join(errs...)
}
