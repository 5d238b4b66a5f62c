package auth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxResponseBytes bounds a client's response, both as the base64 text on the
// wire (RFC 4954, Section 4.3, asks a server for 12288 octets) and decoded.
const MaxResponseBytes = 12288

// Errors of a SASL exchange. All are the client's fault and permanent for this
// exchange; none says anything about the password.
var (
	ErrUnknownMechanism = errors.New("auth: unknown SASL mechanism")
	ErrMalformedSASL    = errors.New("auth: malformed SASL response")
	ErrCancelled        = errors.New("auth: client cancelled the SASL exchange")
	ErrExchangeOver     = errors.New("auth: SASL exchange is over")
)

// Authenticate decides about the credentials of a finished exchange. authzid is
// the identity to act as, and empty when it is the authenticated one, authcid.
type Authenticate func(authzid, authcid, password string) error

// Mechanism is the server's side of one SASL exchange; it belongs to one
// connection and is not for concurrent use.
//
// Next takes the client's decoded response. The first call takes the initial
// response (RFC 4959, RFC 4954, RFC 5034), or nil where the client sent none; an
// initial response that is present but empty is a non-nil empty slice. It
// returns either a challenge to be sent, with done false, or done true, with
// Authenticate's error or nil. An error of the exchange itself also ends it.
type Mechanism interface {
	Next(response []byte) (challenge []byte, done bool, err error)
}

// NewMechanism begins an exchange by its name in any case: PLAIN or LOGIN. The
// error is ErrUnknownMechanism.
func NewMechanism(name string, decide Authenticate) (Mechanism, error) {
	switch strings.ToUpper(name) {
	case "PLAIN":
		return NewPlain(decide), nil
	case "LOGIN":
		return NewLogin(decide), nil
	}
	return nil, fmt.Errorf("%w: %.32q", ErrUnknownMechanism, name)
}

// NewPlain begins a PLAIN exchange (RFC 4616).
func NewPlain(decide Authenticate) Mechanism { return &plainExchange{decide: decide} }

type plainExchange struct {
	decide      Authenticate
	asked, over bool
}

func (p *plainExchange) Next(response []byte) ([]byte, bool, error) {
	if p.over {
		return nil, true, ErrExchangeOver
	}
	if response == nil && !p.asked {
		p.asked = true
		return []byte{}, false, nil
	}
	p.over = true
	authzid, authcid, password, err := ParsePlain(response)
	if err != nil {
		return nil, true, err
	}
	return nil, true, p.decide(authzid, authcid, password)
}

// ParsePlain takes a PLAIN message apart (RFC 4616, Section 2):
// [authzid] NUL authcid NUL passwd. The error is ErrMalformedSASL.
//
// Identities must be UTF-8. The password need not be, against the RFC: old
// clients send it in a local character set, and its hash was made from that.
func ParsePlain(message []byte) (authzid, authcid, password string, err error) {
	if len(message) > MaxResponseBytes {
		return "", "", "", fmt.Errorf("%w: over %d bytes", ErrMalformedSASL, MaxResponseBytes)
	}
	fields := bytes.Split(message, []byte{0})
	if len(fields) != 3 {
		return "", "", "", fmt.Errorf("%w: PLAIN has not two NUL", ErrMalformedSASL)
	}
	if len(fields[1]) == 0 || len(fields[2]) == 0 {
		return "", "", "", fmt.Errorf("%w: PLAIN without user or password", ErrMalformedSASL)
	}
	if !utf8.Valid(fields[0]) || !utf8.Valid(fields[1]) {
		return "", "", "", fmt.Errorf("%w: PLAIN identity is not UTF-8", ErrMalformedSASL)
	}
	return string(fields[0]), string(fields[1]), string(fields[2]), nil
}

// NewLogin begins a LOGIN exchange. It never became an RFC
// (draft-murchison-sasl-login); some clients of SMTP know nothing else.
func NewLogin(decide Authenticate) Mechanism { return &loginExchange{decide: decide} }

type loginExchange struct {
	decide      Authenticate
	asked, over bool
	user        string
}

func (l *loginExchange) Next(response []byte) ([]byte, bool, error) {
	if l.over {
		return nil, true, ErrExchangeOver
	}
	if response == nil && !l.asked {
		l.asked = true
		return []byte("Username:"), false, nil
	}
	l.asked = true
	if len(response) == 0 || len(response) > MaxResponseBytes || bytes.IndexByte(response, 0) >= 0 {
		l.over = true
		return nil, true, fmt.Errorf("%w: LOGIN", ErrMalformedSASL)
	}
	if l.user == "" {
		if !utf8.Valid(response) {
			l.over = true
			return nil, true, fmt.Errorf("%w: LOGIN user is not UTF-8", ErrMalformedSASL)
		}
		l.user = string(response)
		return []byte("Password:"), false, nil
	}
	l.over = true
	return nil, true, l.decide("", l.user, string(response))
}

// DecodeInitial decodes the initial response that stood on the command line:
// base64, and "=" for one that is present but empty (RFC 4954, Section 4;
// RFC 4959, Section 3; RFC 5034, Section 4). The result is never nil. The error
// is ErrMalformedSASL.
func DecodeInitial(text string) ([]byte, error) {
	if text == "=" {
		return []byte{}, nil
	}
	if text == "" {
		return nil, fmt.Errorf("%w: empty initial response", ErrMalformedSASL)
	}
	return decodeSASL(text)
}

// DecodeResponse decodes a line that answers a challenge, without its line end.
// "*" is ErrCancelled (RFC 4954, Section 4; RFC 9051, Section 6.2.2; RFC 5034,
// Section 4), anything else that is not base64 is ErrMalformedSASL. The result
// is never nil.
func DecodeResponse(line string) ([]byte, error) {
	if line == "*" {
		return nil, ErrCancelled
	}
	return decodeSASL(line)
}

func decodeSASL(text string) ([]byte, error) {
	// The decoder skips line ends, which have no place inside a response.
	if len(text) > MaxResponseBytes || strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("%w: too long or several lines", ErrMalformedSASL)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: not base64", ErrMalformedSASL)
	}
	return raw, nil
}
