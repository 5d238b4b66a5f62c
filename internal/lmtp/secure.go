package lmtp

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrInjected: the server sent more after its answer to STARTTLS and before
// TLS, which anybody on the way could have written (RFC 3207, Section 6).
var ErrInjected = errors.New("bytes before TLS")

// StartTLS turns the connection into TLS (RFC 3207). What the server said
// before is forgotten, so Hello must follow. A refusal is a *ReplyError.
func (c *Client) StartTLS(ctx context.Context, config *tls.Config) error {
	if err := c.send("STARTTLS"); err != nil {
		return err
	}
	if err := c.expect("STARTTLS"); err != nil {
		return err
	}
	if c.r.Buffered() > 0 {
		return fmt.Errorf("STARTTLS: %w", ErrInjected)
	}
	if err := c.conn.SetDeadline(time.Now().Add(c.o.Timeout)); err != nil {
		return err
	}
	tc := tls.Client(c.conn, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("STARTTLS: %w", err)
	}
	c.conn, c.ext = tc, nil
	c.r.Reset(tc)
	c.w.Reset(deadlineWriter{tc, c.o.Timeout})
	return nil
}

// ErrNoMechanism: the server offers no mechanism that we speak.
var ErrNoMechanism = errors.New("no usable AUTH mechanism")

// Auth logs in by PLAIN (RFC 4616), or else by LOGIN, whichever is offered (RFC
// 4954). Only for connections under TLS. A refusal is a *ReplyError; no error
// holds the password.
func (c *Client) Auth(user, password string) error {
	offered, _ := c.Ext("AUTH")
	mechs := strings.Fields(strings.ToUpper(offered))
	has := func(m string) bool {
		for _, x := range mechs {
			if x == m {
				return true
			}
		}
		return false
	}
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	switch {
	case has("PLAIN"):
		return c.exchange("AUTH PLAIN "+b64("\x00"+user+"\x00"+password), "AUTH PLAIN")
	case has("LOGIN"):
		return c.exchange("AUTH LOGIN", "AUTH LOGIN", b64(user), b64(password))
	}
	return fmt.Errorf("AUTH %s: %w", offered, ErrNoMechanism)
}

// exchange sends a command and answers each challenge.
func (c *Client) exchange(line, name string, answers ...string) error {
	if err := c.send(line); err != nil {
		return err
	}
	for _, a := range answers {
		r, err := c.reply()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if r.Code != 334 {
			return &ReplyError{name, r}
		}
		if err := c.send(a); err != nil {
			return err
		}
	}
	return c.expect(name)
}
