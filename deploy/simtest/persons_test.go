//go:build !race

package simtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/director"
)

// replace deletes the user, and makes another of the same name (R12): nothing
// that was accepted for the one may reach the other.
func (w *world) replace(ctx context.Context) {
	if sleep(ctx, 2*time.Second) != nil {
		return
	}
	dir := director.New(&port{w: w, who: "operator"})
	ctx = as(ctx, "replace")
	for tries := 0; ; tries++ {
		if w.step(ctx, "operator", "deletes") != nil {
			return
		}
		w.deletions++ // from here on a client may hear that there is no such user
		former := keys(w.acked)
		_, err := dir.DeleteUser(ctx, alice)
		if err == nil || errors.Is(err, director.ErrNotFound) {
			for _, name := range former {
				w.former[name] = w.validity
			}
			break
		}
		if tries > 60 || sleep(ctx, 700*time.Millisecond) != nil {
			return
		}
	}
	w.saw("user deleted")
	w.person++
	for {
		err := w.create(ctx, dir)
		if err == nil {
			break
		}
		if sleep(ctx, 900*time.Millisecond) != nil {
			return
		}
	}
	w.saw("user made again")
	w.person++
}

// create is what the director does: the home first, then the record.
func (w *world) create(ctx context.Context, dir *director.Directory) error {
	was, err := dir.Location(ctx, alice)
	if err != nil || was.Value.State != director.Deleted {
		return err
	}
	if err := w.step(ctx, "operator", "chooses"); err != nil {
		return err
	}
	home := w.ids[w.rng.IntN(len(w.ids))]
	if home != was.Value.Home && !w.rule("former home not asked") {
		// A home that missed the tombstone would go on serving the former person,
		// and later find a record of another home that it was never frozen for.
		f, err := (&remote{w: w, who: "operator", dead: new(bool), n: w.nodes[was.Value.Home]}).Look(ctx, control.LookRequest{User: alice})
		if err != nil {
			return err
		}
		if f.State != string(fence.Gone) && f.State != string(fence.Missing) {
			return fmt.Errorf("the former home %s is %s", was.Value.Home, f.State)
		}
	}
	r := &remote{w: w, who: "operator", dead: new(bool), n: w.nodes[home]}
	if _, err := r.prepare(ctx, was.Value.Epoch); err != nil {
		return err
	}
	rec, err := director.Create(&was.Value, home)
	if err != nil {
		return err
	}
	if err := dir.CreateUser(ctx, alice, rec, director.Account{Created: time.Now()}); err != nil {
		return err
	}
	w.validity = validityOf(was.Value.Epoch)
	return nil
}

// prepare is backend.Server.prepare.
func (r *remote) prepare(ctx context.Context, epoch director.Epoch) (control.FenceReply, error) {
	return call(ctx, r, "prepare", func(p *proc) (control.FenceReply, error) {
		ctx := as(ctx, r.who)
		if err := p.look(ctx); err != nil {
			return p.reply(), err
		}
		rec, err := fence.ReadRecord(ctx, p.dir, alice)
		if err != nil {
			return p.reply(), err
		}
		if rec == nil || rec.State != director.Deleted || rec.Epoch != epoch {
			return p.reply(), no(control.CodeEpoch, "record %v", rec)
		}
		if err := p.lock(ctx, &p.tree, "tree"); err != nil {
			return p.reply(), err
		}
		defer p.tree.unlock()
		if err := p.lock(ctx, &p.mu, "user"); err != nil {
			return p.reply(), err
		}
		defer p.mu.unlock()
		next, ok := fence.Prepare(p.fence, epoch)
		switch {
		case !ok:
			return p.reply(), no(control.CodeFence, "fence is %s", p.fence)
		case next == p.fence:
			return p.reply(), nil
		}
		if live, err := fence.Exists(p.fs, p.trees().Live); err != nil || live {
			return p.reply(), no(control.CodeFence, "a tree without a fence: %v", err)
		}
		if err := p.fs.RemoveAll(p.trees().Staging); err != nil {
			return p.reply(), err
		}
		if err := writeBox(p.fs, p.trees().Staging, box{Validity: validityOf(epoch), UIDNext: 1}); err != nil {
			return p.reply(), err
		}
		return p.reply(), p.setFence(next)
	})
}

// validityOf is the UIDVALIDITY of who comes after the tombstone of that epoch.
func validityOf(tombstone director.Epoch) uint32 { return 100 + uint32(tombstone) }

// of names a message of one mailbox: the next person's is another.
func (b box) of(name string) string { return fmt.Sprintf("%d/%s", b.Validity, name) }
