package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"waypost/backend/backup"
	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/cluster"
)

func (a *app) backupCmd() *cobra.Command {
	var o backupOptions
	var all bool
	var home string
	c := &cobra.Command{
		Use:   "backup [USER] --to DIR",
		Short: "Copy users to plain files, while they work",
		Long: `Copy a user, all users (--all), or those of a backend to a folder of plain files.
Each backup of a user is a generation, consistent in itself: what the mailbox held
at one moment, while mail went on coming. It is a readable Maildir with a manifest
of digests and the account. What an earlier generation has is not read, sent or
written again: messages are shared by hard links.

The folder is one of the machine on which this command runs; it reads from the
backends' node listeners, which must be reachable from there, with the admin
certificate. On the backend's own machine, with a disk mounted there, that is a
transfer over loopback, of new mail only. The folder holds password hashes: it is
made for its owner only. A run that was broken off goes on when it is made again.

One line for each user; the exit code is 1 if any could not be copied. With --all
the domains and addresses are kept, too.`,
		Example: `  waypost backup --all --to /backup/mail --keep 14
  waypost backup alice@example.test --to /backup/mail
  waypost backup --backend b2 --to /backup/mail --jobs 8 --json
  waypost backup verify /backup/mail`,
		Args: upToOne(wantUser),
	}
	f := c.Flags()
	f.StringVar(&o.to, "to", "", "the `folder` of the backups; made when it is missing")
	f.BoolVar(&all, "all", false, "all users")
	f.StringVar(&home, "backend", "", "the users of this `backend`")
	f.IntVar(&o.keep, "keep", 0, "remove all but the newest `N` generations of each user (default: keep all)")
	f.IntVar(&o.jobs, "jobs", 4, "how many users are copied at once")
	conn, out := a.connecting(c), a.printing(c)
	a.completeBackends(c, conn, "backend")
	c.RunE = func(c *cobra.Command, args []string) error {
		chosen := 0
		for _, is := range []bool{len(args) == 1, all, home != ""} {
			if is {
				chosen++
			}
		}
		switch {
		case chosen != 1:
			return usagef("say %s, or --all, or --backend", wantUser)
		case o.to == "":
			return usagef("say the folder of the backups with --to DIR")
		case o.keep < 0 || o.jobs < 1 || o.jobs > 32:
			return usagef("--keep is not below 0, --jobs is 1 to 32")
		}
		var err error
		if len(args) == 1 {
			o.user, err = parseUser(args[0])
		} else if home != "" {
			o.home, err = parseBackend(home)
		}
		if err != nil {
			return err
		}
		return conn.nodes(func(n *nodeCaller) error { return a.backup(c.Context(), n, o, out) })
	}
	c.AddCommand(a.backupVerifyCmd(), a.backupListCmd())
	return c
}

type backupOptions struct {
	to   string
	user director.User
	home director.BackendID
	keep int
	jobs int
}

// nodeCaller calls the director, and backends themselves: bulk does not go through
// the director.
type nodeCaller struct {
	*admin.Client
	id *cluster.Identity

	mu      sync.Mutex // guards what follows
	known   map[director.BackendID]admin.Backend
	clients map[string]*control.Client
}

// nodes connects as with does, for commands that call backends, too.
func (c *connection) nodes(do func(*nodeCaller) error) error {
	f, err := c.find()
	if err != nil {
		return err
	}
	id, err := cluster.LoadIdentity(f.CA, f.Cert, f.Key)
	if err != nil {
		return err
	}
	return c.with(func(client *admin.Client) error {
		return do(&nodeCaller{Client: client, id: id, clients: map[string]*control.Client{}})
	})
}

// refresh reads the backends anew.
func (n *nodeCaller) refresh(ctx context.Context) error {
	list, err := n.Backends(ctx)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known = make(map[director.BackendID]admin.Backend, len(list))
	for _, b := range list {
		n.known[b.ID] = b
	}
	return nil
}

// backend gives a waypost backend's client.
func (n *nodeCaller) backend(id director.BackendID) (*control.Client, admin.Backend, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	b, ok := n.known[id]
	switch {
	case !ok:
		return nil, b, &localError{fmt.Errorf("the directory has no backend %s", id)}
	case b.Kind != director.KindWaypost:
		return nil, b, &localError{fmt.Errorf("backend %s is of kind %s, which keeps its own mail and its own backups", id, b.Kind)}
	case b.Node == "":
		return nil, b, &localError{fmt.Errorf("backend %s has not told its address yet", id)}
	}
	c := n.clients[b.Node]
	if c == nil {
		c = control.NewClient(n.id, b.Node, cluster.Peer{Role: cluster.RoleBackend, ID: string(id)})
		n.clients[b.Node] = c
	}
	return c, b, nil
}

// backedUp is what became of one user; its JSON is a line.
type backedUp struct {
	User        director.User      `json:"user"`
	Result      string             `json:"result"` // "done", "gone" or "failed"
	Backend     director.BackendID `json:"backend,omitempty"`
	Generation  int                `json:"generation,omitempty"`
	Messages    int64              `json:"messages"`
	Bytes       int64              `json:"bytes"`
	CopiedFiles int64              `json:"copied_files"`
	CopiedBytes int64              `json:"copied_bytes"`
	Removed     int                `json:"removed_generations"`
	Error       string             `json:"error,omitempty"`
}

type backupSum struct {
	Users       int   `json:"users"`
	Failed      int   `json:"failed"`
	Bytes       int64 `json:"bytes"`
	CopiedBytes int64 `json:"copied_bytes"`
	Interrupted bool  `json:"interrupted"`
}

func (a *app) backup(ctx context.Context, n *nodeCaller, o backupOptions, out *output) error {
	archive, err := backup.Create(o.to)
	if err != nil {
		return &localError{err}
	}
	err = a.backupTo(ctx, n, archive, o, out)
	return errors.Join(err, archive.Close())
}

func (a *app) backupTo(ctx context.Context, n *nodeCaller, archive *backup.Archive, o backupOptions, out *output) error {
	if err := n.refresh(ctx); err != nil {
		return err
	}
	users, err := n.chosen(ctx, o)
	if err != nil {
		return err
	}
	r := &backupRun{app: a, n: n, archive: archive, o: o, out: out, bar: a.progressLine(), total: len(users)}
	if o.user == "" && o.home == "" {
		if err := n.keepDirectory(ctx, archive); err != nil {
			return err
		}
	}
	var g errgroup.Group
	g.SetLimit(o.jobs)
	for _, u := range users {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return r.told(r.one(ctx, u)) })
	}
	err = g.Wait()
	r.bar.clear()
	if err != nil {
		return &localError{err}
	}
	r.sum.Interrupted = ctx.Err() != nil
	if out.json {
		err = r.line(map[string]backupSum{"summary": r.sum})
	} else {
		_, err = fmt.Fprintf(out.w, "%d users, %d failed: %s, of which %s were copied\n", r.sum.Users, r.sum.Failed, size(r.sum.Bytes), size(r.sum.CopiedBytes))
	}
	if err == nil && (r.sum.Failed > 0 || r.sum.Interrupted) {
		err = errTold
	}
	return err
}

// chosen lists the users of waypost backends that are to be copied; those of other
// kinds keep their own backups.
func (n *nodeCaller) chosen(ctx context.Context, o backupOptions) ([]director.User, error) {
	if o.user != "" {
		return []director.User{o.user}, nil
	}
	if o.home != "" {
		if _, _, err := n.backend(o.home); err != nil {
			return nil, err
		}
	}
	var users []director.User
	err := n.Users(ctx, admin.UserFilter{Home: o.home}, func(u admin.User) error {
		if n.known[u.Home].Kind == director.KindWaypost {
			users = append(users, u.User)
		}
		return nil
	})
	return users, err
}

// keepDirectory keeps what is of no user.
func (n *nodeCaller) keepDirectory(ctx context.Context, archive *backup.Archive) error {
	d := backup.Directory{Domains: []string{}, Addresses: map[string][]string{}}
	domains, err := n.Domains(ctx)
	if err != nil {
		return err
	}
	for _, x := range domains {
		d.Domains = append(d.Domains, x.Domain)
	}
	slices.Sort(d.Domains)
	addresses, err := n.Addresses(ctx, "")
	if err != nil {
		return err
	}
	for _, x := range addresses {
		d.Addresses[x.Address] = x.Members
	}
	if err := archive.PutDirectory(d); err != nil {
		return &localError{err}
	}
	return nil
}

// backupRun is one command.
type backupRun struct {
	app     *app
	n       *nodeCaller
	archive *backup.Archive
	o       backupOptions
	out     *output
	total   int

	mu     sync.Mutex // guards what follows
	bar    progressLine
	sum    backupSum
	copied int64
}

// A user who is moved while the backup comes to it is found again.
const (
	backupTries = 6
	backupPause = 2 * time.Second
)

func (r *backupRun) one(ctx context.Context, u director.User) backedUp {
	did := backedUp{User: u, Result: "failed"}
	var err error
	for try := range backupTries {
		if try > 0 {
			r.app.pause(ctx, backupPause)
		}
		var view admin.User
		if view, err = r.n.User(ctx, u); errors.Is(err, director.ErrNotFound) && r.o.user == "" {
			did.Result = "gone" // deleted since it was listed
			return did
		}
		if err != nil {
			break
		}
		if err = r.take(ctx, view, &did); err == nil {
			did.Result = "done"
			return did
		}
		if ctx.Err() != nil || !control.IsCode(err, control.CodeFence) && !control.IsCode(err, control.CodeUnavailable) {
			break
		}
	}
	did.Error = oneLine(err.Error())
	return did
}

func (r *backupRun) take(ctx context.Context, view admin.User, did *backedUp) error {
	c, b, err := r.n.backend(view.Home)
	if err != nil {
		return err
	}
	took, err := r.archive.Take(ctx, c, view.User, func(_, bytes int64) { r.progress(bytes) })
	if err != nil {
		return err
	}
	if took.Previous != nil {
		r.app.warn("%s: %s; all was copied anew", view.User, oneLine(took.Previous.Error()))
	}
	did.Backend, did.Generation, did.Messages, did.Bytes = b.ID, took.Generation, took.Messages, took.Bytes
	did.CopiedFiles, did.CopiedBytes = took.CopiedFiles, took.CopiedBytes
	did.Removed, err = r.archive.Keep(view.User, r.o.keep)
	return err
}

func (r *backupRun) progress(bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.copied += bytes
	r.bar.show(fmt.Sprintf("%s%d of %d users, %s copied, %d failed", bar(int64(r.sum.Users), int64(r.total)), r.sum.Users, r.total, size(r.copied), r.sum.Failed))
}

// told prints what became of a user.
func (r *backupRun) told(did backedUp) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.Users++
	r.sum.Bytes += did.Bytes
	r.sum.CopiedBytes += did.CopiedBytes
	if did.Result == "failed" {
		r.sum.Failed++
	}
	r.bar.clear()
	switch {
	case r.out.json:
		return r.line(did)
	case did.Result == "failed":
		r.app.warn("%s: %s", did.User, did.Error)
		return nil
	case did.Result == "gone":
		return nil
	}
	_, err := fmt.Fprintf(r.out.w, "%s  generation %d from %s: %d messages, %s; %s copied\n",
		did.User, did.Generation, did.Backend, did.Messages, size(did.Bytes), size(did.CopiedBytes))
	return err
}

func (r *backupRun) line(v any) error { return jsonLine(r.out, v) }

func jsonLine(out *output, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = fmt.Fprintf(out.w, "%s\n", b)
	}
	return err
}
