package uidlist

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"waypost/internal/vfs"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, file string
		want       []Entry
		next       uint32
		torn       int64
		corrupt    bool
	}{
		{name: "ordinary", file: "3 V7 N5 Gabc Xfoo\n1 :a\n3 W10 Puidl S9 :b,S=1\n", next: 5,
			want: []Entry{{1, "", "a"}, {3, "W10 Puidl S9", "b,S=1"}}},
		{name: "hole", file: "3 V7 N1\n1 :a\n\x00\x00\x00\x00\x00\n3 :c\n", next: 4, torn: 11, want: []Entry{{1, "", "a"}}},
		{name: "hole in a line", file: "3 V7 N1\n1 :a\n2 :b\x00b\n9 :c\n4 :", next: 10, torn: 15, want: []Entry{{1, "", "a"}}},
		{name: "hole over lines", file: "3 V7 N1\n1 :a\n2 \x00\x00 :c\n", next: 2, torn: 8, want: []Entry{{1, "", "a"}}},
		{name: "large hole", file: "3 V7 N1\n1 :a\n" + strings.Repeat("\x00", 3*maxLine) + "\n7 :c\n", next: 8, torn: 3*maxLine + 6,
			want: []Entry{{1, "", "a"}}},
		{name: "used up behind a hole", file: "3 V7 N1\n\x00\n4294967290 :a\n", corrupt: true},
		{name: "long line", file: "3 V7 N1\n1 :" + strings.Repeat("a", maxLine) + "\n", corrupt: true},
		{name: "hole in the header", file: "3 V7\x00N1\n1 :a\n", corrupt: true},
		{name: "next below the last", file: "3 V7 N2\n4 :a\n", next: 5, want: []Entry{{4, "", "a"}}},
		{name: "torn end", file: "3 V7 N1\n1 :a\n2 :bcd", next: 2, torn: 6, want: []Entry{{1, "", "a"}}},
		{name: "zeros at the end", file: "3 V7 N1\n1 :a\n\x00\x00\x00\n", next: 2, torn: 4, want: []Entry{{1, "", "a"}}},
		{name: "last line counts", file: "3 V7 N1\n1 :a\n2 :b\n3 :a\n", next: 4, want: []Entry{{2, "", "b"}, {3, "", "a"}}},
		{name: "flags cut", file: "3 V7 N1\n1 :a:2,S\n", next: 2, want: []Entry{{1, "", "a"}}},
		{name: "empty", file: "", corrupt: true},
		{name: "version 1", file: "1 5 6\n", corrupt: true},
		{name: "no validity", file: "3 N1\n", corrupt: true},
		{name: "descending", file: "3 V7 N1\n2 :a\n1 :b\n", corrupt: true},
		{name: "used up", file: "3 V7 N4294967295\n", corrupt: true},
		{name: "garbage", file: "3 V7 N1\nfoo\n1 :a\n", corrupt: true},
		{name: "no colon", file: "3 V7 N1\n1 a\n", corrupt: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Parse(strings.NewReader(c.file))
			if c.corrupt {
				if !errors.Is(err, ErrCorrupt) {
					t.Fatalf("got %+v, %v", p, err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(p.Entries, c.want) || p.Header.Next != c.next || int64(len(c.file))-p.Size != c.torn {
				t.Fatalf("got %+v, %v", p, err)
			}
		})
	}
}

func TestAddSurvives(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := Load(vfs.OS, dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := Create(vfs.OS, dir, Header{Validity: 9, GUID: "00ff", Other: []string{"Zz"}})
	if err != nil {
		t.Fatal(err)
	}
	live := []Entry{{Base: "a", Fields: "P1"}, {Base: "b"}}
	if err := l.Add(live, nil); err != nil {
		t.Fatal(err)
	}
	tear(t, dir, "3 :to")
	l, got, err := Load(vfs.OS, dir)
	if err != nil || !reflect.DeepEqual(got, []Entry{{1, "P1", "a"}, {2, "", "b"}}) || l.Header().Next != 3 {
		t.Fatalf("%+v %v", got, err)
	}
	// a leaves and comes back: it gets a new UID, and the old line is gone.
	l.Forget("a")
	back := []Entry{{Base: "a"}}
	if err := l.Add(back, func() []Entry { return got[1:] }); err != nil || back[0].UID != 3 {
		t.Fatal(back, err)
	}
	if !l.Intact() {
		t.Error("own write taken for a foreign one")
	}
	if data, _ := os.ReadFile(filepath.Join(dir, FileName)); string(data) != "3 V9 N4 G00ff Zz\n2 :b\n3 :a\n" {
		t.Errorf("file %q", data)
	}
	tear(t, dir, "x")
	if l.Intact() {
		t.Error("foreign write not seen")
	}
}

// failing is a file system of which the next so many opens fail.
type failing struct {
	vfs.FS
	opens int
}

func (f *failing) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	if f.opens > 0 {
		f.opens--
		return nil, syscall.EIO
	}
	return f.FS.OpenFile(name, flag, perm)
}

func TestFailedAddGivesNothing(t *testing.T) {
	dir, fsys := t.TempDir(), &failing{FS: vfs.OS}
	l, err := Create(fsys, dir, Header{Validity: 9})
	if err != nil {
		t.Fatal(err)
	}
	fsys.opens = 1
	fresh := []Entry{{Base: "a"}}
	if err := l.Add(fresh, nil); !errors.Is(err, syscall.EIO) || fresh[0].UID != 0 {
		t.Fatal(fresh, err)
	}
	if !l.Intact() || !l.Untidy() {
		t.Fatal("not as it was, or not to be rewritten")
	}
	tear(t, dir, "1 :a\n") // what the failed append may have left
	fresh[0].Base = "b"
	if err := l.Add(fresh, func() []Entry { return nil }); err != nil || fresh[0].UID != 1 {
		t.Fatal(fresh, err)
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	if _, got, err := Load(vfs.OS, dir); err != nil || !reflect.DeepEqual(got, fresh) {
		t.Fatal(got, err)
	}
}

// folderless is a file system that has no descriptor for folders while it is full.
type folderless struct {
	vfs.FS
	full bool
}

func (f *folderless) SyncDir(name string) error {
	if f.full {
		return &fs.PathError{Op: "syncdir", Path: name, Err: syscall.EMFILE}
	}
	return f.FS.SyncDir(name)
}

// TestReplacedWithoutDescriptors: the new file is there, and only its folder could
// not be opened to be synced. That is no doubt, and the same entries can be added
// again.
func TestReplacedWithoutDescriptors(t *testing.T) {
	dir, fsys := t.TempDir(), &folderless{FS: vfs.OS}
	l, err := Create(fsys, dir, Header{Validity: 9})
	if err != nil {
		t.Fatal(err)
	}
	live := []Entry{{Base: "a"}}
	if err := l.Add(live, nil); err != nil {
		t.Fatal(err)
	}
	fsys.full = true
	if err := l.Rewrite(live); !errors.Is(err, syscall.EMFILE) || !l.Intact() || !l.Untidy() {
		t.Fatal("a whole file: ", err, l.Intact(), l.Untidy())
	}
	fresh := []Entry{{UID: 2, Base: "b"}}
	add := func() error { return l.Add(fresh, func() []Entry { return live }) }
	if err := add(); !errors.Is(err, syscall.EMFILE) || !l.Intact() || l.Header().Next != 2 {
		t.Fatal("with another entry: ", err, l.Intact(), l.Header())
	}
	fsys.full = false
	if err := add(); err != nil || l.Untidy() {
		t.Fatal("again: ", err, l.Untidy())
	}
	if _, got, err := Load(vfs.OS, dir); err != nil || !reflect.DeepEqual(got, append(live, fresh...)) {
		t.Fatal(got, err)
	}
}

func TestAddTakesGivenUIDs(t *testing.T) {
	dir := t.TempDir()
	l, err := Create(vfs.OS, dir, Header{Validity: 9, Next: 5})
	if err != nil {
		t.Fatal(err)
	}
	fresh := []Entry{{Base: "a"}, {UID: 8, Base: "b"}, {Base: "c"}}
	if err := l.Add(fresh, nil); err != nil || fresh[0].UID != 5 || fresh[1].UID != 8 || fresh[2].UID != 9 || l.Header().Next != 10 {
		t.Fatal(fresh, err)
	}
	for _, bad := range []Entry{{UID: 9, Base: "d"}, {Base: ""}, {Base: "x\ny"}, {Base: "x:y"}, {Base: "x", Fields: "a\x00"}, {UID: maxNext, Base: "e"}} {
		if err := l.Add([]Entry{{Base: "good"}, bad}, nil); !errors.Is(err, ErrBadEntry) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, got, err := Load(vfs.OS, dir); err != nil || !reflect.DeepEqual(got, fresh) {
		t.Fatal(got, err)
	}
	if l, err = Create(vfs.OS, dir, Header{Validity: 9, Next: maxNext - 1}); err != nil {
		t.Fatal(err)
	}
	if err := l.Add([]Entry{{Base: "last"}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Add([]Entry{{Base: "more"}}, nil); !errors.Is(err, ErrBadEntry) && !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
}

func TestTidy(t *testing.T) {
	l, err := Create(vfs.OS, t.TempDir(), Header{Validity: 9})
	if err != nil {
		t.Fatal(err)
	}
	const n = 1000
	many := make([]Entry, n)
	for i := range many {
		many[i].Base = fmt.Sprint("x", i)
	}
	if err := l.Add(many, nil); err != nil {
		t.Fatal(err)
	}
	forgotten := 0
	for ; !l.Untidy(); forgotten++ {
		l.Forget(many[forgotten].Base)
		l.Forget(many[forgotten].Base)
	}
	if forgotten <= tidyAfter+(n-forgotten)/4-1 || forgotten > tidyAfter+n/4 {
		t.Errorf("untidy after %d", forgotten)
	}
	if err := l.Rewrite(many[forgotten:]); err != nil || l.Untidy() || l.Header().Next != n+1 {
		t.Fatal(err, l.Header())
	}
}

func tear(t *testing.T, dir, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, FileName), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("3 V7 N5 Gabc Xfoo\n1 :a\n3 W10 Puidl S9 :b,S=1\n")
	f.Add("3 V7 N1\n1 :a\n2 :b\n3 :a\n4 :x")
	f.Fuzz(func(t *testing.T, file string) {
		p, err := Parse(strings.NewReader(file))
		if err != nil {
			return
		}
		var again strings.Builder
		again.Write(p.Header.line())
		for _, e := range p.Entries {
			again.Write(e.appendLine(nil))
		}
		q, err := Parse(strings.NewReader(again.String()))
		if err != nil || !reflect.DeepEqual(p.Entries, q.Entries) || !reflect.DeepEqual(p.Header, q.Header) {
			t.Fatalf("%q: %+v became %+v, %v", file, p, q, err)
		}
	})
}
