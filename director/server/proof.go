package server

import (
	"context"
	"fmt"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
)

// verifyMove has the home compare what it has with what the last move brought.
func (s *Server) verifyMove(ctx context.Context, c *call) (any, error) {
	u, err := c.pathUser()
	if err != nil {
		return nil, err
	}
	p, rec, err := s.dir.LastMove(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("verify the move of %s: %w", u, err)
	}
	home, err := s.dir.Backend(ctx, rec.Home)
	if err != nil {
		return nil, err
	}
	ctx, cancel := s.untilDrain(ctx)
	defer cancel()
	out := c.stream()
	req := control.VerifyRequest{User: u, Epoch: p.Epoch + 1, Digest: p.Receipt}
	err = s.nodes.client(backendPeer(rec.Home), home.Value.Node).Verify(ctx, req, func(l control.CheckLine) error {
		switch {
		case l.Finding != nil:
			return out.send(admin.VerifyLine{Finding: l.Finding}, true)
		case l.Verified != nil:
			return out.send(admin.VerifyLine{Verified: &admin.Verified{User: u, From: p.Source, To: p.Target, Verified: *l.Verified}}, true)
		}
		return nil
	})
	switch {
	case control.IsCode(err, control.CodeBad):
		err = fmt.Errorf("%w: %w", director.ErrNotFound, err)
	case control.IsCode(err, control.CodeDiffers), control.IsCode(err, control.CodeFence):
		err = fmt.Errorf("%w: %w", director.ErrConflict, err)
	}
	return nil, err
}

// undoMove plans the way back of the last move. It is an ordinary move; the backend
// that still has the tree in its trash begins with that.
func (s *Server) undoMove(ctx context.Context, c *call) (any, error) {
	u, err := c.pathUser()
	if err != nil {
		return nil, err
	}
	p, _, err := s.dir.LastMove(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("undo the move of %s: %w", u, err)
	}
	b, err := s.dir.Backend(ctx, p.Source)
	if err != nil {
		return nil, fmt.Errorf("undo the move of %s: %w", u, err)
	}
	if b.Value.State != director.BackendActive {
		return nil, fmt.Errorf("undo the move of %s: backend %s is %s and gets no users: first say waypost backend activate %s: %w", u, p.Source, b.Value.State, p.Source, director.ErrIllegal)
	}
	return s.planGroup(ctx, u, p.Source)
}
