package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	pkgsftp "github.com/pkg/sftp"

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
	switch {
	case u.fence.State == fence.Sealed && u.fence.Epoch == at:
		return reply(), nil
	case u.fence.State != fence.Missing && u.fence.State != fence.Gone, u.fence.Epoch > at:
		return reply(), refuse(control.CodeFence, "fence is %s", u.fence)
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
	err := u.setFence(fence.Fence{State: fence.Sealed, Epoch: at})
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
		if rec == nil || rec.Home == b.cfg.ID ||
			!(rec.State == director.Active && rec.Epoch+1 == req.Epoch || rec.State == director.Busy && rec.Epoch == req.Epoch && rec.Peer == b.cfg.ID) {
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
	switch f := u.fence; {
	case (f.State == fence.Incoming || f.State == fence.Sealed) && f.Epoch == epoch:
		return reply(), nil
	case (f.State == fence.Missing || f.State == fence.Gone || f.State == fence.Incoming) && f.Epoch <= epoch:
	default:
		return reply(), refuse(control.CodeFence, "fence is %s", f)
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
	err := u.setFence(fence.Fence{State: fence.Incoming, Epoch: epoch})
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
		source := cluster.Peer{Role: cluster.RoleBackend, ID: string(req.Source)}
		want, err := control.Call[control.Manifest](ctx, b.peers.client(req.Node, source), control.PathManifest,
			control.ManifestRequest{User: u.name, Epoch: req.Epoch, Frozen: req.Final})
		if err != nil {
			return control.PullProgress{}, err
		}
		p := sftp.Pull{
			Staging: b.disk.staging(u.name), Digests: b.digests.of(u.name).staged, Final: req.Final, Report: report, Room: b.roomFor,
			Dial: func(ctx context.Context) (*pkgsftp.Client, error) {
				return sftp.Dial(ctx, b.id, req.Node, req.Source, u.name, req.Epoch)
			},
		}
		done, err := p.Run(ctx, want)
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
func (b *Server) openTree(ctx context.Context, from cluster.Peer, name director.User, epoch director.Epoch) (string, error) {
	if err := b.mayRead(ctx, from, name, epoch); err != nil {
		return "", err
	}
	return b.disk.live(name), nil
}

// manifestCall is PathManifest.
func (b *Server) manifestCall(ctx context.Context, from cluster.Peer, req control.ManifestRequest) (control.Manifest, error) {
	return with(b, req.User, func(u *user) (control.Manifest, error) {
		if err := b.mayRead(ctx, from, u.name, req.Epoch); err != nil {
			return control.Manifest{}, err
		}
		f := u.fenceNow()
		if f.State != fence.Serving && f.Epoch != req.Epoch {
			// Behind the record for a moment after a rollback or a flip.
			if err := b.look(ctx, u); err != nil {
				return control.Manifest{}, err
			}
		}
		u.tree.Lock()
		defer u.tree.Unlock()
		f = u.fenceNow()
		frozen := f.State == fence.Frozen && f.Epoch == req.Epoch
		if !frozen && (req.Frozen || f.State != fence.Serving) {
			return control.Manifest{}, refuse(control.CodeFence, "fence is %s", f)
		}
		if frozen {
			return u.frozenManifest(ctx, f)
		}
		return b.digests.of(u.name).source.Scan(ctx, b.disk.live(u.name))
	})
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
		if err := b.look(ctx, u); err != nil {
			return control.ManifestSummary{}, err
		}
		rec, err := b.readRecord(ctx, u.name)
		if err != nil {
			return control.ManifestSummary{}, err
		}
		if rec == nil || rec.Home != b.cfg.ID || rec.State != director.Busy || rec.Epoch != req.Epoch {
			return control.ManifestSummary{}, refuse(control.CodeEpoch, "epoch %d does not fit the record %v", req.Epoch, rec)
		}
		if err := u.freezeAt(req.Epoch); err != nil {
			return control.ManifestSummary{}, err
		}
		u.tree.Lock()
		defer u.tree.Unlock()
		m, err := u.frozenManifest(ctx, fence.Fence{State: fence.Frozen, Epoch: req.Epoch})
		if err != nil {
			return control.ManifestSummary{}, err
		}
		sum := manifest.Summary(m)
		// By now who was to QUIT before the freeze has, and the others go on elsewhere.
		sum.Maildrop = b.maildrops.Holder(u.name)
		return sum, nil
	})
}

func (u *user) freezeAt(epoch director.Epoch) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	f := u.fence
	switch {
	case f.State == fence.Frozen && f.Epoch == epoch:
		return nil
	case (f.State == fence.Serving || f.State == fence.Frozen) && f.Epoch < epoch:
	default:
		return refuse(control.CodeFence, "fence is %s, the freeze is for epoch %d", f, epoch)
	}
	if f.State == fence.Serving {
		u.mend()
		if err := u.flush(); err != nil {
			return err
		}
		// Nothing of ours touches a frozen tree, not even a late close.
		if err := u.closeFor(leftMoving); err != nil {
			return err
		}
	}
	// A manifest of an earlier freeze is of an earlier tree.
	if err := os.RemoveAll(u.b.disk.manifest(u.name)); err != nil {
		return err
	}
	return u.setFence(fence.Fence{State: fence.Frozen, Epoch: epoch})
}

// frozenManifest gives the manifest of the frozen tree, made once and kept on
// the disk until the trash is purged: the source's half of the receipt. Called
// under tree; the fence keeps writers out.
func (u *user) frozenManifest(ctx context.Context, f fence.Fence) (control.Manifest, error) {
	p := u.b.disk.manifest(u.name)
	if m, err := readManifest(p); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return m, err
	}
	m, err := u.b.digests.of(u.name).source.Scan(ctx, u.b.disk.live(u.name))
	if err != nil {
		return m, err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return m, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fence != f {
		return m, refuse(control.CodeFence, "fence became %s meanwhile", u.fence)
	}
	if err := durable.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		return m, err
	}
	return m, durable.WriteFile(p, b, 0o600)
}

func readManifest(path string) (control.Manifest, error) {
	var m control.Manifest
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	return m, err
}

// seal is PathSeal (R5): staging is read again, must equal the source's
// manifest in every entry, is durable since the pull, and never changes after.
func (b *Server) seal(ctx context.Context, _ cluster.Peer, req control.SealRequest) (control.ManifestSummary, error) {
	return with(b, req.User, func(u *user) (control.ManifestSummary, error) {
		u.tree.Lock()
		defer u.tree.Unlock()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		f := u.beginPull(cancel)
		defer u.endPull()
		again := f.State == fence.Sealed && f.Epoch == req.Epoch && f.Digest == req.Digest
		if !again && (f.State != fence.Incoming || f.Epoch != req.Epoch) {
			return control.ManifestSummary{}, refuse(control.CodeFence, "fence is %s, the seal is for epoch %d", f, req.Epoch)
		}
		m, err := b.digests.of(u.name).staged.Scan(ctx, b.disk.staging(u.name))
		if err != nil {
			return control.ManifestSummary{}, err
		}
		sum := manifest.Summary(m)
		if sum.Digest != req.Digest {
			return sum, refuse(control.CodeDiffers, "staging is %s, the manifest %s", sum.Digest, req.Digest)
		}
		b.maildrops.Reserve(u.name, req.Maildrop)
		if again {
			return sum, nil
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.fence != f {
			return sum, refuse(control.CodeFence, "fence became %s meanwhile", u.fence)
		}
		return sum, u.setFence(fence.Fence{State: fence.Sealed, Epoch: req.Epoch, Digest: req.Digest})
	})
}
