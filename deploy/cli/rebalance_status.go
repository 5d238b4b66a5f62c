package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"waypost/director"
	"waypost/director/admin"
)

// withPlan gives the list of moves the plan above it: how far it is, when it ends,
// and what it waits for.
func (a *app) withPlan(c *cobra.Command) *cobra.Command {
	var watch, plan bool
	c.Short = "Show the plan under way and the moves"
	c.Long += `

Above them stands the plan that is under way, if there is one: how far it is, when it
is expected to end, and why no further move begins. With --watch this is shown again
every two seconds, until the plan has ended. --json prints the list of moves; with
--plan it prints the plan instead, its moves under on_their_way.`
	c.Example += `
  waypost rebalance status --watch
  waypost rebalance status --plan --json`
	c.Flags().BoolVar(&watch, "watch", false, "show it again and again, until the plan has ended")
	c.Flags().BoolVar(&plan, "plan", false, "the plan alone; with --json one object")
	conn, out := &connection{app: a}, &output{w: a.stdout}
	list := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		var err error
		if *conn, err = flagsOf(a, c); err != nil {
			return err
		}
		if out.json, err = c.Flags().GetBool("json"); err != nil {
			return err
		}
		if watch && out.json {
			return usagef("--watch is for people; with --json call it again and again")
		}
		if out.json && !plan {
			return list(c, args)
		}
		for {
			if watch {
				a.clearScreen()
			}
			p, known, err := a.planStatus(c.Context(), conn, out, plan)
			if !plan {
				if err != nil {
					a.warn("the plan is not told: %s", oneLine(err.Error()))
				}
				err = list(c, args)
			}
			if err != nil || !watch || known && !p.State.UnderWay() {
				return err
			}
			if a.pause(c.Context(), 2*time.Second); c.Context().Err() != nil {
				return nil
			}
		}
	}
	return c
}

// flagsOf finds the connection's flags that the command has already.
func flagsOf(a *app, c *cobra.Command) (connection, error) {
	conn := connection{app: a}
	var errs []error
	get := func(name string) string {
		s, err := c.Flags().GetString(name)
		errs = append(errs, err)
		return s
	}
	conn.data = get("data")
	conn.file.Admin, conn.file.CA, conn.file.Cert, conn.file.Key = get("admin"), get("ca"), get("cert"), get("key")
	return conn, errors.Join(errs...)
}

// planStatus prints the plan, if there is one; known is false where there is none.
func (a *app) planStatus(ctx context.Context, conn *connection, out *output, alone bool) (p admin.Plan, known bool, err error) {
	err = conn.with(func(client *admin.Client) error {
		p, err = client.Plan(ctx, alone)
		if errors.Is(err, director.ErrNotFound) && !alone {
			return nil
		}
		if err != nil {
			return err
		}
		known = true
		p.Summary = nil // rebalance show has it
		return out.show(p, func(w io.Writer) {
			writePlanHead(w, p, time.Now())
			if !alone {
				fmt.Fprintln(w)
			}
		})
	})
	return p, known, err
}

// clearScreen begins a live table anew; what is no terminal gets one after the other.
func (a *app) clearScreen() {
	if f, ok := a.stdout.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(f, "\x1b[H\x1b[2J")
	}
}
