package backend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"waypost/backend/backup/safe"
	"waypost/backend/fence"
	"waypost/director"
	"waypost/internal/durable"
	"waypost/internal/vfs"
)

// The way out for a disk that was rolled back (R9), an image restored, say: the
// operator accepts that what came after it is lost. AcceptRollback makes the trees
// safe to be served and leaves a mark; the next start takes it, and lets go of the
// users who had moved away since. Whoever had moved here since is refused, and
// restored from a backup.

// rollbackName is the mark, in the data folder.
const rollbackName = "rollback-accepted"

func (d disk) rollbackMark() string { return filepath.Join(d.root, rollbackName) }

// Accepted is what AcceptRollback did.
type Accepted struct {
	Journal JournalRepair `json:"journal"`
	// Taken is when the disk was as it is, as far as it can be told.
	Taken time.Time       `json:"taken"`
	Users []director.User `json:"users"`
}

// AcceptRollback prepares the data folder of a backend that is stopped, and whose
// disk is older than the directory's memory of it. It takes the folder's lock, and
// may be made again.
func AcceptRollback(data string, log *slog.Logger) (Accepted, error) {
	did := Accepted{Users: []director.User{}}
	var err error
	if did.Journal, err = RepairJournal(data, false, log); err != nil {
		return did, err
	}
	d, lock, err := openDisk(data)
	if err != nil {
		return did, err
	}
	return did, errors.Join(acceptRollback(d, &did), lock.Unlock())
}

func acceptRollback(d disk, did *Accepted) error {
	// Counted on once a minute while the backend ran (keepIncarnation).
	info, err := os.Stat(filepath.Join(d.root, "disk.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: an empty disk was not rolled back: declare the backend lost, and restore its users", d.root)
	}
	if err != nil {
		return err
	}
	did.Taken = info.ModTime().UTC()
	fences, err := fence.OpenDir(d.fences())
	if err != nil {
		return err
	}
	err = fences.All(func(u director.User, f fence.Fence, err error) error {
		if err != nil || f.State != fence.Serving && f.State != fence.Frozen {
			return err
		}
		if _, err := safe.Make(vfs.OS, d.live(u), did.Taken, time.Now()); err != nil {
			return fmt.Errorf("user %s: %w", u, err)
		}
		// What was proven of it was another tree's.
		if err := ifThere(os.Remove(d.manifest(u))); err != nil {
			return err
		}
		did.Users = append(did.Users, u)
		return nil
	})
	if err != nil {
		return err
	}
	slices.Sort(did.Users)
	return durable.WriteFile(d.rollbackMark(), nil, 0o600)
}

// accepted tells whether a disk with this incarnation may go on from seen.
func (d disk) accepted(inc, seen director.Incarnation) (bool, error) {
	marked, err := exists(d.rollbackMark())
	return marked && inc.Disk == seen.Disk, err
}

// letGoOfStale trashes the trees of users who had moved away when the disk was
// rolled back to a time at which they had not: their fences say that they are
// served, which R4 rightly refuses to touch anywhere else.
func (b *Server) letGoOfStale(ctx context.Context) error {
	marked, err := exists(b.disk.rollbackMark())
	if err != nil || !marked {
		return err
	}
	b.users.mu.Lock()
	var names []director.User
	for name, f := range b.users.fences {
		if f.State == fence.Serving {
			names = append(names, name)
		}
	}
	b.users.mu.Unlock()
	for _, name := range names {
		if err := b.letGoIfStale(ctx, name); err != nil {
			return fmt.Errorf("let go of %s: %w", name, err)
		}
	}
	b.log.Warn("a rolled-back disk was accepted: what came after it is lost", "users", len(names))
	return durable.Remove(b.disk.rollbackMark())
}

func (b *Server) letGoIfStale(ctx context.Context, name director.User) error {
	rec, err := b.readRecord(ctx, name)
	if err != nil {
		return err
	}
	u := b.use(name)
	defer b.release(u)
	u.mu.Lock()
	defer u.mu.Unlock()
	if rec == nil || rec.Home == b.cfg.ID || rec.State == director.Deleted || rec.Epoch <= u.fence.Epoch {
		return nil
	}
	// Swept: all that is in it the user took along, before the image or after.
	return u.perform(fence.Decision{Action: fence.Trash, Next: fence.Fence{State: fence.Gone, Epoch: rec.Epoch}}, true)
}
