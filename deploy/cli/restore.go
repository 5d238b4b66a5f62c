package cli

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"waypost/backend/backup"
	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
)

func (a *app) restoreCmd() *cobra.Command {
	var from, to string
	var o restoreOptions
	c := &cobra.Command{
		Use:   "restore USER --from DIR",
		Short: "Bring a user back from a backup",
		Long: `Bring a user's mailbox back from the backups in a folder; what to do is found out:

  the user is served     the backup's messages come back into the mailbox, as they
                         were then; what has come since stays, with new UIDs (with
                         --exact it does not); the mailbox as it was goes to the
                         home's trash. The user is held for a moment meanwhile.
  the home is lost       the user lives on at --to, or the backend with the most room
  the home has no        it gets it from the backup
  mailbox of the user
  there is no such user  it is made at --to, with the account of the backup

UIDs stay, UIDNEXT and HIGHESTMODSEQ jump ahead, so that no client takes one
message for another. Mail that waits in the spools arrives. A restore that was
broken off goes on when it is made again.`,
		Example: `  waypost restore alice@example.test --from /backup/mail
  waypost backup list /backup/mail alice@example.test
  waypost restore alice@example.test --from /backup/mail --generation 12 --exact`,
		Args: exactly(wantUser),
	}
	f := c.Flags()
	f.StringVar(&from, "from", "", "the `folder` of the backups")
	f.StringVar(&to, "to", "", "the `backend`, for a user who is not served")
	f.IntVar(&o.generation, "generation", 0, "which `N` of waypost backup list (default: the newest)")
	f.BoolVar(&o.exact, "exact", false, "do not keep what has come since")
	conn, out := a.connecting(c), a.printing(c)
	a.completeBackends(c, conn, "to")
	c.RunE = func(c *cobra.Command, args []string) error {
		u, err := parseUser(args[0])
		if err == nil && to != "" {
			o.to, err = parseBackend(to)
		}
		switch {
		case err != nil:
			return err
		case from == "":
			return usagef("say the folder of the backups with --from DIR")
		case o.generation < 0:
			return usagef("--generation is not below 0")
		}
		archive, err := backup.Open(from)
		if err != nil {
			return err
		}
		return conn.nodes(func(n *nodeCaller) error {
			if err := n.refresh(c.Context()); err != nil {
				return err
			}
			did, err := (&restorer{app: a, n: n, archive: archive}).user(c.Context(), u, o)
			if err != nil {
				return err
			}
			return out.say(did, "%s", did.text())
		})
	}
	return c
}

type restoreOptions struct {
	to         director.BackendID
	generation int
	exact      bool
}

// restored is what became of a user.
type restored struct {
	User director.User `json:"user"`
	// Result is "restored", "emptied", "offline" or "failed".
	Result     string             `json:"result"`
	Home       director.BackendID `json:"home,omitempty"`
	Epoch      director.Epoch     `json:"epoch,omitempty"`
	Generation int                `json:"generation,omitempty"`
	Taken      time.Time          `json:"taken,omitzero"`
	Messages   int64              `json:"messages"`
	Bytes      int64              `json:"bytes"`
	// Kept came after the backup, and stayed.
	Kept  int    `json:"kept_messages"`
	Error string `json:"error,omitempty"`
}

func (d restored) text() string {
	switch d.Result {
	case "restored":
		kept := ""
		if d.Kept > 0 {
			kept = fmt.Sprintf(", and %d that came since", d.Kept)
		}
		return fmt.Sprintf("%s  restored at %s from generation %d of %s: %d messages, %s%s", d.User, d.Home, d.Generation, when(d.Taken), d.Messages, size(d.Bytes), kept)
	case "emptied":
		return fmt.Sprintf("%s  begins anew at %s, without any mail: there was no backup", d.User, d.Home)
	case "offline":
		return fmt.Sprintf("%s  LEFT OFFLINE: there is no backup", d.User)
	}
	return fmt.Sprintf("%s  FAILED: %s", d.User, d.Error)
}

// restorer brings users back. Safe for concurrent use.
type restorer struct {
	app     *app
	n       *nodeCaller
	archive *backup.Archive
	// among are the backends that users of a lost home go to; none: any.
	among []director.BackendID

	mu sync.Mutex // guards what follows
	// promised are the bytes on their way to backends, groups where sharing groups go.
	promised map[director.BackendID]int64
	groups   map[string]director.BackendID
}

// user restores one user, by what the directory says now.
func (r *restorer) user(ctx context.Context, u director.User, o restoreOptions) (restored, error) {
	g, err := r.archive.Read(u, o.generation)
	if err != nil {
		return restored{}, &localError{err}
	}
	did := restored{User: u, Result: "restored", Generation: g.Generation, Taken: g.Taken, Messages: g.Messages, Bytes: g.Bytes}
	view, err := r.n.User(ctx, u)
	switch {
	case errors.Is(err, director.ErrNotFound):
		err = r.create(ctx, g, o, &did)
	case err != nil:
	case r.n.state(view.Home) == director.BackendLost:
		err = r.elsewhere(ctx, g, view, o.to, &did)
	default:
		err = r.atHome(ctx, g, view, o, &did)
	}
	return did, err
}

// state is a backend's, as the directory last said.
func (n *nodeCaller) state(id director.BackendID) director.BackendState {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known[id].State
}

// create makes a user anew who is not there.
func (r *restorer) create(ctx context.Context, g backup.Generation, o restoreOptions, did *restored) error {
	to := o.to
	if to == "" && r.n.state(g.Backend) == director.BackendActive {
		to = g.Backend
	}
	var err error
	if to == "" {
		if to, err = r.place(g.Account.Group, g.Bytes); err != nil {
			return err
		}
	}
	return r.seal(ctx, g, to, &g.Account, did)
}

// elsewhere gives a user of a lost home to another backend.
func (r *restorer) elsewhere(ctx context.Context, g backup.Generation, view admin.User, to director.BackendID, did *restored) error {
	var err error
	if to == "" {
		if to, err = r.place(view.Group, g.Bytes); err != nil {
			return err
		}
	}
	return r.seal(ctx, g, to, nil, did)
}

func (r *restorer) seal(ctx context.Context, g backup.Generation, to director.BackendID, acct *director.Account, did *restored) error {
	c, _, err := r.n.backend(to)
	if err != nil {
		return err
	}
	if _, err := g.Bring(ctx, c, false, nil); err != nil {
		return err
	}
	if _, err := g.Seal(ctx, c); err != nil {
		return err
	}
	return r.publish(ctx, g.User, admin.RestoredUser{To: to, Account: acct}, did)
}

func (r *restorer) publish(ctx context.Context, u director.User, req admin.RestoredUser, did *restored) error {
	now, err := r.n.RestoredUser(ctx, u, req)
	did.Home, did.Epoch = now.Home, now.Epoch
	return err
}

// atHome restores a user whose home is not lost: into the mailbox that is served,
// or, where there is none, as one.
func (r *restorer) atHome(ctx context.Context, g backup.Generation, view admin.User, o restoreOptions, did *restored) error {
	if o.to != "" && o.to != view.Home {
		return &localError{fmt.Errorf("%s lives on %s, which is not lost: restore it there, and move it afterwards: waypost move %s --to %s", g.User, view.Home, g.User, o.to)}
	}
	c, _, err := r.n.backend(view.Home)
	if err != nil {
		return err
	}
	f, err := control.Call[control.FenceReply](ctx, c, control.PathLook, control.LookRequest{User: g.User})
	if err != nil {
		return fmt.Errorf("ask the home %s (if it is lost for good: waypost backend lost %s): %w", view.Home, view.Home, err)
	}
	if f.State != control.FenceServing && f.State != "frozen" {
		return r.seal(ctx, g, view.Home, nil, did)
	}
	if _, err := g.Bring(ctx, c, false, nil); err != nil {
		return err
	}
	if err := g.Ready(ctx, c); err != nil {
		return err
	}
	now, err := r.n.ExchangeUser(ctx, g.User, admin.ExchangeUser{Digest: g.Layout, Taken: g.Taken, Exact: o.exact})
	did.Home, did.Epoch, did.Kept = now.Home, now.Epoch, now.Kept
	return err
}

// place chooses the active backend with the most room. The members of a sharing
// group go to one.
func (r *restorer) place(group string, bytes int64) (director.BackendID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.promised == nil {
		r.promised, r.groups = map[director.BackendID]int64{}, map[string]director.BackendID{}
	}
	if to := r.groups[group]; group != "" && to != "" {
		r.promised[to] += bytes
		return to, nil
	}
	r.n.mu.Lock()
	defer r.n.mu.Unlock()
	var best director.BackendID
	var most int64
	for id, b := range r.n.known {
		if b.Kind != director.KindWaypost || b.State != director.BackendActive || b.Alive == nil || !*b.Alive || !r.allowed(id) {
			continue
		}
		free := -r.promised[id]
		if b.FreeBytes != nil {
			free += *b.FreeBytes
		}
		if best == "" || free > most || free == most && id < best {
			best, most = id, free
		}
	}
	if best == "" {
		return "", &localError{errors.New("no active, alive backend can take users: say --to, or activate one")}
	}
	r.promised[best] += bytes
	if group != "" {
		r.groups[group] = best
	}
	return best, nil
}

func (r *restorer) allowed(id director.BackendID) bool {
	for _, to := range r.among {
		if to == id {
			return true
		}
	}
	return len(r.among) == 0
}
