package mime

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/emersion/go-imap/v2"
)

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// RFC 9051's own picture of part numbers, Section 6.4.5.1, in small.
var nested = crlf(`From: "Ann (A.)" <ann@example.test>
To: Team: bob@example.test, "C, D" <c.d@example.test>;, plain@example.test (Plain)
Date: Sat, 1 Nov 2025 10:00:00 EST
Subject: =?utf-8?q?h=C3=A9llo?=
Message-ID: <m1@example.test>
In-Reply-To: <a@x> <b@x>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="out er"

preamble
--out er
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: Quoted-Printable

caf=E9 =
au lait
two
--out er
Content-Type: message/rfc822
Content-Disposition: attachment; filename="f \"x\".eml"; size=3

Subject: inner
Content-Type: multipart/alternative; boundary=in

--in

first
--in
Content-Type: text/html

<p>second</p>
--in--
--out er
Content-Type: application/octet-stream
Content-Transfer-Encoding: base64

aGVsbG8g
d29ybGQ=

--out er--
epilogue
`)

func section(t *testing.T, msg string, root *Part, spec imap.PartSpecifier, path ...int) string {
	t.Helper()
	r, ok := root.Section(path, spec)
	if !ok {
		return "<none>"
	}
	return msg[r.Start:r.End]
}

func TestSections(t *testing.T) {
	root, err := Scan(iotest.HalfReader(strings.NewReader(nested)))
	if err != nil {
		t.Fatal(err)
	}
	const none, header, text, mime = imap.PartSpecifierNone, imap.PartSpecifierHeader, imap.PartSpecifierText, imap.PartSpecifierMIME
	hdrEnd := strings.Index(nested, "preamble")
	inner := nested[strings.Index(nested, "Subject: inner"):strings.Index(nested, "\r\n--out er\r\nContent-Type: application")]
	for _, c := range []struct {
		spec imap.PartSpecifier
		path []int
		want string
	}{
		{none, nil, nested},
		{header, nil, nested[:hdrEnd]},
		{text, nil, nested[hdrEnd:]},
		{none, []int{1}, crlf("caf=E9 =\nau lait\ntwo")},
		{mime, []int{1}, crlf("Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: Quoted-Printable\n\n")},
		{none, []int{2}, inner},
		{header, []int{2}, crlf("Subject: inner\nContent-Type: multipart/alternative; boundary=in\n\n")},
		{none, []int{2, 1}, "first"},
		{mime, []int{2, 1}, "\r\n"},
		{none, []int{2, 2}, "<p>second</p>"},
		{none, []int{3}, crlf("aGVsbG8g\nd29ybGQ=\n")},
		{none, []int{4}, "<none>"},
		{none, []int{1, 1}, "<none>"},
		{header, []int{1}, "<none>"},
		{none, []int{0}, "<none>"},
	} {
		if got := section(t, nested, root, c.spec, c.path...); got != c.want {
			t.Errorf("%v %s: %q, want %q", c.path, c.spec, got, c.want)
		}
	}
	if got := root.Children[0].Lines; got != 2 {
		t.Errorf("lines %d", got)
	}
	if d := root.Children[1].Disposition; d == nil || d.Params["filename"] != `f "x".eml` || d.Params["size"] != "3" {
		t.Errorf("disposition %+v", d)
	}
	checkStructure(t, root.BodyStructure())
}

func TestEnvelope(t *testing.T) {
	root, err := ScanHeader(strings.NewReader(nested))
	if err != nil {
		t.Fatal(err)
	}
	e := root.Envelope
	ann := []imap.Address{{Name: "Ann (A.)", Mailbox: "ann", Host: "example.test"}}
	to := []imap.Address{
		{Mailbox: "Team"}, {Mailbox: "bob", Host: "example.test"},
		{Name: "C, D", Mailbox: "c.d", Host: "example.test"}, {},
		{Name: "Plain", Mailbox: "plain", Host: "example.test"},
	}
	if !reflect.DeepEqual(e.From, ann) || !reflect.DeepEqual(e.To, to) {
		t.Errorf("from %+v to %+v", e.From, e.To)
	}
	if e.Subject != "=?utf-8?q?h=C3=A9llo?=" || e.MessageID != "m1@example.test" {
		t.Errorf("%+v", e)
	}
	if !reflect.DeepEqual(e.InReplyTo, []string{"a@x", "b@x"}) {
		t.Errorf("in reply to %q", e.InReplyTo)
	}
	if !e.Date.Equal(time.Date(2025, 11, 1, 15, 0, 0, 0, time.UTC)) {
		t.Errorf("date %v", e.Date)
	}
	if root.Header.Len() != int64(strings.Index(nested, "preamble")) {
		t.Errorf("header %+v", root.Header)
	}
}

func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "",
		"a@b":                          "||a@b",
		"<a@b>":                        "||a@b",
		"nobody":                       "||nobody@MISSING_DOMAIN",
		`"x y"@b`:                      `||x y@b`,
		"A <@r1,@r2:a@b>, c@d":         "|A|a@b |c@d",
		"Undisclosed:;":                "[Undisclosed []",
		`Bad "quote <a@b>, c@d`:        "|Bad quote|a@b |c@d",
		"A <a@b":                       "|A|a@b",
		"a@b (one (two)), ,c@d":        "|one (two)|a@b |c@d",
		"Name <>":                      "|Name|MISSING_MAILBOX@MISSING_DOMAIN",
		"=?utf-8?q?x?= <a@b> (ignore)": "|=?utf-8?q?x?=|a@b",
	} {
		var got []string
		for _, a := range addresses(addressList(in)) {
			switch {
			case a.Host == "" && a.Mailbox == "":
				got = append(got, "[]")
			case a.Host == "":
				got = append(got, "["+a.Mailbox)
			default:
				got = append(got, strings.TrimSuffix("|"+a.Name+"|", "")+a.Mailbox+"@"+a.Host)
			}
		}
		want = strings.ReplaceAll(want, " |c@d", " ||c@d")
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%q: %q, want %q", in, g, want)
		}
	}
}

func TestMalformed(t *testing.T) {
	deep := strings.Builder{}
	for i := range 200 {
		fmt.Fprintf(&deep, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	many := "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + strings.Repeat("--b\r\n\r\nx\r\n", 5000)
	nest := strings.Repeat("Content-Type: message/rfc822\r\n\r\n", 300)
	for name, msg := range map[string]string{
		"empty":               "",
		"no header end":       "Subject: x\r\n",
		"no boundary":         "Content-Type: multipart/mixed\r\n\r\ntext",
		"boundary never seen": "Content-Type: multipart/mixed; boundary=zz\r\n\r\ntext",
		"close only":          "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b--\r\n",
		"cut in part header":  "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: message/rfc822",
		"message without end": "Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\n--b--",
		"deep":                deep.String(),
		"many":                many,
		"nested messages":     nest,
		"bytes":               "\x00\xff: \x80\r\nSubject: \xe9\x00\r\nFrom: \x80\xff\r\n\r\n\x00",
		"long line":           "Subject: " + strings.Repeat("x", 1<<20) + "\r\n\r\nbody",
		"bare LF":             "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b\n\ntwo\n--b--\n",
	} {
		t.Run(name, func(t *testing.T) { check(t, []byte(msg)) })
	}
	root, _ := Scan(strings.NewReader(many))
	if n := len(root.Children); n != MaxParts-1 {
		t.Errorf("%d parts", n)
	}
	root, _ = Scan(strings.NewReader("Content-Type: multipart/mixed\r\n\r\ntext"))
	if root.Multipart() || root.Type != "text" || root.Lines != 0 {
		t.Errorf("%+v", root)
	}
}

func TestCopyFields(t *testing.T) {
	h := "From: a\r\nX-Long: 1\r\n 2\r\nSUBJECT : s\r\njunk\r\nTo: t\r\n\r\nbody"
	for _, c := range []struct {
		names []string
		not   bool
		want  string
	}{
		{[]string{"subject", "x-long"}, false, "X-Long: 1\r\n 2\r\nSUBJECT : s\r\n\r\n"},
		{[]string{"subject", "x-long", "to"}, true, "From: a\r\n\r\n"},
		{[]string{"none"}, false, "\r\n"},
	} {
		var b bytes.Buffer
		if err := CopyFields(&b, strings.NewReader(h), c.names, c.not); err != nil || b.String() != c.want {
			t.Errorf("%v %v: %q %v", c.names, c.not, b.String(), err)
		}
	}
}

func TestText(t *testing.T) {
	root, _ := Scan(strings.NewReader(nested))
	for i, want := range map[int]string{0: crlf("café au lait\ntwo"), 2: "hello world"} {
		p := root.Children[i]
		got, err := io.ReadAll(p.Text(strings.NewReader(nested[p.Body.Start:p.Body.End])))
		if err != nil || string(got) != want {
			t.Errorf("%d: %q %v", i, got, err)
		}
	}
}

// check scans a message and looks at what must hold for every message.
func check(t *testing.T, msg []byte) {
	root, err := Scan(bytes.NewReader(msg))
	if err != nil {
		t.Fatal(err)
	}
	if root.Header.Start != 0 || root.Body.End != int64(len(msg)) || root.Envelope == nil {
		t.Fatalf("root %+v of %d bytes", root, len(msg))
	}
	n, level := 0, 0
	var walk func(p *Part, in Range)
	walk = func(p *Part, in Range) {
		n++
		level++
		defer func() { level-- }()
		if p.Type == "" || p.Subtype == "" || p.Header.Len() < 0 || p.Body.Len() < 0 || p.Lines < 0 ||
			p.Header.Start < in.Start || p.Header.End > p.Body.Start {
			t.Fatalf("part %+v in %+v", p, in)
		}
		if p.Body.End > int64(len(msg)) || p.Header.End > int64(len(msg)) {
			t.Fatalf("part %+v of %d bytes", p, len(msg))
		}
		for _, c := range p.Children {
			walk(c, p.Body)
		}
		if p.Message != nil {
			walk(p.Message, p.Body)
		}
	}
	walk(root, Range{})
	if n > MaxParts || level != 0 {
		t.Fatalf("%d parts", n)
	}
	checkStructure(t, root.BodyStructure())
	h, err := ScanHeader(bytes.NewReader(msg))
	if err != nil || h.Header != root.Header || !reflect.DeepEqual(h.Envelope, root.Envelope) {
		t.Fatalf("header alone: %+v, whole: %+v, %v", h.Header, root.Header, err)
	}
	if err := CopyFields(io.Discard, bytes.NewReader(msg), []string{"subject"}, true); err != nil {
		t.Fatal(err)
	}
	root.Walk(func(p *Part) {
		if _, err := io.Copy(io.Discard, p.Text(bytes.NewReader(msg[p.Body.Start:p.Body.End]))); err != nil {
			t.Fatal(err)
		}
	})
}

// checkStructure looks for what the writer of BODYSTRUCTURE cannot write.
func checkStructure(t *testing.T, bs imap.BodyStructure) {
	switch bs := bs.(type) {
	case *imap.BodyStructureMultiPart:
		if len(bs.Children) == 0 || bs.Extended == nil {
			t.Fatalf("multipart %+v", bs)
		}
		for _, c := range bs.Children {
			checkStructure(t, c)
		}
	case *imap.BodyStructureSinglePart:
		if bs.Extended == nil || bs.Type == "text" && bs.Text == nil || bs.Type == "multipart" ||
			bs.MediaType() == "message/rfc822" && bs.MessageRFC822 == nil {
			t.Fatalf("part %+v", bs)
		}
		if bs.MessageRFC822 != nil {
			checkStructure(t, bs.MessageRFC822.BodyStructure)
		}
	}
}

func FuzzScan(f *testing.F) {
	f.Add([]byte(nested))
	f.Add([]byte("Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: x\n\ny\n--b--\n"))
	f.Add([]byte("From: =?x?=, (((, \"<@:;>\r\nDate: (\r\nContent-Type: message/rfc822\r\n\r\n\r\n--"))
	f.Fuzz(func(t *testing.T, msg []byte) { check(t, msg) })
}
