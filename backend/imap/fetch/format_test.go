package fetch

import (
	"reflect"
	"strings"
	"testing"
)

// What String gives is parsed to the same Request.
func TestString(t *testing.T) {
	for _, text := range []string{
		"ALL", "FULL", "FAST", "FLAGS", "PREVIEW", "(PREVIEW (LAZY) SAVEDATE EMAILID THREADID MODSEQ UID RFC822.SIZE)",
		"RFC822", "RFC822.HEADER", "(RFC822.TEXT BODY.PEEK[])", "BODY[]", "BODY.PEEK[]<5.6>", "(BODY[1.2.MIME] BODY.PEEK[HEADER])",
		"(BINARY[1] BINARY.SIZE[2.3])", "BINARY.PEEK[1]<0.9>", "BINARY.SIZE[1]",
		"BODY.PEEK[HEADER.FIELDS (From \"T o\" {2+}\r\na\r {1+}\r\n\xff \"\" nil)]<1.2>", "BODY.PEEK[2.HEADER.FIELDS.NOT (X)]",
		"(BODY ENVELOPE BODYSTRUCTURE INTERNALDATE)",
	} {
		o := Options{Buffers: NewBuffers()}
		r, err := parsed(text, o)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		again, err := parsed(r.String(), o)
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%s is %s: %v", text, r, err)
		}
		if strings.Contains(text, "PEEK") && !r.SetsSeen() && !strings.Contains(r.String(), "PEEK") {
			t.Errorf("%s is %s", text, r)
		}
	}
}
