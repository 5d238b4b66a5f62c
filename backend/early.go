package backend

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"

	"waypost/backend/control"
	"waypost/director"
	"waypost/internal/cluster"
)

// What a backend answers before it serves, and why it may never.

// onceReady lets calls wait until this backend is ready, but that for fences: by
// it a directory is restored for which this backend waits (R10).
func (b *Server) onceReady(calls http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != control.PathFences && !b.awaitReady(r.Context()) {
			control.WriteError(w, refuse(control.CodeUnavailable, "backend %s does not serve yet", b.cfg.ID))
			return
		}
		calls.ServeHTTP(w, r)
	})
}

func (b *Server) whenReady(h cluster.Handler) cluster.Handler {
	return func(ctx context.Context, c *tls.Conn, from cluster.Peer) {
		if b.awaitReady(ctx) {
			h(ctx, c, from)
		}
	}
}

func (b *Server) awaitReady(ctx context.Context) bool {
	select {
	case <-b.ready:
		return true
	case <-b.mux.Draining():
	case <-ctx.Done():
	}
	return false
}

// fencesCall is PathFences.
func (b *Server) fencesCall(_ context.Context, _ cluster.Peer, req control.FencesRequest) (control.FencesReply, error) {
	if req.Limit <= 0 || req.Limit > control.MaxFences {
		req.Limit = control.MaxFences
	}
	disk, err := b.disk.incarnation()
	if err != nil {
		return control.FencesReply{}, err
	}
	reply := control.FencesReply{Disk: disk, Fences: []control.UserFence{}}
	b.users.mu.Lock()
	defer b.users.mu.Unlock()
	names := make([]director.User, 0, len(b.users.fences))
	for u := range b.users.fences {
		if u > req.After {
			names = append(names, u)
		}
	}
	slices.Sort(names)
	if reply.More = len(names) > req.Limit; reply.More {
		names = names[:req.Limit]
	}
	for _, u := range names {
		f := b.users.fences[u]
		reply.Fences = append(reply.Fences, control.UserFence{User: u, State: string(f.State), Epoch: f.Epoch, Digest: f.Digest})
	}
	return reply, nil
}

// errLost is why a backend that was declared lost does not serve: its users may
// be elsewhere, from a backup, and nothing that it takes would reach them.
func (b *Server) errLost() error {
	return fmt.Errorf("backend %s was declared lost, and serves nobody: `waypost backend activate %s` takes that back; users who were given to others stay with them: %w", b.cfg.ID, b.cfg.ID, director.ErrIllegal)
}

// observeSelf sees this backend's own record change.
func (b *Server) observeSelf(value []byte) {
	if me, err := director.DecodeBackend(value); err == nil && me.State == director.BackendLost {
		b.sayLost()
	}
}

func (b *Server) sayLost() { b.saidLost.Do(func() { close(b.lost) }) }
