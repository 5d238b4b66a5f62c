package crashfs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"waypost/internal/vfs"
)

// seeds is how many outcomes of one moment a test looks at.
const seeds = 500

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, f *FS, name string) vfs.File {
	t.Helper()
	h, err := f.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	must(t, err)
	return h
}

// put makes or extends a file, unsynced.
func put(t *testing.T, f *FS, name, data string, off int64) {
	t.Helper()
	h := open(t, f, name)
	_, err := h.WriteAt([]byte(data), off)
	must(t, err, h.Close())
}

// tree lists all there is. Contents show as one letter per run of equal bytes with
// its length in sectors (or bytes, if below one).
func tree(t *testing.T, f *FS) string {
	t.Helper()
	var all []string
	var list func(dir string)
	list = func(dir string) {
		must(t, f.ReadDir(dir, func(e fs.DirEntry) error {
			name := filepath.Join(dir, e.Name())
			if e.IsDir() {
				all = append(all, name[1:]+"/")
				list(name)
				return nil
			}
			data, err := vfs.ReadFile(f, name)
			must(t, err)
			all = append(all, name[1:]+"="+runs(string(data)))
			return nil
		}))
	}
	list("/")
	slices.Sort(all)
	return strings.Join(all, " ")
}

func runs(data string) string {
	var b strings.Builder
	for len(data) > 0 {
		n := len(data) - len(strings.TrimLeft(data, data[:1]))
		c := data[0]
		if c == 0 {
			c = '0'
		}
		b.WriteByte(c)
		if n >= sectorSize {
			fmt.Fprint(&b, n/sectorSize)
		}
		data = data[n:]
	}
	return b.String()
}

// outcomes gives every state that a crash at this moment was seen to leave.
func outcomes(t *testing.T, f *FS) []string {
	t.Helper()
	seen := map[string]bool{}
	for seed := range uint64(seeds) {
		after := f.Crash(rand.New(rand.NewPCG(seed, 1)))
		state := tree(t, after)
		seen[state] = true
		checkLinks(t, after)
		if again := tree(t, after.Crash(rand.New(rand.NewPCG(seed, 2)))); again != state {
			t.Fatalf("a crash of what a crash left: %q became %q", state, again)
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// checkLinks counts the names of each file.
func checkLinks(t *testing.T, f *FS) {
	t.Helper()
	names, links := map[uint64]int{}, map[uint64]int{}
	var walk func(dir string)
	walk = func(dir string) {
		must(t, f.ReadDir(dir, func(e fs.DirEntry) error {
			i, err := e.Info()
			must(t, err)
			if e.IsDir() {
				walk(filepath.Join(dir, e.Name()))
				return nil
			}
			st := i.Sys().(*syscall.Stat_t)
			names[st.Ino]++
			links[st.Ino] = int(st.Nlink)
			return nil
		}))
	}
	walk("/")
	if !maps.Equal(names, links) {
		t.Fatalf("links %v, names %v", links, names)
	}
}

// TestCrash lists for each piece of work all that a crash after it may leave: no
// more may be seen, and no less.
func TestCrash(t *testing.T) {
	old, fresh := strings.Repeat("o", 3*sectorSize), strings.Repeat("n", 3*sectorSize)
	// Durable at the start of each: f, d, d/x.
	const base = "d/ d/x=x f=o3"
	with := func(more ...string) []string {
		for i, m := range more {
			all := strings.Fields(base + " " + m)
			slices.Sort(all)
			more[i] = strings.Join(all, " ")
		}
		slices.Sort(more)
		return slices.Compact(more)
	}
	flush := func(t *testing.T, f *FS, name string, how func(vfs.File) error) {
		h := open(t, f, name)
		must(t, how(h), h.Close())
	}
	tests := []struct {
		name string
		do   func(t *testing.T, f *FS)
		want []string
	}{
		{"nothing", func(*testing.T, *FS) {}, with("")},
		{"a new file", func(t *testing.T, f *FS) { put(t, f, "/g", "n", 0) }, with("", "g=", "g=0", "g=n")},
		{"a synced file in an unsynced folder", func(t *testing.T, f *FS) {
			put(t, f, "/g", "n", 0)
			flush(t, f, "/g", vfs.File.Sync)
		}, with("", "g=n")},
		{"an unsynced file in a synced folder", func(t *testing.T, f *FS) {
			put(t, f, "/g", "n", 0)
			must(t, f.SyncDir("/"))
		}, with("g=", "g=0", "g=n")},
		{"all synced", func(t *testing.T, f *FS) {
			put(t, f, "/g", "n", 0)
			flush(t, f, "/g", vfs.File.Datasync)
			must(t, f.SyncDir("/"))
		}, with("g=n")},
		{"SyncAll", func(t *testing.T, f *FS) {
			put(t, f, "/d/g", "n", 0)
			must(t, f.Mkdir("/e", 0o700), f.Rename("/d/g", "/e/h"), f.SyncAll("/d"))
		}, with("e/ e/h=n")},
		{"overwriting", func(t *testing.T, f *FS) { put(t, f, "/f", fresh, 0) },
			[]string{"d/ d/x=x f=n1o2", "d/ d/x=x f=n2o1", "d/ d/x=x f=n3", base}},
		{"appending twice", func(t *testing.T, f *FS) {
			put(t, f, "/f", "a", 3*sectorSize)
			put(t, f, "/f", "b", 3*sectorSize+1)
		}, []string{base, "d/ d/x=x f=o30", "d/ d/x=x f=o3a", "d/ d/x=x f=o30b", "d/ d/x=x f=o3ab", "d/ d/x=x f=o3a0"}},
		{"pages of one write", func(t *testing.T, f *FS) {
			put(t, f, "/f", "n", 3*sectorSize-1)
			flush(t, f, "/f", vfs.File.Sync)
			put(t, f, "/f", strings.Repeat("p", 2), pageSize-1)
		}, []string{"d/ d/x=x f=o2n", "d/ d/x=x f=o2n04p", "d/ d/x=x f=o2n04p0", "d/ d/x=x f=o2n05", "d/ d/x=x f=o2n05p"}},
		{"truncating", func(t *testing.T, f *FS) {
			h := open(t, f, "/f")
			must(t, h.Truncate(sectorSize), h.Close())
		}, []string{base, "d/ d/x=x f=o1"}},
		{"truncating, synced", func(t *testing.T, f *FS) {
			h := open(t, f, "/f")
			must(t, h.Truncate(0), h.Datasync(), h.Close())
		}, []string{"d/ d/x=x f="}},
		{"removing", func(t *testing.T, f *FS) { must(t, f.Remove("/f")) }, []string{base, "d/ d/x=x"}},
		{"removing, synced", func(t *testing.T, f *FS) { must(t, f.Remove("/f"), f.SyncDir("/")) }, []string{"d/ d/x=x"}},
		{"renaming", func(t *testing.T, f *FS) { must(t, f.Rename("/f", "/g")) }, []string{base, "d/ d/x=x g=o3"}},
		{"renaming over", func(t *testing.T, f *FS) { must(t, f.Rename("/f", "/d/x")) }, []string{base, "d/ d/x=o3"}},
		{"renaming, one folder synced", func(t *testing.T, f *FS) { must(t, f.Rename("/f", "/d/g"), f.SyncDir("/d")) },
			[]string{"d/ d/g=o3 d/x=x"}},
		{"renaming what was renamed, last folder synced", func(t *testing.T, f *FS) {
			must(t, f.Rename("/f", "/g"), f.Remove("/d/x"), f.Rename("/g", "/d/g"), f.SyncDir("/d"))
		}, []string{"d/ d/g=o3"}},
		{"replacing well", func(t *testing.T, f *FS) {
			put(t, f, "/tmp", fresh, 0)
			flush(t, f, "/tmp", vfs.File.Sync)
			must(t, f.Rename("/tmp", "/f"))
		}, []string{base, "d/ d/x=x f=n3", "d/ d/x=x f=o3 tmp=n3"}},
		{"linking, then removing", func(t *testing.T, f *FS) { must(t, f.Link("/f", "/g"), f.Remove("/f")) },
			[]string{base, "d/ d/x=x", "d/ d/x=x f=o3 g=o3", "d/ d/x=x g=o3"}},
		{"one name in turn for several", func(t *testing.T, f *FS) {
			must(t, f.Remove("/f"), f.Rename("/d/x", "/f"))
		}, []string{base, "d/ d/x=x", "d/ f=x"}},
		{"two renames of folders", func(t *testing.T, f *FS) {
			must(t, f.Mkdir("/d/e", 0o700), f.SyncDir("/d"), f.Rename("/d/e", "/c"), f.Rename("/d", "/c/d"))
		}, []string{"c/ c/d/ c/d/x=x f=o3", "c/ d/ d/x=x f=o3", "d/ d/e/ d/x=x f=o3"}},
		{"a lost folder takes all below", func(t *testing.T, f *FS) {
			must(t, f.Mkdir("/e", 0o700))
			put(t, f, "/e/g", "n", 0)
			flush(t, f, "/e/g", vfs.File.Sync)
			must(t, f.SyncDir("/e"))
		}, with("", "e/ e/g=n")},
		{"nameless", func(t *testing.T, f *FS) {
			h, err := f.Nameless("/d")
			must(t, err)
			_, err = h.Write([]byte("n"))
			must(t, err, h.Sync())
		}, with("")},
		{"nameless, then named", func(t *testing.T, f *FS) {
			h, err := f.Nameless("/d")
			must(t, err)
			_, err = h.Write([]byte("n"))
			must(t, err, h.Sync(), h.LinkTo("/g"), h.LinkTo("/h"), h.Close())
		}, with("", "g=n", "h=n", "g=n h=n")},
	}
	for _, tt := range tests {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, ", killed ", killed), func(t *testing.T) {
				f := New(1)
				put(t, f, "/f", old, 0)
				must(t, f.Mkdir("/d", 0o700))
				put(t, f, "/d/x", "x", 0)
				must(t, f.SyncAll("/"))
				tt.do(t, f)
				if killed { // a dead process changes nothing about the disk
					f = f.Kill()
				}
				slices.Sort(tt.want)
				if got := outcomes(t, f); !slices.Equal(got, tt.want) {
					t.Errorf("saw\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
				}
			})
		}
	}
}

func TestAttributesCrash(t *testing.T) {
	at := time.Unix(1000, 0)
	tests := []struct {
		name string
		sync func(vfs.File) error
		want int // states seen
	}{{"unsynced", func(vfs.File) error { return nil }, 4}, {"Datasync", vfs.File.Datasync, 4}, {"Sync", vfs.File.Sync, 1}}
	for _, tt := range tests {
		f := New(1)
		put(t, f, "/f", "x", 0)
		must(t, f.SyncAll("/"))
		h := open(t, f, "/f")
		must(t, h.Chmod(0o644), h.SetModTime(at), tt.sync(h))
		seen := map[string]bool{}
		for seed := range uint64(seeds) {
			i, err := f.Crash(rand.New(rand.NewPCG(seed, 1))).Lstat("/f")
			must(t, err)
			seen[fmt.Sprint(i.Mode(), i.ModTime().Equal(at))] = true
		}
		if len(seen) != tt.want || !seen["-rw-r--r-- true"] {
			t.Errorf("%s: %v", tt.name, seen)
		}
	}
}

// TestFailedSync: what a failed sync dropped no second one brings to the disk. It can
// be read until the cache is dropped.
func TestFailedSync(t *testing.T) {
	failed := errors.New("bad sector")
	seen := map[string]bool{}
	for seed := range uint64(200) {
		f := New(seed)
		put(t, f, "/f", "x", 0)
		must(t, f.SyncDir("/"))
		h := open(t, f, "/f")
		f.Fail(func(op Op) error {
			if op.Kind == Sync {
				return failed
			}
			return nil
		})
		if err := h.Sync(); !errors.Is(err, failed) {
			t.Fatal(err)
		}
		f.Fail(nil)
		must(t, h.Sync())
		if got := tree(t, f); got != "f=x" {
			t.Fatalf("before the crash: %q", got)
		}
		after := tree(t, f.Crash(rand.New(rand.NewPCG(1, 1))))
		seen[after] = true
		next := f.Kill()
		must(t, vfs.DropCache(next, "/f"))
		if got := tree(t, next); got != after {
			t.Fatalf("%q can be read, the disk has %q", got, after)
		}
	}
	if !seen["f="] || !seen["f=x"] {
		t.Errorf("saw %v", seen)
	}
}

func TestKill(t *testing.T) {
	f := New(1)
	put(t, f, "/f", "x", 0)
	h := open(t, f, "/f")
	must(t, h.Lock(true))
	waits := make(chan error)
	other := open(t, f, "/f")
	go func() { waits <- other.Lock(false) }()
	nameless, err := f.Nameless("/")
	must(t, err)
	next := f.Kill()
	if err := <-waits; !errors.Is(err, ErrDown) {
		t.Errorf("waiting for a lock: %v", err)
	}
	_, readErr := h.Read(make([]byte, 1))
	for _, err := range []error{
		f.Mkdir("/d", 0o700), f.Link("/f", "/g"), h.Sync(), h.Close(), readErr, nameless.LinkTo("/n"),
		f.ReadDir("/", func(fs.DirEntry) error { return nil }),
	} {
		if !errors.Is(err, ErrDown) {
			t.Errorf("after the end: %v", err)
		}
	}
	if got := tree(t, next); got != "f=x" {
		t.Errorf("next process finds %q", got)
	}
	h = open(t, next, "/f")
	must(t, h.Lock(true), h.Close())
	put(t, next, "/f", "y", 0)
	if got := tree(t, f.Kill()); got != "f=x" {
		t.Errorf("the old one sees the new one's writes: %q", got)
	}
}

// TestCutAtEachOperation replaces a file with the power cut before each operation:
// never is there anything but the old or the new file, and what was promised stays.
func TestCutAtEachOperation(t *testing.T) {
	for cut := int64(1); ; cut++ {
		f := New(uint64(cut))
		must(t, vfs.ReplaceFile(f, "/f", []byte("old"), 0o600))
		var after *FS
		first := f.Ops()
		f.Fail(func(Op) error {
			if f.Ops() == first+cut && after == nil {
				after = f.Crash(rand.New(rand.NewPCG(uint64(cut), 3)))
			}
			return nil
		})
		err := vfs.ReplaceFile(f, "/f", []byte("new"), 0o600)
		if after == nil {
			must(t, err)
			break
		}
		if !errors.Is(err, ErrDown) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		data, err := vfs.ReadFile(after, "/f")
		must(t, err)
		if s := string(data); s != "old" && s != "new" {
			t.Errorf("cut at %d: %q", cut, s)
		}
	}
	f := New(1)
	must(t, vfs.MkdirAll(f, "/a/b", 0o700), vfs.CreateFile(f, "/a/b/f", []byte("new"), 0o600))
	if got := outcomes(t, f); !slices.Equal(got, []string{"a/ a/b/ a/b/f=new"}) {
		t.Errorf("durable helpers lost: %q", got)
	}
}

func TestFail(t *testing.T) {
	f := New(1)
	h := open(t, f, "/f")
	var ops []Op
	f.Fail(func(op Op) error { ops = append(ops, op); return syscall.ENOSPC })
	begun := f.Ops()
	_, err := h.Write([]byte("x"))
	for _, err := range []error{err, h.LinkTo("/g"), f.Rename("/f", "/h"), h.Datasync(), f.SyncAll("/"), h.Close()} {
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("got %v", err)
		}
	}
	f.Fail(nil)
	want := []Op{{Write, "/f"}, {LinkTo, "/g"}, {Rename, "/h"}, {Datasync, "/f"}, {SyncAll, "/"}, {Close, "/f"}}
	if !slices.Equal(ops, want) || f.Ops()-begun != int64(len(want)) {
		t.Errorf("saw %v, counted %d", ops, f.Ops()-begun)
	}
	if err := h.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a failed close did not close: %v", err)
	}
	if got := tree(t, f); got != "f=" {
		t.Errorf("failed operations left %q", got)
	}
}

// TestCrashUnderWork crashes while others work, then goes on with what is left.
func TestCrashUnderWork(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	f := New(1)
	for range 50 {
		var wg sync.WaitGroup
		begun := make(chan bool, 4)
		for worker := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					err := deliver(f, fmt.Sprintf("/m%d-%d", worker, i%20))
					if i == 0 {
						begun <- true
					}
					if errors.Is(err, ErrDown) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for range 4 {
			<-begun
		}
		after := f.Crash(rnd)
		wg.Wait()
		checkLinks(t, after)
		f = after
	}
}

func deliver(f *FS, name string) error {
	h, err := f.Nameless("/")
	if err != nil {
		return err
	}
	_, err = h.Write([]byte(name))
	err = errors.Join(err, h.LinkTo(name), h.Close())
	if errors.Is(err, fs.ErrExist) {
		return f.Remove(name)
	}
	return err
}

// TestReadDirMissesRename: a scan of a real folder can.
func TestReadDirMissesRename(t *testing.T) {
	f := New(1)
	for i := range 100 {
		put(t, f, fmt.Sprint("/n", i), "x", 0)
	}
	seen, done := 0, false
	must(t, f.ReadDir("/", func(fs.DirEntry) error {
		seen++
		if !done {
			for i := range 100 {
				must(t, f.Rename(fmt.Sprint("/n", i), fmt.Sprint("/m", i)))
			}
			done = true
		}
		return nil
	}))
	if seen >= 100 {
		t.Errorf("saw %d", seen)
	}
}

func BenchmarkCrash(b *testing.B) {
	f := New(1)
	for i := range 200 {
		if err := deliver(f, fmt.Sprint("/", i)); err != nil {
			b.Fatal(err)
		}
	}
	for i := range b.N {
		f.Crash(rand.New(rand.NewPCG(uint64(i), 0)))
	}
}

// TestMkdirAllAfterAFault: a folder whose name could not be synced is not taken for durable by
// the next call.
func TestMkdirAllAfterAFault(t *testing.T) {
	for seed := range uint64(8) {
		f := New(seed)
		f.Fail(func(op Op) error {
			if op == (Op{SyncDir, "/a"}) {
				return syscall.EMFILE
			}
			return nil
		})
		if err := vfs.MkdirAll(f, "/a/b", 0o700); !errors.Is(err, syscall.EMFILE) {
			t.Fatal(err)
		}
		f.Fail(nil)
		must(t, vfs.MkdirAll(f, "/a/b", 0o700))
		f = f.Crash(rand.New(rand.NewPCG(seed, 1)))
		if _, err := f.Lstat("/a/b"); err != nil {
			t.Fatal(err)
		}
	}
}
