// Package proxytest holds what the tests of proxy and of its protocol engines
// share: connections, transcripts and a certificate. Nothing else imports it.
package proxytest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waypost/proxy/prelogin"
)

// Patience is how long a test waits for what must come.
const Patience = 20 * time.Second

// Limits suit tests: like the defaults, without delay.
func Limits() prelogin.Limits {
	return prelogin.Limits{
		LineBytes: 8192, Commands: 50, Failures: 3, Timeout: time.Minute,
		HandshakeTimeout: Patience, WriteTimeout: Patience,
	}
}

// Pair gives both ends of a loopback TCP connection.
func Pair(t testing.TB) (client, server net.Conn) {
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

// Certificate writes a self-signed pair for 127.0.0.1 and "localhost".
func Certificate(t testing.TB, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for name, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// TLS gives both sides' configurations for a new certificate.
func TLS(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	certFile, keyFile := Certificate(t, t.TempDir())
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, ClientTLS(t, certFile)
}

// ClientTLS trusts the certificate in certFile.
func ClientTLS(t testing.TB, certFile string) *tls.Config {
	t.Helper()
	pemBytes, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pemBytes)
	return &tls.Config{RootCAs: roots, ServerName: "localhost"}
}

// Client is the client's end of a conversation.
type Client struct {
	T    testing.TB
	Conn net.Conn
	R    *bufio.Reader
}

// NewClient speaks over c, with a deadline for all.
func NewClient(t testing.TB, c net.Conn) *Client {
	t.Helper()
	k := &Client{T: t}
	k.use(c)
	return k
}

func (c *Client) use(conn net.Conn) {
	c.T.Helper()
	if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		c.T.Fatal(err)
	}
	c.Conn, c.R = conn, bufio.NewReader(conn)
}

// Send writes exactly s.
func (c *Client) Send(s string) {
	c.T.Helper()
	if _, err := io.WriteString(c.Conn, s); err != nil {
		c.T.Fatalf("send %.60q: %v", s, err)
	}
}

// Line reads one line without its line end, which must be CRLF.
func (c *Client) Line() string {
	c.T.Helper()
	line, err := c.R.ReadString('\n')
	if err != nil {
		c.T.Fatalf("read: %v after %q", err, line)
	}
	text, ok := strings.CutSuffix(line, "\r\n")
	if !ok {
		c.T.Fatalf("line %q does not end in CRLF", line)
	}
	return text
}

// Expect reads a line, which must be want; a want that ends in "..." is a prefix.
func (c *Client) Expect(want string) string {
	c.T.Helper()
	got := c.Line()
	prefix, isPrefix := strings.CutSuffix(want, "...")
	if got != want && !(isPrefix && strings.HasPrefix(got, prefix)) {
		c.T.Fatalf("got %q, want %q", got, want)
	}
	return got
}

// ExpectEnd wants the connection closed, and nothing before.
func (c *Client) ExpectEnd() {
	c.T.Helper()
	if rest, err := io.ReadAll(c.R); err == nil && len(rest) > 0 || isTimeout(err) {
		c.T.Fatalf("want the end, got %q, %v", rest, err)
	}
}

func isTimeout(err error) bool {
	n, ok := err.(net.Error)
	return ok && n.Timeout()
}

// StartTLS does the client's handshake.
func (c *Client) StartTLS(config *tls.Config) {
	c.T.Helper()
	t := tls.Client(c.Conn, config)
	if err := t.Handshake(); err != nil {
		c.T.Fatalf("TLS: %v", err)
	}
	c.use(t)
}

// Run plays a transcript: "C: line" is sent with CRLF, "C- text" as it is with
// \r\n written out, "S: line" is expected, "TLS" is the handshake, and "END" is
// the end of the connection.
func (c *Client) Run(config *tls.Config, script string) {
	c.T.Helper()
	for step := range strings.Lines(script) {
		step = strings.TrimSpace(step)
		kind, text, _ := strings.Cut(step, " ")
		switch kind {
		case "":
		case "C:":
			c.Send(text + "\r\n")
		case "C-":
			c.Send(strings.NewReplacer(`\r`, "\r", `\n`, "\n", `\0`, "\x00").Replace(text))
		case "S:":
			c.Expect(text)
		case "TLS":
			c.StartTLS(config)
		case "END":
			c.ExpectEnd()
		default:
			c.T.Fatalf("no such step: %q", step)
		}
	}
}

// Canned is a connection whose client has said everything already, for fuzzing.
type Canned struct {
	In  *bytes.Reader
	Out bytes.Buffer
}

// NewCanned says input.
func NewCanned(input []byte) *Canned { return &Canned{In: bytes.NewReader(input)} }

func (c *Canned) Read(p []byte) (int, error)       { return c.In.Read(p) }
func (c *Canned) Write(p []byte) (int, error)      { return c.Out.Write(p) }
func (c *Canned) Close() error                     { return nil }
func (c *Canned) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *Canned) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *Canned) SetDeadline(time.Time) error      { return nil }
func (c *Canned) SetReadDeadline(time.Time) error  { return nil }
func (c *Canned) SetWriteDeadline(time.Time) error { return nil }

// Outcome is how a conversation before login ended: with what Serve returned, and, if
// that is nil, with the connection and what was read of it beyond the login.
type Outcome struct {
	Err  error
	Conn net.Conn
	Rest string
}

// Converse has serve talk to a client; the outcome comes when it has returned. The
// connection is closed then, unless the login succeeded. When ctx ends so do reads on
// the server's side, as serve's contract wants it.
func Converse(ctx context.Context, t testing.TB, l prelogin.Limits, serve func(context.Context, *prelogin.Conn) error) (*Client, <-chan Outcome) {
	t.Helper()
	client, server := Pair(t)
	context.AfterFunc(ctx, func() { _ = server.SetReadDeadline(time.Unix(1, 0)) })
	out := make(chan Outcome, 1)
	go func() {
		var got Outcome
		c, err := prelogin.NewConn(server, l)
		if err == nil {
			err = serve(ctx, c)
		}
		if err == nil {
			var rest []byte
			got.Conn, rest, err = c.Release()
			got.Rest = string(rest)
		} else {
			server.Close()
		}
		got.Err = err
		out <- got
	}()
	return NewClient(t, client), out
}

// CheckRest sees that what follows the login is whole, wherever it was read.
func (o Outcome) CheckRest(t testing.TB, client *Client, want string) {
	t.Helper()
	client.Send("end")
	rest := []byte(o.Rest)
	for !strings.HasSuffix(string(rest), "end") {
		p := make([]byte, 100)
		n, err := o.Conn.Read(p)
		if err != nil {
			t.Fatalf("after %q: %v", rest, err)
		}
		rest = append(rest, p[:n]...)
	}
	if string(rest) != want+"end" {
		t.Fatalf("handed over %q, want %q", rest, want+"end")
	}
}
