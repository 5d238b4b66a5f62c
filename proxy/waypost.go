package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"waypost/director"
	"waypost/internal/frames"
	"waypost/internal/wire"
)

// hello names the session to the backend of a record.
func (q request) hello(rec director.Record) wire.Hello {
	return wire.Hello{
		Version: wire.Version, Protocol: q.protocol, User: string(q.user), Home: string(rec.Home), Epoch: uint64(rec.Epoch),
		Client: q.client.String(), Session: q.session, POP3: q.pop3,
	}
}

// openWaypost opens a session on a backend of kind waypost: on a connection that many
// share, or on its own where the backend is of before them.
func (s *Server) openWaypost(ctx context.Context, rec director.Record, b director.Backend, q request) (*upstream, error) {
	hello := q.hello(rec)
	stream, err := s.openStream(ctx, rec.Home, b.Node, hello)
	if err == nil {
		return s.converse(ctx, stream, rec.Home, func(c *talk) (string, error) { return c.greeting(q) })
	}
	if !errors.Is(err, frames.ErrPlain) {
		return nil, fmt.Errorf("backend %s: %w", rec.Home, err)
	}
	conn, err := s.dialNode(ctx, rec.Home, b.Node)
	if err != nil {
		return nil, err
	}
	return s.converse(ctx, conn, rec.Home, func(c *talk) (string, error) { return c.waypost(hello, q) })
}

func (s *Server) dialNode(ctx context.Context, id director.BackendID, addr string) (net.Conn, error) {
	return s.dialBackend(ctx, func(ctx context.Context) (net.Conn, error) { return s.deps.Dial(ctx, id, addr) })
}

// openStream opens a session on a shared connection. One that has just been lost, or
// goes away, is no answer of the backend: it is asked again, once, on another one.
func (s *Server) openStream(ctx context.Context, id director.BackendID, addr string, hello wire.Hello) (stream *frames.Stream, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.OpenTimeout)
	defer cancel()
	for range 2 {
		var link *frames.Client
		if link, err = s.links.get(ctx, id, addr, time.Time{}); err != nil {
			return nil, err
		}
		var w wire.Welcome
		hello.Try = s.tries.Add(1)
		stream, w, err = link.Open(ctx, hello)
		switch {
		case err == nil && stream != nil:
			return stream, nil
		case err == nil:
			return nil, fmt.Errorf("%w: %s", statusError(w), w.Text)
		case errors.Is(err, context.DeadlineExceeded):
			link.Retire() // whoever comes next finds out whether it is the connection
			return nil, err
		case ctx.Err() != nil:
			return nil, err
		}
	}
	return nil, err
}

// dialBackend bounds one attempt to connect.
func (s *Server) dialBackend(ctx context.Context, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.DialTimeout)
	defer cancel()
	return dial(ctx)
}

// converse runs what is said on a new connection until the session has begun.
// It ends with ctx and after open_timeout; a failure closes the connection.
func (s *Server) converse(ctx context.Context, conn net.Conn, home director.BackendID, say func(*talk) (string, error)) (*upstream, error) {
	c := newTalk(conn)
	if err := conn.SetDeadline(time.Now().Add(s.cfg.OpenTimeout)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	unhook := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) }) // closed already: nothing to end
	capabilities, err := say(c)
	if !unhook() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = c.conn.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = c.conn.Close() // the failure is what counts
		return nil, fmt.Errorf("backend %s: %w", home, err)
	}
	rest, err := c.r.Peek(c.r.Buffered())
	if err != nil {
		_ = c.conn.Close()
		return nil, fmt.Errorf("backend %s: %w", home, err)
	}
	return &upstream{conn: c.conn, backend: home, pending: bytes.Clone(rest), capabilities: capabilities}, nil
}

// talk is a connection to a backend before the session; lines are bounded.
type talk struct {
	conn net.Conn
	r    *bufio.Reader
}

func newTalk(c net.Conn) *talk { return &talk{conn: c, r: bufio.NewReaderSize(c, 1024)} }

// maxBackendLine bounds a backend's greeting or answer; capability lists grow.
const maxBackendLine = 16 << 10

var errLongLine = errors.New("backend's line is too long")

// line reads one line without its line end.
func (t *talk) line() (string, error) {
	var line []byte
	for {
		part, err := t.r.ReadSlice('\n')
		if line = append(line, part...); len(line) > maxBackendLine {
			return "", errLongLine
		}
		if err == nil {
			return strings.TrimRight(string(line), "\r\n"), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return "", err
		}
	}
}

func (t *talk) send(line string) error {
	_, err := t.conn.Write([]byte(line + "\r\n"))
	return err
}

// waypost says Hello (package wire) on a connection of the session's own, and takes
// the greeting.
func (t *talk) waypost(hello wire.Hello, q request) (string, error) {
	if err := wire.Write(t.conn, hello); err != nil {
		return "", fmt.Errorf("hello: %w", err)
	}
	var welcome wire.Welcome
	if err := wire.Read(t.r, &welcome); err != nil {
		return "", fmt.Errorf("welcome: %w", err)
	}
	if welcome.Status != wire.StatusOK {
		return "", fmt.Errorf("%w: %s", statusError(welcome), welcome.Text)
	}
	return t.greeting(q)
}

// greeting takes, for IMAP, the PREAUTH greeting (RFC 9051, Section 7.1.4), whose
// capabilities it returns.
func (t *talk) greeting(q request) (string, error) {
	if q.protocol != protoIMAP {
		return "", nil
	}
	line, err := t.line()
	if err != nil {
		return "", fmt.Errorf("greeting: %w", err)
	}
	if !hasPrefixFold(line, "* PREAUTH ") {
		return "", fmt.Errorf("greeting %.80q is no PREAUTH", line)
	}
	return capabilityCode(line), nil
}

// capabilityCode gives what stands in a response's [CAPABILITY ...], or "".
func capabilityCode(line string) string {
	_, rest, ok := strings.Cut(line, "[CAPABILITY ")
	if !ok {
		return ""
	}
	caps, _, ok := strings.Cut(rest, "]")
	if !ok {
		return ""
	}
	return caps
}
