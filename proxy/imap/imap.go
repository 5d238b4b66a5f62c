// Package imap is the IMAP engine of a proxy up to the login: it greets,
// answers what may be asked before a login, takes the credentials, and gives
// the connection away as soon as they were accepted. It never sees a mailbox.
//
// It promises that a client without TLS cannot be made to give its password
// away unless the operator allowed that, that nothing sent before STARTTLS runs
// after it, that bytes of a refused literal never run as commands, and that
// whatever follows a successful login on the wire reaches the backend as it
// was sent. It keeps nothing. Only proxy calls it.
//
// RFCs: 3501 and 9051 (Sections 6.1, 6.2 and 7.1), 2971 (ID), 4959 (SASL-IR),
// 5530 (response codes), 7888 (LITERAL-).
package imap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"

	"waypost/internal/auth"
	"waypost/proxy/prelogin"
)

// Login verifies credentials and opens the session behind them. A wait for the
// mailbox may be told to the client by still. It returns the capabilities that
// the backend announced, without "CAPABILITY", or one of prelogin's refusals.
type Login func(ctx context.Context, cred prelogin.Credentials, still func() error) (capabilities string, err error)

// Options are what one connection is offered.
type Options struct {
	// TLS is for STARTTLS; nil: not offered.
	TLS *tls.Config
	// Plaintext allows a login without TLS.
	Plaintext bool
	Login     Login
}

// maxLiteralBytes bounds all literals of one command (RFC 7888, Section 5, has
// 4096 for one of LITERAL-): no name or password needs more.
const maxLiteralBytes = 4096

// Serve speaks IMAP with c until a login has succeeded and been answered, which
// is nil, or until the connection is to be closed, which is an error: one of
// prelogin's, ctx's, or the connection's. The caller closes. When ctx ends the
// caller must also end reads on the connection, by its deadline.
func Serve(ctx context.Context, c *prelogin.Conn, o Options) error {
	e := &engine{Options: o, c: c, limits: c.Limits()}
	if err := c.Write("* OK [CAPABILITY " + e.capabilities() + "] Waypost ready.\r\n"); err != nil {
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

// bye tells the client why the connection ends, where there is something to
// tell, and returns err.
func (e *engine) bye(ctx context.Context, err error) error {
	text := ""
	switch {
	case errors.Is(err, prelogin.ErrQuit):
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		text = "[UNAVAILABLE] Server is shutting down."
		err = ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		text, err = "Too long without a login.", fmt.Errorf("no login in time: %w", prelogin.ErrLimits)
	case errors.Is(err, prelogin.ErrLineTooLong):
		text, err = "Line too long.", fmt.Errorf("%w: %w", prelogin.ErrLimits, err)
	case errors.Is(err, prelogin.ErrInjection):
		text = "Nothing may follow STARTTLS before TLS is up."
	case errors.Is(err, prelogin.ErrLimits):
		text = "Too many commands without a login."
		if errors.Is(err, prelogin.ErrFailures) {
			text = "Too many failed logins."
		}
		if errors.Is(err, errLiteral) {
			text = "Literal too long."
		}
	}
	if text == "" {
		return err
	}
	if werr := e.c.Write("* BYE " + text + "\r\n"); werr != nil {
		return fmt.Errorf("%w (and the goodbye failed: %w)", err, werr)
	}
	return err
}

// mayLogin reports whether a password may be sent now.
func (e *engine) mayLogin() bool { return e.Plaintext || e.c.Encrypted() }

// capabilities are those before the login: what holds now, and ENABLE and IDLE, by which clients
// that never ask again know that they will be there.
func (e *engine) capabilities() string {
	caps := "IMAP4rev1 SASL-IR LITERAL- ID ENABLE IDLE"
	if e.TLS != nil && !e.c.Encrypted() {
		caps += " STARTTLS"
	}
	if !e.mayLogin() {
		return caps + " LOGINDISABLED"
	}
	for m := range strings.FieldsSeq(prelogin.Mechanisms) {
		caps += " AUTH=" + m
	}
	return caps
}

// one reads and answers one command; done after a successful login.
func (e *engine) one(ctx context.Context) (done bool, err error) {
	cmd, err := e.read()
	if err != nil {
		var bad badCommand
		if errors.As(err, &bad) {
			return false, e.c.Write(bad.tag + " BAD " + bad.text + "\r\n")
		}
		var no refusedCommand
		if errors.As(err, &no) {
			return false, e.c.Write(no.tag + " NO " + no.text + "\r\n")
		}
		return false, err
	}
	switch cmd.name {
	case "CAPABILITY":
		return false, e.simple(cmd, "* CAPABILITY "+e.capabilities()+"\r\n")
	case "NOOP":
		return false, e.simple(cmd, "")
	case "ID":
		return false, e.id(cmd)
	case "LOGOUT":
		if err := e.simple(cmd, "* BYE Logging out.\r\n"); err != nil || !cmd.args.end() {
			return false, err
		}
		return false, prelogin.ErrQuit
	case "STARTTLS":
		return false, e.startTLS(ctx, cmd)
	case "LOGIN":
		return e.login(ctx, cmd)
	case "AUTHENTICATE":
		return e.authenticate(ctx, cmd)
	}
	return false, e.c.Write(cmd.tag + " BAD Unknown command, or log in first.\r\n")
}

// simple answers a command that takes no arguments.
func (e *engine) simple(cmd command, untagged string) error {
	if !cmd.args.end() {
		return e.c.Write(cmd.tag + " BAD " + cmd.name + " takes no arguments.\r\n")
	}
	return e.c.Write(untagged + cmd.tag + " OK " + cmd.name + " completed.\r\n")
}

// id answers RFC 2971, Section 3.1. What the client says of itself is checked
// and forgotten.
func (e *engine) id(cmd command) error {
	if !cmd.args.id() {
		return e.c.Write(cmd.tag + " BAD ID wants NIL or a list of strings.\r\n")
	}
	return e.c.Write("* ID (\"name\" \"Waypost\")\r\n" + cmd.tag + " OK ID completed.\r\n")
}

func (e *engine) startTLS(ctx context.Context, cmd command) error {
	switch {
	case !cmd.args.end():
		return e.c.Write(cmd.tag + " BAD STARTTLS takes no arguments.\r\n")
	case e.TLS == nil || e.c.Encrypted():
		return e.c.Write(cmd.tag + " BAD STARTTLS is not available.\r\n")
	case e.c.Pending():
		if err := e.c.Write(cmd.tag + " BAD Nothing may follow STARTTLS.\r\n"); err != nil {
			return err
		}
		return prelogin.ErrInjection
	}
	if err := e.c.Write(cmd.tag + " OK Begin TLS now.\r\n"); err != nil {
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

const needTLS = "[PRIVACYREQUIRED] Log in over TLS only: use STARTTLS or the TLS port."

func (e *engine) login(ctx context.Context, cmd command) (bool, error) {
	if !e.mayLogin() {
		return false, e.c.Write(cmd.tag + " NO " + needTLS + "\r\n")
	}
	var cred prelogin.Credentials
	ok := cmd.args.space() && cmd.args.astring(&cred.Name) && cmd.args.space() && cmd.args.astring(&cred.Password) && cmd.args.end()
	if !ok {
		return false, e.c.Write(cmd.tag + " BAD LOGIN wants a name and a password.\r\n")
	}
	return e.decide(ctx, cmd.tag, cred)
}

func (e *engine) authenticate(ctx context.Context, cmd command) (bool, error) {
	if !e.mayLogin() {
		return false, e.c.Write(cmd.tag + " NO " + needTLS + "\r\n")
	}
	var mechanism, initial string
	ok := cmd.args.space() && cmd.args.word(&mechanism)
	if ok && !cmd.args.end() {
		ok = cmd.args.space() && cmd.args.word(&initial) && cmd.args.end()
	}
	if !ok {
		return false, e.c.Write(cmd.tag + " BAD AUTHENTICATE wants a mechanism and at most an initial response.\r\n")
	}
	cred, err := e.c.SASL(mechanism, initial)
	switch {
	case err == nil:
		return e.decide(ctx, cmd.tag, cred)
	case errors.Is(err, auth.ErrUnknownMechanism):
		return false, e.c.Write(cmd.tag + " NO Unsupported authentication mechanism.\r\n")
	case errors.Is(err, auth.ErrCancelled):
		return false, e.c.Write(cmd.tag + " BAD Authentication cancelled.\r\n")
	case errors.Is(err, auth.ErrMalformedSASL), errors.Is(err, auth.ErrExchangeOver):
		return false, e.c.Write(cmd.tag + " BAD Malformed authentication response.\r\n")
	}
	return false, err
}

// decide asks for the login and answers the command.
func (e *engine) decide(ctx context.Context, tag string, cred prelogin.Credentials) (bool, error) {
	still := func() error { return e.c.Write("* OK Still waiting for the mailbox.\r\n") }
	caps, err := e.Login(ctx, cred, still)
	if err == nil {
		if caps != "" {
			caps = "[CAPABILITY " + caps + "] "
		}
		return true, e.c.Write(tag + " OK " + caps + "Logged in.\r\n")
	}
	text, counts := refusal(err)
	return false, e.c.Refuse(ctx, counts, func(stopping bool) error {
		if stopping {
			text = refusalTemporary
		}
		return e.c.Write(tag + " NO " + text + "\r\n")
	})
}

const refusalTemporary = "[UNAVAILABLE] Temporarily unavailable, try again later."

// refusal gives the response code (RFC 5530, Section 3) and text, and whether
// the refusal counts as a failed attempt.
func refusal(err error) (text string, counts bool) {
	switch {
	case errors.Is(err, prelogin.ErrAuth):
		return "[AUTHENTICATIONFAILED] Authentication failed.", true
	case errors.Is(err, prelogin.ErrDisabled):
		return "[CONTACTADMIN] This account may not log in here.", true
	case errors.Is(err, prelogin.ErrThrottled):
		return "[LIMIT] Too many failed logins, try again later.", true
	case errors.Is(err, prelogin.ErrLimit):
		return "[LIMIT] Too many connections.", false
	case errors.Is(err, prelogin.ErrInUse):
		return "[INUSE] Mailbox is in use.", false
	}
	return refusalTemporary, false
}
