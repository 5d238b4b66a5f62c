package testmail

import (
	"bytes"
	"testing"
)

func TestLoad(t *testing.T) {
	msgs, real, err := Load(t.TempDir(), 2050)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("real corpus: %v", real)
	if len(msgs) != 2050 {
		t.Fatalf("%d messages", len(msgs))
	}
	for _, m := range msgs {
		bare := bytes.ReplaceAll(m.Body, []byte("\r\n"), nil)
		if bytes.ContainsAny(bare, "\r\n") || !bytes.HasSuffix(m.Body, []byte("\r\n")) {
			t.Errorf("%s: line ends", m.Name)
		}
	}
	if a, b := Make(3), Make(3); !bytes.Equal(a.Body, b.Body) {
		t.Error("not repeatable")
	}
}
