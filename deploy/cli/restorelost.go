package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"waypost/backend/backup"
	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
)

func (a *app) backendLostCmd() *cobra.Command {
	var o lostOptions
	var to []string
	c := &cobra.Command{
		Use:   "lost BACKEND",
		Short: "Say that a backend is lost for good, and restore its users elsewhere",
		Long: `Say that a backend will not come back. From then on it does not start, and stops if
it still runs. With --restore-from, its users are given to others and restored
from the backups in that folder, several at once; the most room goes first, or
--to says where. Users of whom there is no backup are listed and left offline: mail
for them waits. With --empty-without-backup they begin anew with an empty mailbox,
and their mail programs then delete their copies.

What came after the backup and had been answered for is lost with the disk; what
waits in the spools arrives. Moves from the lost backend are ended by the mover
first. Run the command again to go on where it was broken off, or after more
backups were found. If the disk turns up after all, nobody is served from it who
was given to another; "waypost backend activate" lets it start, with the rest.`,
		Example: `  waypost backend lost b2
  waypost backend lost b2 --restore-from /backup/mail --to b1,b3`,
		Args: exactly(wantBackend),
	}
	f := c.Flags()
	f.StringVar(&o.from, "restore-from", "", "the `folder` of the backups")
	f.StringSliceVar(&to, "to", nil, "the `backends` that the users go to (default: all that are active)")
	f.BoolVar(&o.empty, "empty-without-backup", false, "users without a backup begin anew, without any mail")
	f.BoolVar(&o.force, "force", false, "although it seems to be alive")
	f.IntVar(&o.jobs, "jobs", 4, "how many users are restored at once")
	conn, out := a.connecting(c), a.printing(c)
	a.completeBackends(c, conn, "")
	c.RunE = func(c *cobra.Command, args []string) error {
		var err error
		if o.id, err = parseBackend(args[0]); err != nil {
			return err
		}
		for _, text := range to {
			id, err := parseBackend(text)
			if err != nil {
				return err
			}
			if id == o.id {
				return usagef("%s is the one that is lost", id)
			}
			o.to = append(o.to, id)
		}
		switch {
		case o.from == "" && (o.empty || len(o.to) > 0):
			return usagef("--to and --empty-without-backup go with --restore-from DIR")
		case o.jobs < 1 || o.jobs > 32:
			return usagef("--jobs is 1 to 32")
		}
		return conn.nodes(func(n *nodeCaller) error { return a.lost(c.Context(), n, o, out) })
	}
	return c
}

type lostOptions struct {
	id    director.BackendID
	from  string
	to    []director.BackendID
	empty bool
	force bool
	jobs  int
}

type lostSum struct {
	Backend     director.BackendID `json:"backend"`
	Users       int                `json:"users"`
	Restored    int                `json:"restored"`
	Emptied     int                `json:"emptied"`
	Offline     int                `json:"offline"`
	Failed      int                `json:"failed"`
	Interrupted bool               `json:"interrupted"`
}

func (a *app) lost(ctx context.Context, n *nodeCaller, o lostOptions, out *output) error {
	var archive *backup.Archive
	if o.from != "" {
		var err error
		if archive, err = backup.Open(o.from); err != nil {
			return &localError{err}
		}
	}
	b, err := n.DeclareLost(ctx, o.id, admin.DeclareLost{Force: o.force})
	if err != nil {
		return err
	}
	if archive == nil {
		return out.say(b, "%s is lost; its %d users are offline until they are restored: waypost backend lost %s --restore-from DIR", b.ID, b.Users, b.ID)
	}
	if err := n.refresh(ctx); err != nil {
		return err
	}
	var users []admin.User
	if err := n.Users(ctx, admin.UserFilter{Home: o.id}, func(u admin.User) error { users = append(users, u); return nil }); err != nil {
		return err
	}
	run := &lostRun{restorer: restorer{app: a, n: n, archive: archive, among: o.to}, o: o, out: out, bar: a.progressLine(), sum: lostSum{Backend: o.id}, total: len(users)}
	var g errgroup.Group
	g.SetLimit(o.jobs)
	for _, u := range users {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return run.told(run.one(ctx, u)) })
	}
	err = g.Wait()
	run.bar.clear()
	if err != nil {
		return &localError{err}
	}
	return run.end(ctx)
}

// lostRun is one command.
type lostRun struct {
	restorer
	o     lostOptions
	out   *output
	total int

	telling sync.Mutex // guards what follows
	bar     progressLine
	sum     lostSum
}

// A move from the lost home, or to where the user is to go, is ended by the mover,
// within its own budgets.
const (
	lostTries = 30
	lostPause = 4 * time.Second
)

func (r *lostRun) one(ctx context.Context, view admin.User) restored {
	var did restored
	var err error
	for try := range lostTries {
		if try > 0 {
			r.app.pause(ctx, lostPause)
		}
		did, err = r.try(ctx, view)
		again := errors.Is(err, director.ErrConflict) || errors.Is(err, director.ErrIllegal) || errors.Is(err, director.ErrUnavailable) ||
			control.IsCode(err, control.CodeFence) || control.IsCode(err, control.CodeUnavailable)
		if err == nil || !again || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		did = restored{User: view.User, Result: "failed", Error: oneLine(err.Error())}
	}
	return did
}

func (r *lostRun) try(ctx context.Context, view admin.User) (restored, error) {
	did, err := r.user(ctx, view.User, restoreOptions{})
	if !errors.Is(err, backup.ErrNone) {
		return did, err
	}
	did = restored{User: view.User, Result: "offline"}
	if !r.o.empty {
		return did, nil
	}
	to, err := r.place(view.Group, 0)
	if err != nil {
		return did, err
	}
	c, _, err := r.n.backend(to)
	if err != nil {
		return did, err
	}
	if _, err := backup.SealEmpty(ctx, c, view.User); err != nil {
		return did, err
	}
	did.Result = "emptied"
	return did, r.publish(ctx, view.User, admin.RestoredUser{To: to}, &did)
}

func (r *lostRun) told(did restored) error {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.sum.Users++
	switch did.Result {
	case "restored":
		r.sum.Restored++
	case "emptied":
		r.sum.Emptied++
	case "offline":
		r.sum.Offline++
	default:
		r.sum.Failed++
	}
	r.bar.clear()
	var err error
	if r.out.json {
		err = jsonLine(r.out, did)
	} else {
		_, err = fmt.Fprintln(r.out.w, did.text())
	}
	r.bar.show(fmt.Sprintf("%s%d of %d users", bar(int64(r.sum.Users), int64(r.total)), r.sum.Users, r.total))
	return err
}

func (r *lostRun) end(ctx context.Context) error {
	r.sum.Interrupted = ctx.Err() != nil
	var err error
	if r.out.json {
		err = jsonLine(r.out, map[string]lostSum{"summary": r.sum})
	} else {
		_, err = fmt.Fprintf(r.out.w, "%d users of %s: %d restored, %d emptied, %d left offline, %d failed\n",
			r.sum.Users, r.o.id, r.sum.Restored, r.sum.Emptied, r.sum.Offline, r.sum.Failed)
	}
	if err == nil && (r.sum.Offline > 0 || r.sum.Failed > 0 || r.sum.Interrupted) {
		err = errTold
	}
	return err
}
