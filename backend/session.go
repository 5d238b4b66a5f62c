package backend

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"waypost/backend/control"
	"waypost/backend/imap"
	"waypost/backend/mailbox"
	"waypost/backend/managesieve"
	"waypost/backend/pop3"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/wire"
)

const helloTimeout = 10 * time.Second

// sessions are the clients' sessions on this backend.
type sessions struct {
	mu   sync.Mutex
	open map[*session]struct{}
	max  int
}

type session struct {
	info   control.Session
	cancel context.CancelFunc
	done   chan struct{}
}

func (s *sessions) add(x *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= s.max {
		return false
	}
	s.open[x] = struct{}{}
	return true
}

func (s *sessions) remove(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, x)
	close(x.done)
}

func (s *sessions) match(keep func(control.Session) bool) []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*session
	for x := range s.open {
		if keep(x.info) {
			out = append(out, x)
		}
	}
	return out
}

func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// serveSession handles one connection of a proxy: a session of one user.
func (b *Server) serveSession(ctx context.Context, c *tls.Conn, from cluster.Peer) {
	_ = c.SetDeadline(time.Now().Add(helloTimeout))
	r := bufio.NewReaderSize(c, 4096)
	var h wire.Hello
	if err := wire.Read(r, &h); err != nil {
		b.log.Info("session: no hello", "peer", from.String(), "error", err)
		return
	}
	log := b.log.With("session", h.Session, "user", h.User, "protocol", h.Protocol, "client", h.Client)
	if err := b.session(ctx, c, r, h, from); err != nil {
		var refused *refusedError
		if errors.As(err, &refused) {
			log.Info("session refused", "status", refused.status, "error", refused.err)
			_ = wire.Write(c, wire.Welcome{Status: refused.status, Text: refused.err.Error()})
			return
		}
		log.Info("session ended", "error", err)
	}
}

// refusedError is a session that never began.
type refusedError struct {
	status wire.Status
	err    error
}

func (e *refusedError) Error() string { return string(e.status) + ": " + e.err.Error() }

func refused(err error) error {
	status := wire.StatusRefused
	switch {
	case errors.Is(err, mailbox.ErrStale):
		status = wire.StatusStale
	case errors.Is(err, mailbox.ErrFrozen):
		status = wire.StatusBusy
	}
	return &refusedError{status, err}
}

func (b *Server) session(ctx context.Context, c net.Conn, r *bufio.Reader, h wire.Hello, from cluster.Peer) error {
	name, err := director.ParseUser(h.User)
	switch {
	case err != nil:
		return refused(err)
	case h.Version != wire.Version:
		return refused(fmt.Errorf("session version %d is not spoken here", h.Version))
	case h.Protocol != "imap" && h.Protocol != "pop3" && h.Protocol != "managesieve":
		return refused(fmt.Errorf("protocol %q is not spoken here", h.Protocol))
	}
	openCtx, cancelOpen := context.WithTimeout(ctx, helloTimeout)
	box, err := b.Open(openCtx, name, director.BackendID(h.Home), director.Epoch(h.Epoch))
	cancelOpen()
	if err != nil {
		return refused(err)
	}
	defer box.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := &session{cancel: cancel, done: make(chan struct{}), info: control.Session{
		ID: h.Session, User: name, Protocol: h.Protocol, Client: h.Client,
		Node: b.id.Self().String(), Backend: b.cfg.ID, Started: time.Now(),
	}}
	if !b.sessions.add(x) {
		return refused(errors.New("too many sessions"))
	}
	defer b.sessions.remove(x)
	if h.Protocol == "pop3" {
		unlock, ok := b.maildrops.TryLock(name)
		if !ok {
			return &refusedError{wire.StatusInUse, errors.New("another session holds the maildrop")}
		}
		defer unlock()
		// A session that only sends its last message on, because the user is
		// being moved, can delete no more: it must not keep the next one out.
		release := make(chan struct{})
		defer close(release)
		go func() {
			select {
			case <-box.Done():
				unlock()
			case <-release:
			}
		}()
	}
	if err := wire.Write(c, wire.Welcome{Status: wire.StatusOK}); err != nil {
		return err
	}
	_ = c.SetDeadline(time.Time{})
	conn := &buffered{Conn: c, r: r}
	b.log.Info("session begins", "session", h.Session, "user", name, "protocol", h.Protocol, "client", h.Client, "proxy", from.ID)
	defer func() { b.log.Info("session ends", "session", h.Session, "user", name) }()
	if h.Protocol == "managesieve" {
		return b.sieve.Serve(ctx, conn, managesieve.Session{Scripts: userScripts{b}.guarded(box), Client: h.Client, ID: h.Session})
	}
	if h.Protocol == "pop3" {
		uidl, err := b.uidlOf(name)
		if err != nil {
			return err
		}
		return b.pop3.Serve(ctx, conn, pop3.Session{Box: box, UIDL: uidl, Client: h.Client, ID: h.Session})
	}
	return b.imap.Serve(ctx, conn, imap.Session{Box: box, Store: b, Client: h.Client, ID: h.Session})
}

// buffered reads first what came behind the hello.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (c *buffered) Read(p []byte) (int, error) { return c.r.Read(p) }

// listSessions is PathSessions.
func (b *Server) listSessions(_ context.Context, _ cluster.Peer, req control.SessionsRequest) ([]control.Session, error) {
	out := []control.Session{}
	for _, x := range b.sessions.match(func(i control.Session) bool { return req.User == "" || i.User == req.User }) {
		out = append(out, x.info)
	}
	return out, nil
}

// kick is PathKick. It returns when the sessions are gone, not when they were
// asked to go.
func (b *Server) kick(ctx context.Context, _ cluster.Peer, req control.KickRequest) (control.KickReply, error) {
	if req.ID == "" && req.User == "" {
		return control.KickReply{}, refuse(control.CodeBad, "name a session or a user")
	}
	xs := b.sessions.match(func(i control.Session) bool {
		return (req.ID == "" || i.ID == req.ID) && (req.User == "" || i.User == req.User)
	})
	for _, x := range xs {
		x.cancel()
	}
	for _, x := range xs {
		select {
		case <-x.done:
		case <-ctx.Done():
			return control.KickReply{}, ctx.Err()
		}
	}
	return control.KickReply{Kicked: len(xs)}, nil
}

// usage is PathUsage.
func (b *Server) usage(ctx context.Context, _ cluster.Peer, req control.UserRequest) (control.UsageReply, error) {
	return with(b, req.User, func(u *user) (control.UsageReply, error) {
		u.mu.Lock()
		epoch := u.fence.Epoch
		u.mu.Unlock()
		n := len(b.sessions.match(func(i control.Session) bool { return i.User == u.name }))
		box, err := b.Open(ctx, u.name, b.cfg.ID, epoch)
		if err != nil {
			return control.UsageReply{}, err
		}
		defer box.Close()
		got, err := box.Usage()
		return control.UsageReply{Bytes: got.Bytes, Messages: got.Messages, Sessions: n}, err
	})
}
