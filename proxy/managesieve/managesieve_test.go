package managesieve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"waypost/proxy/prelogin"
	"waypost/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var caps = Capabilities{Extensions: []string{"fileinto", "vacation"}, Notify: []string{"mailto"}, MaxRedirects: 5}

// decide is a Login whose answer is spelled in the user's name.
func decide(_ context.Context, cred prelogin.Credentials) error {
	if cred.Password != "pass word" {
		return prelogin.ErrAuth
	}
	refusals := map[string]error{
		"disabled": prelogin.ErrDisabled, "throttled": prelogin.ErrThrottled, "limit": prelogin.ErrLimit,
		"away": prelogin.ErrTemporary, "broken": errors.New("secret detail"),
	}
	if err := refusals[cred.Name]; err != nil {
		return fmt.Errorf("decide: %w", err)
	}
	return nil
}

func start(t *testing.T, ctx context.Context, o Options, l prelogin.Limits) (*proxytest.Client, <-chan proxytest.Outcome) {
	t.Helper()
	return proxytest.Converse(ctx, t, l, func(ctx context.Context, c *prelogin.Conn) error { return Serve(ctx, c, o) })
}

// list is the capabilities as a transcript; sasl and starttls differ.
func list(sasl, starttls, end string) string {
	return `
		S: "IMPLEMENTATION" "Waypost"
		S: "SIEVE" "fileinto vacation"
		S: "SASL" "` + sasl + `"
		` + starttls + `
		S: "VERSION" "1.0"
		S: "NOTIFY" "mailto"
		S: "MAXREDIRECTS" "5"
		S: OK "` + end + `"
		`
}

const (
	offered  = `S: "STARTTLS"`
	loggedIn = `S: OK "Logged in."` + "\n"
	plain    = "AGFsaWNlAHBhc3Mgd29yZA=="
	ready    = "Waypost ready."
	asked    = "Capabilities listed."
)

func TestTranscripts(t *testing.T) {
	for _, c := range []struct {
		name   string
		secret bool // no login in plaintext
		script string
		want   error
		rest   string
	}{
		{name: "before login", script: `
			C: capability
			` + list("PLAIN LOGIN", offered, asked) + `
			C: NOOP
			S: OK "Done."
			C: noop "a \"tag\" \\"
			S: OK (TAG {9}
			S: a "tag" \) "Done."
			C: NOOP {3+}
			C: a"b
			S: OK (TAG {3}
			S: a"b) "Done."
			C: LISTSCRIPTS
			S: NO "Unknown command, or log in first."
			C: NOOP "a" "b"
			S: NO "Unknown command, or log in first."
			C: CAPABILITY ""
			S: NO "Unknown command, or log in first."
			C: UNAUTHENTICATE
			S: NO "Unknown command, or log in first."
			C: PUTSCRIPT "x" {8+}
			C: LOGOUT
			C:
			S: NO "Unknown command, or log in first."
			C: LOGOUT
			S: OK "Goodbye."
			END`, want: prelogin.ErrQuit},
		{name: "malformed", script: `
			C:
			S: NO "Malformed command."
			C: NO-OP
			S: NO "Malformed command."
			C: NOOP "x
			S: NO "Malformed string."
			C: NOOP "x"y
			S: NO "Want strings, set off by spaces."
			C: NOOP x
			S: NO "Want strings, set off by spaces."
			C- NOOP "\0"\r\n
			S: NO "Malformed string."
			C- NOOP{6+}\r\nLOGOUT\r\n
			S: NO "A space must come before a string."
			C- {6+}\r\nLOGOUT\r\n
			S: NO "A space must come before a string."
			C- NOOP "x"{6+}\r\nLOGOUT\r\n
			S: NO "A space must come before a string."
			C- NOOP nonsense {6+}\r\nLOGOUT\r\n
			S: NO "Want strings, set off by spaces."
			C- NOOP {x+}\r\n
			S: NO "Want strings, set off by spaces."`, want: io.EOF},
		{name: "initial response", script: `C: AUTHENTICATE "PLAIN" "` + plain + "\"\n" + loggedIn},
		{name: "initial response as a literal", script: `C: authenticate "plain" {24+}` + "\nC: " + plain + "\n" + loggedIn},
		{name: "mechanism as a literal", script: "C: AUTHENTICATE {5+}\nC: PLAIN \"" + plain + "\"\n" + loggedIn},
		{name: "asked", script: "C: AUTHENTICATE \"PLAIN\"\nS: \"\"\nC: \"" + plain + "\"\n" + loggedIn},
		{name: "asked, literal", script: "C: AUTHENTICATE \"PLAIN\"\nS: \"\"\nC: {24+}\nC: " + plain + "\n" + loggedIn},
		{name: "LOGIN", script: "C: AUTHENTICATE \"LOGIN\"\nS: \"VXNlcm5hbWU6\"\nC: \"YWxpY2U=\"\nS: \"UGFzc3dvcmQ6\"\nC: \"cGFzcyB3b3Jk\"\n" + loggedIn},
		{name: "pipelined", script: `C- AUTHENTICATE "PLAIN" "` + plain + `"\r\nLISTSCRIPTS\r\nPUT` + "\n" + loggedIn, rest: "LISTSCRIPTS\r\nPUT"},
		{name: "AUTHENTICATE gone wrong", script: `
			C: AUTHENTICATE
			S: NO "AUTHENTICATE wants a mechanism and at most an initial response."
			C: AUTHENTICATE "PLAIN" "" ""
			S: NO "AUTHENTICATE wants a mechanism and at most an initial response."
			C: AUTHENTICATE "PLAIN"
			S: ""
			C: "*"
			S: NO "Authentication cancelled."
			C: AUTHENTICATE "PLAIN"
			S: ""
			C: ` + plain + `
			S: NO "Want strings, set off by spaces."
			C: AUTHENTICATE "PLAIN"
			S: ""
			C: "` + plain + `" "x"
			S: NO "Want one string."
			C: AUTHENTICATE "PLAIN" ""
			S: NO "Malformed authentication response."
			C: AUTHENTICATE "PLAIN" "="
			S: NO "Malformed authentication response."
			C: AUTHENTICATE "SCRAM-SHA-1" "biws"
			S: NO "Unsupported authentication mechanism."`, want: io.EOF},
		{name: "refusals", script: `
			C: AUTHENTICATE "PLAIN" "AGF3YXkAcGFzcyB3b3Jk"
			S: NO (TRYLATER) "Temporarily unavailable, try again later."
			C: AUTHENTICATE "PLAIN" "AGJyb2tlbgBwYXNzIHdvcmQ="
			S: NO (TRYLATER) "Temporarily unavailable, try again later."
			C: AUTHENTICATE "PLAIN" "AGxpbWl0AHBhc3Mgd29yZA=="
			S: NO (TRYLATER) "Too many connections."
			C: AUTHENTICATE "PLAIN" "AGRpc2FibGVkAHBhc3Mgd29yZA=="
			S: NO "This account may not log in here."
			C: AUTHENTICATE "PLAIN" "AHRocm90dGxlZABwYXNzIHdvcmQ="
			S: NO (TRYLATER) "Too many failed logins, try again later."
			C: AUTHENTICATE "PLAIN" "AGFsaWNlAHdyb25n"
			S: NO "Authentication failed."
			S: BYE "Too many failed logins."
			END`, want: prelogin.ErrLimits},
		{name: "no login without TLS", secret: true, script: `
			C: AUTHENTICATE "PLAIN" "` + plain + `"
			S: NO (ENCRYPT-NEEDED) "Log in over TLS only: use STARTTLS."
			C: AUTHENTICATE "PLAIN"
			S: NO (ENCRYPT-NEEDED) "Log in over TLS only: use STARTTLS."
			C: STARTTLS
			S: OK "Begin TLS now."
			TLS
			` + list("PLAIN LOGIN", "", "TLS is up.") + `
			C: CAPABILITY
			` + list("PLAIN LOGIN", "", asked) + `
			C: STARTTLS
			S: NO "STARTTLS is not available."
			C- AUTHENTICATE "PLAIN" "` + plain + `"\r\nLISTSCRIPTS\r\n
			` + loggedIn, rest: "LISTSCRIPTS\r\n"},
		{name: "STARTTLS injection", secret: true, script: `
			C- STARTTLS\r\nNOOP\r\n
			S: NO "Nothing may follow STARTTLS."
			END`, want: prelogin.ErrInjection},
		{name: "a script before the login", script: "C: PUTSCRIPT \"x\" {100000+}\nS: BYE \"Literal too long.\"\nEND", want: prelogin.ErrLimits},
		{name: "many literals", script: "C- NOOP {9999+}\\r\\n" + strings.Repeat("x", 9999) + " {9999+}\\r\\n\nS: BYE \"Literal too long.\"\nEND", want: prelogin.ErrLimits},
		{name: "many empty literals", script: "C- NOOP {0+}\\r\\n" + strings.Repeat(" {0+}\\r\\n", 1300) + "\nS: BYE \"Line too long.\"\nEND", want: prelogin.ErrLimits},
		{name: "huge number", script: "C: NOOP {99999999999999999999+}\nS: BYE \"Literal too long.\"\nEND", want: prelogin.ErrLimits},
		{name: "long line", script: "C: NOOP \"" + strings.Repeat("x", 8500) + "\nS: BYE \"Line too long.\"\nEND", want: prelogin.ErrLimits},
		{name: "too many commands", script: strings.Repeat("C: NOOP\nS: OK ...\n", 50) +
			"S: BYE \"Too many commands without a login.\"\nEND", want: prelogin.ErrLimits},
	} {
		t.Run(c.name, func(t *testing.T) {
			serverTLS, clientTLS := proxytest.TLS(t)
			client, out := start(t, context.Background(), Options{Capabilities: caps, TLS: serverTLS, Plaintext: !c.secret, Login: decide}, proxytest.Limits())
			mechanisms := "PLAIN LOGIN"
			if c.secret {
				mechanisms = ""
			}
			client.Run(clientTLS, list(mechanisms, offered, ready)+c.script)
			if c.want == io.EOF {
				client.Conn.Close()
			}
			got := <-out
			if !errors.Is(got.Err, c.want) {
				t.Fatalf("Serve: %v, want %v", got.Err, c.want)
			}
			if c.want == nil {
				got.CheckRest(t, client, c.rest)
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	l := proxytest.Limits()
	l.Timeout = 50 * time.Millisecond
	client, out := start(t, context.Background(), Options{Capabilities: caps, Plaintext: true, Login: decide}, l)
	client.Run(nil, list("PLAIN LOGIN", "", ready)+"S: BYE \"Too long without a login.\"\nEND")
	if err := (<-out).Err; !errors.Is(err, prelogin.ErrLimits) {
		t.Fatal(err)
	}
}

func TestShutdown(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	client, out := start(t, ctx, Options{Capabilities: caps, Plaintext: true, Login: decide}, proxytest.Limits())
	client.Run(nil, list("PLAIN LOGIN", "", ready))
	cancel()
	client.Run(nil, "S: BYE (TRYLATER) \"Server is shutting down.\"\nEND")
	if err := (<-out).Err; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func FuzzServe(f *testing.F) {
	for _, s := range []string{
		"AUTHENTICATE \"PLAIN\" \"" + plain + "\"\r\nLISTSCRIPTS\r\n", "AUTHENTICATE \"PLAIN\"\r\n\"*\"\r\n",
		"AUTHENTICATE \"PLAIN\"\r\n{24+}\r\n" + plain + "\r\n", "AUTHENTICATE \"LOGIN\"\r\n\"YWxpY2U=\"\r\n\"cGFzcyB3b3Jk\"\r\n",
		"CAPABILITY\r\nSTARTTLS\r\nLOGOUT\r\n", "NOOP {3+}\r\na\nb\r\n", "\r\n\x00\r\n", "NOOP \"\\\"\\", "NOOP {0}\r\n {0}\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		conn := proxytest.NewCanned(input)
		c, err := prelogin.NewConn(conn, proxytest.Limits())
		if err != nil {
			t.Fatal(err)
		}
		var seen prelogin.Credentials
		err = Serve(context.Background(), c, Options{Capabilities: caps, Plaintext: true,
			Login: func(ctx context.Context, cred prelogin.Credentials) error {
				seen = cred
				return decide(ctx, cred)
			}})
		if err == nil && (seen.Name == "" || seen.Password == "") {
			t.Fatal("logged in without a name or password")
		}
		out := conn.Out.String()
		if !strings.HasSuffix(out, "\r\n") {
			t.Fatalf("answers are no lines: %q", out)
		}
		if loggedIn := strings.HasSuffix(out, "OK \"Logged in.\"\r\n"); (err == nil) != loggedIn {
			t.Fatalf("Serve: %v after %q", err, out)
		}
	})
}
