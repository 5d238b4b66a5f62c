package backend

import (
	"context"
	"time"

	"waypost/backend/fence"
	"waypost/director"
)

// What an unclean stop left is finished at the first opening of each mailbox,
// and in the background for those that nobody opens. The mark of an unclean
// stop goes only when nothing is left to be finished.

func (b *Server) needsRecovery(u director.User) bool {
	b.recovery.mu.Lock()
	defer b.recovery.mu.Unlock()
	return b.recovery.unclean && !b.recovery.done[u]
}

func (b *Server) recovered(u director.User) {
	b.recovery.mu.Lock()
	defer b.recovery.mu.Unlock()
	if b.recovery.unclean {
		b.recovery.done[u] = true
	}
}

// doubtful notes that a mailbox was not closed in order.
func (b *Server) doubtful() {
	b.recovery.mu.Lock()
	defer b.recovery.mu.Unlock()
	b.recovery.doubt = true
}

// allCertain tells whether the next start need not look.
func (b *Server) allCertain() bool {
	b.recovery.mu.Lock()
	defer b.recovery.mu.Unlock()
	return !b.recovery.unclean && !b.recovery.doubt
}

// recoverPace is the pause between two mailboxes: users come first.
const recoverPace = 5 * time.Millisecond

// recoverAll opens every mailbox that is served and was not opened since an
// unclean stop. A frozen one was opened before it was frozen.
func (b *Server) recoverAll(ctx context.Context) {
	b.recovery.mu.Lock()
	unclean := b.recovery.unclean
	b.recovery.mu.Unlock()
	if !unclean {
		return
	}
	b.users.mu.Lock()
	var todo []director.User
	for name, f := range b.users.fences {
		if f.State == fence.Serving {
			todo = append(todo, name)
		}
	}
	b.users.mu.Unlock()
	failed := 0
	for _, name := range todo {
		if !b.needsRecovery(name) {
			continue
		}
		if err := b.recoverOne(name); err != nil {
			failed++
			b.log.Error("mailbox not recovered", "user", name, "error", err)
		}
		pause(ctx, recoverPace)
		if ctx.Err() != nil {
			return
		}
	}
	b.log.Info("recovered from an unclean stop", "mailboxes", len(todo), "failed", failed)
	if failed > 0 {
		return
	}
	b.recovery.mu.Lock()
	defer b.recovery.mu.Unlock()
	b.recovery.unclean, b.recovery.done = false, nil
}

func (b *Server) recoverOne(name director.User) error {
	u := b.use(name)
	defer b.release(u)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fence.State != fence.Serving {
		return nil
	}
	_, err := u.account()
	return err
}

// keepIncarnation counts on while the backend runs, so that a disk image taken
// an hour ago is known for what it is (R9). Like a start, it writes the disk
// first.
func (b *Server) keepIncarnation(ctx context.Context) {
	const every = time.Minute
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		inc, err := b.disk.incarnation()
		if err == nil {
			inc.Count++
			err = b.disk.putIncarnation(inc)
		}
		if err == nil {
			err = b.dir.PutIncarnation(ctx, b.cfg.ID, inc)
		}
		if err != nil && ctx.Err() == nil {
			b.log.Warn("start count not kept", "error", err)
		}
	}
}
