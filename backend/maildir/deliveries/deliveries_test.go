package deliveries

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

var day0 = time.Unix(1700000000, 0)

func open(t *testing.T, path string, now time.Time) *Log {
	t.Helper()
	l, err := Open(vfs.OS, path, Keep, now)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Fatalf("file %q %v, want %q", got, err, want)
	}
}

func TestRemembers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deliveries")
	l := open(t, path, day0)
	entries := []Entry{{day0, "mx1 a/b%\n\x00"}, {day0.Add(time.Second), "x"}}
	for _, e := range entries {
		if _, ok, err := l.Find(e.Key); ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := l.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "1700000000 mx1%20a%2Fb%25%0A%00\n1700000001 x\n")
	for _, l := range []*Log{l, open(t, path, day0)} {
		for _, want := range entries {
			if got, ok, err := l.Find(want.Key); got != want || !ok || err != nil {
				t.Errorf("%+v: found %+v, %v, %v", want, got, ok, err)
			}
		}
	}
	for _, key := range []string{"", strings.Repeat("x", MaxKey+1)} {
		if err := l.Append(Entry{day0, key}); !errors.Is(err, ErrBadKey) {
			t.Errorf("%.10q: %v", key, err)
		}
	}
	if err := l.Append(Entry{day0, strings.Repeat("\xff", MaxKey)}); err != nil {
		t.Error(err)
	}
	if _, ok, err := open(t, path, day0).Find(strings.Repeat("\xff", MaxKey)); !ok || err != nil {
		t.Error(ok, err)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, text, keys string
		damaged          bool
	}{
		{"ordinary", "1700000000 a\n1700000001 b\n", "ab", false},
		{"of older versions", "1700000000 a . 1.M1,S=1\n1700000001 b .x some file\n", "ab", false},
		{"torn", "1700000000 a\n1700000001 b", "a", true},
		{"torn and old", "1700000000 a .\n1700000001 b\n", "b", true},
		{"hole", "1700000000 a\n\x00\x00\x00\x00\n1700000001 b\n", "ab", true},
		{"hole over lines", "1700000000 a\n17\x00\x00b\n1700000001 c\n", "ac", true},
		{"large hole", "1700000000 a\n" + strings.Repeat("\x00", 3*maxLine) + "\n1700000001 b\n", "ab", true},
		{"empty line", "\n1700000001 b\n", "b", true},
		{"bad number", "17x a\n-1 b\n999999999999999 c\n1 d\n", "d", true},
		{"bad escape", "1 a%2\n1 b\n", "b", true},
		{"empty", "", "", false},
	} {
		keys := ""
		size, lines, damaged, err := Parse(strings.NewReader(c.text), func(e Entry) bool { keys += e.Key; return true })
		whole := strings.LastIndexByte(c.text, '\n') + 1
		if keys != c.keys || damaged != c.damaged || err != nil || lines != len(keys) || size != int64(whole) {
			t.Errorf("%s: %q, %d bytes, %d lines, damaged %v, %v", c.name, keys, size, lines, damaged, err)
		}
	}
}

func TestDamageDoesNotMerge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deliveries")
	write(t, path, "1700000000 a . f\n\x00\x00\n1700000000 c\n1700000000 to")
	l := open(t, path, day0)
	if _, ok, err := l.Find("to"); ok || err != nil {
		t.Fatal("a torn line counts", err)
	}
	if err := l.Append(Entry{day0, "d"}); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "1700000000 a\n1700000000 c\n1700000000 d\n")
	if err := l.Append(Entry{day0, "e"}); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "1700000000 a\n1700000000 c\n1700000000 d\n1700000000 e\n")
}

func TestEnsure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deliveries")
	l := open(t, path, day0)
	for range 2 {
		if err := l.Ensure([]Entry{{day0, "a"}, {day0, "b"}, {day0, "a"}}); err != nil {
			t.Fatal(err)
		}
		wantFile(t, path, "1700000000 a\n1700000000 b\n")
	}
	if err := l.Ensure([]Entry{{day0, ""}}); !errors.Is(err, ErrBadKey) {
		t.Error(err)
	}
	write(t, path, "1700000000 a\n1700000000 b")
	l = open(t, path, day0)
	if err := l.Ensure(nil); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "1700000000 a\n")
	if err := l.Ensure([]Entry{{day0.Add(time.Hour), "a"}}); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "1700000000 a\n1700003600 a\n")
	if e, ok, err := l.Find("a"); e.At.Unix() != 1700003600 || !ok || err != nil {
		t.Fatal(e, ok, err)
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
	write(t, path, text.String())
	if l := open(t, path, day0.Add(Keep)); l.lines != compactAfter+1 {
		t.Fatalf("compacted too early: %d lines", l.lines)
	}
	l := open(t, path, late)
	if _, ok, _ := l.Find("new"); l.lines != 1 || !ok {
		t.Fatalf("%d lines, new %v", l.lines, ok)
	}
	if err := l.Append(Entry{late, "next"}); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, fmt.Sprintf("%d new\n%d next\n", late.Unix(), late.Unix()))
}

func TestShrunkFileIsNotGuessedAt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deliveries")
	l := open(t, path, day0)
	if err := l.Append(Entry{day0, "a"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 3); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(Entry{day0, "b"}); !errors.Is(err, ErrDoubtful) {
		t.Fatal(err)
	}
}

// TestRewriteNotSynced: the file was replaced, and its folder could not be synced. What is
// appended then goes into the file that has the name.
func TestRewriteNotSynced(t *testing.T) {
	fsys := crashfs.New(1)
	l, err := Open(fsys, "/log", Keep, day0)
	for i := range 2*compactAfter + 2 {
		if err == nil {
			err = l.Append(Entry{day0.Add(time.Duration(i) * time.Second), fmt.Sprint("id", i)})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	failed := false
	fsys.Fail(func(op crashfs.Op) error {
		if op.Kind == crashfs.SyncDir && !failed {
			failed = true
			return syscall.EMFILE
		}
		return nil
	})
	late := Entry{l.newest.Add(Keep), "late"}
	for { // until enough are over
		if err := l.appendAt(late, late.At); err != nil {
			break
		}
		late.At = late.At.Add(leap)
	}
	for _, key := range []string{"first", "second"} {
		if err := l.appendAt(Entry{late.At, key}, late.At); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Open(fsys, "/log", Keep, late.At)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"first", "second"} {
		if _, ok, err := again.Find(key); !ok || err != nil {
			t.Errorf("%s is forgotten: %v", key, err)
		}
	}
}

func TestClockJumpForgetsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deliveries")
	var text strings.Builder
	for i := range 2 * compactAfter {
		fmt.Fprintf(&text, "%d id%d\n", day0.Unix()+int64(i), i)
	}
	write(t, path, text.String())
	far := day0.AddDate(20, 0, 0)
	l := open(t, path, far)
	if l.lines != 2*compactAfter {
		t.Fatalf("%d lines left", l.lines)
	}
	// Nor while it runs: the look comes before the line of the wrong time.
	l.fresh = compactAfter
	if err := l.Append(Entry{far, "far"}); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := l.Find("id0"); !ok || err != nil {
		t.Fatal(ok, err)
	}
}

func TestMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memories")
	m, err := OpenMemory(vfs.OS, path, day0)
	if err != nil {
		t.Fatal(err)
	}
	hour := day0.Add(time.Hour)
	is := func(key string, now time.Time, want bool) {
		t.Helper()
		if got, err := m.Remembered(key, now); got != want || err != nil {
			t.Errorf("%.10q at %v: %v %v", key, now, got, err)
		}
	}
	key := strings.Repeat("\x00", MaxMemory)
	for _, k := range []string{key, "a b"} {
		if err := m.Remember(k, hour, day0); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Remember("a b", hour.Add(time.Hour), day0); err != nil {
		t.Fatal(err)
	}
	if err := m.Sync(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		is(key, hour, true)
		is(key, hour.Add(time.Second), false)
		is("a b", hour.Add(time.Second), true)
		is("c", day0, false)
		if m, err = OpenMemory(vfs.OS, path, day0); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"", key + "x"} {
		if err := errors.Join(m.Remember(bad, hour, day0)); !errors.Is(err, ErrBadKey) {
			t.Error(err)
		}
		if err := m.Ensure([]Entry{{hour, bad}}); !errors.Is(err, ErrBadKey) {
			t.Error(err)
		}
	}
	if err := m.Ensure([]Entry{{hour, "d"}}); err != nil {
		t.Fatal(err)
	}
	is("d", hour, true)
}

func TestMemoryForgetsWhatIsOver(t *testing.T) {
	m, err := OpenMemory(vfs.OS, filepath.Join(t.TempDir(), "memories"), day0)
	if err != nil {
		t.Fatal(err)
	}
	now := day0
	for i := range 4 * compactAfter {
		now = now.Add(time.Second)
		if err := m.Remember(fmt.Sprint("k", i), now.Add(10*time.Second), now); err != nil {
			t.Fatal(err)
		}
	}
	if m.log.lines > 3*compactAfter {
		t.Errorf("%d lines", m.log.lines)
	}
	if ok, err := m.Remembered(fmt.Sprint("k", 4*compactAfter-1), now); !ok || err != nil {
		t.Error(ok, err)
	}
}

// TestCrashes appends beside a journal, cuts the power, and demands after Ensure
// that each key journaled or synced is there, and none that never was.
func TestCrashes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		fsys := crashfs.New(1)
		if err := errors.Join(fsys.Mkdir("/u", 0o700), fsys.SyncAll("/")); err != nil {
			rt.Fatal(err)
		}
		all := map[string]bool{}
		var journal []Entry
		for round := range rapid.IntRange(1, 4).Draw(rt, "rounds") {
			l, err := Open(fsys, "/u/log", Keep, day0)
			if err == nil {
				err = l.Ensure(journal)
			}
			if err != nil {
				rt.Fatal(err)
			}
			journal = nil
			found := map[string]bool{}
			if err := l.Each(func(e Entry) bool { found[e.Key] = true; return true }); err != nil || fmt.Sprint(found) != fmt.Sprint(all) {
				rt.Fatalf("%v, want %v, %v", found, all, err)
			}
			for i := range rapid.IntRange(0, 200).Draw(rt, "appends") {
				e := Entry{day0, fmt.Sprintf("id%d-%d%s", round, i, strings.Repeat("x", i))}
				if err := l.Append(e); err != nil {
					rt.Fatal(err)
				}
				all[e.Key] = true
				journal = append(journal, e)
				if rapid.IntRange(0, 30).Draw(rt, "sync") == 0 {
					if err := l.Sync(); err != nil {
						rt.Fatal(err)
					}
					journal = nil
				}
			}
			fsys = fsys.Crash(rnd)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("1700000000 id . file\n1 x%20y .A%2Fb f g\n1 short\ntorn")
	f.Fuzz(func(t *testing.T, text string) {
		var all []Entry
		if _, _, _, err := Parse(strings.NewReader(text), func(e Entry) bool { all = append(all, e); return true }); err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			again, ok := parseLine(strings.TrimSuffix(e.line(), "\n"))
			if len(e.line()) > maxLine || !ok || again != e {
				t.Fatalf("%+v became %+v", e, again)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	l, err := Open(vfs.OS, filepath.Join(b.TempDir(), "log"), Keep, day0)
	if err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		i++
		if err := l.Append(Entry{day0, fmt.Sprint("0123456789abcdef", i)}); err != nil {
			b.Fatal(err)
		}
	}
}
