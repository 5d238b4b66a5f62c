package backend

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"waypost/backend/backup/filing"
	"waypost/backend/control"
	"waypost/director"
	"waypost/internal/cluster"
)

// putRoomEvery is after how many bytes the disk's room is looked at again.
const putRoomEvery = 64 << 20

// restorePut is PathRestorePut.
func (b *Server) restorePut(w http.ResponseWriter, r *http.Request) {
	from, ok := cluster.PeerFrom(r.Context())
	if !ok || !slices.Contains([]cluster.Role{cluster.RoleAdmin, cluster.RoleDirector}, from.Role) || r.Method != http.MethodPost {
		control.WriteError(w, refuse(control.CodeForbidden, "%s may not call %s", from, r.URL.Path))
		return
	}
	rc := http.NewResponseController(w)
	files := control.NewFileReader(&rollingReader{r.Body, rc})
	head, _, err := files.Next()
	if err == nil {
		var reply control.RestorePutReply
		reply, err = with(b, director.User(head.Path), func(u *user) (control.RestorePutReply, error) {
			u.tree.Lock()
			defer u.tree.Unlock()
			if err := b.disk.settleExchange(u.name); err != nil {
				return control.RestorePutReply{}, err
			}
			// What is put from now on is not what was ready before.
			if err := os.RemoveAll(b.disk.restoreReady(u.name)); err != nil {
				return control.RestorePutReply{}, err
			}
			p := &putter{root: b.disk.restoringTree(u.name), room: b.roomFor}
			return p.run(r.Context(), files)
		})
		if err == nil {
			_ = rc.SetWriteDeadline(time.Now().Add(bulkSilence))
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(reply) // the caller is gone: it asks what there is
			return
		}
	}
	_ = rc.SetWriteDeadline(time.Now().Add(bulkSilence))
	control.WriteError(w, err)
}

type rollingReader struct {
	r  io.Reader
	rc *http.ResponseController
}

func (r *rollingReader) Read(p []byte) (int, error) {
	if err := r.rc.SetReadDeadline(time.Now().Add(bulkSilence)); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// putter writes a stream of files below root.
type putter struct {
	root string
	room func(bytes int64) error
	done control.RestorePutReply
}

func (p *putter) run(ctx context.Context, files *control.FileReader) (control.RestorePutReply, error) {
	w := filing.New(ctx, p.root, nil)
	err := p.each(w, files)
	if failed := w.Wait(); failed != nil {
		err = failed
	}
	if errors.Is(err, filing.ErrContents) {
		err = refuse(control.CodeDiffers, "%v", err)
	}
	return p.done, err
}

func (p *putter) each(w *filing.Writer, files *control.FileReader) error {
	unseen := int64(putRoomEvery)
	for {
		h, r, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		rel := strings.TrimSuffix(string(h.Path), "/")
		if !filepath.IsLocal(rel) || filepath.Clean(rel) != rel || leftOut(rel, h.Folder()) {
			return refuse(control.CodeBad, "path %q: not one of a mailbox", h.Path)
		}
		if unseen += h.Size; unseen >= putRoomEvery {
			if err := p.room(h.Size); err != nil {
				return err
			}
			unseen = 0
		}
		if h.Folder() {
			if err := os.MkdirAll(filepath.Join(p.root, rel), 0o700); err != nil {
				return err
			}
			continue
		}
		if err := w.Put(filing.File{Path: rel, Size: h.Size, MTime: h.MTime, Digest: h.Digest}, r); err != nil {
			return err
		}
		p.done.Files++
		p.done.Bytes += h.Size
	}
}
