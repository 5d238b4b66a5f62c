package cli

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"waypost/backend/control"
	"waypost/director"
)

// importOne is one user who is imported by flags, as a line of a file would have it.
type importOne struct {
	u                importUser
	home             string
	quota            bytesValue
	copy, link, move bool
}

// oneFlags are those that count with --maildir only.
func oneFlags() []string {
	return []string{"home", "copy", "link", "move", "pop3-uidl", "password-hash", "quota-bytes"}
}

func (o *importOne) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.u.Maildir, "maildir", "", "take over the Maildir at `path`, on the home's machine, as the mailbox of one user")
	f.StringVar(&o.home, "home", "", "`backend` on whose machine it is")
	f.BoolVar(&o.copy, "copy", false, "copy it, and leave it as it is (the default)")
	f.BoolVar(&o.link, "link", false, "share the files of messages with it")
	f.BoolVar(&o.move, "move", false, "remove it once the user is served")
	f.StringVar(&o.u.POP3UIDL, "pop3-uidl", "", "pop3_uidl_format of the `Dovecot` that served it (default %08Xu%08Xv, Courier's own for Courier's)")
	f.StringVar(&o.u.PasswordHash, "password-hash", "", "the password's `hash`; without one nobody can log in until there is")
	f.Var(&o.quota, "quota-bytes", "limit of the mailbox, like 1GiB; 0: unlimited")
}

// unused refuses flags that would count with --maildir only.
func (o *importOne) unused(c *cobra.Command) error {
	for _, name := range oneFlags() {
		if c.Flags().Changed(name) {
			return usagef("--%s goes with --maildir; a file says it of each user", name)
		}
	}
	return nil
}

func (o *importOne) line(user string) ([]byte, error) {
	u, err := parseUser(user)
	if err != nil {
		return nil, err
	}
	if o.home == "" {
		return nil, usagef("--maildir %s: name the backend on whose machine it is, with --home", o.u.Maildir)
	}
	home, err := parseBackend(o.home)
	if err != nil {
		return nil, err
	}
	line := o.u
	line.User, line.Home, line.QuotaBytes = string(u), director.BackendID(home), o.quota.n
	for mode, chosen := range map[control.AdoptMode]bool{control.AdoptCopy: o.copy, control.AdoptLink: o.link, control.AdoptMove: o.move} {
		if chosen && line.MaildirMode != "" {
			return nil, usagef("choose one of --copy, --link and --move")
		}
		if chosen {
			line.MaildirMode = mode
		}
	}
	return json.Marshal(line)
}
