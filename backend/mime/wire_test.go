package mime

import (
	"io"
	"strings"
	"testing"
)

func scanned(t testing.TB, text string) *Part {
	t.Helper()
	p, err := Scan(strings.NewReader(strings.ReplaceAll(text, "\n", "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWire(t *testing.T) {
	for _, c := range []struct{ message, envelope, structure string }{
		{
			"", `(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)`,
			`("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0 NIL NIL NIL NIL)`,
		},
		{
			"From: \"A \\\"B\" <\"x y\"@b.test>\nTo: g: c@d.test;, E <@r1,@r2:e@f.test>\nSubject: a\n  b\tc\nDate: x \nDate: y \n\nbody\n",
			`("y " "a b c" (("A \"B" NIL "x y" "b.test")) (("A \"B" NIL "x y" "b.test")) (("A \"B" NIL "x y" "b.test")) ` +
				`((NIL NIL "g" NIL)(NIL NIL "c" "d.test")(NIL NIL NIL NIL)("E" "@r1,@r2" "e" "f.test")) NIL NIL NIL NIL)`,
			`("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 6 1 NIL NIL NIL NIL)`,
		},
		{
			"Subject: Grüße\nContent-Type: multipart/Mixed; boundary=X\nContent-Language: en, (x) de\n\n--X\nContent-Type: IMAGE/png; name*0=a; name*1=b\n" +
				"Content-ID: <1>\nContent-Disposition: Attachment; filename=\"x y\"\nContent-MD5: abc\n\nx\n--X\nContent-Type: message/rfc822\n\nSubject: in\n\ny\n--X--\n",
			"(NIL {8}\r\nGrüße NIL NIL NIL NIL NIL NIL NIL NIL)",
			`(("IMAGE" "png" ("name" "ab") "<1>" NIL "7bit" 1 "abc" ("Attachment" ("filename" "x y")) NIL NIL)` +
				`("message" "rfc822" NIL NIL NIL "7bit" 16 (NIL "in" NIL NIL NIL NIL NIL NIL NIL NIL) ` +
				`("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 1 0 NIL NIL NIL NIL) 2 NIL NIL NIL NIL) ` +
				`"Mixed" ("boundary" "X") NIL ("en" "de") NIL)`,
		},
	} {
		p := scanned(t, c.message)
		if p.Wire.Envelope != strings.ReplaceAll(c.envelope, "{8}", "{7}") {
			t.Errorf("envelope\n got  %q\n want %q", p.Wire.Envelope, c.envelope)
		}
		if p.Wire.Structure != c.structure {
			t.Errorf("structure\n got  %q\n want %q", p.Wire.Structure, c.structure)
		}
	}
}

func TestWithoutExtensions(t *testing.T) {
	for in, want := range map[string]string{
		`("text" "plain" ("a" "b)\"(") NIL NIL "7bit" 0 5 NIL ("x" NIL) NIL NIL)`:          `("text" "plain" ("a" "b)\"(") NIL NIL "7bit" 0 5)`,
		"(\"image\" \"png\" (\"a\" {3}\r\n)\x80() NIL NIL \"7bit\" 9 \"md5\" NIL NIL NIL)": "(\"image\" \"png\" (\"a\" {3}\r\n)\x80() NIL NIL \"7bit\" 9)",
		`(("a" "b" NIL NIL NIL "7bit" 1 NIL NIL NIL NIL)("message" "rfc822" NIL NIL NIL "7bit" 16 (NIL NIL NIL (("x" NIL "y" "z")) NIL NIL NIL NIL NIL NIL) ("text" "plain" NIL NIL NIL "7bit" 1 0 NIL NIL NIL NIL) 2 NIL NIL NIL NIL) "mixed" ("boundary" "X") NIL NIL NIL)`://
		`(("a" "b" NIL NIL NIL "7bit" 1)("message" "rfc822" NIL NIL NIL "7bit" 16 (NIL NIL NIL (("x" NIL "y" "z")) NIL NIL NIL NIL NIL NIL) ("text" "plain" NIL NIL NIL "7bit" 1 0) 2) "mixed")`,
	} {
		if got := WithoutExtensions(in); got != want {
			t.Errorf("%s\n got  %s\n want %s", in, got, want)
		}
	}
}

// FuzzWithoutExtensions: no text makes it fail, or loop.
func FuzzWithoutExtensions(f *testing.F) {
	f.Add(`("text" "plain" ("a" "b") NIL NIL "7bit" 0 5 NIL NIL NIL NIL)`)
	f.Add(`((("a`)
	f.Add(`("a" {99999999999999999999}`)
	f.Add("(\"a\" {3}\r\nab")
	f.Fuzz(func(t *testing.T, s string) { WithoutExtensions(s) })
}

func TestDecode(t *testing.T) {
	for _, c := range []struct{ encoding, in, want string }{
		{"base64", "YW Jj\r\n\t-ZGVm!", "abcdef"},
		{"base64", "YQ==\r\nYmI=\r\nYWJj", "abbabc"},
		{"base64", "YWJjZGV", "abcde"},
		{"base64", "YWJjZ", "abc"},
		{"quoted-printable", "a=3Db=\r\nc \t\r\nd =20\r\ne=ZZ= \r\nf", "a=bc\r\nd  \r\ne=ZZ=\r\nf"},
		{"quoted-printable", "a " + strings.Repeat(" ", 300) + "b  c \t", "a " + strings.Repeat(" ", 300) + "b  c"},
		{"8bit", "a \r\n", "a \r\n"},
		{"", "x", "x"},
	} {
		r, known := (&Part{Encoding: c.encoding}).Decode(strings.NewReader(c.in))
		got, err := io.ReadAll(r)
		if err != nil || !known || string(got) != c.want {
			t.Errorf("%s %q: %q %v %v", c.encoding, c.in, got, known, err)
		}
	}
	if _, known := (&Part{Encoding: "x-uuencode"}).Decode(strings.NewReader("")); known {
		t.Error("an unknown encoding is known")
	}
}

// TestManyRepeats: repeated fields cost no more than their text.
func TestManyRepeats(t *testing.T) {
	p := scanned(t, strings.Repeat("To: a@b\n", 200_000)+"\n")
	if n := strings.Count(p.Wire.Envelope, `"b"`); n != maxRepeats+1 {
		t.Error(n)
	}
}
