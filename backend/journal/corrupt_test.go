package journal

import (
	"errors"
	"strings"
	"testing"

	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

// damages are what may befall a journal of six batches in one segment, and what Open
// and Salvage make of it. The batches begin at blocks 1, 2, 3, 4, 6, 8.
var damages = []struct {
	name   string
	damage func(t *testing.T, fsys *crashfs.FS, path string)
	want   error  // of Open; nil: the log is cut
	says   string // the error's text has it
	keeps  []int  // what is replayed: with Salvage, if Open fails
	losses int    // with Salvage
}{
	{"nothing", func(*testing.T, *crashfs.FS, string) {}, nil, "", []int{0, 1, 2, 3, 4, 5}, 0},
	{"a torn tail", flip(8*blockSize + 5000), nil, "", []int{0, 1, 2, 3, 4}, 0},
	{"a header lost at the tail", zero(8, 9), nil, "", []int{0, 1, 2, 3, 4}, 0},
	{"a body in the middle", flip(3*blockSize + 100), ErrCorrupt, "offset 12288", []int{0, 1, 3, 4, 5}, 1},
	{"a header in the middle", flip(2*blockSize + 9), ErrCorrupt, "batch 2 does not check out, but batch 3 follows", []int{0, 2, 3, 4, 5}, 1},
	{"the first", zero(1, 2), ErrCorrupt, "repair --journal", []int{1, 2, 3, 4, 5}, 1},
	{"two, apart", func(t *testing.T, fsys *crashfs.FS, path string) {
		zero(2, 3)(t, fsys, path)
		zero(6, 7)(t, fsys, path)
	}, ErrCorrupt, "", []int{0, 2, 3, 5}, 2},
	{"all batches but the last", zero(1, 8), ErrCorrupt, "", []int{5}, 1},
	{"a torn one behind damage", func(t *testing.T, fsys *crashfs.FS, path string) {
		zero(2, 3)(t, fsys, path)
		flip(8*blockSize+5000)(t, fsys, path)
	}, ErrCorrupt, "", []int{0, 2, 3, 4}, 1},
	{"the file is cut short", func(t *testing.T, fsys *crashfs.FS, path string) {
		edit(t, fsys, path, func(b []byte) []byte { return b[:5*blockSize+100] })
	}, nil, "", []int{0, 1, 2}, 0},
	{"the segment's header", flip(30), ErrCorrupt, "header", nil, 1},
	{"another program's file", func(t *testing.T, fsys *crashfs.FS, path string) {
		edit(t, fsys, path, func([]byte) []byte { return []byte("hello") })
	}, ErrForeign, "", nil, 1},
	{"the segment is gone, the next is there", func(t *testing.T, fsys *crashfs.FS, path string) {
		if err := fsys.Remove(path); err != nil {
			t.Fatal(err)
		}
	}, ErrCorrupt, "missing", nil, 1},
	{"another name", func(t *testing.T, fsys *crashfs.FS, path string) {
		if err := fsys.Rename(path, segmentPath(journalDir, 2)); err != nil {
			t.Fatal(err)
		}
	}, ErrCorrupt, "by its name", nil, 1},
	{"no checkpoint file", func(t *testing.T, fsys *crashfs.FS, path string) {
		if err := fsys.Remove(master{}.path(journalDir)); err != nil {
			t.Fatal(err)
		}
	}, ErrCorrupt, "no checkpoint file", []int{0, 1, 2, 3, 4, 5}, 1},
	{"a spoilt checkpoint file", func(t *testing.T, fsys *crashfs.FS, path string) {
		edit(t, fsys, master{}.path(journalDir), func(b []byte) []byte { b[70]++; return b })
	}, ErrCorrupt, "checkpoint", []int{0, 1, 2, 3, 4, 5}, 1},
}

func flip(off int) func(*testing.T, *crashfs.FS, string) {
	return func(t *testing.T, fsys *crashfs.FS, path string) {
		edit(t, fsys, path, func(b []byte) []byte { b[off] ^= 4; return b })
	}
}

func zero(from, to int) func(*testing.T, *crashfs.FS, string) {
	return func(t *testing.T, fsys *crashfs.FS, path string) {
		edit(t, fsys, path, func(b []byte) []byte { clear(b[from*blockSize : to*blockSize]); return b })
	}
}

func TestDamage(t *testing.T) {
	for _, c := range damages {
		t.Run(c.name, func(t *testing.T) {
			fsys, all := logged(t, 6)
			c.damage(t, fsys, firstSegment(t, fsys))
			o := options(fsys)
			j, err := Open(o)
			if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Fatal(err)
			}
			if err != nil {
				o.Salvage = true
				j = mustOpen(t, o)
			}
			var want []string
			for _, i := range c.keeps {
				want = append(want, all[i])
			}
			wantDatas(t, replayAll(t, j), want...)
			if losses := j.Losses(); len(losses) != c.losses {
				t.Fatal(losses)
			}
			// What was salvaged leaves a sound journal.
			if err := j.Start(); err != nil {
				t.Fatal(err)
			}
			mustAppend(t, j, "ann", []byte("new"))
			o.Salvage = false
			j = mustOpen(t, options(crash(fsys, j, 1)))
			wantDatas(t, replayAll(t, j), "new")
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestOtherVersionIsLeftAlone(t *testing.T) {
	for _, c := range []struct{ name, old, new string }{
		{"checkpoint", masterTitle + "1", masterTitle + "2"},
		{"segment", segmentMagic + "\x01", segmentMagic + "\x02"},
	} {
		fsys, _ := logged(t, 2)
		path := firstSegment(t, fsys)
		if c.name == "checkpoint" {
			path = master{}.path(journalDir)
		}
		edit(t, fsys, path, func(b []byte) []byte { return []byte(strings.Replace(string(b), c.old, c.new, 1)) })
		for _, salvage := range []bool{false, true} {
			o := options(fsys)
			o.Salvage = salvage
			if _, err := Open(o); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), path) {
				t.Error(c.name, err)
			}
		}
	}
}

func TestAnothersJournal(t *testing.T) {
	fsys, _ := logged(t, 2)
	other, _ := logged(t, 2)
	path := firstSegment(t, fsys)
	b, err := vfs.ReadFile(other, path)
	if err != nil {
		t.Fatal(err)
	}
	edit(t, fsys, path, func([]byte) []byte { return b })
	if _, err := Open(options(fsys)); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "belongs to journal") {
		t.Fatal(err)
	}
}

// The checkpoint file knows how far the log went, so that a tail is missed even if
// nothing follows it.
func TestMissingTailBeforeCheckpoint(t *testing.T) {
	fsys := newFS(t, 1)
	j := mustStart(t, options(fsys))
	first := mustAppend(t, j, "ann", []byte("passed"))
	mustAppend(t, j, "ann", []byte("kept"))
	mustAppend(t, j, "ann", []byte("lost"))
	first.Applied()
	if err := j.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	fsys = crash(fsys, j, 1)
	zero(3, 4)(t, fsys, firstSegment(t, fsys))
	if _, err := Open(options(fsys)); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "though batch 3 was durable") {
		t.Fatal(err)
	}
	o := options(fsys)
	o.Salvage = true
	j = mustOpen(t, o)
	wantDatas(t, replayAll(t, j), "kept")
	if l := j.Losses(); len(l) != 1 || l[0].Before != 0 || l[0].After != first.LSN()+1 {
		t.Fatal(l)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}
