package relay

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSend(t *testing.T) {
	for _, chunking := range []bool{false, true} {
		t.Run(fmt.Sprint("chunking ", chunking), func(t *testing.T) {
			sc := script{ext: plainExt}
			if chunking {
				sc.ext = append([]string{"CHUNKING"}, plainExt...)
			}
			r := newRig(t, sc, nil)
			e := envelope("id1", "a@out.test", "b@out.test", "a@out.test")
			e.EightBit, e.Return, e.EnvelopeID = true, "HDRS", "env=1"
			e.Recipients[0].Notify, e.Recipients[0].Original = []string{NotifySuccess, NotifyFailure}, "rfc822;A+@out.test"
			r.add(e)
			r.run()
			r.eventually("sent", func() bool { return len(r.q.List()) == 0 })
			g := r.h.got()[0]
			if g.body != testBody || len(g.rcpts) != 2 {
				t.Errorf("%+v", g)
			}
			if want := fmt.Sprintf("FROM:<u1@x.test> RET=HDRS ENVID=env+3D1 SIZE=%d BODY=8BITMIME", len(testBody)); g.from != want {
				t.Errorf("MAIL %q, want %q", g.from, want)
			}
			if want := "TO:<a@out.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;A+2B@out.test"; g.rcpts[0] != want {
				t.Errorf("RCPT %q", g.rcpts[0])
			}
			// Another one goes over the same connection; the report of success is
			// the smarthost's.
			r.add(envelope("id2", "c@out.test"))
			r.eventually("sent", func() bool { return len(r.q.List()) == 0 })
			if n := len(r.h.dials); n != 1 {
				t.Errorf("%d connections", n)
			}
			if s := r.spooled(); len(s) != 0 {
				t.Errorf("%+v", s)
			}
			if n := r.metric("recipients_total", "sent"); n != 3 {
				t.Errorf("%v sent", n)
			}
		})
	}
}

// TestBatches: about 20 recipients per transaction, by domain, in few
// connections; only who failed is tried again.
func TestBatches(t *testing.T) {
	r := newRig(t, script{rcpt: func(arg string) string {
		if strings.Contains(arg, "u7@") {
			return "550 5.1.1 unknown"
		}
		return "250 2.1.5 ok"
	}}, nil)
	var to []string
	for i := range 45 {
		to = append(to, fmt.Sprintf("u%d@d%d.test", i, i%2))
	}
	r.add(envelope("id1", to...))
	r.run()
	r.eventually("sent", func() bool { return len(r.q.List()) == 0 })
	gs := r.h.got()
	total := 0
	for _, g := range gs {
		total += len(g.rcpts)
		if len(g.rcpts) > 20 {
			t.Errorf("%d in a batch", len(g.rcpts))
		}
	}
	if len(gs) != 3 || total != 44 || strings.Contains(strings.Join(gs[0].rcpts, " "), "d1.test") {
		t.Errorf("%d batches, %d recipients, the first to %v", len(gs), total, gs[0].rcpts)
	}
	if s := r.spooled(); len(s) != 1 || !strings.Contains(s[0].body, "<u7@d1.test>") {
		t.Errorf("%+v", s)
	}
}

func TestConcurrency_isBounded(t *testing.T) {
	release := make(chan struct{})
	r := newRig(t, script{end: func(got) string { <-release; return "250 2.0.0 ok" }}, func(c *Config) { c.MaxConnections = 2 })
	for i := range 10 {
		r.add(envelope(fmt.Sprint("id", i), "a@out.test"))
	}
	r.run()
	r.eventually("both are used", func() bool { r.h.mu.Lock(); defer r.h.mu.Unlock(); return r.h.open == 2 })
	close(release)
	r.eventually("sent", func() bool { return len(r.q.List()) == 0 })
	if r.h.most != 2 || len(r.h.dials) != 2 {
		t.Errorf("%d connections at once, %d in all", r.h.most, len(r.h.dials))
	}
}

// TestAnswers: what each answer of the smarthost makes of a recipient.
func TestAnswers(t *testing.T) {
	always := func(s string) func(string) string { return func(string) string { return s } }
	for name, tc := range map[string]struct {
		sc script
		// want is "failed", "later" or "held"
		want string
	}{
		"rcpt 550":        {script{rcpt: always("550 5.1.1 no")}, "failed"},
		"rcpt 451":        {script{rcpt: always("451 4.3.0 later")}, "later"},
		"rcpt 501":        {script{rcpt: always("501 5.5.4 syntax")}, "later"},
		"rcpt 501 5.1.3":  {script{rcpt: always("501 5.1.3 bad address")}, "failed"},
		"mail 550":        {script{mail: always("550 5.7.1 no")}, "failed"},
		"mail 451":        {script{mail: always("451 4.7.1 greylisted")}, "later"},
		"mail 530":        {script{mail: always("530 5.7.0 log in")}, "held"},
		"mail 421":        {script{mail: always("421 4.3.2 closing")}, "held"},
		"end 554":         {script{end: func(got) string { return "554 5.6.0 spam" }}, "failed"},
		"end 452":         {script{end: func(got) string { return "452 4.3.1 full" }}, "later"},
		"end 421":         {script{end: func(got) string { return "421 4.3.2 closing" }}, "later"},
		"dropped at end":  {script{end: func(got) string { return "" }}, "later"},
		"dropped at MAIL": {script{drop: "MAIL"}, "later"},
		"dropped at DATA": {script{drop: "DATA"}, "later"},
		"dropped at EHLO": {script{drop: "EHLO"}, "held"},
		"greeting 554":    {script{greet: "554 5.3.2 go away"}, "held"},
		"greeting 421":    {script{greet: "421 4.3.2 busy"}, "held"},
		"stalls at MAIL":  {script{stall: "MAIL"}, "later"},
		"stalls at EHLO":  {script{stall: "EHLO"}, "held"},
		"nonsense":        {script{rcpt: always("what?")}, "later"},
		"too large":       {script{ext: []string{"SIZE 10"}}, "failed"},
		"8BITMIME":        {script{ext: []string{"PIPELINING"}}, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tc.sc, func(c *Config) { c.CommandTimeout, c.ConnectTimeout = 100*time.Millisecond, 100*time.Millisecond })
			e := envelope("id1", "a@out.test")
			e.EightBit = name == "8BITMIME"
			body := testBody
			if e.EightBit {
				body += "\xe4\r\n"
			}
			d := r.q.Draft()
			defer d.Discard()
			io.WriteString(d, body)
			if err := r.q.Add(d, e); err != nil {
				t.Fatal(err)
			}
			r.run()
			switch tc.want {
			case "failed":
				r.eventually("failed", func() bool { return len(r.q.List()) == 0 })
				if s := r.spooled(); len(s) != 1 || s[0].Recipients[0].User != "u1@x.test" {
					t.Errorf("%+v", s)
				}
			case "later":
				r.eventually("put off", func() bool { l := r.q.List(); return l[0].Attempts == 1 })
				if l := r.q.List()[0]; l.Error == "" || time.Until(l.Next) < 40*time.Second {
					t.Errorf("%+v", l)
				}
			case "held":
				r.eventually("held", func() bool { l := r.q.List(); return r.q.hosts.held() && l[0].Error != "" })
				if l := r.q.List()[0]; l.Attempts != 0 || time.Until(l.Next) < 10*time.Second {
					t.Errorf("%+v", l)
				}
			}
			if tc.want != "failed" && len(r.spooled()) != 0 {
				t.Error("a report was made")
			}
		})
	}
}

func TestTLSAndLogin(t *testing.T) {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	server, ca := selfSigned(t)
	_, otherCA := selfSigned(t)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("s3cret-word\nmore\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	login := func(c *Config) { c.TLS, c.CAFile, c.Username, c.PasswordFile = TLSStart, ca, "u", password }
	plain, twoLines := b64("\x00u\x00s3cret-word"), b64("u")+" "+b64("s3cret-word")
	for name, tc := range map[string]struct {
		sc     script
		change func(*Config)
		err    string // of the hold; empty: it is sent
	}{
		"PLAIN":         {script{tls: server, ext: []string{"AUTH LOGIN PLAIN"}, login: plain}, login, ""},
		"LOGIN":         {script{tls: server, ext: []string{"AUTH LOGIN"}, login: twoLines}, login, ""},
		"no login":      {script{tls: server}, func(c *Config) { c.TLS, c.CAFile = TLSStart, ca }, ""},
		"wrong":         {script{tls: server, ext: []string{"AUTH PLAIN"}, login: "x"}, login, "535"},
		"no mechanism":  {script{tls: server, ext: []string{"AUTH CRAM-MD5"}}, login, "no usable AUTH mechanism"},
		"no STARTTLS":   {script{ext: []string{"AUTH PLAIN"}, login: plain}, login, "does not offer STARTTLS"},
		"other CA":      {script{tls: server}, func(c *Config) { c.TLS, c.CAFile = TLSStart, otherCA }, "certificate"},
		"other name":    {script{tls: server}, func(c *Config) { c.TLS, c.CAFile, c.ServerName = TLSStart, ca, "evil.test" }, "certificate"},
		"injected":      {script{tls: server, after: "250 evil\r\n"}, func(c *Config) { c.TLS, c.CAFile = TLSStart, ca }, "bytes before TLS"},
		"no such file":  {script{tls: server, ext: []string{"AUTH PLAIN"}}, func(c *Config) { login(c); c.PasswordFile += "x" }, "password_file"},
		"plaintext TLS": {script{}, func(c *Config) { c.TLS, c.CAFile = TLSOnly, ca }, "TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, tc.sc, func(c *Config) { tc.change(c); c.ConnectTimeout = 5 * time.Second })
			r.add(envelope("id1", "a@out.test"))
			r.run()
			if tc.err == "" {
				r.eventually("sent", func() bool { return len(r.q.List()) == 0 })
			} else {
				r.eventually("held", func() bool { l := r.q.List(); return l[0].Error != "" })
				if l := r.q.List()[0]; !strings.Contains(l.Error, tc.err) {
					t.Errorf("%s", l.Error)
				}
				if len(r.h.got()) > 0 || strings.Contains(r.h.cmds(), "MAIL") {
					t.Error("mail went out")
				}
				if tc.sc.tls == nil && strings.Contains(r.h.cmds(), "AUTH") {
					t.Error("a password went out in the clear")
				}
			}
			if s := r.logs.String() + fmt.Sprint(r.q.List()); strings.Contains(s, "s3cret") || strings.Contains(s, plain) {
				t.Error("the password was told")
			}
		})
	}
	r := newRig(t, script{}, nil)
	r.close()
	for name, c := range map[string]Config{
		"password in the clear": {Smarthost: "a:1", TLS: TLSNone, Username: "u", PasswordFile: "f"},
		"no password":           {Smarthost: "a:1", Username: "u"},
		"no port":               {Smarthost: "a"},
		"odd TLS":               {TLS: "maybe"},
	} {
		if err := c.Validate(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestNoSmarthost: what is in the queue waits.
func TestNoSmarthost(t *testing.T) {
	r := newRig(t, script{}, func(c *Config) { c.Smarthost = "" })
	r.add(envelope("id1", "a@out.test", "u2@x.test"))
	r.run()
	r.eventually("tried", func() bool { l := r.q.List(); return len(l) == 1 && l[0].Attempts == 1 })
	l := r.q.List()[0]
	if len(l.Recipients) != 1 || !strings.Contains(l.Error, ErrNoRoute.Error()) || len(r.spooled()) != 1 {
		t.Errorf("%+v", l)
	}
}

// TestReused_broken: an idle connection that has ended costs nobody anything.
func TestReused_broken(t *testing.T) {
	r := newRig(t, script{}, nil)
	r.add(envelope("id1", "a@out.test"))
	r.run()
	r.eventually("sent", func() bool { return len(r.q.List()) == 0 })
	r.q.hosts.all()[0].mu.Lock()
	for _, i := range r.q.hosts.all()[0].idle {
		i.c.Close()
	}
	r.q.hosts.all()[0].mu.Unlock()
	r.add(envelope("id2", "b@out.test"))
	r.eventually("sent", func() bool { return len(r.q.List()) == 0 })
	if len(r.h.got()) != 2 || len(r.h.dials) != 2 {
		t.Errorf("%d messages, %d connections", len(r.h.got()), len(r.h.dials))
	}
}

func TestLimits(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	l := newLimits(3, 5, func() time.Time { return now })
	step := func(d time.Duration, n int, want string) {
		t.Helper()
		now = now.Add(d)
		err := l.take("u@x.test", n)
		var limit *LimitError
		switch {
		case want == "" && err != nil, want != "" && (!errors.As(err, &limit) || limit.Per != want):
			t.Errorf("%s: %v, want %q", now.Format(time.TimeOnly), err, want)
		}
	}
	step(0, 4, "hour")
	step(0, 3, "")
	step(0, 1, "hour")
	if err := l.take("other@x.test", 1); err != nil {
		t.Error(err)
	}
	step(30*time.Minute, 1, "hour")
	step(31*time.Minute, 2, "")
	step(2*time.Hour, 1, "day")
	step(20*time.Hour, 1, "day")
	step(2*time.Hour, 3, "") // the first three are forgotten, the two are, too
	step(100*time.Hour, 3, "")
}
