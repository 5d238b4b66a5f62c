package backend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/maildir"
	"waypost/backend/manifest"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/durable"
	"waypost/internal/vfs"
)

// janitor looks after trees that were let go: it compares each with the
// manifest the move was proven with, delivers what is extra to the new home,
// and purges it after the grace period, with a fresh read of the record, the new
// home serving, and the directory's receipt equal to that manifest. Litter in
// incoming is the stager's.
type janitor struct {
	b      *Server
	signal chan struct{}
	swept  time.Time // when litter was last looked for
	tidied time.Time // when receipts and parked staging were last looked through
}

func newJanitor(b *Server) *janitor { return &janitor{b: b, signal: make(chan struct{}, 1)} }

func (j *janitor) wake() {
	select {
	case j.signal <- struct{}{}:
	default:
	}
}

const janitorEvery = 10 * time.Minute

func (j *janitor) run(ctx context.Context) {
	t := time.NewTicker(min(janitorEvery, max(j.b.cfg.TrashGrace/4, time.Second)))
	defer t.Stop()
	for {
		if err := j.round(ctx); err != nil && ctx.Err() == nil {
			j.b.log.Error("trash", "error", err)
		}
		if time.Since(j.tidied) >= tidyEvery {
			j.tidied = time.Now()
			j.tidy(ctx)
		}
		if time.Since(j.swept) >= litterEvery {
			j.swept = time.Now()
			j.litter(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-j.signal:
		}
	}
}

// litterEvery is how often the live trees are looked through for files that
// killed deliveries left in tmp.
const litterEvery = 12 * time.Hour

// litter removes what is older than 36 hours, as Maildirs have it.
func (j *janitor) litter(ctx context.Context) {
	j.b.users.mu.Lock()
	var names []director.User
	for name, f := range j.b.users.fences {
		if f.State == fence.Serving {
			names = append(names, name)
		}
	}
	j.b.users.mu.Unlock()
	removed := 0
	for _, name := range names {
		n, err := j.removeLitter(name)
		if err != nil {
			j.b.log.Warn("litter", "user", name, "error", err)
		}
		removed += n
		pause(ctx, pace)
		if ctx.Err() != nil {
			return
		}
	}
	j.b.log.Info("litter removed", "mailboxes", len(names), "files", removed)
}

func (j *janitor) removeLitter(name director.User) (int, error) {
	u := j.b.use(name)
	defer j.b.release(u)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fence.State != fence.Serving {
		return 0, nil
	}
	return maildir.RemoveLitter(vfs.OS, j.b.disk.live(name), time.Now())
}

func (j *janitor) round(ctx context.Context) error {
	entries, err := os.ReadDir(j.b.disk.trashRoot())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), purgePrefix) {
			if err := os.RemoveAll(filepath.Join(j.b.disk.trashRoot(), e.Name())); err != nil {
				j.b.log.Warn("purge", "folder", e.Name(), "error", err)
			}
			continue
		}
		name, epoch, ok := trashName(e.Name())
		if !ok || ctx.Err() != nil {
			continue
		}
		dir := filepath.Join(j.b.disk.trashRoot(), e.Name())
		if err := j.one(ctx, dir, name, epoch); err != nil {
			j.b.log.Warn("trash is kept", "user", name, "epoch", epoch, "error", err)
		}
	}
	return nil
}

func trashName(s string) (director.User, director.Epoch, bool) {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return "", 0, false
	}
	u, err := director.ParseUser(s[:at])
	n, err2 := strconv.ParseUint(s[at+1:], 10, 64)
	return u, director.Epoch(n), err == nil && err2 == nil
}

// one moves a tree on: swept (nothing extra in it), then purged. epoch is the
// fence's when the tree was claimed. The directory is read only when there is
// something to do.
func (j *janitor) one(ctx context.Context, dir string, name director.User, epoch director.Epoch) error {
	if f := j.b.fenceOf(name); f.Epoch == epoch && f.State != fence.Gone {
		return nil // the claim is not finished yet
	}
	st, err := os.Stat(filepath.Join(dir, "swept"))
	switch {
	case err == nil && time.Since(st.ModTime()) < j.b.cfg.TrashGrace:
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	swept := err == nil
	v, err := j.b.dir.Location(ctx, name)
	if err != nil {
		return err
	}
	if swept {
		return j.purge(ctx, dir, name, v.Value)
	}
	if v.Value.State != director.Deleted {
		if err := j.sweep(ctx, dir, name, v.Value); err != nil {
			return err
		}
	}
	return durable.WriteFile(filepath.Join(dir, "swept"), nil, 0o600)
}

// sweep delivers messages that are in the tree and not in its manifest. There
// are none unless something wrote past the fence: a tool run by hand, say.
func (j *janitor) sweep(ctx context.Context, dir string, name director.User, rec director.Record) error {
	m, err := readManifest(filepath.Join(dir, "manifest"))
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	proven := make(map[control.TreePath]bool, len(m.Entries))
	for _, e := range m.Entries {
		proven[e.Path] = true
	}
	root := filepath.Join(dir, "tree")
	if again, err := j.anotherPerson(ctx, dir, name); again || err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if e.IsDir() || proven[control.TreePath(rel)] || !manifest.IsMessage(rel) || manifest.Skip(rel, false) {
			return nil
		}
		j.b.log.Error("a message was written past the fence; it is delivered to the new home", "user", name, "file", rel)
		j.b.metrics.alarms.Inc()
		return j.b.redeliver(ctx, path, rel, name, rec)
	})
}

// anotherPerson tells whether the account was made after the tree was let go:
// then nothing in it is for whoever has the name now (R12).
func (j *janitor) anotherPerson(ctx context.Context, dir string, name director.User) (bool, error) {
	st, err := os.Stat(dir)
	if err != nil {
		return false, err
	}
	a, err := j.b.dir.Account(ctx, name)
	if err != nil {
		return false, err
	}
	return a.Value.Created.After(st.ModTime()), nil
}

// purgePrefix marks what is being removed: a purge that is broken off must not
// leave half a tree that looks like a whole one.
const purgePrefix = ".purge-"

// purge removes a tree for good: only where the user is served, or deleted, and
// only with the proof that what is in it arrived.
func (j *janitor) purge(ctx context.Context, dir string, name director.User, rec director.Record) error {
	switch {
	case rec.State == director.Deleted:
	case rec.State != director.Active:
		return errors.New("the user is being moved")
	case rec.Home == j.b.cfg.ID:
		if f := j.b.fenceOf(name); f.State != fence.Serving || f.Epoch != rec.Epoch {
			return fmt.Errorf("this home does not serve: fence is %s", f)
		}
	default:
		if err := j.newHomeServes(ctx, name, rec); err != nil {
			return err
		}
	}
	if err := j.proven(ctx, dir, name, rec); err != nil {
		return err
	}
	doomed := filepath.Join(filepath.Dir(dir), purgePrefix+filepath.Base(dir))
	if err := durable.Rename(dir, doomed); err != nil {
		return err
	}
	if err := os.RemoveAll(doomed); err != nil {
		return err
	}
	j.b.log.Info("purged", "user", name, "folder", filepath.Base(dir))
	return nil
}

func (j *janitor) newHomeServes(ctx context.Context, name director.User, rec director.Record) error {
	home, err := j.b.dir.Backend(ctx, rec.Home)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c := j.b.peers.client(home.Value.Node, cluster.Peer{Role: cluster.RoleBackend, ID: string(rec.Home)})
	f, err := control.Call[control.FenceReply](ctx, c, control.PathLook, control.LookRequest{User: name})
	if err != nil {
		return err
	}
	if f.State != control.FenceServing || f.Epoch != rec.Epoch {
		return fmt.Errorf("the new home %s does not serve: fence is %s %d", rec.Home, f.State, f.Epoch)
	}
	return nil
}
