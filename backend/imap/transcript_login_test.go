package imap

import (
	"compress/flate"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// certificate makes one for tests.
func certificate(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"imap.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	must(t, err)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// door is a server that clients log in to, as ann with the password "pw"; acting for others is
// noted.
func door(t testing.TB, plain bool) (*rig, chan Credentials) {
	t.Helper()
	r := newRig(t, Limits{})
	seen := make(chan Credentials, 10)
	r.srv.opt.PlainLogin, r.srv.opt.TLS = plain, certificate(t)
	r.srv.opt.Name, r.srv.opt.Version = "Waypost", "1.0"
	r.srv.opt.Login = func(ctx context.Context, who Credentials) (Session, error) {
		seen <- who
		switch {
		case who.User == "down":
			return Session{}, errors.New("no directory")
		case who.User != string(ann) || who.Password != "pw":
			return Session{}, ErrLogin
		}
		b, err := r.store.Open(ctx, ann, "b1", 1)
		return Session{Box: b, Store: r.store}, err
	}
	return r, seen
}

func (r *rig) knock(t tb, greeting string) *client {
	nc, done := r.serve(context.Background(), Session{Client: "192.0.2.9:9", ID: "s"})
	c := newRaw(t, nc, done)
	if l := c.line(); l != greeting {
		t.Errorf("greeting %q, want %q", l, greeting)
	}
	return c
}

const plainGreeting = "* OK [CAPABILITY IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR ID ENABLE STARTTLS AUTH=PLAIN] ready"

// RFC 9051, Sections 6.2.2 and 6.2.3; RFC 4616; RFC 4959.
func TestTranscriptLogin(t *testing.T) {
	r, seen := door(t, true)
	plain := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	good := plain("\x00ann@example.test\x00pw")
	for name, login := range map[string]func(c *client) (untagged []string, status string){
		"LOGIN": func(c *client) ([]string, string) { return c.cmd(`LOGIN ann@example.test "pw"`) },
		"literals": func(c *client) ([]string, string) {
			return c.cmd("LOGIN {16+}\r\nann@example.test {2+}\r\npw")
		},
		"initial response": func(c *client) ([]string, string) { return c.cmd("AUTHENTICATE PLAIN %s", good) },
		"response": func(c *client) ([]string, string) {
			c.send("a AUTHENTICATE PLAIN\r\n")
			c.next("+ ")
			c.send("%s\r\n", good)
			return c.until("a")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := r.knock(t, plainGreeting)
			if got, st := login(c); len(got) > 0 || !strings.HasPrefix(st, "OK [CAPABILITY IMAP4rev1 IMAP4rev2 ") {
				t.Fatalf("%q %s", got, st)
			}
			if who := <-seen; who.Client != "192.0.2.9:9" || who.As != "" {
				t.Errorf("%+v", who)
			}
			c.errorPaths("BAD", "LOGIN ann@example.test pw", "AUTHENTICATE PLAIN", "STARTTLS")
			c.ok("SELECT INBOX")
			r.store.Freeze(ann) // also where the server did not open the mailbox itself
			c.bye("moving")
			must(t, c.ended())
			r.store.Serve(ann, "b1", 1)
		})
	}
	c := r.knock(t, plainGreeting)
	c.transcript(
		says("NOOP", "OK"), says("CAPABILITY", "OK", "* CAPABILITY IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR ID ENABLE STARTTLS AUTH=PLAIN"),
		says(`ID ("name" "x" "os" NIL)`, "OK", `* ID ("name" "Waypost" "version" "1.0")`), says("ID NIL", "OK", `* ID ("name" "Waypost" "version" "1.0")`),
		says("LOGIN down pw", "NO [UNAVAILABLE]"), says("AUTHENTICATE SCRAM-SHA-256 x", "NO [CANNOT]"),
		says("LOGIN ann@example.test no", "NO [AUTHENTICATIONFAILED]"),
		says("AUTHENTICATE PLAIN "+plain("bob\x00ann@example.test\x00no"), "NO [AUTHENTICATIONFAILED]"),
	)
	for range 2 {
		<-seen
	}
	if who := <-seen; who.As != "bob" {
		t.Errorf("%+v", who)
	}
	d := r.knock(t, plainGreeting)
	d.errorPaths("BAD", "SELECT INBOX", "LIST \"\" *", "FETCH 1 FLAGS", "APPEND INBOX {1+}\r\nx", "NOTIFY NONE", "IDLE", "ENABLE CONDSTORE", "LOGIN a", "LOGIN a b c",
		"AUTHENTICATE", "AUTHENTICATE PLAIN !", "AUTHENTICATE PLAIN "+plain("a\x00b"), "ID", "ID (\"a\")", "ID (\"a\" \"b\" NIL)")
	d.send("a AUTHENTICATE PLAIN\r\n")
	d.next("+ ")
	d.send("*\r\n")
	d.next("a BAD cancelled")
	// What stands in for a response is no command, nor is its literal.
	d.send("b AUTHENTICATE PLAIN\r\n")
	d.next("+ ")
	d.send("x {24+}\r\nc LOGIN down secret-pw\r\n\r\n")
	if l := d.line(); !strings.HasPrefix(l, "b BAD") {
		t.Errorf("%q", l)
	}
	d.want("NOOP", "OK")
	// Three wrong logins end the session.
	e := r.knock(t, plainGreeting)
	for range 2 {
		e.cmd("LOGIN x y")
	}
	e.send("z LOGIN x y\r\n")
	e.bye("")
}

// RFC 9051, Sections 6.2.1 and 11.1.
func TestTranscriptStartTLS(t *testing.T) {
	r, _ := door(t, false)
	greeting := "* OK [CAPABILITY IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR ID ENABLE STARTTLS LOGINDISABLED] ready"
	c := r.knock(t, greeting)
	c.transcript(says("LOGIN ann@example.test pw", "NO [PRIVACYREQUIRED]"), says("AUTHENTICATE PLAIN AGEAYg==", "NO [PRIVACYREQUIRED]"), says("STARTTLS x", "BAD"))
	c.want("STARTTLS", "OK")
	tc := tls.Client(c.nc, &tls.Config{InsecureSkipVerify: true})
	s := newRaw(t, tc, c.done)
	s.want("CAPABILITY", "OK", "* CAPABILITY IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR ID ENABLE AUTH=PLAIN")
	s.want("STARTTLS", "BAD")
	s.want("LOGIN ann@example.test pw", "OK [CAPABILITY")
	s.ok("SELECT INBOX")
	s.cmd("LOGOUT")
	must(t, s.ended())
	// What was sent in plain text behind STARTTLS is not taken for encrypted.
	d := r.knock(t, greeting)
	d.send("a STARTTLS\r\nb LOGIN ann@example.test pw\r\n")
	d.bye("[CLIENTBUG]")
	// A handshake that is none ends the session.
	e := r.knock(t, greeting)
	e.want("STARTTLS", "OK")
	e.send("nonsense\r\n\r\n\r\n")
	must(t, e.ended())
}

// deflating is a connection that can deflate, as the front tier's.
type deflating struct {
	net.Conn
	r io.Reader
	w *flate.Writer
}

func (d *deflating) Compress() error {
	d.r = flate.NewReader(d.Conn)
	w, err := flate.NewWriter(d.Conn, flate.DefaultCompression)
	d.w = w
	return err
}

func (d *deflating) Read(p []byte) (int, error) {
	if d.r != nil {
		return d.r.Read(p)
	}
	return d.Conn.Read(p)
}

func (d *deflating) Write(p []byte) (int, error) {
	if d.w == nil {
		return d.Conn.Write(p)
	}
	n, err := d.w.Write(p)
	return n, errors.Join(err, d.w.Flush())
}

// RFC 4978.
func TestTranscriptCompress(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.deliver(b, "INBOX", letter)
	near, far := loopback(t)
	done := make(chan error, 1)
	go func() {
		done <- r.srv.Serve(context.Background(), &deflating{Conn: far}, Session{Box: b, Store: r.store})
	}()
	c := newRaw(t, near, done)
	if l := c.line(); !strings.Contains(l, " COMPRESS=DEFLATE") {
		t.Errorf("%q", l)
	}
	c.errorPaths("BAD", "COMPRESS", "COMPRESS GZIP", "COMPRESS DEFLATE x")
	c.want("COMPRESS DEFLATE", "OK")
	z := &deflating{Conn: near}
	must(t, z.Compress())
	s := newRaw(t, z, done)
	s.want("COMPRESS DEFLATE", "NO [COMPRESSIONACTIVE]")
	s.ok("SELECT INBOX")
	s.texts(letter)
	s.ok("NOTIFY SET (selected (MessageNew (UID) MessageExpunge))")
	r.deliver(b, "INBOX", letter)
	s.next("* 2 EXISTS", "* 2 RECENT", "* 2 FETCH (UID 2)")
	s.cmd("LOGOUT")
	must(t, s.ended())
	// Where the connection cannot, it is not offered.
	d := r.dial(b)
	d.want("COMPRESS DEFLATE", "NO [CANNOT]")
}

// RFC 5161 and RFC 9051, Section 6.3.1.
func TestTranscriptEnable(t *testing.T) {
	_, _, c := rigWith(t, 1)
	c.transcript(
		says("ENABLE X-UNKNOWN", "OK", "* ENABLED"),
		says("ENABLE condstore foo utf8=accept", "OK", "* ENABLED CONDSTORE UTF8=ACCEPT"),
		says("ENABLE CONDSTORE", "OK", "* ENABLED"), says("ENABLE METADATA", "OK", "* ENABLED METADATA"),
		says("ENABLE IMAP4rev2", "OK", "* ENABLED IMAP4REV2"),
		// IMAP4rev2: no RECENT, ESEARCH, LIST with SELECT (RFC 9051, Appendix E).
		says("SELECT INBOX", "OK [READ-WRITE]", `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft)`,
			`* OK [PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft \*)] flags that can be set`, "* 1 EXISTS",
			`* LIST () "/" INBOX`, "* OK [UIDVALIDITY 1] UIDs valid", "* OK [UIDNEXT 2] predicted next UID", "* OK [HIGHESTMODSEQ 2] highest", "* OK [MAILBOXID (f1)] ok"),
		says("SEARCH ALL", "OK", `* ESEARCH (TAG "t7") ALL 1`), says("FETCH 1 FLAGS", "OK", "* 1 FETCH (FLAGS ())"),
		says("NAMESPACE", "OK", `* NAMESPACE (("" "/")) NIL NIL`),
		says("UNSELECT", "OK"), says("EXAMINE nowhere", "NO [NONEXISTENT]"),
	)
}
