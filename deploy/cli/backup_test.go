package cli

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBackupUsage: what does not fit is told before anything is done.
func TestBackupUsage(t *testing.T) {
	f := newFakeAPI(t)
	for _, line := range []string{
		"backup", "backup --to x", "backup a@example.test", "backup a@example.test --all --to x", "backup --all --backend b1 --to x",
		"backup nobody --to x", "backup --all --to x --jobs 0", "backup --all --to x --keep -1", "backup --backend B! --to x",
		"backup verify", "backup verify x a@example.test more", "backup list",
		"restore", "restore a@example.test", "restore nobody --from x", "restore a@example.test --from x --to B!", "restore a@example.test --from x --generation -1",
		"backend lost", "backend lost B!", "backend lost b1 --to b2", "backend lost b1 --empty-without-backup", "backend lost b1 --restore-from x --to b1",
		"backend lost b1 --restore-from x --jobs 99",
		"director restore", "director restore x", "director restore --config x --backend b1", "director restore --config x --decide a@example.test",
		"director restore --config x --decide nobody=b1", "director restore --config x --without B!",
		"repair --accept-rollback", "repair a@example.test --accept-rollback --data x", "repair --accept-rollback --journal --data x",
	} {
		r := f.run("", strings.Fields(line)...)
		if r.code != exitUsage || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, "--help\n") {
			t.Errorf("waypost %s: %+v", line, r)
		}
	}
	if calls := f.took(); len(calls) > 0 {
		t.Errorf("the director was called: %v", calls)
	}
	dir := t.TempDir()
	for _, line := range []string{"backup verify " + dir, "backup list " + dir, "restore a@example.test --from " + dir, "backend lost b1 --restore-from " + dir} {
		if r := f.run("", strings.Fields(line)...); r.code != exitFailed || !strings.Contains(r.stderr, "no backup") {
			t.Errorf("waypost %s: %+v", line, r)
		}
	}
	if r := f.run("", "repair", "--accept-rollback", "--data", dir); r.code != exitFailed || !strings.Contains(r.stderr, "not the data folder of a backend") {
		t.Errorf("%+v", r)
	}
}

// TestBackupFails: users that cannot be copied are named, and fail the command; the
// others, and the directory's addresses, are copied.
func TestBackupFails(t *testing.T) {
	f := newFakeAPI(t)
	dir := filepath.Join(t.TempDir(), "backups")
	f.on("GET /v1/backends", `[{"id":"b1","kind":"waypost","state":"active","node":"127.0.0.1:1"},{"id":"d1","kind":"dovecot","state":"active"}]`)
	f.on("GET /v1/users", `{"user":"a@example.test","home":"b1"}`+"\n"+`{"user":"old@example.test","home":"d1"}`+"\n"+`{"user":"z@example.test","home":"b1"}`+"\n")
	f.on("GET /v1/domains", `[{"domain":"example.test"}]`)
	f.on("GET /v1/addresses", `[{"address":"list@example.test","members":["a@example.test"]}]`)
	f.on("GET /v1/users/a@example.test", `{"user":"a@example.test","home":"b1"}`)
	f.refuse("GET /v1/users/z@example.test", http.StatusNotFound, "not_found", "no such user")
	r := f.run("", "backup", "--all", "--to", dir)
	if r.code != exitFailed || !strings.Contains(r.stderr, "waypost: a@example.test: ") || strings.Contains(r.stderr, "z@example.test") || r.stdout != "2 users, 1 failed: 0 B, of which 0 B were copied\n" {
		t.Errorf("%+v", r)
	}
	text, err := os.ReadFile(filepath.Join(dir, "directory.json"))
	if err != nil || !strings.Contains(string(text), "list@example.test") {
		t.Errorf("%s, %v", text, err)
	}
	if r := f.run("", "backup", "verify", dir); r != (result{exitDone, "verified 0 generations of 0 users: 0 problems\n", ""}) {
		t.Errorf("%+v", r)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestBackendLost: without backups it is only said.
func TestBackendLost(t *testing.T) {
	f := newFakeAPI(t)
	f.on("POST /v1/backends/b2/lost", `{"id":"b2","state":"lost","users":7}`)
	r := f.run("", "backend", "lost", "b2")
	if r.code != exitDone || !strings.HasPrefix(r.stdout, "b2 is lost; its 7 users are offline") {
		t.Errorf("%+v", r)
	}
	f.refuse("POST /v1/backends/b2/lost", http.StatusConflict, "in_use", "backend b2 is alive: stop it first")
	if r := f.run("", "backend", "lost", "b2"); r.code != exitFailed || r.stderr != "waypost: backend b2 is alive: stop it first\n" {
		t.Errorf("%+v", r)
	}
}
