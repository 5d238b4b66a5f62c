package entries_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"waypost/internal/durable"
	"waypost/mx/spool/entries"
)

type env struct {
	ID string `json:"id"`
	N  int    `json:"n"`
}

func open(t *testing.T, dir string) *entries.Store {
	t.Helper()
	s, err := entries.Open(dir, 10, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func text(t *testing.T, s *entries.Store, f entries.Folder, id string) string {
	t.Helper()
	m, err := s.Message(f, id)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	b, err := io.ReadAll(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestShared: one draft, in memory or in a file, is put into several stores,
// and each entry outlives the others.
func TestShared(t *testing.T) {
	for _, body := range []string{"short", "longer than ten bytes"} {
		one, dir := open(t, t.TempDir()), t.TempDir()
		two := open(t, dir)
		if _, err := entries.Open(dir, 10, slog.New(slog.DiscardHandler)); !errors.Is(err, durable.ErrLocked) {
			t.Errorf("opened twice: %v", err)
		}
		d := one.Draft()
		io.WriteString(d, body)
		for _, err := range []error{one.Put(d, "a", env{ID: "a"}), two.Put(d, "b", env{ID: "b"}), one.Put(d, "c", env{ID: "c"})} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := one.Put(d, "a", env{ID: "a"}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("put twice: %v", err)
		}
		d.Discard()
		if err := one.Put(d, "d", env{ID: "d"}); err == nil {
			t.Error("put after its end")
		}
		lent, err := two.DraftOf(entries.Queue, "b")
		if err != nil || lent.Size() != int64(len(body)) {
			t.Fatal(lent, err)
		}
		if _, err := lent.Write([]byte("x")); err == nil {
			t.Error("a lent draft was written to")
		}
		if err := one.Put(lent, "e", env{ID: "e"}); err != nil {
			t.Fatal(err)
		}
		lent.Discard()
		if err := two.Copy(entries.Queue, entries.Dead, "b", env{ID: "b", N: 1}); err != nil {
			t.Fatal(err)
		}
		if err := two.Remove(entries.Queue, "b"); err != nil {
			t.Fatal(err)
		}
		if err := one.Remove(entries.Queue, "a"); err != nil {
			t.Fatal(err)
		}
		for _, have := range []string{text(t, one, entries.Queue, "c"), text(t, one, entries.Queue, "e"), text(t, two, entries.Dead, "b")} {
			if have != body {
				t.Errorf("%q, want %q", have, body)
			}
		}
		two.Close()
		two = open(t, dir)
		n := 0
		if err := two.Read(entries.Dead, func(id string, b []byte) error { n++; return nil }); err != nil || n != 1 {
			t.Errorf("%d, %v", n, err)
		}
		tmp, _ := filepath.Glob(filepath.Join(dir, "tmp", "*"))
		if len(tmp) != 0 {
			t.Errorf("left over: %v", tmp)
		}
		one.Close()
		two.Close()
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	defer s.Close()
	for name, body := range map[string]string{"queue/a.env": `{"id":"a"}`, "queue/a.msg": "x", "queue/b.env": `{"id":"b"}`, "queue/c.msg": "x", "queue/d.env": "{",
		"queue/e.env": `{"id":"e","n":9}`, "queue/e.msg": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	err := s.Read(entries.Queue, func(id string, b []byte) error {
		if id == "e" {
			return fmt.Errorf("version 9: %w", entries.ErrNewer)
		}
		got = append(got, id)
		return nil
	})
	if !errors.Is(err, entries.ErrNewer) || fmt.Sprint(got) != "[a]" {
		t.Errorf("%v, %v", got, err)
	}
	for name, want := range map[string]bool{"bad/b.env": true, "bad/d.env": true, "queue/e.env": true, "queue/a.msg": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
