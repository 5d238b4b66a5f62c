package backend

import (
	"context"
	"errors"
	"fmt"
	"os"

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
		again, err := b.obey(u, before, rec)
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

// obey does what rec demands. again is true when the fence was changed since
// the read began: the record may be older than that change.
func (b *Server) obey(u *user, before fence.Fence, rec *director.Record) (again bool, err error) {
	u.mu.Lock()
	if d := fence.Reconcile(b.cfg.ID, u.fence, rec); d.Action == fence.Drop || d.Action == fence.Adopt {
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
	return false, u.perform(fence.Reconcile(b.cfg.ID, u.fence, rec))
}

// perform does a decision, idempotently. Called under mu, and under tree for
// Drop and Adopt.
func (u *user) perform(d fence.Decision) error {
	disk := u.b.disk
	if d.Action == fence.Refuse {
		if u.alarm != d.Why {
			u.b.log.Error("user refused", "user", u.name, "fence", u.fence.String(), "why", d.Why)
			u.b.metrics.alarms.Inc()
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
		u.closeAccount()
		if err := u.discard(d.Next.Epoch); err != nil {
			return err
		}
	case fence.Drop:
		if err := os.RemoveAll(disk.staging(u.name)); err != nil {
			return err
		}
	}
	return u.setFence(d.Next)
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
// next call.
func (u *user) discard(epoch director.Epoch) error {
	disk := u.b.disk
	dir := disk.trash(u.name, epoch)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := claim(disk.manifest(u.name), dir+"/manifest"); err != nil {
		return err
	}
	if err := claim(disk.live(u.name), dir+"/tree"); err != nil {
		return err
	}
	u.b.janitor.wake()
	return nil
}
