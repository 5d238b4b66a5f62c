package mx

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"waypost/director"
	"waypost/internal/lmtp/lmtptest"
	"waypost/internal/wire"
)

func TestServer_delivers(t *testing.T) {
	r := newRig(t, nil)
	p := r.hello()
	p.cmd("MAIL FROM:<s@y.test> SIZE=100 BODY=8BITMIME", "250 ")
	for _, to := range []string{"u1@x.test", "U1@X.test", "u2+Folder@x.test", "u3@x.test"} {
		p.cmd("RCPT TO:<"+to+">", "250 ")
	}
	reply := p.data(testBody, "250 2.0.0 Accepted as ")
	id := strings.TrimSpace(strings.TrimPrefix(reply, "250 2.0.0 Accepted as "))
	one, two := r.b1.WaitMessages(1)[0], r.b2.WaitMessages(1)[0]
	for _, m := range []lmtptest.Message{one, two} {
		checkBody(t, m, testBody+"\r\n")
		if m.From != "s@y.test" || m.Params[wire.ParamDelivery] != id || m.Params["SIZE"] != "100" || m.Params["BODY"] != "8BITMIME" || !m.Chunked {
			t.Errorf("%+v", m)
		}
	}
	if len(one.Rcpts) != 2 || one.Rcpts[1].Addr != "u3@x.test" || one.Rcpts[0].Params[wire.ParamHome] != "b1" || one.Rcpts[0].Params[wire.ParamEpoch] != "7" || one.Rcpts[0].Params[wire.ParamAccepted] != "" {
		t.Errorf("%+v", one.Rcpts)
	}
	if len(two.Rcpts) != 1 || two.Rcpts[0].Addr != "u2+Folder@x.test" {
		t.Errorf("%+v", two.Rcpts)
	}
	want := regexp.MustCompile(`^Received: from client\.test \(\[127\.0\.0\.1\]\)\r\n\tby mx\.test with ESMTP id ` + id + `;\r\n\t\w+, \d\d \w+ \d{4} [\d:]+ [+-]\d{4}\r\n`)
	if !want.Match(one.Body) {
		t.Errorf("%q", one.Body)
	}
	// Another one goes over the same connections.
	p.mail("u1@x.test")
	p.data(testBody, "250 ")
	m := r.b1.WaitMessages(2)[1]
	if !strings.Contains(string(m.Body), "\r\n\tfor <u1@x.test>;\r\n") {
		t.Errorf("%q", m.Body)
	}
	if r.b1.Conns() != 1 {
		t.Errorf("%d connections", r.b1.Conns())
	}
	p.cmd("QUIT", "221 ")
}

// TestServer_transcripts: the reply to each command in each state.
func TestServer_transcripts(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxRecipients = 3; c.MaxMessageBytes = 2000 })
	r.b1.SetScript(lmtptest.Script{Ext: lmtptest.Full, Rcpt: answers(map[string]string{
		"disabled@x.test": "550 5.2.1 b1 says disabled", "full@x.test": "552 5.2.2 b1 says full", "disk@x.test": "452 4.3.1 /dev/sda",
		"odd@x.test": "501 5.5.4 b1 does not understand", "late@x.test": "451 4.3.0 b1 internal",
	})})
	for _, u := range []director.User{"disabled@x.test", "full@x.test", "disk@x.test", "odd@x.test", "late@x.test"} {
		r.dir.do(func() { r.dir.records[u] = activeRecord("b1", 7) })
	}
	r.dir.do(func() {
		r.dir.records["dead@x.test"] = director.Record{Home: "b1", Epoch: 9, State: director.Deleted}
		r.dir.aliases["list@x.test"] = []string{"u1@x.test", "full@x.test", "dead@x.test"}
		r.dir.aliases["nobody@x.test"] = []string{"full@x.test", "dead@x.test"}
	})
	for name, lines := range map[string][]string{
		"hello": {"MAIL FROM:<a@y>", "502 5.5.1", "RCPT TO:<u1@x.test>", "502 5.5.1", "HELO c", "250 2.0.0", "MAIL FROM:<>", "250 2.0.0", "QUIT", "221 2.0.0"},
		"order": {"EHLO c", "250 ", "DATA", "502 5.5.1", "RCPT TO:<u1@x.test>", "502 5.5.1", "MAIL FROM:<a@y>", "250 2.0.0", "MAIL FROM:<a@y>", "503 5.5.1",
			"DATA", "502 5.5.1", "RSET", "250 2.0.0", "MAIL FROM:<a@y>", "250 2.0.0", "NOOP", "250 2.0.0", "VRFY u1", "252 2.5.0"},
		"recipients": {"EHLO c", "250 ", "MAIL FROM:<a@y>", "250 2.0.0", "RCPT TO:<u@elsewhere.test>", "550 5.7.1 Relaying denied", "RCPT TO:<no@x.test>", "550 5.1.1 No such user here",
			"RCPT TO:<dead@x.test>", "550 5.1.1", "RCPT TO:<disabled@x.test>", "550 5.2.1 Mailbox disabled", "RCPT TO:<full@x.test>", "552 5.2.2 Mailbox full",
			"RCPT TO:<disk@x.test>", "452 4.3.1 Insufficient", "RCPT TO:<odd@x.test>", "451 4.3.0 Try again", "RCPT TO:<late@x.test>", "451 4.3.0 Try again",
			"RCPT TO:<nobody@x.test>", "552 5.2.2", "RCPT TO:<list@x.test>", "250 2.0.0", "RCPT TO:<postmaster>", "250 2.0.0", "RCPT TO:<postmaster@mx.test>", "250 2.0.0",
			"RCPT TO:<u2@x.test>", "452 4.5.3"},
		"relay tricks": {"EHLO c", "250 ", "MAIL FROM:<a@y>", "250 2.0.0", "RCPT TO:<u1%y.test@elsewhere.test>", "550 5.7.1", `RCPT TO:<"u@elsewhere.test"@x.test>`, "550 5.1.1",
			"RCPT TO:<@x.test:u@elsewhere.test>", "550 5.7.1", "RCPT TO:<elsewhere.test!u@x.test>", "550 5.1.1", "RCPT TO:<u1@[127.0.0.1]>", "550 5.7.1"},
		"limits":    {"EHLO c", "250 ", "MAIL FROM:<a@y> SIZE=2001", "552 5.3.4", "MAIL FROM:<a@y> BODY=BINARYMIME", "504 5.5.4", "MAIL FROM:<a@y> NOSUCH=1", "500 5.5.4"},
		"utf8":      {"EHLO c", "250 ", "MAIL FROM:<ä@y>", "553 5.6.7", "MAIL FROM:<ä@y> SMTPUTF8", "250 2.0.0", "RSET", "250 ", "MAIL FROM:<a@y>", "250 ", "RCPT TO:<ü@x.test>", "553 5.6.7"},
		"no auth":   {"EHLO c", "250 ", "AUTH PLAIN AAAA", "502 5.7.0"},
		"tls twice": {"EHLO c", "250 "},
	} {
		t.Run(name, func(t *testing.T) {
			p := r.dial()
			p.t = t
			p.expect("220 mx.test ESMTP")
			for i := 0; i < len(lines); i += 2 {
				p.cmd(lines[i], lines[i+1])
			}
		})
	}
	for reason, want := range map[string]float64{"relay": 4, "unknown": 4, "disabled": 1, "over_quota": 2, "temporary": 3} {
		if n := r.metric("recipients_refused_total", reason); n != want {
			t.Errorf("%s: %v, want %v", reason, n, want)
		}
	}
}

func TestServer_announces(t *testing.T) {
	r := newRig(t, nil)
	p := r.dial()
	p.expect("220 mx.test")
	has := func(reply, want string, yes bool) {
		t.Helper()
		if strings.Contains(reply, want) != yes {
			t.Errorf("%q in %q is not %v", want, reply, yes)
		}
	}
	e := p.cmd("EHLO c", "250 ")
	for _, w := range []string{"-STARTTLS\r\n", "PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "SIZE 1073741824", "ENHANCEDSTATUSCODES"} {
		has(e, w, true)
	}
	has(e, "BINARYMIME", false)
	has(e, "AUTH", false)
	p.tls()
	p.cmd("MAIL FROM:<a@y>", "503 5.5.1 EHLO first")
	e = p.cmd("EHLO c", "250 ")
	has(e, "STARTTLS", false)
	has(e, "AUTH", false)
	p.mail("u1@x.test")
	p.data(testBody, "250 ")
	if m := r.b1.WaitMessages(1)[0]; !strings.Contains(string(m.Body), " with ESMTPS id ") {
		t.Errorf("%q", m.Body)
	}
	p.cmd("STARTTLS", "502 ")
}

// TestServer_startTLSInjection: what came in the clear behind STARTTLS never
// runs.
func TestServer_startTLSInjection(t *testing.T) {
	r := newRig(t, nil)
	p := r.hello()
	p.send("STARTTLS\r\nMAIL FROM:<a@y>\r\n")
	p.expect("501 5.5.1")
	p.closed()
	// A transaction from before the handshake is over, too.
	p = r.hello()
	p.mail("u1@x.test")
	p.tls()
	p.cmd("DATA", "354 ")
	p.send("x\r\n.\r\n")
	p.expect("503 5.5.1")
	if n := len(r.b1.Messages()); n != 0 {
		t.Errorf("%d messages", n)
	}
}

func TestServer_submission(t *testing.T) {
	r := newRig(t, nil)
	p := dialPeer(t, r.srv.SubmissionAddrs()[0])
	p.expect("220 ")
	if e := p.cmd("EHLO c", "250 "); strings.Contains(e, "AUTH") {
		t.Error("AUTH in the clear")
	}
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	p.cmd("AUTH PLAIN "+b64("\x00u1@x.test\x00secret"), "538 5.7.11")
	p.cmd("MAIL FROM:<u1@x.test>", "530 5.7.0 STARTTLS")
	p.tls()
	if e := p.cmd("EHLO c", "250 "); !strings.Contains(e, "AUTH PLAIN LOGIN\r\n") {
		t.Error(e)
	}
	p.cmd("MAIL FROM:<u1@x.test>", "530 5.7.0 Auth")
	p.cmd("AUTH CRAM-MD5", "504 5.7.4")
	p.cmd("AUTH PLAIN "+b64("\x00u1@x.test\x00wrong"), "535 5.7.8")
	p.cmd("AUTH PLAIN "+b64("u2@x.test\x00u1@x.test\x00secret"), "535 5.7.8")
	p.cmd("AUTH PLAIN "+b64("nonsense"), "501 5.5.2")
	p.cmd("AUTH PLAIN "+b64("\x00later@x.test\x00x"), "454 4.7.0")
	p.cmd("AUTH PLAIN "+b64("\x00denied@x.test\x00x"), "535 5.7.8")
	p.cmd("AUTH LOGIN", "334 ")
	p.cmd("*", "501 ")
	p.cmd("AUTH LOGIN", "334 ")
	p.cmd(b64("u1@x.test"), "334 ")
	p.cmd(b64("secret"), "235 ")
	p.cmd("MAIL FROM:<u1@x.test>", "250 ")
	p.cmd("RCPT TO:<u@elsewhere.test>", "550 5.7.1 This cluster does not deliver to other domains")
	p.cmd("RCPT TO:<u2@x.test>", "250 ")
	p.data(testBody, "250 ")
	if m := r.b2.WaitMessages(1)[0]; !strings.Contains(string(m.Body), " with ESMTPSA id ") {
		t.Errorf("%q", m.Body)
	}
	if strings.Contains(r.logs.String(), "secret") {
		t.Error("a password was logged")
	}
	p = dialPeer(t, r.srv.SubmissionAddrs()[0])
	p.expect("220 ")
	p.cmd("EHLO c", "250 ")
	p.tls()
	p.cmd("EHLO c", "250 ")
	p.cmd("AUTH PLAIN", "334 ")
	p.cmd(b64("\x00u1@x.test\x00secret"), "235 ")
}

// smuggling are the line ends that servers have taken for the end of DATA.
var smuggling = map[string]string{
	"LF.LF": "\n.\n", "CRLF.LF": "\r\n.\n", "LF.CRLF": "\n.\r\n", "CR.CR": "\r.\r", "CRLF.CR": "\r\n.\r", "CR.CRLF": "\r.\r\n",
	"CR.LF": "\r.\n", "LF.CR": "\n.\r", "CRCRLF": "\r\r\n", "CRLF.CRCRLF": "\r\n.\r\r\n", "NUL": "\r\x00\n.\r\n",
	"bare LF": "a\nb", "bare CR": "a\rb", "LF first": "\n", "CR last": "\r",
}

// TestServer_bareLF: each variant of SMTP smuggling, by DATA in the clear and
// under TLS and by BDAT, is refused as a whole, ends the connection, delivers
// nothing, and runs nothing of what was smuggled.
func TestServer_bareLF(t *testing.T) {
	r := newRig(t, nil)
	inner := "MAIL FROM:<evil@y.test>\r\nRCPT TO:<u2@x.test>\r\nDATA\r\nsmuggled\r\n.\r\n"
	for name, seq := range smuggling {
		for _, how := range []string{"DATA", "TLS", "BDAT", "BDAT in pieces"} {
			t.Run(name+" by "+how, func(t *testing.T) {
				p := r.hello()
				p.t = t
				if how == "TLS" {
					p.tls()
					p.cmd("EHLO c", "250 ")
				}
				p.mail("u1@x.test")
				body := "Subject: x\r\n\r\ntext" + seq + inner
				switch how {
				case "BDAT":
					p.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(body), body))
				case "BDAT in pieces":
					for i := range len(body) {
						p.send(fmt.Sprintf("BDAT 1\r\n%c", body[i]))
						if l := p.expect(""); strings.HasPrefix(l, "554 5.6.0") {
							p.closed()
							return
						} else if !strings.HasPrefix(l, "250 ") {
							t.Fatal(l)
						}
					}
					p.send("BDAT 0 LAST\r\n")
				default:
					p.cmd("DATA", "354 ")
					p.send(body + "\r\n.\r\n")
				}
				p.expect("554 5.6.0")
				p.closed()
			})
		}
	}
	for _, b := range []*lmtptest.Server{r.b1, r.b2} {
		if m := b.Messages(); len(m) != 0 {
			t.Errorf("delivered: %q", m[0].Body)
		}
	}
	if strings.Contains(r.logs.String(), "evil") {
		t.Error("a smuggled command ran")
	}
}

// TestServer_chunkBorders: a CRLF may be cut by a chunk border, and a later
// DATA on the connection is none the worse for it.
func TestServer_chunkBorders(t *testing.T) {
	r := newRig(t, nil)
	p := r.hello()
	p.mail("u1@x.test")
	p.send("BDAT 6\r\na: b\r\r")
	if l := p.expect(""); strings.HasPrefix(l, "250 ") { // it may be found only after the answer
		p.send("BDAT 1\r\n\n")
		p.expect("554 5.6.0")
	}
	p.closed()
	p = r.hello()
	p.mail("u1@x.test", "u2@x.test")
	for _, chunk := range []string{"a: b\r", "\n\r", "\nbody\r\n.\r", "\nx"} {
		p.send(fmt.Sprintf("BDAT %d\r\n%s", len(chunk), chunk))
		p.expect("250 2.0.0 Continue")
	}
	p.cmd("BDAT 0 LAST", "250 2.0.0 Accepted")
	for _, b := range []*lmtptest.Server{r.b1, r.b2} {
		checkBody(t, b.WaitMessages(1)[0], "a: b\r\n\r\nbody\r\n.\r\nx")
	}
	p.mail("u1@x.test")
	p.data(testBody, "250 ")
	// A chunk that is not allowed is not executed.
	p.send("BDAT 27\r\nMAIL FROM:<evil@y.test>\r\n\r\nNOOP\r\n")
	p.expect("502 5.5.1")
	p.expect("250 2.0.0 I have")
	p.mail("u1@x.test")
	p.send("BDAT 3\r\na\r\n")
	p.expect("250 ")
	p.cmd("RSET", "250 ")
	p.mail("u1@x.test")
	p.data(testBody, "250 ")
	if n := len(r.b1.WaitMessages(3)); n != 3 {
		t.Errorf("%d messages", n)
	}
}

// TestServer_cutInsideBDAT: a connection that ends inside the last chunk has
// sent no message.
func TestServer_cutInsideBDAT(t *testing.T) {
	r := newRig(t, nil)
	p := r.hello()
	p.mail("u1@x.test")
	p.send("BDAT 1000 LAST\r\nSubject: cut\r\n\r\nbody\r\n")
	p.c.(interface{ CloseWrite() error }).CloseWrite()
	io.ReadAll(p.r)
	p = r.hello()
	p.mail("u1@x.test")
	p.cmd("DATA", "354 ")
	p.send("Subject: cut\r\n\r\nbody\r\n")
	p.c.(interface{ CloseWrite() error }).CloseWrite()
	io.ReadAll(p.r)
	r.eventually("both are refused", func() bool { return r.metric("messages_total", "refused") == 2 })
	if len(r.b1.Messages()) != 0 || r.metric("spool_entries") != 0 {
		t.Error("a cut message was taken")
	}
}

// TestServer_slowLoris: bytes that come too slowly, and none at all, end the
// connection; what follows is not executed.
func TestServer_slowLoris(t *testing.T) {
	t.Run("rate", func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.MinRate = 1 << 30; c.RateGrace = 30 * time.Millisecond })
		for _, start := range []string{"DATA\r\n", "BDAT 1000000 LAST\r\n"} {
			p := r.hello()
			p.mail("u1@x.test")
			p.send(start)
			if start[0] == 'D' {
				p.expect("354 ")
			}
			end := make(chan bool)
			go func() {
				defer close(end)
				tick := time.NewTicker(5 * time.Millisecond)
				defer tick.Stop()
				for range tick.C {
					if _, err := io.WriteString(p.c, "RSET\r\n"); err != nil {
						return
					}
				}
			}()
			p.expect("421 4.4.2")
			p.closed()
			p.c.Close()
			<-end
		}
		if len(r.b1.Messages()) != 0 {
			t.Error("a slow message was taken")
		}
	})
	t.Run("silence", func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.DataTimeout = 50 * time.Millisecond })
		p := r.hello()
		p.mail("u1@x.test")
		p.cmd("DATA", "354 ")
		p.send("half a line")
		p.expect("421 4.4.2")
		p.closed()
	})
	t.Run("command", func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.CommandTimeout = 50 * time.Millisecond })
		p := r.dial()
		p.expect("220 ")
		p.send("EHL")
		p.expect("421 4.4.2")
		p.closed()
	})
}

func TestServer_headerRules(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxMessageBytes = 200_000 })
	p := r.hello()
	trace := "received: from a by b\r\n\tid 1\r\n"
	p.mail("u1@x.test")
	p.data(strings.Repeat(trace, 51)+"\r\nbody", "554 5.4.6")
	p.mail("u1@x.test")
	p.data(strings.Repeat(trace, 50)+"\r\n"+strings.Repeat(trace, 10), "250 ")
	p.mail("u1@x.test")
	p.data(strings.Repeat("0123456789\r\n", 20_000), "552 5.3.4")
	p.mail("u1@x.test")
	body := strings.Repeat(trace, 51) + "\r\n"
	p.send(fmt.Sprintf("BDAT %d LAST\r\n%s", len(body), body))
	p.expect("554 5.4.6")
	p.mail("u1@x.test")
	p.cmd("DATA", "354 ")
	p.send(strings.Repeat("x", 70_000) + "\r\n.\r\n")
	p.expect("554 5.6.0 Line too long")
	p.closed()
	if n := len(r.b1.WaitMessages(1)); n != 1 {
		t.Errorf("%d messages", n)
	}
}

func TestServer_connectionLimits(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxConnectionsPerIP = 2; c.MaxRefused = 3 })
	a, b := r.hello(), r.hello()
	c := r.dial()
	c.expect("421 4.7.0 Too many connections")
	c.closed()
	a.cmd("QUIT", "221 ")
	a.closed()
	r.eventually("the connection is given back", func() bool { return r.metric("connections_open") == 1 })
	r.hello()
	b.cmd("MAIL FROM:<a@y>", "250 ")
	for range 3 {
		b.cmd("RCPT TO:<no@x.test>", "550 5.1.1")
	}
	b.closed()
	if r.metric("connections_total", "full_for_ip") != 1 {
		t.Error("not counted")
	}
}

// TestServer_pipelined: a whole session in one write.
func TestServer_pipelined(t *testing.T) {
	r := newRig(t, nil)
	p := r.hello()
	p.send("MAIL FROM:<a@y.test>\r\nRCPT TO:<u1@x.test>\r\nRCPT TO:<no@x.test>\r\nRCPT TO:<u2@x.test>\r\nDATA\r\n")
	for _, want := range []string{"250 ", "250 ", "550 5.1.1", "250 ", "354 "} {
		p.expect(want)
	}
	p.send("..a\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<u1@x.test>\r\nBDAT 3 LAST\r\nb\r\nQUIT\r\n")
	for _, want := range []string{"250 2.0.0 Accepted", "250 ", "250 ", "250 2.0.0 Accepted", "221 "} {
		p.expect(want)
	}
	ms := r.b1.WaitMessages(2)
	checkBody(t, ms[0], ".a\r\n")
	checkBody(t, ms[1], "b\r\n")
	if ms[1].From != "" {
		t.Error(ms[1].From)
	}
}

func FuzzLineCheck(f *testing.F) {
	for _, s := range smuggling {
		f.Add([]byte("a\r\n"+s+"b\r\n"), 3)
	}
	f.Add([]byte("a\r\nb\r\n\r\n"), 1)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		rest := bytes.ReplaceAll(in, []byte("\r\n"), nil)
		want := !bytes.ContainsAny(rest, "\r\n")
		var c lineCheck
		got := true
		for b := in; len(b) > 0 && got; {
			n := min(len(b), max(1, cut))
			got = c.ok(b[:n])
			b = b[n:]
		}
		if got = got && c.ended(); got != want {
			t.Errorf("%q by %d: %v, want %v", in, cut, got, want)
		}
	})
}
