package backend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"waypost/backend/backup/safe"
	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/maildir"
	"waypost/backend/manifest"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/durable"
	"waypost/internal/vfs"
)

// Restoring a user's tree. What lies on the disk says how far it is:
//
//	restoring/xx/USER/tree    files that were put; each is whole and durable
//	restoring/xx/USER/ready   tree equals the manifest whose digest this file has, and
//	                          was made safe to be served (package safe)
//	restoring/xx/USER/swap    tree is being exchanged for the live one (exchange.go)
//
// A sealed tree is staging like any other: it is adopted when the record says so.

func (d disk) restoring(u director.User) string     { return d.in("restoring", u) }
func (d disk) restoringTree(u director.User) string { return filepath.Join(d.restoring(u), "tree") }
func (d disk) restoreReady(u director.User) string  { return filepath.Join(d.restoring(u), "ready") }

// restoreAge is how long what was put is kept for a restore to go on.
const restoreAge = 7 * 24 * time.Hour

// clearRestores runs before anything is served: snapshots are nobody's, an
// exchange is brought to its end, and a restore that nobody went on with goes.
func (b *Server) clearRestores() error {
	left, err := os.ReadDir(b.disk.snapshots())
	for _, e := range left {
		err = errors.Join(err, os.RemoveAll(filepath.Join(b.disk.snapshots(), e.Name())))
	}
	if err != nil {
		return fmt.Errorf("snapshots: %w", err)
	}
	found, err := filepath.Glob(filepath.Join(b.disk.root, "restoring", "??", "*"))
	if err != nil {
		return err
	}
	for _, dir := range found {
		u, err := director.ParseUser(filepath.Base(dir))
		if err != nil || dir != b.disk.restoring(u) {
			continue
		}
		if err := b.disk.settleExchange(u); err != nil {
			return fmt.Errorf("exchange of %s: %w", u, err)
		}
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > restoreAge {
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("restore of %s: %w", u, err)
			}
			b.log.Info("a restore that was broken off is given up", "user", u)
		}
	}
	return nil
}

// restoreHave is PathRestoreHave.
func (b *Server) restoreHave(ctx context.Context, _ cluster.Peer, req control.RestoreRequest) (control.RestoreHave, error) {
	return with(b, req.User, func(u *user) (control.RestoreHave, error) {
		u.tree.Lock()
		defer u.tree.Unlock()
		if err := b.disk.settleExchange(u.name); err != nil {
			return control.RestoreHave{}, err
		}
		if req.Fresh {
			return control.RestoreHave{Files: []control.ManifestEntry{}}, os.RemoveAll(b.disk.restoring(u.name))
		}
		list, err := listTree(ctx, b.disk.restoringTree(u.name), noDigests)
		return control.RestoreHave{Files: list}, ifThere(err)
	})
}

// restoreSeal is PathRestoreSeal.
func (b *Server) restoreSeal(ctx context.Context, from cluster.Peer, req control.RestoreSealRequest) (control.FenceReply, error) {
	return with(b, req.User, func(u *user) (control.FenceReply, error) {
		if err := b.look(ctx, u); err != nil {
			return control.FenceReply{}, err
		}
		rec, err := b.readRecord(ctx, u.name)
		if err != nil {
			return control.FenceReply{}, err
		}
		at, err := b.restoreEpoch(ctx, rec)
		if err != nil {
			return control.FenceReply{}, err
		}
		u.tree.Lock()
		defer u.tree.Unlock()
		reply, err := u.sealRestored(ctx, req, at)
		b.log.Info("restore sealed", "user", u.name, "by", from.String(), "epoch", at, "empty", req.Empty, "error", err)
		return reply, err
	})
}

// restoreEpoch says at what epoch a restored tree is sealed, so that R4 adopts it
// by the record that names this home, and drops it by any other.
func (b *Server) restoreEpoch(ctx context.Context, rec *director.Record) (director.Epoch, error) {
	switch {
	case rec == nil:
		return 0, nil
	case rec.State == director.Deleted:
		return rec.Epoch, nil // as a new user's (R12)
	case rec.Home == b.cfg.ID && rec.State == director.Active:
		// The record is there already, and what it names is not: a disk that was
		// rolled back or begun anew. sealRestored sees to it that there is none.
		return rec.Epoch - 1, nil
	}
	lost, err := b.dir.IsLost(ctx, rec.Home)
	if err != nil {
		return 0, err
	}
	if !lost || rec.Home == b.cfg.ID {
		return 0, refuse(control.CodeFence, "the user is %s at %s, which is not lost", rec.State, rec.Home)
	}
	return rec.RestoreEpoch(), nil
}

// sealRestored is called under tree.
func (u *user) sealRestored(ctx context.Context, req control.RestoreSealRequest, at director.Epoch) (control.FenceReply, error) {
	f := u.fenceNow()
	reply := func() control.FenceReply {
		n := u.fenceNow()
		return control.FenceReply{State: string(n.State), Epoch: n.Epoch}
	}
	switch {
	case f.State == fence.Sealed && f.Epoch == at && f.Digest == req.Digest:
		return reply(), nil
	case f.State == fence.Serving || f.State == fence.Frozen:
		return reply(), refuse(control.CodeFence, "the user has a mailbox here: fence is %s", f)
	case f.State == fence.Sealed || f.State == fence.Unreadable, f.Epoch > at:
		return reply(), refuse(control.CodeFence, "fence is %s, the restore is for epoch %d", f, at)
	}
	disk := u.b.disk
	if live, err := exists(disk.live(u.name)); err != nil || live {
		return reply(), refuse(control.CodeFence, "there is a tree without a fence at %s (%v): move it away first", disk.live(u.name), err)
	}
	if err := u.readyRestored(ctx, req); err != nil {
		return reply(), err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	now := control.FenceReply{State: string(u.fence.State), Epoch: u.fence.Epoch}
	if u.fence != f {
		return now, refuse(control.CodeFence, "fence became %s meanwhile", u.fence)
	}
	there, err := exists(disk.restoringTree(u.name))
	if err == nil && !there {
		// An earlier call that was broken off made it staging. Others may have made use of that
		// since: a move goes on from what it finds there.
		err = os.RemoveAll(disk.restoring(u.name))
		return now, errors.Join(refuse(control.CodeDiffers, "sealing what was put was broken off: it is to be put again, from the beginning"), err)
	}
	// Without a fence, or with one that is incoming, staging is nobody's.
	if err == nil {
		err = os.RemoveAll(disk.staging(u.name))
	}
	if err == nil {
		err = claim(disk.restoringTree(u.name), disk.staging(u.name))
	}
	if err == nil {
		err = u.setFence(fence.Fence{State: fence.Sealed, Epoch: at, Digest: req.Digest})
	}
	if err == nil {
		err = os.RemoveAll(disk.restoring(u.name))
	}
	return control.FenceReply{State: string(u.fence.State), Epoch: u.fence.Epoch}, err
}

// readyRestored compares what was put with the manifest, makes it safe, and makes
// all of it durable. Called under tree; done once, it need not be done again.
func (u *user) readyRestored(ctx context.Context, req control.RestoreSealRequest) error {
	disk := u.b.disk
	tree, ready := disk.restoringTree(u.name), disk.restoreReady(u.name)
	if err := disk.settleExchange(u.name); err != nil {
		return err
	}
	was, err := os.ReadFile(ready)
	if err == nil && strings.TrimSpace(string(was)) == req.Digest {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if req.Empty {
		if err := os.RemoveAll(tree); err != nil {
			return err
		}
		if err := durable.MkdirAll(filepath.Dir(tree), 0o700); err != nil {
			return err
		}
		if err := maildir.Create(vfs.OS, tree); err != nil {
			return err
		}
	} else {
		list, err := listTree(ctx, tree, noDigests)
		if err := ifThere(err); err != nil {
			return err
		}
		if got := manifest.Summary(control.Manifest{Entries: list}).Digest; got != req.Digest {
			return refuse(control.CodeDiffers, "what was put is %s, the manifest %s", got, req.Digest)
		}
		// From here on it is no longer as it was put: broken off, it is put anew.
		folders, err := safe.Make(vfs.OS, tree, req.Taken, time.Now())
		if err != nil {
			return err
		}
		u.b.log.Info("restored tree made safe", "user", u.name, "folders", len(folders), "taken", req.Taken)
	}
	if err := syncFolders(tree); err != nil {
		return err
	}
	return durable.WriteFile(ready, []byte(req.Digest+"\n"), 0o600)
}
