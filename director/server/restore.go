package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
)

// exchangeWait bounds the time that a user is held for an exchange: the home takes
// the user back by itself not much later (R7).
const exchangeWait = 30 * time.Second

// declareLost is the operator's word that a backend serves nobody any more. One
// that gossips is not believed to be lost: it would go on until it hears of it.
func (s *Server) declareLost(ctx context.Context, c *call) (any, error) {
	id, err := c.pathBackend()
	if err != nil {
		return nil, err
	}
	req, err := decode[admin.DeclareLost](c)
	if err != nil {
		return nil, err
	}
	if m, known := s.backendMember(id); known && m.Alive && !req.Force {
		return nil, fmt.Errorf("backend %s is alive: stop it first: %w", id, admin.ErrInUse)
	}
	err = s.dir.PutBackend(ctx, id, func(b *director.Backend, exists bool) error {
		switch {
		case !exists:
			return director.ErrNotFound
		case b.Kind != director.KindWaypost:
			return fmt.Errorf("backend %s is of kind %s and has no fences: %w", id, b.Kind, director.ErrIllegal)
		}
		b.State = director.BackendLost
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.readBackend(ctx, id)
}

// postRestored publishes a user whose tree was sealed at a backend (R5, R12).
func (s *Server) postRestored(ctx context.Context, c *call) (any, error) {
	u, err := c.pathUser()
	if err != nil {
		return nil, err
	}
	req, err := decode[admin.RestoredUser](c)
	if err != nil {
		return nil, err
	}
	c.object += " at " + string(req.To)
	if err := director.ValidBackendID(req.To); err != nil {
		return nil, err
	}
	var prev *director.Record
	loc, err := s.dir.Location(ctx, u)
	switch {
	case err == nil:
		prev = &loc.Value
	case !errors.Is(err, director.ErrNotFound):
		return nil, err
	}
	rec, err := s.restored(ctx, u, prev, req)
	if err != nil {
		return nil, err
	}
	// Who asks for it sees it adopted.
	if _, err := s.fence(ctx, u, rec.Home, rec.Epoch, control.FenceServing); err != nil {
		return nil, err
	}
	s.settle(ctx, u, rec)
	return s.readUser(ctx, u)
}

// restored makes the record name the backend that has the restored tree.
func (s *Server) restored(ctx context.Context, u director.User, prev *director.Record, req admin.RestoredUser) (director.Record, error) {
	switch {
	case prev != nil && prev.State == director.Active && prev.Home == req.To:
		return *prev, nil
	case prev != nil && prev.State != director.Deleted:
		if _, err := s.fence(ctx, u, req.To, prev.RestoreEpoch(), "sealed"); err != nil {
			return *prev, err
		}
		return s.dir.Reassign(ctx, u, *prev, req.To)
	case req.Account == nil:
		return director.Record{}, fmt.Errorf("user %s: there is no account: %w", u, director.ErrNotFound)
	}
	var at director.Epoch
	if prev != nil {
		at = prev.Epoch
	}
	if _, err := s.fence(ctx, u, req.To, at, "sealed"); err != nil {
		return director.Record{}, err
	}
	acct := *req.Account
	if err := acct.Validate(); err != nil {
		return director.Record{}, fmt.Errorf("user %s: %w", u, err)
	}
	if acct.Group != "" {
		leave, err := s.alone(ctx)
		if err != nil {
			return director.Record{}, err
		}
		defer leave()
		if _, err := s.placeInGroup(ctx, u, acct.Group, req.To); err != nil {
			return director.Record{}, err
		}
	}
	rec, err := director.Create(prev, req.To)
	if err != nil {
		return rec, err
	}
	s.creating.RLock()
	defer s.creating.RUnlock()
	return rec, s.dir.CreateUser(ctx, u, rec, acct)
}

// fence has a backend look, and demands what its fence then is.
func (s *Server) fence(ctx context.Context, u director.User, id director.BackendID, epoch director.Epoch, state string) (control.FenceReply, error) {
	b, err := s.dir.Backend(ctx, id)
	if err != nil {
		return control.FenceReply{}, fmt.Errorf("backend %s: %w", id, err)
	}
	if b.Value.Kind != director.KindWaypost {
		return control.FenceReply{}, fmt.Errorf("backend %s is of kind %s and has no fences: %w", id, b.Value.Kind, director.ErrIllegal)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.NodeTimeout)
	defer cancel()
	f, err := control.Call[control.FenceReply](ctx, s.nodes.client(backendPeer(id), b.Value.Node), control.PathLook, control.LookRequest{User: u})
	if err != nil {
		return f, fmt.Errorf("fence of %s at %s: %w", u, id, err)
	}
	if f.State != state || f.Epoch != epoch {
		return f, fmt.Errorf("fence of %s at %s is %s %d, not %s %d: restore it there first: %w", u, id, f.State, f.Epoch, state, epoch, director.ErrIllegal)
	}
	return f, nil
}

// exchangeUser holds the user, has the home exchange the trees, and lets go.
// Whatever fails, the home takes the user back, with one tree or the other.
func (s *Server) exchangeUser(ctx context.Context, c *call) (any, error) {
	u, err := c.pathUser()
	if err != nil {
		return nil, err
	}
	req, err := decode[admin.ExchangeUser](c)
	if err != nil {
		return nil, err
	}
	loc, err := s.dir.Location(ctx, u)
	if err != nil {
		return nil, err
	}
	home, err := s.dir.Backend(ctx, loc.Value.Home)
	if err != nil {
		return nil, err
	}
	peer, err := s.anotherBackend(loc.Value.Home)
	if err != nil {
		return nil, err
	}
	busy, err := s.dir.Hold(ctx, u, loc.Value, peer)
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, exchangeWait)
	defer cancel()
	did, err := control.Call[control.RestoreExchanged](within, s.nodes.client(backendPeer(loc.Value.Home), home.Value.Node), control.PathRestoreExchange,
		control.RestoreExchangeRequest{User: u, Epoch: busy.Epoch, Digest: req.Digest, Taken: req.Taken, Exact: req.Exact})
	// Also when the caller is gone.
	release, end := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.NodeTimeout)
	defer end()
	back, rerr := s.dir.Rollback(release, u, busy)
	if errors.Is(rerr, director.ErrConflict) {
		loc, rerr = s.dir.Location(release, u) // the home was faster
		back = loc.Value
	}
	if err != nil || rerr != nil {
		return nil, fmt.Errorf("exchange the mailbox of %s: %w", u, errors.Join(err, rerr))
	}
	if _, err := s.fence(release, u, back.Home, back.Epoch, control.FenceServing); err != nil {
		return nil, err
	}
	return admin.ExchangedUser{User: u, Home: back.Home, Epoch: back.Epoch, Kept: did.Kept}, nil
}

// anotherBackend is one that a record may name beside the home: a busy record has a
// peer. It has no part in an exchange.
func (s *Server) anotherBackend(home director.BackendID) (director.BackendID, error) {
	var ids []director.BackendID
	for id, b := range s.cache.Backends() {
		if id != home && b.Kind == director.KindWaypost {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return "", fmt.Errorf("%s is the only backend, and an exchange needs a second one in the directory: %w", home, director.ErrIllegal)
	}
	return slices.Min(ids), nil
}
