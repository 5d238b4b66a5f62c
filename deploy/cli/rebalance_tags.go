package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"waypost/director"
	"waypost/director/admin"
)

// tagCmd is "user tag" or "backend tag": show or set all tags of one thing.
func (a *app) tagCmd(c *cobra.Command, want string, tags func(ctx context.Context, client *admin.Client, name string, set []string) (admin.Tags, error)) *cobra.Command {
	var none bool
	c.Args = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("say %s", want)
		}
		if err := director.ValidTags(args[1:]); err != nil {
			return &usageError{err}
		}
		return nil
	}
	c.Flags().BoolVar(&none, "none", false, "no tags")
	conn, out := a.connecting(c), a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		set := args[1:]
		switch {
		case none && len(set) > 0:
			return usagef("--none stands alone")
		case !none && len(set) == 0:
			set = nil // only show
		}
		return conn.with(func(client *admin.Client) error {
			t, err := tags(c.Context(), client, args[0], set)
			if err != nil {
				return err
			}
			t.Tags = orEmpty(t.Tags)
			return out.say(t, "%s: tags: %s", args[0], orDash(strings.Join(t.Tags, " ")))
		})
	}
	if strings.HasPrefix(c.Use, "tag BACKEND") {
		a.completeBackends(c, conn, "")
	}
	return c
}

func (a *app) userTagCmd() *cobra.Command {
	return a.tagCmd(&cobra.Command{
		Use:   "tag USER [TAG... | --none]",
		Short: "Say on which backends a user may live",
		Long: `Set a user's tags, instead of those it has; with the user alone, show them. A new
user ("waypost user add --tags") is put on a backend that has all of them; plans
move a user only to such backends, and away from one that is none: see "waypost rebalance plan". A single "waypost move" does as it is told.`,
		Example: `  waypost user tag alice@example.test eu ssd
  waypost user tag alice@example.test
  waypost user tag alice@example.test --none`,
	}, wantUser, func(ctx context.Context, client *admin.Client, name string, set []string) (admin.Tags, error) {
		u, err := parseUser(name)
		switch {
		case err != nil:
			return admin.Tags{}, err
		case set == nil:
			return client.UserTags(ctx, u)
		}
		return client.PutUserTags(ctx, u, set)
	})
}

func (a *app) backendTagCmd() *cobra.Command {
	return a.tagCmd(&cobra.Command{
		Use:   "tag BACKEND [TAG... | --none]",
		Short: "Say what a backend offers to users with tags",
		Long: `Set a backend's tags, instead of those it has; with the backend alone, show them. A
user with tags is moved only to backends that have all of them ("waypost user tag");
one without may live anywhere.`,
		Example: `  waypost backend tag b1 eu ssd
  waypost backend tag b1
  waypost backend tag b1 --none`,
	}, wantBackend, func(ctx context.Context, client *admin.Client, name string, set []string) (admin.Tags, error) {
		id, err := parseBackend(name)
		switch {
		case err != nil:
			return admin.Tags{}, err
		case set == nil:
			return client.BackendTags(ctx, id)
		}
		return client.PutBackendTags(ctx, id, set)
	})
}
