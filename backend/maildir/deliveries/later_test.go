package deliveries

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deliveries")
	l := open(t, path, day0)
	want := ""
	for round := range 3 {
		for i := range 3 {
			key := fmt.Sprint(round, ".", i)
			if err := l.Later(Entry{day0, key}); err != nil {
				t.Fatal(err)
			}
			want += "1700000000 " + key + "\n"
		}
		for line := range strings.Lines(want) {
			key := strings.Fields(line)[1]
			if e, ok, err := l.Find(key); !ok || err != nil || e.Key != key {
				t.Fatalf("before it is written: %v %v %v", e, ok, err)
			}
		}
		for range 2 {
			if err := l.Write(); err != nil {
				t.Fatal(err)
			}
			wantFile(t, path, want)
		}
	}
	if err := l.Later(Entry{day0, ""}); !errors.Is(err, ErrBadKey) {
		t.Error(err)
	}
}

// TestLaterStays: what could not be written is remembered and written later, also
// by a Log that was rewritten meanwhile.
func TestLaterStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deliveries")
	l := open(t, path, day0)
	for _, key := range []string{"a", "b"} {
		if err := l.Later(Entry{day0, key}); err != nil {
			t.Fatal(err)
		}
		if key == "a" {
			if err := l.Write(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(); !errors.Is(err, ErrDoubtful) {
		t.Fatal(err)
	}
	write(t, path, "1700000000 a\n")
	if err := l.Ensure([]Entry{{day0.Add(time.Second), "c"}}); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := l.Find("b"); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := l.Write(); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "1700000000 a\n1700000001 c\n1700000000 b\n")
}
