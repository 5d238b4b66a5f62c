package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"waypost/director"
	"waypost/director/admin"
	"waypost/director/member"
	"waypost/internal/cluster"
)

// maxWeight keeps weights sane; 100 is usual.
const maxWeight = 10_000

func (s *Server) backendMember(id director.BackendID) (member.Member, bool) {
	return s.members.Member(cluster.RoleBackend, string(id))
}

// told is a member's load, nil while it has told none: a backend that starts
// joins the membership before it knows its disk, with a load of zeros.
func told(m member.Member) *member.Load {
	if !m.Alive || m.Load == nil || *m.Load == (member.Load{}) {
		return nil
	}
	return m.Load
}

func (s *Server) listBackends(context.Context, *call) (any, error) {
	if err := s.cache.Ready(); err != nil {
		return nil, err
	}
	return s.backendViews(), nil
}

// backendViews are all backends by id, from memory.
func (s *Server) backendViews() []admin.Backend {
	t, _ := s.census.count()
	views := []admin.Backend{}
	for id, b := range s.cache.Backends() {
		views = append(views, s.backendView(id, b, t.homes[id]))
	}
	slices.SortFunc(views, func(a, b admin.Backend) int { return cmp.Compare(a.ID, b.ID) })
	return views
}

func (s *Server) backendView(id director.BackendID, b director.Backend, users int) admin.Backend {
	v := admin.Backend{ID: id, Kind: b.Kind, State: b.State, Weight: b.Weight, Users: users, Node: b.Node, Dovecot: b.Dovecot}
	if b.CapacityBytes > 0 {
		v.CapacityBytes = &b.CapacityBytes
	}
	if b.Kind != director.KindWaypost {
		return v
	}
	m, _ := s.backendMember(id)
	v.Alive = &m.Alive
	load := told(m)
	if load == nil {
		return v
	}
	v.UsedBytes, v.Sessions = &load.UsedBytes, &load.Sessions
	if v.CapacityBytes == nil {
		v.CapacityBytes = &load.CapacityBytes
	}
	free := max(0, *v.CapacityBytes-*v.UsedBytes)
	v.FreeBytes = &free
	return v
}

// readBackend is a backend as the store has it now.
func (s *Server) readBackend(ctx context.Context, id director.BackendID) (any, error) {
	b, err := s.dir.Backend(ctx, id)
	if err != nil {
		return nil, err
	}
	t, _ := s.census.count()
	return s.backendView(id, b.Value, t.homes[id]), nil
}

// pathBackend reads {id}.
func (c *call) pathBackend() (director.BackendID, error) {
	c.object = c.r.PathValue("id")
	id := director.BackendID(c.object)
	return id, director.ValidBackendID(id)
}

func (s *Server) putBackend(ctx context.Context, c *call) (any, error) {
	id, err := c.pathBackend()
	if err != nil {
		return nil, err
	}
	req, err := decode[admin.PutBackend](c)
	if err != nil {
		return nil, err
	}
	if req.Weight == 0 {
		req.Weight = 100
	}
	if err := checkBackend(req); err != nil {
		return nil, fmt.Errorf("backend %s: %w", id, err)
	}
	err = s.dir.PutBackend(ctx, id, func(b *director.Backend, exists bool) error {
		switch {
		case exists && b.Kind != req.Kind:
			return fmt.Errorf("backend %s is of kind %s already: %w", id, b.Kind, director.ErrIllegal)
		case !exists && req.Kind != director.KindDovecot:
			return fmt.Errorf("a backend of kind %s adds itself when it first starts: %w", req.Kind, director.ErrIllegal)
		case !exists:
			*b = director.Backend{Kind: req.Kind, State: director.BackendActive}
		}
		b.Weight, b.CapacityBytes, b.Dovecot = req.Weight, req.CapacityBytes, req.Dovecot
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.readBackend(ctx, id)
}

func checkBackend(req admin.PutBackend) error {
	if err := checkShare(req.Weight, req.CapacityBytes); err != nil {
		return err
	}
	switch req.Kind {
	case director.KindWaypost:
		if req.Dovecot != nil {
			return fmt.Errorf("dovecot settings belong to the kind dovecot: %w", director.ErrInvalid)
		}
		return nil
	case director.KindDovecot:
		return checkDovecot(req.Dovecot)
	}
	return fmt.Errorf("kind %q: want %s or %s: %w", req.Kind, director.KindWaypost, director.KindDovecot, director.ErrInvalid)
}

func checkShare(weight int, capacity int64) error {
	if weight < 0 || weight > maxWeight || capacity < 0 {
		return fmt.Errorf("weight %d, capacity_bytes %d: want 0 to %d, and not below 0: %w", weight, capacity, maxWeight, director.ErrInvalid)
	}
	return nil
}

func checkDovecot(d *director.Dovecot) error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("dovecot: %s: %w", fmt.Sprintf(format, a...), director.ErrInvalid)
	}
	switch {
	case d == nil:
		return bad("say its addresses")
	case d.LMTP == "":
		return bad("lmtp is missing: mail is delivered there")
	case d.IMAP == "" && d.POP3 == "":
		return bad("imap and pop3 are both missing: nobody could log in")
	case d.TLS != "none" && d.TLS != "starttls" && d.TLS != "tls":
		return bad("tls is %q: want none, starttls or tls", d.TLS)
	case (d.MasterUser == "") != (d.MasterPasswordFile == ""):
		return bad("master_user and master_password_file belong together")
	}
	for name, addr := range map[string]string{"imap": d.IMAP, "pop3": d.POP3, "lmtp": d.LMTP} {
		if _, _, err := net.SplitHostPort(addr); addr != "" && err != nil {
			return bad("%s is %q: want host:port", name, addr)
		}
	}
	return nil
}

func (s *Server) patchBackend(ctx context.Context, c *call) (any, error) {
	id, err := c.pathBackend()
	if err != nil {
		return nil, err
	}
	req, err := decode[admin.UpdateBackend](c)
	if err != nil {
		return nil, err
	}
	err = s.dir.PutBackend(ctx, id, func(b *director.Backend, exists bool) error {
		if !exists {
			return director.ErrNotFound
		}
		set(&b.State, req.State)
		set(&b.Weight, req.Weight)
		set(&b.CapacityBytes, req.CapacityBytes)
		switch b.State {
		case director.BackendActive, director.BackendDraining, director.BackendOffline:
			return checkShare(b.Weight, b.CapacityBytes)
		}
		return fmt.Errorf("state %q: want %s, %s or %s: %w", b.State,
			director.BackendActive, director.BackendDraining, director.BackendOffline, director.ErrInvalid)
	})
	if err != nil {
		return nil, err
	}
	if req.State != nil {
		c.object += " " + string(*req.State)
	}
	return s.readBackend(ctx, id)
}

// removeBackend proves with the store that nobody lives there. The backend must
// have been drained before, so that no director places anybody meanwhile.
func (s *Server) removeBackend(ctx context.Context, c *call) (any, error) {
	id, err := c.pathBackend()
	if err != nil {
		return nil, err
	}
	s.creating.Lock()
	defer s.creating.Unlock()
	b, err := s.dir.Backend(ctx, id)
	if err != nil {
		return nil, err
	}
	if b.Value.State == director.BackendActive {
		return nil, fmt.Errorf("backend %s is active: drain it first: %w", id, admin.ErrInUse)
	}
	users, err := s.countUsers(ctx, func(_ director.User, r director.Record) bool { return r.Home == id || r.Peer == id })
	if err != nil {
		return nil, fmt.Errorf("remove backend %s: %w", id, err)
	}
	if users > 0 {
		return nil, fmt.Errorf("backend %s is the home of %d users: move them first: %w", id, users, admin.ErrInUse)
	}
	moves, err := s.readMoves(ctx, func(m director.Move) bool { return m.Source == id || m.Target == id })
	if err != nil {
		return nil, fmt.Errorf("remove backend %s: %w", id, err)
	}
	if len(moves) > 0 {
		return nil, fmt.Errorf("backend %s has %d moves on their way: %w", id, len(moves), admin.ErrInUse)
	}
	if err := s.dropBackend(ctx, id, b.Rev); err != nil {
		return nil, fmt.Errorf("remove backend %s: %w", id, err)
	}
	return admin.Done{Done: true}, nil
}

// dropBackend removes the record that was read, and the incarnation with it: a
// new disk may have the name then. One guarded transaction (R6).
func (s *Server) dropBackend(ctx context.Context, id director.BackendID, rev int64) error {
	keys := []string{director.KeyEra, director.BackendKey(id), director.IncarnationKey(id)}
	es, err := s.dir.Store().GetAll(ctx, keys)
	switch {
	case err != nil:
		return err
	case es[0].Rev == 0:
		return fmt.Errorf("the directory has no era: it is being restored: %w", director.ErrUnavailable)
	case es[1].Rev != rev:
		return director.ErrConflict
	}
	guards := make([]director.Guard, len(es))
	for i, e := range es {
		guards[i] = director.Guard{Key: e.Key, Rev: e.Rev}
	}
	_, done, err := s.dir.Store().Commit(ctx, guards, []director.Op{{Key: keys[1], Delete: true}, {Key: keys[2], Delete: true}})
	if errors.Is(err, director.ErrUnknown) {
		e, readErr := s.dir.Store().Get(ctx, keys[1])
		if readErr == nil && e.Rev == 0 {
			return nil
		}
		return errors.Join(err, readErr)
	}
	if err == nil && !done {
		return director.ErrConflict
	}
	return err
}
