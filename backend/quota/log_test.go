package quota

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/internal/vfs"
)

// newLog opens a log of a new file that holds start.
func newLog(t testing.TB, start Usage, limit Limit) (*Log, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "maildirsize")
	l := openLog(t, path, limit)
	if _, err := l.Recount(func() (Usage, error) { return start, nil }); err != nil {
		t.Fatal(err)
	}
	return l, path
}

func openLog(t testing.TB, path string, limit Limit) *Log {
	t.Helper()
	l, err := Open(vfs.OS, path, limit)
	if err != nil {
		t.Fatal(err)
	}
	l.lookEvery = 0
	t.Cleanup(func() { l.Close() })
	return l
}

func wantUsage(t testing.TB, l *Log, want Usage) {
	t.Helper()
	if got, err := l.Usage(); err != nil || got != want {
		t.Fatalf("usage %+v %v, want %+v", got, err, want)
	}
}

func add(t testing.TB, l *Log, bytes, messages int64) {
	t.Helper()
	if err := l.Add(bytes, messages); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// foreign opens the file as Dovecot would, and returns its append.
func foreign(t testing.TB, path string) func(text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return func(text string) {
		t.Helper()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAddAndUsage(t *testing.T) {
	l, path := newLog(t, Usage{100, 2}, Limit{1000, 10})
	add(t, l, 50, 1)
	add(t, l, -20, -1)
	add(t, l, 0, 0)
	if got := read(t, path); got != "1000S,10C\n100 2\n50 1\n-20 -1\n" {
		t.Fatalf("file holds %q", got)
	}
	wantUsage(t, l, Usage{130, 2})
	if limit, err := l.Limit(); err != nil || limit != (Limit{1000, 10}) {
		t.Fatalf("limit %+v %v", limit, err)
	}
	foreign(t, path)("7 1\n")
	wantUsage(t, l, Usage{137, 3})
	add(t, l, 3, 1)
	wantUsage(t, l, Usage{140, 4})
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
}

func TestMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "maildirsize")
	l := openLog(t, path, Limit{1000, 0})
	_, usageErr := l.Usage()
	for name, err := range map[string]error{"Usage": usageErr, "Add": l.Add(1, 1), "SetLimit": l.SetLimit(Limit{2000, 0}), "Sync": l.Sync()} {
		if !errors.Is(err, ErrMissing) || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s of a missing log: %v", name, err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("the file was created by something else than Recount")
	}
	errCount := errors.New("mailbox unreadable")
	if _, err := l.Recount(func() (Usage, error) { return Usage{}, errCount }); !errors.Is(err, errCount) {
		t.Fatalf("failed recount: %v", err)
	}
	if u, err := l.Usage(); u.Known() || err != nil {
		t.Fatalf("after a failed recount: %+v %v", u, err)
	}
	if _, err := l.Recount(func() (Usage, error) { return Usage{10, 1}, nil }); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path); got != "2000S\n10 1\n" {
		t.Fatalf("file holds %q", got)
	}
	// Removed under an open Log, as when a user is deleted.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := l.Add(1, 1); !errors.Is(err, ErrMissing) {
		t.Fatalf("Add to a removed log: %v", err)
	}
}

func TestCorrupt(t *testing.T) {
	for _, text := range []string{"", "junk\n", "1000S\n1 2 3\n", "1000S", strings.Repeat("\x00", 50) + "\n"} {
		l, path := newLog(t, Usage{}, Limit{})
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, usageErr := l.Usage()
		for name, err := range map[string]error{"Usage": usageErr, "Add": l.Add(1, 1), "SetLimit": l.SetLimit(Limit{5, 5})} {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s of %q: %v", name, text, err)
			}
		}
		if got := read(t, path); got != text {
			t.Errorf("%q became %q", text, got)
		}
		if _, err := l.Recount(func() (Usage, error) { return Usage{7, 1}, nil }); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); got != "5S,5C\n7 1\n" {
			t.Errorf("recounted file holds %q", got)
		}
	}
}

func TestNegativeSumAndOverflow(t *testing.T) {
	l, _ := newLog(t, Usage{10, 1}, Limit{})
	add(t, l, -30, -2)
	wantUsage(t, l, Usage{-20, -1})
	add(t, l, 1<<62, 0)
	if err := l.Add(1<<62+100, 0); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("sum beyond 64 bits: %v", err)
	}
	wantUsage(t, l, Usage{1<<62 - 20, -1})
}

func TestCoalesce(t *testing.T) {
	l, path := newLog(t, Usage{}, Limit{1 << 40, 0})
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	var want Usage
	rewrites := 0
	for i := range int64(3000) {
		before := read(t, path)
		add(t, l, i*1000, 1)
		want = Usage{want.Bytes + i*1000, want.Messages + 1}
		after := read(t, path)
		if len(after) > coalesceBytes {
			t.Fatalf("%d bytes long", len(after))
		}
		line := Usage{i * 1000, 1}.line()
		if after == before+string(line) {
			continue
		}
		rewrites++
		if lines := strings.Count(after, "\n"); lines != 3 || !strings.HasSuffix(after, "\n"+string(line)) {
			t.Fatalf("coalesced to %q", after)
		}
	}
	wantUsage(t, l, want)
	if rewrites < 5 || rewrites > 30 {
		t.Errorf("%d coalescings", rewrites)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("folder holds %v %v", entries, err)
	}
	if len(l.replaced) > maxReplaced+1 {
		t.Errorf("%d replaced files are open", len(l.replaced))
	}
}

func TestTornLineIsNotMerged(t *testing.T) {
	for _, torn := range []string{"1", "12 ", "12 3", "-", " "} {
		l, path := newLog(t, Usage{100, 2}, Limit{})
		other := openLog(t, path, Limit{})
		wantUsage(t, l, Usage{100, 2})
		foreign(t, path)(torn)
		wantUsage(t, l, Usage{100, 2})
		add(t, other, 5, 1)
		wantUsage(t, other, Usage{105, 3})
		wantUsage(t, l, Usage{105, 3})
		if got := read(t, path); got != "\n100 2\n5 1\n" {
			t.Errorf("after torn %q the file holds %q", torn, got)
		}
	}
}

// TestHalfWrittenLine is a foreign append seen between its two halves.
func TestHalfWrittenLine(t *testing.T) {
	l, path := newLog(t, Usage{100, 2}, Limit{})
	write := foreign(t, path)
	write("12")
	add(t, l, 5, 1) // coalesces, without the half
	write("00 3\n")
	wantUsage(t, l, Usage{1305, 6})
}

func TestLateForeignAppends(t *testing.T) {
	l, path := newLog(t, Usage{}, Limit{})
	clock := time.Now()
	l.now = func() time.Time { return clock }
	write := foreign(t, path)
	if err := l.SetLimit(Limit{1, 0}); err != nil {
		t.Fatal(err)
	}
	write("10 1\n")
	wantUsage(t, l, Usage{10, 1}) // by Usage
	write("20 1\n")
	add(t, l, 5, 1) // by Add
	if got := read(t, path); got != "1S\n0 0\n10 1\n20 1\n5 1\n" {
		t.Fatalf("file holds %q", got)
	}
	for range 3 { // several generations at once
		if err := l.SetLimit(Limit{2, 0}); err != nil {
			t.Fatal(err)
		}
		foreign(t, path)("100 1\n")
		if err := l.SetLimit(Limit{3, 0}); err != nil {
			t.Fatal(err)
		}
		write("1000 1\n")
	}
	wantUsage(t, l, Usage{3335, 9})
	write("7 1\n")
	if err := l.Close(); err != nil { // by Close
		t.Fatal(err)
	}
	wantUsage(t, openLog(t, path, Limit{}), Usage{3342, 10})
}

func TestLateGarbage(t *testing.T) {
	l, path := newLog(t, Usage{}, Limit{})
	write := foreign(t, path)
	if err := l.SetLimit(Limit{1, 0}); err != nil {
		t.Fatal(err)
	}
	write("what\n")
	if _, err := l.Usage(); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("late garbage: %v", err)
	}
	wantUsage(t, l, Usage{}) // told once
}

func TestReplacedFilesAreLetGo(t *testing.T) {
	l, _ := newLog(t, Usage{}, Limit{})
	clock := time.Now()
	l.now = func() time.Time { return clock }
	for i := range int64(40) {
		if err := l.SetLimit(Limit{i + 1, 0}); err != nil {
			t.Fatal(err)
		}
	}
	wantUsage(t, l, Usage{})
	if n := len(l.replaced); n != maxReplaced {
		t.Errorf("%d replaced files are open, want %d", n, maxReplaced)
	}
	clock = clock.Add(2 * keepReplaced)
	wantUsage(t, l, Usage{})
	if n := len(l.replaced); n != 0 {
		t.Errorf("%d replaced files are open after their time", n)
	}
}

func TestReplacedByOthers(t *testing.T) {
	l, path := newLog(t, Usage{100, 2}, Limit{})
	wantUsage(t, l, Usage{100, 2})
	temp := path + ".lock"
	// As long as the old file, so that only its identity tells.
	if err := os.WriteFile(temp, []byte("\n200 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, path); err != nil {
		t.Fatal(err)
	}
	wantUsage(t, l, Usage{200, 2})
	add(t, l, 1, 1)
	if got := read(t, path); got != "\n200 2\n1 1\n" {
		t.Fatalf("file holds %q", got)
	}
}

func TestRecountRemovesLeftovers(t *testing.T) {
	l, path := newLog(t, Usage{}, Limit{})
	old, young := path+tempInfix+"OLD", path+tempInfix+"YOUNG"
	for _, p := range []string{old, young} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * leftoverAge)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Recount(func() (Usage, error) { return Usage{}, nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old one: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("the young one: %v", err)
	}
}

func TestCloseAndBadLimits(t *testing.T) {
	l, path := newLog(t, Usage{}, Limit{})
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Add(1, 1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Add after Close: %v", err)
	}
	if _, err := l.Usage(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Usage after Close: %v", err)
	}
	if _, err := Open(vfs.OS, path, Limit{-1, 0}); err == nil {
		t.Error("a negative limit was taken")
	}
	if err := openLog(t, path, Limit{}).SetLimit(Limit{0, -1}); err == nil {
		t.Error("a negative limit was taken")
	}
	if _, err := Open(vfs.OS, filepath.Dir(path), Limit{}); err == nil {
		t.Error("a folder was opened")
	}
}

// TestConcurrentGoroutines has goroutines on one Log and on several, with
// foreign appenders that come and go.
func TestConcurrentGoroutines(t *testing.T) {
	l, path := newLog(t, Usage{}, Limit{})
	const workers, each = 4, 400
	logs := []*Log{l, openLog(t, path, Limit{}), openLog(t, path, Limit{})}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				if err := logs[w%len(logs)].Add(100, 1); err != nil {
					t.Error(err)
					return
				}
				if i%100 == 0 {
					if err := logs[w%len(logs)].SetLimit(Limit{int64(w + 1), 0}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for range each / 4 {
				f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
				if err == nil {
					_, err = f.WriteString("1 1\n")
					f.Close()
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for range logs { // each carries over what came late to it
		for _, l := range logs {
			if _, err := l.Usage(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, l := range logs {
		wantUsage(t, l, Usage{workers*each*100 + 2*each/4, workers*each + 2*each/4})
	}
}
