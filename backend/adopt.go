package backend

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/maildir"
	"waypost/backend/pop3"
	"waypost/backend/sftp"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/durable"
	"waypost/internal/vfs"
)

// Taking over a Maildir that another server has left on this machine (R12):
// it becomes staging, which is sealed, and the record that is published next
// makes it the user's. Until then nothing but staging was written: an error, a
// crash, a lost race leave the Maildir as it was, whatever the mode.
//
//	1  staging/adopted says what is being taken over: a call that was broken off
//	   goes on, one for another Maildir begins anew
//	2  files are copied or linked, each synced under its own name when it is whole
//	3  the Maildir is read a second time: it must be as in step 2
//	4  all names are synced, the fence is sealed
//	5  the director publishes the record; staging becomes the live tree
//	6  mode move: the Maildir is removed, but for messages that are not in the
//	   live tree: mail that somebody has delivered into it since
//
// A crash after 5 leaves 6 to the next import of the same line.

// adoptedName is a file in the user's folder that tells where it came from,
// uidlName one with the form of the POP3 unique ids that its clients know.
// They move with the user.
const (
	adoptedName = "adopted"
	uidlName    = "pop3-uidl"
)

// adopted is what the file of that name holds.
type adopted struct {
	// Path is that of the Maildir++ itself.
	Path string            `json:"path"`
	Mode control.AdoptMode `json:"mode"`
	At   time.Time         `json:"at"`
}

// adoptCall is control.PathAdopt.
func (b *Server) adoptCall(w http.ResponseWriter, r *http.Request) {
	_, req, err := control.Decode[control.AdoptRequest](r, cluster.RoleDirector)
	if err == nil {
		// The listener bounds whole requests; this one may take long.
		err = http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	if err != nil {
		control.WriteError(w, err)
		return
	}
	out := control.NewProgressWriter(w)
	done, err := b.takeOver(r.Context(), req, out.Report)
	out.End(done, err)
}

func (b *Server) takeOver(ctx context.Context, req control.AdoptRequest, report func(control.PullProgress)) (control.PullProgress, error) {
	return with(b, req.User, func(u *user) (control.PullProgress, error) {
		if err := checkAdopt(req); err != nil {
			return control.PullProgress{}, err
		}
		rec, err := b.vacancy(ctx, u, req.Epoch)
		if err != nil {
			return control.PullProgress{}, err
		}
		if rec != nil && rec.State != director.Deleted {
			return u.tookOver(ctx, req)
		}
		src, err := openSource(req.Path, b.disk.root)
		if err != nil {
			return control.PullProgress{}, refuseSource(err)
		}
		defer src.close()
		if req.POP3UIDL == "" {
			req.POP3UIDL = src.uidl()
		}
		return u.sealSource(ctx, src, req, report)
	})
}

func checkAdopt(req control.AdoptRequest) error {
	if !req.Mode.Valid() {
		return refuse(control.CodeBad, "mode %q: want copy, link or move", req.Mode)
	}
	if !filepath.IsAbs(req.Path) || filepath.Clean(req.Path) != req.Path {
		return refuse(control.CodeBad, "path %q: want an absolute one, without . and ..", req.Path)
	}
	if _, err := pop3.ParseOlderUIDL(req.POP3UIDL); req.POP3UIDL != "" && err != nil {
		return refuse(control.CodeBad, "%v", err)
	}
	return nil
}

// refuseSource tells what is wrong with a Maildir for good from what may pass.
func refuseSource(err error) error {
	var no *control.Error
	switch {
	case err == nil || errors.As(err, &no):
		return err
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return refuse(control.CodeBad, "%v", err)
	}
	return err
}

// vacancy reads the record of a user who is to come. It is nil, a tombstone at
// exactly epoch, or an active record that names this backend.
func (b *Server) vacancy(ctx context.Context, u *user, epoch director.Epoch) (*director.Record, error) {
	if err := b.look(ctx, u); err != nil {
		return nil, err
	}
	rec, err := b.readRecord(ctx, u.name)
	if err != nil {
		return nil, err
	}
	var at director.Epoch
	switch {
	case rec == nil:
	case rec.State == director.Deleted:
		at = rec.Epoch
	case rec.State == director.Active && rec.Home == b.cfg.ID:
		return rec, nil
	default:
		return nil, refuse(control.CodeFence, "the directory has the user already: %s", rec)
	}
	if at != epoch {
		return nil, refuse(control.CodeEpoch, "asked for epoch %d, the directory says %d", epoch, at)
	}
	return rec, nil
}

// sealSource makes sealed staging of a Maildir. It holds the user's tree, and
// the user's lock only to look at the fence and to change it.
func (u *user) sealSource(ctx context.Context, src *source, req control.AdoptRequest, report func(control.PullProgress)) (control.PullProgress, error) {
	u.tree.Lock()
	defer u.tree.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := u.beginPull(cancel)
	defer u.endPull()
	staging := u.b.disk.staging(u.name)
	had, err := readAdopted(staging)
	if err != nil {
		return control.PullProgress{}, err
	}
	switch {
	case f.State == fence.Sealed && f.Epoch == req.Epoch:
		if had.Path != src.path {
			return control.PullProgress{}, refuse(control.CodeFence, "a mailbox of the user is here already, not made of %s: it goes when the user is added, and deleted", src.path)
		}
		return control.PullProgress{Done: true}, nil
	case f.State != fence.Missing && f.State != fence.Gone, f.Epoch > req.Epoch:
		return control.PullProgress{}, refuse(control.CodeFence, "fence is %s", f)
	}
	if live, err := exists(u.b.disk.live(u.name)); err != nil || live {
		return control.PullProgress{}, refuse(control.CodeFence, "there is a tree without a fence at %s (%v): move it away first", u.b.disk.live(u.name), err)
	}
	if had.Path != src.path {
		err = os.RemoveAll(staging)
	}
	if err == nil {
		err = markAdopted(staging, adopted{Path: src.path, Mode: req.Mode, At: time.Now().UTC()}, req.POP3UIDL)
	}
	if err != nil {
		return control.PullProgress{}, err
	}
	done, err := u.fill(ctx, src, staging, req.Mode, report)
	if err != nil {
		return done, refuseSource(err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fence != f {
		return done, refuse(control.CodeFence, "fence became %s meanwhile", u.fence)
	}
	if err := u.setFence(fence.Fence{State: fence.Sealed, Epoch: req.Epoch}); err != nil {
		return done, err
	}
	u.b.log.Info("Maildir taken over", "user", u.name, "path", src.path, "mode", req.Mode, "files", done.TotalFiles, "bytes", done.TotalBytes)
	done.Done = true
	return done, nil
}

// fill brings staging to what the Maildir is, durably.
func (u *user) fill(ctx context.Context, src *source, staging string, mode control.AdoptMode, report func(control.PullProgress)) (control.PullProgress, error) {
	tree, err := src.read()
	if err != nil {
		return control.PullProgress{}, err
	}
	if err := src.unused(tree); err != nil {
		return control.PullProgress{}, err
	}
	if err := sftp.RemoveHalves(staging); err != nil {
		return control.PullProgress{}, err
	}
	c := &carrier{src: src, to: filepath.Join(staging, sourceName), link: mode != control.AdoptCopy, room: u.b.roomFor, report: report}
	if err := c.carry(ctx, tree); err != nil {
		return c.p, err
	}
	if err := src.courierLists(tree, c.to); err != nil {
		return c.p, err
	}
	if err := src.scripts(staging, u.b.log.With("user", u.name)); err != nil {
		return c.p, err
	}
	if err := src.same(tree); err != nil {
		return c.p, err
	}
	// Whatever a mailbox has beside what was there: the log of deliveries.
	if err := maildir.Create(vfs.OS, staging); err != nil {
		return c.p, err
	}
	return c.p, syncFolders(staging)
}

// sourceName is the Maildir++ in a user's folder.
const sourceName = "Maildir"

// syncFolders makes all names of a tree durable.
func syncFolders(root string) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		return durable.SyncDir(path)
	})
}

// tookOver answers once the record names this backend: it was this Maildir, or
// the user has another mailbox.
func (u *user) tookOver(ctx context.Context, req control.AdoptRequest) (control.PullProgress, error) {
	had, err := readAdopted(u.b.disk.live(u.name))
	if err != nil {
		return control.PullProgress{}, err
	}
	if had.Path != req.Path && had.Path != filepath.Join(req.Path, sourceName) {
		return control.PullProgress{}, refuse(control.CodeFence, "the user has a mailbox already, which was not made of %s", req.Path)
	}
	if req.Mode != control.AdoptMove {
		return control.PullProgress{Done: true}, nil
	}
	if there, err := exists(had.Path); err != nil || !there {
		return control.PullProgress{Done: err == nil}, err // an earlier call has removed it
	}
	src, err := openSource(req.Path, u.b.disk.root)
	if err != nil {
		return control.PullProgress{}, refuseSource(err)
	}
	defer src.close()
	removed, left, err := src.remove(ctx)
	u.b.log.Info("Maildir removed that was taken over", "user", u.name, "path", src.path, "files", removed, "left", left, "error", err)
	if err == nil && left > 0 {
		err = refuse(control.CodeFence, "%d messages in %s are not in the mailbox that was made of it: somebody still delivers there; they were left", left, src.path)
	}
	return control.PullProgress{Removed: removed, Done: err == nil}, err
}

// readAdopted gives the zero value where there is no such file.
func readAdopted(root string) (a adopted, err error) {
	b, err := os.ReadFile(filepath.Join(root, adoptedName))
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	return a, err
}

func markAdopted(root string, a adopted, uidl string) error {
	if err := durable.MkdirAll(root, 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(root, uidlName), []byte(uidl+"\n"), 0o600); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(root, adoptedName), append(b, '\n'), 0o600)
}

// uidlOf gives the form of the POP3 unique ids of a user whose mailbox was
// another server's; the zero value for all others.
func (b *Server) uidlOf(name director.User) (pop3.UIDL, error) {
	text, err := os.ReadFile(filepath.Join(b.disk.live(name), uidlName))
	if errors.Is(err, fs.ErrNotExist) {
		return pop3.UIDL{}, nil
	}
	if err != nil {
		return pop3.UIDL{}, err
	}
	return pop3.ParseOlderUIDL(strings.TrimSpace(string(text)))
}
