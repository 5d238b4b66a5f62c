package pop3

import (
	"bytes"
	"net/mail"
	"strings"
	"testing"
	"unicode/utf8"

	"waypost/internal/headerfield"
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
	want := "From: =?utf-8?q?J=C3=BCrgen_M=C3=BCller?= <j@example.org>,\r\n =?utf-8?b?w5wsIMOc?= <u@example.org>, ann@example.org\r\n" +
		"To: =?utf-8?b?SsO8cmdlbiA8asO8cmdlbkBleGFtcGxlLm9yZz4=?= :;,\r\n =?utf-8?b?w7ZAZXhhbXBsZS5vcmc=?= :;\r\n" +
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

// TestSurrogateFields: what else stands in fields, and what is none.
func TestSurrogateFields(t *testing.T) {
	for in, want := range map[string]string{
		"Hallo\r\nÄpfel sind rund\r\nBirnen auch\r\n":                        "Hallo\r\nÄpfel sind rund\r\nBirnen auch\r\n",
		"Subject: x\r\nÄ: y\r\nno field ä\r\n é: z\r\n":                      "Subject: x\r\nÄ: y\r\nno field ä\r\n é: z\r\n",
		": ä\r\nX Y: ä\r\n":                                                  ": ä\r\nX Y: ä\r\n",
		"Subject : ä\r\n":                                                    "Subject : =?utf-8?q?=C3=A4?=\r\n",
		"To: \"Müller, Hans\" <a@b> (Kommentar, ä)\r\n":                      "To: =?utf-8?b?TcO8bGxlciwgSGFucw==?= <a@b>\r\n (=?utf-8?b?S29tbWVudGFyLCDDpA==?=)\r\n",
		"To: undisclosed: Jörg <a@b>, c@d;\r\n":                              "To: undisclosed: =?utf-8?q?J=C3=B6rg?= <a@b>, c@d;\r\n",
		"To: Köln: a@b, ö@x, \"ö\" <c@ö>; e@f, g@ö\r\n":                      "To: =?utf-8?q?K=C3=B6ln?=: a@b, (=?utf-8?b?w7ZAeA==?=),\r\n (=?utf-8?b?w7YgPGNAw7Y+?=); e@f, =?utf-8?b?Z0DDtg==?= :;\r\n",
		"To: a@[IPv6:::1], ä <@r,@s:a@b>\r\n":                                "To: a@[IPv6:::1], =?utf-8?q?=C3=A4?= <@r,@s:a@b>\r\n",
		"To: a@b (ä (b) \\) c)\r\n":                                          "To: a@b (=?utf-8?b?w6QgKGIpIFwpIGM=?=)\r\n",
		"To: a@b (ä\r\n":                                                     "To: a@b (=?utf-8?q?=C3=A4?=)\r\n",
		"Content-Type: multipart/mixed; boundary=\"ä;\"; x=\"é\"\r\n":        "Content-Type: multipart/mixed; boundary=\"ä;\"; x*=utf-8''%C3%A9\r\n",
		"To: Jörg <a@b> c@d, \"ö <\" <\"e>\"@f>\r\n":                         "To: =?utf-8?q?J=C3=B6rg?= <a@b> (c@d), =?utf-8?b?w7YgPA==?= <\"e>\"@f>\r\n",
		"To: Jörg <a@b, c@d\r\n":                                             "To: =?utf-8?q?J=C3=B6rg?= <a@b, c@d>\r\n",
		"To: =?utf-8?q?J=C3=B6rg?= Müller <a@b>\r\n":                         "To: =?utf-8?q?J=C3=B6rg_M=C3=BCller?= <a@b>\r\n",
		"Subject: a  b\u00a0c \u3000d  ü  e\r\n":                             "Subject: a  =?utf-8?q?b=C2=A0c_=E3=80=80d__=C3=BC?=  e\r\n",
		"Subject: a =?utf-8?q?=C3=A4?= ü =?utf-8?q?b?= c\r\n":                "Subject: =?utf-8?q?a_=C3=A4_=C3=BC_b_c?=\r\n",
		"Content-Type: text/plain (ü; x); name=\"a <ü;\" (ö)\r\n":            "Content-Type: text/plain; name*=utf-8''a%20%3C%C3%BC%3B\r\n",
		"Content-Type: a/b; boundary=\"a  b\"; n*0=\"a \"; n*1=ü; n*2=b\r\n": "Content-Type: a/b; boundary=\"a  b\"; n*0*=utf-8''a%20; n*1*=%C3%BC; n*2=b\r\n",
		"Content-Type: a/b; n*=utf-8'de'%C3%A4ö\r\n":                         "Content-Type: a/b; n*=utf-8'de'%C3%A4%C3%B6\r\n",
		"Content-Type: text/ä; charset=x\r\n":                                "Content-Type: =?utf-8?q?text/=C3=A4?=; charset=x\r\n",
	} {
		if got := string(surrogate([]byte(in), true)); got != want {
			t.Errorf("%q\n is   %q\n want %q", in, got, want)
		}
	}
}

// meaning is what a field shows.
func meaning(field []byte) string {
	_, value, _ := fieldOf(field)
	return headerfield.Decode(strings.Trim(strings.NewReplacer("\r", "", "\n", "").Replace(value), " \t"))
}

// FuzzSurrogate: only fields are replaced, and by ASCII, but for a boundary, and a subject
// shows what it did; all else stays byte for byte, in its order.
func FuzzSurrogate(f *testing.F) {
	f.Add("From: Jürgen <j@ü>, \"ü\\\"\" <x\r\nSubject: ü ü\r\n é\r\nContent-Type: a; b=\"ü\r\nü: x\r\n")
	f.Add("To: g: ä (x, ü), c@d; (ö\r\nno field ü\r\n\r\n")
	f.Fuzz(func(t *testing.T, header string) {
		header = strings.ReplaceAll(strings.ReplaceAll(header, "\r", ""), "\n", "\r\n")
		in := []byte(header + "\r\n\r\nbödy")
		out := surrogate(in, true)
		if n := headerEnd(in); !bytes.HasSuffix(out, in[n:]) {
			t.Fatalf("%q: the body of %q", header, out)
		}
		rest := out
		for head := in[:headerEnd(in)]; len(head) > 0; {
			field := head[:fieldEnd(head)]
			head = head[len(field):]
			name, _, is := fieldOf(field)
			if is && !ascii(field) && utf8.Valid(field) {
				if bytes.HasPrefix(rest, []byte(name+":")) { // others are left out
					got := rest[:fieldEnd(rest)]
					if !ascii(got) && !strings.Contains(strings.ToLower(string(field)), "boundary") {
						t.Fatalf("%q became %q", field, got)
					}
					if strings.EqualFold(strings.TrimSpace(name), "subject") && meaning(got) != meaning(field) {
						t.Fatalf("%q became %q: %q, not %q", field, got, meaning(got), meaning(field))
					}
					rest = rest[len(got):]
				}
				continue
			}
			var kept bool
			if rest, kept = bytes.CutPrefix(rest, field); !kept {
				t.Fatalf("%q: %q is not in its place in %q", header, field, out)
			}
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
