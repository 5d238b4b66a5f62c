// Package managesieve is a backend's ManageSieve server (RFC 5804) after the
// login: the proxy has greeted and authenticated the client, and the caller has
// opened the user's Scripts.
//
// It owns the protocol of one session, no storage. Its promises:
//   - A script that Options.Compile does not accept is never stored, and an OK to
//     a change means that the change is durable.
//   - A move is never an error: once the Scripts are done, closed, or refuse by
//     their fence, no further command is begun, and the session is handed off
//     (frames.Stream.HandOff): another Server goes on with it (Session.State), with the
//     command that the fence has cut, or as much as has come of it. Over a connection
//     that cannot do that it ends with BYE (TRYLATER), and so it does after a command
//     that failed on the disk at that very moment. A command whose answer was that BYE was
//     not done; only one of that last kind may turn out to have been.
//   - Bytes of a literal never run as commands, however long it is and whatever
//     is wrong with its command.
//   - Memory per session: a few KiB, and two scripts of the size allowed while one is
//     coming.
//
// A session keeps nothing that a crash could lose, but its connection; while the client is
// silent the proxy has a checkpoint to go on from.
//
// Covered: RFC 5804 without its optional extensions; AUTHENTICATE and STARTTLS
// are the proxy's, which is why they are refused here (Sections 2.1 and 2.2).
package managesieve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/link"
	"waypost/backend/scripts"
	"waypost/director"
)

// How a session can end other than by LOGOUT, beside errors of the connection.
// An errors.Is io.EOF is a client that hung up.
var (
	// ErrHandedOff: the session goes on elsewhere, or will.
	ErrHandedOff = errors.New("the session was handed off")
	// ErrMoved: the Scripts were done, closed or stale; the session was ended by us, and
	// could not be handed off.
	ErrMoved = errors.New("the mailbox is no longer served here")
	// ErrIdle: the client was silent for too long.
	ErrIdle = errors.New("idle for too long")
	// ErrAbuse: the client sent what no ManageSieve client sends.
	ErrAbuse = errors.New("not a ManageSieve client")
)

// Scripts are one user's scripts, opened at one epoch. Each call takes the user's
// lock and checks the fence there (R1): mailbox.ErrStale, ErrFrozen, ErrRefused
// and ErrClosed end the session. Other errors are those of package scripts,
// mailbox.ErrOverQuota, and temporary ones. Guarded is the implementation.
type Scripts interface {
	User() director.User
	// Done is closed when the fence has left the epoch or the backend stops.
	Done() <-chan struct{}

	List() ([]scripts.Script, error)
	Get(name string) ([]byte, error)
	HaveSpace(name string, size int64) error
	// Put, Delete, Rename and SetActive are durable when they return nil.
	Put(name string, src []byte) error
	Delete(name string) error
	Rename(from, to string) error
	SetActive(name string) error
}

// Options are a server's surroundings and limits; zero fields get the default.
type Options struct {
	// Compile checks a script; name is "" for CHECKSCRIPT. The text of err, with
	// line numbers, is for the user, and so are warnings, which may be empty. It
	// is needed, safe for concurrent use, and bounds its own work.
	Compile func(name string, src []byte) (warnings string, err error)
	// Extensions are what Compile understands, as in "require"; Notify the
	// schemes of its notification methods; MaxRedirects how many redirects a
	// script may make. RFC 5804, Section 1.7. A proxy announces the same.
	Extensions   []string
	Notify       []string
	MaxRedirects int
	// SASL are the mechanisms that the proxy offers; "PLAIN LOGIN".
	SASL string

	// Log gets one line for each session; nil: none.
	Log *slog.Logger
	// Metrics is where the waypost_managesieve_ metrics are registered; nil: nowhere.
	Metrics prometheus.Registerer

	// ScriptBytes bounds a script that is taken in; 1 MiB. The store's own limit
	// should not be above it.
	ScriptBytes int64
	// Idle is how long a command may take to come; 30 minutes, the least that
	// RFC 5804, Section 1.2, allows.
	Idle time.Duration
	// Literal is how long a literal may take to come; 5 minutes.
	Literal time.Duration
	// Write is how long the client may take for the next 4 KiB; 2 minutes.
	Write time.Duration
	// Linger is how long an answer may still take to be sent after the Scripts
	// are done; 1 minute.
	Linger time.Duration
}

// Session is what the caller brings to Serve.
type Session struct {
	Scripts Scripts
	// Client is the client's address and ID the session's, for logs.
	Client, ID string
	// State, if not nil, is what another backend has handed off, in its envelope
	// (package handoff): the session goes on from there.
	State []byte
}

// Server serves sessions and is safe for concurrent use.
type Server struct {
	opt         Options
	met         *metrics
	checkpoints link.Checkpoints
}

// New makes a server. Options.Compile must be set.
func New(opt Options) *Server {
	fill := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	fill(&opt.Idle, 30*time.Minute)
	fill(&opt.Literal, 5*time.Minute)
	fill(&opt.Write, 2*time.Minute)
	fill(&opt.Linger, time.Minute)
	if opt.ScriptBytes <= 0 {
		opt.ScriptBytes = 1 << 20
	}
	if opt.SASL == "" {
		opt.SASL = "PLAIN LOGIN"
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{opt: opt, met: newMetrics(opt.Metrics)}
}

// Serve runs a session to its end and closes conn, whose next byte must be the
// first after the login. It returns nil after a LOGOUT, and else why the session
// ended; errors have been logged. The end of ctx ends the session at once, for good.
func (srv *Server) Serve(ctx context.Context, conn net.Conn, ses Session) error {
	r, err := srv.Begin(ses)
	if err != nil {
		conn.Close()
		return err
	}
	return r.Run(ctx, conn)
}

// Running is a session that has begun, and to which nobody has listened yet.
type Running struct{ s *session }

// Begin is the first part of Serve: it looks whether it can go on from a State, before
// anything is said to the client. A *handoff.Error says that it can not, for good. Nothing
// must be given back if Run is not called.
func (srv *Server) Begin(ses Session) (*Running, error) {
	s := newSession(srv, &ses)
	if ses.State != nil {
		if err := s.resume(ses.State); err != nil {
			return nil, fmt.Errorf("managesieve session %s of %s: %w", ses.ID, ses.Scripts.User(), err)
		}
	}
	return &Running{s}, nil
}

// Run is the rest of Serve. A session that was handed off ends in ErrHandedOff.
func (r *Running) Run(ctx context.Context, conn net.Conn) error {
	s, srv := r.s, r.s.srv
	defer conn.Close()
	srv.met.sessions.Inc()
	defer srv.met.sessions.Dec()
	link.KeepAlive(conn)
	ctx, cancel := context.WithCancel(ctx)
	start := time.Now()

	s.attach(ctx, conn)
	err := s.moved(s.run())
	if s.handOff(err) {
		err = ErrHandedOff
	} else {
		s.farewell(err)
	}
	cancel()
	s.link.Wait()

	reason := ending(err)
	srv.met.ended.WithLabelValues(reason).Inc()
	level := slog.LevelInfo
	if reason == "error" {
		level = slog.LevelWarn
	}
	s.log.Log(context.WithoutCancel(ctx), level, "managesieve session ended", "reason", reason, "err", err,
		"commands", s.commands, "bytes", s.link.Sent, "seconds", time.Since(start).Seconds())
	if err != nil {
		return fmt.Errorf("managesieve session %s of %s: %w", s.id, s.scripts.User(), err)
	}
	return nil
}

// endings are the words by which the ends of sessions are counted.
var endings = []string{"logout", "handed_off", "moved", "idle", "stopped", "slow", "hung_up", "abuse", "error"}

func ending(err error) string {
	switch {
	case err == nil:
		return "logout"
	case errors.Is(err, ErrHandedOff):
		return "handed_off"
	case errors.Is(err, ErrMoved):
		return "moved"
	case errors.Is(err, ErrIdle):
		return "idle"
	case errors.Is(err, ErrAbuse):
		return "abuse"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "stopped"
	case errors.Is(err, os.ErrDeadlineExceeded): // of a write: reads have ErrIdle
		return "slow"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "hung_up"
	}
	return "error"
}
