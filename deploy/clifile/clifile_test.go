package clifile_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"waypost/deploy/clifile"
)

func TestReadGivesBackWhatWriteWrote(t *testing.T) {
	dir := t.TempDir()
	want := clifile.File{
		Admin: "127.0.0.1:8080",
		CA:    filepath.Join(dir, "pki", "ca.crt"),
		Cert:  filepath.Join(dir, "pki", "admin-cli.crt"),
		Key:   "/elsewhere/admin.key",
	}
	if err := clifile.Write(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := clifile.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("read %+v, wrote %+v", got, want)
	}
}

func TestAMovedFolderStillWorks(t *testing.T) {
	old := filepath.Join(t.TempDir(), "old")
	if err := os.Mkdir(old, 0o755); err != nil {
		t.Fatal(err)
	}
	err := clifile.Write(old, clifile.File{Admin: "h:1", CA: filepath.Join(old, "ca.crt"), Cert: "c", Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	moved := filepath.Join(t.TempDir(), "new")
	if err := os.Rename(old, moved); err != nil {
		t.Fatal(err)
	}
	got, err := clifile.Read(moved)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(moved, "ca.crt"); got.CA != want {
		t.Errorf("ca is %s, want %s", got.CA, want)
	}
}

func TestReadRefuses(t *testing.T) {
	if _, err := clifile.Read(t.TempDir()); !errors.Is(err, clifile.ErrNone) {
		t.Errorf("empty folder: %v, want ErrNone", err)
	}
	for name, text := range map[string]string{
		"no JSON":  "admin",
		"no port":  `{"admin":"localhost","ca":"a","cert":"b","key":"c"}`,
		"no files": `{"admin":"localhost:1"}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, clifile.Name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			if f, err := clifile.Read(dir); err == nil || errors.Is(err, clifile.ErrNone) {
				t.Errorf("read %+v, %v; want another error", f, err)
			}
		})
	}
}
