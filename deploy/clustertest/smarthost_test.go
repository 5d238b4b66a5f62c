package clustertest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"waypost/deploy/role"
	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/cluster"
)

// outMail is what the world has got.
type outMail struct {
	by, from string
	to       []string
	head     mail.Header
	body     string
	id       string    // of the mx that sent it, by its Received line
	at       time.Time // when it was answered
}

// smarthost is the world outside: SMTP on loopback, without TLS.
type smarthost struct {
	addr string

	mu     sync.Mutex // protects what follows
	ln     net.Listener
	conns  map[net.Conn]bool
	got    []*outMail
	refuse map[string]string // answers to RCPT and, by sender, to DATA
	at     func(stage string, m *outMail)
	wg     sync.WaitGroup
}

func newSmarthost(t *testing.T) *smarthost {
	t.Helper()
	s := &smarthost{addr: "127.0.0.1:0", conns: map[net.Conn]bool{}, refuse: map[string]string{}}
	s.up(t)
	s.addr = s.ln.Addr().String()
	t.Cleanup(s.down)
	return s
}

func (s *smarthost) up(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.ln = ln
	s.mu.Unlock()
	s.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(c) })
		}
	})
}

// down cuts all, and waits until nothing is under way.
func (s *smarthost) down() {
	s.mu.Lock()
	s.ln.Close()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *smarthost) serve(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	t := textproto.NewConn(c)
	say := func(line string) { _ = t.PrintfLine("%s", line) } // reading ends with the connection
	say("220 smarthost.example.net")
	m := &outMail{}
	for {
		line, err := t.ReadLine()
		if err != nil {
			return
		}
		verb, rest, _ := strings.Cut(line, " ")
		switch strings.ToUpper(verb) {
		case "EHLO":
			m.by = rest
			say("250-smarthost.example.net\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8")
		case "MAIL":
			m = &outMail{by: m.by, from: path(rest)}
			s.hook("mail", m)
			say("250 2.1.0 ok")
		case "RCPT":
			if no := s.refusal(path(rest)); no != "" {
				say(no)
				continue
			}
			m.to = append(m.to, path(rest))
			say("250 2.1.5 ok")
		case "DATA":
			if len(m.to) == 0 {
				say("503 5.5.1 nobody")
				continue
			}
			say("354 go on")
			text, err := io.ReadAll(t.DotReader())
			if err != nil {
				return
			}
			s.take(m, text, say)
		case "QUIT":
			say("221 bye")
			return
		default:
			say("250 2.0.0 ok")
		}
	}
}

func path(s string) string {
	_, s, _ = strings.Cut(s, "<")
	s, _, _ = strings.Cut(s, ">")
	return s
}

var relayID = regexp.MustCompile(`\bid (\S+);`)

func (s *smarthost) take(m *outMail, text []byte, say func(string)) {
	if no := s.refusal("from " + m.from); no != "" {
		say(no)
		return
	}
	if p, err := mail.ReadMessage(bytes.NewReader(text)); err == nil {
		m.head = p.Header
		body, _ := io.ReadAll(p.Body) // of memory
		m.body = string(body)
		if f := relayID.FindStringSubmatch(m.head.Get("Received")); f != nil {
			m.id = f[1]
		}
	}
	// Whoever has lost the answer sends it again: it is here all the same.
	s.mu.Lock()
	s.got = append(s.got, m)
	m.at = time.Now()
	s.mu.Unlock()
	s.hook("data", m)
	say("250 2.0.0 taken")
	s.mu.Lock()
	m.at = time.Now()
	s.mu.Unlock()
	s.hook("answered", m)
}

func (s *smarthost) hook(stage string, m *outMail) {
	s.mu.Lock()
	at := s.at
	s.mu.Unlock()
	if at != nil {
		at(stage, m)
	}
}

func (s *smarthost) refusal(of string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refuse[of]
}

// answers sets how an address, or "from " and a sender, is refused.
func (s *smarthost) answers(of, reply string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse[of] = reply
}

// mails are those whose subject has the words, with a recipient if one is named.
func (s *smarthost) mails(words, to string) (out []*outMail) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.got {
		if strings.Contains(m.head.Get("Subject"), words) && (to == "" || slices.Contains(m.to, to)) {
			out = append(out, m)
		}
	}
	return out
}

// one waits for the only message of a subject to an address.
func (s *smarthost) one(t *testing.T, words, to string) (m *outMail) {
	t.Helper()
	eventually(t, words+" reaches "+to, patience, func() error {
		got := s.mails(words, to)
		if len(got) != 1 {
			return fmt.Errorf("%d messages", len(got))
		}
		m = got[0]
		return nil
	})
	return m
}

// relayBy has both mx send by the smarthost, each by a name of its own.
func (c *testCluster) relayBy(t *testing.T, s *smarthost) {
	t.Helper()
	for _, n := range []string{"mx1", "mx2"} {
		path := filepath.Join(c.dir, n+".conf")
		f, err := role.Load(path, cluster.RoleMX)
		if err != nil {
			t.Fatal(err)
		}
		f.MX.Hostname = n + ".example.test"
		f.MX.Relay.Smarthost, f.MX.Relay.TLS = s.addr, "none"
		f.MX.Relay.HoldMin, f.MX.Relay.HoldMax = 200*time.Millisecond, time.Second
		f.MX.Relay.UserPerHour, f.MX.Relay.UserPerDay = 1e6, 1e6
		var b strings.Builder
		if err := toml.NewEncoder(&b).Encode(f); err != nil {
			t.Fatal(err)
		}
		put(t, c.dir, n+".conf", b.String(), 0o600)
		c.procs[n].signal(syscall.SIGTERM)
	}
	for _, n := range []string{"mx1", "mx2"} {
		c.procs[n].waitEnd(patience)
		c.procs[n].start(t)
	}
	for _, n := range []string{"mx1", "mx2"} {
		c.procs[n].waitReady(t)
	}
}

// quiet waits until nothing is on its way: no outbox, no spool, no queue has
// anything left. What waits for its next try is tried now.
func (c *testCluster) quiet(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	var tried time.Time
	eventually(t, "nothing is on its way", patience, func() error {
		waiting, err := filepath.Glob(filepath.Join(c.dir, "b?", "outbox", "*.json"))
		if err != nil || len(waiting) > 0 {
			return fmt.Errorf("%d in outboxes: %w", len(waiting), err)
		}
		s, err := c.admin.Spool(ctx, "", "")
		if err != nil || len(s.Errors) > 0 {
			return fmt.Errorf("%+v: %w", s.Errors, err)
		}
		left := slices.DeleteFunc(s.Entries, func(e admin.SpoolEntry) bool { return e.State == "dead" })
		if len(left) == 0 {
			return nil
		}
		if time.Since(tried) > time.Second {
			tried = time.Now()
			_, err = c.admin.SpoolRetry(ctx, admin.SpoolRequest{All: true})
		}
		return fmt.Errorf("%d in spools, the first %+v: %w", len(left), left[0], err)
	})
}

// deadLetters counts those.
func (c *testCluster) deadLetters(t *testing.T) (n int) {
	t.Helper()
	s, err := c.admin.Spool(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range s.Entries {
		if e.State == "dead" {
			n++
		}
	}
	return n
}

// clientTLS trusts what the cluster shows to clients.
func (c *testCluster) clientTLS(t *testing.T) *tls.Config {
	t.Helper()
	b, err := os.ReadFile(c.ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		t.Fatal("no certificate in " + c.ca)
	}
	return &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}
}

// submitAs sends as a user does who is logged in.
func (c *testCluster) submitAs(t *testing.T, as, from string, to []string, text []byte) error {
	t.Helper()
	s, err := smtp.Dial(c.addr(1587))
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.StartTLS(c.clientTLS(t)); err != nil {
		return err
	}
	if err := s.Auth(smtp.PlainAuth("", as, password, "127.0.0.1")); err != nil {
		return err
	}
	if err := s.Mail(from); err != nil {
		return err
	}
	for _, r := range to {
		if err := s.Rcpt(r); err != nil {
			return err
		}
	}
	w, err := s.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	return w.Close()
}

// sieveClient speaks ManageSieve (RFC 5804).
type sieveClient struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

// sieve logs in through the proxy, after STARTTLS.
func (c *testCluster) sieve(t *testing.T, u director.User) *sieveClient {
	t.Helper()
	conn, err := net.DialTimeout("tcp", c.addr(14190), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience)) // a socket's cannot fail
	s := &sieveClient{t, conn, bufio.NewReader(conn)}
	if caps := s.must(""); !strings.Contains(caps, `"STARTTLS"`) {
		t.Errorf("greeting: %q", caps)
	}
	s.must("STARTTLS")
	s.c = tls.Client(conn, c.clientTLS(t))
	s.r = bufio.NewReader(s.c)
	if caps := s.must(""); !strings.Contains(caps, `"SIEVE"`) || strings.Contains(caps, `"STARTTLS"`) {
		t.Errorf("capabilities after STARTTLS: %q", caps)
	}
	s.must(`AUTHENTICATE "PLAIN" "` + base64.StdEncoding.EncodeToString([]byte("\x00"+string(u)+"\x00"+password)) + `"`)
	return s
}

// cmd gives all of an answer, and an error that begins with NO or BYE.
func (s *sieveClient) cmd(line string) (string, error) {
	if line != "" {
		if _, err := io.WriteString(s.c, line+"\r\n"); err != nil {
			return "", err
		}
	}
	var all strings.Builder
	for {
		l, err := s.r.ReadString('\n')
		if err != nil {
			return all.String(), err
		}
		for m := literal.FindStringSubmatch(strings.TrimSpace(l)); m != nil; m = literal.FindStringSubmatch(strings.TrimSpace(l)) {
			n, _ := strconv.Atoi(m[1])
			b := make([]byte, n)
			if _, err := io.ReadFull(s.r, b); err != nil {
				return all.String(), err
			}
			all.Write(b)
			if strings.HasPrefix(l, "NO") || strings.HasPrefix(l, "BYE") {
				_, _ = s.r.ReadString('\n') // the line's end
				return all.String(), errors.New(strings.TrimSpace(l) + string(b))
			}
			if l, err = s.r.ReadString('\n'); err != nil {
				return all.String(), err
			}
		}
		switch word, _, _ := strings.Cut(strings.TrimSpace(l), " "); word {
		case "OK":
			return all.String(), nil
		case "NO", "BYE":
			return all.String(), errors.New(strings.TrimSpace(l))
		}
		all.WriteString(l)
	}
}

func (s *sieveClient) must(line string) string {
	s.t.Helper()
	out, err := s.cmd(line)
	if err != nil {
		s.t.Fatalf("ManageSieve %.80q: %v", line, err)
	}
	return out
}

func (s *sieveClient) no(line, want string) {
	s.t.Helper()
	if out, err := s.cmd(line); err == nil || !strings.HasPrefix(err.Error(), want) {
		s.t.Errorf("ManageSieve %.80q: %q, %v; want %s", line, out, err, want)
	}
}

func script(verb, name, text string) string {
	if name != "" {
		name = strconv.Quote(name) + " "
	}
	return fmt.Sprintf("%s %s{%d+}\r\n%s", verb, name, len(text), text)
}

// activate stores a script and makes it the active one.
func (c *testCluster) activate(t *testing.T, u director.User, text string) {
	t.Helper()
	s := c.sieve(t, u)
	s.must(script("PUTSCRIPT", "main", text))
	s.must(`SETACTIVE "main"`)
	s.must("LOGOUT")
}
