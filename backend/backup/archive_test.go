package backup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"waypost/backend/control"
	"waypost/director"
)

const alice = director.User("alice@example.test")

// TestCreate: a folder of something else is not filled, and nobody writes beside
// another.
func TestCreate(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir); !errors.Is(err, ErrNone) {
		t.Errorf("an empty folder: %v", err)
	}
	a, err := Create(filepath.Join(dir, "new"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(filepath.Join(dir, "new")); err == nil {
		t.Error("two write at once")
	}
	if users, err := a.Users(); err != nil || len(users) != 0 {
		t.Errorf("users %v, %v", users, err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := Create(filepath.Join(dir, "new")); err != nil {
		t.Error(err)
	} else if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Create(dir); err == nil {
		t.Error("a folder with other files was taken")
	}
	if err := os.WriteFile(filepath.Join(dir, "new", markName), []byte(`{"v":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(dir, "new")); !errors.Is(err, ErrVersion) {
		t.Errorf("a later version: %v", err)
	}
}

// TestRead: a generation that is not what it says is refused.
func TestRead(t *testing.T) {
	a, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Read(alice, 0); !errors.Is(err, ErrNone) {
		t.Errorf("nobody: %v", err)
	}
	dir := a.generation(alice, 3)
	if err := os.MkdirAll(filepath.Join(dir, treeName), 0o700); err != nil {
		t.Fatal(err)
	}
	entries := []control.ManifestEntry{{Path: "Maildir/"}}
	if err := errors.Join(writeJSON(filepath.Join(dir, manifestName), entries), writeJSON(filepath.Join(dir, metaName), Meta{Version: 1, User: alice, Generation: 3, Contents: "other"})); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Read(alice, 3); err == nil {
		t.Error("a manifest with another sum was believed")
	}
	problems := 0
	if err := a.Verify(context.Background(), alice, func(v Verified) error { problems += len(v.Problems); return nil }); err != nil || problems != 1 {
		t.Errorf("%d problems, %v", problems, err)
	}
	if err := os.Rename(dir, a.generation(alice, 4)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Meta(alice, 4); err == nil {
		t.Error("a generation under another number was believed")
	}
	if gens, err := a.Generations(alice); err != nil || len(gens) != 1 || gens[0] != 4 {
		t.Errorf("%v, %v", gens, err)
	}
}

func TestDirectory(t *testing.T) {
	a, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Directory(); !errors.Is(err, ErrNone) {
		t.Errorf("none: %v", err)
	}
	want := Directory{Domains: []string{"example.test"}, Addresses: map[string][]string{"list@example.test": {"a@example.test"}}}
	if err := a.PutDirectory(want); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Directory(); err != nil || len(got.Domains) != 1 || got.Addresses["list@example.test"][0] != "a@example.test" {
		t.Errorf("%+v, %v", got, err)
	}
}
