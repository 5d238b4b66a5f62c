// Package imap is an IMAP server (RFC 9051 and RFC 3501): the protocol, over the interface of package
// mailbox. Whoever supplies mailboxes, and a login where clients are not authenticated yet, has a full
// server. It knows nothing of how mailboxes are kept.
//
// It owns each session's view of its folder, and nothing on disk. It promises:
//
//   - The client's view is never guessed: it changes only by what a Snapshot
//     that succeeded says. A folder that cannot be read makes nobody delete
//     anything.
//   - When the mailbox is fenced (mailbox.ErrStale, ErrFrozen, ErrRefused, or
//     Done) or closed (mailbox.ErrClosed), or the folder numbered anew, the
//     session ends with a BYE between two commands, never with a NO. A FETCH
//     of a message that was begun is finished. Over a connection that can (handOffer), and so
//     where the backend stops, the session is handed off instead: the client sees a pause.
//   - A session that was handed off goes on only where what the client was told is proven to
//     fit the folder. A command that was cut is executed there, if it had changed nothing.
//   - Memory per session is bounded: messages stream in both directions,
//     commands are bounded by package syntax, structures by package mime; a
//     session that waits holds no buffers. So is the time that LIST takes to
//     match names, and that a SEARCH keeps others from theirs.
//   - To tell a session what changed in its folder costs what was changed, not
//     what the folder has. Sessions share a folder's messages in memory.
//   - NOTIFY queues nothing: one watcher a session compares what the client knows with what
//     there is, at a pace that leaves the processor to others.
//   - What a client sent as a literal never runs as a command.
//
// A crash loses open sessions and nothing else; over a connection that can, sessions at rest have
// a checkpoint from which they go on, which goes out in one batch with the answer that leads to it: lost
// are those in which a command runs.
//
// Subpackages: syntax has the tokens, fetch renders messages, search finds, sorts and threads
// them, carried is what a session takes along. Each command is one line of the table in command.go and a function in the file of its
// extension. The capabilities, and the RFCs that they stand for, are in capability.go.
package imap

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/imap/fetch"
	"waypost/backend/imap/search"
	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

// ErrClosed: Serve was called after Shutdown.
var ErrClosed = errors.New("the IMAP server is shut down")

// ErrLogin: a Login that the client got wrong. Other errors of a Login are temporary.
var ErrLogin = errors.New("user or password wrong")

// Limits bound a session. Zero values stand for the defaults.
type Limits struct {
	// AppendBytes bounds a message of APPEND, as sent (1 GiB; at most 4 GiB − 1).
	AppendBytes int64
	// Idle ends a session without a command, or an IDLE (31 minutes; RFC 9051,
	// Section 5.4 asks for 30 at least). Login is the same before the login (1 minute).
	Idle, Login time.Duration
	// Command is how long a command that has begun may be silent (1 minute), Literal
	// the same in a literal (5 minutes).
	Command, Literal time.Duration
	// Write ends a session whose client takes no 32 KiB in that time (5 minutes).
	Write time.Duration
	// Finish is how long a command that runs when the mailbox moves may take
	// to end (15 minutes), Grace the same when the backend stops (30 seconds).
	Finish, Grace time.Duration
	// Searches is how many searches of all sessions may read messages at once (2 for each
	// processor), those of one user half as many.
	Searches int
	// Syntax bounds commands.
	Syntax syntax.Limits
}

// passedOver bounds what is read of a literal that was refused, in bytes.
const passedOver = 64 << 20

func (l Limits) withDefaults() Limits {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&l.Idle, 31*time.Minute)
	set(&l.Login, time.Minute)
	set(&l.Command, time.Minute)
	set(&l.Literal, 5*time.Minute)
	set(&l.Write, 5*time.Minute)
	set(&l.Finish, 15*time.Minute)
	set(&l.Grace, 30*time.Second)
	if l.AppendBytes <= 0 {
		l.AppendBytes = 1 << 30
	}
	l.AppendBytes = min(l.AppendBytes, 1<<32-1)
	if l.Searches <= 0 {
		l.Searches = defaultSearches()
	}
	if l.Syntax.Drain <= 0 {
		// A message of a common size is passed over, for a client that does not wait for leave:
		// it is to hear that the folder is missing, or full, and go on.
		l.Syntax.Drain = max(min(l.AppendBytes, passedOver), 1<<20)
	}
	l.Syntax = l.Syntax.WithDefaults()
	return l
}

// Credentials are what a client says of itself.
type Credentials struct {
	// User and Password are as sent; As is whom the client wants to act for, or "".
	User, Password, As string
	// Client is its address.
	Client string
}

// Options are what a Server needs.
type Options struct {
	Log     *slog.Logger          // required
	Metrics prometheus.Registerer // nil: none
	Limits  Limits
	// Login, for servers whose clients log in here: it opens the mailbox, and the end of
	// the session closes it. ErrLogin.
	Login func(context.Context, Credentials) (Session, error)
	// TLS is for STARTTLS. Without it a client may log in over a plain connection only if
	// PlainLogin says so.
	TLS        *tls.Config
	PlainLogin bool
	// Stops, if not nil, is asked when a Box is Done, and must not wait: whether that is because its
	// place stops. Then the Box serves its epoch still, for most of Limits.Grace, and a command that
	// is too long to be carried is read to its end and executed before the session is handed off.
	// Where a Box is fenced, nothing more of such a command is read.
	Stops func() bool
	// Separator is what clients find between the parts of mailbox names; 0 stands for
	// mailbox.Separator. The two change places (mailbox.Naming).
	Separator byte
	// Name and Version are what ID tells (RFC 2971).
	Name, Version string
}

// Session is a mailbox for one connection.
type Session struct {
	// Box is the mailbox. Where Serve is given it, the client is authenticated, is
	// greeted with PREAUTH, and the Box stays the caller's.
	Box mailbox.Box
	// Store stages APPEND's messages.
	Store mailbox.Store
	// Texts makes searches in texts fast; nil: messages are read.
	Texts mailbox.TextIndex
	// Client is the client's address, ID the session's name; both for logs.
	Client, ID string
	// State, if not nil, is what the session was handed off with: it goes on from there,
	// and no greeting is sent.
	State []byte
}

// Server serves sessions. It is safe for concurrent use.
type Server struct {
	opt      Options
	log      *slog.Logger
	limits   Limits
	metrics  *metrics
	commands map[string]command
	outputs  *sync.Pool    // syntax.Buffers
	bodies   *sync.Pool    // fetch.NewBuffers
	inputs   *sync.Pool    // of *[]byte, inputSize long
	searches *search.Slots // for searches that read messages
	// progressAfter is the constant, but in tests.
	progressAfter time.Duration

	mu          sync.Mutex
	stopped     bool
	conns       map[net.Conn]struct{}
	sessions    sync.WaitGroup
	watches     watches
	checkpoints checkpoints
	recorded    atomic.Int64 // bytes of all sessions' records
	memory      *sortMemory
}

// New makes a server.
func New(o Options) *Server {
	limits := o.Limits.withDefaults()
	o.Separator = cmp.Or(o.Separator, mailbox.Separator)
	return &Server{
		opt: o, log: o.Log, limits: limits, metrics: newMetrics(o.Metrics),
		commands: commands(), outputs: syntax.Buffers(), bodies: fetch.NewBuffers(),
		inputs:   &sync.Pool{New: func() any { b := make([]byte, inputSize); return &b }},
		searches: search.NewSlots(limits.Searches), progressAfter: progressAfter,
		conns:  make(map[net.Conn]struct{}),
		memory: newMemory(memoryBytes), watches: newWatches(),
	}
}

// Serve handles one session until it ends and closes nc. It returns nil for an
// end that either side wanted: LOGOUT, a client that hung up, a BYE, a hand-off.
func (s *Server) Serve(ctx context.Context, nc net.Conn, sess Session) error {
	r, err := s.Begin(ctx, nc, sess)
	if err == nil {
		return r.Run()
	}
	defer nc.Close()
	if sess.State == nil {
		nc.SetWriteDeadline(time.Now().Add(time.Second))
		_, said := io.WriteString(nc, "* BYE "+endStopping.bye()+"\r\n")
		err = errors.Join(err, said)
	}
	return err
}

// Running is a session that has begun. Run or Abandon must be called.
type Running struct {
	ctx     context.Context
	nc      net.Conn
	session *session
}

// Begin is the first part of Serve, for callers with many sessions: what it needs lies on no
// stack while they wait. It sends nothing, and with an error nc stays open.
//
// A Session with a State is proven to be what the client has seen before Begin returns. If it is
// not, the error is a *handoff.Error, for good; others are temporary.
func (s *Server) Begin(ctx context.Context, nc net.Conn, sess Session) (*Running, error) {
	if sess.State != nil {
		return s.resume(ctx, nc, &sess)
	}
	if err := s.enter(nc); err != nil {
		return nil, err
	}
	return &Running{ctx, nc, newSession(ctx, s, &sess, nc)}, nil
}

// Abandon is in place of Run: nothing is said or executed, and nc stays open.
func (r *Running) Abandon() {
	r.session.close()
	r.session.srv.leave(r.nc)
}

// Run is the rest of Serve.
func (r *Running) Run() error {
	r.session.srv.watch(r.ctx, r.session)
	return r.end(r.session.serve())
}

func (r *Running) end(why ending) error {
	defer r.session.srv.leave(r.nc)
	defer r.nc.Close()
	return r.session.srv.part(r.session, why)
}

// part ends a session whose last word is written.
func (s *Server) part(ss *session, why ending) error {
	ss.close()
	switch _, whole := ss.c.Conn.(holder); {
	case whole:
		ss.c.Conn.Close() // it takes what was written along
	case why != endGone && why != endHandedOff:
		linger(ss.c.Conn, s.limits.Grace)
	}
	s.unwatch(ss)
	s.ended(ss, why)
	if why == endIO {
		return fmt.Errorf("IMAP session %s: a message could not be read", ss.data.ID)
	}
	return nil
}

// ended counts and logs a session. It is apart from Serve, whose locals lie on the stack of every
// session that waits.
func (s *Server) ended(ss *session, why ending) {
	s.metrics.ended.WithLabelValues(why.String()).Inc()
	s.metrics.bytes.WithLabelValues("in").Add(float64(ss.c.read.Load()))
	s.metrics.bytes.WithLabelValues("out").Add(float64(ss.c.written.Load()))
	ss.log.LogAttrs(context.Background(), slog.LevelInfo, "imap session ended", slog.String("reason", why.String()),
		slog.Float64("seconds", time.Since(ss.began).Seconds()),
		slog.Int64("bytes_in", ss.c.read.Load()), slog.Int64("bytes_out", ss.c.written.Load()))
}

func (s *Server) enter(nc net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return ErrClosed
	}
	s.conns[nc] = struct{}{}
	s.sessions.Add(1)
	s.metrics.open.Inc()
	return nil
}

func (s *Server) leave(nc net.Conn) {
	s.mu.Lock()
	delete(s.conns, nc)
	s.mu.Unlock()
	s.metrics.open.Dec()
	s.sessions.Done()
}

// Shutdown lets every session end, handed off where its connection can, else with a BYE after its
// present command. When ctx ends first, connections are cut.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.watches.stop(s.limits.Grace)
	all := make(chan struct{})
	go func() {
		defer close(all)
		s.sessions.Wait()
	}()
	select {
	case <-all:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for nc := range s.conns {
		nc.Close()
	}
	s.mu.Unlock()
	<-all
	return ctx.Err()
}

// linger lets the peer take the last answer: closing a socket that has unread input
// would reset the connection and lose it.
func linger(nc net.Conn, wait time.Duration) {
	half, ok := nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	nc.SetReadDeadline(time.Now().Add(min(wait, time.Second)))
	// Whatever comes is of no interest, nor how it ends.
	_, _ = io.Copy(io.Discard, io.LimitReader(nc, 1<<20))
}
