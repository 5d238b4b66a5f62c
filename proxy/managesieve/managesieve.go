// Package managesieve is the ManageSieve engine of a proxy up to the login: it
// greets with the capabilities, answers what may be asked before a login, takes
// the credentials, and gives the connection away as soon as they were accepted.
// It never sees a script.
//
// It promises that a client without TLS cannot be made to give its password
// away unless the operator allowed that, that nothing sent before STARTTLS runs
// after it, that bytes of a refused literal never run as commands, and that
// whatever follows a successful login on the wire reaches the backend as it
// was sent. It keeps nothing. Only proxy calls it.
//
// RFCs: 5804 (Sections 1.7, 2.1 to 2.4, 2.13), 4616 (PLAIN).
package managesieve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"waypost/internal/auth"
	"waypost/proxy/prelogin"
)

// Login verifies credentials and opens the session behind them. Its errors are
// prelogin's refusals.
type Login func(ctx context.Context, cred prelogin.Credentials) error

// Capabilities are what the backends' Sieve can do. Clients are told before the
// login, so that they must be what the backends say after it.
type Capabilities struct {
	// Extensions are those of the language, as in "require".
	Extensions []string
	// Notify are the schemes of notification methods, such as "mailto".
	Notify []string
	// MaxRedirects is how many redirects a script may make; 0: not told.
	MaxRedirects int
}

// Options are what one connection is offered.
type Options struct {
	Capabilities Capabilities
	// TLS is for STARTTLS; nil: not offered.
	TLS *tls.Config
	// Plaintext allows a login without TLS.
	Plaintext bool
	Login     Login
}

// Busy is what a client is told in place of a greeting when there are too many.
const Busy = "BYE (TRYLATER) \"Too many connections.\"\r\n"

// Serve speaks ManageSieve with c until a login has succeeded and been answered,
// which is nil, or until the connection is to be closed, which is an error: one
// of prelogin's, ctx's, or the connection's. The caller closes. When ctx ends the
// caller must also end reads on the connection, by its deadline.
func Serve(ctx context.Context, c *prelogin.Conn, o Options) error {
	e := &engine{Options: o, c: c, limits: c.Limits()}
	if err := e.greet("Waypost ready."); err != nil {
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
}

func (e *engine) ok(text string) error { return e.c.Write("OK " + quote(text) + "\r\n") }

// no answers with one of the response codes of RFC 5804, Section 1.3, or "".
func (e *engine) no(code, text string) error {
	if code != "" {
		code = " (" + code + ")"
	}
	return e.c.Write("NO" + code + " " + quote(text) + "\r\n")
}

// greet lists the capabilities (RFC 5804, Sections 1.7 and 2.4), at first, after
// STARTTLS, and when asked.
func (e *engine) greet(text string) error {
	var b strings.Builder
	add := func(name, value string) { fmt.Fprintf(&b, "%s %s\r\n", quote(name), quote(value)) }
	add("IMPLEMENTATION", "Waypost")
	add("SIEVE", strings.Join(e.Capabilities.Extensions, " "))
	mechanisms := ""
	if e.mayLogin() {
		mechanisms = prelogin.Mechanisms
	}
	add("SASL", mechanisms)
	if e.TLS != nil && !e.c.Encrypted() {
		b.WriteString("\"STARTTLS\"\r\n")
	}
	add("VERSION", "1.0")
	if len(e.Capabilities.Notify) > 0 {
		add("NOTIFY", strings.Join(e.Capabilities.Notify, " "))
	}
	if e.Capabilities.MaxRedirects > 0 {
		add("MAXREDIRECTS", strconv.Itoa(e.Capabilities.MaxRedirects))
	}
	return e.c.Write(b.String() + "OK " + quote(text) + "\r\n")
}

// bye tells the client why the connection ends, where there is something to
// tell, and returns err.
func (e *engine) bye(ctx context.Context, err error) error {
	text := ""
	switch {
	case errors.Is(err, prelogin.ErrQuit):
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		text, err = "(TRYLATER) "+quote("Server is shutting down."), ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		text, err = quote("Too long without a login."), fmt.Errorf("no login in time: %w", prelogin.ErrLimits)
	case errors.Is(err, prelogin.ErrLineTooLong):
		text, err = quote("Line too long."), fmt.Errorf("%w: %w", prelogin.ErrLimits, err)
	case errors.Is(err, errLiteral):
		text = quote("Literal too long.")
	case errors.Is(err, prelogin.ErrFailures):
		text = quote("Too many failed logins.")
	case errors.Is(err, prelogin.ErrLimits):
		text = quote("Too many commands without a login.")
	}
	if text == "" {
		return err
	}
	if werr := e.c.Write("BYE " + text + "\r\n"); werr != nil {
		return fmt.Errorf("%w (and the goodbye failed: %w)", err, werr)
	}
	return err
}

// mayLogin reports whether a password may be sent now.
func (e *engine) mayLogin() bool { return e.Plaintext || e.c.Encrypted() }

// one reads and answers one command; done after a successful login.
func (e *engine) one(ctx context.Context) (done bool, err error) {
	cmd, err := e.read()
	var bad badCommand
	if errors.As(err, &bad) {
		return false, e.no("", string(bad))
	}
	if err != nil {
		return false, err
	}
	switch {
	case cmd.name == "AUTHENTICATE":
		return e.authenticate(ctx, cmd.args)
	case cmd.name == "NOOP" && len(cmd.args) == 1: // Section 2.13
		return false, e.c.Write("OK (TAG " + literal(cmd.args[0]) + ") " + quote("Done.") + "\r\n")
	case len(cmd.args) > 0:
	case cmd.name == "NOOP":
		return false, e.ok("Done.")
	case cmd.name == "CAPABILITY":
		return false, e.greet("Capabilities listed.")
	case cmd.name == "STARTTLS":
		return false, e.startTLS(ctx)
	case cmd.name == "LOGOUT":
		if err := e.ok("Goodbye."); err != nil {
			return false, err
		}
		return false, prelogin.ErrQuit
	}
	return false, e.no("", "Unknown command, or log in first.")
}

// startTLS is RFC 5804, Section 2.2: the capabilities come again, unasked.
func (e *engine) startTLS(ctx context.Context) error {
	switch {
	case e.TLS == nil || e.c.Encrypted():
		return e.no("", "STARTTLS is not available.")
	case e.c.Pending():
		if err := e.no("", "Nothing may follow STARTTLS."); err != nil {
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
	return e.greet("TLS is up.")
}

// errTLS hides a timeout from bye: there is no channel to say it on.
type errTLS struct{ err error }

func (e errTLS) Error() string { return e.err.Error() }

// authenticate is RFC 5804, Section 2.1.
func (e *engine) authenticate(ctx context.Context, args []string) (bool, error) {
	if !e.mayLogin() {
		return false, e.no("ENCRYPT-NEEDED", "Log in over TLS only: use STARTTLS.")
	}
	if len(args) < 1 || len(args) > 2 {
		return false, e.no("", "AUTHENTICATE wants a mechanism and at most an initial response.")
	}
	cred, err := e.sasl(args[0], args[1:])
	var bad badCommand
	switch {
	case err == nil:
		return e.decide(ctx, cred)
	case errors.As(err, &bad):
		return false, e.no("", string(bad))
	case errors.Is(err, auth.ErrUnknownMechanism):
		return false, e.no("", "Unsupported authentication mechanism.")
	case errors.Is(err, auth.ErrCancelled):
		return false, e.no("", "Authentication cancelled.")
	case errors.Is(err, auth.ErrMalformedSASL), errors.Is(err, auth.ErrExchangeOver):
		return false, e.no("", "Malformed authentication response.")
	}
	return false, err
}

// sasl runs one exchange. Here, unlike in IMAP and POP3, challenges and responses
// are strings of base64, and an empty one is the empty string.
func (e *engine) sasl(mechanism string, initial []string) (cred prelogin.Credentials, err error) {
	m, err := auth.NewMechanism(mechanism, func(authzid, authcid, password string) error {
		cred = prelogin.Credentials{Authzid: authzid, Name: authcid, Password: password}
		return nil
	})
	if err != nil {
		return cred, err
	}
	var response []byte
	if len(initial) > 0 {
		if response, err = auth.DecodeResponse(initial[0]); err != nil {
			return cred, err
		}
	}
	for {
		challenge, done, err := m.Next(response)
		if err != nil || done {
			return cred, err
		}
		text, err := e.ask(challenge)
		if err != nil {
			return cred, err
		}
		if response, err = auth.DecodeResponse(text); err != nil {
			return cred, err
		}
	}
}

// decide asks for the login and answers the command.
func (e *engine) decide(ctx context.Context, cred prelogin.Credentials) (bool, error) {
	err := e.Login(ctx, cred)
	if err == nil {
		return true, e.ok("Logged in.")
	}
	code, text, counts := refusal(err)
	return false, e.c.Refuse(ctx, counts, func(stopping bool) error {
		if stopping {
			code, text = "TRYLATER", refusalTemporary
		}
		return e.no(code, text)
	})
}

const refusalTemporary = "Temporarily unavailable, try again later."

// refusal gives the response code (RFC 5804, Section 1.3) and text, and whether
// the refusal counts as a failed attempt.
func refusal(err error) (code, text string, counts bool) {
	switch {
	case errors.Is(err, prelogin.ErrAuth):
		return "", "Authentication failed.", true
	case errors.Is(err, prelogin.ErrDisabled):
		return "", "This account may not log in here.", true
	case errors.Is(err, prelogin.ErrThrottled):
		return "TRYLATER", "Too many failed logins, try again later.", true
	case errors.Is(err, prelogin.ErrLimit):
		return "TRYLATER", "Too many connections.", false
	}
	return "TRYLATER", refusalTemporary, false
}
