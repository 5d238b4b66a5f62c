package managesieve

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"waypost/backend/scripts"
	"waypost/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ann = "ann@example.test"

// compile finds errors in what has "error" and warnings in what has "warn".
func compile(name string, src []byte) (string, error) {
	switch text := string(src); {
	case strings.Contains(text, "errors"):
		return "", errors.New("line 1: no\nline 2: \"no\"\n")
	case strings.Contains(text, "error"):
		return "", fmt.Errorf("line 1: %q is wrong", name)
	case strings.Contains(text, "warn"):
		return "line 3: unused", nil
	}
	return "", nil
}

// home is a user's scripts behind a lock and a fence.
type home struct {
	store *scripts.Store
	done  chan struct{}

	mu     sync.Mutex // protects fence
	fence  error
	writes int
}

func newHome(t testing.TB, l scripts.Limits) *home {
	t.Helper()
	return &home{store: scripts.New(vfs.OS, t.TempDir(), l), done: make(chan struct{})}
}

func (h *home) refuse(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fence = err
}

func (h *home) scripts() Scripts {
	return Guarded{Name: ann, Ended: h.done, Do: func(write bool, op func(*scripts.Store) error) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.fence != nil {
			return fmt.Errorf("%s: %w", ann, h.fence)
		}
		if write {
			h.writes++
		}
		return op(h.store)
	}}
}

func pair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// dialogue is a served connection; end waits for Serve's result.
type dialogue struct {
	t      testing.TB
	conn   net.Conn
	br     *bufio.Reader
	cancel context.CancelFunc
	end    func() error
}

func options() Options {
	return Options{
		Compile: compile, Extensions: []string{"fileinto", "vacation"}, Notify: []string{"mailto"}, MaxRedirects: 5,
	}
}

func serve(t testing.TB, opt Options, s Scripts) *dialogue {
	t.Helper()
	client, server := pair(t)
	ctx, cancel := context.WithCancel(context.Background())
	d := &dialogue{t: t, conn: client, br: bufio.NewReader(client), cancel: cancel}
	client.SetDeadline(time.Now().Add(30 * time.Second))
	ended := make(chan error, 1)
	srv := New(opt)
	go func() { ended <- srv.Serve(ctx, server, Session{Scripts: s, Client: "192.0.2.1:99", ID: "s1"}) }()
	d.end = sync.OnceValue(func() error { return <-ended })
	t.Cleanup(func() { cancel(); client.Close(); d.end() })
	return d
}

func (d *dialogue) send(s string) {
	d.t.Helper()
	if _, err := io.WriteString(d.conn, s); err != nil {
		d.t.Fatal(err)
	}
}

func (d *dialogue) line() string {
	d.t.Helper()
	s, err := d.br.ReadString('\n')
	if err != nil {
		d.t.Fatalf("after %q: %v", s, err)
	}
	return s
}

// play runs a transcript: consecutive "C: " lines are sent at once with CRLF,
// `C"..."` lines as Go strings without it; "S: " lines must come; "EOF" is the
// end of the connection.
func (d *dialogue) play(script string) {
	d.t.Helper()
	var out bytes.Buffer
	flush := func() {
		if out.Len() > 0 {
			d.send(out.String())
			out.Reset()
		}
	}
	for line := range strings.Lines(script) {
		line = strings.Trim(line, "\t\n")
		switch {
		case line == "":
		case strings.HasPrefix(line, "C:"):
			out.WriteString(strings.TrimPrefix(strings.TrimPrefix(line, "C:"), " ") + "\r\n")
		case strings.HasPrefix(line, `C"`):
			raw, err := strconv.Unquote(line[1:])
			if err != nil {
				d.t.Fatal(line, err)
			}
			out.WriteString(raw)
		case strings.HasPrefix(line, "S:"):
			flush()
			want := strings.TrimPrefix(strings.TrimPrefix(line, "S:"), " ") + "\r\n"
			if got := d.line(); got != want {
				d.t.Fatalf("got %q, want %q", got, want)
			}
		case line == "EOF":
			flush()
			if rest, err := io.ReadAll(d.br); len(rest) > 0 || err != nil {
				d.t.Fatalf("want the end, got %q, %v", rest, err)
			}
			d.conn.Close() // which Serve waits for
		default:
			d.t.Fatalf("bad script line %q", line)
		}
	}
	flush()
}
