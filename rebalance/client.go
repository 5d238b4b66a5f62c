package rebalance

import (
	"context"

	"waypost/backend/control"
	"waypost/director"
	"waypost/internal/cluster"
)

// dialRecord reaches a backend at the address in its record.
func (s *Server) dialRecord(ctx context.Context, id director.BackendID) (Backend, string, error) {
	v, err := s.dir.Backend(ctx, id)
	if err != nil {
		return nil, "", err
	}
	node := v.Value.Node
	s.mu.Lock()
	defer s.mu.Unlock()
	key := string(id) + " " + node
	c := s.clients[key]
	if c == nil {
		c = &client{control.NewClient(s.id, node, cluster.Peer{Role: cluster.RoleBackend, ID: string(id)})}
		s.clients[key] = c
	}
	return c, node, nil
}

// client makes control.Client a Backend.
type client struct{ *control.Client }

func (c *client) Look(ctx context.Context, req control.LookRequest) (control.FenceReply, error) {
	return control.Call[control.FenceReply](ctx, c.Client, control.PathLook, req)
}

func (c *client) Stage(ctx context.Context, req control.MoveRequest) (control.FenceReply, error) {
	return control.Call[control.FenceReply](ctx, c.Client, control.PathStage, req)
}

func (c *client) Freeze(ctx context.Context, req control.MoveRequest) (control.ManifestSummary, error) {
	return control.Call[control.ManifestSummary](ctx, c.Client, control.PathFreeze, req)
}

func (c *client) Seal(ctx context.Context, req control.SealRequest) (control.ManifestSummary, error) {
	return control.Call[control.ManifestSummary](ctx, c.Client, control.PathSeal, req)
}

// Load implements Watched.
func (c *client) Load(ctx context.Context) (control.LoadReply, error) {
	return control.Call[control.LoadReply](ctx, c.Client, control.PathLoad, control.LoadRequest{})
}

// Pace implements Watched.
func (c *client) Pace(ctx context.Context, req control.PaceRequest) error {
	_, err := control.Call[control.PaceReply](ctx, c.Client, control.PathPace, req)
	return err
}

// Sending implements Listening.
func (c *client) Sending(ctx context.Context, u director.User) (control.SendingReply, error) {
	return control.Call[control.SendingReply](ctx, c.Client, control.PathSending, control.UserRequest{User: u})
}
