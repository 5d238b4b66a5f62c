package uidlist

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

func TestEnsure(t *testing.T) {
	for _, c := range []struct {
		name       string
		have, want []Entry
		next       uint32
		all        []Entry
		wantNext   uint32
		rewritten  bool
	}{
		{name: "nothing", wantNext: 1},
		{name: "all there", have: []Entry{{1, "", "a"}, {2, "W3", "b"}}, want: []Entry{{2, "", "b"}}, next: 3,
			all: []Entry{{1, "", "a"}, {2, "W3", "b"}}, wantNext: 3},
		{name: "one in between", have: []Entry{{1, "", "a"}, {3, "", "c"}}, want: []Entry{{2, "P9", "b"}},
			all: []Entry{{1, "", "a"}, {2, "P9", "b"}, {3, "", "c"}}, wantNext: 4, rewritten: true},
		{name: "next only", have: []Entry{{1, "", "a"}}, next: 9, all: []Entry{{1, "", "a"}}, wantNext: 9, rewritten: true},
		{name: "UID of another file", have: []Entry{{1, "", "a"}}, want: []Entry{{1, "", "b"}},
			all: []Entry{{1, "", "b"}}, wantNext: 2, rewritten: true},
		{name: "numbered anew", have: []Entry{{1, "", "a"}, {2, "", "b"}}, want: []Entry{{1, "", "a"}, {3, "", "a"}},
			all: []Entry{{2, "", "b"}, {3, "", "a"}}, wantNext: 4, rewritten: true},
		{name: "numbered anew in the file", have: []Entry{{2, "", "b"}, {3, "", "a"}}, want: []Entry{{1, "", "a"}},
			all: []Entry{{2, "", "b"}, {3, "", "a"}}, wantNext: 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			l, err := Create(vfs.OS, dir, Header{Validity: 9})
			if err == nil {
				err = l.Add(slices.Clone(c.have), nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			before := l.seen
			for range 2 {
				all, err := l.Ensure(c.have, c.want, c.next)
				if err != nil || !slices.Equal(all, c.all) || l.Header().Next != c.wantNext || (l.seen != before) != c.rewritten {
					t.Fatalf("%+v next %d %v", all, l.Header().Next, err)
				}
				if m, got, err := Load(vfs.OS, dir); err != nil || !slices.Equal(got, c.all) || m.Header().Next != c.wantNext {
					t.Fatalf("loaded %+v %v", got, err)
				}
				c.have, before, c.rewritten = all, l.seen, false
			}
		})
	}
}

func TestEnsureRefuses(t *testing.T) {
	l, err := Create(vfs.OS, t.TempDir(), Header{Validity: 9})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []Entry{{0, "", "a"}, {1, "", ""}, {1, "", "a/b"}, {maxNext, "", "a"}} {
		if _, err := l.Ensure(nil, []Entry{bad}, 0); !errors.Is(err, ErrBadEntry) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, err := l.Ensure(nil, nil, maxNext+1); !errors.Is(err, ErrBadEntry) {
		t.Error(err)
	}
}

// TestCrashes appends beside a journal, has a crash damage what was not synced,
// and demands after Ensure that each entry journaled is there, and no other.
func TestCrashes(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			rt.Fatal(err)
		}
		path := filepath.Join(dir, FileName)
		l, err := Create(vfs.OS, dir, Header{Validity: 9})
		if err != nil {
			rt.Fatal(err)
		}
		var all, journal []Entry
		synced := l.size
		for round := range rapid.IntRange(1, 4).Draw(rt, "rounds") {
			for i := range rapid.IntRange(0, 12).Draw(rt, "adds") {
				fresh := []Entry{{Base: fmt.Sprintf("m%d.%d", round, i), Fields: "W12"}, {Base: fmt.Sprintf("n%d.%d", round, i)}}
				if err := l.Add(fresh, func() []Entry { return slices.Clone(all) }); err != nil {
					rt.Fatal(err)
				}
				all, journal = append(all, fresh...), append(journal, fresh...)
				if rapid.IntRange(0, 5).Draw(rt, "checkpoint") == 0 {
					journal, synced = nil, l.size
				}
			}
			damage(rt, path, synced)
			var have []Entry
			if l, have, err = Load(vfs.OS, dir); err != nil {
				rt.Fatal(err)
			}
			if got, err := l.Ensure(have, journal, 0); err != nil || !slices.Equal(got, all) {
				rt.Fatalf("%+v, want %+v, %v", got, all, err)
			}
			if _, got, err := Load(vfs.OS, dir); err != nil || !slices.Equal(got, all) || l.Salvaged() {
				rt.Fatalf("loaded %+v, want %+v, %v", got, all, err)
			}
			journal, synced = nil, l.size
		}
	})
}

// damage does to what lies behind synced what a power cut may do.
func damage(rt *rapid.T, path string, synced int64) {
	data, err := os.ReadFile(path)
	if err != nil {
		rt.Fatal(err)
	}
	tail := data[synced:]
	tail = tail[:rapid.IntRange(0, len(tail)).Draw(rt, "kept")]
	for range rapid.IntRange(0, 3).Draw(rt, "holes") {
		from := rapid.IntRange(0, len(tail)).Draw(rt, "from")
		to := rapid.IntRange(from, len(tail)).Draw(rt, "to")
		clear(tail[from:to])
	}
	if err := os.WriteFile(path, data[:int(synced)+len(tail)], 0o600); err != nil {
		rt.Fatal(err)
	}
}

// TestPowerCuts is the same on a file system that forgets.
func TestPowerCuts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		var fsys vfs.FS = crashfs.New(1)
		if err := errors.Join(fsys.Mkdir("/u", 0o700), fsys.SyncAll("/")); err != nil {
			rt.Fatal(err)
		}
		l, err := Create(fsys, "/u", Header{Validity: 9})
		if err != nil {
			rt.Fatal(err)
		}
		var all, journal []Entry
		for round := range rapid.IntRange(1, 4).Draw(rt, "rounds") {
			for i := range rapid.IntRange(0, 200).Draw(rt, "adds") {
				fresh := []Entry{{Base: fmt.Sprintf("m%d.%d", round, i), Fields: strings.Repeat("x", i)}}
				if err := l.Add(fresh, nil); err != nil {
					rt.Fatal(err)
				}
				all, journal = append(all, fresh...), append(journal, fresh...)
				if rapid.IntRange(0, 30).Draw(rt, "sync") == 0 {
					if err := l.Sync(); err != nil {
						rt.Fatal(err)
					}
					journal = nil
				}
			}
			fsys = fsys.(*crashfs.FS).Crash(rnd)
			var have []Entry
			if l, have, err = Load(fsys, "/u"); err == nil {
				have, err = l.Ensure(have, journal, 0)
			}
			if err != nil || !slices.Equal(have, all) {
				rt.Fatalf("%+v, want %+v, %v", have, all, err)
			}
			journal = nil
		}
	})
}

// TestForeignFieldsAreKept is a file as Dovecot writes it, through every way of
// rewriting.
func TestForeignFieldsAreKept(t *testing.T) {
	dir := t.TempDir()
	const text = "3 V1700000000 N20 G9f3c Xq\n4 W12 P0001 O3 :a,S=11\n9 S7 Zz W8 :b\n"
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l, have, err := Load(vfs.OS, dir)
	if err != nil || l.Header().Next != 20 {
		t.Fatal(err)
	}
	if v, ok := have[0].Field('O'); v != "3" || !ok {
		t.Error(v, ok)
	}
	if have, err = l.Ensure(have, []Entry{{20, "", "c"}}, 0); err != nil {
		t.Fatal(err)
	}
	if err := l.Rewrite(have); err != nil {
		t.Fatal(err)
	}
	want := "3 V1700000000 N21 G9f3c Xq\n4 W12 P0001 O3 :a,S=11\n9 S7 Zz W8 :b\n20 :c\n"
	if got, err := os.ReadFile(filepath.Join(dir, FileName)); err != nil || string(got) != want {
		t.Fatalf("%q %v", got, err)
	}
	if _, again, err := Load(vfs.OS, dir); err != nil || !reflect.DeepEqual(again, have) {
		t.Fatal(again, err)
	}
}

func BenchmarkAdd(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l, err := Create(vfs.OS, b.TempDir(), Header{Validity: 9})
			if err != nil {
				b.Fatal(err)
			}
			many := make([]Entry, n)
			for i := range many {
				many[i].Base = fmt.Sprint("1700000000.M1P2.host,S=1234,W=1250,", i)
			}
			if err := l.Add(many, nil); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := l.Add([]Entry{{Base: "1700000000.M1P2.host,S=1234,W=1250"}}, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
