package pop3

import (
	"bytes"
	"net/mail"
	"strings"
	"testing"
	"unicode/utf8"

	"waypost/internal/poplist"
)

func TestSurrogate(t *testing.T) {
	in := "From: Jürgen Müller <j@example.org>, \"Ü, Ü\" <u@example.org>,\r\n ann@example.org\r\n" +
		"To: Jürgen <jürgen@example.org>, ö@example.org\r\n" +
		"Subject: plain Grüße an alle\r\n" +
		"Message-ID: <ü@example.org>\r\n" +
		"Received: by x\r\n" +
		"X-Latin: Gr\xfc\xdfe\r\n" +
		"Content-Type: application/pdf; charset=x;\r\n name=\"é f.pdf\"\r\n" +
		"\r\nbödy\r\n"
	want := "From: =?utf-8?q?J=C3=BCrgen_M=C3=BCller?= <j@example.org>,\r\n =?utf-8?q?=C3=9C,_=C3=9C?= <u@example.org>, ann@example.org\r\n" +
		"To: =?utf-8?q?J=C3=BCrgen_<j=C3=BCrgen@example.org>?= :;,\r\n =?utf-8?q?=C3=B6@example.org?= :;\r\n" +
		"Subject: plain =?utf-8?q?Gr=C3=BC=C3=9Fe?= an alle\r\n" +
		"Received: by x\r\n" +
		"X-Latin: Gr\xfc\xdfe\r\n" +
		"Content-Type: application/pdf; charset=x; name*=utf-8''%C3%A9%20f.pdf\r\n" +
		"\r\nbödy\r\n"
	if got := string(surrogate([]byte(in), true)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, same := range []string{"", "Subject: x\r\n\r\nbödy", "\r\nSubject: ü", "Subject: ü without an end"} {
		if got := string(surrogate([]byte(same), false)); got != same {
			t.Errorf("%q became %q", same, got)
		}
	}
}

// TestUTF8Mode: who has said UTF8 gets messages as they are, others in ASCII.
func TestUTF8Mode(t *testing.T) {
	const message = "Subject: Grüße\n\nbödy\n"
	for _, on := range []bool{false, true} {
		subject := "=?utf-8?q?Gr=C3=BC=C3=9Fe?="
		if on {
			subject = "Grüße"
		}
		box := open(t, drop(t, message), 7)
		d := serveSession(t, Options{}, Session{Box: box, UTF8: on})
		d.Play("C: RETR 1\nC: TOP 1 0\nS: +OK 27 octets\nS: Subject: " + subject + "\nS:\nS: bödy\nS: .\n" +
			"S: +OK top of message follows\nS: Subject: " + subject + "\nS:\nS: .\nC: QUIT\nS: +OK bye\nEOF")
	}
}

func FuzzSurrogate(f *testing.F) {
	f.Add("From: Jürgen <j@ü>, \"ü\\\"\" <x\r\nSubject: ü ü\r\n é\r\nContent-Type: a; b=\"ü\r\nü: x\r\n")
	f.Fuzz(func(t *testing.T, header string) {
		header = strings.ReplaceAll(strings.ReplaceAll(header, "\r", ""), "\n", "\r\n")
		out := string(surrogate([]byte(header+"\r\n\r\nbödy"), true))
		if !strings.HasSuffix(out, "\r\n\r\nbödy") && !strings.HasPrefix(out, "\r\n") {
			t.Fatalf("%q", out)
		}
		end := headerEnd([]byte(out))
		if utf8.ValidString(header) && !ascii(out[:end]) {
			t.Fatalf("%q has %q", header, out[:end])
		}
	})
}

// TestSurrogateSaysTheSame: what lists show of a surrogate is what they show of
// the message.
func TestSurrogateSaysTheSame(t *testing.T) {
	in := "From: Jürgen Müller <j@example.org>\r\nSubject: " + strings.Repeat("Grüße und mehr ", 20) + "\r\n\r\n"
	was, err := mail.ReadMessage(strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	is, err := mail.ReadMessage(bytes.NewReader(surrogate([]byte(in), true)))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"From", "Subject"} {
		if a, b := poplist.Text(was.Header.Get(name)), poplist.Text(is.Header.Get(name)); a != b {
			t.Errorf("%s: %q and %q", name, a, b)
		}
	}
}
