package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"waypost/backend/backup"
	"waypost/director"
)

// dirAndUser takes a folder, and perhaps a user.
func dirAndUser(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return usagef("say the folder of the backups")
	case len(args) > 2:
		return usagef("%q is too much: want a folder, and %s or nothing", args[2], wantUser)
	}
	return nil
}

// inArchive opens a folder of backups and chooses users.
func inArchive(args []string) (*backup.Archive, []director.User, error) {
	archive, err := backup.Open(args[0])
	if err != nil {
		return nil, nil, err
	}
	if len(args) == 1 {
		users, err := archive.Users()
		return archive, users, err
	}
	u, err := parseUser(args[1])
	if err != nil {
		return nil, nil, err
	}
	_, err = archive.Meta(u, 0)
	return archive, []director.User{u}, err
}

func (a *app) backupVerifyCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "verify DIR [USER]",
		Short: "Read backups, and compare them with their manifests",
		Long: `Read every file of the backups in a folder, of all users or of one, and compare it
with the manifest that was written with it: contents, sizes, dates, and that
nothing is missing or was added. It needs no cluster and changes nothing. The exit
code is 1 if anything differs.`,
		Example: `  waypost backup verify /backup/mail
  waypost backup verify /backup/mail alice@example.test --json`,
		Args: dirAndUser,
	}
	out := a.printing(c)
	c.RunE = func(c *cobra.Command, args []string) error { return a.verifyBackups(c.Context(), args, out) }
	return c
}

// verified is what a verification of one generation came to.
type verified struct {
	User       director.User `json:"user"`
	Generation int           `json:"generation"`
	Files      int64         `json:"files"`
	Problems   []string      `json:"problems"`
}

func (a *app) verifyBackups(ctx context.Context, args []string, out *output) error {
	archive, users, err := inArchive(args)
	if err != nil {
		return err
	}
	generations, problems := 0, 0
	for _, u := range users {
		err := archive.Verify(ctx, u, func(v backup.Verified) error {
			generations++
			problems += len(v.Problems)
			if out.json {
				return jsonLine(out, verified{u, v.Generation, v.Files, orEmpty(v.Problems)})
			}
			for _, p := range v.Problems {
				if _, err := fmt.Fprintf(out.w, "%s  generation %d  %s\n", u, v.Generation, oneLine(p)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if !out.json {
		fmt.Fprintf(out.w, "verified %d generations of %d users: %d problems\n", generations, len(users), problems)
	}
	if problems > 0 {
		return errTold
	}
	return nil
}

func (a *app) backupListCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "list DIR [USER]",
		Short: "List the generations in a folder of backups",
		Long:  `List the generations of all users in a folder of backups, or of one. It needs no cluster.`,
		Example: `  waypost backup list /backup/mail
  waypost backup list /backup/mail alice@example.test --json`,
		Args: dirAndUser,
	}
	out := a.printing(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		archive, users, err := inArchive(args)
		if err != nil {
			return err
		}
		l := newList(out, []string{"USER", "GENERATION", "TAKEN", "BACKEND", "MESSAGES", "SIZE"}, listedCells)
		for _, u := range users {
			gens, err := archive.Generations(u)
			if err != nil {
				return err
			}
			for _, n := range gens {
				m, err := archive.Meta(u, n)
				if err != nil {
					return err
				}
				if err := l.add(listed{User: u, Generation: n, Taken: m.Taken, Backend: m.Backend, Messages: m.Messages, Bytes: m.Bytes}); err != nil {
					return err
				}
			}
		}
		l.end()
		return nil
	}
	return c
}

// listed is one generation.
type listed struct {
	User       director.User      `json:"user"`
	Generation int                `json:"generation"`
	Taken      time.Time          `json:"taken"`
	Backend    director.BackendID `json:"backend"`
	Messages   int64              `json:"messages"`
	Bytes      int64              `json:"bytes"`
}

func listedCells(l listed) []any {
	return []any{l.User, l.Generation, when(l.Taken), l.Backend, l.Messages, size(l.Bytes)}
}
