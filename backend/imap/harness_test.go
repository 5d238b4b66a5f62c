package imap

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/mailbox"
	"waypost/backend/mailbox/memory"
	"waypost/director"
)

const (
	ann     = director.User("ann@example.test")
	timeout = 30 * time.Second
)

// tb is what testing.T and rapid.T share.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// rig is a server on a memory store.
type rig struct {
	t     testing.TB
	store *memory.Store
	srv   *Server
	// staging takes messages in that are delivered: store, where a test has no world of its own.
	staging mailbox.Store
}

func newRig(t testing.TB, limits Limits) *rig { return newRigWith(t, Options{Limits: limits}) }

func newRigWith(t testing.TB, o Options) *rig {
	r := &rig{t: t, store: memory.New()}
	r.staging = r.store
	r.store.Serve(ann, "b1", 1)
	o.Log, o.Metrics = slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	r.srv = New(o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := r.srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return r
}

func (r *rig) box(epoch director.Epoch) mailbox.Box {
	r.t.Helper()
	b, err := r.store.Open(context.Background(), ann, "b1", epoch)
	if err != nil {
		r.t.Fatalf("open: %v", err)
	}
	r.t.Cleanup(b.Close)
	return b
}

// deliver puts a message into a folder.
func (r *rig) deliver(b mailbox.Box, folder, text string) mailbox.UID {
	r.t.Helper()
	m, err := r.staging.Stage(context.Background(), "", strings.NewReader(text), 0)
	if err != nil {
		r.t.Fatalf("stage: %v", err)
	}
	defer m.Discard()
	uid, err := appendOne(b, folder, m, mailbox.Flags{}, time.Date(2025, 11, 3, 12, 0, 0, 0, time.UTC))
	if err != nil {
		r.t.Fatalf("append: %v", err)
	}
	return uid
}

// fill puts n messages into INBOX.
func (r *rig) fill(b mailbox.Box, n int) {
	r.t.Helper()
	m, err := r.staging.Stage(context.Background(), "", strings.NewReader(letter), 0)
	if err != nil {
		r.t.Fatalf("stage: %v", err)
	}
	defer m.Discard()
	d := mailbox.Delivery{ID: "fill", Message: m, Places: make([]mailbox.Place, n)}
	if err := b.Deliver(context.Background(), d); err != nil {
		r.t.Fatalf("deliver: %v", err)
	}
}

// loopback gives both ends of a TCP connection.
func loopback(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, server
}

// serve starts a session and gives the client's end and where Serve's result
// will be.
func (r *rig) serve(ctx context.Context, s Session) (net.Conn, <-chan error) {
	r.t.Helper()
	client, server := loopback(r.t)
	done := make(chan error, 1)
	go func() { done <- r.srv.Serve(ctx, server, s) }()
	return client, done
}

// client is a raw IMAP client.
type client struct {
	t    tb
	nc   net.Conn
	br   *bufio.Reader
	n    int
	done <-chan error
}

// dial starts a session on b and reads the greeting.
func (r *rig) dial(b mailbox.Box) *client {
	r.t.Helper()
	nc, done := r.serve(context.Background(), Session{Box: b, Store: r.store, Client: "192.0.2.1:1", ID: "s"})
	c := &client{t: r.t, nc: nc, br: bufio.NewReader(nc), done: done}
	if g := c.line(); !strings.HasPrefix(g, "* PREAUTH [CAPABILITY IMAP4rev1 ") {
		r.t.Fatalf("greeting %q", g)
	}
	return c
}

func (c *client) send(format string, args ...any) {
	c.t.Helper()
	c.nc.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := fmt.Fprintf(c.nc, format, args...); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// line reads a response, literals included, without its line end; "EOF" at the
// end.
func (c *client) line() string {
	c.t.Helper()
	c.nc.SetReadDeadline(time.Now().Add(timeout))
	var out strings.Builder
	for {
		s, err := c.br.ReadString('\n')
		if err == io.EOF && s == "" && out.Len() == 0 {
			return "EOF"
		}
		if err != nil {
			c.t.Fatalf("read: %v behind %q", err, out.String()+s)
		}
		s = strings.TrimSuffix(s, "\r\n")
		out.WriteString(s)
		var n int64
		i := strings.LastIndexByte(s, '{')
		if i < 0 || !strings.HasSuffix(s, "}") {
			return out.String()
		}
		if _, err := fmt.Sscanf(s[i:], "{%d}", &n); err != nil {
			return out.String()
		}
		if _, err := io.CopyN(&out, c.br, n); err != nil {
			c.t.Fatalf("literal: %v", err)
		}
	}
}

// cmd sends a command and gives its untagged responses and the tagged one
// without its tag.
func (c *client) cmd(format string, args ...any) (untagged []string, status string) {
	c.t.Helper()
	c.n++
	tag := fmt.Sprintf("t%d", c.n)
	c.send("%s %s\r\n", tag, fmt.Sprintf(format, args...))
	return c.until(tag)
}

func (c *client) until(tag string) (untagged []string, status string) {
	c.t.Helper()
	for {
		l := c.line()
		if rest, ok := strings.CutPrefix(l, tag+" "); ok {
			return untagged, rest
		}
		if l == "EOF" {
			c.t.Fatalf("connection ended behind %q", untagged)
		}
		untagged = append(untagged, l)
	}
}

// ok is cmd that wants an OK.
func (c *client) ok(format string, args ...any) []string {
	c.t.Helper()
	untagged, status := c.cmd(format, args...)
	if !strings.HasPrefix(status, "OK") {
		c.t.Fatalf("%s: %s", fmt.Sprintf(format, args...), status)
	}
	return untagged
}

// want is cmd that wants exactly these untagged responses and a status that
// begins so.
func (c *client) want(command, status string, untagged ...string) {
	c.t.Helper()
	got, st := c.cmd("%s", command)
	if !strings.HasPrefix(st, status) || strings.Join(got, "\n") != strings.Join(untagged, "\n") {
		c.t.Errorf("%s\n got: %s\n%s\nwant: %s\n%s", command, st, strings.Join(got, "\n"), status, strings.Join(untagged, "\n"))
	}
}

// bye wants a BYE with these words, then the end.
func (c *client) bye(words string) {
	c.t.Helper()
	if l := c.line(); !strings.HasPrefix(l, "* BYE ") || !strings.Contains(l, words) {
		c.t.Fatalf("got %q, want a BYE with %q", l, words)
	}
	if l := c.line(); l != "EOF" {
		c.t.Fatalf("got %q behind the BYE", l)
	}
}

// ended waits for Serve.
func (c *client) ended() error {
	c.t.Helper()
	select {
	case err := <-c.done:
		return err
	case <-time.After(timeout):
		c.t.Fatalf("Serve does not end")
		return nil
	}
}

func newRaw(t tb, nc net.Conn, done <-chan error) *client {
	return &client{t: t, nc: nc, br: bufio.NewReader(nc), done: done}
}

// appendOne appends one message and gives its UID.
func appendOne(b mailbox.Box, folder string, m mailbox.Staged, flags mailbox.Flags, date time.Time) (mailbox.UID, error) {
	r, err := b.Append(folder, []mailbox.NewMessage{{Message: m, Flags: flags, Date: date}})
	if err != nil {
		return 0, err
	}
	return r.UIDs[0], nil
}
