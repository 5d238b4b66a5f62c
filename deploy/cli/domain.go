package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"waypost/director"
	"waypost/director/admin"
)

func (a *app) domainCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "domain",
		Short: "Add, list and delete domains",
		Long:  `Manage the domains whose mail this cluster takes.`,
		Example: `  waypost domain add example.net
  waypost domain list --json`,
	}
	c.AddCommand(a.domainAddCmd(), a.domainListCmd(), a.domainDeleteCmd())
	return parent(c)
}

const wantDomain = "the domain, like example.net"

func parseDomain(s string) (string, error) {
	d := strings.ToLower(s)
	if err := director.ValidDomain(d); err != nil {
		return "", &usageError{err}
	}
	return d, nil
}

func (a *app) domainAddCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "add DOMAIN",
		Short:   "Take a domain's mail",
		Long:    `Take a domain's mail from now on. Its users are added afterwards.`,
		Example: `  waypost domain add example.net`,
		Args:    exactly(wantDomain),
	}
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		name, err := parseDomain(args[0])
		if err != nil {
			return err
		}
		return conn.with(func(client *admin.Client) error {
			d, err := client.CreateDomain(c.Context(), name)
			if err != nil {
				return err
			}
			return out.say(d, "added %s", d.Domain)
		})
	}
	return c
}

func (a *app) domainListCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List domains",
		Long:    `List the domains, with how many users and address records each has.`,
		Example: `  waypost domain list`,
		Args:    exactly(),
	}
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return conn.with(func(client *admin.Client) error {
			domains, err := client.Domains(c.Context())
			if err != nil {
				return err
			}
			return printList(out, domains, []string{"DOMAIN", "USERS", "ADDRESSES", "CREATED"}, func(d admin.Domain) []any {
				return []any{d.Domain, d.Users, d.Addresses, when(d.Created)}
			})
		})
	}
	return c
}

// deleted answers a deletion that has nothing else to tell.
type deleted struct {
	Deleted string `json:"deleted"`
}

func (a *app) domainDeleteCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "delete DOMAIN",
		Short:   "Take a domain's mail no more",
		Long:    `Take a domain's mail no more. Refused while it has users or addresses.`,
		Example: `  waypost domain delete example.net`,
		Args:    exactly(wantDomain),
	}
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		name, err := parseDomain(args[0])
		if err != nil {
			return err
		}
		return conn.with(func(client *admin.Client) error {
			if err := client.DeleteDomain(c.Context(), name); err != nil {
				return err
			}
			return out.say(deleted{name}, "deleted %s", name)
		})
	}
	return c
}

func (a *app) addressCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "address",
		Short: "Add, list and delete aliases, lists and catch-alls",
		Long: `Manage what addresses mean. A user's own address needs no record; a record gives
a mailbox a further address (one member), or makes an alias or a list (several).
"*@domain" is the domain's catch-all. Members may be addresses themselves;
loops end.`,
		Example: `  waypost address add postmaster@example.test alice@example.test
  waypost address add team@example.test alice@example.test bob@example.test
  waypost address list --domain example.test`,
	}
	c.AddCommand(a.addressAddCmd(), a.addressListCmd(), a.addressDeleteCmd())
	return parent(c)
}

const wantAddress = "the address, like team@example.test or *@example.test"

func (a *app) addressAddCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "add ADDRESS MEMBER...",
		Short: "Say who gets an address's mail",
		Long: `Say who gets an address's mail; all members at once, those of an existing record
are replaced. Members of other domains need a smarthost at the mx.`,
		Example: `  waypost address add team@example.test alice@example.test bob@example.test
  waypost address add '*@example.test' carol@example.test`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("say %s, and at least one member, like alice@example.test", wantAddress)
			}
			return nil
		},
	}
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		for _, address := range args {
			if err := checkAddress(address); err != nil {
				return err
			}
		}
		return conn.with(func(client *admin.Client) error {
			got, err := client.PutAddress(c.Context(), args[0], args[1:])
			if err != nil {
				return err
			}
			return out.say(got, "%s: %s", got.Address, strings.Join(got.Members, " "))
		})
	}
	return c
}

func checkAddress(s string) error {
	if local, domain, ok := strings.Cut(s, "@"); !ok || local == "" || domain == "" {
		return usagef("%q is no address: want local@domain", s)
	}
	return nil
}

func (a *app) addressListCmd() *cobra.Command {
	var domain string
	c := &cobra.Command{
		Use:     "list",
		Short:   "List address records",
		Long:    `List address records. The users' own addresses have none.`,
		Example: `  waypost address list --domain example.test --json`,
		Args:    exactly(),
	}
	c.Flags().StringVar(&domain, "domain", "", "only of this `domain`")
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return conn.with(func(client *admin.Client) error {
			addresses, err := client.Addresses(c.Context(), domain)
			if err != nil {
				return err
			}
			return printList(out, addresses, []string{"ADDRESS", "MEMBERS"}, func(m admin.Address) []any {
				return []any{m.Address, strings.Join(m.Members, " ")}
			})
		})
	}
	return c
}

func (a *app) addressDeleteCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "delete ADDRESS",
		Short:   "Delete an address record",
		Long:    `Delete an address record. If a user has that name, the address means the user again.`,
		Example: `  waypost address delete team@example.test`,
		Args:    exactly(wantAddress),
	}
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkAddress(args[0]); err != nil {
			return err
		}
		return conn.with(func(client *admin.Client) error {
			if err := client.DeleteAddress(c.Context(), args[0]); err != nil {
				return fmt.Errorf("delete %s: %w", args[0], err)
			}
			return out.say(deleted{args[0]}, "deleted %s", args[0])
		})
	}
	return c
}
