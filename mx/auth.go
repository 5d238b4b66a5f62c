package mx

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"waypost/director"
	"waypost/internal/auth"
	"waypost/internal/login"
)

// Replies to AUTH (RFC 4954, Section 6).
var (
	replyAuthTLS       = answer(538, "5.7.11", "STARTTLS first")
	replyAuthBad       = answer(535, "5.7.8", "Authentication failed")
	replyAuthDenied    = answer(535, "5.7.8", "This account may not submit mail")
	replyAuthLater     = answer(454, "4.7.0", "Authentication is not possible now, try again later")
	replyLoginAgain    = answer(421, "4.7.0", "The account has changed, log in again")
	replyAuthMalformed = answer(501, "5.5.2", "Malformed authentication")
)

// loginTimeouts is how many of Config.DirectoryTimeout a login may take: it may
// have to wait for its turn to hash.
const loginTimeouts = 10

// Auth implements smtp.AuthSession.
func (s *session) Auth(mech string) (sasl.Server, error) {
	if s.service != submission {
		return nil, smtp.ErrAuthUnsupported
	}
	if !s.g.isTLS() {
		return nil, replyAuthTLS
	}
	m, err := auth.NewMechanism(mech, s.login)
	if err != nil {
		return nil, smtp.ErrAuthUnknownMechanism
	}
	return exchange{m}, nil
}

// exchange turns errors into replies.
type exchange struct{ m auth.Mechanism }

func (e exchange) Next(response []byte) ([]byte, bool, error) {
	challenge, done, err := e.m.Next(response)
	var reply *smtp.SMTPError
	if err != nil && !errors.As(err, &reply) {
		reply = replyAuthMalformed
	}
	if err != nil {
		return nil, false, reply
	}
	return challenge, done, nil
}

// login decides about a password.
func (s *session) login(authzid, authcid, password string) error {
	if authzid != "" && authzid != authcid {
		s.srv.met.logins.WithLabelValues("bad").Inc()
		return replyAuthBad // nobody may act for another
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.srv.cfg.DirectoryTimeout*loginTimeouts)
	defer cancel()
	acct, err := s.srv.auth.Login(ctx, login.Attempt{Name: authcid, Password: password, Service: string(submission), Remote: s.remote().Addr()})
	if err != nil {
		reply, result := loginReply(err)
		s.srv.met.logins.WithLabelValues(result).Inc()
		s.log.Info("login refused", "name", fmt.Sprintf("%.256q", authcid), "reason", result)
		return reply
	}
	s.srv.met.logins.WithLabelValues("ok").Inc()
	s.user, s.version = director.User(acct.User), acct.Version
	return nil
}

// stillMay looks again at who is logged in, since a session may outlive the
// account or its right. A change of any other kind wants a new login.
func (s *session) stillMay() *smtp.SMTPError {
	a, version, known := s.srv.dir.Account(s.user)
	if !known { // gone, or so new that the memory has not heard of it
		ctx, cancel := context.WithTimeout(s.ctx, s.srv.cfg.DirectoryTimeout)
		defer cancel()
		var err error
		if _, a, known, err = s.srv.dir.FreshUser(ctx, s.user); err != nil && !errors.Is(err, director.ErrNotFound) {
			return replyLater
		}
	}
	switch {
	case !known || version > s.version:
		return replyLoginAgain
	case a.Disabled || len(a.Services) > 0 && !slices.Contains(a.Services, string(submission)):
		return replyAuthDenied
	}
	return nil
}

func loginReply(err error) (reply *smtp.SMTPError, result string) {
	switch {
	case errors.Is(err, login.ErrBadCredentials):
		return replyAuthBad, "bad"
	case errors.Is(err, login.ErrDisabled):
		return replyAuthDenied, "disabled"
	case errors.Is(err, login.ErrServiceDenied):
		return replyAuthDenied, "denied"
	case errors.Is(err, login.ErrThrottled):
		return replyAuthLater, "throttled"
	}
	return replyAuthLater, "unavailable"
}
