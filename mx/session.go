package mx

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"waypost/director"
	"waypost/internal/lmtp"
	"waypost/internal/telemetry"
)

// service is what a listener is for.
type service string

const (
	inbound    service = "inbound"
	submission service = "submission"
)

// session is one client's SMTP session, as go-smtp calls it: one call at a
// time, but that Data of a chunked message runs beside the connection, which
// may call Reset and Logout meanwhile.
type session struct {
	srv     *Server
	g       *guard
	service service
	helo    func() string
	log     *slog.Logger
	ctx     context.Context
	cancel  context.CancelFunc

	user    director.User // who is logged in
	version int64         // of its account then
	refused int           // recipients

	mu      sync.Mutex // protects what follows
	tx      *transaction
	running chan struct{} // closed when Data has ended; nil: none is under way
	chunked bool          // the message comes by BDAT
	poison  bool          // the connection ends with the answer to it
}

func (srv *Server) newSession(c *smtp.Conn, sv service) (smtp.Session, error) {
	g, ok := c.Conn().(*guard)
	if !ok {
		return nil, replyShutdown
	}
	s := &session{srv: srv, g: g, service: sv, helo: c.Hostname}
	s.log = srv.log.With("client", g.RemoteAddr().String(), "service", string(sv))
	s.ctx, s.cancel = context.WithCancel(srv.ctx)
	g.setOnTLS(s.Reset)
	return s, nil
}

func (s *session) remote() netip.AddrPort {
	ap, err := netip.ParseAddrPort(s.g.RemoteAddr().String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Mail begins a message.
func (s *session) Mail(from string, opts *smtp.MailOptions) error {
	greeted, esmtp, secure := s.g.hello()
	s.mu.Lock()
	nested, running := s.tx != nil, s.running
	s.mu.Unlock()
	if running != nil && !nested {
		<-running // an aborted one: its reader is closed, so it ends soon
	}
	switch {
	case !greeted:
		return replyHello
	case nested:
		return replyNested
	case s.service == submission && !secure:
		return replyNeedTLS
	case s.service == submission && s.user == "":
		return replyNeedAuth
	case strings.ContainsFunc(from, unicode.IsControl) || lmtp.CheckAddress(from) != nil:
		return replyBadSender
	case !opts.UTF8 && !ascii(from):
		return replyNeedUTF8
	}
	if s.service == submission {
		if reply := s.stillMay(); reply != nil {
			s.log.Info("submission refused: the account has changed", "login", string(s.user), "reply", reply.Code)
			s.g.poison(false)
			return reply
		}
		if reply := s.srv.mayUse(s.ctx, s.user, from); reply != nil {
			s.log.Info("submission refused", "login", string(s.user), "from", from, "reply", reply.Code)
			return reply
		}
	}
	if !s.g.begin() {
		return replyShutdown
	}
	s.g.byLine()
	id := telemetry.NewID()
	tx := &transaction{
		srv: s.srv, id: id, log: s.log.With("delivery", id),
		sender: from, size: opts.Size, eightBit: opts.Body == smtp.Body8BitMIME, utf8: opts.UTF8,
		from:  client{s.remote(), s.helo()},
		trace: traceInfo{esmtp: esmtp, secure: secure, auth: s.user != "", date: time.Now()},
		users: map[director.User]*recipient{}, legs: map[director.BackendID]*leg{}, down: map[director.BackendID]error{},
		out: outward{user: s.user, ret: string(opts.Return), envid: opts.EnvelopeID},
	}
	if s.user != "" {
		tx.log = tx.log.With("login", string(s.user))
	}
	s.mu.Lock()
	s.tx = tx
	s.mu.Unlock()
	return nil
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII })
}

// Rcpt decides about a recipient.
func (s *session) Rcpt(to string, opts *smtp.RcptOptions) error {
	s.mu.Lock()
	tx := s.tx
	s.mu.Unlock()
	switch {
	case tx == nil:
		return replyNoMail
	case s.refused >= s.srv.cfg.MaxRefused:
		return replyRefusals
	case !tx.utf8 && !ascii(to):
		return replyNeedUTF8
	}
	relay := replyRelay
	if s.service == submission {
		relay = replyNoOutbound
	}
	reply := tx.rcpt(s.ctx, to, opts, relay)
	if reply == nil {
		return nil
	}
	if s.refused++; s.refused >= s.srv.cfg.MaxRefused {
		s.log.Warn("too many refused recipients: closing", "count", s.refused)
		s.g.poison(false)
	}
	return reply
}

// Data takes the message.
func (s *session) Data(r io.Reader) error {
	_, chunked := r.(*io.PipeReader) // BDAT
	s.mu.Lock()
	tx := s.tx
	if tx == nil || s.running != nil || !s.srv.beginMessage() {
		s.mu.Unlock()
		return replyNoMail
	}
	defer s.srv.messages.Done()
	running := make(chan struct{})
	s.running, s.chunked = running, chunked
	s.mu.Unlock()
	defer close(running)
	s.g.beginData()
	bare := s.g.sawBare
	if chunked {
		bare = func() bool { return false } // chunk borders are no line ends
	}
	reply, poison := tx.deliver(r, bare)
	if poison && !chunked {
		s.g.poison(false)
	}
	tx.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = nil
	if s.tx == tx {
		s.tx, s.poison = nil, poison
	}
	return reply
}

// Reset ends the transaction, which was answered or is given up. A message
// that is being taken ends by itself: go-smtp has closed its reader. That of a
// chunked message that is at fault is told with the next chunk, so only then
// may its connection be poisoned.
func (s *session) Reset() {
	s.mu.Lock()
	tx, running, chunked, poison := s.tx, s.running, s.chunked, s.poison
	s.tx, s.chunked, s.poison = nil, false, false
	s.mu.Unlock()
	if tx != nil && running == nil {
		tx.close()
	}
	if poison {
		s.g.poison(true)
	}
	s.g.end(chunked)
}

// Logout ends the session.
func (s *session) Logout() error {
	s.Reset()
	s.cancel()
	return nil
}

// AuthMechanisms implements smtp.AuthSession: AUTH is for submission under TLS.
func (s *session) AuthMechanisms() []string {
	if s.service != submission || !s.g.isTLS() {
		return nil
	}
	return []string{sasl.Plain, sasl.Login}
}
