package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/cluster"
)

func (a *app) moveCmd() *cobra.Command {
	var to string
	var noWait bool
	c := &cobra.Command{
		Use:   "move USER --to BACKEND | COMMAND",
		Short: "Move a user to another backend while it works",
		Long: `Move a user to another backend. Its mail is copied while the user works; then new
work is held for a moment, the rest is copied and compared, and the user goes on
at the new home. If anything fails before that, the user stays where it was. A move
that holds the user for too long is taken back, and tried again later by itself.

The members of a sharing group live together: the others who are not there yet are
moved with the user.

The command waits for the end and shows the progress. Ctrl-C stops the waiting,
not the move. The result is "done" (exit code 0) or "undone" (1: the user, or
another member of the group, is where it was, and the reason is told). With --json
it prints one object with at least user, from, to, result, messages, bytes, busy_ms,
receipt, and, for a member of a group, others: the same of each of the others.`,
		Example: `  waypost move alice@example.test --to b2
  waypost move bob@example.test --to b3 --json
  waypost move carol@example.test --to b1 --no-wait; waypost rebalance status`,
		Args: exactly(wantUser),
	}
	c.Flags().StringVar(&to, "to", "", "the `backend` that is to be the new home")
	c.Flags().BoolVar(&noWait, "no-wait", false, "return as soon as the move is planned")
	conn, out := a.connecting(c), a.printing(c)
	a.completeBackends(c, conn, "to")
	c.RunE = func(c *cobra.Command, args []string) error {
		u, err := parseUser(args[0])
		if err != nil {
			return err
		}
		if to == "" {
			return usagef("say the new home with --to BACKEND")
		}
		target, err := parseBackend(to)
		if err != nil {
			return err
		}
		return conn.with(func(client *admin.Client) error {
			m, err := client.CreateMove(c.Context(), string(u), target)
			if err != nil {
				return err
			}
			if noWait {
				return a.showMove(out, m)
			}
			return a.followAll(c.Context(), client, out, m)
		})
	}
	c.AddCommand(a.moveVerifyCmd(), a.moveUndoCmd())
	return c
}

// showMove prints a move with its others: in JSON as one object on one line.
func (a *app) showMove(out *output, m admin.Move) error {
	if !out.json {
		for _, one := range append([]admin.Move{m}, m.Others...) {
			if _, err := fmt.Fprintln(out.w, moveText(one)); err != nil {
				return err
			}
		}
		return nil
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out.w, "%s\n", b)
	return err
}

func moveText(m admin.Move) string {
	if m.Waiting != "" && !m.Phase.Finished() {
		return fmt.Sprintf("%s: %s, %s to %s; waiting: %s", m.User, m.Phase, m.From, m.To, oneLine(m.Waiting))
	}
	switch m.Phase {
	case director.PhaseDone:
		return fmt.Sprintf("%s: done, %s to %s: %d messages, %s, busy for %d ms, receipt %s", m.User, m.From, m.To, m.Messages, size(m.Bytes), m.BusyMS, orDash(m.Receipt))
	case director.PhaseUndone:
		return fmt.Sprintf("%s: undone, still at %s: %s", m.User, m.From, orDash(oneLine(m.Reason)))
	case director.PhasePlanned:
		return fmt.Sprintf("%s: planned, %s to %s", m.User, m.From, m.To)
	}
	return fmt.Sprintf("%s: %s, %s to %s: %s copied in %d passes", m.User, m.Phase, m.From, m.To, size(m.CopiedBytes), m.Passes)
}

const (
	// watchAgain is the wait before a broken watch is taken up again.
	watchAgain = time.Second
	// watchTries bounds the tries without an answer in between.
	watchTries = 60
)

// errReplaced: the journal is of a later move, so this one's end is not told.
var errReplaced = errors.New("another move of this user has begun since, and this one's result is no longer told: see waypost user show")

// followAll waits for the end of m and of the others' moves, and tells how they ended.
func (a *app) followAll(ctx context.Context, client *admin.Client, out *output, m admin.Move) error {
	others := m.Others
	m.Others = nil
	m, err := a.follow(ctx, client, out, m)
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.Result == "" {
			if o, err = a.follow(ctx, client, out, o); err != nil {
				return fmt.Errorf("%s; then: %w", moveText(m), err)
			}
		}
		m.Others = append(m.Others, o)
	}
	return a.moveEnded(out, m)
}

// follow waits for the end of m. Directors may come and go meanwhile.
func (a *app) follow(ctx context.Context, client *admin.Client, out *output, m admin.Move) (admin.Move, error) {
	p := a.newMoveProgress(ctx, client, out, m)
	last, replaced, silent := m, false, 0
	for {
		_, err := client.WatchMove(ctx, m.User, func(now admin.Move) {
			silent = 0
			if now.ID != m.ID {
				replaced = true
				return
			}
			last = now
			p.tell(now)
		})
		var said *admin.Error
		switch {
		case replaced && last.Result == "":
			p.end()
			return last, &localError{errReplaced}
		case last.Result != "":
			p.end()
			return last, nil
		case ctx.Err() != nil:
			p.end()
			return last, &localError{fmt.Errorf("no longer waiting; the move of %s goes on by itself: see waypost rebalance status", m.User)}
		case errors.As(err, &said) && said.Code != admin.CodeUnavailable:
			p.end()
			return last, fmt.Errorf("the move goes on by itself, but cannot be followed: %w", err)
		}
		if silent++; silent > watchTries {
			p.end()
			return last, fmt.Errorf("the move goes on by itself, but cannot be followed: %w", orBroken(err))
		}
		a.pause(ctx, watchAgain)
	}
}

func orBroken(err error) error {
	if err == nil {
		return errors.New("the director tells of no end")
	}
	return err
}

func (a *app) moveEnded(out *output, m admin.Move) error {
	if err := a.showMove(out, m); err != nil {
		return err
	}
	var failed error
	for _, one := range append([]admin.Move{m}, m.Others...) {
		if one.Result == string(director.PhaseDone) {
			continue
		}
		failed = errTold
		if out.json {
			a.warn("the move of %s was undone: %s", one.User, orDash(oneLine(one.Reason)))
		}
	}
	return failed
}

// moveProgress shows how far a move is: a line that is written over on a
// terminal; else, unless JSON is wanted, a line for each phase.
type moveProgress struct {
	out   *output
	line  progressLine
	total int64 // bytes the user had when it began; 0: not known
	phase director.MovePhase
	// waiting is the reason last told, without its figures.
	waiting string
}

func (a *app) newMoveProgress(ctx context.Context, client *admin.Client, out *output, m admin.Move) *moveProgress {
	p := &moveProgress{out: out, line: a.progressLine()}
	if p.line.terminal() {
		// Only for the bar: without it the bytes alone are shown.
		if u, err := client.User(ctx, m.User); err == nil && u.UsedBytes != nil {
			p.total = *u.UsedBytes
		}
	}
	return p
}

func (p *moveProgress) tell(m admin.Move) {
	switch {
	case p.line.terminal():
		p.line.show(bar(m.CopiedBytes, p.total) + moveText(m))
	case !p.out.json && (m.Phase != p.phase || withoutFigures(m.Waiting) != p.waiting) && !m.Phase.Finished():
		fmt.Fprintln(p.out.w, moveText(m))
	}
	p.phase, p.waiting = m.Phase, withoutFigures(m.Waiting)
}

// withoutFigures tells two reasons apart that are not of the same kind: their figures
// change all the time.
func withoutFigures(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, s)
}

func (p *moveProgress) end() { p.line.clear() }

const barWidth = 20

// bar draws how much of total is done; a second pass may copy more than that.
func bar(done, total int64) string {
	if total <= 0 {
		return ""
	}
	filled := int(min(done, total) * barWidth / total)
	b := make([]byte, barWidth)
	for i := range b {
		b[i] = '.'
		if i < filled {
			b[i] = '#'
		}
	}
	return "[" + string(b) + "] "
}

func (a *app) rebalanceCmd() *cobra.Command {
	c := a.running(&cobra.Command{
		Use:   "rebalance --config FILE | COMMAND",
		Short: "Run a mover, or tell of moves",
		Long: `With --config, run a mover: it carries out the moves that stand in the directory.
It keeps nothing; if it dies at any point, another finishes or undoes its moves.
With a command, tell of moves.` + roleFiles,
		Example: roleExample("rebalance", "r1") + `

  # What is being moved.
  waypost rebalance status`,
	}, cluster.RoleRebalance)
	c.AddCommand(append(a.planCmds(), a.rebalanceLimitsCmd())...)
	return c
}

func (a *app) rebalanceStatusCmd() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "status",
		Short: "List moves that are on their way",
		Long: `List the moves that are on their way; with --all also each user's last one. WAITING
says why a move does not go on, or goes on slowly: for its turn, because users would
have to wait, or for its next try.`,
		Example: `  waypost rebalance status --all --json`,
		Args:    exactly(),
	}
	c.Flags().BoolVar(&all, "all", false, "also those that have ended")
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return conn.with(func(client *admin.Client) error {
			moves, err := client.Moves(c.Context(), all)
			if err != nil {
				return err
			}
			return printList(out, moves, []string{"USER", "FROM", "TO", "PHASE", "COPIED", "PASSES", "BUSY", "SINCE", "WAITING", "REASON"}, func(m admin.Move) []any {
				return []any{m.User, m.From, m.To, m.Phase, size(m.CopiedBytes), m.Passes, fmt.Sprintf("%d ms", m.BusyMS), when(m.Created), orDash(oneLine(m.Waiting)), orDash(oneLine(m.Reason))}
			})
		})
	}
	return c
}
