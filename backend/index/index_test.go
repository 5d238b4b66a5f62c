package index

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"waypost/internal/vfs/crashfs"
)

// TestRooms: what is in one room is as it was until that is used again, whatever is put into others.
func TestRooms(t *testing.T) {
	x := Open(newFS(t), dir, "id")
	const n = 300
	for i := range n {
		put(t, x, i)
	}
	var wire, preview Room
	first, _ := x.Wire(base(0), new(Room))
	for i := range n {
		w, known := x.Wire(base(i), &wire)
		s, too := x.Summary(base(i), &preview)
		if !known || !too {
			t.Fatal("miss ", i)
		}
		if i == n/2 {
			x.Rest()
		}
		if m := madeMeta(t, i); w != m.Root.Wire || s.Preview != m.Preview {
			t.Fatalf("message %d: %q and %q, want %q and %q", i, w, s.Preview, m.Root.Wire, m.Preview)
		}
	}
	if m := madeMeta(t, 0); first != m.Root.Wire {
		t.Errorf("a room that was not used again has %q", first)
	}
	closed(t, x)
}

// TestRoomsAreSmall: a long text does not stay in a Room.
func TestRoomsAreSmall(t *testing.T) {
	var r Room
	long := bytes.Repeat([]byte("x"), roomBytes+1)
	if got := r.put(long); got != string(long) || cap(r.bytes) > roomBytes {
		t.Errorf("%d bytes, %d kept", len(got), cap(r.bytes))
	}
	for n := range 2 * roomBytes {
		if got := r.put(long[:min(n, len(long))]); len(got) != min(n, len(long)) || cap(r.bytes) > roomBytes {
			t.Fatalf("%d: %d bytes, %d kept", n, len(got), cap(r.bytes))
		}
	}
}

func TestPutGet(t *testing.T) {
	fsys := newFS(t)
	x := Open(fsys, dir, "id")
	if _, ok := x.Get(base(1)); ok {
		t.Error("found in nothing")
	}
	if _, err := fsys.Lstat(dir + "/" + fileName); err == nil {
		t.Error("a file was made for nothing")
	}
	for i := range 300 {
		put(t, x, i)
	}
	for i := range 300 {
		has(t, x, i)
	}
	for i := 299; i >= 0; i -= 3 {
		has(t, x, i)
	}
	x.Forget(base(7))
	if _, ok := x.Get(base(7)); ok {
		t.Error("not forgotten")
	}
	put(t, x, 8) // again
	has(t, x, 8)
	if s := x.Stats(); s.Messages != 299 || s.Dead != 2 || s.Reason != "" {
		t.Errorf("%+v", s)
	}
	if err := x.Put("", read(t, made(1))); err == nil {
		t.Error("no base, no error")
	}
	closed(t, x)
	if _, ok := x.Get(base(1)); ok || x.Put(base(1), read(t, made(1))) == nil {
		t.Error("works when closed")
	}
	x = Open(fsys, dir, "id")
	for i := range 300 {
		if i != 7 {
			has(t, x, i)
		}
	}
	closed(t, x)
	other := Open(fsys, dir, "other")
	if _, ok := other.Get(base(1)); ok || other.Stats().Reason != "of another folder" {
		t.Errorf("%+v", other.Stats())
	}
	put(t, other, 5)
	has(t, other, 5)
	closed(t, other)
}

// TestContents: the table of contents written by Close is used, and one that is
// damaged is not.
func TestContents(t *testing.T) {
	fsys := newFS(t)
	const n = 2000
	x := Open(fsys, dir, "id")
	for i := range n {
		put(t, x, i)
	}
	x.Forget(base(3))
	closed(t, x)
	x = Open(fsys, dir, "id")
	if _, ok := x.Get(base(3)); ok {
		t.Error("the table of contents was not used")
	}
	if s := x.Stats(); s.Messages != n-1 || s.Dead != 1 {
		t.Errorf("%+v", s)
	}
	put(t, x, n)
	at := int64(x.contents.at)
	closed(t, x)
	whole := contentsOf(t, fsys, dir+"/"+fileName)
	whole[at+recordHead+5] ^= 1
	x = Open(withFile(t, whole), dir, "id")
	has(t, x, 0)
	// The scan ends at the damaged table of contents.
	if s := x.Stats(); s.Messages != n || s.Reason == "" {
		t.Errorf("%+v", s)
	}
	closed(t, x)
}

func TestCarry(t *testing.T) {
	fsys := newFS(t)
	x, to := Open(fsys, dir, "id"), Open(newFS(t), dir, "id2")
	defer closed(t, x)
	defer closed(t, to)
	put(t, x, 1)
	for _, b := range []string{base(1), base(2)} {
		if err := x.Carry(b, to, "as"+b); err != nil {
			t.Fatal(err)
		}
	}
	m, ok := to.Get("as" + base(1))
	if !ok {
		t.Fatal("not carried")
	}
	same(t, "carried", m, read(t, made(1)))
	if err := x.Carry(base(1), x, base(9)); err != nil || x.Stats().Messages != 2 || to.Stats().Messages != 1 {
		t.Errorf("%v %+v", err, x.Stats())
	}
}

func TestCompact(t *testing.T) {
	fsys := newFS(t)
	x := Open(fsys, dir, "id")
	for i := range 3000 {
		put(t, x, i)
	}
	before := x.Stats().Bytes
	if x.Wasteful(1100) || !x.Wasteful(900) {
		t.Error("wasteful")
	}
	done := false
	keep := map[string]bool{base(2): true}
	for i := 0; i < 3000; i += 10 {
		keep[base(i)] = true
	}
	err := x.Compact(func(b string) bool {
		if !done { // what happens meanwhile is not lost
			done = true
			put(t, x, 5000)
			put(t, x, 2)
			x.Forget(base(10))
		}
		return keep[b]
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for i := range 3000 {
			if i%10 == 0 && i != 10 || i == 2 {
				has(t, x, i)
			} else if _, ok := x.Get(base(i)); ok {
				t.Errorf("%d is there", i)
			}
		}
		has(t, x, 5000)
		if s := x.Stats(); s.Bytes > before/5 || s.Reason != "" || s.Messages != 301 || s.Dead != 2 {
			t.Errorf("%+v", s)
		}
		closed(t, x)
		x = Open(fsys, dir, "id")
	}
	if err := x.Compact(func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	put(t, x, 1)
	has(t, x, 1)
	if err := x.Compact(func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	has(t, x, 1)
	closed(t, x)
	if err := Open(newFS(t), dir, "id").Compact(nil); err != nil {
		t.Error(err)
	}
}

// TestDiskErrors fails one operation after the other: nothing wrong comes of it,
// and the index works on when the disk does.
func TestDiskErrors(t *testing.T) {
	for n := 1; ; n++ {
		fsys := newFS(t)
		left := n
		fsys.Fail(func(crashfs.Op) error {
			if left--; left == 0 {
				return syscall.ENOSPC
			}
			return nil
		})
		x := Open(fsys, dir, "id")
		for i := range 20 {
			_ = x.Put(base(i), madeMeta(t, i)) // some succeed
			if m, ok := x.Get(base(i)); ok {
				same(t, "meanwhile", m, madeMeta(t, i))
			}
		}
		_ = x.Compact(func(string) bool { return true })
		_ = x.Put(base(20), read(t, made(20)))
		over := left > 0
		fsys.Fail(nil)
		put(t, x, 21)
		has(t, x, 21)
		closed(t, x)
		x = Open(fsys, dir, "id")
		has(t, x, 21)
		found := 0
		for i := range 21 {
			if m, ok := x.Get(base(i)); ok {
				found++
				same(t, "afterwards", m, madeMeta(t, i))
			}
		}
		if found < 20 {
			t.Fatalf("operation %d failed, and of 21 messages %d are known", n, found)
		}
		closed(t, x)
		if over {
			return
		}
	}
}

// TestConcurrent is for the race detector.
func TestConcurrent(t *testing.T) {
	fsys := newFS(t)
	x, to := Open(fsys, dir, "id"), Open(newFS(t), dir, "to")
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := w * 100; i < w*100+100; i++ {
				if err := x.Put(base(i), madeMeta(t, i)); err != nil {
					t.Error(err)
				}
				if _, ok := x.Get(base(i)); !ok {
					t.Errorf("%d is not there", i)
				}
				if err := x.Carry(base(i), to, base(i)); err != nil {
					t.Error(err)
				}
				if i%25 == 0 {
					if err := x.Compact(func(string) bool { return true }); err != nil {
						t.Error(err)
					}
				}
				x.Forget(base(i - 1))
			}
		})
	}
	all.Wait()
	if n := to.Stats().Messages; n != 400 {
		t.Errorf("%d carried", n)
	}
	closed(t, x)
	closed(t, to)
}

// TestHistories: after any history an index holds what was put in and not forgotten,
// as one that is built anew would, and what was forgotten at most until it is compacted;
// after a crash no more than was ever put in; and never anything else than what was read.
func TestHistories(t *testing.T) {
	const messages = 12
	rapid.Check(t, func(r *rapid.T) {
		fsys := newFS(t)
		x := Open(fsys, dir, "id")
		known := map[int]bool{}
		maybe := map[int]bool{} // forgotten, and in the file yet, or lost in a crash
		ever := map[int]bool{}
		pick := rapid.IntRange(0, messages-1)
		reopen := func() {
			if err := x.Close(); err != nil {
				r.Fatal(err)
			}
			x = Open(fsys, dir, "id")
		}
		r.Repeat(map[string]func(*rapid.T){
			"put": func(r *rapid.T) {
				i := pick.Draw(r, "message")
				put(t, x, i)
				known[i], ever[i] = true, true
				delete(maybe, i)
			},
			"forget": func(r *rapid.T) {
				i := pick.Draw(r, "message")
				x.Forget(base(i))
				delete(known, i)
				maybe[i] = ever[i]
			},
			"compact": func(r *rapid.T) {
				drop := pick.Draw(r, "message")
				if err := x.Compact(func(b string) bool { return b != base(drop) }); err != nil {
					r.Fatal(err)
				}
				delete(known, drop)
				delete(maybe, drop)
			},
			"contents": func(*rapid.T) {
				x.mu.Lock()
				defer x.mu.Unlock()
				if x.ready() == nil && x.begun {
					if err := x.writeContents(); err != nil {
						r.Fatal(err)
					}
				}
			},
			"reopen": func(*rapid.T) { reopen() },
			"kill": func(*rapid.T) {
				fsys = fsys.Kill()
				x = Open(fsys, dir, "id")
			},
			"crash": func(r *rapid.T) {
				fsys = fsys.Crash(rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 0)))
				if _, err := fsys.Lstat(dir); err != nil {
					r.Fatal(err)
				}
				x = Open(fsys, dir, "id")
				clear(known)
				maps.Copy(maybe, ever)
			},
			"": func(r *rapid.T) {
				for i := range messages {
					m, ok := x.Get(base(i))
					if ok != known[i] && !maybe[i] || ok && !ever[i] {
						r.Fatalf("message %d: %v, should be %v", i, ok, known[i])
					}
					if ok {
						same(t, fmt.Sprint(i), m, madeMeta(t, i))
					}
				}
			},
		})
		closed(t, x)
	})
}

// TestFlippedBytes: with any byte of a file changed, what is found is right.
func TestFlippedBytes(t *testing.T) {
	fsys := newFS(t)
	x := Open(fsys, dir, "id")
	for i := range 3 {
		put(t, x, i)
	}
	if err := x.Compact(func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	put(t, x, 3)
	closed(t, x)
	good := contentsOf(t, fsys, dir+"/"+fileName)
	for at := range good {
		for _, bit := range []byte{1, 0x80, 0xff} {
			b := append([]byte{}, good...)
			b[at] ^= bit
			checkFile(t, b)
		}
	}
	for n := range good {
		checkFile(t, good[:n])
		checkFile(t, append(append([]byte{}, good[:n]...), make([]byte, len(good)-n)...))
		checkFile(t, append(append([]byte{}, good[:n]...), good[:len(good)-n]...))
	}
}

// checkFile opens a file of those bytes, looks for what may be in it, and uses it.
func checkFile(t *testing.T, b []byte) {
	t.Helper()
	fsys := withFile(t, b)
	x := Open(fsys, dir, "id")
	for i := range 5 {
		if m, ok := x.Get(base(i)); ok {
			same(t, base(i), m, madeMeta(t, i))
		}
	}
	put(t, x, 4)
	has(t, x, 4)
	closed(t, x)
	x = Open(fsys, dir, "id")
	has(t, x, 4)
	if err := x.Compact(func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	has(t, x, 4)
	closed(t, x)
	if _, err := fsys.Lstat(dir + "/" + newName); err == nil || !notThere(err) {
		t.Fatalf("%v, want %v", err, fs.ErrNotExist)
	}
}

func FuzzFile(f *testing.F) {
	header := newHeader("id", 1)
	ident, _ := readHeader(header, "id")
	file := append([]byte{}, header...)
	for i := range 3 {
		m := read(f, made(i))
		record, err := new(encoder).encode(beginRecord(nil, kindMessage, base(i)), m)
		if err != nil {
			f.Fatal(err)
		}
		file = append(file, ident.endRecord(record)...)
	}
	f.Add(file)
	f.Add(header)
	f.Add([]byte{})
	f.Add(append(append([]byte{}, header...), 0xff, 0xff, 0, 0, 1, 2, 3, 4, kindContents, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) { checkFile(t, b) })
}
