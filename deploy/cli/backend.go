package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/cluster"
)

const wantBackend = "the backend, like b1"

func (a *app) backendCmd() *cobra.Command {
	c := a.running(&cobra.Command{
		Use:   "backend --config FILE | COMMAND",
		Short: "Run a backend, or list and change backends",
		Long: `With --config, run a backend: the storage node. It keeps its users' Maildirs in
one folder and serves them to mx and proxies, by LMTP, IMAP and POP3 between
nodes. With a command, tell of the backends or change them.` + roleFiles,
		Example: roleExample("backend", "b1") + `

  # Operating them.
  waypost backend list
  waypost backend drain b3 --wait`,
	}, cluster.RoleBackend)
	c.AddCommand(a.backendListCmd(),
		a.backendDrainCmd(),
		a.backendStateCmd("activate", director.BackendActive, "Give a backend new users again", `Undo drain and offline: the backend gets new users and moves. Users who have moved
away stay there; "waypost rebalance abort" ends a plan that still moves others.`),
		a.backendStateCmd("offline", director.BackendOffline, "Say that a backend is known to be away", `Say that a backend is known to be away, for a repair. Its users' mail waits in the
spools, their logins fail with a temporary error.`),
		a.backendSetCmd(), a.backendTagCmd(), a.backendAddDovecotCmd(), a.backendRemoveCmd(), a.backendLostCmd())
	return c
}

func backendHead() []string {
	return []string{"ID", "KIND", "STATE", "ALIVE", "WEIGHT", "USERS", "USED", "CAPACITY", "FREE", "SESSIONS"}
}

func backendCells(b admin.Backend) []any {
	return []any{b.ID, b.Kind, b.State, alive(b.Alive), b.Weight, b.Users, sizeOr(b.UsedBytes), sizeOr(b.CapacityBytes), sizeOr(b.FreeBytes), countOr(b.Sessions)}
}

func alive(b *bool) string {
	switch {
	case b == nil:
		return "?"
	case *b:
		return "yes"
	}
	return "NO"
}

func (a *app) backendListCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the backends",
		Long: `List the backends. Users are counted in the directory; sizes and sessions are what
the node told some seconds ago ("?", in JSON null, while it tells nothing).
With --json a list with at least id, state, users, used_bytes, capacity_bytes,
sessions.`,
		Example: `  waypost backend list
  waypost backend list --json`,
		Args: exactly(),
	}
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return conn.with(func(client *admin.Client) error {
			backends, err := client.Backends(c.Context())
			if err != nil {
				return err
			}
			return printList(out, backends, backendHead(), backendCells)
		})
	}
	return c
}

func (a *app) backendStateCmd(word string, state director.BackendState, short, long string) *cobra.Command {
	c := &cobra.Command{
		Use: word + " BACKEND", Short: short, Long: long,
		Example: "  waypost backend " + word + " b3",
		Args:    exactly(wantBackend),
	}
	conn, out := a.connecting(c), a.printing(c)
	a.completeBackends(c, conn, "")
	c.RunE = func(c *cobra.Command, args []string) error {
		return a.updateBackend(c.Context(), conn, out, args[0], admin.UpdateBackend{State: &state})
	}
	return c
}

func (a *app) updateBackend(ctx context.Context, conn *connection, out *output, arg string, req admin.UpdateBackend) error {
	id, err := parseBackend(arg)
	if err != nil {
		return err
	}
	return conn.with(func(client *admin.Client) error {
		b, err := client.UpdateBackend(ctx, id, req)
		if err != nil {
			return err
		}
		return out.say(b, "%s is %s, weight %d", b.ID, b.State, b.Weight)
	})
}

func (a *app) backendSetCmd() *cobra.Command {
	var weight int
	var capacity bytesValue
	c := &cobra.Command{
		Use:     "set BACKEND",
		Short:   "Change a backend's weight and capacity",
		Long:    `Change what share of new users a backend gets (100 is usual), and what it may be filled with.`,
		Example: `  waypost backend set b1 --weight 50 --capacity-bytes 2TiB`,
		Args:    exactly(wantBackend),
	}
	c.Flags().IntVar(&weight, "weight", 0, "its share of new users")
	c.Flags().Var(&capacity, "capacity-bytes", "what may be filled with mail; 0: the disk's size")
	conn, out := a.connecting(c), a.printing(c)
	a.completeBackends(c, conn, "")
	c.RunE = func(c *cobra.Command, args []string) error {
		var req admin.UpdateBackend
		if c.Flags().Changed("weight") {
			if weight < 0 {
				return usagef("--weight %d: want 0 or more", weight)
			}
			req.Weight = &weight
		}
		if capacity.set {
			req.CapacityBytes = &capacity.n
		}
		if req == (admin.UpdateBackend{}) {
			return usagef("say what to change: --weight or --capacity-bytes")
		}
		return a.updateBackend(c.Context(), conn, out, args[0], req)
	}
	return c
}

func (a *app) backendAddDovecotCmd() *cobra.Command {
	var d director.Dovecot
	var weight int
	var capacity bytesValue
	c := &cobra.Command{
		Use:   "add-dovecot BACKEND --imap HOST:PORT --pop3 HOST:PORT --lmtp HOST:PORT",
		Short: "Add a Dovecot server as a backend",
		Long: `Add a Dovecot server as a backend, or change one. Proxies log in there with the
user's own password, or with a master user as "user*master"; mx deliver by LMTP.
Such a backend has no fence: users are not moved to or from it.

--trusted tells it the client's address (ID for IMAP, XCLIENT for POP3 and
LMTP); set login_trusted_networks there. The files are read by the proxies.`,
		Example: `  waypost backend add-dovecot dove1 --imap 10.0.0.21:143 --pop3 10.0.0.21:110 --lmtp 10.0.0.21:24 \
      --tls starttls --master-user waypost --master-password-file /etc/waypost/dovecot-master --trusted`,
		Args: exactly(wantBackend),
	}
	f := c.Flags()
	f.StringVar(&d.IMAP, "imap", "", "`host:port` of its IMAP")
	f.StringVar(&d.POP3, "pop3", "", "`host:port` of its POP3")
	f.StringVar(&d.LMTP, "lmtp", "", "`host:port` of its LMTP")
	f.StringVar(&d.TLS, "tls", "starttls", "none, starttls or tls, toward IMAP and POP3")
	f.StringVar(&d.CAFile, "ca-file", "", "`file` on the proxies that verifies its certificate (default: the system's)")
	f.StringVar(&d.MasterUser, "master-user", "", "`name` of a master user")
	f.StringVar(&d.MasterPasswordFile, "master-password-file", "", "`file` on the proxies with its password")
	f.BoolVar(&d.Trusted, "trusted", false, "it believes our word on the client's address")
	f.IntVar(&weight, "weight", 100, "its share of new users")
	f.Var(&capacity, "capacity-bytes", "what may be filled with mail")
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		id, err := parseBackend(args[0])
		if err != nil {
			return err
		}
		switch {
		case d.IMAP == "" || d.POP3 == "" || d.LMTP == "":
			return usagef("say where it is with --imap, --pop3 and --lmtp, each HOST:PORT")
		case !slices.Contains([]string{"none", "starttls", "tls"}, d.TLS):
			return usagef("--tls %q: want none, starttls or tls", d.TLS)
		case (d.MasterUser == "") != (d.MasterPasswordFile == ""):
			return usagef("--master-user and --master-password-file belong together")
		case weight < 0:
			return usagef("--weight %d: want 0 or more", weight)
		}
		return conn.with(func(client *admin.Client) error {
			b, err := client.PutBackend(c.Context(), id, admin.PutBackend{
				Kind: director.KindDovecot, Weight: weight, CapacityBytes: capacity.n, Dovecot: &d,
			})
			if err != nil {
				return err
			}
			return out.say(b, "added %s, of kind %s", b.ID, b.Kind)
		})
	}
	return c
}

func (a *app) backendRemoveCmd() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:     "remove BACKEND --yes",
		Short:   "Remove a backend from the directory",
		Long:    `Remove a backend from the directory. Refused while it is the home of users.`,
		Example: `  waypost backend remove b3 --yes`,
		Args:    exactly(wantBackend),
	}
	c.Flags().BoolVar(&yes, "yes", false, "yes, remove it")
	conn, out := a.connecting(c), a.printing(c)
	a.completeBackends(c, conn, "")
	c.RunE = func(c *cobra.Command, args []string) error {
		id, err := parseBackend(args[0])
		if err != nil {
			return err
		}
		if !yes {
			return usagef("%s would be removed from the directory: say --yes", id)
		}
		return conn.with(func(client *admin.Client) error {
			if err := client.RemoveBackend(c.Context(), id); err != nil {
				return fmt.Errorf("remove %s: %w", id, err)
			}
			return out.say(deleted{string(id)}, "removed %s", id)
		})
	}
	return c
}

// completeWithin bounds what a shell waits for names.
const completeWithin = 2 * time.Second

// completeBackends has the shell complete backends' names: as the argument, or
// as a flag's value.
func (a *app) completeBackends(c *cobra.Command, conn *connection, flag string) {
	complete := func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if flag == "" && len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), completeWithin)
		defer cancel()
		var ids []string
		err := conn.with(func(client *admin.Client) error {
			backends, err := client.Backends(ctx)
			for _, b := range backends {
				ids = append(ids, string(b.ID))
			}
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return ids, cobra.ShellCompDirectiveNoFileComp
	}
	if flag == "" {
		c.ValidArgsFunction = complete
		return
	}
	if err := c.RegisterFlagCompletionFunc(flag, complete); err != nil {
		a.warn("completion of --%s: %v", flag, err)
	}
}
