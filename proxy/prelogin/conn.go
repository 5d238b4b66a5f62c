package prelogin

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// readBufferBytes is small: most connections say a few short lines, and many
// are strangers'.
const readBufferBytes = 1024

// Conn is a client's connection before login. It belongs to one goroutine.
type Conn struct {
	conn     net.Conn
	r        *bufio.Reader
	limits   Limits
	deadline time.Time
	failures int // refused logins that count
}

// NewConn begins the pre-login phase on c; its deadline runs from now.
func NewConn(c net.Conn, l Limits) (*Conn, error) {
	k := &Conn{conn: c, r: bufio.NewReaderSize(c, readBufferBytes), limits: l, deadline: time.Now().Add(l.Timeout)}
	if err := c.SetReadDeadline(k.deadline); err != nil {
		return nil, fmt.Errorf("pre-login deadline: %w", err)
	}
	return k, nil
}

// Limits are those of NewConn.
func (c *Conn) Limits() Limits { return c.limits }

// Encrypted reports whether TLS is up.
func (c *Conn) Encrypted() bool { _, ok := c.conn.(*tls.Conn); return ok }

// StartTLS does the server's handshake. Bytes that came before it and were not
// read yet are an attacker's or a broken client's: they must not run as
// commands under the client's protection, so they are ErrInjection.
func (c *Conn) StartTLS(ctx context.Context, config *tls.Config) error {
	if c.Pending() {
		return ErrInjection
	}
	ctx, cancel := context.WithTimeout(ctx, c.limits.HandshakeTimeout)
	defer cancel()
	t := tls.Server(c.conn, config)
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.limits.HandshakeTimeout)); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	c.conn = t
	c.r.Reset(t)
	return nil
}

// Pending reports whether the client has sent more than was read.
func (c *Conn) Pending() bool { return c.r.Buffered() > 0 }

// ReadLine reads one line of at most limit bytes and returns it without its
// line end. A bare LF ends a line too: nobody but the client itself could be
// fooled by it here. Longer lines are ErrLineTooLong; what is left of them is
// not read, so the connection is good for nothing more.
func (c *Conn) ReadLine(limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return nil, ErrLineTooLong
		}
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
	line = line[:len(line)-1]
	return bytes.TrimSuffix(line, []byte("\r")), nil
}

// ReadFull reads exactly n bytes: a literal.
func (c *Conn) ReadFull(n int) ([]byte, error) {
	p := make([]byte, n)
	_, err := io.ReadFull(c.r, p)
	return p, err
}

// Write sends an answer, which carries its line ends.
func (c *Conn) Write(answer string) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.limits.WriteTimeout)); err != nil {
		return err
	}
	_, err := io.WriteString(c.conn, answer)
	return err
}

// Release ends the phase: the connection without deadlines, and the bytes that
// the client sent behind its login, which belong to its backend.
func (c *Conn) Release() (net.Conn, []byte, error) {
	rest, err := c.r.Peek(c.r.Buffered())
	if err != nil {
		return nil, nil, err
	}
	rest = bytes.Clone(rest)
	c.r = nil
	return c.conn, rest, c.conn.SetDeadline(time.Time{})
}
