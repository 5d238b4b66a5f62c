package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"waypost/internal/vfs"
)

var day0 = time.Unix(1700000000, 0)

const start = 1700000000 << 20

func folder(dir string) Folder { return Folder{Dir: dir, GUID: "00ff", Validity: 7, Next: 5} }

func load(t testing.TB, dir string, unclean bool) *State {
	t.Helper()
	s, err := Load(vfs.OS, folder(dir), day0, unclean)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func apply(t testing.TB, s *State, records ...Record) {
	t.Helper()
	if err := s.Apply(records...); err != nil {
		t.Fatal(err)
	}
}

func next(t testing.TB, s *State) uint64 {
	t.Helper()
	n, err := s.NextModSeq()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestBeginsAndKeeps(t *testing.T) {
	dir := t.TempDir()
	s := load(t, dir, false)
	if s.Highest() != start || s.ModSeq(1) != start || s.ModSeq(5) != start {
		t.Fatal(s.Highest(), s.ModSeq(1), s.ModSeq(5))
	}
	if _, complete := s.ExpungedSince(start - 1); complete {
		t.Error("knows of expunges before it began")
	}
	a, b := next(t, s), next(t, s)
	if a != start+1 || b != start+2 || s.Highest() != start {
		t.Fatal(a, b, s.Highest())
	}
	apply(t, s, Change(a, 5, 6), Save(day0, 5), SetAttribute(a, "acl/a b", "x=\n\x00"), SetAttribute(a, "empty", ""))
	apply(t, s, SetMark(b, "keyword/30", "", 5, 6), SetMark(b, "email", "M1", 6), RemoveMark(b+1, "email", 5))
	apply(t, s, Change(b, 2), Expunge(b+2, 6, 1), SetAttribute(b, "gone", "1"), RemoveAttribute(b+1, "gone"))
	for range 2 {
		if s.Highest() != b+2 || s.ModSeq(5) != a || s.ModSeq(2) != b || s.ModSeq(3) != start || s.ModSeq(9) == 0 {
			t.Error(s.Highest(), s.ModSeq(5), s.ModSeq(2), s.ModSeq(3))
		}
		if gone, complete := s.ExpungedSince(b + 1); !complete || !slices.Equal(gone, []Range{{1, 1}, {6, 6}}) {
			t.Error(gone, complete)
		}
		if gone, complete := s.ExpungedSince(b + 2); !complete || len(gone) != 0 {
			t.Error(gone, complete)
		}
		if d, ok := s.SaveDate(5); !ok || !d.Equal(day0) {
			t.Error(d, ok)
		}
		if _, ok := s.SaveDate(2); ok {
			t.Error("a save date from nowhere")
		}
		if v, ok := s.Attribute("acl/a b"); v != "x=\n\x00" || !ok {
			t.Errorf("%q %v", v, ok)
		}
		if v, ok := s.Attribute("empty"); v != "" || !ok || !slices.Equal(s.Attributes(), []string{"acl/a b", "empty"}) {
			t.Error(v, ok, s.Attributes())
		}
		if v, ok := s.Mark(6, "email"); v != "" || ok {
			t.Error("a mark of an expunged message", v, ok)
		}
		if !slices.Equal(s.Marks(5), []string{"keyword/30"}) || len(s.Marks(6)) != 0 {
			t.Error(s.Marks(5), s.Marks(6))
		}
		if err := errors.Join(s.Sync(), s.rewrite()); err != nil {
			t.Fatal(err)
		}
		s = load(t, dir, false)
	}
}

func TestHighestNeverGoesBack(t *testing.T) {
	dir := t.TempDir()
	s := load(t, dir, false)
	apply(t, s, Change(next(t, s), 1))
	top := s.Highest()
	for i := range 5 {
		s = load(t, dir, i%2 == 0)
		if s.Highest() < top {
			t.Fatalf("%d after %d", s.Highest(), top)
		}
		given := next(t, s)
		if given <= top || s.Highest() < top {
			t.Fatalf("given %d, highest %d", given, s.Highest())
		}
		top = s.Highest()
	}
	if top < start+ceilingStep {
		t.Error("an unclean load did not go over the ceiling")
	}
	if err := os.Remove(filepath.Join(dir, FileName)); err != nil {
		t.Fatal(err)
	}
	s, err := Load(vfs.OS, folder(dir), day0.Add(time.Second), true)
	if err != nil || s.Highest() <= top || s.ModSeq(1) <= top {
		t.Fatal(s.Highest(), err)
	}
}

func TestCeiling(t *testing.T) {
	dir := t.TempDir()
	s := load(t, dir, false)
	apply(t, s, Change(start+3*ceilingStep, 1))
	if s.ceiling < start+3*ceilingStep || load(t, dir, true).Highest() != s.ceiling {
		t.Error("a record over the ceiling")
	}
	for _, bad := range []Record{Change(0, 1), Change(maxModSeq, 1), Change(1, 0), SetAttribute(1, "", "x"), SetMark(1, strings.Repeat("k", MaxKey+1), "", 1), SetAttribute(1, "k", strings.Repeat("v", MaxValue+1))} {
		if err := s.Apply(Change(start+1, 9), bad); !errors.Is(err, ErrBadRecord) {
			t.Errorf("%.100v: %v", bad, err)
		}
	}
	if err := s.Apply(Change(maxModSeq-2, 1)); !errors.Is(err, ErrUsedUp) {
		t.Error(err)
	}
	if s.ModSeq(9) == start+1 {
		t.Error("half of what was refused counts")
	}
}

func TestOtherFolder(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(f *Folder)
		same   bool
		attrs  int
	}{
		{"the same", func(f *Folder) {}, true, 1},
		{"GUID unknown", func(f *Folder) { f.GUID = "" }, true, 1},
		{"numbered anew", func(f *Folder) { f.Validity++ }, false, 1},
		{"another GUID", func(f *Folder) { f.GUID = "11" }, false, 0},
	} {
		dir := t.TempDir()
		s := load(t, dir, false)
		apply(t, s, Change(next(t, s), 1), SetAttribute(next(t, s), "a", "b"))
		f := folder(dir)
		c.change(&f)
		again, err := Load(vfs.OS, f, day0, false)
		if err != nil || len(again.Attributes()) != c.attrs || (again.ModSeq(1) == s.ModSeq(1)) != c.same || again.Highest() < s.Highest() {
			t.Errorf("%s: %v %v %d %v", c.name, again.Highest(), again.ModSeq(1), len(again.Attributes()), err)
		}
	}
}

func TestDamage(t *testing.T) {
	for _, unclean := range []bool{false, true} {
		dir := t.TempDir()
		path := filepath.Join(dir, FileName)
		s := load(t, dir, false)
		a, b, c := next(t, s), next(t, s), next(t, s)
		apply(t, s, Change(a, 1))
		apply(t, s, Change(b, 2))
		apply(t, s, Change(c, 3), SetAttribute(c, "k", "v"))
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := strings.Index(string(data), fmt.Sprintf("m %d 2", b))
		clear(data[at-5 : at+5])
		if err := os.WriteFile(path, append(data, "00000000 m 1"...), 0o600); err != nil {
			t.Fatal(err)
		}
		s = load(t, dir, unclean)
		if v, _ := s.Attribute("k"); v != "v" || s.Highest() < start+ceilingStep {
			t.Errorf("unclean %v: %q %d", unclean, v, s.Highest())
		}
		if kept := s.ModSeq(3) == c && s.ModSeq(1) == a; kept != unclean {
			t.Errorf("unclean %v: %d %d", unclean, s.ModSeq(3), s.ModSeq(1))
		}
		if !unclean && s.ModSeq(1) != s.Highest() {
			t.Error("a change may be missed")
		}
		if err := s.Ensure(Change(b, 2)); err != nil {
			t.Fatal(err)
		}
		if got := load(t, dir, false).ModSeq(2); got < b {
			t.Error(got)
		}
		if data, err = os.ReadFile(path); err != nil || strings.Contains(string(data), "\x00") || strings.HasSuffix(string(data), "m 1") {
			t.Error("damage is left")
		}
	}
}

func TestVersionAndDistrust(t *testing.T) {
	dir := t.TempDir()
	s := load(t, dir, false)
	apply(t, s, Change(next(t, s), 1), Expunge(next(t, s), 2))
	before := s.Highest()
	if err := s.Distrust(); err != nil || s.ModSeq(1) <= before || s.ModSeq(99) <= before {
		t.Fatal(err, s.ModSeq(1))
	}
	if _, complete := s.ExpungedSince(before); complete || next(t, s) <= s.Highest() {
		t.Error("history kept")
	}
	text := appendLine(nil, []byte("v 2 00ff 7"))
	if err := os.WriteFile(filepath.Join(dir, FileName), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(vfs.OS, folder(dir), day0, true); !errors.Is(err, ErrVersion) {
		t.Fatal(err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	dir := t.TempDir()
	s := load(t, dir, false)
	var last uint64
	for i := range uint32(maxHistory + 10) {
		last = next(t, s)
		apply(t, s, Expunge(last, 2*i+1))
	}
	s = load(t, dir, false)
	if n := len(s.history); n > maxHistory || n < maxHistory/2 {
		t.Errorf("%d ranges", n)
	}
	if _, complete := s.ExpungedSince(start + 1); complete {
		t.Error("complete, and was cut")
	}
	if gone, complete := s.ExpungedSince(last - 100); !complete || len(gone) != 100 {
		t.Error(len(gone), complete)
	}
	// More at once than there is room for.
	many := make([]uint32, maxHistory+1)
	for i := range many {
		many[i] = 1_000_000 + 2*uint32(i)
	}
	at := next(t, s)
	apply(t, s, Expunge(at, many...))
	if _, complete := s.ExpungedSince(at - 1); complete || len(s.history) != 0 {
		t.Error("complete, and has no room")
	}
	if _, complete := s.ExpungedSince(at); !complete {
		t.Error("not complete")
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

func TestFailedApplyIsTriedAgain(t *testing.T) {
	dir, fsys := t.TempDir(), &failing{FS: vfs.OS}
	s, err := Load(fsys, folder(dir), day0, false)
	if err != nil {
		t.Fatal(err)
	}
	m := next(t, s)
	fsys.opens = 1
	if err := s.Apply(Change(m, 9)); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	apply(t, s, Change(m, 9))
	if got := load(t, dir, false).ModSeq(9); got != m {
		t.Fatal(got, m)
	}
	fsys.opens = 1
	if err := s.Apply(Change(start+2*ceilingStep, 9)); !errors.Is(err, syscall.EIO) || s.ModSeq(9) != m {
		t.Fatal(err, s.ModSeq(9))
	}
}

func TestMemoryAndCompaction(t *testing.T) {
	dir := t.TempDir()
	s := load(t, dir, false)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 100_000
	changeAll := func() {
		var batch []Record
		for i := range uint32(n) {
			if batch = append(batch, Change(next(t, s), i+1)); len(batch) == 100 {
				apply(t, s, batch...)
				batch = nil
			}
		}
	}
	changeAll()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := int64(after.HeapAlloc) - int64(before.HeapAlloc); used > 4<<20 {
		t.Errorf("%d bytes for %d messages", used, n)
	}
	changeAll()
	changeAll()
	info, err := os.Stat(filepath.Join(dir, FileName))
	if err != nil || info.Size() > 2*n*40 {
		t.Errorf("%d bytes %v", info.Size(), err)
	}
	again := load(t, dir, false)
	if again.Highest() != s.Highest() || again.modSeqs.len() != n || again.ModSeq(n) != s.ModSeq(n) {
		t.Error(again.Highest(), again.modSeqs.len())
	}
}

func BenchmarkApply(b *testing.B) {
	for _, n := range []uint32{1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := load(b, b.TempDir(), false)
			all := make([]Record, n)
			for i := range n {
				all[i] = Change(next(b, s), i+1)
			}
			apply(b, s, all...)
			if err := s.rewrite(); err != nil {
				b.Fatal(err)
			}
			uid := uint32(0)
			for b.Loop() {
				uid = (uid*7919 + 13) % n
				apply(b, s, Change(next(b, s), uid+1))
			}
		})
	}
}

func TestPeekAndEachMark(t *testing.T) {
	dir := t.TempDir()
	if _, is, err := Peek(vfs.OS, dir, "use"); is || err != nil {
		t.Fatal(is, err)
	}
	s := load(t, dir, false)
	apply(t, s, SetAttribute(next(t, s), "use", "a b"), SetAttribute(next(t, s), "other", "c"), SetMark(next(t, s), "k", "v", 1, 3))
	apply(t, s, SetAttribute(next(t, s), "use", "d"), RemoveAttribute(next(t, s), "other"), RemoveMark(next(t, s), "k", 3))
	if text, is, err := Peek(vfs.OS, dir, "use"); text != "d" || !is || err != nil {
		t.Fatal(text, is, err)
	}
	if _, is, err := Peek(vfs.OS, dir, "other"); is || err != nil {
		t.Fatal(is, err)
	}
	marks := map[string]string{}
	s.EachMark(func(key string, uid uint32, text string) { marks[fmt.Sprint(key, uid)] = text })
	if len(marks) != 1 || marks["k1"] != "v" {
		t.Fatal(marks)
	}
}
