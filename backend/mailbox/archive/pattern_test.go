package archive

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"waypost/director"
	"waypost/internal/vfs"
)

const ann = director.User("ann@example.test")

func TestValidate(t *testing.T) {
	good := Config{Name: "Archive", Path: "/srv/{user}/{year}/{month}.mbox", Format: FormatMbox}
	if err := Validate([]Config{good}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/srv/{domain}/{local}/{year}", "/srv/{local}@{domain}/{name}", "/srv/{user}.{year}-{month}", "/srv/{domain}/x-{local}/{name}"} {
		if err := (Config{Name: "A", Path: path, Format: FormatMbox}).Validate(); err != nil {
			t.Error(err)
		}
	}
	if err := Validate([]Config{good, {Name: "ARCHIVE", Path: "/x/{user}", Format: FormatMaildir}}); err == nil {
		t.Error("the same name twice")
	}
	for what, c := range map[string]Config{
		"no name":            {Path: good.Path, Format: good.Format},
		"two parts":          {Name: "a/b", Path: good.Path, Format: good.Format},
		"INBOX":              {Name: "Inbox", Path: good.Path, Format: good.Format},
		"hidden name":        {Name: ".x", Path: good.Path, Format: good.Format},
		"wildcard":           {Name: "a%", Path: good.Path, Format: good.Format},
		"format":             {Name: "A", Path: good.Path, Format: "mbox.gz"},
		"relative":           {Name: "A", Path: "srv/{user}", Format: good.Format},
		"dots":               {Name: "A", Path: "/srv/../{user}", Format: good.Format},
		"no domain":          {Name: "A", Path: "/srv/{local}/{year}", Format: good.Format},
		"two in one":         {Name: "A", Path: "/srv/{local}-{domain}/{year}", Format: good.Format},
		"others' beginnings": {Name: "A", Path: "/srv/{user}-{name}", Format: good.Format},
		"others' numbers":    {Name: "A", Path: "/srv/{user}{month}", Format: good.Format},
		"numbers before":     {Name: "A", Path: "/srv/{day}{user}", Format: good.Format},
		"no user":            {Name: "A", Path: "/srv/{domain}/{year}", Format: good.Format},
		"unknown":            {Name: "A", Path: "/srv/{user}/{hour}", Format: good.Format},
		"twice":              {Name: "A", Path: "/srv/{user}/{year}/{year}", Format: good.Format},
		"brace":              {Name: "A", Path: "/srv/{user}/{year", Format: good.Format},
		"slash at the end":   {Name: "A", Path: "/srv/{user}/", Format: good.Format},
		"control characters": {Name: "A\n", Path: good.Path, Format: good.Format},
	} {
		if c.Validate() == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

func TestPath(t *testing.T) {
	for _, c := range []struct {
		pattern, name, want string
	}{
		{"/a/{domain}/{local}/{year}/{month}/{day}.mbox", "2024/05/17", "/a/example.test/ann/2024/05/17.mbox"},
		{"/a/{user}/{year}-{month}-{day}", "2024/05/17", "/a/ann@example.test/2024-05-17"},
		{"/a/{user}/x/{name}/y", "Old Mail", "/a/ann@example.test/x/Old Mail/y"},
		{"/a/{local}-{year}.{name}.mbox", "2024/x.y", "/a/ann-2024.x.y.mbox"},
		{"/a/{user}", "INBOX", "/a/ann@example.test"},
		{"/a/{user}", "x", ""},
		{"/a/{user}/{year}", "INBOX", ""},
		{"/a/{user}/{year}", "20244", ""},
		{"/a/{user}/{year}", "2024/05", ""},
		{"/a/{user}/{year}/{month}", "2024", ""},
		{"/a/{user}/{year}/{month}", "2024/../05", ""},
		{"/a/{user}/{name}", "..", ""},
		{"/a/{user}/{name}", ".", ""},
		{"/a/{user}/{name}", "", ""},
		{"/a/{user}/{name}", "../bob@example.test", ""},
		{"/a/{user}/{name}", "a\x00b", ""},
		{"/a/{user}/{name}", "a\nb", ""},
		{"/a/{user}/{name}", ".hidden", ""},
		{"/a/{user}/.{name}", ".", ""},
		{"/a/{user}/{name}/{year}", "../2024", ""},
		{"/a/{user}/{name}", "\xff", ""},
		// Of two ways to take an element apart there is one.
		{"/a/{user}/{name}-{day}", "x/1", "/a/ann@example.test/x-1"},
		{"/a/{user}/{day}{month}", "1/23", ""},
		{"/a/{user}/{day}{month}", "12/3", "/a/ann@example.test/123"},
	} {
		tr, err := Config{Name: "A", Path: c.pattern, Format: FormatMbox}.compile(ann)
		if err != nil {
			t.Fatalf("%s: %v", c.pattern, err)
		}
		got, ok := tr.path(c.name)
		if ok != (c.want != "") || ok && got != c.want {
			t.Errorf("%s, %q: %q %v, want %q", c.pattern, c.name, got, ok, c.want)
		}
	}
}

func TestUsersInPaths(t *testing.T) {
	for _, u := range []director.User{"../x@example.test", "..@example.test", "a/b@example.test", "{name}@example.test", "a\x00@x", "@x", "\xff@x"} {
		if _, err := (Config{Path: "/a/{local}/{local}{name}"}).compile(u); err == nil {
			t.Errorf("%q: taken", u)
		}
	}
	if tr, err := (Config{Path: "/a/{local}/{name}"}).compile("a.$+*b@x"); err != nil || tr.root != "/a/a.$+*b" {
		t.Error(tr, err)
	}
	tr, err := (Config{Path: "/a/{local}.*{year}"}).compile("a.b$@x")
	if err != nil {
		t.Fatal(err)
	}
	if path, ok := tr.path("2024"); !ok || path != "/a/a.b$.*2024" {
		t.Error(path, ok)
	}
}

func TestList(t *testing.T) {
	root := t.TempDir()
	for _, file := range []string{"ann/2024/05/17.mbox", "ann/2024/05/18.mbox", "ann/2023/12/01.mbox", "ann/2023/12/01.mbox.gz", "ann/2023/note", "ann/x/12/01.mbox", "bob/2024/01/01.mbox"} {
		write(t, filepath.Join(root, file), "")
	}
	write(t, filepath.Join(root, "secret"), "")
	if err := os.Symlink(filepath.Join(root, "secret"), filepath.Join(root, "ann/2024/05/19.mbox")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(root, "bob/2024"), filepath.Join(root, "ann/2022")); err != nil {
		t.Fatal(err)
	}
	tr, err := Config{Path: root + "/{local}/{year}/{month}/{day}.mbox"}.compile(ann)
	if err != nil {
		t.Fatal(err)
	}
	warn := func(err error) { t.Error(err) }
	want := []string{"2023/12/01", "2024/05/17", "2024/05/18"}
	if got := tr.list(vfs.OS, false, 100, warn); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := tr.list(vfs.OS, false, 2, warn); len(got) != 2 {
		t.Errorf("%q", got)
	}
	if got := tr.list(vfs.OS, true, 100, warn); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func FuzzPath(f *testing.F) {
	f.Add("{year}/{month}.mbox", "2024/05")
	f.Add("x{name}", "../..")
	f.Add(".{name}{day}", "./1")
	f.Add("\xbd{name}", "0")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		c := Config{Name: "A", Path: "/srv/{user}/" + pattern, Format: FormatMbox}
		if c.Validate() != nil {
			return
		}
		tr, err := c.compile(ann)
		if err != nil {
			return
		}
		path, ok := tr.path(name)
		if ok && (filepath.Clean(path) != path || !strings.HasPrefix(path, "/srv/ann@example.test/") || strings.Contains(path, "\x00")) {
			t.Fatalf("%q, %q: %q", pattern, name, path)
		}
	})
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
