package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/admin"
)

// A day given as the last is answered to its end, here.
func TestReplyDays(t *testing.T) {
	f := newFakeAPI(t)
	f.on("PATCH /v1/users/alice@example.test", aliceJSON)
	r := f.run("", strings.Fields("user reply alice@example.test --kind echo --from 2026-03-28 --until 2026-03-28")...)
	calls := f.took()
	if r.code != exitDone || len(calls) != 1 {
		t.Fatalf("%+v, %v", r, calls)
	}
	var req admin.UpdateUser
	if err := json.Unmarshal([]byte(calls[0].body), &req); err != nil {
		t.Fatal(err)
	}
	from, until := time.Date(2026, 3, 28, 0, 0, 0, 0, time.Local), time.Date(2026, 3, 29, 0, 0, 0, 0, time.Local)
	if req.Reply == nil || !req.Reply.From.Equal(from) || !req.Reply.Until.Equal(until) {
		t.Errorf("sent %s", calls[0].body)
	}
}

func TestReplyTextFromStandardInput(t *testing.T) {
	f := newFakeAPI(t)
	for name, stdin := range map[string]string{"none": "", "blank": " \n", "too long": strings.Repeat("x", director.MaxReplyText+1)} {
		r := f.run(stdin, "user", "reply", "alice@example.test", "--kind", "vacation")
		if r.code != exitFailed || !strings.Contains(r.stderr, "text") || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if calls := f.took(); len(calls) > 0 {
		t.Errorf("calls were made: %v", calls)
	}
	_, tty := terminal(t)
	a, _, stderr := newTest("")
	a.stdin = tty
	a.getenv = func(string) string { return f.data }
	if code := a.main(t.Context(), []string{"user", "reply", "alice@example.test", "--kind", "vacation"}); code != exitUsage || !strings.Contains(stderr.String(), "--text") {
		t.Errorf("at a terminal: %d, %s", code, stderr)
	}
}

// What the director refuses is said as it says it.
func TestRulesRefused(t *testing.T) {
	f := newFakeAPI(t)
	f.refuse("PATCH /v1/users/alice@example.test", 400, "bad_request", "forward: member bob@far: \"far\" is no domain of mail: invalid")
	r := f.run("", "user", "forward", "alice@example.test", "bob@far")
	if want := (result{exitFailed, "", "waypost: forward: member bob@far: \"far\" is no domain of mail: invalid\n"}); r != want {
		t.Errorf("got %+v", r)
	}
}
