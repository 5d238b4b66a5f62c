package imap

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"time"

	"waypost/backend/imap/syntax"
)

// mayLogin reports that credentials may be sent: over plain connections only where that is
// configured.
func (s *session) mayLogin() bool {
	return s.srv.opt.Login != nil && (s.secure || s.srv.opt.PlainLogin)
}

// login implements LOGIN (RFC 9051, Section 6.2.3).
func (s *session) login(c *cmd) error {
	if err := c.SP(); err != nil {
		return err
	}
	user, err := c.AString()
	if err == nil {
		err = c.SP()
	}
	if err != nil {
		return err
	}
	password, err := c.AString()
	if err == nil {
		err = c.End()
	}
	if err != nil {
		return err
	}
	return s.enter(c, Credentials{User: user, Password: password})
}

// authenticate implements AUTHENTICATE with PLAIN (RFC 9051, Section 6.2.2; RFC 4959; RFC 4616).
func (s *session) authenticate(c *cmd) error {
	if err := c.SP(); err != nil {
		return err
	}
	how, err := c.Name()
	if err != nil {
		return err
	}
	var response string
	if c.Take(' ') {
		response = c.Rest()
	}
	switch {
	case how != "PLAIN":
		return no("CANNOT", "unknown mechanism")
	case !s.mayLogin():
		return no("PRIVACYREQUIRED", "use TLS first")
	case response == "":
		s.out.Raw("+ ").CRLF()
		// As a command's line: one that announces a literal must not have it run.
		if err := s.p.Next(); err != nil {
			return err
		}
		response = s.p.Rest()
	}
	if response == "*" {
		return bad("cancelled")
	}
	b, err := base64.StdEncoding.DecodeString(response)
	parts := bytes.Split(b, []byte{0})
	if err != nil || len(parts) != 3 {
		return syntax.Syntax("not a response of PLAIN")
	}
	return s.enter(c, Credentials{As: string(parts[0]), User: string(parts[1]), Password: string(parts[2])})
}

func (s *session) enter(c *cmd, who Credentials) error {
	if !s.mayLogin() {
		return no("PRIVACYREQUIRED", "use TLS first")
	}
	who.Client = s.data.Client
	got, err := s.srv.opt.Login(s.ctx, who)
	switch {
	case errors.Is(err, ErrLogin):
		if s.bads++; s.bads >= 3 {
			return s.end(endBug)
		}
		return no("AUTHENTICATIONFAILED", "user or password wrong")
	case err != nil:
		s.log.Warn("imap login failed", "error", err)
		return no("UNAVAILABLE", "temporary failure, please try again")
	}
	s.data.Store, s.box, s.owned = got.Store, got.Box, true
	s.log = s.log.With("user", s.box.User())
	s.srv.sessions.Go(func() { s.fence(s.box.Done()) })
	c.code = "CAPABILITY" + s.capabilities()
	return nil
}

// fence ends a session that logged in here when its mailbox moves.
func (s *session) fence(moved <-chan struct{}) {
	select {
	case <-s.ctx.Done():
		return
	case <-moved:
	}
	s.c.end(endMoving)
	select {
	case <-s.ctx.Done():
	case <-time.After(s.srv.limits.Finish):
		s.c.cut.Store(true)
		s.c.Conn.Close()
	}
}

// startTLS implements STARTTLS (RFC 9051, Section 6.2.1). What the client sent behind it in
// plain text would be taken for sent encrypted: that ends the session.
func (s *session) startTLS(c *cmd) error {
	if err := c.End(); err != nil {
		return err
	}
	if s.srv.opt.TLS == nil || s.secure {
		return bad("TLS is not possible here")
	}
	if len(s.c.in) > 0 {
		return s.end(endBug)
	}
	s.ok(c)
	c.done = true
	if err := s.out.Flush(); err != nil {
		return err
	}
	t := tls.Server(s.c.Conn, s.srv.opt.TLS)
	ctx, cancel := context.WithTimeout(s.ctx, s.srv.limits.Login)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		return &connError{err} // nothing may follow in plain text
	}
	s.c.replace(t)
	s.secure = true
	return nil
}
