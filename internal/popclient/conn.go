package popclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"waypost/internal/poplist"
)

// maxLine bounds what is kept of a line of a message; the rest of a longer one
// is passed over. Lines of all else may not be longer than poplist.MaxLine.
const maxLine = 64 << 10

// maxSkip bounds what is passed over of one line.
const maxSkip = 1 << 30

// conn is a connection to a server, in lines.
type conn struct {
	base    net.Conn // raw, or what is below its TLS
	raw     net.Conn
	r       *bufio.Reader
	timeout time.Duration
}

func newConn(raw net.Conn, timeout time.Duration) *conn {
	return &conn{base: raw, raw: raw, r: bufio.NewReaderSize(raw, 16<<10), timeout: timeout}
}

func (c *conn) close() error { return c.raw.Close() }

// during runs what talks to the server, and ends its waits with ctx.
func (c *conn) during(ctx context.Context, talk func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stop := make(chan struct{})
	over := make(chan struct{})
	go func() {
		defer close(over)
		select {
		case <-stop:
		case <-ctx.Done():
			_ = c.base.Close() // for good; a deadline may be set anew right now
		}
	}()
	err := talk()
	close(stop)
	<-over
	if ctx.Err() != nil && err != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

func (c *conn) startTLS(ctx context.Context, config *tls.Config) error {
	if c.r.Buffered() > 0 {
		return fmt.Errorf("%w: something came before TLS did", ErrProtocol)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	t := tls.Client(c.raw, config)
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	c.raw = t
	c.r.Reset(t)
	return nil
}

// send writes whole lines.
func (c *conn) send(lines string) error {
	if err := c.raw.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	_, err := c.raw.Write([]byte(lines))
	return err
}

// read gives the next line without its end, cut off at limit bytes; whole is
// false where it was.
func (c *conn) read(limit int) (line string, whole bool, err error) {
	whole = true
	var kept []byte
	for total := 0; ; {
		if c.r.Buffered() == 0 {
			if err := c.raw.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
				return "", false, err
			}
		}
		part, err := c.r.ReadSlice('\n')
		if total += len(part); total > maxSkip {
			return "", false, fmt.Errorf("%w: a line without end", ErrProtocol)
		}
		if room := limit - len(kept); len(part) > room {
			kept, whole = append(kept, part[:room]...), false
		} else {
			kept = append(kept, part...)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return "", false, err
		}
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(kept), "\n"), "\r"), whole, nil
}

// status reads +OK or -ERR (RFC 1939, Section 3), and gives the words behind it.
func (c *conn) status() (string, error) {
	line, whole, err := c.read(poplist.MaxLine)
	switch {
	case err != nil:
		return "", err
	case !whole:
		return "", fmt.Errorf("%w: an answer without end", ErrProtocol)
	case line == "+OK" || strings.HasPrefix(line, "+OK "):
		return strings.TrimPrefix(line[3:], " "), nil
	case line == "-ERR" || strings.HasPrefix(line, "-ERR "):
		return "", fmt.Errorf("%w: %.200q", ErrServer, strings.TrimPrefix(line[4:], " "))
	}
	return "", fmt.Errorf("%w: %.80q is no answer", ErrProtocol, line)
}

func (c *conn) command(line string) (string, error) {
	if err := c.send(line + "\r\n"); err != nil {
		return "", err
	}
	return c.status()
}

// dataLine reads a line of a multi-line answer, with its byte-stuffing undone;
// last at the dot that ends it.
func (c *conn) dataLine() (line string, last bool, err error) {
	line, whole, err := c.read(poplist.MaxLine)
	if err == nil && !whole {
		err = fmt.Errorf("%w: a line without end", ErrProtocol)
	}
	if err != nil {
		return "", false, err
	}
	line, last = unstuff(line)
	return line, last, nil
}

// messageLine is dataLine for messages, which may have lines of any length.
func (c *conn) messageLine() (line string, last bool, err error) {
	line, _, err = c.read(maxLine)
	if err != nil {
		return "", false, err
	}
	line, last = unstuff(line)
	return line, last, nil
}

func unstuff(line string) (text string, last bool) {
	if line == "." {
		return "", true
	}
	return strings.TrimPrefix(line, "."), false
}
