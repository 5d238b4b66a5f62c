package fetch

import (
	"bytes"
	"errors"
	"testing"

	"waypost/backend/index"
)

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"ALL", "(FLAGS UID)", "BODY[1.HEADER.FIELDS (a \"b\" {1}\r\nc)]<1.2>", "PREVIEW (LAZY)", "BINARY.SIZE[1]", "BODY[", "(((", "RFC822",
	} {
		f.Add(s)
	}
	o := newOne(f, []byte("Subject: x\r\n\r\nbody\r\n"))
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parsed(text, Options{})
		if err != nil {
			return
		}
		if _, err := written(r, o, o.message()); err != nil && !errors.Is(err, ErrUnknownEncoding) {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

const everything = "(UID FLAGS ENVELOPE BODY BODYSTRUCTURE RFC822.SIZE INTERNALDATE PREVIEW BODY[] BODY[HEADER] BODY[TEXT] BODY[1] BODY[1.MIME] " +
	"BODY[2]<1.3> BODY[1.1.HEADER] BODY[HEADER.FIELDS (subject from)] BODY[HEADER.FIELDS.NOT (subject)]<2.5> RFC822)"

// FuzzWrite: whatever the message, answers are well-formed and literals true to it.
func FuzzWrite(f *testing.F) {
	for _, text := range nasty() {
		if len(text) < 5000 {
			f.Add(wired([]byte(text)))
		}
	}
	whole := request(f, everything, Options{})
	binary := request(f, "(BINARY[1] BINARY.SIZE[1] BINARY[1.1]<1.5> BINARY[])", Options{UIDOnly: true})
	f.Fuzz(func(t *testing.T, wire []byte) {
		m, err := index.Read(bytes.NewReader(wire), arrived)
		if err != nil {
			t.Fatal(err)
		}
		o := &one{wire: wire, meta: m}
		all, order, err := items(whole, o, o.message())
		if err != nil || len(order) != len(whole.items) {
			t.Fatalf("%v %v", err, order)
		}
		if want := bytes.ReplaceAll(wire, []byte{0}, []byte{0x80}); all["BODY[]"].text != string(want) {
			t.Fatal("another message")
		}
		if got := all["BODY[HEADER]"].text + all["BODY[TEXT]"].text; got != all["RFC822"].text {
			t.Fatal("header and text are not the message")
		}
		if _, _, err := items(binary, o, o.message()); err != nil && !errors.Is(err, ErrUnknownEncoding) {
			t.Fatal(err)
		}
	})
}
