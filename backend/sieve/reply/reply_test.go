package reply

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"testing"
	"time"

	"waypost/backend/sieve"
)

var meta = Meta{Now: time.Date(2026, 11, 22, 6, 30, 0, 0, time.UTC), Domain: "b1.example"}

// parse reads a built message and checks what all of them have.
func parse(t *testing.T, b []byte, err error) (*mail.Message, string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(bytes.ReplaceAll(b, []byte("\r\n"), nil), []byte("\n")) {
		t.Errorf("a bare line end in %q", b)
	}
	for line := range bytes.SplitSeq(b, []byte("\r\n")) {
		if len(line) > 998 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	m, err := mail.ReadMessage(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if when, err := m.Header.Date(); err != nil || !when.Equal(meta.Now) {
		t.Errorf("date %v %v", when, err)
	}
	if id := m.Header.Get("Message-Id"); !strings.HasSuffix(id, "@b1.example>") {
		t.Errorf("message id %q", id)
	}
	if !strings.HasPrefix(m.Header.Get("Auto-Submitted"), "auto-") {
		t.Errorf("Auto-Submitted %q", m.Header.Get("Auto-Submitted"))
	}
	var r io.Reader = m.Body
	if m.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
		r = quotedprintable.NewReader(r)
	}
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return m, string(body)
}

func TestVacation(t *testing.T) {
	v := &sieve.Vacation{To: "a@b.example", From: "Grüner Läufer <r@acme.example>", Subject: strings.Repeat("Größe ", 60) + "\r\nEvil: yes",
		Reason: "Ich bin weg.\nGrüße\n" + strings.Repeat("lang ", 500), InReplyTo: "<1@x>", References: "<0@x> <1@x>"}
	b, err := BuildVacation(v, meta)
	m, body := parse(t, b, err)
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil || !strings.HasPrefix(subject, "Größe Größe") || m.Header.Get("Evil") != "" {
		t.Errorf("%q %v", subject, err)
	}
	if from, err := m.Header.AddressList("From"); err != nil || from[0].Name != "Grüner Läufer" || from[0].Address != "r@acme.example" {
		t.Errorf("%v %v", from, err)
	}
	if body != strings.ReplaceAll(v.Reason, "\n", "\r\n")+"\r\n" {
		t.Errorf("%q", body)
	}
	if m.Header.Get("References") != "<0@x> <1@x>" || m.Header.Get("In-Reply-To") != "<1@x>" {
		t.Errorf("%v", m.Header)
	}
	if _, err := BuildVacation(&sieve.Vacation{}, meta); !errors.Is(err, ErrNullSender) {
		t.Error(err)
	}
}

func TestVacationMIME(t *testing.T) {
	v := &sieve.Vacation{To: "a@b.example", From: "r@acme.example", MIME: true,
		Reason: "MIME-Version: 1.0\nContent-Type: multipart/alternative; boundary=foo\n\n--foo\n\nhello\n--foo--\n"}
	b, err := BuildVacation(v, meta)
	m, _ := parse(t, b, err)
	if m.Header.Get("Content-Type") != "multipart/alternative; boundary=foo" || len(m.Header["Mime-Version"]) != 1 {
		t.Errorf("%v", m.Header)
	}
	v.Reason = "Bcc: x@y\n\ntext"
	if _, err := BuildVacation(v, meta); err == nil {
		t.Error("a field that is no MIME field was taken")
	}
}

func TestNotify(t *testing.T) {
	n := &sieve.Notify{From: "r@acme.example", To: []string{"a@b.example", "c@d.example"}, HeaderTo: []string{"a@b.example"}, HeaderCc: []string{"c@d.example"},
		Importance: '1', Subject: "ünter", Body: "hello", Owner: `r"x@acme.example`, References: "<1@x>", Fields: []sieve.Field{{Name: "X-Foo", Value: "bär"}}}
	b, err := BuildNotify(n, meta)
	m, body := parse(t, b, err)
	if !bytes.HasPrefix(b, []byte(`Auto-Submitted: auto-notified; owner-email="r\"x@acme.example"`)) {
		t.Errorf("%s", b)
	}
	if m.Header.Get("Importance") != "high" || m.Header.Get("Cc") != "c@d.example" || body != "hello\r\n" || m.Header.Get("X-Foo") != "=?utf-8?q?b=C3=A4r?=" {
		t.Errorf("%s", b)
	}
	if _, err := BuildNotify(&sieve.Notify{}, meta); err == nil {
		t.Error("no recipient, no error")
	}
}

func FuzzVacation(f *testing.F) {
	f.Add("subject", "from@x.example", "reason", false)
	f.Add("\r\nX: y", "A <b@c>", "Content-Type: text/plain\n\nx", true)
	f.Fuzz(func(t *testing.T, subject, from, reason string, isMIME bool) {
		b, err := BuildVacation(&sieve.Vacation{To: "a@b.example", From: from, Subject: subject, Reason: reason, MIME: isMIME}, meta)
		if err != nil {
			return
		}
		h, err := sieve.ReadHeader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range h.Fields() {
			switch name := strings.ToLower(field.Name); {
			case strings.HasPrefix(name, "content-"):
			case strings.Contains(" date message-id from to subject auto-submitted mime-version ", " "+name+" ") && name != "":
			default:
				t.Errorf("field %q", field.Raw)
			}
		}
	})
}
