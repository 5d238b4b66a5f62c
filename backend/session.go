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

	"waypost/backend/carry"
	"waypost/backend/control"
	"waypost/backend/imap"
	"waypost/backend/mailbox"
	"waypost/backend/managesieve"
	"waypost/backend/pop3"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/frames"
	"waypost/internal/handoff"
	"waypost/internal/stack"
	"waypost/internal/wire"
)

const helloTimeout = 10 * time.Second

// sessions are the clients' sessions on this backend.
type sessions struct {
	mu    sync.Mutex // guards what follows
	open  map[*session]struct{}
	named carry.Names
	max   int
}

type session struct {
	info    control.Session
	carried carry.Session // by its End it is ended for good, else as the backend's stop does
	done    chan struct{}
}

// add gives the session that had x's id, nil if none had; ok is false when there are too many.
func (s *sessions) add(x *session) (former *carry.Session, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= s.max {
		return nil, false
	}
	s.open[x] = struct{}{}
	return s.named.Add(&x.carried), true
}

func (s *sessions) remove(x *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, x)
	close(x.done)
	s.named.Remove(&x.carried)
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
	opt := frames.Options{Draining: b.mux.Draining(), MaxStreams: 2 * b.cfg.MaxSessions, HandOff: h.HandOff}
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
	stack.Grow()
	s := &served{b: b, h: h}
	if stream, ok := c.(*frames.Stream); ok {
		s.framed = framed{stream, s}
		c = &s.framed
	}
	err := s.begin(ctx, c, from)
	if err == nil {
		err = s.running.run()
	}
	s.end(c, err)
}

// served is a session from its Hello to its end.
type served struct {
	b       *Server
	h       *wire.Hello
	framed  framed          // its connection, if that is one of frames
	ctx     context.Context // ends with session
	box     mailbox.Box
	whole   mailbox.Box // IMAP's: box, and what is shown beside it
	session *session    // nil: it was refused
	unlock  func()      // of a maildrop
	running running     // nil: no protocol has it
	began   bool        // the Welcome is said

	state     []byte // what it is resumed with, until it has begun
	handedOff string // why it was
}

// begin opens the mailbox and says Welcome. Who calls it calls end.
func (s *served) begin(ctx context.Context, conn sessionConn, from cluster.Peer) error {
	h := s.h
	name, err := director.ParseUser(h.User)
	switch {
	case err != nil:
		return carry.Refuse(err)
	case h.Version != wire.Version:
		return carry.Refuse(fmt.Errorf("session version %d is not spoken here", h.Version))
	case h.Protocol != "imap" && h.Protocol != "pop3" && h.Protocol != "managesieve":
		return carry.Refuse(fmt.Errorf("protocol %q is not spoken here", h.Protocol))
	}
	s.state = stateOf(conn)
	return carry.Begin(h.Protocol, s.state, &beginning{served: s, outer: ctx, conn: conn, from: from, name: name})
}

// beginning has the steps of a session's beginning: carry.Steps.
type beginning struct {
	*served
	outer context.Context // its connection's
	conn  sessionConn
	from  cluster.Peer
	name  director.User
}

// Open implements carry.Steps.
func (s *beginning) Open() error {
	ctx, cancel := context.WithTimeout(s.outer, helloTimeout)
	defer cancel()
	box, err := s.b.Open(ctx, s.name, director.BackendID(s.h.Home), director.Epoch(s.h.Epoch))
	if err != nil {
		return err
	}
	s.box = box
	return nil
}

// Register implements carry.Steps.
func (s *beginning) Register() (mine, former *carry.Session, err error) {
	b, h := s.b, s.h
	x := &session{done: make(chan struct{}), carried: carry.Session{ID: h.Session, User: s.name, Try: h.Try}, info: control.Session{
		ID: h.Session, User: s.name, Protocol: h.Protocol, Client: h.Client,
		Node: b.id.Self().String(), Backend: b.cfg.ID, Started: time.Now(),
	}}
	s.ctx, x.carried.End = context.WithCancelCause(s.outer)
	former, ok := b.sessions.add(x)
	if !ok {
		x.carried.End(nil)
		return nil, nil, errors.New("too many sessions")
	}
	s.session = x
	if b.stopping.Load() {
		return nil, nil, errStopping // who was opened before has been told to go
	}
	return &x.carried, former, nil
}

// Speak implements carry.Steps.
func (s *beginning) Speak() error { return s.speak(s.conn) }

// Accept implements carry.Steps.
func (s *beginning) Accept(id handoff.ID) (first bool, err error) { return s.b.handed.Accept(id) }

// Welcome implements carry.Steps.
func (s *beginning) Welcome() error {
	b, h := s.b, s.h
	hold, holds := s.conn.(interface{ Hold() })
	if holds && h.Protocol == "imap" && s.state == nil {
		hold.Hold() // IMAP's greeting follows
	}
	if err := s.conn.Welcome(wire.Welcome{Status: wire.StatusOK}); err != nil {
		return err
	}
	s.began = true
	resumed := s.state != nil
	s.state = nil
	if resumed {
		b.metrics.resumed.Inc()
	}
	b.log.LogAttrs(s.outer, slog.LevelInfo, "session begins", slog.String("session", h.Session), slog.String("user", h.User),
		slog.String("protocol", h.Protocol), slog.String("client", h.Client), slog.String("proxy", s.from.ID), slog.Bool("resumed", resumed))
	return nil
}

// lock takes the maildrop. It has the session's name if that can go on elsewhere: then it
// stays its own until it has been handed off.
func (s *served) lock(conn sessionConn) error {
	id := ""
	carries := s.carries(conn)
	if carries {
		id = s.h.Session
	}
	unlock, ok := s.b.maildrops.Lock(s.ctx, s.box.User(), id)
	if !ok {
		return &carry.Refused{Status: wire.StatusInUse, Err: errors.New("another session holds the maildrop")}
	}
	if carries {
		s.unlock = unlock
		return nil
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

// running is a session that its protocol has begun: run it, or abandon it.
type running interface {
	run() error
	abandon()
}

type runningIMAP struct{ *imap.Running }

func (r runningIMAP) run() error { return r.Run() }
func (r runningIMAP) abandon()   { r.Abandon() }

type runningPOP3 struct {
	*pop3.Running
	ctx  context.Context
	conn net.Conn
}

func (r *runningPOP3) run() error { return r.Run(r.ctx, r.conn) }
func (r *runningPOP3) abandon()   {}

type runningSieve struct {
	*managesieve.Running
	ctx  context.Context
	conn net.Conn
}

func (r *runningSieve) run() error { return r.Run(r.ctx, r.conn) }
func (r *runningSieve) abandon()   {}

// speak lets the session's protocol begin, before anything is said to the client.
func (s *served) speak(conn sessionConn) error {
	switch s.h.Protocol {
	case "imap":
		return s.speakIMAP(conn)
	case "pop3":
		if err := s.lock(conn); err != nil {
			return err
		}
		return s.speakPOP3(conn)
	}
	return s.speakSieve(conn)
}

func (s *served) speakIMAP(conn sessionConn) error {
	s.whole = s.b.withShared(s.b.withArchives(s.box))
	r, err := s.b.imap.Begin(s.ctx, conn, imap.Session{Box: s.whole, Store: s.b, Texts: textIndex(s.box), Client: s.h.Client, ID: s.h.Session, State: s.state})
	if err != nil {
		return err
	}
	s.running = runningIMAP{r}
	return nil
}

func (s *served) speakPOP3(conn sessionConn) error {
	uidl, err := s.b.uidlOf(s.box.User())
	if err != nil {
		return err
	}
	settled := cmp.Or(s.h.POP3, &wire.POP3{})
	r, err := s.b.pop3.Begin(pop3.Session{
		Box: s.box, UIDL: uidl, UTF8: settled.UTF8, Capabilities: settled.Capabilities, Client: s.h.Client, ID: s.h.Session, State: s.state,
	})
	if err != nil {
		return err
	}
	s.running = &runningPOP3{r, s.ctx, conn}
	return nil
}

func (s *served) speakSieve(conn sessionConn) error {
	r, err := s.b.sieve.Begin(managesieve.Session{Scripts: userScripts{s.b}.guarded(s.box), Client: s.h.Client, ID: s.h.Session, State: s.state})
	if err != nil {
		return err
	}
	s.running = &runningSieve{r, s.ctx, conn}
	return nil
}

// end gives back what begin took, and answers a Hello that was refused.
func (s *served) end(c sessionConn, err error) {
	if s.running != nil && !s.began {
		s.running.abandon()
	}
	if s.whole != nil {
		s.whole.Close()
	}
	if s.handedOff != "" && s.h.Protocol == "pop3" {
		s.b.maildrops.Reserve(s.box.User(), s.h.Session)
	}
	if s.unlock != nil {
		s.unlock() // of what is reserved by now it does nothing
	}
	if s.session != nil {
		s.b.sessions.remove(s.session)
		s.session.carried.End(nil)
	}
	if s.box != nil {
		s.box.Close()
	}
	if s.began && err == nil && s.h.Protocol == "imap" && s.handedOff == "" {
		return // which has logged more of it
	}
	log := s.b.log.With("session", s.h.Session, "user", s.h.User, "protocol", s.h.Protocol, "client", s.h.Client)
	var refused *carry.Refused
	switch {
	case s.handedOff != "":
		log.Info("session handed off", "why", s.handedOff)
	case errors.As(err, &refused):
		if refused.Status == wire.StatusUnresumable {
			s.b.metrics.notResumed.WithLabelValues(string(refused.Reason)).Inc()
		}
		log.Info("session refused", "status", refused.Status, "error", refused.Err)
		_ = c.Welcome(refused.Welcome())
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
		x.carried.End(handoff.ErrKicked)
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

// sending is PathSending. What another member of the user's group sends may be for a folder of the
// user's.
func (b *Server) sending(_ context.Context, _ cluster.Peer, req control.UserRequest) (r control.SendingReply, _ error) {
	r.Sessions, r.Bytes = b.imap.Sending(append(members{b}.Others(req.User), req.User)...)
	return r, nil
}
