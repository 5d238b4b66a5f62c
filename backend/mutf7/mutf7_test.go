package mutf7

import "testing"

func TestBothWays(t *testing.T) {
	for _, c := range []struct{ utf8, coded string }{
		{"INBOX", "INBOX"},
		{"R&D", "R&-D"},
		{"Entwürfe", "Entw&APw-rfe"},
		{"~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"}, // RFC 3501, Section 5.1.3
		{"😀", "&2D3eAA-"},
		{"a\tb", "a&AAk-b"},
		{"", ""},
	} {
		if got, err := Encode(c.utf8); err != nil || got != c.coded {
			t.Errorf("Encode(%q) = %q, %v; want %q", c.utf8, got, err, c.coded)
		}
		if got, err := Decode(c.coded); err != nil || got != c.utf8 {
			t.Errorf("Decode(%q) = %q, %v; want %q", c.coded, got, err, c.utf8)
		}
	}
	for _, bad := range []string{"&", "&AGE-", "&APw", "Entwürfe", "&2D0-", "&APw-&APw-", "&A-", "a\x00"} {
		if got, err := Decode(bad); err == nil {
			t.Errorf("Decode(%q) = %q, want an error", bad, got)
		}
	}
	if _, err := Encode("\xff"); err == nil {
		t.Error("Encode took invalid UTF-8")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("Entw&APw-rfe")
	f.Add("&U,BTFw-")
	f.Fuzz(func(t *testing.T, s string) {
		text, err := Decode(s)
		if err != nil {
			return
		}
		if again, err := Encode(text); err != nil || again != s {
			t.Fatalf("%q became %q, %v", s, again, err)
		}
	})
}
