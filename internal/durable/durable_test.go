package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, e := range entries {
		s = append(s, e.Name())
	}
	return strings.Join(s, " ")
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "fence")
	for _, tt := range []struct {
		data string
		perm fs.FileMode
	}{{"one", 0o600}, {"two and more", 0o666}, {"", 0o640}} {
		if err := WriteFile(path, []byte(tt.data), tt.perm); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); got != tt.data || info.Mode().Perm() != tt.perm {
			t.Errorf("%q %v, want %q %v", got, info.Mode().Perm(), tt.data, tt.perm)
		}
	}
	if got := names(t, dir); got != "fence" {
		t.Errorf("folder holds %s", got)
	}
	long := filepath.Join(dir, strings.Repeat("n", 255))
	if err := WriteFile(long, []byte("x"), 0o600); err != nil {
		t.Errorf("name of full length: %v", err)
	}
}

// TestFailuresLeaveNothing fails each step that can be made to fail and looks
// for changed contents and left-over files.
func TestFailuresLeaveNothing(t *testing.T) {
	errWrite := errors.New("source failed")
	tests := []struct {
		name string
		do   func(dir string) error
		want error
	}{
		{"the writer fails", func(dir string) error {
			return WriteFunc(filepath.Join(dir, "kept"), 0o600, func(w io.Writer) error {
				if _, err := io.WriteString(w, "half"); err != nil {
					return err
				}
				return errWrite
			})
		}, errWrite},
		{"the target is a folder", func(dir string) error {
			return WriteFile(filepath.Join(dir, "folder"), []byte("x"), 0o600)
		}, nil},
		{"the target exists", func(dir string) error {
			return CreateFile(filepath.Join(dir, "kept"), []byte("x"), 0o600)
		}, fs.ErrExist},
		{"no such folder", func(dir string) error {
			return WriteFile(filepath.Join(dir, "none", "x"), []byte("x"), 0o600)
		}, fs.ErrNotExist},
		{"rename of nothing", func(dir string) error {
			return Rename(filepath.Join(dir, "none"), filepath.Join(dir, "some"))
		}, fs.ErrNotExist},
		{"remove of nothing", func(dir string) error { return Remove(filepath.Join(dir, "none")) }, fs.ErrNotExist},
		{"sync of nothing", func(dir string) error { return SyncDir(filepath.Join(dir, "none")) }, fs.ErrNotExist},
		{"a file in the way", func(dir string) error { return MkdirAll(filepath.Join(dir, "kept", "sub"), 0o700) }, nil},
	}
	for _, tt := range tests {
		dir := t.TempDir()
		if err := WriteFile(filepath.Join(dir, "kept"), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := MkdirAll(filepath.Join(dir, "folder", "full"), 0o700); err != nil {
			t.Fatal(err)
		}
		err := tt.do(dir)
		if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if got := read(t, filepath.Join(dir, "kept")); got != "old" {
			t.Errorf("%s: file now holds %q", tt.name, got)
		}
		if got := names(t, dir); got != "folder kept" {
			t.Errorf("%s: folder holds %s", tt.name, got)
		}
	}
}

func TestWriteFileConcurrently(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := WriteFile(path, []byte(strings.Repeat(string(rune('a'+i)), 5000)), 0o600); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := read(t, path)
	if len(got) != 5000 || strings.Trim(got, got[:1]) != "" {
		t.Fatal("a mixture of two writes")
	}
	if n := names(t, filepath.Dir(path)); n != "f" {
		t.Fatalf("folder holds %s", n)
	}
}

func TestCreateFileConcurrently(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for range 8 {
		wg.Go(func() {
			err := CreateFile(path, []byte("x"), 0o600)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made++
			} else if !errors.Is(err, fs.ErrExist) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made != 1 || names(t, filepath.Dir(path)) != "f" {
		t.Fatalf("%d callers made the file; folder holds %s", made, names(t, filepath.Dir(path)))
	}
}

func TestRenameRemoveMkdirAll(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b", "c")
	for range 2 {
		if err := MkdirAll(deep, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(deep); err != nil || !info.IsDir() || info.Mode().Perm() != 0o750 {
		t.Fatalf("%v %v", info, err)
	}
	file := filepath.Join(deep, "f")
	if err := WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Rename(file, filepath.Join(deep, "g")); err != nil {
		t.Fatal(err)
	}
	if err := Rename(deep, filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(dir, "moved", "g")); got != "x" {
		t.Fatalf("moved file holds %q", got)
	}
	if err := Remove(filepath.Join(dir, "moved", "g")); err != nil {
		t.Fatal(err)
	}
	if got := names(t, filepath.Join(dir, "moved")); got != "" {
		t.Fatalf("removed file is still there: %s", got)
	}
	t.Chdir(dir)
	if err := MkdirAll("x/y", 0o700); err != nil {
		t.Fatalf("relative path: %v", err)
	}
	if err := WriteFile("x/y/f", []byte("x"), 0o600); err != nil {
		t.Fatalf("relative path: %v", err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	l, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "process ") {
		t.Fatalf("second lock: %v", err)
	}
	for range 2 {
		if err := l.Unlock(); err != nil {
			t.Fatal(err)
		}
	}
	again, err := Lock(dir)
	if err != nil {
		t.Fatalf("lock after unlock: %v", err)
	}
	if err := again.Unlock(); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("lock of a missing folder: %v", err)
	}
}

const lockEnv = "WAYPOST_TEST_LOCK_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(lockEnv); dir != "" {
		os.Exit(holdLock(dir))
	}
	os.Exit(m.Run())
}

// holdLock is the other process: it locks, says so, and dies without unlocking
// when its input ends.
func holdLock(dir string) int {
	if _, err := Lock(dir); err != nil {
		return 1
	}
	if _, err := os.Stdout.WriteString("locked\n"); err != nil {
		return 1
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func TestLockAcrossProcesses(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), lockEnv+"="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("locked\n"))); err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("lock held by another process: %v", err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	l, err := Lock(dir)
	if err != nil {
		t.Fatalf("the lock outlived its process: %v", err)
	}
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
}
