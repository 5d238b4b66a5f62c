package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
)

func (a *app) statusCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the whole cluster on one page",
		Long: `Show the nodes as the membership sees them, the backends, and the directory. The
exit code says whether a director answered, not whether all is well.`,
		Example: `  waypost status
  waypost status --json`,
		Args: exactly(),
	}
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return conn.with(func(client *admin.Client) error {
			s, err := client.Status(c.Context())
			if err != nil {
				return err
			}
			s.Nodes, s.Backends = orEmpty(s.Nodes), orEmpty(s.Backends)
			return out.show(s, func(w io.Writer) { writeStatus(w, s) })
		})
	}
	return c
}

func writeStatus(w io.Writer, s admin.Status) {
	fmt.Fprintf(w, "cluster %s, told by director %s\n", s.Cluster, s.Director)
	if s.Directory.Stale {
		fmt.Fprintln(w, "THE DIRECTORY CANNOT BE REACHED: what follows is the last known")
	}
	fmt.Fprintf(w, "directory: %d ms behind, era %s\n", s.Directory.LagMS, s.Directory.Era)
	fmt.Fprintf(w, "users: %d active, %d busy; domains: %s; moves on their way: %d\n\n",
		s.Users[director.Active], s.Users[director.Busy], countOr(s.Domains), s.MovesInFlight)
	t := newTable(w, "NODE", "ALIVE", "ADDRESS", "SINCE")
	for _, n := range s.Nodes {
		t.row(n.Role+"/"+n.ID, alive(&n.Alive), orDash(n.Node), when(n.Since))
	}
	t.end()
	fmt.Fprintln(w)
	t = newTable(w, backendHead()...)
	for _, b := range s.Backends {
		t.row(backendCells(b)...)
	}
	t.end()
}

func (a *app) sessionCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "session",
		Short: "List and end clients' sessions",
		Long:  `List the IMAP and POP3 sessions at all proxies, and end them.`,
		Example: `  waypost session list --user alice@example.test
  waypost session kick --user alice@example.test`,
	}
	c.AddCommand(a.sessionListCmd(), a.sessionKickCmd())
	return parent(c)
}

func (a *app) sessionListCmd() *cobra.Command {
	var user string
	c := &cobra.Command{
		Use:     "list",
		Short:   "List sessions",
		Long:    `List the sessions at all proxies. A proxy that does not answer is told on stderr, and the exit code is 1.`,
		Example: `  waypost session list --json`,
		Args:    exactly(),
	}
	c.Flags().StringVar(&user, "user", "", "only of this `user`")
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		u, err := optionalUser(user)
		if err != nil {
			return err
		}
		return conn.with(func(client *admin.Client) error {
			s, err := client.Sessions(c.Context(), u)
			if err != nil {
				return err
			}
			s.Sessions = orEmpty(s.Sessions)
			if err := out.show(s, func(w io.Writer) { writeSessions(w, s.Sessions) }); err != nil {
				return err
			}
			return a.nodeErrors(s.Errors)
		})
	}
	return c
}

func optionalUser(s string) (director.User, error) {
	if s == "" {
		return "", nil
	}
	return parseUser(s)
}

func writeSessions(w io.Writer, sessions []control.Session) {
	t := newTable(w, "ID", "USER", "PROTOCOL", "CLIENT", "PROXY", "BACKEND", "STARTED", "IN", "OUT")
	for _, s := range sessions {
		t.row(s.ID, s.User, s.Protocol, s.Client, s.Node, s.Backend, when(s.Started), size(s.BytesIn), size(s.BytesOut))
	}
	t.end()
}

func (a *app) sessionKickCmd() *cobra.Command {
	var user string
	c := &cobra.Command{
		Use:   "kick ID | --user USER",
		Short: "End one session, or all of a user",
		Long: `End one session, or all of a user, and wait until they are gone. The user may log
in again at once: to keep it out, disable it first.`,
		Example: `  waypost session kick --user alice@example.test`,
		Args:    atMostOne,
	}
	c.Flags().StringVar(&user, "user", "", "all sessions of this `user`")
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		var req control.KickRequest
		var err error
		switch {
		case len(args) == 1 && user == "":
			req.ID = args[0]
		case len(args) == 0 && user != "":
			if req.User, err = parseUser(user); err != nil {
				return err
			}
		default:
			return usagef("say either a session's id or --user USER")
		}
		return conn.with(func(client *admin.Client) error {
			k, err := client.Kick(c.Context(), req)
			if err != nil {
				return err
			}
			if err := out.say(k, "%d ended", k.Kicked); err != nil {
				return err
			}
			return a.nodeErrors(k.Errors)
		})
	}
	return c
}

func atMostOne(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%q is too much: want one argument at most", args[1])
	}
	return nil
}

// age tells seconds as time.
func age(seconds int64) string { return (time.Duration(seconds) * time.Second).String() }
