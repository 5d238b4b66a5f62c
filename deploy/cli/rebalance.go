package cli

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waypost/director"
	"waypost/director/admin"
)

// planCmds are the commands under rebalance.
func (a *app) planCmds() []*cobra.Command {
	return []*cobra.Command{
		a.planCmd(), a.planShowCmd(),
		a.steerCmd(director.VerbApply, "Carry a proposed plan out", `Carry the proposed plan out. With the ID that "rebalance plan" printed, just that
plan, and no other that somebody has made since. Movers begin its moves a few at a
time, in its window; this command does not wait: see "rebalance status".`),
		a.steerCmd(director.VerbPause, "Begin no further moves", `Begin no further move of the plan. Those on their way end, and so does a sharing
group of which a member has begun: its members must not stay apart.`),
		a.steerCmd(director.VerbResume, "Go on with a paused plan", `Go on with the plan that was paused.`),
		a.steerCmd(director.VerbAbort, "Give a plan up", `Give the plan up: no further move begins, and moves that have not flipped are
undone; those users stay where they are and notice nothing. Users who have arrived
stay where they arrived.`),
		a.withPlan(a.rebalanceStatusCmd()), a.autoCmd(),
	}
}

// percentValue is a flag that takes 10% or 0.1.
type percentValue struct{ part float64 }

func (p *percentValue) String() string {
	if p.part == 0 {
		return ""
	}
	return percent(p.part)
}

func (p *percentValue) Set(s string) error {
	text, hundred := strings.CutSuffix(s, "%")
	n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if hundred {
		n /= 100
	}
	if err != nil || !(n > 0 && n <= 1) {
		return fmt.Errorf("want a part like 10%% or 0.1")
	}
	p.part = n
	return nil
}

func (p *percentValue) Type() string { return "PART" }

func percent(part float64) string {
	return strconv.FormatFloat(math.Round(part*1000)/10, 'f', -1, 64) + "%"
}

// policyFlags are those that say what a plan is to reach.
type policyFlags struct {
	p                       director.PlanPolicy
	drain                   bool
	fill                    string
	band, headroom, minGain percentValue
	maxBytes, rate          bytesValue
	coolDown                time.Duration
}

func (a *app) policyFlags(c *cobra.Command, conn *connection, once bool) *policyFlags {
	f := &policyFlags{}
	fs := c.Flags()
	fs.StringVar(&f.p.By, "by", director.ByBytes, "what is levelled: bytes, users, messages or load (sessions, and deliveries a minute)")
	fs.Var(&f.band, "band", "how far from its share a backend may be before anything moves (default 10%)")
	fs.Var(&f.headroom, "headroom", "what part of each backend's capacity stays free (default 10%)")
	fs.Var(&f.minGain, "min-gain", "what levelling must gain, in parts of a share (default: a quarter of the band)")
	fs.Var(&f.maxBytes, "max-bytes", "copy no more than this")
	fs.IntVar(&f.p.MaxMoves, "max-moves", 0, "move no more users than this (default 100000)")
	fs.StringVar(&f.p.Window, "window", "", "begin moves only then, by the mover's clock, like 01:00-05:00")
	fs.IntVar(&f.p.Concurrency, "concurrency", 0, "users on their way at once (default 8)")
	fs.IntVar(&f.p.PerBackend, "per-backend", 0, "users on their way from or to one backend (default 2)")
	fs.DurationVar(&f.coolDown, "cool-down", 24*time.Hour, "leave users alone for this long after a move")
	fs.Var(&f.rate, "rate", "what all moves together copy in a second; only for the estimate (default 50MiB)")
	fs.BoolVar(&f.drain, "drain", false, "only empty the backends that drain")
	if once {
		fs.StringVar(&f.fill, "fill", "", "only bring this `backend`, a new one, up to its share")
		a.completeBackends(c, conn, "fill")
	}
	words := []string{director.ByBytes, director.ByUsers, director.ByMessages, director.ByLoad}
	if err := c.RegisterFlagCompletionFunc("by", cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		a.warn("completion of --by: %v", err)
	}
	return f
}

// policy checks the flags, as the director will.
func (f *policyFlags) policy() (director.PlanPolicy, error) {
	p := f.p
	p.Band, p.Headroom, p.MinGain = f.band.part, f.headroom.part, f.minGain.part
	p.MaxBytes, p.BytesPerSecond, p.CoolDownSeconds = f.maxBytes.n, f.rate.n, int64(f.coolDown.Seconds())
	switch {
	case f.drain && f.fill != "":
		return p, usagef("--drain and --fill are two plans")
	case f.drain:
		p.Goal = director.GoalDrain
	case f.fill != "":
		p.Goal, p.Fill = director.GoalFill, director.BackendID(f.fill)
	}
	p = p.WithDefaults()
	if err := p.Validate(); err != nil {
		return p, &usageError{err}
	}
	return p, nil
}

func (a *app) planCmd() *cobra.Command {
	var apply, moves, every, continuous bool
	c := &cobra.Command{
		Use:   "plan",
		Short: "Show which users should live elsewhere, and why",
		Long: `Make a plan: which users move where, so that no backend is farther from its share
than the band. Nothing moves before the plan is applied. Shares follow weights, and,
by bytes, capacities; see "waypost backend set". Backends that drain are emptied.

The plan copies little: what is outside the band comes to half of it. Nobody moves
to a backend that lacks one of the user's tags, or would be filled into its
headroom; sharing groups move together; users who were moved of late stay. Quiet
users go first, those at work last.

With --continuous no plan is shown: the policy is kept to from now on, see
"waypost rebalance auto".`,
		Example: `  # What would move, and what the backends look like before and after.
  waypost rebalance plan
  waypost rebalance plan --by users --band 5% --moves

  # At most 500 GiB, by night; then carry it out.
  waypost rebalance plan --max-bytes 500GiB --window 01:00-05:00
  waypost rebalance apply

  # Fill a new backend; empty those that drain, at once.
  waypost rebalance plan --fill b9 --apply
  waypost rebalance plan --drain --apply --json

  # Keep the cluster within the band from now on.
  waypost rebalance plan --continuous --band 10%`,
		Args: exactly(),
	}
	c.Flags().BoolVar(&apply, "apply", false, "carry it out as soon as it is made")
	c.Flags().BoolVar(&moves, "moves", false, "list each user")
	c.Flags().BoolVar(&every, "all", false, "show also backends that stay as they are")
	c.Flags().BoolVar(&continuous, "continuous", false, "keep to this policy from now on")
	conn, out := a.connecting(c), a.printing(c)
	f := a.policyFlags(c, conn, true)
	c.RunE = func(c *cobra.Command, _ []string) error {
		p, err := f.policy()
		if err != nil {
			return err
		}
		if continuous && (f.fill != "" || apply) {
			return usagef("--continuous goes with neither --fill nor --apply")
		}
		return conn.with(func(client *admin.Client) error {
			if continuous {
				return a.setAuto(c.Context(), client, out, func(x *admin.PlanAuto) { x.On, x.Policy = true, p })
			}
			plan, err := client.RequestPlan(c.Context(), admin.RequestPlan{Policy: p, Apply: apply})
			if err != nil {
				return err
			}
			if plan, err = a.awaitPlan(c.Context(), client, plan); err != nil {
				return err
			}
			return a.tellPlan(c.Context(), client, out, plan, moves, every)
		})
	}
	return c
}

func (a *app) planShowCmd() *cobra.Command {
	var moves, every bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the plan there is",
		Long: `Show the plan there is: proposed, under way, or the last one; with each backend
before and after it, as it was when the plan was made.`,
		Example: `  waypost rebalance show
  waypost rebalance show --moves --json`,
		Args: exactly(),
	}
	c.Flags().BoolVar(&moves, "moves", false, "list each user")
	c.Flags().BoolVar(&every, "all", false, "show also backends that stay as they are")
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return conn.with(func(client *admin.Client) error {
			plan, err := client.Plan(c.Context(), true)
			if err != nil {
				return err
			}
			return a.tellPlan(c.Context(), client, out, plan, moves, every)
		})
	}
	return c
}

func (a *app) steerCmd(verb director.PlanVerb, short, long string) *cobra.Command {
	c := &cobra.Command{
		Use: string(verb) + " [ID]", Short: short, Long: long,
		Example: "  waypost rebalance " + string(verb),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%q is too much: say at most the plan's ID", args[1])
			}
			return nil
		},
	}
	conn, out := a.connecting(c), a.printing(c)
	c.ValidArgsFunction = a.completePlan(conn)
	c.RunE = func(c *cobra.Command, args []string) error {
		id := strings.Join(args, "")
		return conn.with(func(client *admin.Client) error {
			p, err := client.SteerPlan(c.Context(), verb, id)
			if err != nil {
				return err
			}
			return out.show(p, func(w io.Writer) { writePlanHead(w, p, time.Now()) })
		})
	}
	return c
}

func (a *app) autoCmd() *cobra.Command {
	c := parent(&cobra.Command{
		Use:   "auto",
		Short: "Keep the cluster level by itself",
		Long: `The continuous mode: while it is on, the movers look now and then, and when a
backend is outside the band, or drains, they make a plan and carry it out. They never
move a user again within the cool-down, make no plan that gains little, and stop at
half of the band, so that nobody is carried to and fro. "rebalance pause" and "abort"
work on its plans, too; a plan of yours that waits for approval is left alone for an
hour.`,
		Example: `  waypost rebalance auto on --band 10% --window 01:00-05:00
  waypost rebalance auto show`,
	})
	c.AddCommand(a.autoOnCmd(),
		a.autoPlainCmd("off", "Make no further plans", `Turn the continuous mode off. A plan under way goes on: "rebalance abort" ends it.`, func(x *admin.PlanAuto) { x.On = false }),
		a.autoPlainCmd("show", "Show whether it is on", `Show whether the continuous mode is on, and its policy.`, nil))
	return c
}

func (a *app) autoOnCmd() *cobra.Command {
	var every time.Duration
	c := &cobra.Command{
		Use:   "on",
		Short: "Keep the cluster within a band from now on",
		Long:  `Turn the continuous mode on, with a policy as of "rebalance plan".`,
		Example: `  waypost rebalance auto on
  waypost rebalance auto on --band 15% --max-bytes 1TiB --window 22:00-06:00 --every 1h`,
		Args: exactly(),
	}
	c.Flags().DurationVar(&every, "every", 10*time.Minute, "how often to look")
	conn, out := a.connecting(c), a.printing(c)
	f := a.policyFlags(c, conn, false)
	c.RunE = func(c *cobra.Command, _ []string) error {
		p, err := f.policy()
		if err != nil {
			return err
		}
		return conn.with(func(client *admin.Client) error {
			return a.setAuto(c.Context(), client, out, func(x *admin.PlanAuto) {
				*x = admin.PlanAuto{On: true, Policy: p, EverySeconds: int64(every.Seconds())}
			})
		})
	}
	return c
}

func (a *app) autoPlainCmd(word, short, long string, change func(*admin.PlanAuto)) *cobra.Command {
	c := &cobra.Command{Use: word, Short: short, Long: long, Example: "  waypost rebalance auto " + word, Args: exactly()}
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return conn.with(func(client *admin.Client) error { return a.setAuto(c.Context(), client, out, change) })
	}
	return c
}
