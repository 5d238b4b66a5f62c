package backend

import (
	"context"
	"errors"
	"fmt"

	"waypost/backend/check"
	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/quota"
	"waypost/director"
)

// repairUser mends what is derived of a user whom this backend serves. It refuses
// what needs a human: a fence that contradicts the directory, a tree that is in two
// places. Sessions end while it works, for what they were told may have changed.
func (b *Server) repairUser(ctx context.Context, req control.RepairRequest, say func(control.Step)) error {
	u, end := b.peek(req.User)
	defer end()
	if err := b.repairFence(ctx, u, say); err != nil {
		return err
	}
	if err := b.repairable(ctx, u); err != nil {
		return err
	}
	r, err := b.checkTree(ctx, u, req.Deep)
	if errors.Is(err, errMoved) {
		return refuse(control.CodeUnavailable, "user %s is being moved: try again later", u.name)
	}
	if err != nil {
		return err
	}
	if len(r.Findings) == 0 {
		say(control.Step{Text: "nothing to mend"})
		return nil
	}
	open, err := u.mendTree(ctx, say)
	if err == nil {
		err = b.openFolders(ctx, u, open, say)
	}
	if err == nil && r.WrongSizes() {
		err = u.alone(func() error { return check.SetSizes(b.checkOptions(u.name, false), &r, say) })
	}
	if err != nil {
		return err
	}
	return b.tellRest(ctx, u, req.Deep, say)
}

// repairFence has the fence follow the directory, by the backend's own rules only:
// what is stale is dropped if they say so.
func (b *Server) repairFence(ctx context.Context, u *user, say func(control.Step)) error {
	before := u.fenceNow()
	if err := b.look(ctx, u); err != nil {
		return err
	}
	if now := u.fenceNow(); now != before {
		say(control.Step{Text: fmt.Sprintf("the fence follows the directory: it was %s and is %s", before, now)})
	}
	return nil
}

// repairable refuses users that are not served here, or not for sure.
func (b *Server) repairable(ctx context.Context, u *user) error {
	rec, err := b.readRecord(ctx, u.name)
	if err != nil {
		return err
	}
	f := u.fenceNow()
	d := b.decide(f, rec, nil)
	var found []control.Finding
	if d.Action != fence.Refuse {
		c := checkRun{b: b, emit: func(x control.Finding) { found = append(found, x) }}
		if _, err := c.places(u); err != nil {
			return err
		}
	}
	switch {
	case d.Action == fence.Refuse:
		return refuse(control.CodeFence, "user %s needs a human: the fence at %s is %s, and the directory says %s: %s; %s", u.name, b.cfg.ID, f, recordText(rec), d.Why, askHuman)
	case rec == nil || rec.State == director.Deleted:
		return refuse(control.CodeFence, "the directory has no user %s", u.name)
	case rec.Home != b.cfg.ID:
		return refuse(control.CodeFence, "the home of user %s is %s, not %s", u.name, rec.Home, b.cfg.ID)
	case f.State != fence.Serving || rec.State != director.Active || rec.Epoch != f.Epoch:
		return refuse(control.CodeUnavailable, "user %s is being moved: try again later", u.name)
	}
	for _, x := range found {
		if x.Kind == control.KindTree {
			return refuse(control.CodeFence, "user %s needs a human: %s; %s", u.name, x.What, x.Do)
		}
	}
	return nil
}

// alone runs do under the user's lock, with the mailbox closed and all that the
// journal has of it in the files, durably.
func (u *user) alone(do func() error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fence.State != fence.Serving || u.alarm != "" {
		return refuse(control.CodeUnavailable, "user %s is not served any more", u.name)
	}
	if err := u.closeAccount(); err != nil {
		return err
	}
	if err := u.flush(); err != nil {
		return err
	}
	return do()
}

func (u *user) mendTree(ctx context.Context, say func(control.Step)) (open []string, err error) {
	o := u.b.checkOptions(u.name, false)
	o.Pause = nil // others wait
	err = u.alone(func() error {
		open, err = check.Mend(ctx, o, quota.Limit(u.limit()), say)
		return err
	})
	return open, err
}

// openFolders has the store do what it does by itself: number messages, note those
// that are gone, begin a uidlist that is lost.
func (b *Server) openFolders(ctx context.Context, u *user, names []string, say func(control.Step)) error {
	if len(names) == 0 {
		return nil
	}
	box, err := b.Open(ctx, u.name, b.cfg.ID, u.fenceNow().Epoch)
	if err != nil {
		return err
	}
	defer box.Close()
	for _, name := range names {
		f, err := box.Folder(name)
		if err != nil {
			return fmt.Errorf("open folder %q of %s: %w", name, u.name, err)
		}
		s, err := f.Snapshot()
		if err != nil {
			return fmt.Errorf("open folder %q of %s: %w", name, u.name, err)
		}
		say(control.Step{Folder: name, Text: fmt.Sprintf("opened: %d messages, UIDVALIDITY %d", s.Messages.Len(), s.UIDValidity)})
	}
	return nil
}

// tellRest looks once more, and says what a repair does not mend.
func (b *Server) tellRest(ctx context.Context, u *user, deep bool, say func(control.Step)) error {
	c := checkRun{b: b, deep: deep, emit: func(f control.Finding) {
		if f.Problem() {
			say(control.Step{Folder: f.Folder, Text: f.What + "; " + f.Do, Left: true})
		}
	}}
	return c.one(ctx, u.name)
}
