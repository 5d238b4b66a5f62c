package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/manifest"
	"waypost/backend/sftp"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/durable"
)

// A move need not begin with nothing. Staging that was dropped when a move was put
// off is parked, and claimed by its next try; a user who comes back within the grace
// period finds his own tree in the trash. Either is only a start: the passes compare
// the digest of every file, and the seal all of them.

func (d disk) parkedRoot() string { return filepath.Join(d.root, "parked") }
func (d disk) parked(u director.User, e director.Epoch) string {
	return filepath.Join(d.parkedRoot(), fmt.Sprintf("%s@%d", u, e))
}

// park puts staging aside that a fence lets go of, if a move made it, and the disk
// has room. Called under tree and mu.
func (u *user) park(staging string) error {
	moved := u.fence.State == fence.Incoming || u.fence.Digest != ""
	if !moved || u.b.roomFor(0) != nil {
		return os.RemoveAll(staging)
	}
	to := u.b.disk.parked(u.name, u.fence.Epoch)
	there, err := exists(to)
	if err != nil {
		return err
	}
	if there {
		return os.RemoveAll(staging)
	}
	if err := claim(staging, to); err != nil {
		return err
	}
	now := time.Now()
	// Its age counts from here; one that is gone was not there.
	if err := os.Chtimes(to, now, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// stageSeeded is PathStage: the target gets ready, and begins with what it has.
func (b *Server) stageSeeded(ctx context.Context, from cluster.Peer, req control.MoveRequest) (control.FenceReply, error) {
	reply, err := b.stage(ctx, from, req)
	if err != nil || reply.State != string(fence.Incoming) {
		return reply, err
	}
	return with(b, req.User, func(u *user) (control.FenceReply, error) {
		if err := u.seed(ctx, req.Epoch); err != nil {
			// Without it everything is copied, no worse than for a new user.
			b.log.Warn("staging is not seeded", "user", u.name, "error", err)
		}
		return reply, ctx.Err()
	})
}

// seed fills staging that has nothing yet, once for each move.
func (u *user) seed(ctx context.Context, epoch director.Epoch) error {
	u.tree.Lock()
	defer u.tree.Unlock()
	if f := u.fenceNow(); f.State != fence.Incoming || f.Epoch != epoch {
		return nil
	}
	staging := u.b.disk.staging(u.name)
	entries, err := os.ReadDir(staging)
	if err != nil || len(entries) > 0 {
		return err
	}
	if done, err := u.unpark(staging); done || err != nil {
		return err
	}
	dir, err := u.ownTrash(ctx)
	if err != nil || dir == "" {
		return err
	}
	// Half a seed must not look like a whole one: what was linked before a crash is
	// removed with the folder, and linked again.
	half := filepath.Join(u.b.disk.parkedRoot(), purgePrefix+string(u.name))
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	begun := time.Now()
	n, err := linkTree(ctx, filepath.Join(dir, "tree"), half)
	if err != nil {
		return errors.Join(err, os.RemoveAll(half))
	}
	if err := replaceEmpty(half, staging); err != nil {
		return err
	}
	u.b.log.Info("staging begins with the tree in the trash", "user", u.name, "folder", filepath.Base(dir), "files", n, "took", time.Since(begun))
	return nil
}

// unpark claims what an earlier try of a move left.
func (u *user) unpark(staging string) (bool, error) {
	all, err := filepath.Glob(globEscape(filepath.Join(u.b.disk.parkedRoot(), string(u.name)+"@")) + "*")
	if err != nil {
		return false, err
	}
	var newest string
	var top director.Epoch
	for _, p := range all {
		if name, e, ok := trashName(filepath.Base(p)); ok && name == u.name && e >= top {
			newest, top = p, e
		}
	}
	if newest == "" {
		return false, nil
	}
	if err := sftp.RemoveHalves(newest); err != nil {
		return false, err
	}
	if err := replaceEmpty(newest, staging); err != nil {
		return false, err
	}
	u.b.log.Info("staging begins with what an earlier try copied", "user", u.name, "folder", filepath.Base(newest))
	return true, nil
}

// replaceEmpty renames a folder over an empty one.
func replaceEmpty(from, to string) error { return durable.Rename(from, to) }

// globEscape takes the meaning from characters that have one in patterns, and may be
// in the name of a user or a folder.
func globEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// ownTrash finds the newest tree that this very user left here, "" if there is none.
func (u *user) ownTrash(ctx context.Context) (string, error) {
	entries, err := os.ReadDir(u.b.disk.trashRoot())
	if err != nil {
		return "", err
	}
	var newest string
	var top director.Epoch
	for _, e := range entries {
		if name, epoch, ok := trashName(e.Name()); ok && name == u.name && epoch >= top {
			newest, top = filepath.Join(u.b.disk.trashRoot(), e.Name()), epoch
		}
	}
	if newest == "" {
		return "", nil
	}
	st, err := os.Stat(filepath.Join(newest, "manifest"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // let go by a deletion
	}
	if err != nil {
		return "", err
	}
	a, err := u.b.dir.Account(ctx, u.name)
	if err != nil || a.Value.Created.After(st.ModTime()) {
		return "", err // of whoever had the name before (R12)
	}
	return newest, nil
}

// linkTree makes to like from: messages, which never change under their names, share
// their files; all else is copied. It gives the number of files.
func linkTree(ctx context.Context, from, to string) (int, error) {
	n := 0
	var dirs []string
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		switch {
		case rel != "." && manifest.Skip(rel, e.IsDir()):
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case e.IsDir():
			dirs = append(dirs, dst)
			return os.Mkdir(dst, 0o700)
		case !e.Type().IsRegular():
			return nil
		}
		n++
		if manifest.IsMessage(rel) {
			return os.Link(path, dst)
		}
		return copyPlain(path, dst)
	})
	if err != nil {
		return n, fmt.Errorf("seed: %w", err)
	}
	for _, d := range dirs {
		if err := durable.SyncDir(d); err != nil {
			return n, fmt.Errorf("seed: %w", err)
		}
	}
	return n, nil
}

func copyPlain(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err == nil {
		err = dst.Sync()
	}
	return errors.Join(err, dst.Close())
}
