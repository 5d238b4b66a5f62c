package popclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/internal/poplist"
)

const patience = 20 * time.Second

// server is a POP3 server with some messages, of which a test takes parts away.
type server struct {
	t        *testing.T
	addr     string
	messages []string // with CRLF
	ids      []string
	caps     []string
	// refuse are commands that get -ERR, answers those with an answer of their own.
	refuse  map[string]bool
	answers map[string]string

	mu  sync.Mutex
	got []string // commands
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, refuse: map[string]bool{}, answers: map[string]string{},
		caps: []string{"TOP", "UIDL", "PIPELINING", "USER", "SASL LOGIN PLAIN"}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			served.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close(); served.Wait() })
	return s
}

func (s *server) add(texts ...string) {
	for _, text := range texts {
		s.messages = append(s.messages, strings.ReplaceAll(text, "\n", "\r\n"))
		s.ids = append(s.ids, fmt.Sprintf("id%d", len(s.ids)+1))
	}
}

func (s *server) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(c)
	fmt.Fprint(c, "+OK hi\r\n")
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		s.mu.Lock()
		s.got = append(s.got, line)
		s.mu.Unlock()
		if !s.one(c, line) {
			return
		}
	}
}

func (s *server) one(c net.Conn, line string) (more bool) {
	verb, arg, _ := strings.Cut(line, " ")
	n := 0
	_, _ = fmt.Sscan(arg, &n)
	if answer, ok := s.answers[line]; ok {
		_, err := io.WriteString(c, answer)
		return err == nil && answer != ""
	}
	switch {
	case s.refuse[verb] || n > len(s.messages) || n == 0 && (verb == "TOP" || verb == "RETR"):
		fmt.Fprint(c, "-ERR no\r\n")
	case verb == "QUIT":
		fmt.Fprint(c, "+OK bye\r\n")
		return false
	case verb == "CAPA":
		fmt.Fprintf(c, "+OK\r\n%s\r\n.\r\n", strings.Join(s.caps, "\r\n"))
	case verb == "LIST" || verb == "UIDL":
		fmt.Fprint(c, "+OK\r\n")
		for i, m := range s.messages {
			if verb == "LIST" {
				fmt.Fprintf(c, "%d %d\r\n", i+1, len(m))
			} else {
				fmt.Fprintf(c, "%d %s\r\n", i+1, s.ids[i])
			}
		}
		fmt.Fprint(c, ".\r\n")
	case verb == "TOP" || verb == "RETR":
		m := s.messages[n-1]
		if head, _, ok := strings.Cut(m, "\r\n\r\n"); ok && verb == "TOP" {
			m = head + "\r\n\r\n"
		}
		m = strings.ReplaceAll("\r\n"+m, "\r\n.", "\r\n..")[2:]
		fmt.Fprintf(c, "+OK\r\n%s.\r\n", m)
	default:
		fmt.Fprint(c, "+OK\r\n")
	}
	return true
}

// took gives the commands with a verb, and forgets all.
func (s *server) took(verb string) (commands []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.got {
		if strings.HasPrefix(line, verb) {
			commands = append(commands, line)
		}
	}
	s.got = nil
	return commands
}

func (s *server) options() Options {
	return Options{Addr: s.addr, Security: Plain, User: "ann", Password: "secret", Timeout: patience}
}

// list is a whole session.
func list(t *testing.T, o Options) ([]Entry, error) {
	t.Helper()
	c, err := Dial(t.Context(), o)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var all []Entry
	for e, err := range c.List(t.Context()) {
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, c.Close()
}

func show(all []Entry) string {
	var b strings.Builder
	for _, e := range all {
		e.Size = 0
		fmt.Fprintf(&b, "%s", poplist.Append(nil, &e.Entry))
		if e.AttachmentGuessed {
			b.WriteString("?")
		}
	}
	return strings.ReplaceAll(strings.ReplaceAll(b.String(), "\t", "|"), "\r\n", "/")
}

const mixed = "Subject: two\nContent-Type: multipart/mixed; boundary=\"a b\"\n\n--a b\n\ntext\n--a b\nContent-Type: application/pdf; name=x.pdf\n\n.\n--a b--\n"

func TestScan(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*server, *Options)
		want   string
		asked  string
	}{
		{"pipelined", nil, "1|0|id1||2026-11-22T09:00:00Z|Ann <ann@example.test>|one|0/2|0|id2||||two|1/?", "TOP 1 0,TOP 2 0"},
		{"whole", func(_ *server, o *Options) { o.Whole = true }, "1|0|id1||2026-11-22T09:00:00Z|Ann <ann@example.test>|one|0/2|0|id2||||two|1/", ""},
		{"no CAPA, no UIDL", func(s *server, _ *Options) { s.refuse["CAPA"], s.refuse["UIDL"] = true, true },
			"1|0|||2026-11-22T09:00:00Z|Ann <ann@example.test>|one|0/2|0|||||two|1/?", "TOP 1 0,TOP 2 0"},
		{"no TOP", func(s *server, _ *Options) { s.caps, s.refuse["TOP"] = nil, true },
			"1|0|id1||2026-11-22T09:00:00Z|Ann <ann@example.test>|one|0/2|0|id2||||two|1/?", "TOP 1 0,TOP 2 0"},
		{"one has gone", func(s *server, _ *Options) { s.answers["TOP 1 0"] = "-ERR gone\r\n" }, "1|0|id1|||||0/2|0|id2||||two|1/?", "TOP 1 0,TOP 2 0"},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newServer(t)
			s.add("From: Ann <ann@example.test>\nSubject: one\nDate: Sun, 22 Nov 2026 10:00:00 +0100\n\n..text\n", mixed)
			o := s.options()
			if row.change != nil {
				row.change(s, &o)
			}
			all, err := list(t, o)
			if got := show(all); err != nil || got != row.want {
				t.Errorf("%s, %v\nwant %s", got, err, row.want)
			}
			if got := strings.Join(s.took("TOP"), ","); got != row.asked {
				t.Errorf("asked %q", got)
			}
		})
	}
}

func TestExtended(t *testing.T) {
	s := newServer(t)
	s.caps = append(s.caps, poplist.Capability)
	s.answers["XLST"] = "+OK\r\n1\t5\ta\t\\Seen\t\t\tone\t1\r\n3\t6\tb\t\t\t\tthree\t0\r\n.\r\n"
	o := s.options()
	all, err := list(t, o)
	if got := show(all); err != nil || got != "1|0|a|\\Seen|||one|1/3|0|b||||three|0/" || !all[0].FlagsKnown {
		t.Errorf("%s, %v", got, err)
	}
	o.Scan = true
	if all, err = list(t, o); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	for _, bad := range []string{"", "-ERR no\r\n", "+OK\r\nx\r\n.\r\n", "+OK\r\n2\t5\ta\t\t\t\tone\t1\r\n2\t5\ta\t\t\t\tone\t1\r\n.\r\n", "+OK\r\n" + strings.Repeat("x", 9000) + "\r\n", "hello\r\n"} {
		s.answers["XLST"] = bad
		if _, err := list(t, s.options()); err == nil {
			t.Errorf("%.30q was taken", bad)
		}
	}
}

func TestCache(t *testing.T) {
	s := newServer(t)
	s.add("Subject: one\n\n", mixed, "Subject: three\n\n")
	o := s.options()
	o.Cache = filepath.Join(t.TempDir(), "cache")
	first, err := list(t, o)
	if err != nil || len(s.took("TOP")) != 3 {
		t.Fatal(first, err)
	}
	check := func(what string, asked int) {
		t.Helper()
		all, err := list(t, o)
		if err != nil || show(all) != show(first) {
			t.Errorf("%s: %v\n%s\n%s", what, err, show(all), show(first))
		}
		if got := s.took("TOP"); len(got) != asked {
			t.Errorf("%s: asked %v", what, got)
		}
	}
	check("again", 0)
	s.add("Subject: four\n\n")
	first = append(first, Entry{Entry: poplist.Entry{Number: 4, UIDL: "id4", Subject: "four"}})
	check("one more", 1)
	files, err := filepath.Glob(filepath.Join(o.Cache, "*.pop3"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, damaged := range []string{"", string(whole[:len(whole)/2]), strings.Replace(string(whole), "three", "3hree", 1), strings.Replace(string(whole), "ann", "bob", 1)} {
		if err := os.WriteFile(files[0], []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		check("damaged", 4)
		check("made anew", 0)
	}
	o.Whole = true
	if _, err := list(t, o); err != nil || len(s.took("RETR")) != 1 {
		t.Error("only the guess is read whole", err)
	}
	o.Whole = false
	// Forgotten with the message; another user's is another file.
	s.messages, s.ids = s.messages[:1], s.ids[:1]
	if all, err := list(t, o); err != nil || len(all) != 1 {
		t.Error(all, err)
	}
	if data, err := os.ReadFile(files[0]); err != nil || strings.Contains(string(data), "three") || !strings.Contains(string(data), "one") {
		t.Errorf("%s, %v", data, err)
	}
	s.took("")
	o.User = "bob"
	if _, err := list(t, o); err != nil || len(s.took("TOP")) != 1 {
		t.Error("another user's cache was used", err)
	}
}

func TestLogins(t *testing.T) {
	s := newServer(t)
	if _, err := list(t, s.options()); err != nil || strings.Join(s.took("AUTH"), "") != "AUTH PLAIN AGFubgBzZWNyZXQ=" {
		t.Error(err)
	}
	s.caps = nil
	if _, err := list(t, s.options()); err != nil || strings.Join(s.took("PASS"), "") != "PASS secret" {
		t.Error(err)
	}
	s.refuse["PASS"] = true
	if _, err := list(t, s.options()); !errors.Is(err, ErrLogin) {
		t.Error(err)
	}
	o := s.options()
	o.Security, s.refuse["STLS"] = STLS, true
	if _, err := list(t, o); !errors.Is(err, ErrNoTLS) {
		t.Error(err)
	}
	s.refuse["STLS"] = false // and no TLS behind it
	s.took("")
	if _, err := list(t, o); err == nil || len(s.took("PASS"))+len(s.took("AUTH")) > 0 {
		t.Error("a password was sent without TLS", err)
	}
	o.Security, o.User = Plain, "a\r\nb"
	if _, err := list(t, o); !errors.Is(err, ErrLogin) {
		t.Error(err)
	}
}

// TestBadServers: whatever a server says, a listing ends.
func TestBadServers(t *testing.T) {
	for command, answers := range map[string][]string{
		"LIST":    {"", "+OK\r\n1\r\n.\r\n", "+OK\r\n0 5\r\n.\r\n", "+OK\r\n1 -5\r\n.\r\n", "+OK\r\n2 5\r\n1 5\r\n.\r\n", "+OK\r\n" + strings.Repeat("x", 10000), "maybe\r\n"},
		"UIDL":    {"", "+OK\r\nx y\r\n.\r\n", "+OK\r\n1\r\n.\r\n"},
		"TOP 1 0": {"", "+OKAY\r\n", "+OK\r\n" + strings.Repeat("x", 1000)},
		"CAPA":    {"", "+OK\r\n" + strings.Repeat("X\r\n", 600) + ".\r\n"},
	} {
		for _, answer := range answers {
			s := newServer(t)
			s.add("Subject: one\n\n")
			s.answers[command] = answer
			o := s.options()
			o.Timeout = 200 * time.Millisecond
			if all, err := list(t, o); err == nil {
				t.Errorf("%s %.20q: %v", command, answer, all)
			}
		}
	}
	s := newServer(t)
	s.add("Subject: one\n\n", "Subject: two\n\n")
	o := s.options()
	o.MaxMessages = 1
	if _, err := list(t, o); !errors.Is(err, ErrTooMany) {
		t.Error(err)
	}
}

func TestLeavingAndCancelling(t *testing.T) {
	s := newServer(t)
	s.add("Subject: one\n\n", "Subject: two\n\n")
	c, err := Dial(t.Context(), s.options())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range c.List(t.Context()) {
		break
	}
	for _, err := range c.List(t.Context()) {
		if !errors.Is(err, ErrProtocol) {
			t.Error("a session was used within an answer", err)
		}
	}
	s.answers["LIST"] = "+OK\r\n"
	c, err = Dial(t.Context(), s.options())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for _, err := range c.List(ctx) {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
}

// FuzzResponses: a server's bytes, whatever they are.
func FuzzResponses(f *testing.F) {
	f.Add("+OK hi\r\n+OK\r\nTOP\r\n.\r\n+OK\r\n+OK\r\n-ERR\r\n+OK\r\n1 5\r\n.\r\n+OK\r\n1 a\r\n.\r\n+OK\r\nSubject: x\r\n\r\n.\r\n")
	f.Add("+OK hi\r\n+OK\r\n" + poplist.Capability + "\r\n.\r\n+OK\r\n+OK\r\n+OK\r\n" + poplist.Capability + "\r\n.\r\n+OK\r\n1\t5\ta\t\t\t\tone\t1\r\n.\r\n")
	f.Fuzz(func(t *testing.T, said string) {
		client, server := net.Pipe()
		go func() {
			go io.Copy(io.Discard, server)
			io.WriteString(server, said)
			server.Close()
		}()
		defer client.Close()
		c := &Client{o: Options{Addr: "x:1", User: "u", Security: Plain, MaxMessages: 1000}, c: newConn(client, patience)}
		if c.open(t.Context(), nil) != nil {
			return
		}
		for e, err := range c.List(t.Context()) {
			if err == nil && (e.Number < 1 || e.Size < 0 || strings.ContainsAny(e.Subject+e.From, "\r\n")) && !c.Extended() {
				t.Fatalf("%+v", e)
			}
		}
	})
}
