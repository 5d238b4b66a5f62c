package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waypost/director"
	"waypost/director/admin"
)

func (a *app) backendDrainCmd() *cobra.Command {
	var wait, noMove bool
	var window string
	c := &cobra.Command{
		Use:   "drain BACKEND",
		Short: "Empty a backend",
		Long: `Empty a backend: it gets no new users and no moves to it any more, and a plan moves
those it has to the others, by the rules of "waypost rebalance plan". It serves them
until they have moved. With --no-move it only gets nobody new.

With --wait the command stays until nobody lives there and nothing is on its way, and
says that the backend is safe to switch off. Ctrl-C stops the waiting, not the
moves. If users are left that cannot be moved it says why, and the exit code is 1.`,
		Example: `  waypost backend drain b3
  waypost backend drain b3 --wait
  waypost backend drain b3 --window 01:00-05:00 --wait --json
  waypost backend drain b3 --no-move`,
		Args: exactly(wantBackend),
	}
	c.Flags().BoolVar(&wait, "wait", false, "stay until it is empty")
	c.Flags().BoolVar(&noMove, "no-move", false, "move nobody away")
	c.Flags().StringVar(&window, "window", "", "begin moves only then, by the mover's clock, like 01:00-05:00")
	conn, out := a.connecting(c), a.printing(c)
	a.completeBackends(c, conn, "")
	c.RunE = func(c *cobra.Command, args []string) error {
		id, err := parseBackend(args[0])
		if err != nil {
			return err
		}
		if wait && noMove {
			return usagef("--wait and --no-move: nobody would leave")
		}
		policy := director.PlanPolicy{Goal: director.GoalDrain, Window: window}.WithDefaults()
		if err := policy.Validate(); err != nil {
			return &usageError{err}
		}
		state := director.BackendDraining
		return conn.with(func(client *admin.Client) error {
			b, err := client.UpdateBackend(c.Context(), id, admin.UpdateBackend{State: &state})
			if err != nil {
				return err
			}
			if wait {
				return (&drain{app: a, client: client, id: id, policy: policy, line: a.progressLine()}).run(c.Context(), out)
			}
			if !noMove && b.Kind == director.KindWaypost && b.Users > 0 {
				a.startDrain(c.Context(), client, policy)
			}
			return out.say(b, "%s is %s, weight %d", b.ID, b.State, b.Weight)
		})
	}
	return c
}

// startDrain asks for the moves. That the state is set is what the command promises;
// a plan in the way is told.
func (a *app) startDrain(ctx context.Context, client *admin.Client, policy director.PlanPolicy) {
	_, err := client.RequestPlan(ctx, admin.RequestPlan{Policy: policy, Apply: true})
	switch {
	case err == nil:
	case errors.Is(err, director.ErrConflict):
		a.warn("nobody moves away yet, because a plan is under way: when it has ended (waypost rebalance status), say this again, or use --wait")
	default:
		a.warn("nobody moves away yet: %s; try again, or say: waypost rebalance plan --drain --apply", oneLine(err.Error()))
	}
}

const (
	// drainPoll is how often a drain looks.
	drainPoll = 2 * time.Second
	// drainTries bounds the plans in a row that move nobody.
	drainTries = 3
)

// drain follows the emptying of one backend.
type drain struct {
	app    *app
	client *admin.Client
	id     director.BackendID
	policy director.PlanPolicy
	line   progressLine

	first, last int // users at the beginning, and when the last plan was asked for
	vain        int // plans in a row after which there were no fewer
	why         string
	broken      int // looks in a row that got no answer
}

func (d *drain) run(ctx context.Context, out *output) error {
	defer d.line.clear()
	d.first = -1
	for {
		b, empty, err := d.look(ctx)
		var said *admin.Error
		switch {
		case ctx.Err() != nil:
			return &localError{fmt.Errorf("no longer waiting; backend %s is being emptied by itself: see waypost rebalance status", d.id)}
		case err != nil && (errors.As(err, &said) && said.Code != admin.CodeUnavailable || d.broken >= watchTries):
			return err
		case err != nil:
			d.broken++
		case empty:
			d.line.clear()
			return out.say(b, "%s is empty: safe to switch off", b.ID)
		default:
			d.broken = 0
			if err := d.push(ctx, b); err != nil {
				return err
			}
		}
		d.app.pause(ctx, drainPoll)
	}
}

// look reads the backend, and whether anything of it is left.
func (d *drain) look(ctx context.Context) (b admin.Backend, empty bool, err error) {
	all, err := d.client.Backends(ctx)
	if err != nil {
		return b, false, err
	}
	for _, x := range all {
		if x.ID == d.id {
			b = x
		}
	}
	switch {
	case b.ID == "":
		return b, false, &localError{fmt.Errorf("backend %s is gone", d.id)}
	case b.State != director.BackendDraining:
		return b, false, &localError{fmt.Errorf("backend %s is %s by now: somebody has ended the drain", d.id, b.State)}
	case b.Kind != director.KindWaypost && b.Users > 0:
		return b, false, &localError{fmt.Errorf("backend %s is of kind %s, and %d users live there: moves go between waypost backends", d.id, b.Kind, b.Users)}
	case b.Users > 0 || b.Sessions != nil && *b.Sessions > 0:
		return b, false, nil
	}
	moves, err := d.client.Moves(ctx, false)
	for _, m := range moves {
		if m.From == d.id || m.To == d.id {
			return b, false, err
		}
	}
	return b, err == nil, err
}

// push sees that a plan is at work, and shows how far it is.
func (d *drain) push(ctx context.Context, b admin.Backend) error {
	if d.first < 0 {
		d.first, d.last = b.Users, b.Users+1
	}
	p, err := d.client.Plan(ctx, true)
	if err != nil && !errors.Is(err, director.ErrNotFound) {
		return nil // the next look tells whether a director answers
	}
	d.line.show(fmt.Sprintf("%s%s: %d of %d users left; %s", bar(int64(d.first-b.Users), int64(d.first)), d.id, b.Users, d.first, planLine(p)))
	if err == nil && p.State.UnderWay() || b.Users == 0 {
		return nil
	}
	if err == nil && p.Policy.Goal != director.GoalFill {
		d.why = leftBehind(p)
	}
	if b.Users < d.last {
		d.last, d.vain = b.Users, 0
	} else if d.vain++; d.vain >= drainTries {
		d.line.clear()
		return fmt.Errorf("backend %s has %d users left who cannot be moved now: %s", d.id, b.Users, orDash(d.why))
	}
	_, err = d.client.RequestPlan(ctx, admin.RequestPlan{Policy: d.policy, Apply: true})
	if errors.Is(err, director.ErrConflict) {
		return nil // another one was faster
	}
	return err
}

func planLine(p admin.Plan) string {
	switch {
	case p.ID == "":
		return "no plan yet"
	case p.Waiting != "":
		return "waiting: " + oneLine(p.Waiting)
	}
	return fmt.Sprintf("plan %s: %d of %d", p.State, p.Done, p.Moves)
}

// leftBehind says why a plan that has ended left users where they were.
func leftBehind(p admin.Plan) string {
	var why []string
	if p.Reason != "" {
		why = append(why, oneLine(p.Reason))
	}
	if p.Summary != nil {
		why = append(why, p.Summary.Notes...)
	}
	for _, f := range p.Failures {
		why = append(why, fmt.Sprintf("%s: %s", f.User, oneLine(f.Reason)))
	}
	return strings.Join(why, "; ")
}
