package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"waypost/director"
	"waypost/internal/frames"
	"waypost/internal/login"
	"waypost/internal/stack"
	"waypost/internal/telemetry"
	"waypost/internal/wire"
	"waypost/proxy/imap"
	"waypost/proxy/managesieve"
	"waypost/proxy/pop3"
	"waypost/proxy/prelogin"
)

// Protocols, as accounts' services, wire.Hello and ALPN name them.
const (
	protoIMAP        = "imap"
	protoPOP3        = "pop3"
	protoManageSieve = "managesieve"
)

var protocols = [...]string{protoIMAP, protoPOP3, protoManageSieve}

// serve is the life of one client connection, on its own goroutine.
func (s *Server) serve(ctx context.Context, conn net.Conn, l listener, admitted *slot) {
	stack.Grow()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	sess := &session{
		id: telemetry.NewID(), protocol: l.protocol, client: conn.RemoteAddr().String(), started: time.Now(),
		end: end, done: make(chan struct{}),
	}
	h := &handling{Server: s, sess: sess, listener: l, slot: admitted, raw: conn, client: addrPort(conn.RemoteAddr())}
	s.registry.add(sess)
	if s.draining.Load() {
		end(errShutdown) // Shutdown may have looked before we were there
	}
	s.metrics.connections.WithLabelValues(l.protocol).Inc()
	defer close(sess.done)
	defer s.registry.remove(sess)
	defer conn.Close()
	defer h.cleanup()
	s.log.LogAttrs(ctx, slog.LevelDebug, "client connected", slog.String("session", sess.id), slog.String("protocol", l.protocol),
		slog.String("client", sess.client))
	if err := h.login(ctx); err != nil {
		h.logNoLogin(err)
		return
	}
	h.session(ctx)
}

// handling is the state of serve.
type handling struct {
	*Server
	sess     *session
	listener listener
	slot     *slot
	raw      net.Conn
	client   netip.AddrPort

	before  *prelogin.Conn
	settled *wire.POP3 // what POP3 has settled before the login
	conn    net.Conn   // raw, or TLS over it, after the login
	pending []byte     // what the client sent behind its login
	up      *upstream
	release func() // of the Guard's count
}

func (h *handling) cleanup() {
	if h.conn != nil {
		_ = h.conn.Close() // says TLS's goodbye; the client may be gone
	}
	if h.up != nil {
		_ = h.up.conn.Close()
	}
	if h.release != nil {
		h.release()
	}
	h.slot.leave()
}

// login runs the protocol engine until a session is open.
func (h *handling) login(ctx context.Context) error {
	c, err := prelogin.NewConn(h.raw, h.cfg.limits())
	if err != nil {
		return err
	}
	h.before = c
	unhook := context.AfterFunc(ctx, func() { _ = h.raw.SetReadDeadline(past) })
	defer unhook()
	starttls := h.tls[h.listener.protocol]
	if h.listener.secure {
		if err := c.StartTLS(ctx, starttls); err != nil {
			return err
		}
	}
	plaintext := h.mayPlaintext(h.client.Addr())
	// POP3 and ManageSieve have no words for a wait, nor capabilities after it.
	silent := func(ctx context.Context, cred prelogin.Credentials) error {
		_, err := h.authenticate(ctx, cred, nil)
		return err
	}
	switch h.listener.protocol {
	case protoIMAP:
		err = imap.Serve(ctx, c, imap.Options{TLS: starttls, Plaintext: plaintext, Login: h.authenticate})
	case protoPOP3:
		err = pop3.Serve(ctx, c, pop3.Options{TLS: starttls, Plaintext: plaintext, LoginDelay: h.cfg.POP3LoginDelay,
			Login: func(ctx context.Context, cred prelogin.Credentials, settled wire.POP3) error {
				h.settled = &settled
				return silent(ctx, cred)
			}})
	case protoManageSieve:
		err = managesieve.Serve(ctx, c, managesieve.Options{
			Capabilities: h.deps.Sieve, TLS: starttls, Plaintext: plaintext, Login: silent,
		})
	}
	if err != nil {
		return err
	}
	h.conn, h.pending, err = c.Release()
	return err
}

// authenticate decides about credentials and opens the session: the engines'
// Login.
func (h *handling) authenticate(ctx context.Context, cred prelogin.Credentials, still func() error) (string, error) {
	start := time.Now()
	err := h.admit(ctx, cred, still)
	h.metrics.loginSeconds.WithLabelValues(h.sess.protocol).Observe(time.Since(start).Seconds())
	h.metrics.logins.WithLabelValues(h.sess.protocol, result(err)).Inc()
	if err != nil {
		h.log.Info("login refused", "session", h.sess.id, "protocol", h.sess.protocol, "client", h.sess.client,
			"name", fmt.Sprintf("%.80q", cred.Name), "result", result(err), "error", err)
		return "", err
	}
	h.log.LogAttrs(ctx, slog.LevelInfo, "logged in", slog.String("session", h.sess.id), slog.String("protocol", h.sess.protocol),
		slog.String("client", h.sess.client), slog.String("user", string(h.sess.user)), slog.String("backend", string(h.up.backend)),
		slog.Bool("tls", h.before.Encrypted()), slog.Duration("took", time.Since(start)))
	return h.up.capabilities, nil
}

// admit checks the password, counts the connection and opens the session.
func (h *handling) admit(ctx context.Context, cred prelogin.Credentials, still func() error) error {
	if cred.Authzid != "" && cred.Authzid != cred.Name {
		return fmt.Errorf("%w: acting as another", prelogin.ErrAuth)
	}
	acct, err := h.deps.Guard.Login(ctx, login.Attempt{
		Name: cred.Name, Password: cred.Password, Service: h.sess.protocol, Remote: h.client.Addr(),
	})
	if err != nil {
		return guardError(err)
	}
	user := director.User(acct.User)
	// After the password, so that a stranger can neither learn of a login nor
	// keep the user out; a login that comes to nothing does not count.
	undo := func() {}
	if h.sess.protocol == protoPOP3 {
		if undo, err = h.delay.login(user); err != nil {
			return err
		}
	}
	release, err := h.deps.Guard.Acquire(acct.User, h.client.Addr())
	if err != nil {
		undo()
		return guardError(err)
	}
	// Named first, then looked at: a change of the account in between is seen
	// by one of the two.
	h.registry.name(h.sess, user, h.mark(director.Account{Hash: acct.Hash}))
	if err = h.stillValid(user, acct); err == nil {
		h.up, err = h.open(ctx, request{
			user: user, protocol: h.sess.protocol, client: h.client, local: addrPort(h.raw.LocalAddr()),
			session: h.sess.id, password: cred.Password, still: still, pop3: h.settled,
		})
	}
	if err != nil {
		h.registry.unname(h.sess)
		release()
		undo()
		return err
	}
	h.release = release
	h.slot.authenticated()
	h.registry.serve(h.sess, h.up.backend)
	return nil
}

func (h *handling) stillValid(u director.User, was login.Account) error {
	now, version, known := h.dir.Account(u)
	switch {
	case !known || version <= was.Version:
		return nil
	case !mayUse(now, h.sess.protocol):
		return prelogin.ErrDisabled
	case now.Hash != was.Hash:
		return fmt.Errorf("%w: the password was changed meanwhile", prelogin.ErrTemporary)
	}
	return nil
}

// guardError says the Guard's refusals in prelogin's words.
func guardError(err error) error {
	for _, r := range []struct{ from, to error }{
		{login.ErrBadCredentials, prelogin.ErrAuth}, {login.ErrDisabled, prelogin.ErrDisabled},
		{login.ErrServiceDenied, prelogin.ErrDisabled}, {login.ErrThrottled, prelogin.ErrThrottled},
		{login.ErrTooManyConnections, prelogin.ErrLimit},
	} {
		if errors.Is(err, r.from) {
			return fmt.Errorf("%w: %w", r.to, err)
		}
	}
	return fmt.Errorf("%w: %w", prelogin.ErrTemporary, err)
}

// session copies until the session ends, and says goodbye where that will be
// understood.
func (h *handling) session(ctx context.Context) {
	gauge := h.metrics.sessions.WithLabelValues(h.sess.protocol)
	gauge.Inc()
	defer gauge.Dec()
	in, out := h.metrics.bytes.WithLabelValues(h.sess.protocol, "in"), h.metrics.bytes.WithLabelValues(h.sess.protocol, "out")
	r := &relay{
		client: h.conn, backend: h.up.conn, toBackend: h.pending, toClient: h.up.pending,
		bytesIn:   func(n int) { h.sess.in.Add(int64(n)); in.Add(float64(n)) },
		bytesOut:  func(n int) { h.sess.out.Add(int64(n)); out.Add(float64(n)) },
		idleAfter: h.cfg.IdlePOP3, writeTimeout: h.cfg.WriteTimeout, buffers: &h.buffers,
	}
	r.stream, _ = h.up.conn.(*frames.Stream)
	r.deflater = &h.deflater
	switch h.sess.protocol {
	case protoIMAP:
		r.idleAfter, r.border = h.cfg.IdleIMAP, new(border)
	case protoManageSieve:
		r.idleAfter = h.cfg.IdleManageSieve
	}
	h.pending, h.up.pending = nil, nil
	why := r.run(ctx)
	for r.goesOn(why) {
		if why = h.carry(ctx, r, why); why != nil {
			break
		}
		why = r.run(ctx)
	}
	h.countLoss(r, why)
	r.leave(why)
	if text := parting(why); text != "" && r.border != nil && r.border.open() {
		r.say("* BYE " + text + "\r\n")
	}
	h.metrics.ended.WithLabelValues(h.sess.protocol, reason(why)).Inc()
	h.logEnd(ctx, why)
}

// logEnd is apart from session, whose locals lie on the stack of every session that waits.
func (h *handling) logEnd(ctx context.Context, why error) {
	h.log.LogAttrs(ctx, slog.LevelInfo, "session ended", slog.String("session", h.sess.id), slog.String("protocol", h.sess.protocol),
		slog.String("user", string(h.sess.user)), slog.String("backend", string(h.up.backend)), slog.String("reason", why.Error()),
		slog.Int64("bytes_in", h.sess.in.Load()), slog.Int64("bytes_out", h.sess.out.Load()), slog.Duration("lasted", time.Since(h.sess.started)))
}

// parting is what an IMAP client is told of an end that is not its own; it is
// not told where the backend has said BYE itself.
func parting(why error) string {
	switch {
	case errors.Is(why, errKicked):
		return "Session ended by the administrator."
	case errors.Is(why, errDisabled):
		return "Account changed, log in again."
	case errors.Is(why, errShutdown):
		return "[UNAVAILABLE] Server is shutting down."
	case errors.Is(why, errIdle):
		return "Autologout; idle for too long."
	case errors.Is(why, errBackendLost), errors.Is(why, errBackendEnded), errors.Is(why, errNotCarried):
		return "[UNAVAILABLE] Mailbox is away for a moment, connect again."
	}
	return ""
}

// reason names an end for metrics.
func reason(why error) string {
	for _, r := range []struct {
		err  error
		name string
	}{
		{errKicked, "kicked"}, {errDisabled, "account"}, {errShutdown, "shutdown"}, {errIdle, "idle"},
		{errClientGone, "client"}, {errClientStuck, "client_stuck"}, {errClientDeflate, "client_deflate"},
		{errBackendLost, "backend_lost"}, {errBackendEnded, "backend"},
		{errNotCarried, "not_carried"},
	} {
		if errors.Is(why, r.err) {
			return r.name
		}
	}
	return "stopped"
}

// logNoLogin reports a connection that never logged in.
func (h *handling) logNoLogin(err error) {
	level := h.log.Debug
	if errors.Is(err, prelogin.ErrLimits) || errors.Is(err, prelogin.ErrInjection) {
		level = h.log.Info
	}
	level("client left without a login", "session", h.sess.id, "protocol", h.sess.protocol, "client", h.sess.client, "reason", err)
}

// addrPort is the zero value for what is no TCP address.
func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
