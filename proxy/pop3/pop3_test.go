package pop3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"waypost/internal/wire"
	"waypost/proxy/prelogin"
	"waypost/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// decide is a Login whose answer is spelled in the user's name.
func decide(_ context.Context, cred prelogin.Credentials, _ wire.POP3) error {
	if cred.Password != "pass word" {
		return prelogin.ErrAuth
	}
	refusals := map[string]error{
		"disabled": prelogin.ErrDisabled, "throttled": prelogin.ErrThrottled, "limit": prelogin.ErrLimit,
		"delayed": prelogin.ErrDelay,
		"inuse":   prelogin.ErrInUse, "away": prelogin.ErrTemporary, "broken": errors.New("secret detail"),
	}
	if err := refusals[cred.Name]; err != nil {
		return fmt.Errorf("decide: %w", err)
	}
	return nil
}

func start(t *testing.T, o Options, l prelogin.Limits) (*proxytest.Client, <-chan proxytest.Outcome) {
	t.Helper()
	return proxytest.Converse(t.Context(), t, l, func(ctx context.Context, c *prelogin.Conn) error { return Serve(ctx, c, o) })
}

const (
	greet    = "S: +OK Waypost ready.\n"
	loggedIn = "S: +OK Logged in.\n"
)

func TestTranscripts(t *testing.T) {
	for _, c := range []struct {
		name   string
		secret bool
		script string
		want   error
		rest   string
	}{
		{name: "before login", script: `
			C: capa
			S: +OK Capabilities follow.
			S: TOP
			S: UIDL
			S: RESP-CODES
			S: AUTH-RESP-CODE
			S: PIPELINING
			S: EXPIRE NEVER
			S: UTF8 USER
			S: LANG
			S: IMPLEMENTATION Waypost
			S: X-WAYPOST-LISTING 1
			S: STLS
			S: USER
			S: SASL PLAIN LOGIN
			S: .
			C: NOOP
			S: -ERR Unknown command, or log in first.
			C: STAT
			S: -ERR Unknown command, or log in first.
			C:
			S: -ERR Unknown command, or log in first.
			C: QUIT now
			S: -ERR Unknown command, or log in first.
			C- QU\0IT\r\n
			S: -ERR Malformed command.
			C: QUIT
			S: +OK Bye.
			END`, want: prelogin.ErrQuit},
		{name: "UTF8 and LANG", script: `
			C: UTF8 now
			S: -ERR Unknown command, or log in first.
			C: lang
			S: +OK Language listing follows.
			S: en English
			S: i-default English, the default
			S: .
			C: LANG en-US
			S: +OK en Language changed.
			C: LANG xx
			S: -ERR Language is not supported.
			C: LANG *
			S: +OK en Language changed.
			C: LANG en de
			S: -ERR LANG wants one language.
			C: utf8
			S: +OK UTF-8 mode.
			C: STLS
			S: -ERR STLS must come before UTF8.
			C: UTF8
			S: +OK UTF-8 mode.
			C: USER jürgen
			S: +OK Send PASS.
			C: PASS pass word
			` + loggedIn},
		{name: "USER and PASS", script: "C: USER alice\nS: +OK Send PASS.\nC: pass pass word\n" + loggedIn},
		{name: "pipelined", script: `C- USER alice\r\nPASS pass word\r\nSTAT\r\nLI` + "\nS: +OK Send PASS.\n" + loggedIn, rest: "STAT\r\nLI"},
		{name: "out of order", script: `
			C: PASS pass word
			S: -ERR Send USER first.
			C: USER
			S: -ERR USER wants a name.
			C: USER alice
			S: +OK Send PASS.
			C: CAPA
			S: +OK Capabilities follow.
			S: TOP
			S: UIDL
			S: RESP-CODES
			S: AUTH-RESP-CODE
			S: PIPELINING
			S: EXPIRE NEVER
			S: UTF8 USER
			S: LANG
			S: IMPLEMENTATION Waypost
			S: X-WAYPOST-LISTING 1
			S: STLS
			S: USER
			S: SASL PLAIN LOGIN
			S: .
			C: PASS pass word
			S: -ERR Send USER first.
			C: USER alice
			S: +OK Send PASS.
			C: PASS
			S: -ERR PASS wants a password.
			C: USER alice
			S: +OK Send PASS.
			C: PASS pass word
			` + loggedIn},
		{name: "AUTH initial", script: "C: AUTH PLAIN AGFsaWNlAHBhc3Mgd29yZA==\n" + loggedIn},
		{name: "AUTH asked", script: "C: AUTH PLAIN\nS: + ...\nC: AGFsaWNlAHBhc3Mgd29yZA==\n" + loggedIn},
		{name: "AUTH LOGIN", script: "C: auth login\nS: + VXNlcm5hbWU6\nC: YWxpY2U=\nS: + UGFzc3dvcmQ6\nC: cGFzcyB3b3Jk\n" + loggedIn},
		{name: "AUTH gone wrong", script: `
			C: AUTH
			S: +OK
			S: PLAIN
			S: LOGIN
			S: .
			C: AUTH PLAIN
			S: + ...
			C: *
			S: -ERR Authentication cancelled.
			C: AUTH PLAIN =
			S: -ERR Malformed authentication response.
			C- AUTH PLAIN \r\n
			S: -ERR Malformed AUTH.
			C: AUTH CRAM-MD5
			S: -ERR Unsupported authentication mechanism.`, want: io.EOF},
		{name: "refusals", script: `
			C: USER away
			S: +OK Send PASS.
			C: PASS pass word
			S: -ERR [SYS/TEMP] Temporarily unavailable, try again later.
			C: USER broken
			S: +OK Send PASS.
			C: PASS pass word
			S: -ERR [SYS/TEMP] Temporarily unavailable, try again later.
			C: USER inuse
			S: +OK Send PASS.
			C: PASS pass word
			S: -ERR [IN-USE] Maildrop is in use by another session.
			C: USER limit
			S: +OK Send PASS.
			C: PASS pass word
			S: -ERR [IN-USE] Too many connections.
			C: USER disabled
			S: +OK Send PASS.
			C: PASS pass word
			S: -ERR [SYS/PERM] This account may not log in here.
			C: USER throttled
			S: +OK Send PASS.
			C: PASS pass word
			S: -ERR [SYS/TEMP] Too many failed logins, try again later.
			C: USER delayed
			S: +OK Send PASS.
			C: PASS pass word
			S: -ERR [LOGIN-DELAY] You have logged in a short while ago, try again later.
			C: USER alice
			S: +OK Send PASS.
			C: PASS wrong
			S: -ERR [AUTH] Authentication failed.
			END`, want: prelogin.ErrLimits},
		{name: "no login without TLS", secret: true, script: `
			C: USER alice
			S: -ERR Log in over TLS only: use STLS or the TLS port.
			C: PASS pass word
			S: -ERR Log in over TLS only: use STLS or the TLS port.
			C: AUTH PLAIN AGFsaWNlAHBhc3Mgd29yZA==
			S: -ERR Log in over TLS only: use STLS or the TLS port.
			C: CAPA
			S: +OK Capabilities follow.
			S: TOP
			S: UIDL
			S: RESP-CODES
			S: AUTH-RESP-CODE
			S: PIPELINING
			S: EXPIRE NEVER
			S: UTF8 USER
			S: LANG
			S: IMPLEMENTATION Waypost
			S: X-WAYPOST-LISTING 1
			S: STLS
			S: .
			C: STLS
			S: +OK Begin TLS now.
			TLS
			C: STLS
			S: -ERR STLS is not available.
			C- USER alice\r\nPASS pass word\r\nSTAT\r\n
			S: +OK Send PASS.
			` + loggedIn, rest: "STAT\r\n"},
		{name: "STLS injection", secret: true, script: `
			C- STLS\r\nUSER alice\r\n
			S: -ERR Nothing may follow STLS.
			END`, want: prelogin.ErrInjection},
		{name: "long command", script: "C: USER " + strings.Repeat("x", 300) + "\nS: -ERR Command too long.", want: io.EOF},
		{name: "long line", script: "C: PASS " + strings.Repeat("x", 9000) + "\nS: -ERR Line too long.\nEND", want: prelogin.ErrLimits},
		{name: "too many commands", script: strings.Repeat("C: NOOP\nS: -ERR ...\n", 50) +
			"S: -ERR Too many commands without a login.\nEND", want: prelogin.ErrLimits},
	} {
		t.Run(c.name, func(t *testing.T) {
			serverTLS, clientTLS := proxytest.TLS(t)
			client, out := start(t, Options{TLS: serverTLS, Plaintext: !c.secret, Login: decide}, proxytest.Limits())
			client.Run(clientTLS, greet+c.script)
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

// TestSettled: the session behind the login learns what the client was told
// before it, and what it said.
func TestSettled(t *testing.T) {
	got := make(chan wire.POP3, 1)
	serverTLS, clientTLS := proxytest.TLS(t)
	client, out := start(t, Options{TLS: serverTLS, LoginDelay: 90 * time.Second,
		Login: func(_ context.Context, _ prelogin.Credentials, settled wire.POP3) error {
			got <- settled
			return nil
		}}, proxytest.Limits())
	client.Run(clientTLS, greet+`
		C: STLS
		S: +OK Begin TLS now.
		TLS
		C: UTF8
		S: +OK UTF-8 mode.
		C: CAPA
		S: +OK ...
		S: TOP
		S: UIDL
		S: RESP-CODES
		S: AUTH-RESP-CODE
		S: PIPELINING
		S: EXPIRE NEVER
		S: UTF8 USER
		S: LANG
		S: IMPLEMENTATION Waypost
		S: X-WAYPOST-LISTING 1
		S: USER
		S: SASL PLAIN LOGIN
		S: LOGIN-DELAY 90
		S: .
		C: USER alice
		S: +OK ...
		C: PASS x
		`+loggedIn)
	if err := (<-out).Err; err != nil {
		t.Fatal(err)
	}
	want := wire.POP3{UTF8: true, Capabilities: []string{"USER", "SASL PLAIN LOGIN", "LOGIN-DELAY 90"}}
	if settled := <-got; !reflect.DeepEqual(settled, want) {
		t.Errorf("%+v, want %+v", settled, want)
	}
}

func TestTimeout(t *testing.T) {
	l := proxytest.Limits()
	l.Timeout = 50 * time.Millisecond
	client, out := start(t, Options{Plaintext: true, Login: decide}, l)
	client.Run(nil, greet+"END")
	if err := (<-out).Err; !errors.Is(err, prelogin.ErrLimits) {
		t.Fatal(err)
	}
}

func FuzzServe(f *testing.F) {
	for _, s := range []string{
		"USER alice\r\nPASS pass word\r\nSTAT\r\n", "AUTH PLAIN\r\n*\r\n", "AUTH PLAIN AGFsaWNlAHBhc3Mgd29yZA==\r\n",
		"AUTH LOGIN\r\nYWxpY2U=\r\ncGFzcyB3b3Jk\r\n", "CAPA\r\nSTLS\r\nQUIT\r\n", "\r\n\x00\r\n", "AUTH \r\n", "PASS \r\n",
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
			Login: func(ctx context.Context, cred prelogin.Credentials, settled wire.POP3) error {
				seen = cred
				return decide(ctx, cred, settled)
			}})
		if err == nil && (seen.Name == "" || seen.Password == "") {
			t.Fatal("logged in without a name or password")
		}
		if strings.ContainsAny(seen.Name+seen.Password, "\x00") {
			t.Fatalf("NUL in %q", seen)
		}
		out := conn.Out.String()
		if !strings.HasSuffix(out, "\r\n") || strings.Contains(strings.ReplaceAll(out, "\r\n", ""), "\n") {
			t.Fatalf("answers are no lines: %q", out)
		}
		if loggedIn := strings.HasSuffix(out, "+OK Logged in.\r\n"); (err == nil) != loggedIn {
			t.Fatalf("Serve: %v after %q", err, out)
		}
	})
}
