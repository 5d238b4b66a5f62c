package subscriptions

import (
	"slices"
	"testing"
)

func TestBothVersions(t *testing.T) {
	want := []string{"INBOX", "Entwürfe", "A/B C"}
	for _, file := range []string{
		"V\t2\n\nINBOX\nEntw&APw-rfe\nA\tB C\nA\tB C\n",
		"INBOX\nEntw&APw-rfe\nA.B C\n",
	} {
		if got := Parse([]byte(file), '/'); !slices.Equal(got, want) {
			t.Errorf("%q gave %q", file, got)
		}
	}
	if got := string(Format(want, '/')); got != "V\t2\n\nINBOX\nEntw&APw-rfe\nA\tB C\n" {
		t.Errorf("wrote %q", got)
	}
	if got := Parse([]byte("V\t2\n\na\t\tb\nx/y\n\xff\n"), '/'); len(got) != 0 {
		t.Errorf("took %q", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("V\t2\n\nINBOX\nEntw&APw-rfe\nA\tB C\n"))
	f.Add([]byte("A.B\nC\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		names := Parse(data, '/')
		if again := Parse(Format(names, '/'), '/'); !slices.Equal(names, again) {
			t.Fatalf("%q became %q", names, again)
		}
	})
}
