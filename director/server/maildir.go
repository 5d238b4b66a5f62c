package server

import (
	"context"
	"fmt"
	"path/filepath"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
)

// checkMaildir checks what needs no look at the home's disk, and fills in the
// mode. m may be nil.
func checkMaildir(m *admin.Maildir, home director.BackendID) error {
	switch {
	case m == nil:
		return nil
	case home == "":
		return fmt.Errorf("maildir %s: say on which backend it lies, as the home: %w", m.Path, director.ErrInvalid)
	case !filepath.IsAbs(m.Path):
		return fmt.Errorf("maildir %q: want an absolute path: %w", m.Path, director.ErrInvalid)
	}
	if m.Mode == "" {
		m.Mode = control.AdoptCopy
	}
	if !m.Mode.Valid() {
		return fmt.Errorf("maildir %s: mode %q: want copy, link or move: %w", m.Path, m.Mode, director.ErrInvalid)
	}
	return nil
}

// takeOver has the home make the user's mailbox of a Maildir. It takes as long
// as it takes: the home says that it lives.
func (s *Server) takeOver(ctx context.Context, u director.User, prev *director.Record, home director.BackendID, node string, m admin.Maildir) error {
	req := control.AdoptRequest{User: u, Path: filepath.Clean(m.Path), Mode: m.Mode, POP3UIDL: m.POP3UIDL}
	if prev != nil {
		req.Epoch = prev.Epoch
	}
	_, err := s.nodes.client(backendPeer(home), node).Adopt(ctx, req, func(control.PullProgress) {})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("take over %s for user %s at %s: %w", m.Path, u, home, err)
	switch {
	case control.IsCode(err, control.CodeBad):
		return fmt.Errorf("%w: %w", director.ErrInvalid, err)
	case control.IsCode(err, control.CodeFence):
		return fmt.Errorf("%w: %w", director.ErrIllegal, err)
	}
	return err
}

// tookOver makes sure that a user who is there has the Maildir as mailbox, and
// ends its move. m may be nil.
func (s *Server) tookOver(ctx context.Context, u director.User, home director.BackendID, m *admin.Maildir) error {
	if m == nil {
		return nil
	}
	b, err := s.dir.Backend(ctx, home)
	if err != nil {
		return fmt.Errorf("home of %s: %w", u, err)
	}
	return s.takeOver(ctx, u, nil, home, b.Value.Node, *m)
}
