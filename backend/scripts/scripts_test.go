package scripts

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"waypost/internal/vfs"
)

func disk(t *testing.T, l Limits) *Store {
	t.Helper()
	return New(vfs.OS, t.TempDir(), l)
}

// show tells the whole state: name=source, the active one with a star.
func show(t rapid.TB, s *Store) string {
	t.Helper()
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, script := range list {
		src, err := s.Get(script.Name)
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(src)) != script.Size {
			t.Errorf("%q has %d bytes, listed with %d", script.Name, len(src), script.Size)
		}
		star := ""
		if script.Active {
			star = "*"
		}
		out = append(out, fmt.Sprintf("%s%s=%s", script.Name, star, src))
	}
	return strings.Join(out, " ")
}

func must(t rapid.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func want(t rapid.TB, s *Store, state string) {
	t.Helper()
	if got := show(t, s); got != state {
		t.Fatalf("have %q, want %q", got, state)
	}
}

func refuses(t rapid.TB, what string, err, with error) {
	t.Helper()
	if !errors.Is(err, with) {
		t.Errorf("%s: %v, want %v", what, err, with)
	}
}

func TestLife(t *testing.T) {
	s := disk(t, Limits{})
	want(t, s, "")
	if a, err := s.Active(); a.Name != "" || err != nil {
		t.Fatal(a, err)
	}
	must(t, s.SetActive(""))
	must(t, s.Put("b", []byte("two")), s.Put("a", []byte("one")))
	want(t, s, "a=one b=two")
	must(t, s.SetActive("a"), s.SetActive("a"))
	want(t, s, "a*=one b=two")
	refuses(t, "delete the active one", s.Delete("a"), ErrActive)
	refuses(t, "delete none", s.Delete("c"), ErrNonexistent)
	refuses(t, "activate none", s.SetActive("c"), ErrNonexistent)
	refuses(t, "rename none", s.Rename("c", "d"), ErrNonexistent)
	refuses(t, "rename over another", s.Rename("a", "b"), ErrExists)
	refuses(t, "rename over itself", s.Rename("a", "a"), ErrExists)
	_, err := s.Get("c")
	refuses(t, "get none", err, ErrNonexistent)
	must(t, s.Put("a", []byte("one again")), s.Rename("b", "c"), s.Rename("a", "z"))
	want(t, s, "c=two z*=one again")
	a, err := s.Active()
	if err != nil || a.Name != "z" || string(a.Source) != "one again" || a.Stamp != sha256.Sum256([]byte("one again")) {
		t.Fatalf("active is %+v, %v", a, err)
	}
	must(t, s.SetActive("c"), s.Delete("z"), s.SetActive(""), s.SetActive(""), s.Delete("c"))
	want(t, s, "")
}

func TestBadNames(t *testing.T) {
	s := disk(t, Limits{})
	must(t, s.Put("a", []byte("x")))
	for _, name := range []string{"", "a\x00", "a\n", "a\x7f", "a\u0085", "a\u2028", "a\u2029", "\xff", strings.Repeat("ä", 129)} {
		refuses(t, "put", s.Put(name, []byte("x")), ErrBadName)
		refuses(t, "have space", s.HaveSpace(name, 1), ErrBadName)
		refuses(t, "delete", s.Delete(name), ErrBadName)
		refuses(t, "rename", s.Rename(name, "b"), ErrBadName)
		refuses(t, "rename to", s.Rename("a", name), ErrBadName)
		_, err := s.Get(name)
		refuses(t, "get", err, ErrBadName)
		if name != "" {
			refuses(t, "activate", s.SetActive(name), ErrBadName)
		}
	}
	want(t, s, "a=x")
}

// odd are names that a file system would not take as they are.
var odd = []string{
	"..", ".", "/", "../../etc/passwd", ".hidden", "a/b", "100%", "%2F", "a.sieve", "active", "~", "a~b", "Größe", "日本語", "\u202e", "🦊",
	strings.Repeat("/", 128), strings.Repeat("日", 128), strings.Repeat("🦊", 128), strings.Repeat("🦊", 127) + "x", strings.Repeat("a", 128), " ", "a b", "CON", "\\", "?*",
}

func TestOddNames(t *testing.T) {
	s := disk(t, Limits{Scripts: 100})
	for i, name := range odd {
		must(t, s.Put(name, fmt.Append(nil, i)))
	}
	list, err := s.List()
	if err != nil || len(list) != len(odd) {
		t.Fatalf("%d listed, %v", len(list), err)
	}
	for i, name := range odd {
		src, err := s.Get(name)
		if err != nil || string(src) != fmt.Sprint(i) {
			t.Errorf("%q: %q, %v", name, src, err)
		}
		must(t, s.SetActive(name), s.Rename(name, "other"), s.Rename("other", name))
		if a, err := s.Active(); a.Name != name || err != nil {
			t.Errorf("active is %q, %v; want %q", a.Name, err, name)
		}
	}
	must(t, s.SetActive(""))
	for _, name := range odd {
		must(t, s.Delete(name))
	}
	left, err := os.ReadDir(s.dir())
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if up, err := os.ReadDir(s.root); err != nil || len(up) != 1 {
		t.Errorf("outside: %v, %v", up, err)
	}
}

func TestLimits(t *testing.T) {
	s := disk(t, Limits{Scripts: 3, ScriptBytes: 10, TotalBytes: 20})
	put := func(name string, size int) error {
		src := make([]byte, size)
		err := s.HaveSpace(name, int64(size))
		if perr := s.Put(name, src); (err == nil) != (perr == nil) {
			t.Errorf("HaveSpace says %v, Put %v", err, perr)
		}
		return err
	}
	must(t, put("a", 10), put("b", 5))
	refuses(t, "one too large", put("c", 11), ErrTooLarge)
	refuses(t, "all too large", put("c", 6), ErrQuota)
	must(t, put("c", 5))
	refuses(t, "too many", put("d", 0), ErrTooMany)
	must(t, put("a", 9), put("a", 10))
	refuses(t, "far too large", s.HaveSpace("a", 1<<62), ErrTooLarge)
	// Limits that were lowered leave what is there, and let it shrink.
	low := New(vfs.OS, s.root, Limits{Scripts: 1, ScriptBytes: 10, TotalBytes: 20})
	must(t, low.Put("c", []byte("x")), low.Rename("c", "e"), low.Delete("e"))
	refuses(t, "too many", low.HaveSpace("e", 1), ErrTooMany)
}

// Hands in the files: what is no script is left alone, and nothing breaks.
func TestForeignFiles(t *testing.T) {
	s := disk(t, Limits{})
	must(t, s.Put("a", []byte("one")), s.SetActive("a"))
	for _, name := range []string{"notes.txt", ".sieve", "%2f.sieve", "%.sieve", "%zz.sieve", "%00.sieve", "b~c.sieve", "\xff.sieve", "a?.sieve", ".waypost-tmp-1"} {
		must(t, os.WriteFile(s.in(name), nil, 0o600))
	}
	must(t, os.Mkdir(s.in("folder.sieve"), 0o700), os.Symlink("a.sieve", s.in("link.sieve")), os.WriteFile(s.in("by hand.sieve"), []byte("keep;"), 0o600))
	want(t, s, "a*=one by hand=keep;")
	_, err := s.Get("folder")
	refuses(t, "a folder", err, ErrNonexistent)
	_, err = s.Get("link")
	refuses(t, "a link", err, ErrNonexistent)
	must(t, os.Remove(s.in("a.sieve")))
	_, err = s.Active()
	refuses(t, "active one is gone", err, ErrNonexistent)
	want(t, s, "by hand=keep;")
	must(t, os.WriteFile(s.in(activeName), []byte("\n\x00\nby hand"), 0o600))
	want(t, s, "by hand*=keep;")
	must(t, os.WriteFile(s.in(activeName), nil, 0o600))
	want(t, s, "by hand=keep;")
	must(t, s.SetActive("by hand"))
	must(t, os.Truncate(s.in("by hand.sieve"), maxSource+1))
	if _, err := s.Active(); err == nil || errors.Is(err, ErrNonexistent) {
		t.Errorf("read a file too large: %v", err)
	}
}

// A renaming that was interrupted must not make a later script active.
func TestInterruptedRenaming(t *testing.T) {
	s := disk(t, Limits{})
	must(t, s.Put("old", []byte("mine")), s.SetActive("old"))
	must(t, s.writeActive("new", "old")) // as rename does, before the files change
	want(t, s, "old*=mine")
	must(t, s.Put("new", []byte("another")))
	want(t, s, "new=another old*=mine")
	must(t, s.Delete("new"), s.writeActive("new", "old"), os.Rename(s.path("old"), s.path("new")))
	want(t, s, "new*=mine")
	must(t, s.Put("old", []byte("another")), s.Delete("old"))
	want(t, s, "new*=mine")
	refuses(t, "delete the active one", s.Delete("new"), ErrActive)
}

func TestModes(t *testing.T) {
	s := disk(t, Limits{})
	must(t, s.Put("a", nil), s.SetActive("a"))
	for name, mode := range map[string]os.FileMode{"sieve": 0o700, "sieve/a.sieve": 0o600, "sieve/active": 0o600} {
		info, err := os.Stat(filepath.Join(s.root, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

func TestNoRoot(t *testing.T) {
	s := New(vfs.OS, filepath.Join(t.TempDir(), "file"), Limits{})
	must(t, os.WriteFile(s.root, nil, 0o600))
	if err := s.Put("a", nil); err == nil {
		t.Error("stored under a file")
	}
}

func FuzzNames(f *testing.F) {
	for _, name := range odd {
		f.Add(name)
	}
	f.Add("%41")
	f.Add("a%")
	f.Fuzz(func(t *testing.T, name string) {
		if plain, ok := unescape(name); ok && CheckName(plain) == nil {
			if back, ok := unescape(encode(plain)); !isLong(encode(plain)) && (!ok || back != plain) {
				t.Fatalf("%q became %q", plain, back)
			}
		}
		if CheckName(name) != nil {
			return
		}
		base := encode(name)
		if base == "" || len(base) > maxBase || base[0] == '.' || strings.ContainsAny(base, "/\x00\n") {
			t.Fatalf("%q is encoded %q", name, base)
		}
	})
}
