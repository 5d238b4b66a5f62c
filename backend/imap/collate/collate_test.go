package collate

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

func TestKey(t *testing.T) {
	for in, want := range map[string]string{
		"":               "",
		"Hello, World 1": "HELLO, WORLD 1",
		"straße":         "STRAßE", // no simple titlecase
		"Ärger":          "A\u0308RGER",
		"A\u0308rger":    "A\u0308RGER",
		"ﬁx":             "FIX",      // a compatibility decomposition
		"Ǆ":              "DZ\u030c", // titlecased in two rounds
		"ǆ":              "DZ\u030c",
		"ΑΛΦΆ":           "ΑΛΦΑ\u0301",
		"привет":         "ПРИВЕТ",
		"ｆｕｌｌ":           "FULL",
		"日本":             "日本",
		"한":              "한",
		"\xff\xfea":      "\xff\xfeA",
	} {
		if got := Key(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestMatcher(t *testing.T) {
	text := strings.Repeat("x", readSize-3) + "Ärger im BÜRO " + strings.Repeat("é", readSize) + "end"
	needles := []string{"ärger", "büro", "", "éEND", "nowhere", "im b"}
	want := []bool{true, true, true, true, false, true}
	var keys []string
	for _, n := range needles {
		keys = append(keys, Key(n))
	}
	m := NewMatcher(keys)
	for name, r := range map[string]io.Reader{
		"whole": strings.NewReader(text), "bytes": iotest.OneByteReader(strings.NewReader(text)),
		"data and end": iotest.DataErrReader(strings.NewReader(text)),
	} {
		m.Reset()
		if err := m.Scan(r); err != nil || m.Done() {
			t.Fatal(name, err)
		}
		for i, ok := range m.Found() {
			if ok != want[i] {
				t.Errorf("%s: %q %v", name, needles[i], ok)
			}
		}
	}
	m.Reset()
	m.Text("im büro")
	if f := m.Found(); !f[1] || f[0] {
		t.Errorf("text: %v", f)
	}
	if err := m.Scan(iotest.ErrReader(io.ErrNoProgress)); err != io.ErrNoProgress {
		t.Error(err)
	}
}

func FuzzKey(f *testing.F) {
	f.Add("Ǆ ﬁ ß")
	f.Fuzz(func(t *testing.T, s string) {
		key := Key(s)
		if Key(key) != key {
			t.Errorf("%q: %q, and of that %q", s, key, Key(key))
		}
		if utf8.ValidString(s) != utf8.ValidString(key) {
			t.Errorf("%q: %q", s, key)
		}
		m := NewMatcher([]string{key})
		if err := m.Scan(iotest.HalfReader(strings.NewReader(s))); err != nil || !m.Done() {
			t.Errorf("%q is not found in itself: %v", s, err)
		}
	})
}
