package rebalance

import (
	"errors"
	"time"

	"waypost/internal/cluster"
	"waypost/internal/config"
)

// Config is a mover's settings; the TOML file of the role has these names.
type Config struct {
	// ID is the mover's name, like "r1". Required.
	ID string `toml:"id"`
	// Listen is the node listener's address, host:port. Required.
	Listen string `toml:"listen"`
	// Concurrency is how many users this mover moves at once; 4 by default.
	Concurrency int `toml:"concurrency"`
	// BusyAim is how long a user is to be busy at most: hot passes repeat until the
	// rest is predicted to take no longer; 1s.
	BusyAim time.Duration `toml:"busy_aim"`
	// BusyBudget is how long a user may be busy before this mover rolls the
	// move back, to try it again later; 30s. The home's own busy_limit must be
	// above it.
	BusyBudget time.Duration `toml:"busy_budget"`
	// RetryWait is how long a move waits that was rolled back for its budget; 30s,
	// four times as long after each further try, and half an hour at most. After
	// MaxTries (6) it is undone.
	RetryWait time.Duration `toml:"retry_wait"`
	MaxTries  int           `toml:"max_tries"`
	// YieldLatency is how long deliveries and commands of a backend's users may take
	// (95 % of them) before a copy is slowed down; 250ms. YieldPercent is the share
	// of the time for which users may wait for the disk, or of the network's speed
	// that may be used; 70.
	YieldLatency time.Duration `toml:"yield_latency"`
	YieldPercent int           `toml:"yield_percent"`
	// YieldEvery is how often the backends are asked; 1s. YieldWait is the longest
	// pause of a copy; 5m. Then it goes on, as slowly as it can.
	YieldEvery time.Duration `toml:"yield_every"`
	YieldWait  time.Duration `toml:"yield_wait"`
	// SendingWait is how long a move waits, before the user is busy, for clients in the middle of a
	// message too long to be carried along, whose sessions it would end; 1m, 0 does not wait.
	// SendingEvery is how often the source is asked; 500ms.
	SendingWait  *time.Duration `toml:"sending_wait"`
	SendingEvery time.Duration  `toml:"sending_every"`
	// CopyPatience is how long a hot copy that makes no progress is tried
	// again before the move is given up; 10m.
	CopyPatience time.Duration `toml:"copy_patience"`
	// MaxPasses bounds the hot passes; 8. A first pass that brought at most
	// DeltaFiles (64) and DeltaBytes (4 MiB) needs no second.
	MaxPasses  int   `toml:"max_passes"`
	DeltaFiles int64 `toml:"delta_files"`
	DeltaBytes int64 `toml:"delta_bytes"`
	// LeaseTTL is how soon another mover takes over after this one died; 5s.
	LeaseTTL time.Duration `toml:"lease_ttl"`
}

func (c Config) withDefaults() (Config, error) {
	config.Default(&c.Concurrency, 4)
	config.Default(&c.BusyAim, time.Second)
	config.Default(&c.BusyBudget, 30*time.Second)
	config.Default(&c.RetryWait, 30*time.Second)
	config.Default(&c.MaxTries, 6)
	config.Default(&c.YieldLatency, 250*time.Millisecond)
	config.Default(&c.YieldPercent, 70)
	config.Default(&c.YieldEvery, time.Second)
	config.Default(&c.YieldWait, 5*time.Minute)
	if c.SendingWait == nil {
		wait := time.Minute
		c.SendingWait = &wait
	}
	config.Default(&c.SendingEvery, 500*time.Millisecond)
	config.Default(&c.CopyPatience, 10*time.Minute)
	config.Default(&c.MaxPasses, 8)
	config.Default(&c.DeltaFiles, 64)
	config.Default(&c.DeltaBytes, 4<<20)
	config.Default(&c.LeaseTTL, 5*time.Second)
	return c, c.Validate()
}

// Validate says what is wrong, one error per setting.
func (c Config) Validate() error {
	var errs []error
	bad := func(text string) { errs = append(errs, errors.New("rebalance: "+text)) }
	if (cluster.Peer{Role: cluster.RoleRebalance, ID: c.ID}).Validate() != nil {
		bad("id: say the mover's name, like r1")
	}
	if c.Listen == "" {
		bad("listen: say host:port of the node listener")
	}
	if c.Concurrency < 0 || c.MaxPasses < 0 || c.DeltaBytes < 0 || c.DeltaFiles < 0 {
		bad("concurrency, max_passes, delta_files, delta_bytes: not below 0")
	}
	if c.MaxTries < 0 || c.YieldPercent < 0 || c.YieldPercent > 100 {
		bad("max_tries: not below 0; yield_percent: 0 to 100")
	}
	if c.BusyAim < 0 || c.RetryWait < 0 || c.YieldLatency < 0 || c.YieldEvery < 0 || c.YieldWait < 0 {
		bad("busy_aim, retry_wait, yield_latency, yield_every, yield_wait: not below 0")
	}
	if c.SendingEvery < 0 || c.SendingWait != nil && *c.SendingWait < 0 {
		bad("sending_wait, sending_every: not below 0")
	}
	if c.BusyBudget < 0 || c.CopyPatience < 0 || c.LeaseTTL < 0 {
		bad("busy_budget, copy_patience, lease_ttl: not below 0")
	}
	return errors.Join(errs...)
}
