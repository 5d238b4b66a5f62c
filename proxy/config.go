package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"waypost/proxy/prelogin"
)

// Config is the [proxy] table of a proxy's TOML file. DefaultConfig has the
// defaults; durations are written like "30s".
type Config struct {
	// IMAP and POP3 are the addresses, "host:port", where clients begin in
	// plaintext and may go on with STARTTLS or STLS; IMAPS and POP3S those where
	// TLS comes first. ManageSieve, by which users edit their Sieve scripts, has
	// STARTTLS only (RFC 5804, Section 1.8); its usual port is 4190. Port 0 is any
	// free one.
	IMAP        []string `toml:"imap"`
	IMAPS       []string `toml:"imaps"`
	POP3        []string `toml:"pop3"`
	POP3S       []string `toml:"pop3s"`
	ManageSieve []string `toml:"managesieve"`

	// CertFile and KeyFile are the certificate that clients see, in PEM, with
	// its chain. They are read again when they changed.
	CertFile string `toml:"cert_file"`
	KeyFile  string `toml:"key_file"`

	// AllowPlaintext lets passwords be sent without TLS. PlaintextFrom does so
	// for clients of these networks only, such as "127.0.0.0/8".
	AllowPlaintext bool     `toml:"allow_plaintext"`
	PlaintextFrom  []string `toml:"plaintext_from"`

	// MaxConnections bounds all client connections; MaxUnauthenticated those
	// that have not logged in, MaxUnauthenticatedPerAddress those of one IPv4
	// address or IPv6 /64.
	MaxConnections               int `toml:"max_connections"`
	MaxUnauthenticated           int `toml:"max_unauthenticated"`
	MaxUnauthenticatedPerAddress int `toml:"max_unauthenticated_per_address"`

	// PreloginTimeout is how long a client may take to log in, and
	// HandshakeTimeout how long for TLS.
	PreloginTimeout  time.Duration `toml:"prelogin_timeout"`
	HandshakeTimeout time.Duration `toml:"handshake_timeout"`
	// MaxCommands may come before a login; MaxFailures refused passwords end
	// the connection, each answered after FailureDelay.
	MaxCommands  int           `toml:"max_commands"`
	MaxFailures  int           `toml:"max_failures"`
	FailureDelay time.Duration `toml:"failure_delay"`

	// LoginWait is how long a login waits for a user that is being moved, and
	// DeadWait how long for a backend that does not answer. DialTimeout bounds
	// one attempt to connect, OpenTimeout what is said until the session begins.
	LoginWait   time.Duration `toml:"login_wait"`
	DeadWait    time.Duration `toml:"dead_wait"`
	DialTimeout time.Duration `toml:"dial_timeout"`
	OpenTimeout time.Duration `toml:"open_timeout"`

	// ResumeWait is how long a session may be held up that its backend has let go of, for
	// a move or a restart, or has crashed with: until its mailbox is served again, there
	// or elsewhere, and the session goes on. After it the session ends, with BYE in IMAP.
	// ResumeConcurrency bounds how many sessions resume on one backend at the same time;
	// the others wait their turn.
	ResumeWait        time.Duration `toml:"resume_wait"`
	ResumeConcurrency int           `toml:"resume_concurrency"`

	// POP3LoginDelay, if not 0, is how long a user of POP3 waits between two
	// logins at this proxy, in whole seconds and at most a day (RFC 2449, Section
	// 6.5). Clients are told so; a login that comes too early is refused.
	POP3LoginDelay time.Duration `toml:"pop3_login_delay"`

	// IdleIMAP, IdlePOP3 and IdleManageSieve end a session in which neither side
	// has said anything. RFC 9051, Section 5.4, demands at least 30 minutes for
	// IMAP, RFC 1939, Section 3, at least 10 for POP3, RFC 5804, Section 1.2, at
	// least 30 for ManageSieve; the backends have their own.
	IdleIMAP        time.Duration `toml:"idle_imap"`
	IdlePOP3        time.Duration `toml:"idle_pop3"`
	IdleManageSieve time.Duration `toml:"idle_managesieve"`
	// WriteTimeout ends a session whose client or backend takes no more bytes.
	WriteTimeout time.Duration `toml:"write_timeout"`
	// DrainWait bounds how long Shutdown lets sessions end by themselves.
	DrainWait time.Duration `toml:"drain_wait"`
}

// DefaultConfig has all defaults, and no listeners.
func DefaultConfig() Config {
	return Config{
		MaxConnections: 20000, MaxUnauthenticated: 2000, MaxUnauthenticatedPerAddress: 200,
		PreloginTimeout: time.Minute, HandshakeTimeout: 15 * time.Second,
		MaxCommands: 50, MaxFailures: 3, FailureDelay: 2 * time.Second,
		LoginWait: 30 * time.Second, DeadWait: 5 * time.Second,
		DialTimeout: 5 * time.Second, OpenTimeout: 10 * time.Second,
		ResumeWait: time.Minute, ResumeConcurrency: 64,
		IdleIMAP: 35 * time.Minute, IdlePOP3: 11 * time.Minute, IdleManageSieve: 35 * time.Minute,
		WriteTimeout: 5 * time.Minute, DrainWait: 30 * time.Second,
	}
}

// lineBytes bounds a line before login: RFC 2683, Section 3.2.1.5, names 8000.
const lineBytes = 8192

// Validate says what is wrong, all at once.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("proxy: "+format, args...)) }
	plain, secure := slices.Concat(c.IMAP, c.POP3, c.ManageSieve), slices.Concat(c.IMAPS, c.POP3S)
	if len(plain)+len(secure) == 0 {
		bad("no address to listen on: give imap, imaps, pop3, pop3s or managesieve")
	}
	for _, addr := range append(plain, secure...) {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			bad("address %q: want host:port", addr)
		}
	}
	switch {
	case (c.CertFile == "") != (c.KeyFile == ""):
		bad("cert_file and key_file belong together")
	case c.CertFile == "" && len(secure) > 0:
		bad("imaps and pop3s need cert_file and key_file")
	case c.CertFile == "" && !c.AllowPlaintext && len(c.PlaintextFrom) == 0:
		bad("nobody could log in: give cert_file and key_file, or allow plaintext")
	}
	if _, err := c.plaintextNets(); err != nil {
		bad("plaintext_from: %w", err)
	}
	for _, n := range []struct {
		name  string
		value int
	}{
		{"max_connections", c.MaxConnections}, {"max_unauthenticated", c.MaxUnauthenticated},
		{"max_unauthenticated_per_address", c.MaxUnauthenticatedPerAddress},
		{"max_commands", c.MaxCommands}, {"max_failures", c.MaxFailures},
		{"resume_concurrency", c.ResumeConcurrency},
	} {
		if n.value < 1 {
			bad("%s is %d: want at least 1", n.name, n.value)
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"prelogin_timeout", c.PreloginTimeout}, {"handshake_timeout", c.HandshakeTimeout},
		{"login_wait", c.LoginWait}, {"dead_wait", c.DeadWait}, {"dial_timeout", c.DialTimeout},
		{"open_timeout", c.OpenTimeout}, {"resume_wait", c.ResumeWait}, {"idle_imap", c.IdleIMAP}, {"idle_pop3", c.IdlePOP3},
		{"idle_managesieve", c.IdleManageSieve},
		{"write_timeout", c.WriteTimeout}, {"drain_wait", c.DrainWait},
	} {
		if d.value <= 0 {
			bad("%s is %v: want more than nothing", d.name, d.value)
		}
	}
	if c.FailureDelay < 0 {
		bad("failure_delay is %v", c.FailureDelay)
	}
	if d := c.POP3LoginDelay; d < 0 || d > maxLoginDelay || d%time.Second != 0 {
		bad("pop3_login_delay is %v: want whole seconds, at most %v", d, maxLoginDelay)
	}
	return errors.Join(errs...)
}

func (c Config) plaintextNets() ([]netip.Prefix, error) {
	nets := make([]netip.Prefix, 0, len(c.PlaintextFrom))
	for _, text := range c.PlaintextFrom {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q: want a network like 127.0.0.0/8", text)
		}
		nets = append(nets, p.Masked())
	}
	return nets, nil
}

func (c Config) limits() prelogin.Limits {
	return prelogin.Limits{
		LineBytes: lineBytes, Commands: c.MaxCommands, Failures: c.MaxFailures, FailureDelay: c.FailureDelay,
		Timeout: c.PreloginTimeout, HandshakeTimeout: c.HandshakeTimeout, WriteTimeout: c.HandshakeTimeout,
	}
}
