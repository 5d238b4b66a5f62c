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

var day0 = time.Unix(1700000000, 0)

func open(t *testing.T, path string, now time.Time) *Log {
	t.Helper()
	l, err := Open(path, now)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRemembersAndCutsTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deliveries")
	l := open(t, path, day0)
	first := Entry{At: day0, ID: "mx1 a/b%\n", Folder: ".My Folder.&AOQ-", File: "1.M1,S=1,W=2"}
	if err := l.Append(first); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("1700000000 torn . 1.M"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	l = open(t, path, day0)
	if _, ok, err := l.Find("torn"); ok || err != nil {
		t.Fatal("a torn line counts", err)
	}
	second := Entry{At: day0, ID: "x", File: "2.M2"}
	if err := l.Append(second); err != nil {
		t.Fatal(err)
	}
	l = open(t, path, day0)
	for _, want := range []Entry{first, second} {
		if got, ok, err := l.Find(want.ID); got != want || !ok || err != nil {
			t.Errorf("%+v: found %+v, %v, %v", want, got, ok, err)
		}
	}
	if l.lines != 2 {
		t.Errorf("%d lines", l.lines)
	}
	if err := l.Append(Entry{At: day0, ID: strings.Repeat("x", maxLine), File: "f"}); !errors.Is(err, ErrBadID) {
		t.Errorf("long id: %v", err)
	}
}

func TestCompacts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deliveries")
	var text strings.Builder
	for i := range compactAfter {
		fmt.Fprintf(&text, "%d old%d . f%d\n", day0.Unix(), i, i)
	}
	late := day0.Add(Keep + time.Hour)
	fmt.Fprintf(&text, "%d new . f\n", late.Unix())
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if l := open(t, path, day0.Add(Keep)); l.lines != compactAfter+1 {
		t.Fatalf("compacted too early: %d lines", l.lines)
	}
	l := open(t, path, late)
	if _, ok, _ := l.Find("new"); l.lines != 1 || !ok {
		t.Fatalf("%d lines, new %v", l.lines, ok)
	}
	if err := l.Append(Entry{At: late, ID: "next", File: "g"}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != fmt.Sprintf("%d new . f\n%d next . g\n", late.Unix(), late.Unix()) {
		t.Fatalf("file %q", got)
	}
}

func TestShrunkFileIsNotGuessedAt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deliveries")
	l := open(t, path, day0)
	if err := l.Append(Entry{At: day0, ID: "a", File: "f"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 3); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(Entry{At: day0, ID: "b", File: "g"}); !errors.Is(err, ErrDoubtful) {
		t.Fatal(err)
	}
}

// badClose is a file whose Close fails, as on network file systems.
type badClose struct{ *os.File }

func (b badClose) Close() error { return errors.Join(b.File.Close(), os.ErrDeadlineExceeded) }

func TestCloseErrorIsNoFailure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deliveries")
	l := open(t, path, day0)
	f, err := l.openForAppend()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.write(badClose{f}, "1700000000 a . f\n"); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(Entry{At: day0, ID: "b", File: "g"}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "1700000000 a . f\n1700000000 b . g\n" {
		t.Fatalf("file %q", got)
	}
}

func TestClockJumpForgetsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deliveries")
	var text strings.Builder
	for i := range 2 * compactAfter {
		fmt.Fprintf(&text, "%d id%d . f%d\n", day0.Unix()+int64(i), i, i)
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	far := day0.AddDate(20, 0, 0)
	l := open(t, path, far)
	if l.lines != 2*compactAfter {
		t.Fatalf("%d lines left", l.lines)
	}
	// Nor while it runs: the count comes before the line of the wrong time.
	l.sinceCount = compactAfter
	if err := l.Append(Entry{At: far, ID: "far", File: "g"}); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := l.Find("id0"); !ok || err != nil {
		t.Fatal(ok, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("1700000000 id . file\n1 x%20y .A%2Fb f g\ntorn")
	f.Fuzz(func(t *testing.T, text string) {
		var all []Entry
		if _, _, err := Parse(strings.NewReader(text), func(e Entry) bool { all = append(all, e); return true }); err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			again, ok := parseLine(strings.TrimSuffix(e.line(), "\n"))
			if len(e.line()) <= maxLine && (!ok || again != e) {
				t.Fatalf("%+v became %+v", e, again)
			}
		}
	})
}
