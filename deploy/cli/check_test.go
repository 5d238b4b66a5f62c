package cli

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	quotaLine = `{"finding":{"user":"alice@example.test","backend":"b1","kind":"quota","level":"problem","what":"the total\nis wrong","do":"waypost repair USER"}}`
	indexLine = `{"finding":{"user":"alice@example.test","backend":"b1","folder":"Sent","kind":"index","level":"info","what":"no index","do":"nothing"}}`
	farLine   = `{"progress":{"backend":"b1","checked_users":7,"total_users":7,"done":true}}`
	downLine  = `{"missing":{"node":"backend/b2","text":"it is down"}}`
)

func TestCheck(t *testing.T) {
	for _, row := range []struct {
		name, line, on string
		answer         []string
		code           int
		stdout, stderr string
	}{
		{"healthy", "check", "GET /v1/check", []string{farLine}, exitDone, "checked 7 users: 0 problems\n", ""},
		{"info only", "check alice@example.test", "GET /v1/check?user=alice%40example.test", []string{indexLine, farLine}, exitDone,
			"info  alice@example.test  b1 Sent  no index; nothing\nchecked 1 users: 0 problems\n", ""},
		{"problem", "check --backend b1 --deep", "GET /v1/check?backend=b1&deep=1", []string{quotaLine, farLine}, exitFailed,
			"alice@example.test  b1  the total is wrong; waypost repair USER\nchecked 7 users: 1 problems\n", ""},
		{"missing", "check", "GET /v1/check", []string{downLine, farLine}, exitFailed, "checked 7 users: 0 problems\n", "waypost: backend/b2 was not checked: it is down\n"},
		{"broken off", "check", "GET /v1/check", []string{quotaLine, `{"stream_error":{"code":"unavailable","text":"it stops"}}`}, exitFailed,
			"alice@example.test  b1  the total is wrong; waypost repair USER\n", "waypost: it stops\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFakeAPI(t)
			f.on(row.on, strings.Join(row.answer, "\n")+"\n")
			r := f.run("", strings.Fields(row.line)...)
			if r != (result{row.code, row.stdout, row.stderr}) {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestCheckJSON(t *testing.T) {
	f := newFakeAPI(t)
	f.on("GET /v1/check", strings.Join([]string{farLine, quotaLine, downLine}, "\n")+"\n")
	r := f.run("", "check", "--json")
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	if r.code != exitFailed || len(lines) != 4 || !strings.HasPrefix(lines[0], `{"progress":`) || !strings.HasPrefix(lines[1], `{"finding":`) ||
		lines[3] != `{"summary":{"checked_users":7,"problems":1,"infos":0,"missing_backends":1,"interrupted":false}}` {
		t.Errorf("%+v", r)
	}
	for _, l := range lines {
		if !json.Valid([]byte(l)) {
			t.Errorf("no JSON: %s", l)
		}
	}
}

func TestRepair(t *testing.T) {
	const (
		on      = "POST /v1/users/alice@example.test/repair"
		counted = `{"step":{"text":"quota counted"}}`
		twice   = `{"step":{"folder":"Sent","text":"two files","left":true}}`
	)
	f := newFakeAPI(t)
	f.on(on, counted+"\n")
	if r := f.run("", "repair", "alice@example.test"); r != (result{exitDone, "alice@example.test  quota counted\n", ""}) {
		t.Errorf("%+v", r)
	}
	f.on(on+"?deep=1", counted+"\n"+twice+"\n")
	if r := f.run("", "repair", "alice@example.test", "--deep"); r != (result{exitFailed, "alice@example.test  quota counted\nalice@example.test  Sent  LEFT: two files\n", ""}) {
		t.Errorf("%+v", r)
	}
	var did repaired
	r := f.run("", "repair", "alice@example.test", "--deep", "--json")
	if err := json.Unmarshal([]byte(r.stdout), &did); err != nil || r.code != exitFailed || len(did.Steps) != 2 || did.Left != 1 || did.User != "alice@example.test" {
		t.Errorf("%+v %v", r, err)
	}
	f.refuse(on, http.StatusConflict, "conflict", "two backends have it")
	if r := f.run("", "repair", "alice@example.test"); r.code != exitFailed || r.stdout != "" || r.stderr != "waypost: two backends have it\n" {
		t.Errorf("%+v", r)
	}
}

func TestRepairJournalCommand(t *testing.T) {
	f := newFakeAPI(t)
	for _, line := range []string{"repair", "repair alice", "repair a@example.test b@example.test", "repair --journal", "repair --salvage",
		"repair a@example.test --salvage", "repair a@example.test --journal --data x", "repair --journal --deep --data x",
		"check alice", "check a@example.test b@example.test", "check --backend B!"} {
		r := f.run("", strings.Fields(line)...)
		if r.code != exitUsage || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, "--help\n") {
			t.Errorf("waypost %s: %+v", line, r)
		}
	}
	data := t.TempDir()
	if r := f.run("", "repair", "--journal", "--data", data); r.code != exitFailed || !strings.Contains(r.stderr, "not the data folder of a backend") {
		t.Errorf("%+v", r)
	}
	if err := os.WriteFile(filepath.Join(data, "VERSION"), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := f.run("", "repair", "--journal", "--data", data); r.code != exitDone || !strings.HasPrefix(r.stdout, "replayed 0 records of 0 users") {
		t.Errorf("%+v", r)
	}
	if r := f.run("", "repair", "--journal", "--data", data, "--json"); r.code != exitDone || !strings.Contains(r.stdout, `"losses": []`) {
		t.Errorf("%+v", r)
	}
	if err := os.WriteFile(filepath.Join(data, "journal", "checkpoint"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := f.run("", "repair", "--journal", "--data", data); r.code != exitFailed || !strings.Contains(r.stderr, "--salvage") {
		t.Errorf("%+v", r)
	}
	if r := f.run("", "repair", "--journal", "--data", data, "--salvage"); r.code != exitFailed || !strings.Contains(r.stdout, "LOST: ") || !strings.Contains(r.stdout, "waypost check") {
		t.Errorf("%+v", r)
	}
}
