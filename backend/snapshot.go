package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/manifest"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/telemetry"
)

// A backup reads a snapshot: a folder that shares the files of messages with the
// live tree (they never change under one name) and has copies of all else as it
// was at one moment, when the user's lock was held and nothing was in the journal
// only. It lives as long as the request that asked for it.

// maxSnapshots bounds those that are open at once.
const maxSnapshots = 32

// snapshots are those that somebody holds.
type snapshots struct {
	root string
	mu   sync.Mutex
	open map[string]bool // by ID
}

func (s *snapshots) begin() (id, dir string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= maxSnapshots {
		return "", "", refuse(control.CodeUnavailable, "%d snapshots are open already", len(s.open))
	}
	id = telemetry.NewID()
	dir = filepath.Join(s.root, id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", "", err
	}
	s.open[id] = true
	return id, dir, nil
}

func (s *snapshots) end(id string) error {
	s.mu.Lock()
	delete(s.open, id)
	s.mu.Unlock()
	return os.RemoveAll(filepath.Join(s.root, id))
}

func (s *snapshots) find(id string) (dir string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return filepath.Join(s.root, id), s.open[id]
}

func (d disk) snapshots() string { return filepath.Join(d.root, "snapshots") }

// backupRoutes adds the calls of backups, restores and of a restored directory.
func (b *Server) backupRoutes(calls *http.ServeMux) {
	const admin, dir = cluster.RoleAdmin, cluster.RoleDirector
	calls.Handle(control.PathFences, control.Handle(b.fencesCall, admin, dir))
	calls.HandleFunc(control.PathSnapshot, b.snapshotCall)
	calls.HandleFunc(control.PathSnapshotRead, b.snapshotRead)
	calls.Handle(control.PathRestoreHave, control.Handle(b.restoreHave, admin, dir))
	calls.HandleFunc(control.PathRestorePut, b.restorePut)
	calls.Handle(control.PathRestoreSeal, control.Handle(b.restoreSeal, admin, dir))
	calls.Handle(control.PathRestoreExchange, control.Handle(b.restoreExchange, admin, dir))
}

// snapshotCall is PathSnapshot.
func (b *Server) snapshotCall(w http.ResponseWriter, r *http.Request) {
	from, req, err := control.Decode[control.SnapshotRequest](r, cluster.RoleAdmin, cluster.RoleDirector)
	var id, dir string
	if err == nil {
		id, dir, err = b.snapshots.begin()
	}
	if err != nil {
		control.WriteError(w, err)
		return
	}
	ctx, cancel := (&checker{b: b}).whileServing(r.Context())
	defer cancel()
	out := control.NewLineWriter(w)
	defer out.Close()
	head, err := with(b, req.User, func(u *user) (control.SnapshotHead, error) { return b.takeSnapshot(ctx, u, dir) })
	if err == nil {
		head.ID = id
		b.log.Info("snapshot", "user", head.User, "by", from.String(), "epoch", head.Epoch)
		err = sendSnapshot(ctx, out, head, dir)
	}
	if err != nil {
		_ = out.Send(control.SnapshotLine{Error: control.AsError(err)}, true) // the caller is gone, or reads it
	} else {
		<-ctx.Done()
	}
	if err := b.snapshots.end(id); err != nil {
		b.log.Error("snapshot not removed", "folder", dir, "error", err)
	}
}

func sendSnapshot(ctx context.Context, out *control.LineWriter, head control.SnapshotHead, dir string) error {
	list, err := listTree(ctx, dir, func(rel string) bool { return !manifest.IsMessage(rel) })
	if err != nil {
		return err
	}
	if err := out.Send(control.SnapshotLine{Head: &head}, false); err != nil {
		return err
	}
	for i := range list {
		if err := out.Send(control.SnapshotLine{Entry: &list[i]}, false); err != nil {
			return err
		}
	}
	return out.Send(control.SnapshotLine{Complete: true}, true)
}

// takeSnapshot fills dir with what the user has. Messages are linked while the
// user works; under the lock only what has changed since is.
func (b *Server) takeSnapshot(ctx context.Context, u *user, dir string) (control.SnapshotHead, error) {
	head := control.SnapshotHead{User: u.name, Backend: b.cfg.ID}
	if err := b.look(ctx, u); err != nil {
		return head, err
	}
	if f := u.fenceNow(); f.State != fence.Serving {
		return head, refuse(control.CodeFence, "user %s is not served here: fence is %s", u.name, f)
	}
	l := &linker{from: b.disk.live(u.name), to: dir, have: make(map[string]bool)}
	if err := l.pass(ctx, false); err != nil {
		return head, fmt.Errorf("snapshot of %s: %w", u.name, err)
	}
	f, err := u.still(func() error {
		head.Taken = time.Now().UTC()
		return l.pass(ctx, true)
	})
	if err != nil {
		return head, fmt.Errorf("snapshot of %s: %w", u.name, err)
	}
	head.Epoch = f.Epoch
	rec, err := b.readRecord(ctx, u.name)
	if err != nil {
		return head, err
	}
	if rec == nil || rec.Home != b.cfg.ID || rec.State == director.Deleted {
		return head, refuse(control.CodeFence, "user %s is not at home here any more: %s", u.name, recordText(rec))
	}
	acct, err := b.dir.Account(ctx, u.name)
	head.Account = acct.Value
	return head, err
}

// still runs do while nobody writes, and nothing is in the journal only.
func (u *user) still(do func() error) (fence.Fence, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fence.State != fence.Serving || u.alarm != "" {
		return u.fence, refuse(control.CodeUnavailable, "user %s is not served any more: fence is %s %s", u.name, u.fence, u.alarm)
	}
	u.mend()
	if err := u.flush(); err != nil {
		return u.fence, err
	}
	return u.fence, do()
}

// snapshotRead is PathSnapshotRead.
func (b *Server) snapshotRead(w http.ResponseWriter, r *http.Request) {
	_, req, err := control.Decode[control.SnapshotReadRequest](r, cluster.RoleAdmin, cluster.RoleDirector)
	var root *os.Root
	if err == nil {
		dir, ok := b.snapshots.find(req.ID)
		if !ok {
			err = refuse(control.CodeFence, "there is no snapshot %q any more", req.ID)
		} else {
			root, err = os.OpenRoot(dir)
		}
	}
	if err != nil {
		control.WriteError(w, err)
		return
	}
	defer root.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(http.StatusOK)
	out := &rollingWriter{w, http.NewResponseController(w)}
	for _, p := range req.Paths {
		var begun bool
		if begun, err = sendFile(out, root, p); begun && err != nil {
			return // in the middle of a file: the stream breaks off
		}
		if err != nil {
			break
		}
	}
	end := control.FileHead{End: err == nil}
	if err != nil {
		end.Error = control.AsError(err)
	}
	_ = control.WriteHead(out, end) // the caller is gone, or reads it
}

// sendFile sends one file; begun tells whether its head is on the way.
func sendFile(w io.Writer, root *os.Root, p control.TreePath) (begun bool, err error) {
	f, err := root.Open(string(p))
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() {
		return false, refuse(control.CodeBad, "%q is no file", p)
	}
	h := control.FileHead{Path: p, Size: info.Size(), MTime: info.ModTime().Unix()}
	if err := control.WriteHead(w, h); err != nil {
		return true, err
	}
	n, err := io.Copy(w, io.LimitReader(f, h.Size))
	if err == nil && n < h.Size {
		err = fmt.Errorf("%q became shorter", p)
	}
	return true, err
}

// rollingWriter moves the deadline at each write: the listener bounds whole
// answers, and this one takes longer.
type rollingWriter struct {
	w  io.Writer
	rc *http.ResponseController
}

// bulkSilence is how long the other side of a bulk transfer may be still.
const bulkSilence = 2 * time.Minute

func (r *rollingWriter) Write(p []byte) (int, error) {
	if err := r.rc.SetWriteDeadline(time.Now().Add(bulkSilence)); err != nil {
		return 0, errors.Join(errors.New("the caller is gone"), err)
	}
	return r.w.Write(p)
}
