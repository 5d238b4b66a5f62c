package imap

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

// decide is a Login whose answer is spelled in the user's name.
func decide(_ context.Context, cred prelogin.Credentials, still func() error) (string, error) {
	if cred.Password != "pass word" && cred.Password != `q"\` {
		return "", prelogin.ErrAuth
	}
	refusals := map[string]error{
		"disabled": prelogin.ErrDisabled, "throttled": prelogin.ErrThrottled, "limit": prelogin.ErrLimit,
		"inuse": prelogin.ErrInUse, "away": prelogin.ErrTemporary, "broken": errors.New("secret detail"),
	}
	if err := refusals[cred.Name]; err != nil {
		return "", fmt.Errorf("decide: %w", err)
	}
	if cred.Name == "slow" {
		if err := still(); err != nil {
			return "", err
		}
	}
	if cred.Name == "bare" {
		return "", nil
	}
	return "IMAP4rev1 MOVE", nil
}

func start(t *testing.T, o Options, l prelogin.Limits) (*proxytest.Client, <-chan proxytest.Outcome) {
	t.Helper()
	return proxytest.Converse(t.Context(), t, l, func(ctx context.Context, c *prelogin.Conn) error { return Serve(ctx, c, o) })
}

const (
	greetPlain = "S: * OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE IDLE STARTTLS AUTH=PLAIN AUTH=LOGIN] Waypost ready.\n"
	greetNoTLS = "S: * OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE IDLE STARTTLS LOGINDISABLED] Waypost ready.\n"
	loggedIn   = "S: a OK [CAPABILITY IMAP4rev1 MOVE] Logged in.\n"
)

func TestTranscripts(t *testing.T) {
	for _, c := range []struct {
		name   string
		secret bool // no plaintext logins
		script string
		want   error // of Serve
		rest   string
	}{
		{name: "before login", script: `
			C: a CAPABILITY
			S: * CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE IDLE STARTTLS AUTH=PLAIN AUTH=LOGIN
			S: a OK CAPABILITY completed.
			C: b noop
			S: b OK NOOP completed.
			C: c NOOP x
			S: c BAD NOOP takes no arguments.
			C: d ID NIL
			S: * ID ("name" "Waypost")
			S: d OK ID completed.
			C: e ID ("name" "x" "version" NIL)
			S: * ID ("name" "Waypost")
			S: e OK ID completed.
			C: f ID ("name" {3}
			S: + OK
			C: x y)
			S: * ID ("name" "Waypost")
			S: f OK ID completed.
			C: g ID ("name")
			S: g BAD ID wants NIL or a list of strings.
			C: h SELECT INBOX
			S: h BAD Unknown command, or log in first.
			C: +x NOOP
			S: * BAD Malformed tag.
			C: i
			S: i BAD Malformed command.
			C:
			S: * BAD Malformed tag.
			C: k LOGOUT now
			S: k BAD LOGOUT takes no arguments.
			C: l LOGOUT
			S: * BYE Logging out.
			S: l OK LOGOUT completed.
			END`, want: prelogin.ErrQuit},
		{name: "login atom and quoted", script: "C: a LOGIN alice \"pass word\"\n" + loggedIn},
		{name: "login without announced capabilities", script: "C: a LOGIN bare \"pass word\"\nS: a OK Logged in.\n"},
		{name: "login quoted escapes", script: `C: a login "alice" "q\"\\"` + "\n" + loggedIn},
		{name: "login literals", script: "C: a LOGIN {5}\nS: + OK\nC: alice {9}\nS: + OK\nC: pass word\n" + loggedIn},
		{name: "login literals without synchronisation", script: `C- a LOGIN {5+}\r\nalice {9+}\r\npass word\r\n` + "\n" + loggedIn},
		{name: "login bare LF", script: `C- a LOGIN alice "pass word"\n` + "\n" + loggedIn},
		{name: "pipelined behind login", script: `C- a LOGIN alice "pass word"\r\nb SELECT INBOX\r\nc IDL` + "\n" + loggedIn,
			rest: "b SELECT INBOX\r\nc IDL"},
		{name: "login told to wait", script: "C: a LOGIN slow \"pass word\"\nS: * OK Still waiting for the mailbox.\n" + loggedIn},
		{name: "login malformed", script: `
			C: a LOGIN
			S: a BAD LOGIN wants a name and a password.
			C: a LOGIN alice
			S: a BAD LOGIN wants a name and a password.
			C: a LOGIN alice "unfinished
			S: a BAD LOGIN wants a name and a password.
			C: a LOGIN alice "bad \escape"
			S: a BAD LOGIN wants a name and a password.
			C: a LOGIN alice one two
			S: a BAD LOGIN wants a name and a password.
			C: a LOGIN al*ce one
			S: a BAD LOGIN wants a name and a password.
			C- a LOGIN alice {3+}\r\na\0b\r\n
			S: a BAD LOGIN wants a name and a password.
			C: a LOGIN alice "pass word"
		` + loggedIn},
		{name: "authenticate initial", script: "C: a AUTHENTICATE PLAIN AGFsaWNlAHBhc3Mgd29yZA==\n" + loggedIn},
		{name: "authenticate asked", script: "C: a authenticate plain\nS: + ...\nC: AGFsaWNlAHBhc3Mgd29yZA==\n" + loggedIn},
		{name: "authenticate LOGIN", script: "C: a AUTHENTICATE LOGIN\nS: + VXNlcm5hbWU6\nC: YWxpY2U=\nS: + UGFzc3dvcmQ6\nC: cGFzcyB3b3Jk\n" + loggedIn},
		{name: "authenticate LOGIN initial", script: "C: a AUTHENTICATE LOGIN YWxpY2U=\nS: + UGFzc3dvcmQ6\nC: cGFzcyB3b3Jk\n" + loggedIn},
		{name: "authenticate gone wrong", script: `
			C: a AUTHENTICATE PLAIN
			S: + ...
			C: *
			S: a BAD Authentication cancelled.
			C: a AUTHENTICATE PLAIN
			S: + ...
			C: !!!
			S: a BAD Malformed authentication response.
			C: a AUTHENTICATE PLAIN =
			S: a BAD Malformed authentication response.
			C: a AUTHENTICATE SCRAM-SHA-1
			S: a NO Unsupported authentication mechanism.
			C: a AUTHENTICATE
			S: a BAD AUTHENTICATE wants a mechanism and at most an initial response.
			C: a AUTHENTICATE PLAIN x y
			S: a BAD AUTHENTICATE wants a mechanism and at most an initial response.`, want: io.EOF},
		{name: "refusals", script: `
			C: a LOGIN away "pass word"
			S: a NO [UNAVAILABLE] Temporarily unavailable, try again later.
			C: a LOGIN broken "pass word"
			S: a NO [UNAVAILABLE] Temporarily unavailable, try again later.
			C: a LOGIN limit "pass word"
			S: a NO [LIMIT] Too many connections.
			C: a LOGIN inuse "pass word"
			S: a NO [INUSE] Mailbox is in use.
			C: a LOGIN disabled "pass word"
			S: a NO [CONTACTADMIN] This account may not log in here.
			C: a LOGIN throttled "pass word"
			S: a NO [LIMIT] Too many failed logins, try again later.
			C: a LOGIN alice wrong
			S: a NO [AUTHENTICATIONFAILED] Authentication failed.
			S: * BYE Too many failed logins.
			END`, want: prelogin.ErrLimits},
		{name: "no login without TLS", secret: true, script: `
			C: a LOGIN alice "pass word"
			S: a NO [PRIVACYREQUIRED] Log in over TLS only: use STARTTLS or the TLS port.
			C: a LOGIN {5}
			S: a NO [PRIVACYREQUIRED] Log in over TLS only: use STARTTLS or the TLS port.
			C- a LOGIN {5+}\r\nalice {9+}\r\npass word\r\n
			S: a NO [PRIVACYREQUIRED] Log in over TLS only: use STARTTLS or the TLS port.
			C: a AUTHENTICATE PLAIN AGFsaWNlAHBhc3Mgd29yZA==
			S: a NO [PRIVACYREQUIRED] Log in over TLS only: use STARTTLS or the TLS port.
			C: b STARTTLS
			S: b OK Begin TLS now.
			TLS
			C: c CAPABILITY
			S: * CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE IDLE AUTH=PLAIN AUTH=LOGIN
			S: c OK CAPABILITY completed.
			C: d STARTTLS
			S: d BAD STARTTLS is not available.
			C- a LOGIN alice "pass word"\r\nz NOOP\r\n
			` + loggedIn, rest: "z NOOP\r\n"},
		{name: "STARTTLS injection", secret: true, script: `
			C- a STARTTLS\r\nb LOGIN alice "pass word"\r\n
			S: a BAD Nothing may follow STARTTLS.
			S: * BYE Nothing may follow STARTTLS before TLS is up.
			END`, want: prelogin.ErrInjection},
		{name: "refused literal without synchronisation is read and dropped", script: `
			C- a SELECT {11+}\r\nb LOGOUT\r\nx\r\n
			S: a BAD Unknown command, or log in first.
			C: c NOOP
			S: c OK NOOP completed.`, want: io.EOF},
		{name: "refused literal with synchronisation", script: `
			C: a SELECT {11}
			S: a BAD No literal is taken here.
			C: c NOOP
			S: c OK NOOP completed.`, want: io.EOF},
		{name: "long literal with synchronisation", script: `
			C: a LOGIN {4097}
			S: a BAD Literal too long.
			C: a LOGIN {99999999999999999999}
			S: a BAD Literal too long.
			C: c NOOP
			S: c OK NOOP completed.`, want: io.EOF},
		{name: "long literal without synchronisation", script: `
			C: a LOGIN {4097+}
			S: * BYE Literal too long.
			END`, want: prelogin.ErrLimits},
		{name: "literals too long together", script: `
			C- a LOGIN {4000+}\r\n` + strings.Repeat("x", 4000) + ` {97+}\r\n
			S: * BYE Literal too long.
			END`, want: prelogin.ErrLimits},
		{name: "long line", script: "C: a LOGIN alice " + strings.Repeat("x", 9000) + "\nS: * BYE Line too long.\nEND", want: prelogin.ErrLimits},
		{name: "too many commands", script: strings.Repeat("C: a NOOP\nS: a OK NOOP completed.\n", 50) +
			"S: * BYE Too many commands without a login.\nEND", want: prelogin.ErrLimits},
	} {
		t.Run(c.name, func(t *testing.T) {
			serverTLS, clientTLS := proxytest.TLS(t)
			client, out := start(t, Options{TLS: serverTLS, Plaintext: !c.secret, Login: decide}, proxytest.Limits())
			greeting := greetPlain
			if c.secret {
				greeting = greetNoTLS
			}
			client.Run(clientTLS, greeting+c.script)
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
	client, out := start(t, Options{Plaintext: true, Login: decide}, l)
	client.Run(nil, `
		S: * OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL- ID ENABLE IDLE AUTH=PLAIN AUTH=LOGIN] Waypost ready.
		S: * BYE Too long without a login.
		END`)
	if err := (<-out).Err; !errors.Is(err, prelogin.ErrLimits) {
		t.Fatal(err)
	}
}

func TestHandshakeTimeout(t *testing.T) {
	l := proxytest.Limits()
	l.HandshakeTimeout = 50 * time.Millisecond
	serverTLS, _ := proxytest.TLS(t)
	client, out := start(t, Options{TLS: serverTLS, Login: decide}, l)
	client.Run(nil, greetNoTLS+"C: a STARTTLS\nS: a OK Begin TLS now.\nEND")
	if err := (<-out).Err; err == nil {
		t.Fatal("no error")
	}
}

func FuzzServe(f *testing.F) {
	for _, s := range []string{
		"a LOGIN alice \"pass word\"\r\nb NOOP\r\n", "a LOGIN {5+}\r\nalice {9+}\r\npass word\r\n", "a LOGIN {5}\r\nalice x\r\n",
		"a AUTHENTICATE PLAIN\r\n*\r\n", "a AUTHENTICATE PLAIN AGFsaWNlAHBhc3Mgd29yZA==\r\n", "a ID (\"a\" {1+}\r\nb \"c\" NIL)\r\n",
		"a STARTTLS\r\n", "a {9999999999+}\r\n", "\r\n\r\n", "a LOGOUT\r\n", "a LOGIN \"\\\\\" {0}\r\n\r\n",
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
		err = Serve(context.Background(), c, Options{Plaintext: true,
			Login: func(ctx context.Context, cred prelogin.Credentials, still func() error) (string, error) {
				seen = cred
				return decide(ctx, cred, still)
			}})
		if err == nil && seen.Password == "" {
			t.Fatal("logged in without a password")
		}
		if strings.ContainsAny(seen.Name+seen.Password, "\x00") {
			t.Fatalf("NUL in %q", seen)
		}
		out := conn.Out.String()
		if !strings.HasSuffix(out, "\r\n") || strings.Contains(strings.ReplaceAll(out, "\r\n", ""), "\n") {
			t.Fatalf("answers are no lines: %q", out)
		}
		if err == nil && !strings.Contains(out, " OK [CAPABILITY IMAP4rev1 MOVE] Logged in.\r\n") && !strings.Contains(out, " OK Logged in.") {
			t.Fatalf("no answer to the login: %q", out)
		}
	})
}
