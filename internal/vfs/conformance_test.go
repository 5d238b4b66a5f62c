package vfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

// world is a folder in one of the file systems under test, with a transcript.
type world struct {
	t   *testing.T
	fs  vfs.FS
	dir string
	log strings.Builder
}

// eachFS runs a test in an empty folder of every file system.
func eachFS(t *testing.T, test func(w *world)) {
	t.Helper()
	for name, fsys := range map[string]vfs.FS{"OS": vfs.OS, "OS without O_TMPFILE": vfs.OSNamed, "crashfs": crashfs.New(1)} {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, fs: fsys, dir: t.TempDir()}
			w.must(vfs.MkdirAll(fsys, w.dir, 0o700))
			test(w)
		})
	}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) put(name, data string) {
	w.t.Helper()
	w.must(vfs.ReplaceFile(w.fs, w.path(name), []byte(data), 0o600))
}

func (w *world) open(name string, flag int) vfs.File {
	w.t.Helper()
	f, err := w.fs.OpenFile(w.path(name), flag, 0o600)
	w.must(err)
	return f
}

func (w *world) get(name string) string {
	w.t.Helper()
	data, err := vfs.ReadFile(w.fs, w.path(name))
	w.must(err)
	return string(data)
}

// tree lists the folder: folders end in a slash, files show contents and links.
func (w *world) tree() string {
	w.t.Helper()
	var all []string
	var list func(dir, prefix string)
	list = func(dir, prefix string) {
		w.must(w.fs.ReadDir(dir, func(e fs.DirEntry) error {
			name := prefix + e.Name()
			if e.IsDir() {
				all = append(all, name+"/")
				list(filepath.Join(dir, e.Name()), name+"/")
				return nil
			}
			info, err := e.Info()
			w.must(err)
			all = append(all, fmt.Sprintf("%s=%s*%d", name, w.get(name), info.Sys().(*syscall.Stat_t).Nlink))
			return nil
		}))
	}
	list(w.dir, "")
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (w *world) wantTree(want string) {
	w.t.Helper()
	if got := w.tree(); got != want {
		w.t.Errorf("holds %q, want %q", got, want)
	}
}

func TestErrors(t *testing.T) {
	open := func(name string, flag int) func(w *world) error {
		return func(w *world) error {
			f, err := w.fs.OpenFile(w.path(name), flag, 0o600)
			if err == nil {
				w.must(f.Close())
			}
			return err
		}
	}
	rename := func(from, to string) func(w *world) error {
		return func(w *world) error { return w.fs.Rename(w.path(from), w.path(to)) }
	}
	link := func(from, to string) func(w *world) error {
		return func(w *world) error { return w.fs.Link(w.path(from), w.path(to)) }
	}
	remove := func(name string) func(w *world) error {
		return func(w *world) error { return w.fs.Remove(w.path(name)) }
	}
	mkdir := func(name string) func(w *world) error {
		return func(w *world) error { return w.fs.Mkdir(w.path(name), 0o700) }
	}
	const none, long = syscall.Errno(0), 256
	tests := []struct {
		name string
		do   func(w *world) error
		want error
		tree string // after; empty for no change
	}{
		{"open nothing", open("none", os.O_RDONLY), fs.ErrNotExist, ""},
		{"open below nothing", open("none/x", os.O_CREATE|os.O_RDWR), fs.ErrNotExist, ""},
		{"open below a file", open("f/x", os.O_RDONLY), syscall.ENOTDIR, ""},
		{"create anew", open("f", os.O_CREATE|os.O_EXCL|os.O_RDWR), fs.ErrExist, ""},
		{"write a folder", open("full", os.O_RDWR), syscall.EISDIR, ""},
		{"create a folder", open("full", os.O_CREATE), syscall.EISDIR, ""},
		{"file as folder", open("f", syscall.O_DIRECTORY), syscall.ENOTDIR, ""},
		{"long name", open(strings.Repeat("n", long), os.O_CREATE|os.O_RDWR), syscall.ENAMETOOLONG, ""},
		{"open a folder", open("full", os.O_RDONLY), none, ""},
		{"truncate", open("f", os.O_TRUNC|os.O_WRONLY), none, "empty/ f=*1 full/ full/x=X*1"},
		{"link over", link("f", "full/x"), fs.ErrExist, ""},
		{"link nothing", link("none", "g"), fs.ErrNotExist, ""},
		{"link a folder", link("empty", "g"), syscall.EPERM, ""},
		{"link", link("f", "empty/g"), none, "empty/ empty/g=F*2 f=F*2 full/ full/x=X*1"},
		{"rename nothing", rename("none", "g"), fs.ErrNotExist, ""},
		{"rename to nowhere", rename("f", "none/g"), fs.ErrNotExist, ""},
		{"rename over", rename("f", "full/x"), none, "empty/ full/ full/x=F*1"},
		{"rename to itself", rename("f", "f"), none, ""},
		{"rename over an empty folder", rename("full", "empty"), none, "empty/ empty/x=X*1 f=F*1"},
		{"rename over a full folder", rename("empty", "full"), syscall.ENOTEMPTY, ""},
		{"rename file over folder", rename("f", "empty"), syscall.EISDIR, ""},
		{"rename file over full folder", rename("f", "full"), syscall.EISDIR, ""},
		{"rename folder over file", rename("empty", "f"), syscall.ENOTDIR, ""},
		{"rename into itself", rename("full", "full/y"), syscall.EINVAL, ""},
		{"rename folder", rename("full", "empty/y"), none, "empty/ empty/y/ empty/y/x=X*1 f=F*1"},
		{"remove nothing", remove("none"), fs.ErrNotExist, ""},
		{"remove a full folder", remove("full"), syscall.ENOTEMPTY, ""},
		{"remove a folder", remove("empty"), none, "f=F*1 full/ full/x=X*1"},
		{"remove below a file", remove("f/x"), syscall.ENOTDIR, ""},
		{"remove all", func(w *world) error { return w.fs.RemoveAll(w.path("full")) }, none, "empty/ f=F*1"},
		{"remove all of nothing", func(w *world) error { return w.fs.RemoveAll(w.path("none")) }, none, ""},
		{"mkdir over", mkdir("f"), fs.ErrExist, ""},
		{"mkdir of root", func(w *world) error { return w.fs.Mkdir("/", 0o700) }, fs.ErrExist, ""},
		{"mkdir nowhere", mkdir("none/x"), fs.ErrNotExist, ""},
		{"mkdir", mkdir("full/y"), none, "empty/ f=F*1 full/ full/x=X*1 full/y/"},
		{"trailing slash", mkdir("y/"), none, "empty/ f=F*1 full/ full/x=X*1 y/"},
		{"list nothing", func(w *world) error { return w.fs.ReadDir(w.path("none"), nil) }, fs.ErrNotExist, ""},
		{"list a file", func(w *world) error { return w.fs.ReadDir(w.path("f"), nil) }, syscall.ENOTDIR, ""},
		{"stat nothing", func(w *world) error { _, err := w.fs.Lstat(w.path("none")); return err }, fs.ErrNotExist, ""},
		{"date nothing", func(w *world) error { return w.fs.SetModTime(w.path("none"), time.Now()) }, fs.ErrNotExist, ""},
		{"sync nothing", func(w *world) error { return w.fs.SyncDir(w.path("none")) }, fs.ErrNotExist, ""},
		{"sync a file as folder", func(w *world) error { return w.fs.SyncDir(w.path("f")) }, syscall.ENOTDIR, ""},
		{"sync all of nothing", func(w *world) error { return w.fs.SyncAll(w.path("none")) }, fs.ErrNotExist, ""},
		{"nameless nowhere", func(w *world) error { _, err := w.fs.Nameless(w.path("none")); return err }, fs.ErrNotExist, ""},
		{"create over", func(w *world) error { return vfs.CreateFile(w.fs, w.path("f"), []byte("n"), 0o600) }, fs.ErrExist, ""},
		{"make all over a file", func(w *world) error { return vfs.MkdirAll(w.fs, w.path("f/x"), 0o700) }, errors.ErrUnsupported, ""},
		{"make all", func(w *world) error { return vfs.MkdirAll(w.fs, w.path("empty/a/b"), 0o700) }, none, "empty/ empty/a/ empty/a/b/ f=F*1 full/ full/x=X*1"},
		{"durable rename", func(w *world) error { return vfs.Rename(w.fs, w.path("f"), w.path("empty/f")) }, none, "empty/ empty/f=F*1 full/ full/x=X*1"},
		{"durable remove", func(w *world) error { return vfs.Remove(w.fs, w.path("full/x")) }, none, "empty/ f=F*1 full/"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			eachFS(t, func(w *world) {
				w.put("f", "F")
				w.must(w.fs.Mkdir(w.path("empty"), 0o700))
				w.must(w.fs.Mkdir(w.path("full"), 0o700))
				w.put("full/x", "X")
				err := tt.do(w)
				switch {
				case tt.want == none && err != nil, tt.want != none && err == nil:
					t.Errorf("%s: %v, want %v", w.t.Name(), err, tt.want)
				case tt.want != none && tt.want != errors.ErrUnsupported && !errors.Is(err, tt.want):
					t.Errorf("%s: %v, want %v", w.t.Name(), err, tt.want)
				}
				if tt.tree == "" {
					tt.tree = "empty/ f=F*1 full/ full/x=X*1"
				}
				w.wantTree(tt.tree)
			})
		})
	}
}

func TestContents(t *testing.T) {
	eachFS(t, func(w *world) {
		f := w.open("f", os.O_CREATE|os.O_RDWR)
		say := func(n int, err error) {
			if errors.Is(err, fs.ErrClosed) {
				err = fs.ErrClosed
			} else if err != nil && err != io.EOF {
				err = errors.New("error")
			}
			fmt.Fprintln(&w.log, n, err)
		}
		buf := make([]byte, 4)
		say(f.Write([]byte("0123456789")))
		say(f.WriteAt([]byte("ab"), 12))
		say(f.ReadAt(buf, 9))
		fmt.Fprintf(&w.log, "%q\n", buf)
		say(f.ReadAt(buf, 12))
		say(f.ReadAt(buf, -1))
		say(f.Read(buf))
		fmt.Fprintf(&w.log, "%q\n", buf)
		pos, err := f.Seek(-2, io.SeekEnd)
		say(int(pos), err)
		pos, err = f.Seek(-9, io.SeekStart)
		say(int(pos), err)
		say(f.Read(nil))
		w.must(f.Truncate(11))
		say(f.Read(buf))
		w.must(f.Truncate(13))
		w.must(errors.Join(f.Sync(), f.Datasync(), f.SyncAll(), f.DropCache()))
		info, err := f.Stat()
		w.must(err)
		say(int(info.Size()), f.Truncate(-1))
		w.must(f.Close())
		say(0, f.Close())
		say(f.Write([]byte("x")))
		say(0, f.Datasync())
		say(0, f.SyncAll())
		say(0, f.Lock(true))
		say(0, f.LinkTo(w.path("closed")))
		a := w.open("f", os.O_APPEND|os.O_WRONLY)
		say(a.Write([]byte("end")))
		say(a.WriteAt([]byte("x"), 0))
		say(a.Read(buf))
		w.must(a.Close())
		r := w.open("f", os.O_RDONLY)
		say(r.Write([]byte("x")))
		w.must(r.Close())
		d := w.open("", os.O_RDONLY)
		say(d.Read(buf))
		w.must(errors.Join(d.Sync(), d.SyncAll(), d.Close()))
		want := "10 <nil>\n2 <nil>\n4 <nil>\n\"9\\x00\\x00a\"\n2 EOF\n0 error\n4 <nil>\n\"\\x00\\x00ab\"\n12 <nil>\n0 error\n0 <nil>\n0 EOF\n" +
			"13 error\n" + strings.Repeat("0 file already closed\n", 6) + "3 <nil>\n0 error\n0 error\n0 error\n0 error\n"
		if w.log.String() != want {
			w.t.Errorf("got\n%swant\n%s", w.log.String(), want)
		}
		w.wantTree("f=0123456789\x00\x00\x00end*1")
	})
}

func TestNameless(t *testing.T) {
	eachFS(t, func(w *world) {
		gone, err := w.fs.Nameless(w.dir)
		w.must(err)
		w.must(gone.Close())
		w.wantTree("")
		f, err := w.fs.Nameless(w.dir)
		w.must(err)
		info, err := f.Stat()
		w.must(err)
		if info.Mode() != 0o600 {
			w.t.Errorf("mode %v", info.Mode())
		}
		_, err = f.Write([]byte("body"))
		w.must(err)
		w.must(f.LinkTo(w.path("one")))
		w.must(f.LinkTo(w.path("two")))
		if err := f.LinkTo(w.path("two")); !errors.Is(err, fs.ErrExist) {
			w.t.Errorf("link over: %v", err)
		}
		w.must(errors.Join(f.SyncAll(), f.Close()))
		w.wantTree("one=body*2 two=body*2")
		named := w.open("one", os.O_RDWR)
		w.must(named.LinkTo(w.path("three")))
		for _, name := range []string{"one", "two", "three"} {
			w.must(w.fs.Remove(w.path(name)))
		}
		if err := named.LinkTo(w.path("again")); !errors.Is(err, fs.ErrNotExist) {
			w.t.Errorf("link of a removed file: %v", err)
		}
		if _, err := named.Write([]byte("B")); err != nil {
			w.t.Errorf("write to a removed file: %v", err)
		}
		w.must(named.Close())
		w.wantTree("")
	})
}

func TestAttributes(t *testing.T) {
	eachFS(t, func(w *world) {
		at := time.Date(2001, 2, 3, 4, 5, 6, 700, time.UTC)
		w.put("f", "x")
		f := w.open("f", os.O_RDONLY)
		w.must(f.SetModTime(at))
		w.must(f.Chmod(0o666))
		info, err := w.fs.Lstat(w.path("f"))
		w.must(err)
		if !info.ModTime().Equal(at) || info.Mode() != 0o666 || info.Name() != "f" || info.Size() != 1 || info.IsDir() {
			w.t.Errorf("%v %v %v", info.ModTime(), info.Mode(), info.Name())
		}
		opened, err := f.Stat()
		w.must(err)
		a, b := info.Sys().(*syscall.Stat_t), opened.Sys().(*syscall.Stat_t)
		if a.Ino != b.Ino || a.Dev != b.Dev || a.Nlink != 1 || a.Size != 1 || time.Unix(a.Mtim.Unix()).UTC() != at {
			w.t.Errorf("%+v %+v", a, b)
		}
		w.must(f.Close())
		w.must(w.fs.SetModTime(w.path("f"), at.Add(time.Hour)))
		info, err = w.fs.Lstat(w.path("f"))
		w.must(err)
		if !info.ModTime().Equal(at.Add(time.Hour)) {
			w.t.Error(info.ModTime())
		}
		w.must(w.fs.Mkdir(w.path("d"), 0o700))
		w.must(w.fs.Mkdir(w.path("d/e"), 0o700))
		w.must(w.fs.Mkdir(w.path("d/e/f"), 0o700))
		w.must(w.fs.Rename(w.path("d/e"), w.path("e")))
		for name, links := range map[string]int{"d": 2, "e": 3, "e/f": 2} {
			info, err := w.fs.Lstat(w.path(name))
			w.must(err)
			if n := int(info.Sys().(*syscall.Stat_t).Nlink); n != links || info.Mode() != fs.ModeDir|0o700 {
				w.t.Errorf("folder %q: %d links, %v", name, n, info.Mode())
			}
		}
		w.must(errors.Join(w.fs.SyncDir(w.dir), w.fs.SyncAll(w.dir), w.fs.SyncAll(w.path("f"))))
	})
}

func TestReadDir(t *testing.T) {
	eachFS(t, func(w *world) {
		want := map[string]bool{}
		for i := range 600 {
			name := fmt.Sprint("n", i)
			want[name] = true
			f := w.open(name, os.O_CREATE|os.O_RDWR)
			w.must(f.Close())
		}
		w.must(w.fs.ReadDir(w.dir, func(e fs.DirEntry) error {
			if !want[e.Name()] || e.Type() != 0 {
				w.t.Errorf("%s %v", e.Name(), e.Type())
			}
			delete(want, e.Name())
			return nil
		}))
		if len(want) != 0 {
			w.t.Errorf("%d missed", len(want))
		}
		stop, n := errors.New("stop"), 0
		err := w.fs.ReadDir(w.dir, func(fs.DirEntry) error { n++; return stop })
		if err != stop || n != 1 {
			w.t.Errorf("%v after %d", err, n)
		}
		w.must(w.fs.RemoveAll(w.dir))
		if _, err := w.fs.Lstat(w.dir); !errors.Is(err, fs.ErrNotExist) {
			w.t.Error(err)
		}
	})
}

// TestLocks takes turns between open files: what must wait is seen to have waited
// because its holder wrote before it let go.
func TestLocks(t *testing.T) {
	eachFS(t, func(w *world) {
		w.put("f", "")
		a, b, c := w.open("f", os.O_RDWR), w.open("f", os.O_RDWR), w.open("f", os.O_RDWR)
		w.must(errors.Join(a.Lock(false), b.Lock(false), a.Lock(false), b.Unlock(), a.Lock(true)))
		got := make(chan error, 2)
		for _, f := range []vfs.File{b, c} {
			go func() {
				err := f.Lock(true)
				if data, _ := vfs.ReadFile(w.fs, w.path("f")); err == nil && !bytes.HasPrefix(data, []byte("a")) {
					err = errors.New("two have the lock")
				}
				// Close gives the lock back.
				got <- errors.Join(err, f.Close())
			}()
		}
		_, err := a.Write([]byte("a"))
		w.must(errors.Join(err, a.Unlock(), a.Unlock()))
		for range 2 {
			select {
			case err := <-got:
				w.must(err)
			case <-time.After(30 * time.Second):
				w.t.Fatal("lock not given")
			}
		}
		w.must(a.Close())
	})
}

func TestReplaceFunc(t *testing.T) {
	eachFS(t, func(w *world) {
		big := strings.Repeat("0123456789abcde\n", 5000)
		w.must(vfs.ReplaceFunc(w.fs, w.path("f"), 0o640, func(out io.Writer) error {
			for part := range slices.Chunk([]byte(big), 1000) {
				if _, err := out.Write(part); err != nil {
					return err
				}
			}
			return nil
		}))
		failed := errors.New("source failed")
		err := vfs.ReplaceFunc(w.fs, w.path("f"), 0o600, func(io.Writer) error { return failed })
		if !errors.Is(err, failed) {
			w.t.Error(err)
		}
		if w.get("f") != big {
			w.t.Error("contents differ")
		}
		w.must(vfs.CreateFile(w.fs, w.path("g"), []byte(big), 0o666))
		info, err := w.fs.Lstat(w.path("g"))
		w.must(err)
		if info.Mode() != 0o666 || w.get("g") != big {
			w.t.Errorf("mode %v", info.Mode())
		}
		w.must(w.fs.Remove(w.path("g")))
		w.wantTree("f=" + big + "*1")
	})
}

// TestMkdirAllThroughLink: an operator may put a data folder elsewhere by a link.
func TestMkdirAllThroughLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "link/sub"} {
		if err := vfs.MkdirAll(vfs.OS, filepath.Join(dir, name), 0o700); err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkDeliver is the file system's part in taking in a message.
func BenchmarkDeliver(b *testing.B) {
	for name, fsys := range map[string]vfs.FS{"OS": vfs.OS, "crashfs": crashfs.New(1)} {
		b.Run(name, func(b *testing.B) {
			dir, body := b.TempDir(), bytes.Repeat([]byte("line\n"), 800)
			if err := vfs.MkdirAll(fsys, dir, 0o700); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				f, err := fsys.Nameless(dir)
				if err != nil {
					b.Fatal(err)
				}
				_, err = f.Write(body)
				if err := errors.Join(err, f.LinkTo(fmt.Sprintf("%s/%d", dir, i)), f.Close()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
