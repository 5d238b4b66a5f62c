package sftp

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/backend/manifest"
)

// fill makes messages of odd sizes in folders with odd names.
func (r *rig) fill(t testing.TB, n int) {
	t.Helper()
	folders := []string{"Maildir", "Maildir/.a@b", "Maildir/.A.B.C", "Maildir/.with space", "Maildir/.Größe", "Maildir/.waypost-x", "Maildir/.\xff\xfe"}
	for i := range n {
		dir := folders[i%len(folders)]
		r.write(t, fmt.Sprintf("%s/cur/17000%05d.M1P1.b1:2,S", dir, i), strings.Repeat(fmt.Sprint(i, " "), i%700), int64(1700000000+i))
	}
	r.write(t, "Maildir/dovecot-uidlist", "3 V1 N201\n", 1)
	r.write(t, "empty", "", 1)
}

// TestOldSource: a source that has no bundles and no deltas.
func TestOldSource(t *testing.T) {
	r := newRig(t)
	r.tree.old = true
	r.fill(t, 40)
	if p := r.pull(t, false); p.Files != 42 {
		t.Errorf("%+v", p)
	}
	if p := r.pull(t, true); p.Files != 0 {
		t.Errorf("%+v", p)
	}
}

// TestUnknownDigests: the source reads each message once, when it sends it.
func TestUnknownDigests(t *testing.T) {
	r := newRig(t)
	r.tree.how = manifest.HashFew
	big := strings.Repeat("0123456789abcdef", 16<<10) // 256 KiB: not in a bundle
	for i := range 60 {
		r.write(t, fmt.Sprintf("Maildir/cur/%d.M1P1.b1:2,", 1000+i), fmt.Sprint(i)+big[:200<<10], 5)
	}
	r.write(t, "Maildir/cur/9.long:2,", big, 6)
	if p := r.pull(t, false); p.Files != 61 {
		t.Errorf("%+v", p)
	}
	for path, n := range r.tree.sent {
		if n != 1 {
			t.Errorf("%s sent %d times", path, n)
		}
	}
}

// TestVanishing: what vanishes between manifest and fetch is left to the next hot
// pass, and is an error in the final one.
func TestVanishing(t *testing.T) {
	for _, other := range []string{"", "other contents"} {
		for _, final := range []bool{false, true} {
			r := newRig(t)
			r.write(t, "Maildir/cur/8.M.h:2,", "stays", 1)
			r.write(t, "Maildir/cur/9.M.h:2,", "contents of yes", 1)
			p := r.newPull(final)
			dial := p.Dial
			// Between manifest and fetch: the room is asked about in between.
			p.Room = func(int64) error {
				path := filepath.Join(r.source, "Maildir/cur/9.M.h:2,")
				if other == "" {
					return os.Remove(path)
				}
				return os.WriteFile(path, []byte(other), 0o600)
			}
			p.Dial = dial
			_, err := p.Run(t.Context())
			if (err != nil) != final {
				t.Errorf("final %v, other %q: %v", final, other, err)
			}
			if _, err := os.Stat(filepath.Join(r.staging, "Maildir/cur/8.M.h:2,")); err != nil && !final {
				t.Error(err)
			}
		}
	}
}

// TestManifestStaysInside: a target believes no path that leads out, and none that
// is a name of ours.
func TestManifestStaysInside(t *testing.T) {
	for _, path := range []control.TreePath{"../x", "/etc/x", "a/../../x", "", "../d/", "/", ".", "a//b", "a/./b", "a\x00b", "..waypost-x/", "Maildir/x.lock", "Maildir/cur/.x", "a/"} {
		r := newRig(t)
		r.tree.old = true
		p := r.newPull(false)
		p.Manifest = func(context.Context) (control.Manifest, error) {
			e := control.ManifestEntry{Path: path, Digest: strings.Repeat("00", 32)}
			if strings.HasSuffix(string(path), "/") {
				e.Digest = ""
			}
			return control.Manifest{Entries: []control.ManifestEntry{e}}, nil
		}
		_, err := p.Run(t.Context())
		if ok := path == "a/"; ok != (err == nil) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// TestHardLinks: names of one file are sent once, and are one file at the target; also
// one that is made later.
func TestHardLinks(t *testing.T) {
	r := newRig(t)
	r.fill(t, 20)
	link := func(from, to string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(r.source, to)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(r.source, from), filepath.Join(r.source, to)); err != nil {
			t.Fatal(err)
		}
	}
	first := "Maildir/cur/1700000007.M1P1.b1:2,S"
	link(first, "Maildir/.Copies/cur/1.copy:2,")
	link(first, "Maildir/.Copies/cur/2.copy:2,")
	if p := r.pull(t, false); p.Files != 22 {
		t.Errorf("%+v", p)
	}
	link("Maildir/.a@b/cur/1700000008.M1P1.b1:2,S", "Maildir/.Copies/cur/3.copy:2,F")
	if p := r.pull(t, true); p.Files != 0 {
		t.Errorf("a further name was sent: %+v", p)
	}
	inode := func(rel string) uint64 {
		t.Helper()
		st, err := os.Stat(filepath.Join(r.staging, rel))
		if err != nil {
			t.Fatal(err)
		}
		return st.Sys().(*syscall.Stat_t).Ino
	}
	if inode(first) != inode("Maildir/.Copies/cur/1.copy:2,") || inode(first) != inode("Maildir/.Copies/cur/2.copy:2,") ||
		inode("Maildir/.a@b/cur/1700000008.M1P1.b1:2,S") != inode("Maildir/.Copies/cur/3.copy:2,F") {
		t.Error("names of one file became several files")
	}
}

// TestResume cuts a first pass after some bytes, again and again, with a Tracker that
// knows only what is on the disk, and counts what is sent twice: nothing but what
// was under way.
func TestResume(t *testing.T) {
	r := newRig(t)
	r.fill(t, 300)
	long := strings.Repeat("a long message, of which a part comes in each pass\n", 60_000)
	r.write(t, "Maildir/cur/5.long:2,", long, 77)
	kept := filepath.Join(t.TempDir(), "kept")
	var sent int64
	for cut := 1; ; cut++ {
		if cut > 50 {
			t.Fatal("it never ends")
		}
		r.target = manifest.NewDurable(r.staging)
		if err := r.target.Keep(kept); err != nil {
			t.Fatal(err)
		}
		addr, stop := r.cutting(t, 300_000+int64(cut)*50_000)
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		p := r.newPull(false)
		p.Dial = func(ctx context.Context) (*Conn, error) {
			return Dial(ctx, r.b2, addr, "b1", alice, 7)
		}
		done, err := p.Run(ctx)
		cancel()
		stop()
		sent += done.Bytes
		if cerr := r.target.Close(); cerr != nil {
			t.Fatal(cerr)
		}
		if err == nil {
			break
		}
	}
	r.same(t)
	if _, err := os.Stat(r.halves); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("halves are left: %v", err)
	}
	var all int64
	m, err := manifest.Scan(t.Context(), r.source)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range m.Entries {
		all += e.Size
	}
	if most := all + all/4; sent > most {
		t.Errorf("%d bytes were sent for %d", sent, all)
	}
}

// TestCorruptStaging: what a power cut has made of files that were not synced is found.
func TestCorruptStaging(t *testing.T) {
	r := newRig(t)
	r.fill(t, 30)
	r.pull(t, false)
	bad := filepath.Join(r.staging, "Maildir/cur/1700000007.M1P1.b1:2,S")
	st, err := os.Stat(bad)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, make([]byte, st.Size()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(bad, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
	r.target = manifest.NewDurable(r.staging) // and nothing kept
	if p := r.pull(t, true); p.Files != 1 {
		t.Errorf("%+v", p)
	}
}

// TestManyFolders: no descriptor for each of them; and an empty mailbox.
func TestManyFolders(t *testing.T) {
	r := newRig(t)
	r.pull(t, false)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	for i := range 10_000 {
		if err := os.MkdirAll(fmt.Sprintf("%s/Maildir/.f%d", r.source, i), 0o700); err != nil {
			t.Fatal(err)
		}
		if i%20 == 0 {
			r.write(t, fmt.Sprintf("Maildir/.f%d/new/%d.x", i, i), "x", 5)
		}
	}
	low := old
	low.Cur = 200
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	}()
	if p := r.pull(t, false); p.Files != 500 {
		t.Errorf("%+v", p)
	}
}

// TestFolderForFile: what was a file becomes a folder, and back.
func TestFolderForFile(t *testing.T) {
	r := newRig(t)
	r.write(t, "sieve/a", "file", 1)
	r.write(t, "sieve/b/c", "in a folder", 1)
	r.pull(t, false)
	if err := os.RemoveAll(filepath.Join(r.source, "sieve")); err != nil {
		t.Fatal(err)
	}
	r.write(t, "sieve/a/d", "in a folder", 1)
	r.write(t, "sieve/b", "file", 1)
	r.pull(t, true)
}

func FuzzList(f *testing.F) {
	f.Add([]byte("Maildir/cur/1\x005\x00\x00"))
	f.Add(appendChunk(appendChunk(nil, []wanted{{"a", 1}, {"b", 0}}), []wanted{{"c", packet - 2}}))
	f.Add([]byte("a\x00-1\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		chunks, err := parseList(b)
		if err != nil {
			return
		}
		var again []byte
		for _, c := range chunks {
			if chunkSize(c) > packet {
				t.Fatalf("a chunk of %d bytes", chunkSize(c))
			}
			again = appendChunk(again, c)
		}
		if more, err := parseList(again); err != nil || len(more) != len(chunks) {
			t.Fatal(err)
		}
	})
}

// BenchmarkPull is a first pass of 4 KB messages.
func BenchmarkPull(b *testing.B) {
	r := newRig(b)
	body := strings.Repeat("0123456789abcde\n", 256)
	for i := range 10_000 {
		r.write(b, fmt.Sprintf("Maildir/.f%d/cur/%d.M1P1.b1,S=4096:2,S", i%3, 1700000000+i), fmt.Sprint(i)+body, 5)
	}
	r.tree.how = manifest.HashFew
	for b.Loop() {
		b.StopTimer()
		r.staging = filepath.Join(b.TempDir(), fmt.Sprintf("%x", sha256.Sum256([]byte(fmt.Sprint(b.N, time.Now())))))
		if err := os.MkdirAll(r.staging, 0o700); err != nil {
			b.Fatal(err)
		}
		r.target = manifest.NewDurable(r.staging)
		b.StartTimer()
		if _, err := r.newPull(false).Run(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// TestUnsyncedIsGone: what could not be made durable does not stay under its name, where
// a later pass would read it from memory and believe it.
func TestUnsyncedIsGone(t *testing.T) {
	for _, n := range []int{1, fewFiles, fewFiles + 1} {
		r := newRig(t)
		p := r.newPull(false)
		if err := p.synced.begin(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		var files []arrival
		for i := range n {
			path := filepath.Join(r.staging, fmt.Sprint(i))
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			files = append(files, arrival{Entry: manifest.Entry{Path: control.TreePath(filepath.Base(path))}, path: path})
		}
		// Neither the file system nor a file can be synced any more.
		if err := p.synced.root.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(files[0].path); err != nil {
			t.Fatal(err)
		}
		if err := p.synced.sync(files); err == nil {
			t.Fatalf("%d files: no error", n)
		}
		if left, err := os.ReadDir(r.staging); err != nil || len(left) != 0 {
			t.Errorf("%d files: left %v (%v)", n, left, err)
		}
		if _, known := r.target.Look("0"); known {
			t.Errorf("%d files: believed", n)
		}
	}
}
