package imap

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"waypost/backend/imap/fetch"
	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// maxBad is how many commands in a row may be malformed.
const maxBad = 50

// session is one connection. Its goroutine (Serve's) reads and runs commands; watchers
// of IDLE and NOTIFY tell what happens meanwhile. mu keeps them apart: the
// goroutine holds it while it runs a command, they while they write.
type session struct {
	srv  *Server
	ctx  context.Context // Serve's, cancelled at the end
	stop context.CancelFunc
	data Session
	log  *slog.Logger
	c    *conn
	p    *syntax.Parser
	// moved is closed when the mailbox is not served any more; nil: see fence.
	moved <-chan struct{}
	// raw is the network's connection, whatever lies over it.
	raw      net.Conn
	began    time.Time
	watching watching
	// locked: the session's goroutine holds mu. It is that goroutine's own.
	locked  bool
	watcher *watcher // NOTIFY's
	bads    int
	// carrier is the connection, if it can hand the session off; else nil.
	carrier handOffer
	resumed *resumed // nil: a session that began here, or has gone on by now
	way     underWay
	queued  queued // for a checkpoint
	base    base   // the last one

	mu      sync.Mutex // guards all below
	out     *syntax.Encoder
	box     mailbox.Box // nil before the login
	owned   bool        // box is closed by the session
	secure  bool        // the connection is encrypted here
	view    *view       // of the selected folder, else nil
	saved   []mailbox.UID
	updates *updates   // searches that are kept up to date
	last    fetch.Last // see drop
	enabled enabled
	deflate bool
	notify  *notify // what NOTIFY asked for, else nil
	running string  // the command's name
}

// enabled is what ENABLE, or a command that implies it, has switched on.
type enabled struct {
	condstore, qresync, utf8, rev2, uidOnly, metadata bool
}

// sessionLog names the session in what is logged of it, when something is: few have anything
// to log but their end.
type sessionLog struct {
	slog.Handler
	s    *session
	user string
}

// Handle implements slog.Handler.
func (h sessionLog) Handle(ctx context.Context, r slog.Record) error {
	all := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	all.AddAttrs(slog.String("session", h.s.data.ID), slog.String("client", h.s.data.Client))
	if h.user != "" {
		all.AddAttrs(slog.String("user", h.user))
	}
	r.Attrs(func(a slog.Attr) bool {
		all.AddAttrs(a)
		return true
	})
	return h.Handler.Handle(ctx, all)
}

// WithAttrs implements slog.Handler.
func (h sessionLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return sessionLog{h.Handler.WithAttrs(attrs), h.s, h.user}
}

// WithGroup implements slog.Handler.
func (h sessionLog) WithGroup(name string) slog.Handler {
	return sessionLog{h.Handler.WithGroup(name), h.s, h.user}
}

func newSession(ctx context.Context, srv *Server, data *Session, nc net.Conn) *session {
	s := &session{srv: srv, data: *data, box: data.Box, raw: nc, began: time.Now(), c: newConn(nc, srv.limits, srv.inputs), watcher: newWatcher()}
	s.ctx, s.stop = context.WithCancel(ctx)
	user := ""
	if s.box != nil {
		user = string(s.box.User())
		s.moved = s.box.Done()
	}
	s.log = slog.New(sessionLog{srv.log.Handler(), s, user})
	s.out = syntax.NewEncoder(s.c, srv.outputs)
	s.p = syntax.New(input{s.c, s}, srv.limits.Syntax)
	if srv.opt.Separator != mailbox.Separator {
		naming := mailbox.Naming{Separator: srv.opt.Separator}.Swap
		s.p.Naming, s.out.Naming = naming, naming
	}
	s.c.blocking = s.flush
	if c, ok := nc.(handOffer); ok && s.box != nil && c.CanHandOff() {
		s.carrier = c
		s.queued.read = -1 // there is no checkpoint yet
		s.c.records, s.c.all, s.base.tips = true, &srv.recorded, c.CanPoint()
	}
	return s
}

// flush sends what is collected, before the session's goroutine waits for the client: at rest with
// a checkpoint.
func (s *session) flush() error {
	if !s.locked {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	s.point()
	return s.out.Flush()
}

// serve runs commands until the session ends, and says why it did.
func (s *session) serve() ending {
	err := s.start()
	for err == nil {
		s.c.rest()
		if s.stopping() {
			err = errEnded // also where commands wait that were sent before
			break
		}
		if err = s.p.Next(); err != nil {
			break
		}
		if s.carrier != nil && s.stopping() {
			err = errEnded // where it goes on the command is executed
			break
		}
		err = s.command()
	}
	return s.farewell(err)
}

// start is what comes before the first command.
func (s *session) start() error {
	if s.resumed != nil {
		return s.goOn()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	how := "PREAUTH"
	if s.box == nil {
		how = "OK"
		s.c.wait = s.srv.limits.Login
	}
	s.out.Raw("* ").Raw(how).Raw(" [CAPABILITY").Raw(s.capabilities()).Raw("] ready").CRLF()
	return s.out.Err()
}

// command runs the command whose first line was read.
func (s *session) command() error {
	s.mu.Lock()
	s.locked = true
	defer func() {
		s.locked = false
		if s.notify != nil {
			s.watcher.wake()
		}
		s.mu.Unlock()
	}()
	s.way.begin = s.out.Mark()
	err := s.execute()
	if err == nil {
		s.way, s.p.Granted = underWay{}, 0
	}
	return err
}

// errLogout ends the session after its last answer.
var errLogout = errors.New("logout")

// farewell hands the session off, or says BYE where something can still be said.
func (s *session) farewell(err error) ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	why := endGone
	switch {
	case errors.Is(err, errLogout):
		why = endLogout
	case errors.Is(err, fetch.ErrBroken):
		return endIO // inside of a literal; what is collected must not go out as if it were whole
	case errors.Is(err, syntax.ErrTooBig):
		why = endTooBig
	case errors.Is(err, errEnded):
		why = s.c.ending()
		if s.carrier != nil && (why == endMoving || why == endStopping) {
			if why = s.handOff(why); why == endHandedOff || why == endGone {
				return why
			}
		}
	default:
		if !errors.Is(err, io.EOF) {
			s.log.Debug("imap connection failed", "error", err)
		}
		return s.gone(err)
	}
	if why != endLogout {
		s.out.Raw("* BYE ").Raw(why.bye()).CRLF()
	}
	if c, ok := s.c.Conn.(holder); ok {
		c.Hold() // close follows
	}
	if err := s.out.Flush(); err != nil {
		s.log.Debug("imap BYE not sent", "error", err)
	}
	return why
}

// close ends what the session has running and gives back what it holds.
func (s *session) close() {
	s.stop()
	s.watcher.wait()
	s.srv.checkpoints.remove(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unselect()
	s.c.close()
	s.out.Discard()
	if s.owned {
		s.box.Close()
	}
}

// stopping reports that the session must end.
func (s *session) stopping() bool { return s.c.ending() != endNone }
