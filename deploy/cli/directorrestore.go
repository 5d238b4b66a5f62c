package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"waypost/backend/backup"
	"waypost/backend/control"
	"waypost/deploy/role"
	"waypost/director"
	"waypost/director/cache"
	"waypost/director/restore"
	"waypost/internal/cluster"
	"waypost/internal/telemetry"
)

func (a *app) directorRestoreCmd() *cobra.Command {
	var o directoryOptions
	c := &cobra.Command{
		Use:   "restore --config FILE",
		Short: "Restore the directory, after etcd was lost or put back from a snapshot",
		Long: `Restore the directory from the fences on the backends' disks, and from what etcd
still has: put its newest snapshot back first, if there is one (etcdutl snapshot
restore), else start it empty. FILE is a director's configuration: etcd is where it
says, and the backends are asked with its certificate.

The directory is closed first: until the end nothing can change it, movers stand
still, and all tiers go on with what they remember. Then all backends are asked for
all fences; each user's record is written above every epoch found, the highest
epoch wins, and a new era makes every node read all anew. Backends must be running;
they need not serve. A user about whom the fences do not agree is left closed: mail
waits, logins are told to come again. These are listed; run the command again with
--decide.

Accounts, domains and addresses are not on the backends. They come from etcd's own
snapshot; from a node's copy of the directory (--directory-snapshot: the file
directory.snapshot of any node, the newest is best); from backups (--accounts-from).`,
		Example: `  waypost director restore --config /etc/waypost/director-d1.toml --dry-run
  waypost director restore --config /etc/waypost/director-d1.toml --directory-snapshot /var/lib/waypost/proxy-p1/directory.snapshot
  waypost director restore --config /etc/waypost/director-d1.toml --decide alice@example.test=b2`,
		Args: exactly(),
	}
	f := c.Flags()
	f.StringVar(&o.config, "config", "", "a director's TOML `file`")
	f.StringVar(&o.snapshot, "directory-snapshot", "", "a `file` with a node's copy of the directory")
	f.StringVar(&o.accounts, "accounts-from", "", "a `folder` of backups, for the accounts, domains and addresses in it")
	f.StringSliceVar(&o.backends, "backend", nil, "`ID=HOST:PORT` of a backend that etcd does not know")
	f.StringSliceVar(&o.without, "without", nil, "a `backend` that is lost for good")
	f.StringSliceVar(&o.decide, "decide", nil, "`USER=BACKEND`: your own decision")
	f.BoolVar(&o.partial, "partial", false, "go on although some backends do not answer")
	f.BoolVar(&o.dryRun, "dry-run", false, "say what would be decided, and change nothing")
	out := a.printing(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if o.config == "" {
			return usagef("say a director's configuration with --config FILE")
		}
		return a.restoreDirectory(c.Context(), o, out)
	}
	return c
}

type directoryOptions struct {
	config, snapshot, accounts string
	backends, without, decide  []string
	partial, dryRun            bool
}

// parsed reads the lists.
func (o directoryOptions) parsed(to *restore.Options) error {
	to.Nodes, to.Homes = map[director.BackendID]string{}, map[director.User]director.BackendID{}
	for _, text := range o.backends {
		name, node, ok := strings.Cut(text, "=")
		id, err := parseBackend(name)
		if err != nil || !ok || node == "" {
			return usagef("--backend %q: want ID=HOST:PORT", text)
		}
		to.Nodes[id] = node
	}
	for _, text := range o.without {
		id, err := parseBackend(text)
		if err != nil {
			return err
		}
		to.Without = append(to.Without, id)
	}
	for _, text := range o.decide {
		name, home, ok := strings.Cut(text, "=")
		u, err := parseUser(name)
		id, err2 := parseBackend(home)
		if err != nil || err2 != nil || !ok {
			return usagef("--decide %q: want USER=BACKEND", text)
		}
		to.Homes[u] = id
	}
	return nil
}

// imported collects what etcd may not have. A copy of the directory counts before
// backups, which are older.
func (o directoryOptions) imported() (map[string][]byte, error) {
	all := map[string][]byte{}
	if o.accounts != "" {
		if err := fromBackups(o.accounts, all); err != nil {
			return nil, err
		}
	}
	if o.snapshot == "" {
		return all, nil
	}
	_, err := cache.ReadSnapshot(o.snapshot, func(key string, value []byte) error {
		all[key] = value
		return nil
	})
	return all, err
}

func fromBackups(dir string, all map[string][]byte) error {
	archive, err := backup.Open(dir)
	if err != nil {
		return err
	}
	put := func(key string, v any) error {
		b, err := json.Marshal(v)
		all[key] = b
		return err
	}
	users, err := archive.Users()
	if err != nil {
		return err
	}
	for _, u := range users {
		m, err := archive.Meta(u, 0)
		if err != nil {
			return err
		}
		m.Account.Version = 1
		err = errors.Join(put(director.AccountKey(u), m.Account), put(director.DomainKey(u.Domain()), director.Domain{Version: 1, Created: m.Account.Created}))
		if err != nil {
			return err
		}
	}
	d, err := archive.Directory()
	if errors.Is(err, backup.ErrNone) {
		return nil // single users were copied
	}
	if err != nil {
		return err
	}
	for _, name := range d.Domains {
		if _, there := all[director.DomainKey(name)]; !there {
			if err := put(director.DomainKey(name), director.Domain{Version: 1}); err != nil {
				return err
			}
		}
	}
	for address, members := range d.Addresses {
		local, domain, ok := strings.Cut(address, "@")
		if !ok {
			continue
		}
		if err := put(director.AddressKey(local, domain), director.Address{Version: 1, Members: members}); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) restoreDirectory(ctx context.Context, o directoryOptions, out *output) error {
	log := slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	opts := restore.Options{Partial: o.partial, DryRun: o.dryRun, NewEra: telemetry.NewID, Log: log}
	if err := o.parsed(&opts); err != nil {
		return err
	}
	var err error
	if opts.Import, err = o.imported(); err != nil {
		return err
	}
	config, err := a.loadRole(o.config, cluster.RoleDirector)
	if err != nil {
		return err
	}
	store, id, err := role.OpenDirectory(ctx, config, log)
	if err != nil {
		return err
	}
	opts.Store = store
	opts.Sweep = sweeper(id)
	report, err := restore.Run(ctx, opts)
	err = errors.Join(err, store.Close())
	if errors.Is(err, restore.ErrSilent) {
		return fmt.Errorf("%w; nothing was changed: start these backends, or say --without for those that are lost, or --partial", err)
	}
	if err != nil {
		return err
	}
	if err := out.show(report, func(w io.Writer) { writeDirectory(w, report) }); err != nil {
		return err
	}
	if report.Closed > 0 {
		return errTold
	}
	return nil
}

// sweeper asks backends for their fences.
func sweeper(id *cluster.Identity) func(context.Context, director.BackendID, string, func(director.User, restore.Fence) error) (director.Incarnation, error) {
	return func(ctx context.Context, b director.BackendID, node string, fn func(director.User, restore.Fence) error) (director.Incarnation, error) {
		c := control.NewClient(id, node, cluster.Peer{Role: cluster.RoleBackend, ID: string(b)})
		return c.Fences(ctx, func(f control.UserFence) error {
			return fn(f.User, restore.Fence{State: f.State, Epoch: f.Epoch})
		})
	}
}

func writeDirectory(w io.Writer, r restore.Report) {
	for _, n := range r.Notes {
		word := "note"
		if n.Verdict == restore.Closed {
			word = "CLOSED"
		}
		fmt.Fprintf(w, "%s  %s  %s\n", word, n.User, oneLine(n.Why))
	}
	for _, u := range r.NoAccount {
		fmt.Fprintf(w, "NO ACCOUNT  %s\n", u)
	}
	silent := make([]string, 0, len(r.Silent))
	for id, why := range r.Silent {
		silent = append(silent, fmt.Sprintf("SILENT  %s  %s\n", id, oneLine(why)))
	}
	slices.Sort(silent)
	fmt.Fprint(w, strings.Join(silent, ""))
	fmt.Fprintf(w, "%d users: %d have a home (%d another than etcd had), %d were deleted, %d are left closed, %d have no account\n",
		r.Users, r.Decided, r.Moved, r.Deleted, r.Closed, len(r.NoAccount))
	if r.DryRun {
		fmt.Fprintln(w, "nothing was changed (--dry-run)")
		return
	}
	fmt.Fprintf(w, "the directory is open again; its era is %s\n", r.Era)
}
