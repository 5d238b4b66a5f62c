package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waypost/director"
	"waypost/proxy/prelogin"
	"waypost/proxy/proxytest"
)

// longPassword does not fit into a POP3 command of 255 octets.
var longPassword = strings.Repeat("x", 300)

const dovecotBinary = "/usr/sbin/dovecot"

// realDovecot is Debian's Dovecot in a folder of the test's.
type realDovecot struct {
	dir                      string
	imap, imaps, pop3, pop3s string
	ca                       string
}

func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// startDovecot runs it, as root or not, until the test ends.
func startDovecot(t *testing.T) *realDovecot {
	t.Helper()
	if _, err := os.Stat(dovecotBinary); err != nil {
		t.Skip("no dovecot here (Debian: dovecot-imapd, dovecot-pop3d)")
	}
	// Dovecot keeps sockets here: their paths must be short.
	dir, err := os.MkdirTemp("/tmp", "wp-dovecot-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &realDovecot{dir: dir}
	ports := [4]int{}
	for i := range ports {
		ports[i] = freePort(t)
	}
	at := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	d.imap, d.imaps, d.pop3, d.pop3s = at(0), at(1), at(2), at(3)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	internal, group, logins, mailUID, mailGID := "dovecot", "dovecot", "dovenull", "65534", "65534"
	if os.Getuid() != 0 {
		g, err := user.LookupGroupId(me.Gid)
		if err != nil {
			t.Fatal(err)
		}
		internal, group, logins, mailUID, mailGID = me.Username, g.Name, me.Username, me.Uid, me.Gid
	}
	var key string
	d.ca, key = proxytest.Certificate(t, dir)
	files := map[string]string{
		"users":   "alice@example.test:{PLAIN}secret::::::\nlong@example.test:{PLAIN}" + longPassword + "::::::\nbob@example.test:{PLAIN}other::::::\n",
		"masters": "boss:{PLAIN}master\n",
		"conf": fmt.Sprintf(`
base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/log
protocols = imap pop3
listen = 127.0.0.1
ssl = yes
ssl_cert = <%[2]s
ssl_key = <%[3]s
disable_plaintext_auth = no
login_trusted_networks = 127.0.0.0/8
auth_failure_delay = 0
default_internal_user = %[4]s
default_internal_group = %[5]s
default_login_user = %[6]s
first_valid_uid = 1
first_valid_gid = 1
mail_location = maildir:%[1]s/mail/%%u
service anvil {
  chroot =
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service imap-login {
  chroot =
  inet_listener imap {
    port = %[9]d
  }
  inet_listener imaps {
    port = %[10]d
    ssl = yes
  }
}
service pop3-login {
  chroot =
  inet_listener pop3 {
    port = %[11]d
  }
  inet_listener pop3s {
    port = %[12]d
    ssl = yes
  }
}
passdb {
  driver = passwd-file
  master = yes
  args = %[1]s/masters
}
passdb {
  driver = passwd-file
  args = %[1]s/users
}
userdb {
  driver = static
  args = uid=%[7]s gid=%[8]s home=%[1]s/mail/%%u
}
`, dir, d.ca, key, internal, group, logins, mailUID, mailGID, ports[0], ports[1], ports[2], ports[3]),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{os.Mkdir(filepath.Join(dir, "mail"), 0o777), os.Chmod(filepath.Join(dir, "mail"), 0o777), os.Chmod(dir, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var said bytes.Buffer
	cmd := exec.Command(dovecotBinary, "-F", "-c", filepath.Join(dir, "conf"))
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it ends its children
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("dovecot said: %s\n%s", said.String(), d.log())
		}
	})
	deadline := time.Now().Add(proxytest.Patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, addr := range []string{d.imap, d.pop3} {
		for {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("dovecot does not listen: %v; it said: %s\n%s", err, said.String(), d.log())
			}
			<-tick.C
		}
	}
	return d
}

func (d *realDovecot) log() string {
	b, _ := os.ReadFile(filepath.Join(d.dir, "log"))
	return string(b)
}

// settings are its record's, for one way of TLS.
func (d *realDovecot) settings(way string) director.Dovecot {
	s := director.Dovecot{IMAP: d.imap, POP3: d.pop3, TLS: way, CAFile: d.ca, Trusted: true}
	if way == "tls" {
		s.IMAP, s.POP3 = d.imaps, d.pop3s
	}
	return s
}

func (h *house) dovecot(s director.Dovecot) {
	h.dir.mu.Lock()
	h.dir.backends["d1"] = director.Backend{Kind: director.KindDovecot, Dovecot: &s}
	h.dir.mu.Unlock()
	h.dir.set(alice, active("d1", 1))
}

func TestRealDovecot(t *testing.T) {
	d := startDovecot(t)
	h := newHouse(t)
	h.cfg.DeadWait = 50 * time.Millisecond
	h.start()
	masterFile := filepath.Join(t.TempDir(), "master")
	if err := os.WriteFile(masterFile, []byte("master\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	t.Run("mail", func(t *testing.T) {
		h.t = t
		h.dovecot(d.settings("none"))
		h.imap().Run(nil, `
			C- b APPEND INBOX {18+}\r\nSubject: hi\r\n\r\nyes\r\nc SELECT INBOX\r\n
			S: b OK ...
			S: * FLAGS ...
			S: * OK [PERMANENTFLAGS ...
			S: * 1 EXISTS
			S: * 1 RECENT
			S: * OK [UNSEEN 1] ...
			S: * OK [UIDVALIDITY ...
			S: * OK [UIDNEXT 2] ...
			S: c OK [READ-WRITE] ...
			C: d FETCH 1 BODY.PEEK[]
			S: * 1 FETCH (BODY[] {18}
			S: Subject: hi
			S:
			S: yes)
			S: d OK ...
			C: e LOGOUT
			S: * BYE Logging out
			S: e OK ...
			END`)
		h.pop3().Run(nil, `
			C- STAT\r\nRETR 1\r\n
			S: +OK 1 18
			S: +OK 18 octets
			S: Subject: hi
			S:
			S: yes
			S: .
			C: QUIT
			S: +OK Logging out.
			END`)
	})
	for _, way := range []string{"none", "starttls", "tls"} {
		for _, master := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, master %v", way, master), func(t *testing.T) {
				h.t = t
				s := d.settings(way)
				if master {
					s.MasterUser, s.MasterPasswordFile = "boss", masterFile
				}
				h.dovecot(s)
				h.imap().Run(nil, "C: x NOOP\nS: x OK ...")
				h.pop3().Run(nil, "C: NOOP\nS: +OK")
			})
		}
	}
	t.Run("client address", func(t *testing.T) {
		h.t = t
		for i, protocol := range []string{protoIMAP, protoPOP3} {
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 7)}), 4242)
			up, err := h.server.openDovecot(t.Context(), "d1", d.settings("none"), request{
				user: alice, protocol: protocol, client: client, local: client, session: "s123", password: "secret"})
			if err != nil {
				t.Fatal(err)
			}
			up.conn.Close()
			want := fmt.Sprintf("rip=192.0.2.%d,", i+7)
			h.until(want, func() bool { return strings.Contains(d.log(), want) })
		}
	})
	t.Run("long password", func(t *testing.T) {
		for _, protocol := range []string{protoIMAP, protoPOP3} {
			up, err := h.server.openDovecot(t.Context(), "d1", d.settings("none"), request{
				user: "long@example.test", protocol: protocol, client: netip.MustParseAddrPort("192.0.2.9:1"), session: "s", password: longPassword})
			if err != nil {
				t.Fatal(err)
			}
			up.conn.Close()
		}
	})
	t.Run("password refused there", func(t *testing.T) {
		h.t = t
		h.dovecot(d.settings("none"))
		h.dir.setAccount("bob@example.test", director.Account{Hash: "secret"}, false)
		h.dir.set("bob@example.test", active("d1", 1))
		h.dial("imap").Run(nil, "S: * OK ...\nC: a LOGIN bob@example.test secret\nS: a NO [AUTHENTICATIONFAILED] ...")
		h.dial("pop3").Run(nil, "S: +OK ...\nC: USER bob@example.test\nS: +OK ...\nC: PASS secret\nS: -ERR [AUTH] ...")
	})
	t.Run("misconfigured", func(t *testing.T) {
		h.t = t
		for name, spoil := range map[string]func(*director.Dovecot){
			"wrong CA":           func(s *director.Dovecot) { *s = d.settings("tls"); s.CAFile, _ = proxytest.Certificate(t, t.TempDir()) },
			"no CA":              func(s *director.Dovecot) { *s = d.settings("starttls"); s.CAFile = "/nonexistent" },
			"no address":         func(s *director.Dovecot) { s.IMAP = "" },
			"unknown way":        func(s *director.Dovecot) { s.TLS = "ssl" },
			"no master password": func(s *director.Dovecot) { s.MasterUser, s.MasterPasswordFile = "boss", "/nonexistent" },
			"nobody there":       func(s *director.Dovecot) { s.IMAP = fmt.Sprintf("127.0.0.1:%d", freePort(t)) },
			"TLS where none is":  func(s *director.Dovecot) { *s = d.settings("tls"); s.IMAP = d.imap },
		} {
			s := d.settings("none")
			spoil(&s)
			h.dovecot(s)
			t.Log(name)
			h.dial("imap").Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret\nS: a NO [UNAVAILABLE] ...")
		}
	})
}

// scripted answers as a Dovecot would: it says the S lines and expects the C
// lines of a transcript, from the server's side.
func scripted(t *testing.T, script string) (addr string, done <-chan string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan string, 1)
	go func() {
		defer ln.Close()
		conn, err := ln.Accept()
		if err != nil {
			over <- err.Error()
			return
		}
		defer conn.Close()
		over <- play(conn, script)
	}()
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String(), over
}

// play returns what went wrong, or "".
func play(conn net.Conn, script string) string {
	if err := conn.SetDeadline(time.Now().Add(proxytest.Patience)); err != nil {
		return err.Error()
	}
	talk := newTalk(conn)
	for step := range strings.Lines(script) {
		step = strings.TrimSpace(step)
		kind, text, _ := strings.Cut(step, " ")
		switch kind {
		case "S:":
			if err := talk.send(text); err != nil {
				return err.Error()
			}
		case "C:":
			line, err := talk.line()
			prefix, isPrefix := strings.CutSuffix(text, "...")
			if err != nil || line != text && !(isPrefix && strings.HasPrefix(line, prefix)) {
				return fmt.Sprintf("got %q, %v; want %q", line, err, text)
			}
		}
	}
	return ""
}

func TestForeignAnswers(t *testing.T) {
	const plain = "AGFsaWNlQGV4YW1wbGUudGVzdABzZWNyZXQ="
	for _, c := range []struct {
		name, protocol, script string
		want                   error
		caps                   string
	}{
		{"no capabilities in the greeting, no SASL-IR", "imap", `
			S: * OK hi
			C: C CAPABILITY
			S: * CAPABILITY IMAP4rev1 AUTH=PLAIN
			S: C OK done
			C: A AUTHENTICATE PLAIN
			S: +
			C: ` + plain + `
			S: * CAPABILITY IMAP4rev1 MOVE
			S: A OK in`, nil, "IMAP4rev1 MOVE"},
		{"ID where trusted", "imap", `
			S: * OK [CAPABILITY IMAP4rev1 ID SASL-IR] hi
			C: I ID ("x-session-id" "s1" "x-originating-ip" "192.0.2.1" "x-originating-port" "99" "x-connected-ip" "127.0.0.1" "x-connected-port" "143" "x-proxy-ttl" "4")
			S: * ID NIL
			S: I OK
			C: A AUTHENTICATE PLAIN ` + plain + `
			S: A OK [CAPABILITY X] in`, nil, "X"},
		{"not SASL-IR and another challenge", "imap", `
			S: * OK [CAPABILITY IMAP4rev1] hi
			C: A AUTHENTICATE PLAIN
			S: +
			C: ` + plain + `
			S: + again
			C: *
			S: A BAD cancelled`, prelogin.ErrTemporary, ""},
		{"temporary", "imap", "S: * OK [CAPABILITY SASL-IR] hi\nC: A ...\nS: A NO [UNAVAILABLE] later", prelogin.ErrTemporary, ""},
		{"no code", "imap", "S: * OK [CAPABILITY SASL-IR] hi\nC: A ...\nS: A NO no", prelogin.ErrTemporary, ""},
		{"limit", "imap", "S: * OK [CAPABILITY SASL-IR] hi\nC: A ...\nS: A NO [LIMIT] no", prelogin.ErrLimit, ""},
		{"in use", "imap", "S: * OK [CAPABILITY SASL-IR] hi\nC: A ...\nS: A NO [INUSE] no", prelogin.ErrInUse, ""},
		{"expired", "imap", "S: * OK [CAPABILITY SASL-IR] hi\nC: A ...\nS: A NO [EXPIRED] no", prelogin.ErrDisabled, ""},
		{"too much", "imap", "S: * OK [CAPABILITY SASL-IR] hi\nC: A ...\n" + strings.Repeat("S: * OK x\n", maxUntagged), errAny, ""},
		{"BYE instead of an answer", "imap", "S: * OK [CAPABILITY SASL-IR] hi\nC: A ...\nS: * BYE", errAny, ""},
		{"BYE instead of a greeting", "imap", "S: * BYE", errNoGreeting, ""},
		{"PREAUTH is nobody's login", "imap", "S: * PREAUTH hi", errNoGreeting, ""},
		{"POP3", "pop3", "S: +OK hi\nC: AUTH PLAIN " + plain + "\nS: +OK in", nil, ""},
		{"POP3, XCLIENT", "pop3", "S: +OK [XCLIENT] hi\nC: XCLIENT ADDR=192.0.2.1 PORT=99 SESSION=s1 TTL=4\nS: +OK\nC: AUTH ...\nS: +OK in", nil, ""},
		{"POP3, XCLIENT refused", "pop3", "S: +OK [XCLIENT] hi\nC: XCLIENT ...\nS: -ERR no", errAny, ""},
		{"POP3, temporary", "pop3", "S: +OK hi\nC: AUTH ...\nS: -ERR [SYS/TEMP] later", prelogin.ErrTemporary, ""},
		{"POP3, in use", "pop3", "S: +OK hi\nC: AUTH ...\nS: -ERR [IN-USE] no", prelogin.ErrInUse, ""},
		{"POP3, delay", "pop3", "S: +OK hi\nC: AUTH ...\nS: -ERR [LOGIN-DELAY] no", prelogin.ErrDelay, ""},
		{"POP3, no code", "pop3", "S: +OK hi\nC: AUTH ...\nS: -ERR no", prelogin.ErrTemporary, ""},
		{"POP3, no greeting", "pop3", "S: -ERR no", errNoGreeting, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, done := scripted(t, c.script)
			h := newHouse(t).start()
			ctx, cancel := context.WithTimeout(context.Background(), proxytest.Patience)
			defer cancel()
			up, err := h.server.openDovecot(ctx, "d1", director.Dovecot{IMAP: addr, POP3: addr, Trusted: true}, request{
				user: alice, protocol: c.protocol, session: "s1", password: "secret",
				client: netip.MustParseAddrPort("192.0.2.1:99"), local: netip.MustParseAddrPort("127.0.0.1:143")})
			if up != nil {
				defer up.conn.Close()
			}
			switch {
			case c.want == errAny && (err == nil || final(err)):
				t.Errorf("got %v, want an error of the backend's", err)
			case c.want != errAny && !errors.Is(err, c.want):
				t.Errorf("got %v, want %v", err, c.want)
			case err == nil && up.capabilities != c.caps:
				t.Errorf("capabilities %q, want %q", up.capabilities, c.caps)
			}
			if wrong := <-done; wrong != "" {
				t.Error(wrong)
			}
		})
	}
}

// A Dovecot that the user has left does not know the password any more: what
// the store says counts, before the client is told.
func TestForeignDenial(t *testing.T) {
	for _, c := range []struct {
		name  string
		moved bool
		away  bool
		want  string
	}{
		{"moved", true, false, "S: a OK ..."},
		{"the password is wrong there", false, false, "S: a NO [AUTHENTICATIONFAILED] ..."},
		{"nobody knows", false, true, "S: a NO [UNAVAILABLE] ..."},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, done := scripted(t, "S: * OK [CAPABILITY SASL-IR] hi\nC: A ...\nS: A NO [AUTHENTICATIONFAILED] no")
			h := newHouse(t)
			h.add(newFakeBackend(t, "b1"))
			h.dovecot(director.Dovecot{IMAP: addr})
			if c.moved {
				h.dir.store[alice] = active("b1", 3)
			}
			h.dir.away = c.away
			h.start()
			h.dial("imap").Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret\n"+c.want)
			if wrong := <-done; wrong != "" {
				t.Error(wrong)
			}
		})
	}
}

// errAny stands for any error that does not say what the client did wrong.
var errAny = errors.New("any")
