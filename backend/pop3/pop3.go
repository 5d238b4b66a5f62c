// Package pop3 is a backend's POP3 server in the TRANSACTION state: the proxy
// has greeted and logged the client in, and the caller has opened the Box and
// holds the maildrop's lock (Locks).
//
// It owns the protocol of one session, no storage. Its promises:
//   - What a session sees is the inbox as it was at the start: numbers, sizes
//     and UIDLs do not change in it. STAT, LIST and UIDL open no message.
//   - Only QUIT removes messages (RFC 1939, Section 6). A connection that ends
//     otherwise, by the client, an idle time-out or us, removes nothing.
//   - A move is never an error: once the Box is done, closed, or refuses by its
//     fence, no further command is begun. After a message that is being sent has been
//     sent whole, the session is handed off (frames.Stream.HandOff): another Server goes
//     on with it (Session.State), with the same numbers, sizes, UIDLs and marks,
//     the command that the fence has cut first. Over a connection that cannot do that,
//     and where the inbox's UIDs are others than the session was told, the connection is
//     closed.
//   - While the client is silent the proxy has a checkpoint of the session: with each answer, or,
//     in a large maildrop, after a second.
//   - Memory per session does not depend on the size of messages.
//
// A crash loses, with sessions that have no checkpoint, deletion marks and perhaps \Seen
// flags of messages just retrieved; nothing else.
//
// Covered: RFC 1939 without APOP, RFC 2449 (CAPA, PIPELINING, RESP-CODES, EXPIRE,
// IMPLEMENTATION), RFC 3206 ([SYS/TEMP]), RFC 6856 (LANG; UTF8 comes with the
// login), and the extended listing of docs/pop3-listing.md. A client that has not
// said UTF8 gets header fields that are UTF-8 replaced by ASCII (RFC 6858). The
// sizes are those of the message as it is stored, in both cases: RFC 6856, Section
// 2.1, would like them to be those of the replacement, but that would mean to open
// all messages for a LIST.
package pop3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/link"
	"waypost/backend/mailbox"
)

// How a session can end other than by QUIT, beside errors of the connection.
// An errors.Is io.EOF is a client that hung up.
var (
	// ErrHandedOff: the session goes on elsewhere, or will.
	ErrHandedOff = errors.New("the session was handed off")
	// ErrMoved: the Box was done, closed or stale, or the inbox numbered anew;
	// the session was ended by us, and could not be handed off.
	ErrMoved = errors.New("the mailbox is no longer served here")
	// ErrIdle: the client was silent for too long.
	ErrIdle = errors.New("idle for too long")
	// ErrAbuse: the client sent what no POP3 client sends.
	ErrAbuse = errors.New("not a POP3 client")
)

// Options are a server's surroundings and limits; zero fields get the default.
type Options struct {
	// Log gets one line for each session; nil: none.
	Log *slog.Logger
	// Metrics is where the waypost_pop3_ metrics are registered; nil: nowhere.
	Metrics prometheus.Registerer
	// UIDL is the form of unique ids; the zero value is "%g". See ParseUIDL.
	UIDL UIDL
	// Capabilities are those of sessions that bring none of their own.
	Capabilities []string
	// Idle is how long a command may take to come; 10 minutes, which is the
	// least that RFC 1939, Section 3 allows.
	Idle time.Duration
	// Write is how long the client may take for the next 32 KiB; 2 minutes.
	Write time.Duration
	// Linger is how long a message may still take to be sent after the Box is
	// done; 10 minutes.
	Linger time.Duration
}

// Session is what the caller brings to Serve.
type Session struct {
	// Box is the user's mailbox. Serve does not close it.
	Box mailbox.Box
	// UIDL is the form of unique ids in this mailbox; the zero value: Options.UIDL.
	UIDL UIDL
	// UTF8: the client has said UTF8 (RFC 6856), and gets messages with UTF-8 in
	// their header as they are.
	UTF8 bool
	// Capabilities are added to CAPA's list: what the proxy has offered for the
	// login, such as "USER", "SASL PLAIN LOGIN" and "STLS", which RFC 2449 and RFC
	// 2595 want listed in both states. Nil: Options.Capabilities.
	Capabilities []string
	// Client is the client's address and ID the session's, for logs.
	Client, ID string
	// State, if not nil, is what another backend has handed off, in its envelope
	// (package handoff): the session goes on from there. UTF8 and Capabilities are its own.
	State []byte
}

func (ses Session) capabilities(srv *Server) []string {
	if ses.Capabilities != nil {
		return ses.Capabilities
	}
	return srv.opt.Capabilities
}

// Server serves sessions and is safe for concurrent use.
type Server struct {
	opt     Options
	met     *metrics
	buffers sync.Pool // of *[copyBuffer]byte, for messages that are read
	out     link.Buffers

	checkpoints link.Checkpoints
}

// New makes a server.
func New(opt Options) *Server {
	fill := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	fill(&opt.Idle, 10*time.Minute)
	fill(&opt.Write, 2*time.Minute)
	fill(&opt.Linger, 10*time.Minute)
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		opt: opt, met: newMetrics(opt.Metrics),
		buffers: sync.Pool{New: func() any { return new([copyBuffer]byte) }},
	}
}

// Serve runs a session to its end and closes conn, whose next byte must be the
// first after the login. It returns nil after a QUIT that did all it had to,
// and else why the session ended; errors have been logged. The end of ctx ends
// the session at once, for good. The caller closes the Box and releases the maildrop's
// lock afterwards.
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

// Begin is the first part of Serve: it looks at the maildrop, and at a State whether
// it can go on with it, before anything is said to the client. A *handoff.Error says that
// it can not, for good; other errors are temporary, and those of a fence. Nothing must be given
// back if Run is not called.
func (srv *Server) Begin(ses Session) (*Running, error) {
	s := newSession(srv, &ses)
	var err error
	if ses.State != nil {
		err = s.resume(ses.State)
	} else {
		err = s.open()
	}
	if err != nil {
		return nil, fmt.Errorf("pop3 session %s of %s: %w", ses.ID, ses.Box.User(), s.moved(err))
	}
	return &Running{s}, nil
}

// Run is the rest of Serve. A session that was handed off ends in ErrHandedOff.
func (r *Running) Run(ctx context.Context, conn net.Conn) error {
	s := r.s
	defer conn.Close()
	s.srv.met.sessions.Inc()
	defer s.srv.met.sessions.Dec()
	link.KeepAlive(conn)
	ctx, cancel := context.WithCancel(ctx)
	start := time.Now()

	s.attach(ctx, conn)
	err := s.moved(s.run())
	if s.handOff(err) {
		err = ErrHandedOff
	} else {
		s.finish(err)
	}
	cancel()
	s.link.Wait()

	reason := ending(err)
	s.srv.met.ended.WithLabelValues(reason).Inc()
	s.srv.met.sent.Add(float64(s.link.Sent))
	level := slog.LevelInfo
	if reason == "error" {
		level = slog.LevelWarn
	}
	s.log.Log(context.WithoutCancel(ctx), level, "pop3 session ended", "reason", reason, "err", err,
		"retrieved", s.retrieved, "deleted", s.removed, "bytes", s.link.Sent, "seconds", time.Since(start).Seconds())
	if err != nil {
		return fmt.Errorf("pop3 session %s of %s: %w", s.id, s.box.User(), err)
	}
	return nil
}

// ending is the word by which the end of a session is counted.
func ending(err error) string {
	switch {
	case err == nil:
		return "quit"
	case errors.Is(err, ErrHandedOff):
		return "handed_off"
	case errors.Is(err, ErrMoved):
		return "moved"
	case errors.Is(err, ErrIdle):
		return "idle"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "stopped"
	case errors.Is(err, os.ErrDeadlineExceeded): // of a write: reads have ErrIdle
		return "slow"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "hung_up"
	case errors.Is(err, ErrAbuse):
		return "abuse"
	default:
		return "error"
	}
}
