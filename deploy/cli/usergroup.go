package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"waypost/director"
	"waypost/director/admin"
)

func (a *app) userGroupCmd() *cobra.Command {
	var none bool
	c := &cobra.Command{
		Use:   "group USER [GROUP | --none]",
		Short: "Put a user into a sharing group, or show which it is in",
		Long: `Put a user into a sharing group, instead of the one it is in; with --none, into no
group. With the user alone, show what is set. The members of a group can share
folders with each other (IMAP's ACL). They live on one backend, and move together:
a user who lives elsewhere must be moved to them first. Folders' access lists stay
as they are when a user leaves; only what members share is shown.`,
		Example: `  waypost user group alice@example.test sales
  waypost user group alice@example.test
  waypost user group alice@example.test --none`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > 2 {
				return usagef("say %s, and at most one group", wantUser)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&none, "none", false, "into no group")
	return a.ruling(c, func(w io.Writer, u admin.User) { fmt.Fprintf(w, "%s: group: %s\n", u.User, groupText(u)) },
		func(_ *cobra.Command, args []string) (*admin.UpdateUser, error) {
			switch {
			case none && len(args) > 0:
				return nil, usagef("--none stands alone")
			case none:
				return &admin.UpdateUser{Group: new(string)}, nil
			case len(args) == 0:
				return nil, nil
			}
			if err := director.ValidGroup(args[0]); err != nil {
				return nil, &usageError{err}
			}
			return &admin.UpdateUser{Group: &args[0]}, nil
		})
}

func groupText(u admin.User) string {
	if u.Group == "" {
		return "none"
	}
	return u.Group
}
