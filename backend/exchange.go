package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/manifest"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/durable"
	"waypost/internal/vfs"
)

// Restoring a user at the home that serves it: the director holds the user busy
// (Directory.Hold), the home freezes, exchanges the live tree for the restored one
// in one rename, and serves again when the record is active at the next epoch. So
// what the journal has of the old tree is never replayed into the new one (R2),
// and a director or home that dies leaves a busy user, which the home takes back
// (R7) with one tree or the other, each whole.

// swap is what the file of that name says: which folder is to become the live one.
type swap struct {
	Ino   uint64         `json:"ino"`
	Epoch director.Epoch `json:"epoch"` // of the freeze: names the trash
}

func (d disk) restoreSwap(u director.User) string { return filepath.Join(d.restoring(u), "swap") }

// restoreExchange is PathRestoreExchange.
func (b *Server) restoreExchange(ctx context.Context, from cluster.Peer, req control.RestoreExchangeRequest) (control.RestoreExchanged, error) {
	return with(b, req.User, func(u *user) (control.RestoreExchanged, error) {
		u.tree.Lock()
		defer u.tree.Unlock()
		if req.Epoch == 0 {
			// The long part, before the user is held.
			return control.RestoreExchanged{}, u.readyRestored(ctx, control.RestoreSealRequest{User: u.name, Digest: req.Digest, Taken: req.Taken})
		}
		rec, err := b.readRecord(ctx, u.name)
		if err != nil {
			return control.RestoreExchanged{}, err
		}
		if rec == nil || rec.Home != b.cfg.ID || rec.State != director.Busy || rec.Epoch != req.Epoch {
			return control.RestoreExchanged{}, refuse(control.CodeEpoch, "epoch %d does not fit the record %s", req.Epoch, recordText(rec))
		}
		ready, err := os.ReadFile(b.disk.restoreReady(u.name))
		if err != nil || strings.TrimSpace(string(ready)) != req.Digest {
			return control.RestoreExchanged{}, refuse(control.CodeDiffers, "what was put is not made ready: %v", err)
		}
		if err := u.freezeAt(req.Epoch); err != nil {
			return control.RestoreExchanged{}, err
		}
		did, err := u.exchange(ctx, req)
		b.log.Info("mailbox exchanged for a restored one", "user", u.name, "by", from.String(), "kept", did.Kept, "exact", req.Exact, "error", err)
		return did, err
	})
}

// exchange is called under tree, frozen.
func (u *user) exchange(ctx context.Context, req control.RestoreExchangeRequest) (control.RestoreExchanged, error) {
	var did control.RestoreExchanged
	disk := u.b.disk
	live, tree := disk.live(u.name), disk.restoringTree(u.name)
	if !req.Exact {
		kept, err := keepNewer(ctx, live, tree)
		if err != nil {
			return did, err
		}
		did.Kept = kept
	}
	var st unix.Stat_t
	if err := unix.Lstat(tree, &st); err != nil {
		return did, fmt.Errorf("%s: %w", tree, err)
	}
	mark, err := json.Marshal(swap{Ino: st.Ino, Epoch: req.Epoch})
	if err != nil {
		return did, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if want := (fence.Fence{State: fence.Frozen, Epoch: req.Epoch}); u.fence != want {
		return did, refuse(control.CodeFence, "fence became %s meanwhile", u.fence)
	}
	if err := durable.WriteFile(disk.restoreSwap(u.name), mark, 0o600); err != nil {
		return did, err
	}
	err = unix.Renameat2(unix.AT_FDCWD, tree, unix.AT_FDCWD, live, unix.RENAME_EXCHANGE)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) {
		err = refuse(control.CodeBad, "the file system of %s cannot exchange two folders: move the user away, delete it, and restore it", disk.root)
	}
	if err == nil {
		err = vfs.SyncRenamed(vfs.OS, tree, live)
	}
	if err != nil {
		return did, errors.Join(err, disk.settleExchange(u.name))
	}
	if err := disk.settleExchange(u.name); err != nil {
		// The user is served from the restored tree; the next start, or restore,
		// brings the old one to the trash.
		u.b.log.Error("the tree that was exchanged is not in the trash yet", "user", u.name, "error", err)
	}
	u.b.janitor.wake()
	return did, nil
}

// settleExchange ends an exchange that may have been broken off: if the folders
// have changed places the old tree goes to the trash, swept: what of it is to be
// kept is in the new one.
func (d disk) settleExchange(u director.User) error {
	b, err := os.ReadFile(d.restoreSwap(u))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var s swap
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Lstat(d.restoringTree(u), &st)
	switch {
	case errors.Is(err, fs.ErrNotExist): // it is in the trash already
	case err != nil:
		return err
	case st.Ino == s.Ino:
		return durable.Remove(d.restoreSwap(u)) // nothing was exchanged
	default:
		// Who exchanged them may not have come to make that last.
		if err := vfs.SyncRenamed(vfs.OS, d.restoringTree(u), d.live(u)); err != nil {
			return err
		}
		trash := d.trash(u, s.Epoch)
		if err := durable.MkdirAll(trash, 0o700); err != nil {
			return err
		}
		if err := durable.WriteFile(filepath.Join(trash, "swept"), nil, 0o600); err != nil {
			return err
		}
		if err := claim(d.restoringTree(u), filepath.Join(trash, "tree")); err != nil {
			return err
		}
	}
	return os.RemoveAll(d.restoring(u))
}

// keepNewer links into the restored tree the messages of the live one that it does
// not have, by their unique names: what came after the backup, or was copied since.
// They get UIDs when their folder is opened next, and the quota is counted anew.
func keepNewer(ctx context.Context, live, tree string) (int, error) {
	have := map[string]bool{}
	err := eachMessage(ctx, tree, func(rel string) error { have[unique(rel)] = true; return nil })
	if err != nil {
		return 0, err
	}
	kept, touched := 0, map[string]bool{}
	err = eachMessage(ctx, live, func(rel string) error {
		if have[unique(rel)] {
			return nil
		}
		to := filepath.Join(tree, rel)
		if err := makeFolder(filepath.Dir(filepath.Dir(to)), touched); err != nil {
			return err
		}
		if err := linkOrCopy(filepath.Join(live, rel), to); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		touched[filepath.Dir(to)] = true
		kept++
		return nil
	})
	if err != nil || kept == 0 {
		return 0, err
	}
	if err := ifThere(os.Remove(filepath.Join(tree, sourceName, "maildirsize"))); err != nil {
		return 0, err
	}
	touched[filepath.Join(tree, sourceName)] = true
	for dir := range touched {
		if err := durable.SyncDir(dir); err != nil {
			return 0, err
		}
	}
	return kept, nil
}

// makeFolder makes a folder of Maildir++ that came after the backup.
func makeFolder(dir string, touched map[string]bool) error {
	if there, err := exists(dir); there || err != nil {
		return err
	}
	for _, sub := range []string{"cur", "new", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	touched[dir] = true
	return durable.WriteFile(filepath.Join(dir, "maildirfolder"), nil, 0o600)
}

func unique(rel string) string {
	base, _, _ := strings.Cut(filepath.Base(rel), ":2,")
	return base
}

func eachMessage(ctx context.Context, root string, fn func(rel string) error) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		switch {
		case err != nil:
			return err
		case leftOut(rel, e.IsDir()) && e.IsDir():
			return fs.SkipDir
		case e.IsDir() || leftOut(rel, false) || !manifest.IsMessage(rel):
			return nil
		}
		return fn(rel)
	})
}
