package relay

import (
	"bufio"
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// parsed is a report taken apart by other hands.
type parsed struct {
	header mail.Header
	params map[string]string
	text   string
	fields []textproto.MIMEHeader // per message, then per recipient
	kinds  []string
	orig   string
}

func parseReport(t testing.TB, b []byte) parsed {
	t.Helper()
	if bytes.Contains(bytes.ReplaceAll(b, []byte("\r\n"), nil), []byte("\n")) || bytes.Contains(bytes.ReplaceAll(b, []byte("\r\n"), nil), []byte("\r")) {
		t.Errorf("a bare CR or LF in %q", b)
	}
	m, err := mail.ReadMessage(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var p parsed
	p.header = m.Header
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" {
		t.Fatalf("%s: %v", kind, err)
	}
	p.params = params
	mr := multipart.NewReader(m.Body, params["boundary"])
	for i := 0; ; i++ {
		part, err := mr.NextRawPart()
		if err == io.EOF {
			return p
		}
		if err != nil {
			t.Fatal(err)
		}
		p.kinds = append(p.kinds, part.Header.Get("Content-Type"))
		body, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		switch i {
		case 0:
			p.text = string(body)
		case 1:
			r := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(body, "\r\n"...))))
			for {
				h, err := r.ReadMIMEHeader()
				if len(h) == 0 {
					break
				}
				if err != nil && err != io.EOF {
					t.Fatalf("%v in %q", err, body)
				}
				p.fields = append(p.fields, h)
			}
		case 2:
			p.orig = string(body)
		}
	}
}

func testNotification() notification {
	e := envelope("id1", "a@out.test", "b@out.test")
	e.Received, e.EnvelopeID, e.Size = time.Unix(1_800_000_000, 0).UTC(), "QQ314159", int64(len(testBody))
	e.Recipients[0].Original = "rfc822;Orig@out.test"
	return notification{Envelope: e, action: actionFailed, hostname: "mx.test", id: "dsn-1", now: e.Received.Add(time.Hour), giveUp: e.Received.Add(5 * 24 * time.Hour),
		recipients: []reported{
			{e.Recipients[0], outcome{verdict: failed, status: "5.1.1", text: "550 5.1.1 no such user\r\nX-Evil: 1", remote: true}},
			{e.Recipients[1], outcome{verdict: failed, status: "nonsense", text: "No route\x00 ä"}},
		}}
}

func TestReport(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*notification)
		global bool
		orig   string
		kind   string
	}{
		"header":    {func(*notification) {}, false, "Received: from a\r\nSubject: t\r\n", "text/rfc822-headers"},
		"full":      {func(n *notification) { n.Return = "FULL" }, false, testBody, "message/rfc822"},
		"delay":     {func(n *notification) { n.Return, n.action = "FULL", actionDelayed }, false, "Received: from a\r\nSubject: t\r\n", "text/rfc822-headers"},
		"utf8":      {func(n *notification) { n.recipients[1].To = "ä@out.test" }, true, "Received: from a\r\nSubject: t\r\n", "message/global-headers"},
		"utf8 full": {func(n *notification) { n.UTF8, n.Return = true, "FULL" }, true, testBody, "message/global"},
	} {
		t.Run(name, func(t *testing.T) {
			n := testNotification()
			tc.change(&n)
			var b bytes.Buffer
			if err := n.write(&b, strings.NewReader(testBody)); err != nil {
				t.Fatal(err)
			}
			p := parseReport(t, b.Bytes())
			status := "delivery-status"
			if tc.global {
				status = "global-delivery-status"
			}
			if p.params["report-type"] != status || len(p.kinds) != 3 || p.kinds[1] != "message/"+status || p.kinds[2] != tc.kind || p.orig != tc.orig {
				t.Errorf("%+v", p)
			}
			if p.header.Get("Auto-Submitted") != "auto-replied" || p.header.Get("To") != "<u1@x.test>" || !strings.Contains(p.header.Get("From"), "MAILER-DAEMON@mx.test") {
				t.Errorf("%v", p.header)
			}
			if len(p.fields) != 3 {
				t.Fatalf("%v", p.fields)
			}
			msg, one, two := p.fields[0], p.fields[1], p.fields[2]
			if msg.Get("Reporting-MTA") != "dns; mx.test" || msg.Get("Original-Envelope-Id") != "QQ314159" || msg.Get("Arrival-Date") == "" {
				t.Errorf("%v", msg)
			}
			if one.Get("Original-Recipient") != "rfc822; Orig@out.test" || one.Get("Final-Recipient") != "rfc822; a@out.test" || one.Get("Action") != string(n.action) ||
				one.Get("Status") != "5.1.1" || one.Get("Diagnostic-Code") != "smtp; 550 5.1.1 no such user  X-Evil: 1" || one.Get("X-Evil") != "" {
				t.Errorf("%v", one)
			}
			if two.Get("Status") != "5.0.0" || !strings.HasPrefix(two.Get("Diagnostic-Code"), "X-Waypost; No route ") {
				t.Errorf("%v", two)
			}
			if (one.Get("Will-Retry-Until") != "") != (n.action == actionDelayed) {
				t.Errorf("%v", one)
			}
			if !strings.Contains(p.text, "<a@out.test>") {
				t.Errorf("%q", p.text)
			}
			if !tc.global && bytes.ContainsFunc(b.Bytes(), func(r rune) bool { return r >= 0x80 }) {
				t.Error("8-bit text in a report that is not for it")
			}
		})
	}
}

// TestReport_wanted: NOTIFY decides who hears of what (RFC 3461, Section 4.1).
func TestReport_wanted(t *testing.T) {
	for name, tc := range map[string]struct {
		notify []string
		answer string
		dsn    bool
		want   string // the action reported; empty: none
	}{
		"failure by default":         {nil, "550 5.1.1 no", true, "failed"},
		"failure":                    {[]string{NotifyFailure}, "550 5.1.1 no", true, "failed"},
		"never":                      {[]string{NotifyNever}, "550 5.1.1 no", true, ""},
		"delay only":                 {[]string{NotifyDelay}, "550 5.1.1 no", true, ""},
		"success, passed on":         {[]string{NotifySuccess}, "250 2.1.5 ok", true, ""},
		"success, and no DSN beyond": {[]string{NotifySuccess}, "250 2.1.5 ok", false, "relayed"},
		"no success by default":      {nil, "250 2.1.5 ok", false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			sc := script{rcpt: func(string) string { return tc.answer }}
			if !tc.dsn {
				sc.ext = []string{"PIPELINING"}
			}
			r := newRig(t, sc, nil)
			e := envelope("id1", "a@out.test")
			e.Recipients[0].Notify = tc.notify
			r.add(e)
			r.run()
			r.eventually("ended", func() bool { return len(r.q.List()) == 0 })
			s := r.spooled()
			if tc.want == "" && len(s) == 0 {
				return
			}
			if len(s) != 1 || s[0].Sender != "" {
				t.Fatalf("%+v", s)
			}
			if p := parseReport(t, []byte(s[0].body)); p.fields[1].Get("Action") != tc.want {
				t.Errorf("%v", p.fields)
			}
		})
	}
}

// TestReport_local: success of a recipient of this cluster, who has the message
// already.
func TestReport_local(t *testing.T) {
	r := newRig(t, script{}, nil)
	e := envelope("id1", "u2@x.test")
	e.Recipients[0].Taken, e.Recipients[0].Notify = true, []string{NotifySuccess}
	r.add(e)
	r.run()
	r.eventually("ended", func() bool { return len(r.q.List()) == 0 })
	s := r.spooled()
	if len(s) != 1 || parseReport(t, []byte(s[0].body)).fields[1].Get("Action") != "relayed" || s[0].Recipients[0].User != "u1@x.test" {
		t.Errorf("%+v", s)
	}
}

// FuzzReport: whatever a smarthost or a submitter says, the report keeps its
// form.
func FuzzReport(f *testing.F) {
	f.Add("550 no", "5.1.1", "a@b.test", "rfc822;x", "env", "Subject: x\r\n\r\nb")
	f.Add("\r\n--report-\r\n", "5.\r.1", "ä@b.test", ";", "\x00", "\n\n")
	f.Add(strings.Repeat("ä", 600), "", "", "utf-8;ö@x", "", strings.Repeat("x", 5000))
	f.Fuzz(func(t *testing.T, text, status, to, original, envid, msg string) {
		n := testNotification()
		n.EnvelopeID = envid
		n.recipients[0] = reported{Recipient{To: to, Original: original}, outcome{status: status, text: text, remote: true}}
		var b bytes.Buffer
		msg = strings.ReplaceAll(strings.ReplaceAll(msg, "\r", ""), "\n", "\r\n") // as Take leaves it
		if err := n.write(&b, strings.NewReader(msg)); err != nil {
			t.Fatal(err)
		}
		if p := parseReport(t, b.Bytes()); len(p.fields) != 3 || len(p.kinds) != 3 {
			t.Errorf("%q", b.Bytes())
		}
	})
}
