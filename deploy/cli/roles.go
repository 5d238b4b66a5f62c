package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"waypost/internal/cluster"
)

// roleFlags are those of every role.
type roleFlags struct {
	config string
	check  bool
}

// running makes c run a role from a file when it is called without a command
// below it.
func (a *app) running(c *cobra.Command, r cluster.Role) *cobra.Command {
	var f roleFlags
	c.Flags().StringVar(&f.config, "config", "", "the role's TOML `file`; waypost init makes it")
	c.Flags().BoolVar(&f.check, "check-config", false, "check the file and what it names, print ok, and do not start")
	c.Args = unknownWord
	c.RunE = func(c *cobra.Command, _ []string) error {
		if f.config == "" {
			hint := ""
			if len(names(c)) > 0 {
				hint = fmt.Sprintf(", or a command: %v", names(c))
			}
			return usagef("say the configuration with --config FILE%s", hint)
		}
		return a.role(c.Context(), r, f)
	}
	return c
}

func (a *app) role(ctx context.Context, r cluster.Role, f roleFlags) error {
	config, err := a.loadRole(f.config, r)
	if err != nil {
		return err
	}
	if f.check {
		if err := a.checkRole(config); err != nil {
			return fmt.Errorf("%s: %w", f.config, err)
		}
		_, err := fmt.Fprintln(a.stdout, "ok")
		return err
	}
	s := newSupervisor(config.Node.Metrics, a.warn)
	defer s.end()
	context.AfterFunc(ctx, s.stopping)
	return a.runRole(ctx, config, a.stderr, func() { s.ready(ctx) })
}

const roleFiles = `

The file says where everything is; "waypost init" writes it with a comment on
every setting. Logs go to stderr. SIGTERM drains and stops; a second one stops
at once. Under systemd the unit is of type notify: the process says when it is
ready and that it stops, and feeds the watchdog while its own /healthz answers.`

func roleExample(r, id string) string {
	return fmt.Sprintf(`  # Check, then run.
  waypost %[1]s --config /etc/waypost/%[1]s-%[2]s.toml --check-config
  waypost %[1]s --config /etc/waypost/%[1]s-%[2]s.toml

  # A trial on one machine, without privileges (etcd must run).
  waypost init --dir ./cluster --cluster trial
  waypost %[1]s --config ./cluster/nodes/%[1]s-%[2]s/%[1]s-%[2]s.toml`, r, id)
}

func (a *app) directorCmd() *cobra.Command {
	c := a.running(&cobra.Command{
		Use:   "director --config FILE | COMMAND",
		Short: "Run a director: admin API, console, look-ups; restore the directory",
		Long: `Run a director. It serves the admin API that the operator's commands use, the
console, and the look-ups for foreign software. It keeps nothing: the
directory is in etcd, and any number of directors may run.` + roleFiles,
		Example: roleExample("director", "d1"),
	}, cluster.RoleDirector)
	c.AddCommand(a.directorRestoreCmd())
	return c
}

func (a *app) mxCmd() *cobra.Command {
	return a.running(&cobra.Command{
		Use:   "mx --config FILE",
		Short: "Run an mx: takes mail by SMTP",
		Long: `Run an mx. It takes mail from the internet and from the cluster's users, asks
each recipient's home for its answer while the sender waits, and keeps what
cannot be delivered now in its spool: never lose that folder.` + roleFiles,
		Example: roleExample("mx", "mx1"),
	}, cluster.RoleMX)
}

func (a *app) proxyCmd() *cobra.Command {
	return a.running(&cobra.Command{
		Use:   "proxy --config FILE",
		Short: "Run a proxy: IMAP and POP3 for clients",
		Long: `Run a proxy. It takes IMAP and POP3 clients, checks their passwords, and
connects them to the user's home. It keeps nothing.` + roleFiles,
		Example: roleExample("proxy", "p1"),
	}, cluster.RoleProxy)
}
