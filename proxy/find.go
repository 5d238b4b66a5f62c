package proxy

import (
	"context"
	"net"
	"time"

	"waypost/director"
	"waypost/internal/wire"
)

// Find is what a login does after its password: it looks for the home of a user,
// waits for moves, R11's holds and dead backends within login_wait. try is one
// attempt on a home, in place of the session protocol: its status, or an error
// when the home does not answer. The errors are those that a client is told of.
func (s *Server) Find(ctx context.Context, u director.User, try func(context.Context, director.Record) (wire.Status, error)) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.LoginWait)
	defer cancel()
	o := &opening{Server: s, q: request{user: u, protocol: protoIMAP}, lastStill: time.Now()}
	o.try = func(ctx context.Context, rec director.Record) (*upstream, error) {
		status, err := try(ctx, rec)
		switch {
		case err != nil:
			return nil, err
		case status != wire.StatusOK:
			return nil, statusError(wire.Welcome{Status: status})
		}
		return &upstream{backend: rec.Home}, nil
	}
	_, err := o.settle(ctx)
	return err
}

// ServeIMAP serves a client of IMAP on conn, in plaintext, as Serve does one that it has
// accepted: until the session has ended, ctx ends, or Shutdown.
func (s *Server) ServeIMAP(ctx context.Context, conn net.Conn) {
	s.admit(ctx, conn, listener{name: "imap", protocol: protoIMAP})
}
