package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"waypost/director"
	"waypost/director/admin"
)

const wantUser = "the user, like alice@example.test"

func (a *app) userCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "user",
		Short: "Add, change, list, import and delete users",
		Long: `Manage users. A user is local@domain, of a domain that exists; its mailbox lies
on its home, one of the backends.`,
		Example: `  echo 'a long secret' | waypost user add dora@example.test --quota-bytes 1GiB
  waypost user show alice@example.test --json
  waypost user list --domain example.test`,
	}
	c.AddCommand(a.userAddCmd(), a.userImportCmd(), a.userPasswdCmd(), a.userSetCmd(), a.userForwardCmd(), a.userReplyCmd(), a.userGroupCmd(), a.userTagCmd(), a.userShowCmd(), a.userListCmd(),
		a.userDisableCmd(), a.userEnableCmd(), a.userDeleteCmd())
	return parent(c)
}

// parseUser takes the user of a command line.
func parseUser(s string) (director.User, error) {
	u, err := director.ParseUser(s)
	if err != nil {
		return "", &usageError{err}
	}
	return u, nil
}

// parseBackend takes a backend's id of a command line.
func parseBackend(s string) (director.BackendID, error) {
	id := director.BackendID(s)
	if err := director.ValidBackendID(id); err != nil {
		return "", &usageError{err}
	}
	return id, nil
}

func checkServices(names []string) error {
	for _, n := range names {
		if !slices.Contains(admin.Services(), n) {
			return usagef("--services: there is no %q; choose from %s", n, strings.Join(admin.Services(), ","))
		}
	}
	return nil
}

func checkCount(flag string, n int64) error {
	if n < 0 {
		return usagef("%s %d: want 0 (unlimited) or more", flag, n)
	}
	return nil
}

func (a *app) userAddCmd() *cobra.Command {
	var quota bytesValue
	var req admin.CreateUser
	var home string
	var noPassword bool
	c := &cobra.Command{
		Use:   "add USER",
		Short: "Add a user",
		Long: `Add a user. The password is asked for at a terminal, and else read from standard
input, one line. The home is the active backend with the most free weighted
room, of those with all of --tags, unless --home names one; that of a member of a sharing group (see "user
group") is where the others live.

A user without an account, as "waypost director restore" may leave one, gets it, and
keeps the mailbox where it is.`,
		Example: `  waypost user add dora@example.test
  waypost user add fred@example.test --group sales
  waypost user add greta@example.test --tags eu,ssd
  echo 'a long secret' | waypost user add erik@example.test --quota-bytes 1GiB --home b1
  waypost user add archive@example.test --no-password --services imap`,
		Args: exactly(wantUser),
	}
	f := c.Flags()
	f.Var(&quota, "quota-bytes", "limit of the mailbox, like 1GiB; 0: unlimited")
	f.Int64Var(&req.QuotaMessages, "quota-messages", 0, "limit of messages; 0: unlimited")
	f.StringVar(&home, "home", "", "`backend` that is to be the home")
	f.StringVar(&req.Group, "group", "", "sharing `group` to be a member of")
	f.StringSliceVar(&req.Services, "services", nil, "what may be used, of "+strings.Join(admin.Services(), ",")+" (default all)")
	f.StringSliceVar(&req.Tags, "tags", nil, "where the user may live: see \"waypost user tag\"")
	f.BoolVar(&noPassword, "no-password", false, "without a password: nobody can log in")
	conn, out := a.connecting(c), a.printing(c)
	a.completeBackends(c, conn, "home")
	c.RunE = func(c *cobra.Command, args []string) error {
		u, err := parseUser(args[0])
		if err != nil {
			return err
		}
		if err := checkServices(req.Services); err != nil {
			return err
		}
		if err := checkCount("--quota-messages", req.QuotaMessages); err != nil {
			return err
		}
		if home != "" {
			if req.Home, err = parseBackend(home); err != nil {
				return err
			}
		}
		if c.Flags().Changed("group") {
			if err := director.ValidGroup(req.Group); err != nil {
				return &usageError{err}
			}
		}
		if err := director.ValidTags(req.Tags); err != nil {
			return &usageError{err}
		}
		return conn.with(func(client *admin.Client) error {
			req.User, req.QuotaBytes = string(u), quota.n
			if !noPassword {
				if req.Password, err = a.password(c.Context(), string(u)); err != nil {
					return err
				}
			}
			user, err := client.CreateUser(c.Context(), req)
			if err != nil {
				return err
			}
			return out.say(user, "added %s at %s", user.User, user.Home)
		})
	}
	return c
}

// changing is a command that changes one user and tells what it is then.
func (a *app) changing(c *cobra.Command, did string, change func(c *cobra.Command, u director.User) (admin.UpdateUser, error)) *cobra.Command {
	c.Args = exactly(wantUser)
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		u, err := parseUser(args[0])
		if err != nil {
			return err
		}
		return conn.with(func(client *admin.Client) error {
			req, err := change(c, u)
			if err != nil {
				return err
			}
			user, err := client.UpdateUser(c.Context(), u, req)
			if err != nil {
				return err
			}
			return out.say(user, "%s: %s", user.User, did)
		})
	}
	return c
}

func (a *app) userPasswdCmd() *cobra.Command {
	return a.changing(&cobra.Command{
		Use:   "passwd USER",
		Short: "Set a user's password",
		Long: `Set a user's password. It is asked for at a terminal, and else read from standard
input, one line. The old one stops working at once; open sessions go on (see
waypost session kick).`,
		Example: `  waypost user passwd alice@example.test
  echo 'another secret' | waypost user passwd alice@example.test`,
	}, "password set", func(c *cobra.Command, u director.User) (admin.UpdateUser, error) {
		p, err := a.password(c.Context(), string(u))
		return admin.UpdateUser{Password: &p}, err
	})
}

func (a *app) userSetCmd() *cobra.Command {
	var quota bytesValue
	var messages int64
	var services []string
	var fullText bool
	c := a.changing(&cobra.Command{
		Use:     "set USER",
		Short:   "Change a user's quota, services and search index",
		Long:    `Change what is named; the rest stays as it is.`,
		Example: `  waypost user set alice@example.test --quota-bytes 2GiB --services imap,submission`,
	}, "changed", func(c *cobra.Command, _ director.User) (admin.UpdateUser, error) {
		var req admin.UpdateUser
		if c.Flags().Changed("quota-bytes") {
			req.QuotaBytes = &quota.n
		}
		if c.Flags().Changed("quota-messages") {
			req.QuotaMessages = &messages
		}
		if c.Flags().Changed("services") {
			req.Services = &services
		}
		if c.Flags().Changed("full-text") {
			req.FullText = &fullText
		}
		if req == (admin.UpdateUser{}) {
			return req, usagef("say what to change: --quota-bytes, --quota-messages, --services or --full-text")
		}
		if err := checkCount("--quota-messages", messages); err != nil {
			return req, err
		}
		return req, checkServices(services)
	})
	f := c.Flags()
	f.Var(&quota, "quota-bytes", "limit of the mailbox, like 1GiB; 0: unlimited")
	f.Int64Var(&messages, "quota-messages", 0, "limit of messages; 0: unlimited")
	f.StringSliceVar(&services, "services", nil, "what may be used, of "+strings.Join(admin.Services(), ",")+`; "" for all`)
	f.BoolVar(&fullText, "full-text", false, "keep an index of the user's texts, which makes searches in them fast; =false: keep none")
	return c
}

func (a *app) userDisableCmd() *cobra.Command {
	return a.changing(&cobra.Command{
		Use:     "disable USER",
		Short:   "Refuse a user's logins and mail; what is stored stays",
		Long:    `Refuse a user's logins, and mail for it, until "user enable". What is stored stays.`,
		Example: `  waypost user disable bob@example.test`,
	}, "disabled", func(*cobra.Command, director.User) (admin.UpdateUser, error) {
		yes := true
		return admin.UpdateUser{Disabled: &yes}, nil
	})
}

func (a *app) userEnableCmd() *cobra.Command {
	return a.changing(&cobra.Command{
		Use:     "enable USER",
		Short:   "Undo disable",
		Long:    `Take a disabled user's logins and mail again.`,
		Example: `  waypost user enable bob@example.test`,
	}, "enabled", func(*cobra.Command, director.User) (admin.UpdateUser, error) {
		no := false
		return admin.UpdateUser{Disabled: &no}, nil
	})
}

func (a *app) userShowCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "show USER",
		Short: "Show one user",
		Long: `Show one user: home, state, epoch, and what the home says of usage. With --json at
least user, home, state, epoch, used_bytes, used_messages, quota_bytes; usage
is null, and usage_error says why, while the home does not answer.`,
		Example: `  waypost user show alice@example.test
  waypost user show alice@example.test --json`,
		Args: exactly(wantUser),
	}
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		u, err := parseUser(args[0])
		if err != nil {
			return err
		}
		return conn.with(func(client *admin.Client) error {
			user, err := client.User(c.Context(), u)
			if err != nil {
				return err
			}
			return out.show(user, func(w io.Writer) { writeUser(w, user) })
		})
	}
	return c
}

func writeUser(w io.Writer, u admin.User) {
	t := newTable(w, "USER", string(u.User))
	t.row("home", u.Home)
	t.row("state", userState(u))
	t.row("epoch", u.Epoch)
	if u.UsageError != "" {
		t.row("used", "unknown: "+oneLine(u.UsageError))
	} else {
		t.row("used", fmt.Sprintf("%s of %s", sizeOr(u.UsedBytes), sizeLimit(u.QuotaBytes)))
		t.row("messages", fmt.Sprintf("%s of %s", countOr(u.UsedMessages), countLimit(u.QuotaMessages)))
	}
	t.row("sessions", countOr(u.Sessions))
	t.row("services", services(u))
	t.row("password", map[bool]string{true: "set", false: "none: nobody can log in"}[u.HasPassword])
	t.row("forward", forwardText(u))
	t.row("reply", replyText(u.Reply))
	t.row("group", groupText(u))
	t.row("full text", map[bool]string{true: "indexed", false: "not indexed"}[u.FullText])
	t.row("created", when(u.Created))
	if u.Move != nil {
		t.row("move", fmt.Sprintf("%s to %s: %s", u.Move.From, u.Move.To, u.Move.Phase))
	}
	t.end()
}

func userState(u admin.User) string {
	if u.Disabled {
		return string(u.State) + ", disabled"
	}
	return string(u.State)
}

func services(u admin.User) string {
	if len(u.Services) == 0 {
		return "all"
	}
	return strings.Join(u.Services, ",")
}

func (a *app) userListCmd() *cobra.Command {
	var filter admin.UserFilter
	var home string
	c := &cobra.Command{
		Use:   "list",
		Short: "List users",
		Long: `List users, ordered by name. Usage is left out, since each home would have to be
asked: see "user show" and "backend list".`,
		Example: `  waypost user list
  waypost user list --domain example.test --home b1 --json`,
		Args: exactly(),
	}
	f := c.Flags()
	f.StringVar(&filter.Domain, "domain", "", "only of this `domain`")
	f.StringVar(&home, "home", "", "only those whose home is this `backend`")
	f.StringVar(&filter.Prefix, "prefix", "", "only those whose name begins with this `text`")
	conn, out := a.connecting(c), a.printing(c)
	a.completeBackends(c, conn, "home")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if home != "" {
			var err error
			if filter.Home, err = parseBackend(home); err != nil {
				return err
			}
		}
		return conn.with(func(client *admin.Client) error {
			l := newList(out, []string{"USER", "HOME", "STATE", "EPOCH", "QUOTA", "SERVICES"}, func(u admin.User) []any {
				return []any{u.User, u.Home, userState(u), u.Epoch, sizeLimit(u.QuotaBytes), services(u)}
			})
			if err := client.Users(c.Context(), filter, l.add); err != nil {
				l.end()
				return fmt.Errorf("the list is not complete: %w", err)
			}
			l.end()
			return nil
		})
	}
	return c
}

func (a *app) userDeleteCmd() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "delete USER --yes",
		Short: "Delete a user and its mail",
		Long: `Delete a user. Its mail goes to the home's trash, and from there after the grace
period (trash_grace, 7 days). It is refused while the user is being moved. A
user who is made again under this name gets none of the former one's mail.`,
		Example: `  waypost user delete bob@example.test --yes`,
		Args:    exactly(wantUser),
	}
	c.Flags().BoolVar(&yes, "yes", false, "yes, delete it")
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		u, err := parseUser(args[0])
		if err != nil {
			return err
		}
		if !yes {
			return usagef("%s and its mail would be deleted: say --yes", u)
		}
		return conn.with(func(client *admin.Client) error {
			user, err := client.DeleteUser(c.Context(), u)
			if err != nil {
				return err
			}
			return out.say(user, "deleted %s", user.User)
		})
	}
	return c
}
