package proxy

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"waypost/director"
	"waypost/internal/wire"
	"waypost/proxy/managesieve"
	"waypost/proxy/proxytest"
)

// sieveHouse also listens for ManageSieve, and has alice on b1.
func sieveHouse(t *testing.T) (*house, *fakeBackend) {
	t.Helper()
	h, b := homely(t)
	h.cfg.ManageSieve = []string{"127.0.0.1:0"}
	h.sieve = managesieve.Capabilities{Extensions: []string{"fileinto"}, MaxRedirects: 5}
	return h, b
}

const sieveGreeting = `
	S: "IMPLEMENTATION" "Waypost"
	S: "SIEVE" "fileinto"
	S: "SASL" "PLAIN LOGIN"
	S: "VERSION" "1.0"
	S: "MAXREDIRECTS" "5"
	S: OK "Waypost ready."
	`

// sieveLogin is alice's.
const sieveLogin = `AUTHENTICATE "PLAIN" "AGFsaWNlQGV4YW1wbGUudGVzdABzZWNyZXQ="`

func TestManageSieveSession(t *testing.T) {
	h, b1 := sieveHouse(t)
	h.start()
	h.dial("managesieve").Run(nil, sieveGreeting+`
		C- `+sieveLogin+`\r\nLISTSCRIPTS\r\nGETSC
		S: OK "Logged in."
		S: LISTSCRIPTS
		C- RIPT "x"\r\n
		S: GETSCRIPT "x"
		C: QUIT
		S: +OK bye
		END`)
	got := b1.said()
	if len(got) != 1 {
		t.Fatalf("%d hellos", len(got))
	}
	want := wire.Hello{Version: wire.Version, Protocol: "managesieve", User: string(alice), Home: "b1", Epoch: 1,
		Client: got[0].Client, Session: got[0].Session, Try: 1}
	if got[0] != want {
		t.Fatalf("hello %+v, want %+v", got[0], want)
	}
}

// A login of a user that is being moved waits, and goes on at the new home; a
// session whose user is moved ends with the backend's own BYE.
func TestManageSieveMove(t *testing.T) {
	h, b1 := sieveHouse(t)
	b2 := h.add(newFakeBackend(t, "b2"))
	moving := make(chan struct{})
	b1.play = func(_ wire.Hello, c net.Conn, r *bufio.Reader) {
		<-moving
		fmt.Fprint(c, "BYE (TRYLATER) \"moved\"\r\n")
	}
	h.start()
	c := h.dial("managesieve")
	c.Run(nil, sieveGreeting+"C: "+sieveLogin+"\nS: OK \"Logged in.\"")
	h.dir.set(alice, busy("b1", "b2", 2))
	close(moving)
	c.Run(nil, "S: BYE (TRYLATER) \"moved\"\nEND")
	c = h.dial("managesieve")
	c.Run(nil, sieveGreeting+"C: "+sieveLogin)
	h.until("login held", func() bool { return h.metric("logins_held") == 1 })
	h.dir.set(alice, active("b2", 3))
	c.Run(nil, "S: OK \"Logged in.\"\nC: NOOP\nS: NOOP")
	if n := len(b2.said()); n != 1 {
		t.Fatalf("%d sessions at the new home", n)
	}
}

// A password goes over TLS only, unless the operator says otherwise.
func TestManageSieveStartTLS(t *testing.T) {
	h, _ := sieveHouse(t)
	h.cfg.AllowPlaintext = false
	h.cfg.CertFile, h.cfg.KeyFile = proxytest.Certificate(t, t.TempDir())
	h.start()
	tls := proxytest.ClientTLS(t, h.cfg.CertFile)
	tls.NextProtos = []string{"managesieve"}
	h.dial("managesieve").Run(tls, `
		S: "IMPLEMENTATION" "Waypost"
		S: "SIEVE" "fileinto"
		S: "SASL" ""
		S: "STARTTLS"
		S: "VERSION" "1.0"
		S: "MAXREDIRECTS" "5"
		S: OK "Waypost ready."
		C: `+sieveLogin+`
		S: NO (ENCRYPT-NEEDED) ...
		C: STARTTLS
		S: OK "Begin TLS now."
		TLS
		`+strings.Replace(sieveGreeting, "Waypost ready.", "TLS is up.", 1)+`
		C: `+sieveLogin+`
		S: OK "Logged in."
		C: NOOP
		S: NOOP
		C: QUIT
		S: +OK bye
		END`)
}

// The service is one of its own; Dovecot's users have their scripts elsewhere.
func TestManageSieveRefused(t *testing.T) {
	h, _ := sieveHouse(t)
	h.dir.backends["d1"] = director.Backend{Kind: director.KindDovecot, Dovecot: &director.Dovecot{IMAP: "127.0.0.1:1"}}
	h.dir.set(alice, active("d1", 2))
	h.cfg.MaxConnections = 1
	h.start()
	c := h.dial("managesieve")
	c.Run(nil, sieveGreeting+"C: "+sieveLogin+"\nS: NO \"This account may not log in here.\"")
	h.dial("managesieve").Run(nil, "S: BYE (TRYLATER) \"Too many connections.\"\nEND")
	if n := h.metric("logins_total"); n != 1 {
		t.Errorf("%v logins counted", n)
	}
}

// An account that loses the service loses its sessions.
func TestManageSieveServiceTaken(t *testing.T) {
	h, _ := sieveHouse(t)
	h.start()
	c := h.dial("managesieve")
	c.Run(nil, sieveGreeting+"C: "+sieveLogin+"\nS: OK \"Logged in.\"")
	h.server.recheck(alice, director.Account{Hash: "secret", Services: []string{"imap", "managesieve"}})
	c.Run(nil, "C: NOOP\nS: NOOP")
	h.server.recheck(alice, director.Account{Hash: "secret", Services: []string{"imap"}})
	c.ExpectEnd()
}

func TestManageSieveIdle(t *testing.T) {
	h, _ := sieveHouse(t)
	h.cfg.IdleManageSieve = 50 * time.Millisecond
	h.start()
	h.dial("managesieve").Run(nil, sieveGreeting+"C: "+sieveLogin+"\nS: OK \"Logged in.\"\nEND")
}

func TestManageSieveNeedsExtensions(t *testing.T) {
	h, _ := sieveHouse(t)
	_, err := New(h.cfg, Deps{Node: "p1", Directory: h.dir, Guard: h.guard, Dial: h.dials, Log: h.logger()})
	if err == nil || !strings.Contains(err.Error(), "managesieve") {
		t.Fatal(err)
	}
}
