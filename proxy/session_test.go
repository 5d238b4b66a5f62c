package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/director"
	"waypost/internal/wire"
	"waypost/proxy/proxytest"
)

func homely(t *testing.T) (*house, *fakeBackend) {
	t.Helper()
	h := newHouse(t)
	b := h.add(newFakeBackend(t, "b1"))
	h.dir.set(alice, active("b1", 1))
	return h, b
}

func TestListAndKick(t *testing.T) {
	h, _ := homely(t)
	h.start()
	c, p := h.imap(), h.pop3()
	c.Run(nil, "C: x\nS: x")
	p.Run(nil, "C: y\nS: y")
	h.dial("imap").Expect("* OK ...") // a stranger is nobody's session
	g := h.server.registry
	h.until("bytes are counted", func() bool {
		for _, s := range g.list(alice) {
			if s.BytesIn != 3 || s.BytesOut != 3 {
				return false
			}
		}
		return true
	})
	list := g.list("")
	if len(list) != 2 || len(g.list(alice)) != 2 || len(g.list("bob@example.test")) != 0 {
		t.Fatalf("listed %+v", list)
	}
	s := list[0] // the two began in no order
	if s.Protocol != "imap" {
		s = list[1]
	}
	if s.User != alice || s.Protocol != "imap" || s.Backend != "b1" || s.Node != "p1" ||
		s.Client != c.Conn.LocalAddr().String() || s.BytesIn != 3 || s.BytesOut != 3 || s.Started.IsZero() {
		t.Fatalf("listed %+v", s)
	}
	ctx, cancel := context.WithTimeout(context.Background(), proxytest.Patience)
	defer cancel()
	for _, bad := range []control.KickRequest{{}, {ID: s.ID, User: alice}} {
		if _, err := g.kick(ctx, bad); !control.IsCode(err, control.CodeBad) {
			t.Errorf("kick of %+v: %v", bad, err)
		}
	}
	if r, err := g.kick(ctx, control.KickRequest{ID: "nobody"}); r.Kicked != 0 || err != nil {
		t.Errorf("kick of nobody: %v, %v", r, err)
	}
	if r, err := g.kick(ctx, control.KickRequest{ID: s.ID}); r.Kicked != 1 || err != nil {
		t.Fatalf("kick: %v, %v", r, err)
	}
	if len(g.list(alice)) != 1 {
		t.Error("kicked and not gone")
	}
	c.Run(nil, "S: * BYE Session ended by the administrator.\nEND")
	if r, err := g.kick(ctx, control.KickRequest{User: alice}); r.Kicked != 1 || err != nil {
		t.Fatalf("kick: %v, %v", r, err)
	}
	p.ExpectEnd() // POP3 has no words for it
}

// A login that waits can be kicked too.
func TestKickHeldLogin(t *testing.T) {
	h := newHouse(t)
	h.dir.set(alice, busy("b1", "b2", 2))
	h.start()
	c := h.dial("imap")
	c.Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret")
	h.until("login held", func() bool { return h.metric("logins_held") == 1 })
	r, err := h.server.registry.kick(context.Background(), control.KickRequest{User: alice})
	if r.Kicked != 1 || err != nil {
		t.Fatalf("kick: %v, %v", r, err)
	}
	c.Run(nil, "S: a NO [UNAVAILABLE] ...\nS: * BYE ...\nEND")
}

func TestControlNeedsACertificate(t *testing.T) {
	h, _ := homely(t)
	h.start()
	for _, path := range []string{control.PathSessions, control.PathKick} {
		w := httptest.NewRecorder()
		h.server.Control().ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(`{"user":"alice@example.test"}`)))
		if w.Code != http.StatusForbidden {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestAccountChanges(t *testing.T) {
	for _, c := range []struct {
		name    string
		account director.Account
		deleted bool
		ends    bool
	}{
		{"quota changed", director.Account{Hash: "secret", QuotaBytes: 5}, false, false},
		{"disabled", director.Account{Hash: "secret", Disabled: true}, false, true},
		{"password changed", director.Account{Hash: "other"}, false, true},
		{"deleted", director.Account{}, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, _ := homely(t)
			h.start()
			k := h.imap()
			h.dir.setAccount(alice, c.account, c.deleted)
			if c.ends {
				k.Run(nil, "S: * BYE Account changed, log in again.\nEND")
				return
			}
			k.Run(nil, "C: x\nS: x")
		})
	}
}

// After a reload of the directory everything may be different.
func TestReload(t *testing.T) {
	h, _ := homely(t)
	h.start()
	k := h.imap()
	h.server.watch(director.Change{})
	k.Run(nil, "C: x\nS: x")
	h.dir.mu.Lock()
	h.dir.accounts[alice] = director.Account{Hash: "secret", Disabled: true}
	h.dir.mu.Unlock()
	h.server.watch(director.Change{})
	k.Run(nil, "S: * BYE Account changed, log in again.\nEND")
}

// A changed record ends nothing at the proxy: that is the backend's to do.
func TestMoveLeavesSessions(t *testing.T) {
	h, _ := homely(t)
	h.start()
	k := h.imap()
	rec := busy("b1", "b2", 2)
	h.dir.set(alice, rec)
	h.server.watch(director.Change{Entry: director.Entry{Key: director.LocationKey(alice), Value: rec.Encode(), Rev: 9}})
	k.Run(nil, "C: x\nS: x")
}

// What a client sees when its backend goes away.
func TestBackendLost(t *testing.T) {
	for _, c := range []struct {
		name, says, want string
		reset            bool
	}{
		{"between lines", "* 1 EXISTS\r\n", "S: * 1 EXISTS\nS: * BYE [UNAVAILABLE] ...\nEND", false},
		{"between lines, reset", "* 1 EXISTS\r\n", "S: * 1 EXISTS\nS: * BYE [UNAVAILABLE] ...\nEND", true},
		{"after its own BYE", "* BYE moved\r\n", "S: * BYE moved\nEND", false},
		{"in a literal", "* 1 FETCH (BODY[] {20}\r\nSubject: x\r\n", "S: * 1 FETCH (BODY[] {20}\nS: Subject: x\nEND", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, b := homely(t)
			b.play = func(_ wire.Hello, conn net.Conn, r *bufio.Reader) {
				fmt.Fprint(conn, "* PREAUTH [CAPABILITY IMAP4rev1 X] hi\r\n")
				if line, err := r.ReadString('\n'); err != nil || line != "go\r\n" {
					return
				}
				fmt.Fprint(conn, c.says)
				// Nothing is lost to a reset that the client has not seen.
				if line, err := r.ReadString('\n'); err != nil || line != "seen\r\n" {
					return
				}
				if c.reset {
					b.reset()
				}
			}
			h.start()
			k := h.imap()
			first, rest, _ := strings.Cut(c.want, "\n")
			k.Run(nil, "C: go\n"+first)
			k.Send("seen\r\n")
			k.Run(nil, rest)
		})
	}
}

func TestPOP3BackendLost(t *testing.T) {
	h, b := homely(t)
	b.play = func(wire.Hello, net.Conn, *bufio.Reader) {}
	h.start()
	h.pop3().ExpectEnd()
}

func TestIdle(t *testing.T) {
	h, _ := homely(t)
	h.cfg.IdleIMAP, h.cfg.IdlePOP3 = 100*time.Millisecond, 100*time.Millisecond
	h.start()
	h.imap().Run(nil, "S: * BYE Autologout; idle for too long.\nEND")
	h.pop3().ExpectEnd()
	if n := h.metric("sessions_ended_total"); n != 2 {
		t.Errorf("%v sessions ended", n)
	}
}

// Bytes of either side keep both alive.
func TestBusyOneWayIsNotIdle(t *testing.T) {
	h, b := homely(t)
	h.cfg.IdleIMAP = 150 * time.Millisecond
	b.play = func(_ wire.Hello, conn net.Conn, r *bufio.Reader) {
		fmt.Fprint(conn, "* PREAUTH [CAPABILITY IMAP4rev1 X] hi\r\n")
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range 20 {
			<-tick.C
			fmt.Fprint(conn, "* OK Still here\r\n")
		}
		fmt.Fprint(conn, "* BYE done\r\n")
	}
	h.start()
	k := h.imap()
	for range 20 {
		k.Expect("* OK Still here")
	}
	k.Run(nil, "S: * BYE done\nEND")
}

func TestHalfClose(t *testing.T) {
	h, b := homely(t)
	b.play = func(_ wire.Hello, conn net.Conn, r *bufio.Reader) {
		all, err := io.ReadAll(r)
		fmt.Fprintf(conn, "+OK %d bytes, %v\r\n", len(all), err)
	}
	h.start()
	k := h.pop3()
	k.Send("STAT\r\n")
	if err := k.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	k.Run(nil, "S: +OK 6 bytes, <nil>\nEND")
}

func TestClientVanishes(t *testing.T) {
	h, b := homely(t)
	ended := make(chan error, 1)
	b.play = func(_ wire.Hello, conn net.Conn, r *bufio.Reader) {
		_, err := io.Copy(io.Discard, r)
		ended <- err
	}
	h.start()
	k := h.pop3()
	if err := k.Conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	k.Conn.Close()
	<-ended
	h.until("no session is left", func() bool { return h.server.Sessions() == 0 })
}

// A client that takes nothing ends its session, and not the proxy's memory.
func TestStuckClient(t *testing.T) {
	h, b := homely(t)
	h.cfg.WriteTimeout = 200 * time.Millisecond
	b.play = func(_ wire.Hello, conn net.Conn, _ *bufio.Reader) {
		_, _ = io.Copy(conn, io.LimitReader(zeroes{}, 1<<30)) // until the proxy hangs up
	}
	h.start()
	h.pop3()
	h.until("the session is over", func() bool { return h.server.Sessions() == 0 })
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestShutdown(t *testing.T) {
	h, _ := homely(t)
	h.start()
	k, stranger := h.imap(), h.dial("imap")
	stranger.Expect("* OK ...")
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- h.server.Shutdown(ctx) }()
	stranger.Run(nil, "S: * BYE [UNAVAILABLE] Server is shutting down.\nEND")
	k.Run(nil, "C: x\nS: x") // sessions go on for a while
	if _, err := net.Dial("tcp", h.server.Addrs()[0].Addr.String()); err == nil {
		t.Error("still accepting")
	}
	cancel()
	k.Run(nil, "S: * BYE [UNAVAILABLE] Server is shutting down.\nEND")
	if err := <-over; err != nil {
		t.Fatal(err)
	}
}

func TestShutdownWaits(t *testing.T) {
	h, _ := homely(t)
	h.start()
	k := h.imap()
	over := make(chan error, 1)
	go func() { over <- h.server.Shutdown(context.Background()) }()
	k.Run(nil, "C: LOGOUT\nS: * BYE bye\nS: LOGOUT OK done\nEND")
	if err := <-over; err != nil {
		t.Fatal(err)
	}
}

func tlsHouse(t *testing.T) (*house, *tls.Config) {
	t.Helper()
	h, _ := homely(t)
	h.cfg.CertFile, h.cfg.KeyFile = proxytest.Certificate(t, t.TempDir())
	h.cfg.IMAPS, h.cfg.POP3S = []string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}
	h.cfg.AllowPlaintext = false
	return h, proxytest.ClientTLS(t, h.cfg.CertFile)
}

func TestTLS(t *testing.T) {
	h, client := tlsHouse(t)
	h.start()
	k := h.dial("imaps")
	k.StartTLS(client)
	k.Run(nil, "S: * OK ...\nC: a LOGIN alice@example.test secret\nS: a OK ...\nC: x\nS: x\nC: LOGOUT\nS: * BYE bye\nS: LOGOUT OK done\nEND")
	k = h.dial("pop3s")
	k.StartTLS(client)
	k.Run(nil, "S: +OK ...\nC: USER alice@example.test\nS: +OK ...\nC: PASS secret\nS: +OK ...\nC: x\nS: x\nC: QUIT\nS: +OK bye\nEND")
	h.dial("imap").Run(client, `
		S: * OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE IDLE STARTTLS LOGINDISABLED] Waypost ready.
		C: a LOGIN alice@example.test secret
		S: a NO [PRIVACYREQUIRED] ...
		C: a STARTTLS
		S: a OK ...
		TLS
		C- b LOGIN alice@example.test secret\r\nx\r\n
		S: b OK ...
		S: x
		C: y
		S: y`)
	h.dial("pop3").Run(client, `
		S: +OK ...
		C: USER alice@example.test
		S: -ERR Log in over TLS only...
		C: STLS
		S: +OK ...
		TLS
		C: USER alice@example.test
		S: +OK ...
		C: PASS secret
		S: +OK Logged in.`)
}

func TestPlaintextFrom(t *testing.T) {
	h, _ := tlsHouse(t)
	h.cfg.PlaintextFrom = []string{"10.0.0.0/8", "127.0.0.0/8"}
	h.start()
	h.imap()
}

// A connection that was meant for another protocol is not answered (ALPN).
func TestOtherProtocol(t *testing.T) {
	h, client := tlsHouse(t)
	h.start()
	k := h.dial("imaps")
	client.NextProtos = []string{"http/1.1"}
	if err := tls.Client(k.Conn, client).Handshake(); err == nil {
		t.Fatal("a handshake for HTTP succeeded")
	}
}

// What is sent is what arrives, both ways, over TLS and not, whatever the sizes.
func TestBulk(t *testing.T) {
	h, client := tlsHouse(t)
	h.cfg.AllowPlaintext = true
	h.start()
	for _, name := range []string{"pop3", "pop3s"} {
		t.Run(name, func(t *testing.T) {
			k := h.dial(name)
			if name == "pop3s" {
				k.StartTLS(client)
			}
			k.Run(nil, "S: +OK ...\nC: USER alice@example.test\nS: +OK ...\nC: PASS secret\nS: +OK ...")
			sent, sum := sha256.New(), make(chan [sha256.Size]byte, 1)
			var total int
			for i := range 300 {
				total += i*37 + 2
			}
			go func() {
				got := sha256.New()
				n, err := io.CopyN(got, k.R, int64(total))
				if err != nil {
					t.Errorf("after %d of %d bytes: %v", n, total, err)
				}
				sum <- [sha256.Size]byte(got.Sum(nil))
			}()
			for i := range 300 {
				line := append(bytes.Repeat([]byte{'a' + byte(i%26)}, i*37), "\r\n"...)
				sent.Write(line)
				if _, err := k.Conn.Write(line); err != nil {
					t.Fatal(err)
				}
			}
			if <-sum != [sha256.Size]byte(sent.Sum(nil)) {
				t.Fatal("what came back is not what was sent")
			}
		})
	}
}

func TestCertificateReload(t *testing.T) {
	dir := t.TempDir()
	h := newHouse(t)
	certFile, keyFile := proxytest.Certificate(t, dir)
	c, err := loadCertificate(certFile, keyFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c.now = func() time.Time { return now }
	first, _ := c.get(nil)
	proxytest.Certificate(t, dir)
	later := now.Add(time.Hour)
	for _, f := range []string{certFile, keyFile} {
		if err := os.Chtimes(f, later, later); err != nil {
			t.Fatal(err)
		}
	}
	if again, _ := c.get(nil); again != first {
		t.Error("read again too soon")
	}
	now = now.Add(reloadEvery)
	second, _ := c.get(nil)
	if second == first {
		t.Error("not read again")
	}
	c.log = h.logger()
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	now = now.Add(reloadEvery)
	if third, err := c.get(nil); third != second || err != nil {
		t.Error("the good certificate was not kept")
	}
}
