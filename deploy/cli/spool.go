package cli

import (
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"waypost/director/admin"
)

func (a *app) spoolCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "spool",
		Short: "List, retry and drop mail that waits in the mx's spools",
		Long: `Tell of the mail that waits at the mx: for a user who is being moved, or a backend
that is away. It is delivered by itself as soon as that is over. An entry is
"queued" (tried again at its time), "held" (it waits for the operator), or
"dead" (its user is gone).`,
		Example: `  waypost spool list
  waypost spool retry --all`,
	}
	c.AddCommand(a.spoolListCmd(), a.spoolRetryCmd(), a.spoolDropCmd())
	return parent(c)
}

func (a *app) spoolListCmd() *cobra.Command {
	var user, node string
	c := &cobra.Command{
		Use:     "list",
		Short:   "List spooled mail",
		Long:    `List spooled mail. An mx that does not answer is told on stderr, and the exit code is 1.`,
		Example: `  waypost spool list --user alice@example.test --json`,
		Args:    exactly(),
	}
	c.Flags().StringVar(&user, "user", "", "only what waits for this `user`")
	c.Flags().StringVar(&node, "node", "", "only of this `mx`, like mx1")
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		u, err := optionalUser(user)
		if err != nil {
			return err
		}
		return conn.with(func(client *admin.Client) error {
			s, err := client.Spool(c.Context(), u, node)
			if err != nil {
				return err
			}
			s.Entries = orEmpty(s.Entries)
			if err := out.show(s, func(w io.Writer) { writeSpool(w, s.Entries) }); err != nil {
				return err
			}
			return a.nodeErrors(s.Errors)
		})
	}
	return c
}

func writeSpool(w io.Writer, entries []admin.SpoolEntry) {
	t := newTable(w, "ID", "MX", "QUEUE", "STATE", "AGE", "SIZE", "TRIES", "NEXT", "SENDER", "FOR", "ERROR")
	for _, e := range entries {
		for i, r := range e.Recipients {
			reason := r.Error
			if reason == "" {
				reason = e.LastError
			}
			to := r.User
			if to == "" {
				to = r.Address
			}
			if i == 0 {
				t.row(e.ID, e.Node, orDash(strings.Join(nonEmpty(e.Queue, e.Kind), " ")), e.State, age(e.AgeSeconds), size(e.SizeBytes), e.Attempts, when(e.NextTry), "<"+e.Sender+">", to, orDash(oneLine(reason)))
			} else {
				t.row("", "", "", "", "", "", "", "", "", to, orDash(oneLine(reason)))
			}
		}
	}
	t.end()
}

func nonEmpty(list ...string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return s == "" })
}

func (a *app) spoolRetryCmd() *cobra.Command {
	var req admin.SpoolRequest
	var user string
	c := &cobra.Command{
		Use:   "retry ID | --user USER | --all",
		Short: "Try spooled mail now",
		Long: `Have one entry, those of a user, or all tried now. An entry that is dead is
revived only by its ID.`,
		Example: `  waypost spool retry --all
  waypost spool retry --user alice@example.test`,
		Args: atMostOne,
	}
	c.Flags().BoolVar(&req.All, "all", false, "all that is queued or held")
	c.Flags().StringVar(&user, "user", "", "what waits for this `user`")
	c.Flags().StringVar(&req.Node, "node", "", "only at this `mx`, like mx1")
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		var err error
		if req.User, err = optionalUser(user); err != nil {
			return err
		}
		said := len(args)
		if req.All {
			said++
		}
		if user != "" {
			said++
		}
		if said != 1 {
			return usagef("say one of: an entry's ID, --user USER, --all")
		}
		if len(args) == 1 {
			req.ID = args[0]
		}
		return conn.with(func(client *admin.Client) error {
			done, err := client.SpoolRetry(c.Context(), req)
			if err != nil {
				return err
			}
			if err := out.say(done, "%d tried now", done.Entries); err != nil {
				return err
			}
			return a.nodeErrors(done.Errors)
		})
	}
	return c
}

func (a *app) spoolDropCmd() *cobra.Command {
	var req admin.SpoolRequest
	var yes bool
	c := &cobra.Command{
		Use:   "drop ID --yes",
		Short: "Throw a spooled message away",
		Long: `Throw a spooled message away, for all whom it still waits for. Its sender was told
that it was accepted, and is not told of this.`,
		Example: `  id=$(waypost spool list --json | jq -r '.entries[0].id // empty')
  [ -z "$id" ] || waypost spool drop "$id" --yes`,
		Args: exactly("the entry's ID (waypost spool list)"),
	}
	c.Flags().BoolVar(&yes, "yes", false, "yes, throw it away")
	c.Flags().StringVar(&req.Node, "node", "", "only at this `mx`, like mx1")
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if !yes {
			return usagef("%s would be lost for good: say --yes", args[0])
		}
		req.ID = args[0]
		return conn.with(func(client *admin.Client) error {
			done, err := client.SpoolDrop(c.Context(), req)
			if err != nil {
				return err
			}
			if err := out.say(done, "%d dropped", done.Entries); err != nil {
				return err
			}
			return a.nodeErrors(done.Errors)
		})
	}
	return c
}
