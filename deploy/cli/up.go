package cli

import (
	"slices"

	"github.com/spf13/cobra"

	"waypost/deploy/up"
)

// maxOffset keeps the highest port of the layout, 14190, below 65536.
const maxOffset = 50000

func (a *app) upCmd() *cobra.Command {
	var o up.Options
	c := &cobra.Command{
		Use:   "up",
		Short: "Run a whole cluster on this machine, in one process",
		Long: `Run a whole cluster on 127.0.0.1, in one process: embedded etcd, a director, the
backends b1 b2 b3, the mx mx1 mx2, the proxies p1 p2, and a mover; each is the
role that also runs alone. It prints what listens where, then "ready".

Everything is in one folder and survives a restart, and a kill. Ctrl-C drains
and stops in order. A second terminal's commands find the cluster by the same
--data or WAYPOST_DATA.`,
		Example: `  # A domain, example.test, and a few users; prints how to log in.
  waypost up --demo

  # Another cluster beside the first, and a command for it.
  waypost up --data /tmp/second --offset 20000
  waypost status --data /tmp/second`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case o.Offset < 0 || o.Offset > maxOffset:
				return usagef("--offset %d: want 0 to %d", o.Offset, maxOffset)
			case !slices.Contains([]string{"text", "json"}, o.LogFormat):
				return usagef("--log-format %q: want text or json", o.LogFormat)
			case !slices.Contains([]string{"debug", "info", "warn", "error"}, o.LogLevel):
				return usagef("--log-level %q: want debug, info, warn or error", o.LogLevel)
			}
			o.Data, o.Stdout, o.Stderr = a.dataDir(o.Data), a.stdout, a.stderr
			return a.up(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Data, "data", "", "`folder` that holds everything (default $WAYPOST_DATA, or "+defaultData+")")
	f.IntVar(&o.Offset, "offset", 0, "`number` to add to every port")
	f.BoolVar(&o.Demo, "demo", false, "make the domain example.test and a few users")
	f.StringVar(&o.LogFormat, "log-format", "text", "text or json")
	f.StringVar(&o.LogLevel, "log-level", "warn", "debug, info, warn or error")
	return c
}
