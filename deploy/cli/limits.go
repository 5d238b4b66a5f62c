package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"waypost/director/admin"
)

func (a *app) rebalanceLimitsCmd() *cobra.Command {
	var backend string
	var rate bytesValue
	var moves int
	c := &cobra.Command{
		Use:   "limits",
		Short: "Show or change how much movers may do at once",
		Long: `Show how much movers may do at once, or change it: for all moves together, or, with
--backend, for those that leave or enter that backend. A change counts at once, for
moves under way as well: their copies become slower or faster; none is taken back
for it.

--rate is shared by all hot copies. The last difference, inside the busy time, is
copied as fast as can be. A single move is not slowed below 64 KiB a second. Beside
the limits, copies yield to users by themselves: see "waiting" of waypost rebalance
status.`,
		Example: `  waypost rebalance limits
  waypost rebalance limits --rate 200M --moves 16
  waypost rebalance limits --backend b3 --rate 50M --moves 4
  waypost rebalance limits --backend b3 --rate 0 --moves 0`,
		Args: exactly(),
	}
	c.Flags().StringVar(&backend, "backend", "", "only for moves from or to this `backend`")
	c.Flags().Var(&rate, "rate", "bytes a second, like 50M; 0: no limit")
	c.Flags().IntVar(&moves, "moves", 0, "moves at once; 0: no limit")
	conn, out := a.connecting(c), a.printing(c)
	a.completeBackends(c, conn, "backend")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var req admin.SetLimit
		if backend != "" {
			id, err := parseBackend(backend)
			if err != nil {
				return err
			}
			req.Backend = id
		}
		if rate.set {
			req.BytesPerSecond = &rate.n
		}
		if c.Flags().Changed("moves") {
			if moves < 0 {
				return usagef("--moves %d: want 0 or more", moves)
			}
			req.Moves = &moves
		}
		change := req.BytesPerSecond != nil || req.Moves != nil
		if backend != "" && !change {
			return usagef("say what to change: --rate or --moves")
		}
		return conn.with(func(client *admin.Client) error {
			ask := client.Limits
			if change {
				ask = func(ctx context.Context) (admin.Limits, error) { return client.SetLimit(ctx, req) }
			}
			l, err := ask(c.Context())
			if err != nil {
				return err
			}
			return out.show(l, func(w io.Writer) { showLimits(w, l) })
		})
	}
	return c
}

func showLimits(w io.Writer, l admin.Limits) {
	t := newTable(w, "MOVES OF", "RATE", "AT ONCE")
	t.row("all together", rateLimit(l.BytesPerSecond), countLimit(int64(l.Moves)))
	for _, b := range l.Backends {
		t.row(b.Backend, rateLimit(b.BytesPerSecond), countLimit(int64(b.Moves)))
	}
	t.end()
}

func rateLimit(n int64) string {
	if n == 0 {
		return "unlimited"
	}
	return fmt.Sprintf("%s/s", size(n))
}
