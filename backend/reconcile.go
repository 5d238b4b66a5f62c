package backend

import (
	"context"
	"fmt"
	"os"

	"waypost/backend/fence"
	"waypost/director"
)

// look is the one way a fence follows the directory (fence.Look).
func (b *Server) look(ctx context.Context, u *user) error {
	now := func() fence.Fence {
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.fence
	}
	return fence.Look(ctx, b.dir, u.name, now, func(before fence.Fence, rec *director.Record, mv *director.Move) (bool, error) {
		again, err := b.obey(u, before, rec, mv)
		if err != nil {
			b.log.Error("fence not brought up to date", "user", u.name, "error", err)
		}
		return again, err
	})
}

func (b *Server) readRecord(ctx context.Context, name director.User) (*director.Record, error) {
	return fence.ReadRecord(ctx, b.dir, name)
}

// readJournal reads the user's journal where the fence may hang on it.
func (b *Server) readJournal(ctx context.Context, name director.User, f fence.Fence) (*director.Move, error) {
	return fence.ReadJournal(ctx, b.dir, name, f)
}

// decide is the whole decision about a fence.
func (b *Server) decide(f fence.Fence, rec *director.Record, mv *director.Move) fence.Decision {
	return fence.Decide(b.cfg.ID, f, rec, mv)
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
		if err := disk.trees(u.name).Adopt(); err != nil {
			return fmt.Errorf("%s: %w", u.name, err)
		}
	case fence.Trash:
		if err := u.closeAccount(); err != nil {
			u.b.log.Error("close mailbox", "user", u.name, "error", err)
		}
		if err := disk.trees(u.name).Discard(u.fence, deleted); err != nil {
			return err
		}
		defer u.b.janitor.wake()
	case fence.Drop:
		trees := disk.trees(u.name)
		trees.Park = u.park
		if err := trees.Drop(u.fence, deleted); err != nil {
			return err
		}
	}
	return u.setFence(d.Next)
}
