package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"waypost/director/admin"
)

func (a *app) moveVerifyCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "verify USER",
		Short: "Check that all a user's last move brought is still there",
		Long: `Check that all that a user's last move brought is still there. The home compares
its receipt of the move with the directory's, and each message in it, contents
included, with what the mailbox has now: a message may be where it was, have other
flags or be in another folder, or have been expunged since. Any other is missing:
it is told, and the exit code is 1.

It changes nothing and may run at any time. It reads every message. With --json it
prints one object with user, from, to, digest, messages, same, changed, expunged,
missing, and findings: what is missing.`,
		Example: `  waypost move verify alice@example.test
  waypost move verify alice@example.test --json`,
		Args: exactly(wantUser),
	}
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		u, err := parseUser(args[0])
		if err != nil {
			return err
		}
		return conn.with(func(client *admin.Client) error {
			var result verifiedMove
			told := false
			err := client.VerifyMove(c.Context(), u, func(l admin.VerifyLine) error {
				if l.Finding != nil {
					result.Findings = append(result.Findings, l.Finding.What)
				}
				if l.Verified != nil {
					result.Verified, told = *l.Verified, true
				}
				return nil
			})
			switch {
			case err != nil:
				return err
			case !told:
				return errors.New("the answer broke off: nothing is verified")
			}
			return showVerified(out, result)
		})
	}
	return c
}

// verifiedMove is the result with what is missing.
type verifiedMove struct {
	admin.Verified
	Findings []string `json:"findings"`
}

func showVerified(out *output, v verifiedMove) error {
	v.Findings = orEmpty(v.Findings)
	if !out.json {
		for _, text := range v.Findings {
			fmt.Fprintln(out.w, "MISSING "+oneLine(text))
		}
	}
	err := out.say(v, "%s, moved from %s to %s: %d messages: %d as they were, %d with other flags or elsewhere, %d expunged since, %d missing; receipt %s",
		v.User, v.From, v.To, v.Messages, v.Same, v.Changed, v.Expunged, v.Missing, v.Digest)
	if err == nil && v.Missing > 0 {
		err = errTold
	}
	return err
}

func (a *app) moveUndoCmd() *cobra.Command {
	var noWait bool
	c := &cobra.Command{
		Use:   "undo USER",
		Short: "Take a user back to where the last move came from",
		Long: `Take a user back to where the last move came from, with everything that arrived
since. It is a move like any other. Within the old home's trash_grace (7 days) its
copy is still there, and only what has changed is copied; later, everything is.

The members of a sharing group go back together. Like "waypost move" the command
waits for the end, and prints the same.`,
		Example: `  waypost move undo alice@example.test
  waypost move undo alice@example.test --json`,
		Args: exactly(wantUser),
	}
	c.Flags().BoolVar(&noWait, "no-wait", false, "return as soon as the move is planned")
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		u, err := parseUser(args[0])
		if err != nil {
			return err
		}
		return conn.with(func(client *admin.Client) error {
			m, err := client.UndoMove(c.Context(), u)
			if err != nil {
				return err
			}
			if noWait {
				return a.showMove(out, m)
			}
			return a.followAll(c.Context(), client, out, m)
		})
	}
	return c
}
