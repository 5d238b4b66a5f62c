package hops

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"waypost/internal/bench"
	"waypost/internal/bench/access"
)

// TestMain: called as the peers call waypost, it is what they start.
func TestMain(m *testing.M) {
	if words := Command(); len(os.Args) == len(words)+3 && slices.Equal(os.Args[1:len(words)+1], words) {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := Run(ctx, os.Args[len(words)+1], os.Args[len(words)+2])
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func makeMaildir(t *testing.T, texts ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "cur"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, "cur", fmt.Sprint(100+i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// begin serves a kind in this process, and gives its addresses and what ends it.
func begin(t *testing.T, kind, where string, n int) (at []string, end func()) {
	t.Helper()
	var lns []net.Listener
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		lns, at = append(lns, ln), append(at, ln.Addr().String())
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, kind, where, lns) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	})
	t.Cleanup(end)
	return at, end
}

// each runs a test with one hop and with two.
func each(t *testing.T, maildir string, test func(t *testing.T, imap, pop3 string)) {
	t.Run("one hop", func(t *testing.T) {
		at, _ := begin(t, KindServer, maildir, 2)
		test(t, at[0], at[1])
	})
	t.Run("two hops", func(t *testing.T) {
		link, _ := begin(t, KindLinked, maildir, 1)
		at, _ := begin(t, KindProxy, link[0], 2)
		test(t, at[0], at[1])
	})
}

type client struct {
	nc net.Conn
	r  *bufio.Reader
}

func dial(addr string) (*client, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &client{nc, bufio.NewReader(nc)}, nc.SetDeadline(time.Now().Add(20 * time.Second))
}

// ask sends a line, and wants the answer to be one that begins and ends so.
func (c *client) ask(line, begins, ends string) error {
	if line != "" {
		if _, err := io.WriteString(c.nc, line+"\r\n"); err != nil {
			return err
		}
	}
	var got strings.Builder
	for !strings.HasSuffix(got.String(), ends) {
		s, err := c.r.ReadString('\n')
		got.WriteString(s)
		if err != nil {
			return fmt.Errorf("%s: %q: %w", line, got.String(), err)
		}
	}
	if !strings.HasPrefix(got.String(), begins) {
		return fmt.Errorf("%s: %q", line, got.String())
	}
	return nil
}

func (c *client) gone() error {
	if b, err := c.r.ReadByte(); err != io.EOF {
		return fmt.Errorf("after the end: %d, %w", b, err)
	}
	return c.nc.Close()
}

func talk(addr string, script ...[3]string) error {
	c, err := dial(addr)
	if err != nil {
		return err
	}
	defer c.nc.Close()
	for _, s := range script {
		if err := c.ask(s[0], s[1], s[2]); err != nil {
			return err
		}
	}
	return c.gone()
}

func TestSessions(t *testing.T) {
	long := strings.Repeat("0123456789\n", 9000) // several frames
	dir := makeMaildir(t, "Subject: a\n\n.dot\nend", long)
	each(t, dir, func(t *testing.T, imap, pop3 string) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 10 {
					if err := talk(imap, [3]string{"", "* OK [CAPABILITY ", " ready.\r\n"}, [3]string{"b1 LOGIN u p", "b1 OK [CAPABILITY ", "] Logged in.\r\n"},
						[3]string{"x NOOP", "x BAD ", "\r\n"}, [3]string{"b2 SELECT INBOX", "* FLAGS", "b2 OK [READ-WRITE] SELECT completed\r\n"},
						[3]string{"b3 LOGOUT", "* BYE", "b3 OK LOGOUT completed\r\n"}); err != nil {
						t.Error(err)
					}
					if err := talk(pop3, [3]string{"", "+OK ", "\r\n"}, [3]string{"USER u", "+OK ", "\r\n"}, [3]string{"PASS p", "+OK ", "\r\n"}, [3]string{"STAT", "+OK 2 99020\r\n", "\r\n"},
						[3]string{"RETR 1", "+OK 23 octets\r\nSubject: a\r\n\r\n..dot\r\nend\r\n.\r\n", "\r\n.\r\n"},
						[3]string{"RETR 2", "+OK 108000 octets\r\n" + strings.ReplaceAll(long, "\n", "\r\n"), "\r\n.\r\n"},
						[3]string{"RETR 3", "-ERR", "\r\n"}, [3]string{"RETR x", "-ERR", "\r\n"}, [3]string{"RETR", "-ERR", "\r\n"}, [3]string{"QUIT", "+OK bye", "\r\n"}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	})
}

// A client that hangs up, pipelines beyond the end, or whose Maildir is not there, ends alone.
func TestBadClients(t *testing.T) {
	each(t, filepath.Join(t.TempDir(), "none"), func(t *testing.T, imap, _ string) {
		other, err := dial(imap)
		if err != nil {
			t.Fatal(err)
		}
		defer other.nc.Close()
		if err := errors.Join(other.ask("", "* OK", "\r\n"), other.ask("a LOGIN u p", "a OK", "\r\n")); err != nil {
			t.Fatal(err)
		}
		for name, says := range map[string]string{"no Maildir": "a SELECT INBOX\r\n", "long line": strings.Repeat("x", 2*lineBytes), "pipelining": "a LOGOUT\r\nb LOGIN u p\r\nc LOGIN u p\r\nd LOGIN u p\r\n"} {
			c, err := dial(imap)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c.nc, says); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := io.Copy(io.Discard, c.r); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: the session goes on", name)
			}
			c.nc.Close()
		}
		c, err := dial(imap)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.ask("", "* OK", "\r\n"), c.ask("a LOGIN u p", "a OK", "\r\n"), c.nc.Close()); err != nil {
			t.Error(err)
		}
		if err := other.ask("b LOGIN u p", "b OK", "\r\n"); err != nil {
			t.Error(err)
		}
	})
}

// Clients of a proxy whose server has gone are let go.
func TestServerGone(t *testing.T) {
	link, end := begin(t, KindLinked, makeMaildir(t), 1)
	at, _ := begin(t, KindProxy, link[0], 2)
	c, err := dial(at[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.ask("", "* OK", "\r\n"), c.ask("a LOGIN u p", "a OK", "\r\n")); err != nil {
		t.Fatal(err)
	}
	end()
	if err := c.gone(); err != nil {
		t.Error(err)
	}
}

func TestKind(t *testing.T) {
	if err := serve(t.Context(), "other", "", nil); !errors.Is(err, ErrKind) {
		t.Errorf("%v", err)
	}
	if err := serve(t.Context(), KindProxy, "127.0.0.1:0", nil); err == nil {
		t.Error("a proxy of nothing")
	}
}

// FuzzFrames: no bytes make the reader fail otherwise than by an error, and what it gives is
// within bounds.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x80\x00\x00\x03abc\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Add([]byte("\x00\x00\x00\x01\x7f\xff\xff\xffabc"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := &frameReader{r: bufio.NewReaderSize(bytes.NewReader(in), 2*maxPayload)}
		for total := 0; ; {
			_, _, p, err := r.next()
			if err != nil {
				return
			}
			if total += headerBytes + len(p); len(p) > maxPayload || total > len(in) {
				t.Fatalf("%d bytes of %d", total, len(in))
			}
		}
	})
}

// TestPeers measures both, as processes.
func TestPeers(t *testing.T) {
	s := access.Suite{Dir: t.TempDir(), Sizes: []int{60}, Batch: 20, Singles: 5, Sessions: 3, Rounds: 1, Duration: time.Millisecond, Pause: time.Millisecond, Peers: Peers()}
	rep, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, r := range rep.Rows {
		if rows = append(rows, r.Mode+": "+r.Operation); r.Peer != "limit" || r.State != access.Warm || r.WallMS <= 0 {
			t.Errorf("%+v", r)
		}
	}
	slices.Sort(rows)
	want := []string{"one hop: POP3 RETR of 20", "one hop: login+SELECT+LOGOUT", "one hop: login+SELECT+LOGOUT, alone",
		"two hops: POP3 RETR of 20", "two hops: login+SELECT+LOGOUT", "two hops: login+SELECT+LOGOUT, alone"}
	if !slices.Equal(rows, want) || len(rep.Idle) != 0 {
		t.Errorf("%q, %d idle rows", rows, len(rep.Idle))
	}
	if p := Peers(); p[0].Name != p[1].Name || p[0].Mode == p[1].Mode || bench.Ours == p[0].Name {
		t.Errorf("%+v", p)
	}
}
