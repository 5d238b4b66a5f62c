package fetch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text             string
		items            int
		seen, meta, body bool
	}{
		{"ALL", 4, false, true, false},
		{"fast", 3, false, false, false},
		{"FULL", 5, false, true, false},
		{"FLAGS", 1, false, false, false},
		{"(FLAGS UID flags RFC822.SIZE INTERNALDATE)", 4, false, false, false},
		{"(MODSEQ SAVEDATE EMAILID THREADID)", 4, false, false, false},
		{"BODY", 1, false, true, false},
		{"BODY[]", 1, true, false, true},
		{"body.peek[]<5.10>", 1, false, false, true},
		{"BODY.PEEK[HEADER.FIELDS (Subject \"From\")]", 1, false, true, true},
		{"BODY.PEEK[HEADER.FIELDS (Received)]", 1, false, false, true},
		{"BODY.PEEK[1.2.3.MIME]", 1, false, true, true},
		{"BODY[1.HEADER.FIELDS.NOT (a)]", 1, true, true, true},
		{"(BINARY[1] BINARY.PEEK[2]<0.1> BINARY.SIZE[1])", 3, true, true, true},
		{"BINARY[]", 1, true, false, true},
		{"(RFC822 RFC822.HEADER RFC822.TEXT)", 3, true, false, true},
		{"RFC822.HEADER", 1, false, false, true},
		{"PREVIEW", 1, false, true, false},
		{"PREVIEW (LAZY)", 1, false, true, false},
		{"(PREVIEW (lazy) UID)", 2, false, true, false},
	} {
		r, err := parsed(c.text, Options{})
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if len(r.items) != c.items || r.SetsSeen() != c.seen || r.NeedsMeta() != c.meta || r.NeedsBody() != c.body {
			t.Errorf("%s: %d items, seen %v, meta %v, body %v", c.text, len(r.items), r.SetsSeen(), r.NeedsMeta(), r.NeedsBody())
		}
	}
	var many strings.Builder
	for i := range maxItems {
		fmt.Fprintf(&many, "BODY[]<%d.1> ", i)
	}
	for _, text := range []string{
		"", "()", "(", "FOO", "(FLAGS", "(FLAGS  UID)", "FLAGS UID", "(ALL)", "BODY[", "BODY[]<", "BODY[]<1>", "BODY[]<1.0>",
		"BODY[]<-1.5>", "BODY[]<1.9223372036854775808>", "BODY[0]", "BODY[1.]", "BODY[.1]", "BODY[1..2]", "BODY[MIME]",
		"BODY[FOO]", "BODY[HEADER.FIELDS]", "BODY[HEADER.FIELDS ()]", "BODY[HEADER.FIELDS (a]", "BODY[99999999999]",
		"BINARY[TEXT]", "BINARY[1.MIME]", "BINARY.SIZE[1]<0.5>", "RFC822[]", "ENVELOPE[]", "BODY[ HEADER]", "BODY[HEADER ]",
		"(PREVIEW (FOO))", "BODYSTRUCTURE[1]", "BODY.PEEK", "BINARY", "BINARY.SIZE",
		"(" + many.String() + "BODY[])", "BODY[01]", "BODY[" + strings.Repeat("1.", maxPath) + "1]",
	} {
		var bad *syntax.SyntaxError
		if _, err := parsed(text, Options{}); !errors.As(err, &bad) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestModifiers: what is behind the items is the caller's.
func TestModifiers(t *testing.T) {
	for _, text := range []string{"PREVIEW (CHANGEDSINCE 5)", "(FLAGS) (CHANGEDSINCE 5)", "FLAGS (X)"} {
		if _, err := parsed(text, Options{}); err == nil || !strings.Contains(err.Error(), "unexpected text") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

const simpleText = "From: A <a@b.test>\r\nSubject: Hi\r\nX-Odd: 1\r\nContent-Type: multipart/mixed; boundary=X\r\n\r\n" +
	"--X\r\n\r\none\x00two\r\n--X\r\nContent-Transfer-Encoding: base64\r\n\r\nAGI=\r\n--X\r\nContent-Transfer-Encoding: x-odd\r\n\r\nx\r\n--X--\r\n"

func TestWrite(t *testing.T) {
	o := newOne(t, []byte(simpleText))
	for _, c := range []struct{ items, want string }{
		{"FAST", `FLAGS (\Seen $Junk) INTERNALDATE " 4-Mar-2026 05:06:07 +0100" RFC822.SIZE 203`},
		{"(UID MODSEQ EMAILID THREADID SAVEDATE)", `UID 7 MODSEQ (99) EMAILID (M1) THREADID NIL SAVEDATE " 5-Mar-2026 05:06:07 +0000"`},
		{"ENVELOPE", `ENVELOPE (NIL "Hi" (("A" NIL "a" "b.test")) (("A" NIL "a" "b.test")) (("A" NIL "a" "b.test")) NIL NIL NIL NIL NIL)`},
		{"PREVIEW", `PREVIEW "onetwo"`},
		{"BODY", `BODY (("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 7 0)("text" "plain" ("charset" "us-ascii") NIL NIL "base64" 4 0)("text" "plain" ("charset" "us-ascii") NIL NIL "x-odd" 1 0) "mixed")`},
		{"BODY.PEEK[]<2.6>", "BODY[]<2> {6}\r\nom: A "},
		{"BODY.PEEK[]<900.6>", "BODY[]<900> {0}\r\n"},
		{"BODY.PEEK[1]", "BODY[1] {7}\r\none\x80two"},
		{"BODY.PEEK[header.fields (subject \"x odd\")]", "BODY[HEADER.FIELDS (subject \"x odd\")] {15}\r\nSubject: Hi\r\n\r\n"},
		{"BODY.PEEK[HEADER.FIELDS (X-Odd)]<2.3>", "BODY[HEADER.FIELDS (X-Odd)]<2> {3}\r\nOdd"},
		{"BODY.PEEK[2.MIME]", "BODY[2.MIME] {37}\r\nContent-Transfer-Encoding: base64\r\n\r\n"},
		{"BODY.PEEK[9]", `BODY[9] ""`},
		{"BINARY.PEEK[1]", "BINARY[1] ~{7}\r\none\x00two"},
		{"BINARY.PEEK[2]", "BINARY[2] ~{2}\r\n\x00b"},
		{"BINARY.PEEK[2]<1.5>", "BINARY[2]<1> ~{1}\r\nb"},
		{"(BINARY.SIZE[2] BINARY.SIZE[9])", "BINARY.SIZE[2] 2 BINARY.SIZE[9] 0"},
		{"RFC822.HEADER", "RFC822.HEADER {88}\r\n" + simpleText[:88]},
	} {
		o.opens, o.shuts, o.metas = 0, 0, 0
		r := request(t, c.items, Options{})
		got, err := written(r, o, o.message())
		if want := "* 3 FETCH (" + c.want + ")\r\n"; err != nil || got != want {
			t.Errorf("%s: %v\n got  %q\n want %q", c.items, err, got, want)
		}
		if o.opens > 1 || o.opens != o.shuts || o.metas > 1 || o.opens > 0 && !r.NeedsBody() || o.metas > 0 && !r.NeedsMeta() {
			t.Errorf("%s: opened %d, closed %d, metas %d", c.items, o.opens, o.shuts, o.metas)
		}
	}
}

func TestAdded(t *testing.T) {
	o := newOne(t, []byte(simpleText))
	r := request(t, "(RFC822.SIZE)", Options{})
	r.AddModSeq()
	r.AddUID()
	r.AddUID()
	r.AddFlags()
	if _, order, err := items(r, o, o.message()); err != nil || !slices.Equal(order, []string{"UID", "FLAGS", "MODSEQ", "RFC822.SIZE"}) {
		t.Error(order, err)
	}
	m := o.message()
	m.TellFlags, m.TellModSeq = true, true
	if _, order, err := items(request(t, "(UID FLAGS)", Options{}), o, m); err != nil || !slices.Equal(order, []string{"UID", "FLAGS", "MODSEQ"}) {
		t.Error(order, err)
	}
	got, err := written(request(t, "(UID RFC822.SIZE)", Options{UIDOnly: true}), o, m)
	if want := "* 7 UIDFETCH (RFC822.SIZE 203 FLAGS (\\Seen $Junk) MODSEQ (99))\r\n"; err != nil || got != want {
		t.Errorf("%q %v", got, err)
	}
	m.TellFlags, m.TellModSeq = false, false
	if got, err = written(request(t, "(UID)", Options{UIDOnly: true}), o, m); err != nil || got != "* 7 UIDFETCH (UID 7)\r\n" {
		t.Errorf("%q %v", got, err)
	}
}

func TestFailures(t *testing.T) {
	o := newOne(t, []byte(simpleText))
	got, err := written(request(t, "(UID BODY[1] BINARY[3])", Options{}), o, o.message())
	if !errors.Is(err, ErrUnknownEncoding) || got != "" || o.opens != o.shuts {
		t.Errorf("%q %v", got, err)
	}
	o.fail = mailbox.ErrNoMessage
	if got, err = written(request(t, "(UID BODY[])", Options{}), o, o.message()); !errors.Is(err, mailbox.ErrNoMessage) || got != "" {
		t.Errorf("%q %v", got, err)
	}
	o.fail, o.cut = nil, 100
	for _, list := range []string{"BODY[]", "BODY[TEXT]", "BODY[1]", "RFC822"} {
		got, err := written(request(t, list, Options{}), o, o.message())
		if !errors.Is(err, ErrBroken) || !errors.Is(err, errDisk) || got == "" {
			t.Errorf("%s: %q %v", list, got, err)
		}
	}
	// Decoded parts are read before the first byte is written.
	if got, err := written(request(t, "BINARY[2]", Options{}), o, o.message()); errors.Is(err, ErrBroken) || !errors.Is(err, errDisk) || got != "" {
		t.Errorf("%q %v", got, err)
	}
}

// TestLongFields: chosen fields that are not kept between counting and sending.
func TestLongFields(t *testing.T) {
	field := "X-Long: " + strings.Repeat("y", maxKept) + "\r\n"
	o := newOne(t, []byte(field+"Subject: s\r\n\r\n"))
	all, _, err := items(request(t, "(BODY[HEADER.FIELDS (x-long)] BODY[HEADER.FIELDS.NOT (subject)]<5.10>)", Options{}), o, o.message())
	if err != nil || all["BODY[HEADER.FIELDS (x-long)]"].text != field+"\r\n" || all["BODY[HEADER.FIELDS.NOT (subject)]<5>"].text != field[5:15] {
		t.Error(err)
	}
}

// wiredOnly is a Source that knows the texts, and nothing else.
type wiredOnly struct{ *one }

func (w wiredOnly) Wire(mailbox.UID) (mime.Wire, bool, error) { return w.meta.Root.Wire, true, nil }

func TestWireSource(t *testing.T) {
	o := newOne(t, []byte(simpleText))
	var out strings.Builder
	e := syntax.NewEncoder(&out, syntax.Buffers())
	err := errors.Join(request(t, "(ENVELOPE BODYSTRUCTURE BODY)", Options{}).Write(e, wiredOnly{o}, o.message()), e.Flush())
	if err != nil || o.metas != 0 || !strings.Contains(out.String(), "ENVELOPE "+o.meta.Root.Wire.Envelope) {
		t.Error(err, o.metas, out.String())
	}
}

// lastSource is a Source with a Last.
type lastSource struct {
	*one
	last Last
}

func (l *lastSource) Open(uid mailbox.UID) (mailbox.Body, error) {
	return l.last.Open(uid, l.one.Open)
}

func TestLast(t *testing.T) {
	o := newOne(t, []byte(simpleText+strings.Repeat("A line of a large message.\r\n", keepFrom/20)))
	src := &lastSource{one: o}
	var got strings.Builder
	fetchOnce := func(uid mailbox.UID, list string) error {
		e := syntax.NewEncoder(&got, syntax.Buffers())
		m := o.message()
		m.UID = uid
		return errors.Join(request(t, list, Options{}).Write(e, src, m), e.Flush())
	}
	for _, list := range []string{"BODY[]<0.50>", "BODY[]<50.40>", "BODY[]<20.9>"} {
		if err := fetchOnce(7, list); err != nil {
			t.Fatal(err)
		}
	}
	if o.opens != 1 || o.shuts != 0 || !strings.Contains(got.String(), "{40}\r\n"+simpleText[50:90]) || !strings.Contains(got.String(), "{9}\r\n"+simpleText[20:29]) {
		t.Error(o.opens, o.shuts, got.String())
	}
	if err := fetchOnce(8, "BODY[]"); err != nil || o.opens != 2 || o.shuts != 1 {
		t.Error(err, o.opens, o.shuts)
	}
	o.cut = 10
	if err := fetchOnce(8, "BODY[]"); !errors.Is(err, ErrBroken) {
		t.Error(err)
	}
	o.cut = 0
	// What failed is not taken again.
	if err := errors.Join(fetchOnce(8, "BODY[]"), src.last.Drop(), src.last.Drop()); err != nil || o.opens != 3 || o.shuts != 3 {
		t.Error(err, o.opens, o.shuts)
	}
	// A short one is not kept.
	short := newOne(t, []byte(simpleText))
	src = &lastSource{one: short}
	if err := errors.Join(fetchOnce(1, "BODY[]<0.9>"), fetchOnce(1, "BODY[]<9.9>")); err != nil || short.opens != 2 || short.shuts != 2 {
		t.Error(err, short.opens, short.shuts)
	}
}
