// Package lmtp is a backend's mail entrance: an LMTP server (RFC 2033) for
// connections that the caller has authenticated as an mx of this cluster.
//
// It owns the protocol and nothing else: mailboxes, fences and disks are behind
// mailbox.Store. Its promises to the sender:
//   - A recipient is answered at RCPT by the home's own rules, at exactly the
//     (home, epoch) that the sender looked up; without them it is "stale",
//     never guessed. Refusals that a re-read of the directory or a wait cures
//     begin with a word of package wire.
//   - 250 after the body means that the message is durable for that recipient.
//     A body that did not end properly (connection lost, time-out, too large,
//     bare CR or LF) is delivered to nobody.
//   - The bytes of a body are never taken for commands, and commands never for
//     a body: where the two cannot be told apart the connection is closed.
//   - Memory per connection does not depend on the message or its lines.
//
// Nothing here survives a crash; whatever had no 250 is the sender's still.
//
// Covered: RFC 2033, RFC 5321 as far as LMTP takes it over, RFC 1870 (SIZE),
// RFC 2920 (PIPELINING), RFC 2034 (ENHANCEDSTATUSCODES), RFC 3030 (CHUNKING,
// not BINARYMIME), RFC 6152 (8BITMIME), RFC 6531 (SMTPUTF8), and XWAYPOST of
// package wire.
package lmtp

import (
	"context"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/mailbox"
	"waypost/director"
)

// Options are a server's surroundings and limits.
type Options struct {
	// Store opens mailboxes and stages messages. Required.
	Store mailbox.Store
	// Hostname names this backend in the greeting and in trace lines. Required.
	Hostname string
	// Log gets a line for each transaction and each session that failed; nil: none.
	Log *slog.Logger
	// Metrics is where the waypost_lmtp_ metrics are registered; nil: nowhere.
	Metrics prometheus.Registerer
	// MaxMessage is the largest message in bytes; 0: no limit.
	MaxMessage int64
	// Accounts tells whether mail for a user is refused. A user that is not
	// known passes on to Store, whose fence decides. nil: nobody is disabled.
	Accounts func(director.User) (disabled, known bool)
	// Filter runs for each recipient; nil: everything is kept.
	Filter Filter
	// Draining, once closed, ends connections that are between transactions
	// with 421; running transactions are finished. nil: never.
	Draining <-chan struct{}
	Limits   Limits
	// Now is the clock of trace lines; nil: time.Now.
	Now func() time.Time
}

// Limits bound what a connection may take; zero fields get the default.
type Limits struct {
	// Command is how long a complete command line may take to come; 5 minutes
	// (RFC 5321, Section 4.5.3.2.7).
	Command time.Duration
	// Data is how long the next bytes of a body may take to come; 3 minutes.
	Data time.Duration
	// Write is how long the peer may take to read our replies; 1 minute.
	Write time.Duration
	// Line is the longest command line in bytes with its CRLF; 12 KiB.
	Line int
	// Recipients is how many a transaction may have; 1000.
	Recipients int
}

func (l Limits) withDefaults() Limits {
	fill := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	fill(&l.Command, 5*time.Minute)
	fill(&l.Data, 3*time.Minute)
	fill(&l.Write, time.Minute)
	if l.Line <= 0 {
		l.Line = 12 << 10
	}
	if l.Recipients <= 0 {
		l.Recipients = 1000
	}
	return l
}

// Server serves connections. It keeps no state between them and is safe for
// concurrent use.
type Server struct {
	opt Options
	met *metrics
}

// New makes a server.
func New(opt Options) *Server {
	opt.Limits = opt.Limits.withDefaults()
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Accounts == nil {
		opt.Accounts = func(director.User) (bool, bool) { return false, false }
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	return &Server{opt: opt, met: newMetrics(opt.Metrics)}
}

// Serve speaks LMTP on conn until the peer quits, the connection fails, or ctx
// ends, which aborts a running transaction. It closes conn. peer names the mx,
// as its certificate does, in logs and trace lines.
func (srv *Server) Serve(ctx context.Context, conn net.Conn, peer string) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	srv.met.sessions.Inc()
	defer srv.met.sessions.Dec()

	s := newSession(ctx, srv, conn, peer)
	err := s.run()
	s.reset()
	cancel()
	s.link.watcher.Wait()
	if err != nil && err != io.EOF {
		s.log.Warn("lmtp session ended", "err", err)
	}
}
