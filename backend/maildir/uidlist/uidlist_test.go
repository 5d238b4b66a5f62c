package uidlist

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
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
	if _, _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := Create(dir, Header{Validity: 9, GUID: "00ff", Other: []string{"Zz"}})
	if err != nil {
		t.Fatal(err)
	}
	live := []Entry{{Base: "a", Fields: "P1"}, {Base: "b"}}
	if err := l.Add(live, nil); err != nil {
		t.Fatal(err)
	}
	tear(t, dir, "3 :to")
	l, got, err := Load(dir)
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

func TestFailedAddGivesNothing(t *testing.T) {
	dir := t.TempDir()
	l, err := Create(dir, Header{Validity: 9})
	if err != nil {
		t.Fatal(err)
	}
	good := l.path
	l.path = filepath.Join(dir, "none", FileName)
	if err := l.Add([]Entry{{Base: "a"}}, nil); err == nil {
		t.Fatal("no error")
	}
	l.path = good
	tear(t, dir, "1 :a\n") // what the failed append may have left
	fresh := []Entry{{Base: "b"}}
	if err := l.Add(fresh, func() []Entry { return nil }); err != nil || fresh[0].UID != 1 {
		t.Fatal(fresh, err)
	}
	if _, got, err := Load(dir); err != nil || !reflect.DeepEqual(got, fresh) {
		t.Fatal(got, err)
	}
}

func TestTidy(t *testing.T) {
	l, err := Create(t.TempDir(), Header{Validity: 9})
	if err != nil {
		t.Fatal(err)
	}
	many := make([]Entry, 2*tidyAfter)
	for i := range many {
		many[i].Base = strings.Repeat("x", i+1)
	}
	if err := l.Add(many, nil); err != nil {
		t.Fatal(err)
	}
	for _, e := range many[:tidyAfter+1] {
		l.Forget(e.Base)
		l.Forget(e.Base)
	}
	if !l.Untidy() {
		t.Fatal("not untidy")
	}
	if err := l.Rewrite(many[tidyAfter+1:]); err != nil || l.Untidy() || l.Header().Next != 2*tidyAfter+1 {
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
