package server

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
	"waypost/director/member"
	"waypost/internal/cluster"
	"waypost/internal/spoolapi"
)

// fanOut is how many nodes are asked at once.
const fanOut = 16

// nodeKey is a node at an address: one that came back elsewhere is another.
type nodeKey struct {
	peer cluster.Peer
	addr string
}

// nodes keeps clients, and by that connections, to other nodes.
type nodes struct {
	id *cluster.Identity

	mu      sync.Mutex // guards the maps
	control map[nodeKey]*control.Client
	spools  map[nodeKey]*http.Client
}

// maxClients bounds each map; when it is full it begins anew, and connections
// of clients no longer held end by themselves when idle.
const maxClients = 4096

func newNodes(id *cluster.Identity) *nodes {
	return &nodes{id: id, control: map[nodeKey]*control.Client{}, spools: map[nodeKey]*http.Client{}}
}

func (n *nodes) client(p cluster.Peer, addr string) *control.Client {
	n.mu.Lock()
	defer n.mu.Unlock()
	return kept(n.control, nodeKey{p, addr}, func() *control.Client { return control.NewClient(n.id, addr, p) })
}

func (n *nodes) spool(p cluster.Peer, addr string) *spoolapi.Client {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := kept(n.spools, nodeKey{p, addr}, func() *http.Client { return n.id.HTTPClient(p, cluster.ProtoControl) })
	return &spoolapi.Client{HTTP: c, Base: "https://" + addr}
}

func kept[C any](m map[nodeKey]C, k nodeKey, make func() C) C {
	c, ok := m[k]
	if !ok {
		if len(m) >= maxClients {
			clear(m)
		}
		c = make()
		m[k] = c
	}
	return c
}

// close lets idle connections go.
func (n *nodes) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.spools {
		c.CloseIdleConnections()
	}
}

// live are the members of a role that are alive and have a node listener.
func (s *Server) live(role cluster.Role) []member.Member {
	return slices.DeleteFunc(s.members.Members(), func(m member.Member) bool {
		return m.Role != role || !m.Alive || m.Node == ""
	})
}

// ask calls fn for each of ms, some at once, each for at most NodeTimeout, and
// gives what failed.
func (s *Server) ask(ctx context.Context, ms []member.Member, fn func(context.Context, member.Member) error) []admin.NodeError {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.NodeTimeout)
	defer cancel()
	var (
		mu     sync.Mutex // guards failed
		failed []admin.NodeError
		asked  sync.WaitGroup
	)
	places := make(chan struct{}, fanOut)
	for _, m := range ms {
		places <- struct{}{}
		asked.Go(func() {
			defer func() { <-places }()
			if err := fn(ctx, m); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, admin.NodeError{Node: m.Peer().String(), Text: err.Error()})
			}
		})
	}
	asked.Wait()
	slices.SortFunc(failed, func(a, b admin.NodeError) int { return cmp.Compare(a.Node, b.Node) })
	return failed
}

func (s *Server) listSessions(ctx context.Context, c *call) (any, error) {
	u, err := c.queryUser()
	if err != nil {
		return nil, err
	}
	out := admin.Sessions{Sessions: []control.Session{}}
	var mu sync.Mutex // guards out.Sessions
	out.Errors = s.ask(ctx, s.live(cluster.RoleProxy), func(ctx context.Context, m member.Member) error {
		got, err := control.Call[[]control.Session](ctx, s.nodes.client(m.Peer(), m.Node), control.PathSessions, control.SessionsRequest{User: u})
		mu.Lock()
		defer mu.Unlock()
		out.Sessions = append(out.Sessions, got...)
		return err
	})
	slices.SortFunc(out.Sessions, func(a, b control.Session) int {
		return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// kick ends sessions at the proxies, and then what is left at the backends. A
// session that goes through a proxy is known to both, so the larger count is
// that of the sessions.
func (s *Server) kick(ctx context.Context, c *call) (any, error) {
	req, err := decode[control.KickRequest](c)
	if err != nil {
		return nil, err
	}
	if (req.ID == "") == (req.User == "") {
		return nil, fmt.Errorf("give a session's id or a user: %w", director.ErrInvalid)
	}
	c.object = req.ID
	if req.User != "" {
		if req.User, err = director.ParseUser(string(req.User)); err != nil {
			return nil, err
		}
		c.object = string(req.User)
	}
	proxies, proxyErrors := s.kickAt(ctx, cluster.RoleProxy, req)
	backends, backendErrors := s.kickAt(ctx, cluster.RoleBackend, req)
	return admin.Kicked{Kicked: max(proxies, backends), Errors: append(proxyErrors, backendErrors...)}, nil
}

func (s *Server) kickAt(ctx context.Context, role cluster.Role, req control.KickRequest) (int, []admin.NodeError) {
	n := 0
	var mu sync.Mutex // guards n
	failed := s.ask(ctx, s.live(role), func(ctx context.Context, m member.Member) error {
		got, err := control.Call[control.KickReply](ctx, s.nodes.client(m.Peer(), m.Node), control.PathKick, req)
		mu.Lock()
		defer mu.Unlock()
		n += got.Kicked
		return err
	})
	return n, failed
}

// spoolNodes are the mx that are asked: one by name, or all that are alive.
func (s *Server) spoolNodes(node string) ([]member.Member, error) {
	all := s.live(cluster.RoleMX)
	if node == "" {
		return all, nil
	}
	one := slices.DeleteFunc(all, func(m member.Member) bool { return m.ID != node })
	if len(one) == 0 {
		return nil, fmt.Errorf("no mx %s is alive: %w", node, director.ErrUnavailable)
	}
	return one, nil
}

func (s *Server) listSpool(ctx context.Context, c *call) (any, error) {
	u, err := c.queryUser()
	if err != nil {
		return nil, err
	}
	ms, err := s.spoolNodes(c.r.URL.Query().Get("node"))
	if err != nil {
		return nil, err
	}
	out := admin.Spool{Entries: []admin.SpoolEntry{}}
	var mu sync.Mutex // guards out.Entries
	out.Errors = s.ask(ctx, ms, func(ctx context.Context, m member.Member) error {
		got, err := s.nodes.spool(m.Peer(), m.Node).List(ctx)
		mu.Lock()
		defer mu.Unlock()
		for _, e := range got.Entries {
			if u == "" || e.User == string(u) || slices.ContainsFunc(e.Recipients, func(r spoolapi.Recipient) bool { return r.User == string(u) }) {
				e.Node = m.ID
				out.Entries = append(out.Entries, e)
			}
		}
		return err
	})
	slices.SortFunc(out.Entries, func(a, b admin.SpoolEntry) int {
		return cmp.Or(a.Received.Compare(b.Received), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Node, b.Node))
	})
	return out, nil
}

func (s *Server) retrySpool(ctx context.Context, c *call) (any, error) {
	req, err := decode[admin.SpoolRequest](c)
	if err != nil {
		return nil, err
	}
	c.object = fmt.Sprintf("%s %s%s", req.Node, req.ID, req.User)
	want := spoolapi.RetryRequest{ID: req.ID, All: req.All}
	if req.User != "" {
		u, err := director.ParseUser(string(req.User))
		if err != nil {
			return nil, err
		}
		want.User = string(u)
	}
	if given := count(req.ID != "", req.User != "", req.All); given != 1 {
		return nil, fmt.Errorf("give one of id, user and all: %w", director.ErrInvalid)
	}
	return s.changeSpool(ctx, req, func(ctx context.Context, mx *spoolapi.Client) (int, error) {
		got, err := mx.Retry(ctx, want)
		return got.Retried, err
	})
}

func (s *Server) dropSpool(ctx context.Context, c *call) (any, error) {
	req, err := decode[admin.SpoolRequest](c)
	if err != nil {
		return nil, err
	}
	c.object = fmt.Sprintf("%s %s", req.Node, req.ID)
	if req.ID == "" || req.User != "" || req.All {
		return nil, fmt.Errorf("give the id of an entry: %w", director.ErrInvalid)
	}
	return s.changeSpool(ctx, req, func(ctx context.Context, mx *spoolapi.Client) (int, error) {
		got, err := mx.Drop(ctx, spoolapi.DropRequest{ID: req.ID})
		return got.Dropped, err
	})
}

// changeSpool calls fn for each mx. An entry lies on one of them: that the
// others do not have it is no error, that nobody has it is.
func (s *Server) changeSpool(ctx context.Context, req admin.SpoolRequest, fn func(context.Context, *spoolapi.Client) (int, error)) (any, error) {
	ms, err := s.spoolNodes(req.Node)
	if err != nil {
		return nil, err
	}
	var out admin.SpoolDone
	var mu sync.Mutex // guards out.Entries
	out.Errors = s.ask(ctx, ms, func(ctx context.Context, m member.Member) error {
		n, err := fn(ctx, s.nodes.spool(m.Peer(), m.Node))
		if spoolapi.IsCode(err, spoolapi.CodeNotFound) {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		out.Entries += n
		return err
	})
	if req.ID != "" && out.Entries == 0 && len(out.Errors) == 0 {
		return nil, fmt.Errorf("spool entry %s: %w", req.ID, director.ErrNotFound)
	}
	return out, nil
}

func count(bools ...bool) int {
	n := 0
	for _, b := range bools {
		if b {
			n++
		}
	}
	return n
}
