// Package prelogin holds what the IMAP and the POP3 engine of a proxy share
// before a client is logged in: a bounded line reader, STARTTLS, SASL with a
// password, and the words in which a login is asked for and refused.
//
// It owns one client connection at a time and keeps nothing. Every read ends
// at the connection's pre-login deadline, every write has a deadline of its
// own, and no line, literal or count of commands is without a limit, so that a
// stranger costs a known amount. Only proxy and its protocol engines call it.
//
// RFCs: 2595 and 9051 (STARTTLS), 4616 (PLAIN), 4959 and 5034 (SASL's carriage).
package prelogin

import (
	"errors"
	"time"
)

// Refusals of a login. The engines turn them into response codes; whatever is
// none of these is answered as ErrTemporary. Test with errors.Is.
var (
	// ErrAuth: name and password do not belong together, or there is no such user.
	ErrAuth = errors.New("authentication failed")
	// ErrDisabled: the password was right, but the account may not do this.
	ErrDisabled = errors.New("account is disabled")
	// ErrThrottled: too many failures lately from there or for that account.
	ErrThrottled = errors.New("too many failed logins")
	// ErrDelay: the user has logged in a short while ago (RFC 2449, Section 6.5).
	ErrDelay = errors.New("logged in a short while ago")
	// ErrLimit: too many connections of this user or address.
	ErrLimit = errors.New("too many connections")
	// ErrInUse: another session holds the maildrop.
	ErrInUse = errors.New("maildrop is in use")
	// ErrTemporary: something of ours is away; trying again will help.
	ErrTemporary = errors.New("temporarily unavailable")
)

// Ends of a conversation without a login.
var (
	// ErrQuit: the client said goodbye.
	ErrQuit = errors.New("client logged out")
	// ErrLimits: the client broke a limit of the pre-login phase, and was told.
	ErrLimits = errors.New("pre-login limit exceeded")
	// ErrFailures: the limit was that of refused logins.
	ErrFailures = errors.New("refused logins")
	// ErrInjection: plaintext was pipelined behind STARTTLS (CVE-2011-0411).
	ErrInjection = errors.New("plaintext behind STARTTLS")
	// ErrLineTooLong: a line is longer than asked for.
	ErrLineTooLong = errors.New("line too long")
)

// Credentials are what a client presented.
type Credentials struct {
	// Authzid is the identity to act as, empty where the client named none.
	Authzid string
	// Name and Password are as typed.
	Name     string
	Password string
}

// Limits of the pre-login phase; all must be positive, FailureDelay may be 0.
type Limits struct {
	// LineBytes bounds a command line, its line end included.
	LineBytes int
	// Commands is how many commands may come before a login succeeds.
	Commands int
	// Failures is how many refused passwords end the connection.
	Failures int
	// FailureDelay passes before a refused password is answered.
	FailureDelay time.Duration
	// Timeout ends the phase, counted from the connection's first moment.
	Timeout time.Duration
	// HandshakeTimeout bounds a TLS handshake.
	HandshakeTimeout time.Duration
	// WriteTimeout bounds one answer.
	WriteTimeout time.Duration
}
