package backend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/maildir"
	"waypost/backend/manifest"
	"waypost/backend/sftp"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/durable"
	"waypost/internal/vfs"
)

// The backend's part in a move. Every call names the epoch of the move's busy
// record, is idempotent, and changes the fence only after this backend's own
// linearizable read (R3).

func refuse(code, format string, a ...any) error {
	return &control.Error{Code: code, Text: fmt.Sprintf(format, a...)}
}

// with runs fn on a user's entry.
func with[T any](b *Server, name director.User, fn func(*user) (T, error)) (T, error) {
	name, err := director.ParseUser(string(name))
	if err != nil {
		var zero T
		return zero, refuse(control.CodeBad, "%v", err)
	}
	u := b.use(name)
	defer b.release(u)
	return fn(u)
}

func (u *user) fenceReply() control.FenceReply {
	u.mu.Lock()
	defer u.mu.Unlock()
	return control.FenceReply{State: string(u.fence.State), Epoch: u.fence.Epoch}
}

// lookCall is PathLook.
func (b *Server) lookCall(ctx context.Context, _ cluster.Peer, req control.LookRequest) (control.FenceReply, error) {
	return with(b, req.User, func(u *user) (control.FenceReply, error) {
		err := b.look(ctx, u)
		return u.fenceReply(), err
	})
}

// prepare is PathPrepare: the empty mailbox of a user whose record comes next
// (R12), made as staging that is sealed at the tombstone's epoch: publishing
// the record is then an ordinary flip to a sealed target, and a lost race
// drops it like any other.
func (b *Server) prepare(ctx context.Context, _ cluster.Peer, req control.PrepareRequest) (control.FenceReply, error) {
	return with(b, req.User, func(u *user) (control.FenceReply, error) {
		if err := b.look(ctx, u); err != nil {
			return control.FenceReply{}, err
		}
		rec, err := b.readRecord(ctx, u.name)
		if err != nil {
			return control.FenceReply{}, err
		}
		var at director.Epoch
		if rec != nil {
			if rec.State != director.Deleted {
				return control.FenceReply{}, refuse(control.CodeFence, "the directory has the user already: %s", rec)
			}
			at = rec.Epoch
		}
		if at != req.Epoch {
			return control.FenceReply{}, refuse(control.CodeEpoch, "asked to prepare at %d, the directory says %d", req.Epoch, at)
		}
		return u.sealEmpty(at)
	})
}

func (u *user) sealEmpty(at director.Epoch) (control.FenceReply, error) {
	u.tree.Lock()
	defer u.tree.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	reply := func() control.FenceReply {
		return control.FenceReply{State: string(u.fence.State), Epoch: u.fence.Epoch}
	}
	next, ok := fence.Prepare(u.fence, at)
	switch {
	case !ok:
		return reply(), refuse(control.CodeFence, "fence is %s", u.fence)
	case next == u.fence:
		return reply(), nil
	}
	if live, err := exists(u.b.disk.live(u.name)); err != nil || live {
		return reply(), refuse(control.CodeFence, "there is a tree without a fence at %s (%v): move it away first", u.b.disk.live(u.name), err)
	}
	dir := u.b.disk.staging(u.name)
	if err := os.RemoveAll(dir); err != nil {
		return reply(), err
	}
	if err := maildir.Create(vfs.OS, dir); err != nil {
		return reply(), err
	}
	err := u.setFence(next)
	return reply(), err
}

// stage is PathStage: the target gets ready for the move whose busy epoch is
// req.Epoch, seen in the directory's journal or record.
func (b *Server) stage(ctx context.Context, _ cluster.Peer, req control.MoveRequest) (control.FenceReply, error) {
	return with(b, req.User, func(u *user) (control.FenceReply, error) {
		if err := b.look(ctx, u); err != nil {
			return control.FenceReply{}, err
		}
		rec, err := b.readRecord(ctx, u.name)
		if err != nil {
			return control.FenceReply{}, err
		}
		if !fence.MayStage(b.cfg.ID, rec, req.Epoch) {
			return control.FenceReply{}, refuse(control.CodeEpoch, "epoch %d does not fit the record %v", req.Epoch, rec)
		}
		if err := b.roomFor(0); err != nil {
			return control.FenceReply{}, err
		}
		return u.incoming(req.Epoch)
	})
}

// roomFor refuses what would fill the disk to the brim: users who live here
// must go on getting mail.
func (b *Server) roomFor(bytes int64) error {
	size, free, err := b.disk.room()
	if err != nil {
		return err
	}
	if reserve := size / 50; free-bytes < reserve {
		return refuse(control.CodeNoRoom, "%d bytes are to come, %d of %d are free, and 2 %% must stay so", bytes, free, size)
	}
	return nil
}

func (u *user) incoming(epoch director.Epoch) (control.FenceReply, error) {
	u.tree.Lock()
	defer u.tree.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	reply := func() control.FenceReply {
		return control.FenceReply{State: string(u.fence.State), Epoch: u.fence.Epoch}
	}
	next, ok := fence.Stage(u.fence, epoch)
	switch {
	case !ok:
		return reply(), refuse(control.CodeFence, "fence is %s", u.fence)
	case next == u.fence:
		return reply(), nil
	}
	if live, err := exists(u.b.disk.live(u.name)); err != nil || live {
		return reply(), refuse(control.CodeFence, "there is a tree without a fence at %s (%v): move it away first", u.b.disk.live(u.name), err)
	}
	// What an earlier, given up move left in staging is a good start: the
	// passes compare every digest.
	if err := durable.MkdirAll(u.b.disk.staging(u.name), 0o700); err != nil {
		return reply(), err
	}
	if err := sftp.RemoveHalves(u.b.disk.staging(u.name)); err != nil {
		return reply(), err
	}
	err := u.setFence(next)
	return reply(), err
}

// pull is PathPull, one pass into staging.
func (b *Server) pull(ctx context.Context, req control.PullRequest, report func(control.PullProgress)) (control.PullProgress, error) {
	return with(b, req.User, func(u *user) (control.PullProgress, error) {
		u.tree.Lock()
		defer u.tree.Unlock()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		f := u.beginPull(cancel)
		defer u.endPull()
		if f.State == fence.Sealed && f.Epoch == req.Epoch {
			return control.PullProgress{Done: true}, nil
		}
		if f.State != fence.Incoming || f.Epoch != req.Epoch {
			return control.PullProgress{}, refuse(control.CodeFence, "fence is %s, the pull is for epoch %d", f, req.Epoch)
		}
		staged, err := b.digests.staged(u.name)
		if err != nil {
			return control.PullProgress{}, err
		}
		p := sftp.Pull{
			Staging: b.disk.staging(u.name), Staged: staged, Halves: b.digests.halves(u.name), Final: req.Final, Report: report, Room: b.roomFor,
			Dial: func(ctx context.Context) (*sftp.Conn, error) {
				return sftp.Dial(ctx, b.id, req.Node, req.Source, u.name, req.Epoch)
			},
			Manifest: func(ctx context.Context) (control.Manifest, error) {
				source := cluster.Peer{Role: cluster.RoleBackend, ID: string(req.Source)}
				return control.Call[control.Manifest](ctx, b.peers.client(req.Node, source), control.PathManifest,
					control.ManifestRequest{User: u.name, Epoch: req.Epoch, Frozen: req.Final})
			},
		}
		done, err := p.Run(ctx)
		done.Done = err == nil
		b.metrics.pulledBytes.Add(float64(done.Bytes))
		return done, err
	})
}

// beginPull lets a drop of staging end what works on it. Called under tree.
func (u *user) beginPull(cancel context.CancelFunc) fence.Fence {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stopPull = cancel
	return u.fence
}

func (u *user) endPull() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stopPull = nil
}

// mayRead decides whether from may read u's tree for the move whose busy epoch
// is epoch: only the target that the journal names.
func (b *Server) mayRead(ctx context.Context, from cluster.Peer, name director.User, epoch director.Epoch) error {
	mv, err := b.dir.Move(ctx, name)
	if err != nil {
		return err
	}
	m := mv.Value
	if from.Role != cluster.RoleBackend || string(m.Target) != from.ID || m.Source != b.cfg.ID || m.Epoch+1 != epoch || m.Phase.Finished() {
		return refuse(control.CodeForbidden, "no move of %s at epoch %d lets %s read it", name, epoch, from)
	}
	return nil
}

// openTree is what the SFTP server asks.
func (b *Server) openTree(ctx context.Context, from cluster.Peer, name director.User, epoch director.Epoch) (sftp.Tree, error) {
	if err := b.mayRead(ctx, from, name, epoch); err != nil {
		return nil, err
	}
	t, err := b.digests.source(name)
	return &movingTree{b, t, from, name, epoch, time.Now()}, err
}

// movingTree is the live tree of a user who is being moved, as the target sees it.
type movingTree struct {
	b *Server
	*manifest.Tracker
	from  cluster.Peer
	user  director.User
	epoch director.Epoch
	// asked is when the directory was asked whether from may read it.
	asked time.Time
}

// askAgain is how long that counts.
const askAgain = time.Second

// Root implements sftp.Tree.
func (t *movingTree) Root() string { return t.b.disk.live(t.user) }

// Delta implements sftp.Tree.
func (t *movingTree) Delta(ctx context.Context, q manifest.Query) (manifest.Delta, error) {
	how := manifest.HashFew
	switch {
	case q.Frozen:
		how = manifest.HashAll
	case q.Verify:
		how = manifest.HashSome
	}
	if time.Since(t.asked) > askAgain {
		if err := t.b.mayRead(ctx, t.from, t.user, t.epoch); err != nil {
			return manifest.Delta{}, err
		}
	}
	if !q.Frozen {
		t.b.journal.FlushSoon(string(t.user)) // by the freeze
	}
	return with(t.b, t.user, func(u *user) (manifest.Delta, error) {
		t.b.digests.change(u.name, func(x *userDigests) { x.asked = t.epoch })
		m, unlock, err := u.current(ctx, control.ManifestRequest{User: u.name, Epoch: t.epoch, Frozen: q.Frozen}, how)
		if err != nil {
			return manifest.Delta{}, err
		}
		defer unlock()
		return m.Delta(q)
	})
}

// manifestCall is PathManifest, for targets that do not ask for a Delta.
func (b *Server) manifestCall(ctx context.Context, from cluster.Peer, req control.ManifestRequest) (control.Manifest, error) {
	return with(b, req.User, func(u *user) (control.Manifest, error) {
		if err := b.mayRead(ctx, from, u.name, req.Epoch); err != nil {
			return control.Manifest{}, err
		}
		m, unlock, err := u.current(ctx, req, manifest.HashAll)
		if err != nil {
			return control.Manifest{}, err
		}
		defer unlock()
		return m.Manifest(), nil
	})
}

// current gives the manifest of the live tree as it is now, under tree. Who it is for may
// read it.
func (u *user) current(ctx context.Context, req control.ManifestRequest, how manifest.Hashing) (m *manifest.Tracker, unlock func(), err error) {
	b := u.b
	f := u.fenceNow()
	if f.State != fence.Serving && f.Epoch != req.Epoch {
		// Behind the record for a moment after a rollback or a flip.
		if err := b.look(ctx, u); err != nil {
			return nil, nil, err
		}
	}
	u.tree.Lock()
	f = u.fenceNow()
	frozen := f.State == fence.Frozen && f.Epoch == req.Epoch
	switch {
	case !frozen && (req.Frozen || f.State != fence.Serving):
		err = refuse(control.CodeFence, "fence is %s", f)
	case frozen:
		m, _, err = u.frozenManifest(ctx, f, false)
	default:
		if m, err = b.digests.source(u.name); err == nil {
			err = errors.Join(hot(m.Update(ctx, how)), m.SyncKept())
		}
	}
	if err != nil {
		u.tree.Unlock()
		return nil, nil, err
	}
	return m, u.tree.Unlock, nil
}

// hot takes what vanished while it was read for what it is: the user works.
func hot(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return refuse(control.CodeUnavailable, "%v", err)
	}
	return err
}

func (u *user) fenceNow() fence.Fence {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.fence
}

// freeze is PathFreeze. Writers that hold the user's lock finish first; nobody
// waits for unfinished DATA, which fails at its commit.
func (b *Server) freeze(ctx context.Context, _ cluster.Peer, req control.MoveRequest) (control.ManifestSummary, error) {
	return with(b, req.User, func(u *user) (control.ManifestSummary, error) {
		// A fence that is behind (flipped to us and not looked at yet) comes
		// up to date first; then the record must be this very move's.
		f := fence.Fence{State: fence.Frozen, Epoch: req.Epoch}
		if have := u.fenceNow(); have != f && have != (fence.Fence{State: fence.Serving, Epoch: req.Epoch - 1}) {
			if err := b.look(ctx, u); err != nil {
				return control.ManifestSummary{}, err
			}
		}
		rec, err := b.readRecord(ctx, u.name)
		if err != nil {
			return control.ManifestSummary{}, err
		}
		if !fence.MayFreeze(b.cfg.ID, rec, req.Epoch) {
			return control.ManifestSummary{}, refuse(control.CodeEpoch, "epoch %d does not fit the record %v", req.Epoch, rec)
		}
		u.tree.Lock()
		defer u.tree.Unlock()
		known := false
		keep := func() error { known = true; return u.keepFrozen(ctx) }
		if err := u.freezeWith(f.Epoch, keep); err != nil {
			return control.ManifestSummary{}, err
		}
		_, sum, err := u.frozenManifest(ctx, f, known)
		if err != nil {
			return control.ManifestSummary{}, err
		}
		// By now who was to QUIT before the freeze has, and the others go on elsewhere.
		sum.Maildrop = b.maildrops.Holder(u.name)
		return sum, nil
	})
}

func (u *user) freezeAt(epoch director.Epoch) error { return u.freezeWith(epoch, nil) }

// freezeWith freezes; keep, where not nil, writes the manifest down of the tree that nobody
// writes to any more, while the tree is synced and the fence after it: they wait for the disk,
// and it mostly reads. What keep has written counts only when the fence is durable, too.
func (u *user) freezeWith(epoch director.Epoch, keep func() error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	next, ok := fence.Freeze(u.fence, epoch)
	switch {
	case !ok:
		return refuse(control.CodeFence, "fence is %s, the freeze is for epoch %d", u.fence, epoch)
	case next == u.fence:
		return nil
	}
	serving := u.fence.State == fence.Serving
	if serving {
		u.mend()
		// Nothing of ours touches a frozen tree, not even a late close. It brings all into
		// the files, which are synced below.
		if err := u.closeFor(leftMoving); err != nil {
			return err
		}
	}
	// A manifest of an earlier freeze is of an earlier tree.
	if err := os.RemoveAll(u.b.disk.manifest(u.name)); err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error {
		if serving {
			var durable errgroup.Group
			durable.Go(func() error { return syncQuotaLog(filepath.Join(u.b.disk.live(u.name), "Maildir")) })
			durable.Go(u.flush)
			if err := durable.Wait(); err != nil {
				return err
			}
		}
		return u.putFence(next)
	})
	if keep != nil {
		g.Go(keep)
	}
	if err := g.Wait(); err != nil || keep == nil {
		return err
	}
	u.b.digests.change(u.name, func(x *userDigests) { x.frozen = epoch })
	return nil
}

// syncQuotaLog makes durable what the journal knows nothing of: usage is appended to that
// file as it comes.
func syncQuotaLog(maildir string) error {
	f, err := os.Open(filepath.Join(maildir, "maildirsize"))
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sync quota log: %w", err)
	}
	return durable.SyncDir(maildir)
}

// keepFrozen writes down the manifest of a tree that is being frozen. Called under tree, while
// writers are kept out.
func (u *user) keepFrozen(ctx context.Context) error {
	m, err := u.b.digests.source(u.name)
	if err == nil {
		err = m.Update(ctx, manifest.HashAll)
	}
	if err == nil {
		_, err = m.Freeze(u.b.disk.manifest(u.name))
	}
	return err
}

// frozenManifest gives the manifest of the frozen tree, which is kept on the disk until
// the trash is purged: the source's half of the receipt. Called under tree; the
// fence keeps writers out. known: it was brought up to date since they are.
func (u *user) frozenManifest(ctx context.Context, f fence.Fence, known bool) (*manifest.Tracker, control.ManifestSummary, error) {
	fail := func(err error) (*manifest.Tracker, control.ManifestSummary, error) {
		return nil, control.ManifestSummary{}, err
	}
	d := &u.b.digests
	m, err := d.source(u.name)
	if err == nil && !known {
		err = m.Update(ctx, manifest.HashAll)
	}
	if err != nil {
		return fail(err)
	}
	var asked, kept director.Epoch
	d.change(u.name, func(x *userDigests) { asked, kept = x.asked, x.frozen })
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fence != f {
		return fail(refuse(control.CodeFence, "fence became %s meanwhile", u.fence))
	}
	if kept != f.Epoch {
		if _, err := m.Freeze(u.b.disk.manifest(u.name)); err != nil {
			return fail(err)
		}
		d.change(u.name, func(x *userDigests) { x.frozen = f.Epoch })
	}
	if asked == f.Epoch {
		return m, m.Summary(), nil
	}
	return m, manifest.FlatSummary(m.Manifest()), nil
}

func readManifest(path string) (control.Manifest, error) { return manifest.ReadFrozen(path) }

// sealKept is PathSeal (R5): staging must equal the source's manifest in every entry, is
// durable since the pull, and never changes after. What was verified while it came, and
// synced, is not read again: that folders, and files that may be changed in
// place, are as they were then says that nobody has touched them. The receipt is durable
// before it is answered, too: it is written while the fence is. One without a sealed
// fence is of a move that came to nothing.
func (b *Server) sealKept(ctx context.Context, _ cluster.Peer, req control.SealRequest) (control.ManifestSummary, error) {
	return with(b, req.User, func(u *user) (control.ManifestSummary, error) {
		u.tree.Lock()
		defer u.tree.Unlock()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		f := u.beginPull(cancel)
		defer u.endPull()
		again, ok := fence.MaySeal(f, req.Epoch, req.Digest)
		if !ok {
			return control.ManifestSummary{}, refuse(control.CodeFence, "fence is %s, the seal is for epoch %d", f, req.Epoch)
		}
		m, err := b.digests.staged(u.name)
		if err == nil {
			err = errors.Join(m.Update(ctx, manifest.HashAll), m.Settle())
		}
		if err != nil {
			return control.ManifestSummary{}, err
		}
		sum := m.Summary()
		if sum.Digest != req.Digest {
			// A source that did not know whom it talks to.
			sum = manifest.FlatSummary(m.Manifest())
		}
		if sum.Digest != req.Digest {
			return sum, refuse(control.CodeDiffers, "staging is %s, the manifest %s", sum.Digest, req.Digest)
		}
		b.maildrops.Reserve(u.name, req.Maildrop)
		var g errgroup.Group
		g.Go(func() error { return u.keepReceipt(m, req) })
		if !again {
			g.Go(func() error { return u.sealAt(f, req) })
		}
		return sum, g.Wait()
	})
}

// sealAt makes the seal durable, if the fence is still f. Called under tree.
func (u *user) sealAt(f fence.Fence, req control.SealRequest) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fence != f {
		return refuse(control.CodeFence, "fence became %s meanwhile", u.fence)
	}
	// What staging began with (seed) was renamed to it by who may not have come to make that last.
	if err := durable.SyncDir(filepath.Dir(u.b.disk.staging(u.name))); err != nil {
		return err
	}
	return u.setFence(fence.Fence{State: fence.Sealed, Epoch: req.Epoch, Digest: req.Digest})
}
