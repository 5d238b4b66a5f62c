// Package pop3 is the POP3 engine of a proxy in the AUTHORIZATION state: it
// greets, answers what may be asked before a login, takes the credentials, and
// gives the connection away as soon as they were accepted. It never sees a
// maildrop.
//
// It promises that a client without TLS cannot be made to give its password
// away unless the operator allowed that, that nothing sent before STLS runs
// after it, and that whatever follows a successful login on the wire reaches
// the backend as it was sent. It keeps nothing. Only proxy calls it.
//
// RFCs: 1939 (Section 4), 2449 (CAPA, LOGIN-DELAY, response codes), 2595 (STLS),
// 3206 (SYS and AUTH codes), 5034 (AUTH), 6856 (UTF8, LANG). APOP is not offered:
// it needs passwords in clear.
package pop3

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"waypost/internal/auth"
	"waypost/internal/popwords"
	"waypost/internal/wire"
	"waypost/proxy/prelogin"
)

// Login verifies credentials and opens the session behind them, to which settled
// belongs. Its errors are prelogin's refusals.
type Login func(ctx context.Context, cred prelogin.Credentials, settled wire.POP3) error

// Options are what one connection is offered.
type Options struct {
	// TLS is for STLS; nil: not offered.
	TLS *tls.Config
	// Plaintext allows a login without TLS.
	Plaintext bool
	// LoginDelay, if not 0, is announced as the least time between two logins of
	// a user; Login enforces it.
	LoginDelay time.Duration
	Login      Login
}

// Serve speaks POP3 with c until a login has succeeded and been answered, which
// is nil, or until the connection is to be closed, which is an error: one of
// prelogin's, ctx's, or the connection's. The caller closes. When ctx ends the
// caller must also end reads on the connection, by its deadline.
func Serve(ctx context.Context, c *prelogin.Conn, o Options) error {
	e := &engine{Options: o, c: c, limits: c.Limits()}
	// No "<...>" here: it would announce APOP (RFC 1939, Section 7).
	if err := e.ok("Waypost ready."); err != nil {
		return err
	}
	if err := c.Converse(ctx, e.one); err != nil {
		return e.bye(ctx, err)
	}
	return nil
}

type engine struct {
	Options
	c      *prelogin.Conn
	limits prelogin.Limits
	user   string // of USER, until PASS
	utf8   bool   // the client has said UTF8
}

func (e *engine) ok(text string) error  { return e.c.Write("+OK " + text + "\r\n") }
func (e *engine) err(text string) error { return e.c.Write("-ERR " + text + "\r\n") }

// bye tells the client why the connection ends, where POP3 has a way to: an
// idle client expects no words (RFC 1939, Section 3), a busy one reads -ERR.
func (e *engine) bye(ctx context.Context, err error) error {
	text := ""
	switch {
	case errors.Is(err, prelogin.ErrQuit):
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("no login in time: %w", prelogin.ErrLimits)
	case errors.Is(err, prelogin.ErrLineTooLong):
		text, err = "Line too long.", fmt.Errorf("%w: %w", prelogin.ErrLimits, err)
	case errors.Is(err, prelogin.ErrLimits) && !errors.Is(err, prelogin.ErrFailures):
		text = "Too many commands without a login."
	}
	if text == "" {
		return err
	}
	if werr := e.err(text); werr != nil {
		return fmt.Errorf("%w (and the goodbye failed: %w)", err, werr)
	}
	return err
}

// mayLogin reports whether a password may be sent now.
func (e *engine) mayLogin() bool { return e.Plaintext || e.c.Encrypted() }

// maxCommandBytes: RFC 2449, Section 4, has 255 octets; PASS and the initial
// response of AUTH get more, since passwords may be longer.
const maxCommandBytes = 255

// one reads and answers one command; done after a successful login.
func (e *engine) one(ctx context.Context) (done bool, err error) {
	line, err := e.c.ReadLine(e.limits.LineBytes)
	if err != nil {
		return false, err
	}
	verb, arg, hasArg := strings.Cut(string(line), " ")
	verb = strings.ToUpper(verb)
	user := e.user
	e.user = ""
	switch {
	case strings.ContainsAny(string(line), "\x00\r"):
		return false, e.err("Malformed command.")
	case verb == "PASS":
		return e.pass(ctx, user, arg)
	case verb == "AUTH":
		return e.auth(ctx, arg)
	case len(line)+2 > maxCommandBytes:
		return false, e.err("Command too long.")
	case verb == "USER":
		return false, e.setUser(arg)
	case verb == "CAPA" && !hasArg:
		return false, e.c.Write(e.capa())
	case verb == "UTF8" && !hasArg:
		e.utf8 = true
		return false, e.ok("UTF-8 mode.")
	case verb == "LANG":
		return false, e.c.Write(popwords.Lang(strings.Fields(arg)))
	case verb == "STLS" && !hasArg:
		return false, e.startTLS(ctx)
	case verb == "QUIT" && !hasArg:
		if err := e.ok("Bye."); err != nil {
			return false, err
		}
		return false, prelogin.ErrQuit
	}
	return false, e.err("Unknown command, or log in first.")
}

// capa is the capability list (RFC 2449, Section 6): what the server can in
// both states, and the logins that are possible now.
func (e *engine) capa() string {
	return "+OK Capabilities follow.\r\n" + strings.Join(slices.Concat(popwords.Common(), e.capabilities()), "\r\n") + "\r\n.\r\n"
}

// capabilities are those that are ours, not the backend's; it shows them as they
// are at the login.
func (e *engine) capabilities() []string {
	var list []string
	if e.TLS != nil && !e.c.Encrypted() {
		list = append(list, "STLS")
	}
	if e.mayLogin() {
		list = append(list, "USER", "SASL "+prelogin.Mechanisms)
	}
	if e.LoginDelay > 0 {
		list = append(list, popwords.LoginDelay(e.LoginDelay))
	}
	return list
}

func (e *engine) startTLS(ctx context.Context) error {
	switch {
	case e.TLS == nil || e.c.Encrypted():
		return e.err("STLS is not available.")
	case e.utf8: // RFC 6856, Section 2.1: clients must not
		return e.err("STLS must come before UTF8.")
	case e.c.Pending():
		if err := e.err("Nothing may follow STLS."); err != nil {
			return err
		}
		return prelogin.ErrInjection
	}
	if err := e.ok("Begin TLS now."); err != nil {
		return err
	}
	if err := e.c.StartTLS(ctx, e.TLS); err != nil {
		// The stream is neither plaintext nor TLS now: no goodbye.
		return errTLS{err}
	}
	return nil
}

// errTLS hides a timeout from bye: there is no channel to say it on.
type errTLS struct{ err error }

func (e errTLS) Error() string { return e.err.Error() }

// needTLS carries no [AUTH]: that would make clients ask for another password.
const needTLS = "Log in over TLS only: use STLS or the TLS port."

func (e *engine) setUser(name string) error {
	if !e.mayLogin() {
		return e.err(needTLS)
	}
	if name == "" {
		return e.err("USER wants a name.")
	}
	e.user = name
	return e.ok("Send PASS.")
}

// pass takes the whole rest of the line: a password may have spaces (RFC 1939,
// Section 7, PASS).
func (e *engine) pass(ctx context.Context, user, password string) (bool, error) {
	switch {
	case !e.mayLogin():
		return false, e.err(needTLS)
	case user == "":
		return false, e.err("Send USER first.")
	case password == "":
		return false, e.err("PASS wants a password.")
	}
	return e.decide(ctx, prelogin.Credentials{Name: user, Password: password})
}

func (e *engine) auth(ctx context.Context, arg string) (bool, error) {
	mechanism, initial, hasInitial := strings.Cut(arg, " ")
	switch {
	case !e.mayLogin():
		return false, e.err(needTLS)
	case arg == "": // RFC 1734 clients ask so for the mechanisms
		return false, e.c.Write("+OK\r\n" + strings.ReplaceAll(prelogin.Mechanisms, " ", "\r\n") + "\r\n.\r\n")
	case hasInitial && initial == "":
		return false, e.err("Malformed AUTH.")
	}
	cred, err := e.c.SASL(mechanism, initial)
	switch {
	case err == nil:
		return e.decide(ctx, cred)
	case errors.Is(err, auth.ErrUnknownMechanism):
		return false, e.err("Unsupported authentication mechanism.")
	case errors.Is(err, auth.ErrCancelled):
		return false, e.err("Authentication cancelled.")
	case errors.Is(err, auth.ErrMalformedSASL), errors.Is(err, auth.ErrExchangeOver):
		return false, e.err("Malformed authentication response.")
	}
	return false, err
}

// decide asks for the login and answers the command.
func (e *engine) decide(ctx context.Context, cred prelogin.Credentials) (bool, error) {
	err := e.Login(ctx, cred, wire.POP3{UTF8: e.utf8, Capabilities: e.capabilities()})
	if err == nil {
		return true, e.ok("Logged in.")
	}
	text, counts := refusal(err)
	return false, e.c.Refuse(ctx, counts, func(stopping bool) error {
		if stopping {
			text = refusalTemporary
		}
		return e.err(text)
	})
}

const refusalTemporary = "[SYS/TEMP] Temporarily unavailable, try again later."

// refusal gives the response code (RFC 2449, Section 8; RFC 3206, Section 4)
// and text, and whether the refusal counts as a failed attempt.
func refusal(err error) (text string, counts bool) {
	switch {
	case errors.Is(err, prelogin.ErrAuth):
		return "[AUTH] Authentication failed.", true
	case errors.Is(err, prelogin.ErrDisabled):
		return "[SYS/PERM] This account may not log in here.", true
	case errors.Is(err, prelogin.ErrThrottled):
		return "[SYS/TEMP] Too many failed logins, try again later.", true
	case errors.Is(err, prelogin.ErrDelay):
		return "[LOGIN-DELAY] You have logged in a short while ago, try again later.", false
	case errors.Is(err, prelogin.ErrInUse):
		return "[IN-USE] Maildrop is in use by another session.", false
	case errors.Is(err, prelogin.ErrLimit):
		return "[IN-USE] Too many connections.", false
	}
	return refusalTemporary, false
}
