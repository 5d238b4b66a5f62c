package backend

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"waypost/backend/fence"
	"waypost/director"
	"waypost/internal/durable"
)

// look is the one way a fence follows the directory: this backend's own
// linearizable read, then fence.Reconcile, then its action (R3).
func (b *Server) look(ctx context.Context, u *user) error {
	const tries = 4
	for range tries {
		u.mu.Lock()
		before := u.fence
		u.mu.Unlock()
		rec, err := b.readRecord(ctx, u.name)
		if err != nil {
			return fmt.Errorf("look at %s: %w", u.name, err)
		}
		mv, err := b.readJournal(ctx, u.name, before)
		if err != nil {
			return fmt.Errorf("look at %s: %w", u.name, err)
		}
		again, err := b.obey(u, before, rec, mv)
		if err != nil {
			b.log.Error("fence not brought up to date", "user", u.name, "error", err)
			return fmt.Errorf("look at %s: %w", u.name, err)
		}
		if !again {
			return nil
		}
	}
	return fmt.Errorf("look at %s: the fence changes all the time", u.name)
}

func (b *Server) readRecord(ctx context.Context, name director.User) (*director.Record, error) {
	v, err := b.dir.Location(ctx, name)
	if errors.Is(err, director.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &v.Value, nil
}

// readJournal reads the user's journal where the fence may hang on it.
func (b *Server) readJournal(ctx context.Context, name director.User, f fence.Fence) (*director.Move, error) {
	if f.State != fence.Incoming {
		return nil, nil
	}
	v, err := b.dir.Move(ctx, name)
	if errors.Is(err, director.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &v.Value, nil
}

// decide is the whole decision about a fence.
func (b *Server) decide(f fence.Fence, rec *director.Record, mv *director.Move) fence.Decision {
	d := fence.Reconcile(b.cfg.ID, f, rec)
	if d.Action == fence.Keep {
		d = fence.Abandon(b.cfg.ID, f, rec, mv)
	}
	return d
}

// obey does what rec demands. again is true when the fence was changed since
// the reads began: they may be older than that change.
func (b *Server) obey(u *user, before fence.Fence, rec *director.Record, mv *director.Move) (again bool, err error) {
	u.mu.Lock()
	if d := b.decide(u.fence, rec, mv); d.Action == fence.Drop || d.Action == fence.Adopt {
		// Both take staging away from a pull or a seal: end it first.
		if u.stopPull != nil {
			u.stopPull()
		}
		u.mu.Unlock()
		u.tree.Lock()
		defer u.tree.Unlock()
		u.mu.Lock()
	}
	defer u.mu.Unlock()
	if u.fence != before {
		return true, nil
	}
	deleted := rec != nil && rec.State == director.Deleted
	return false, u.perform(b.decide(u.fence, rec, mv), deleted)
}

// perform does a decision, idempotently. Called under mu, and under tree for
// Drop and Adopt. deleted tells that the record is a tombstone.
func (u *user) perform(d fence.Decision, deleted bool) error {
	disk := u.b.disk
	if d.Action == fence.Refuse {
		if u.alarm != d.Why {
			u.b.log.Error("user refused", "user", u.name, "fence", u.fence.String(), "why", d.Why)
			u.b.metrics.alarms.Inc()
			u.hangUp(leftMoving)
		}
		u.alarm = d.Why
		return nil
	}
	u.alarm = ""
	switch d.Action {
	case fence.Keep:
		return nil
	case fence.Serve:
		if err := os.RemoveAll(disk.manifest(u.name)); err != nil {
			return err
		}
	case fence.Adopt:
		if err := u.adopt(); err != nil {
			return err
		}
	case fence.Trash:
		if err := u.closeAccount(); err != nil {
			u.b.log.Error("close mailbox", "user", u.name, "error", err)
		}
		if err := u.discard(deleted); err != nil {
			return err
		}
		defer u.b.janitor.wake()
	case fence.Drop:
		if err := u.dropStaging(deleted); err != nil {
			return err
		}
	}
	return u.setFence(d.Next)
}

// dropStaging removes what a move or a creation left. Sealed staging that is
// not there was adopted half: renamed, with the fence not yet set. It then is
// the live tree, which goes to the trash like any other.
func (u *user) dropStaging(deleted bool) error {
	staging := u.b.disk.staging(u.name)
	if u.fence.State == fence.Sealed {
		staged, err := exists(staging)
		if err != nil {
			return err
		}
		if !staged {
			return u.discard(deleted)
		}
	}
	return os.RemoveAll(staging)
}

// adopt makes sealed staging the live tree. After a crash between rename and
// fence, staging is gone and the live tree is it.
func (u *user) adopt() error {
	from, to := u.b.disk.staging(u.name), u.b.disk.live(u.name)
	staged, err := exists(from)
	if err != nil {
		return err
	}
	live, err := exists(to)
	if err != nil {
		return err
	}
	switch {
	case staged && live:
		return fmt.Errorf("adopt %s: both %s and %s are there: one of them was put there by hand", u.name, from, to)
	case !staged && !live:
		return fmt.Errorf("adopt %s: neither %s nor %s is there", u.name, from, to)
	case staged:
		if err := claim(from, to); err != nil {
			return err
		}
	}
	return nil
}

// discard claims the live tree, and the manifest it was frozen with, for the
// trash. Each rename is done or not; a crash between them is finished by the
// next call, under the same name: the old fence's epoch.
func (u *user) discard(deleted bool) error {
	disk := u.b.disk
	dir := disk.trash(u.name, u.fence.Epoch)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if deleted {
		// There is no new home that its mail could go to.
		if err := durable.WriteFile(filepath.Join(dir, "swept"), nil, 0o600); err != nil {
			return err
		}
	}
	if err := claim(disk.manifest(u.name), filepath.Join(dir, "manifest")); err != nil {
		return err
	}
	return claim(disk.live(u.name), filepath.Join(dir, "tree"))
}
