package proxy

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"waypost/backend/control"
	"waypost/director"
	"waypost/internal/cluster"
)

// session is one client connection, from accept to close.
type session struct {
	id       string
	protocol string
	client   string // "ip:port"
	started  time.Time
	in, out  atomic.Int64
	end      context.CancelCauseFunc // asks it to end, with the reason
	done     chan struct{}           // closed when it has ended

	// Set by registry.name, protected by the registry's mutex.
	user    director.User
	backend director.BackendID
	account accountMark
}

// registry knows all connections of a Server, and whose they are. Its size is
// bounded by max_connections.
type registry struct {
	node string

	mu     sync.Mutex // protects what follows, and what session says
	all    map[string]*session
	byUser map[director.User]map[*session]struct{}
}

func newRegistry(node string) *registry {
	return &registry{node: node, all: map[string]*session{}, byUser: map[director.User]map[*session]struct{}{}}
}

func (g *registry) add(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all[s.id] = s
}

// name says whose session it is; from here on it is listed and can be kicked.
func (g *registry) name(s *session, u director.User, mark accountMark) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unlink(s)
	s.user, s.account = u, mark
	if g.byUser[u] == nil {
		g.byUser[u] = map[*session]struct{}{}
	}
	g.byUser[u][s] = struct{}{}
}

// unname takes back a name whose login failed.
func (g *registry) unname(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unlink(s)
	s.user = ""
}

func (g *registry) serve(s *session, b director.BackendID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.backend = b
}

func (g *registry) remove(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.all, s.id)
	g.unlink(s)
}

// unlink removes s from its user's. The caller holds mu.
func (g *registry) unlink(s *session) {
	if of := g.byUser[s.user]; of != nil {
		delete(of, s)
		if len(of) == 0 {
			delete(g.byUser, s.user)
		}
	}
}

func (g *registry) len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.all)
}

// of gives the sessions of a user.
func (g *registry) of(u director.User) []*session {
	g.mu.Lock()
	defer g.mu.Unlock()
	found := make([]*session, 0, len(g.byUser[u]))
	for s := range g.byUser[u] {
		found = append(found, s)
	}
	return found
}

// users gives everyone who has a session.
func (g *registry) users() []director.User {
	g.mu.Lock()
	defer g.mu.Unlock()
	us := make([]director.User, 0, len(g.byUser))
	for u := range g.byUser {
		us = append(us, u)
	}
	return us
}

// endAll asks every connection to end; with strangersOnly those without a user.
func (g *registry) endAll(why error, strangersOnly bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.all {
		if s.user == "" || !strangersOnly {
			s.end(why)
		}
	}
}

func (g *registry) list(u director.User) []control.Session {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := []control.Session{}
	for of, sessions := range g.byUser {
		if u != "" && of != u {
			continue
		}
		for s := range sessions {
			list = append(list, control.Session{
				ID: s.id, User: of, Protocol: s.protocol, Client: s.client, Node: g.node, Backend: s.backend,
				Started: s.started, BytesIn: s.in.Load(), BytesOut: s.out.Load(),
			})
		}
	}
	slices.SortFunc(list, func(a, b control.Session) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// kick ends sessions and waits until they are gone. When ctx ends first the
// count is of those that are.
func (g *registry) kick(ctx context.Context, req control.KickRequest) (control.KickReply, error) {
	var victims []*session
	switch {
	case (req.ID == "") == (req.User == ""):
		return control.KickReply{}, &control.Error{Code: control.CodeBad, Text: "give a session's id or a user"}
	case req.User != "":
		victims = g.of(req.User)
	default:
		g.mu.Lock()
		if s := g.all[req.ID]; s != nil && s.user != "" {
			victims = append(victims, s)
		}
		g.mu.Unlock()
	}
	for _, s := range victims {
		s.end(errKicked)
	}
	var reply control.KickReply
	for _, s := range victims {
		select {
		case <-s.done:
			reply.Kicked++
		case <-ctx.Done():
			return reply, &control.Error{Code: control.CodeUnavailable, Text: "not all sessions have ended yet"}
		}
	}
	return reply, nil
}

// kickWait bounds a kick: a session's last words take partingGrace at most,
// and closing TLS 5 s more.
const kickWait = 15 * time.Second

// Control serves control.PathSessions and control.PathKick for the operator's
// tools and the director, to be put on the node listener (cluster.ProtoControl).
func (s *Server) Control() http.Handler {
	roles := []cluster.Role{cluster.RoleAdmin, cluster.RoleDirector}
	mux := http.NewServeMux()
	mux.Handle(control.PathSessions, control.Handle(
		func(_ context.Context, _ cluster.Peer, req control.SessionsRequest) ([]control.Session, error) {
			return s.registry.list(req.User), nil
		}, roles...))
	mux.Handle(control.PathKick, control.Handle(
		func(ctx context.Context, from cluster.Peer, req control.KickRequest) (control.KickReply, error) {
			ctx, cancel := context.WithTimeout(ctx, kickWait)
			defer cancel()
			reply, err := s.registry.kick(ctx, req)
			s.log.Info("sessions kicked", "by", from.String(), "id", req.ID, "user", string(req.User), "kicked", reply.Kicked)
			return reply, err
		}, roles...))
	return mux
}

func (g *registry) markOf(s *session) accountMark {
	g.mu.Lock()
	defer g.mu.Unlock()
	return s.account
}
