package backend

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
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
	"waypost/internal/frames"
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

// serveSession handles one connection of a proxy: many sessions in frames, or, from a
// proxy of before them, one session of one user.
func (b *Server) serveSession(ctx context.Context, c *tls.Conn, from cluster.Peer) {
	_ = c.SetDeadline(time.Now().Add(helloTimeout))
	r := bufio.NewReaderSize(c, 4096)
	var h wire.Hello
	if err := wire.Read(r, &h); err != nil {
		b.log.Info("session: no hello", "peer", from.String(), "error", err)
		return
	}
	if h.Protocol != wire.ProtocolFrames || h.Version < wire.VersionFrames {
		b.answer(ctx, &plainSession{Conn: c, r: r}, &h, from)
		return
	}
	_ = c.SetDeadline(time.Time{}) // the Hello's
	opt := frames.Options{Draining: b.mux.Draining(), MaxStreams: 2 * b.cfg.MaxSessions}
	err := frames.Serve(ctx, c, r, opt, func(ctx context.Context, s *frames.Stream, h *wire.Hello) {
		b.answer(ctx, s, h, from)
	})
	b.log.Info("sessions' connection ended", "peer", from.String(), "reason", err)
}

// sessionConn is a session's connection, on which its Hello has come.
type sessionConn interface {
	net.Conn
	Welcome(w wire.Welcome) error
}

// plainSession has a connection for itself. It reads first what came behind the hello.
type plainSession struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (c *plainSession) Read(p []byte) (int, error) { return c.r.Read(p) }

// Welcome answers the Hello, within its deadline.
func (c *plainSession) Welcome(w wire.Welcome) error {
	if err := wire.Write(c.Conn, w); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

// answer serves a session from its Hello to its end. Its locals, and those of what it calls to
// serve, lie on the stack of every session that waits: the work before and after is elsewhere.
func (b *Server) answer(ctx context.Context, c sessionConn, h *wire.Hello, from cluster.Peer) {
	s := &served{b: b, h: h}
	err := s.begin(ctx, c, from)
	if err == nil {
		err = s.serve(c)
	}
	s.end(c, err)
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

// served is a session from its Hello to its end.
type served struct {
	b       *Server
	h       *wire.Hello
	ctx     context.Context // ends with session
	box     mailbox.Box
	whole   mailbox.Box // IMAP's: box, and what is shown beside it
	session *session    // nil: it was refused
	unlock  func()      // of a maildrop
	began   bool        // the Welcome is said
}

// begin opens the mailbox and says Welcome. Who calls it calls end.
func (s *served) begin(ctx context.Context, conn sessionConn, from cluster.Peer) error {
	b, h := s.b, s.h
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
	s.box, err = b.Open(openCtx, name, director.BackendID(h.Home), director.Epoch(h.Epoch))
	cancelOpen()
	if err != nil {
		s.box = nil
		return refused(err)
	}
	x := &session{done: make(chan struct{}), info: control.Session{
		ID: h.Session, User: name, Protocol: h.Protocol, Client: h.Client,
		Node: b.id.Self().String(), Backend: b.cfg.ID, Started: time.Now(),
	}}
	s.ctx, x.cancel = context.WithCancel(ctx)
	if !b.sessions.add(x) {
		x.cancel()
		return refused(errors.New("too many sessions"))
	}
	s.session = x
	switch hold, ok := conn.(interface{ Hold() }); {
	case h.Protocol == "pop3":
		if err := s.lock(); err != nil {
			return err
		}
	case h.Protocol == "imap" && ok:
		hold.Hold() // IMAP's greeting follows
	}
	if err := conn.Welcome(wire.Welcome{Status: wire.StatusOK}); err != nil {
		return err
	}
	s.began = true
	b.log.LogAttrs(ctx, slog.LevelInfo, "session begins", slog.String("session", h.Session), slog.String("user", h.User),
		slog.String("protocol", h.Protocol), slog.String("client", h.Client), slog.String("proxy", from.ID))
	return nil
}

// lock takes the maildrop.
func (s *served) lock() error {
	unlock, ok := s.b.maildrops.Lock(s.ctx, s.box.User())
	if !ok {
		return &refusedError{wire.StatusInUse, errors.New("another session holds the maildrop")}
	}
	// A session that only sends its last message on, because the user is
	// being moved, can delete no more: it must not keep the next one out.
	release := make(chan struct{})
	box := s.box
	go func() {
		select {
		case <-box.Done():
			unlock()
		case <-release:
		}
	}()
	s.unlock = func() {
		close(release)
		unlock()
	}
	return nil
}

// serve speaks the session's protocol until its end.
func (s *served) serve(conn sessionConn) error {
	switch s.h.Protocol {
	case "managesieve":
		return s.serveSieve(conn)
	case "pop3":
		return s.servePOP3(conn)
	}
	r, err := s.beginIMAP(conn)
	if err != nil {
		return err
	}
	return r.Run()
}

func (s *served) beginIMAP(conn sessionConn) (*imap.Running, error) {
	s.whole = s.b.withShared(s.b.withArchives(s.box))
	return s.b.imap.Begin(s.ctx, conn, imap.Session{Box: s.whole, Store: s.b, Texts: textIndex(s.box), Client: s.h.Client, ID: s.h.Session})
}

func (s *served) serveSieve(conn sessionConn) error {
	return s.b.sieve.Serve(s.ctx, conn, managesieve.Session{Scripts: userScripts{s.b}.guarded(s.box), Client: s.h.Client, ID: s.h.Session})
}

func (s *served) servePOP3(conn sessionConn) error {
	uidl, err := s.b.uidlOf(s.box.User())
	if err != nil {
		return err
	}
	settled := cmp.Or(s.h.POP3, &wire.POP3{})
	return s.b.pop3.Serve(s.ctx, conn, pop3.Session{Box: s.box, UIDL: uidl, UTF8: settled.UTF8, Capabilities: settled.Capabilities, Client: s.h.Client, ID: s.h.Session})
}

// end gives back what begin took, and answers a Hello that was refused.
func (s *served) end(c sessionConn, err error) {
	if s.whole != nil {
		s.whole.Close()
	}
	if s.unlock != nil {
		s.unlock()
	}
	if s.session != nil {
		s.b.sessions.remove(s.session)
		s.session.cancel()
	}
	if s.box != nil {
		s.box.Close()
	}
	if s.began && err == nil && s.h.Protocol == "imap" {
		return // which has logged more of it
	}
	log := s.b.log.With("session", s.h.Session, "user", s.h.User, "protocol", s.h.Protocol, "client", s.h.Client)
	var refused *refusedError
	switch {
	case errors.As(err, &refused):
		log.Info("session refused", "status", refused.status, "error", refused.err)
		_ = c.Welcome(wire.Welcome{Status: refused.status, Text: refused.err.Error()})
	case err != nil:
		log.Info("session ended", "error", err)
	default:
		log.Info("session ends")
	}
}

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
