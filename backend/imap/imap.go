// Package imap serves IMAP sessions (RFC 3501 and 9051) on a mailbox that the
// caller has opened: connections come from a proxy that has authenticated the
// client, so a session begins with a PREAUTH greeting.
//
// It owns the protocol and each session's view of its folder, and nothing on
// disk. It promises:
//
//   - The client's view is never guessed: it changes only by what a Snapshot
//     that succeeded says. A folder that cannot be read makes nobody delete
//     anything.
//   - When the mailbox is fenced (mailbox.ErrStale, ErrFrozen, ErrRefused, or
//     Done) or closed (mailbox.ErrClosed), or the folder numbered anew, the session ends with a BYE between two commands, never with a NO.
//     A FETCH of a message that was begun is finished.
//   - Memory per session is bounded: messages stream in both directions, input
//     is framed by conn, structures are bounded by package mime. So is the time
//     that LIST takes to match names.
//   - To tell a session what changed in its folder costs what was changed, not
//     what the folder has. SELECT, EXPUNGE and SEARCH look at all messages.
//
// A crash loses open sessions and nothing else. RFCs: 3501, 2177 (IDLE), 2342
// (NAMESPACE), 3691 (UNSELECT), 4315 (UIDPLUS), 4731 (ESEARCH), 5161 (ENABLE),
// 5182 (SEARCHRES), 5258 (LIST-EXTENDED), 5530 (response codes), 5819
// (LIST-STATUS), 6851 (MOVE), 7888 (LITERAL-), 7889 (APPENDLIMIT), 8438
// (STATUS=SIZE), 3348 (CHILDREN), 6855 (UTF8=ACCEPT, as far as the protocol
// library has it). Callers: the backend's wiring.
package imap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"
	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/mailbox"
)

// ErrClosed: Serve was called after Shutdown.
var ErrClosed = errors.New("the IMAP server is shut down")

// Limits bound a session. Zero values stand for the defaults.
type Limits struct {
	// AppendBytes bounds APPEND's messages, as sent (1 GiB; at most 4 GiB − 1).
	AppendBytes int64
	// Idle ends a session without a command, or an IDLE (31 minutes; RFC 9051,
	// Section 5.4 asks for 30 at least).
	Idle time.Duration
	// Write ends a session whose client takes no 32 KiB in that time (5 minutes).
	Write time.Duration
	// Finish is how long a command that runs when the mailbox moves may take
	// to end (15 minutes), Grace the same when the backend stops (30 seconds).
	Finish, Grace time.Duration
}

func (l Limits) withDefaults() Limits {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&l.Idle, 31*time.Minute)
	set(&l.Write, 5*time.Minute)
	set(&l.Finish, 15*time.Minute)
	set(&l.Grace, 30*time.Second)
	if l.AppendBytes <= 0 {
		l.AppendBytes = 1 << 30
	}
	l.AppendBytes = min(l.AppendBytes, 1<<32-1)
	return l
}

// Options are what a Server needs.
type Options struct {
	Log     *slog.Logger          // required
	Metrics prometheus.Registerer // nil: none
	Limits  Limits
}

// Session is what Serve is told of a connection.
type Session struct {
	// Box stays the caller's: Serve does not close it.
	Box mailbox.Box
	// Store stages APPEND's messages.
	Store mailbox.Store
	// Client is the client's address, ID the session's name; both for logs.
	Client, ID string
}

// Server serves sessions. It is safe for concurrent use.
type Server struct {
	log     *slog.Logger
	limits  Limits
	metrics *metrics
	chunks  sync.Pool // of *[]byte, chunkSize long

	stopping chan struct{} // closed by Shutdown
	mu       sync.Mutex
	stopped  bool
	conns    map[net.Conn]struct{}
	sessions sync.WaitGroup
}

// New makes a server.
func New(o Options) *Server {
	s := &Server{
		log: o.Log, limits: o.Limits.withDefaults(), metrics: newMetrics(o.Metrics),
		stopping: make(chan struct{}), conns: make(map[net.Conn]struct{}),
	}
	s.chunks.New = func() any { b := make([]byte, chunkSize); return &b }
	return s
}

// capabilities are those that work here; the library adds SASL-IR, LITERAL-,
// UNSELECT, ENABLE, IDLE, UTF8=ACCEPT and APPENDLIMIT by itself.
func capabilities() imap.CapSet {
	set := make(imap.CapSet)
	for _, c := range []imap.Cap{
		imap.CapIMAP4rev1, imap.CapNamespace, imap.CapUIDPlus, imap.CapESearch, imap.CapSearchRes,
		imap.CapListExtended, imap.CapListStatus, imap.CapMove, imap.CapStatusSize, imap.CapChildren,
	} {
		set[c] = struct{}{}
	}
	return set
}

// Serve handles one session until it ends and closes nc. It returns nil for an
// end that either side wanted: LOGOUT, a client that hung up, a BYE.
func (s *Server) Serve(ctx context.Context, nc net.Conn, sess Session) error {
	defer nc.Close()
	if err := s.enter(nc); err != nil {
		return err
	}
	defer s.leave(nc)
	began := time.Now()
	c := newConn(nc, s.limits, &s.chunks)
	ss := newSession(ctx, s, sess, c)
	lib := imapserver.New(&imapserver.Options{
		Caps:   capabilities(),
		Logger: logger{ss.log},
		NewSession: func(ic *imapserver.Conn) (imapserver.Session, *imapserver.GreetingData, error) {
			ss.start(ic)
			return ss, &imapserver.GreetingData{PreAuth: true}, nil
		},
	})
	if err := lib.Serve(&once{c: c}); err != nil {
		return fmt.Errorf("IMAP session %s of %s: %w", sess.ID, sess.Box.User(), err)
	}
	s.watch(ctx, nc, c, ss)
	why := ss.why()
	if why != endLogout && why != endGone {
		linger(nc)
	}
	s.metrics.ended.WithLabelValues(why.String()).Inc()
	s.metrics.bytes.WithLabelValues("in").Add(float64(c.read.Load()))
	s.metrics.bytes.WithLabelValues("out").Add(float64(c.written.Load()))
	ss.log.Info("imap session ended", "reason", why.String(), "seconds", time.Since(began).Seconds(),
		"bytes_in", c.read.Load(), "bytes_out", c.written.Load())
	if why == endIO {
		return fmt.Errorf("IMAP session %s of %s: a message could not be read", sess.ID, sess.Box.User())
	}
	return nil
}

func (s *Server) enter(nc net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		nc.SetWriteDeadline(time.Now().Add(time.Second))
		_, err := io.WriteString(nc, "* BYE "+endStopping.bye()+"\r\n")
		return errors.Join(ErrClosed, err)
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

// watch waits for the session's end, asks for it when it must come, and cuts
// the connection when it does not come in time.
func (s *Server) watch(ctx context.Context, nc net.Conn, c *conn, ss *session) {
	done, cancelled, stopping := ss.box.Done(), ctx.Done(), s.stopping
	var cut <-chan time.Time
	stop := func(why ending, wait time.Duration) {
		c.end(why)
		timer := time.NewTimer(wait) // collected with its channel
		cut = timer.C
	}
	finished := ss.finished
	for finished != nil {
		select {
		case <-finished:
			finished = nil
		case <-done:
			done = nil
			stop(endMoving, s.limits.Finish)
		case <-cancelled:
			cancelled = nil
			stop(endStopping, s.limits.Grace)
		case <-stopping:
			stopping = nil
			stop(endStopping, s.limits.Grace)
		case <-cut:
			cut = nil
			nc.Close()
		}
	}
	select {
	case <-c.gone:
	case <-time.After(s.limits.Grace):
		nc.Close()
		<-c.gone
	}
}

// Shutdown lets every session end with a BYE after its present command. When
// ctx ends first, connections are cut.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.stopped {
		s.stopped = true
		close(s.stopping)
	}
	s.mu.Unlock()
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

// linger lets the peer take the BYE: closing a socket that has unread input
// would reset the connection and lose it.
func linger(nc net.Conn) {
	half, ok := nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	nc.SetReadDeadline(time.Now().Add(time.Second))
	// Whatever comes is of no interest, nor how it ends.
	_, _ = io.Copy(io.Discard, io.LimitReader(nc, 1<<20))
}

// once is a listener of one connection.
type once struct{ c *conn }

func (o *once) Accept() (net.Conn, error) {
	if o.c == nil {
		return nil, net.ErrClosed
	}
	c := o.c
	o.c = nil
	return c, nil
}

func (o *once) Close() error   { return nil }
func (o *once) Addr() net.Addr { return &net.TCPAddr{} }

// logger takes the library's lines.
type logger struct{ log *slog.Logger }

func (l logger) Printf(format string, args ...any) {
	if strings.HasPrefix(format, "panic") {
		l.log.Error("imap session failed", "text", fmt.Sprintf(format, args...))
		return
	}
	l.log.Debug("imap protocol", "text", fmt.Sprintf(format, args...))
}
