package name

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		file        string
		ok          bool
		base, flags string
		size, wire  int64
		unique      string
	}{
		{"1.M2P3Q4.h,S=10,W=12:2,FS", true, "1.M2P3Q4.h,S=10,W=12", "FS", 10, 12, "1.M2P3Q4.h"},
		{"1.2.h", true, "1.2.h", "", -1, -1, "1.2.h"},
		{"1.2.h,W=5:2,abZ,x=1", true, "1.2.h,W=5", "abZ", -1, 5, "1.2.h"},
		{"1.2.h:1,exp", true, "1.2.h", "", -1, -1, "1.2.h"},
		{"1,S=x,W=-1", true, "1,S=x,W=-1", "", -1, -1, "1"},
		{"1,S=99999999999999999999", true, "1,S=99999999999999999999", "", -1, -1, "1"},
		{".hidden", false, "", "", 0, 0, ""},
		{"", false, "", "", 0, 0, ""},
		{":2,S", false, "", "", 0, 0, ""},
		{"a\nb", false, "", "", 0, 0, ""},
	} {
		n, ok := Parse(c.file)
		if ok != c.ok || n.Base != c.base || n.Flags != c.flags {
			t.Errorf("Parse(%q) = %+v, %v", c.file, n, ok)
			continue
		}
		if !ok {
			continue
		}
		if s, w := Sizes(n.Base); s != c.size || w != c.wire {
			t.Errorf("Sizes(%q) = %d, %d", n.Base, s, w)
		}
		if u := Unique(n.Base); u != c.unique {
			t.Errorf("Unique(%q) = %q", n.Base, u)
		}
	}
}

func TestGeneratorAscends(t *testing.T) {
	at := time.Unix(1700000000, 999999000)
	g := NewGenerator("a/b:c,d", 1, func() time.Time { return at })
	last := g.Next()
	if !strings.HasSuffix(last, `.a\057b\072c\054d`) || !strings.HasPrefix(last, "1700000000.M999999P1Q") {
		t.Fatalf("name %q", last)
	}
	for range 1000 {
		next := g.Next()
		if placeOf(last, 0).compare(placeOf(next, 0)) >= 0 {
			t.Fatalf("%q is not before %q", last, next)
		}
		last = next
	}
}

func FuzzParse(f *testing.F) {
	f.Add("1.M2P3Q4.h,S=10,W=12:2,FS")
	f.Add("1:2,S,extra")
	f.Add("1:1,S")
	f.Fuzz(func(t *testing.T, file string) {
		n, ok := Parse(file)
		if !ok {
			return
		}
		again, ok := Parse(n.String())
		if !ok || again != n {
			t.Fatalf("%q: %+v became %+v", file, n, again)
		}
		Sizes(n.Base)
		if sec, micro := arrived(n.Base); sec < 0 || micro < 0 {
			t.Fatalf("%q: %d, %d", file, sec, micro)
		}
	})
}

func TestSort(t *testing.T) {
	type file struct {
		base string
		was  int
	}
	want := []file{
		{"other-make", 6}, // it tells no time
		{"9.a", 4}, {"10.M0P1Q1.h", 7}, {"10.M5P1Q2.h", 1}, {"10.M5P1Q2.h", 3}, {"10.M5P2Q1.h", 0}, {"10.M10P1Q1.h", 5}, {"11.x", 2},
	}
	got := slices.Clone(want)
	slices.SortFunc(got, func(a, b file) int { return a.was - b.was })
	Sort(got, func(f file) string { return f.base })
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestGenerated(t *testing.T) {
	g := NewGenerator("mail.example.test", 7, time.Now)
	ours := WithSizes(g.Next(), 5, 6)
	for base, want := range map[string]bool{
		ours: true, "1.M2P3Q4.h,S=5,W=6": true,
		"": false, g.Next(): false, ours + ",X": false, "1.M2P3Q4,S=5,W=6": false, "1.M2P3Q4.,S=5,W=6": false,
		"1.M2P3.h,S=5,W=6": false, "1.MP3Q4.h,S=5,W=6": false, "1.M2P3Q4.h,S=5": false, "1.M2P3Q4V5I6.h,S=5,W=6": false,
	} {
		if got := Generated(base); got != want {
			t.Errorf("%q: %v", base, got)
		}
	}
}

func TestMade(t *testing.T) {
	at := time.Unix(1700000000, 0)
	g := NewGenerator("h", 1, func() time.Time { return at.Add(time.Millisecond) })
	if got, ok := Made(WithSizes(g.Next(), 1, 2)); !ok || !got.Equal(at) {
		t.Error(got, ok)
	}
	if _, ok := Made("1700000000.M1P1.other"); ok {
		t.Error("knows when another program made a name")
	}
}
