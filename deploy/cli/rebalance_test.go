package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"waypost/director"
)

func planJSON(state string, more string) string {
	return fmt.Sprintf(`{"id":"p1","state":%q,"policy":{"by":"bytes","goal":"level","band":0.1,"window":"01:00-05:00"},"moves":3,"bytes":3145728,"done":1,"undone":1,"skipped":0,"done_bytes":1048576%s}`, state, more)
}

const summaryJSON = `,"made":"2026-03-01T00:00:00Z","summary":{"imbalance_before":0.5,"imbalance_after":0.04,"seconds":600,"elapsed_seconds":40000,"messages":77,
 "reasons":{"over":2,"drain":1},"notes":["2 users have tags that no active backend has: waypost backend tag"],
 "backends":[{"id":"b1","state":"active","capacity_bytes":8388608,"share":4194304,"before":{"users":9,"bytes":8388608},"after":{"users":6,"bytes":4194304},"moves_in":0,"moves_out":3},
  {"id":"b2","state":"active","capacity_bytes":8388608,"share":4194304,"before":{"users":1,"bytes":1048576},"after":{"users":4,"bytes":4194304},"moves_in":3,"moves_out":0}]}`

func TestPlanShowsWhatWouldMove(t *testing.T) {
	f := newFakeAPI(t)
	f.on("POST /v1/plan", planJSON("requested", ""))
	var asked atomic.Int32
	f.handle("GET /v1/plan?full=1", func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			fmt.Fprint(w, planJSON("requested", ""))
			return
		}
		fmt.Fprint(w, planJSON("proposed", summaryJSON))
	})
	f.on("GET /v1/plan/moves", `{"user":"a@example.test","from":"b1","to":"b2","bytes":1048576,"messages":5,"why":"over","when":"active"}`+"\n")
	r := f.run("", "rebalance", "plan", "--by", "bytes", "--max-bytes", "5MiB", "--window", "01:00-05:00", "--band", "20%", "--moves")
	for _, want := range []string{
		"plan p1 (by bytes): proposed: 3 users, 3.0 MiB", "1 drain, 2 over; 77 messages", "about 10m of moving, 11h06m with the waits",
		"50% before, 4% after", "note: 2 users have tags", "[####################]", "[##..................]", "[##########..........]", "9 > 6",
		"a@example.test  b1    b2  1.0 MiB  5         over  active", "waypost rebalance apply p1",
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in\n%s", want, r.stdout)
		}
	}
	if r.code != exitDone || r.stderr != "" {
		t.Errorf("%+v", r)
	}
	var sent struct {
		Policy director.PlanPolicy
		Apply  bool
	}
	for _, c := range f.took() {
		if c.method == http.MethodPost {
			if err := json.Unmarshal([]byte(c.body), &sent); err != nil {
				t.Fatal(err)
			}
		}
	}
	if p := sent.Policy; p.MaxBytes != 5<<20 || p.Window != "01:00-05:00" || p.Band != 0.2 || p.Goal != "level" || sent.Apply {
		t.Errorf("%+v", sent)
	}
	r = f.run("", "rebalance", "show", "--moves", "--json")
	var object struct {
		ID      string
		Summary director.PlanSummary
		Moves   []struct{ User, Why string } `json:"planned_moves"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &object); err != nil || object.ID != "p1" || len(object.Summary.Backends) != 2 || len(object.Moves) != 1 {
		t.Errorf("%v, %+v", err, r)
	}
}

func TestPlanThatFails(t *testing.T) {
	f := newFakeAPI(t)
	f.on("POST /v1/plan", planJSON("requested", ""))
	f.on("GET /v1/plan?full=1", planJSON("failed", `,"reason":"backend b2 is of an older version"`))
	for _, args := range [][]string{{"rebalance", "plan"}, {"rebalance", "plan", "--json"}} {
		if r := f.run("", args...); r.code != exitFailed || !strings.Contains(r.stdout+r.stderr, "older version") {
			t.Errorf("%+v", r)
		}
	}
	f.refuse("POST /v1/plan", 409, "conflict", "plan p0 is running: another plan is under way")
	if r := f.run("", "rebalance", "plan"); r.code != exitFailed || r.stderr != "waypost: plan p0 is running: another plan is under way\n" {
		t.Errorf("%+v", r)
	}
}

func TestPlanWrongUsage(t *testing.T) {
	f := newFakeAPI(t)
	for _, line := range []string{
		"rebalance plan --by colour", "rebalance plan --band 0", "rebalance plan --band 120%", "rebalance plan --window noon", "rebalance plan --drain --fill b2",
		"rebalance plan --fill B!", "rebalance plan --continuous --apply", "rebalance plan now", "rebalance apply p1 p2", "rebalance auto", "rebalance auto maybe",
		"rebalance status --watch --json", "backend drain b1 --wait --no-move", "backend drain b1 --window never", "user tag", "user tag alice@example.test EU",
		"user tag alice@example.test eu --none", "backend tag b1 a a",
	} {
		if r := f.run("", strings.Fields(line)...); r.code != exitUsage || !strings.HasPrefix(r.stderr, "waypost: ") {
			t.Errorf("waypost %s: %+v", line, r)
		}
	}
}

func TestPlanIsSteered(t *testing.T) {
	f := newFakeAPI(t)
	for verb, state := range map[string]string{"apply": "running", "pause": "paused", "resume": "running", "abort": "aborting"} {
		f.on("POST /v1/plan/"+verb, planJSON(state, `,"waiting":"the window 01:00-05:00 opens at 01:00","failures":[{"user":"c@example.test","reason":"the disk is full"}]`))
		r := f.run("", "rebalance", verb, "p1")
		for _, want := range []string{"plan p1 (by bytes): " + state + ": 1 of 3 users, 1.0 MiB of 3.0 MiB; 1 undone", "waiting: the window", "not moved: c@example.test: the disk is full"} {
			if !strings.Contains(r.stdout, want) || r.code != exitDone {
				t.Errorf("%s: no %q in %+v", verb, want, r)
			}
		}
		if r := f.run("", "rebalance", verb, "--json"); !strings.Contains(r.stdout, `"state": "`+state+`"`) {
			t.Errorf("%+v", r)
		}
	}
	last := f.took()[len(f.took())-1]
	if !strings.HasPrefix(last.path, "/v1/plan/") || last.body != "{}" {
		t.Errorf("%+v", last)
	}
}

func TestStatusHasThePlan(t *testing.T) {
	f := newFakeAPI(t)
	f.on("GET /v1/moves", "["+moveJSON("copying", "the source is busy with its users")+"]")
	f.on("GET /v1/plan", planJSON("running", `,"eta":"2099-01-01T00:00:00Z"`))
	r := f.run("", "rebalance", "status")
	for _, want := range []string{"plan p1 (by bytes): running: 1 of 3 users", "to end at about 2", "copying", "the source is busy"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in %+v", want, r)
		}
	}
	f.on("GET /v1/plan?full=1", planJSON("running", `,"on_their_way":[`+moveJSON("busy", "")+`]`))
	r = f.run("", "rebalance", "status", "--plan", "--json")
	if !strings.Contains(r.stdout, `"on_their_way"`) || strings.HasPrefix(r.stdout, "[") {
		t.Errorf("%+v", r)
	}
	f.refuse("GET /v1/plan", 404, "not_found", "there is no plan")
	if r = f.run("", "rebalance", "status"); r.code != exitDone || !strings.HasPrefix(r.stdout, "USER") || r.stderr != "" {
		t.Errorf("%+v", r)
	}
}

func TestStatusIsWatchedToTheEnd(t *testing.T) {
	f := newFakeAPI(t)
	f.on("GET /v1/moves", "[]")
	var asked atomic.Int32
	f.handle("GET /v1/plan", func(w http.ResponseWriter, _ *http.Request) {
		state := map[int32]string{1: "running", 2: "paused"}[asked.Add(1)]
		if state == "" {
			state = "done"
		}
		fmt.Fprint(w, planJSON(state, ""))
	})
	if r := f.run("", "rebalance", "status", "--watch"); r.code != exitDone || asked.Load() != 3 || !strings.Contains(r.stdout, ": done: 1 of 3") {
		t.Errorf("asked %d times: %+v", asked.Load(), r)
	}
}

func TestContinuousMode(t *testing.T) {
	f := newFakeAPI(t)
	off := `{"on":false,"policy":{"by":"bytes","goal":"level","band":0.1},"every_seconds":600}`
	on := `{"on":true,"policy":{"by":"bytes","goal":"level","band":0.15,"window":"22:00-06:00","max_bytes":1048576,"cool_down_seconds":86400},"every_seconds":3600,"changed":"2026-03-01T00:00:00Z"}`
	f.on("GET /v1/plan/auto", off)
	if r := f.run("", "rebalance", "auto", "show"); r.stdout != "the continuous mode is off\n" {
		t.Errorf("%+v", r)
	}
	f.on("PUT /v1/plan/auto", on)
	r := f.run("", "rebalance", "auto", "on", "--band", "15%", "--every", "1h", "--window", "22:00-06:00", "--max-bytes", "1MiB")
	for _, want := range []string{"is on since", "band 15%", "a look every 1h00m", "window: 22:00-06:00", "at most 1.0 MiB"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in %+v", want, r)
		}
	}
	if b := f.took()[len(f.took())-1].body; !strings.Contains(b, `"band":0.15`) || !strings.Contains(b, `"every_seconds":3600`) || !strings.Contains(b, `"on":true`) {
		t.Error(b)
	}
	if r := f.run("", "rebalance", "plan", "--continuous", "--band", "10%"); r.code != exitDone || !strings.Contains(r.stdout, "is on since") {
		t.Errorf("%+v", r)
	}
	f.on("GET /v1/plan/auto", on)
	f.on("PUT /v1/plan/auto", off)
	if r := f.run("", "rebalance", "auto", "off"); r.stdout != "the continuous mode is off\n" {
		t.Errorf("%+v", r)
	}
	if b := f.took()[len(f.took())-1].body; !strings.Contains(b, `"band":0.15`) || !strings.Contains(b, `"on":false`) {
		t.Error("off forgets the policy:", b)
	}
}

func backendsJSON(users int) string {
	return fmt.Sprintf(`[{"id":"b1","kind":"waypost","state":"active","users":9,"sessions":3},{"id":"b3","kind":"waypost","state":"draining","weight":100,"users":%d,"sessions":0}]`, users)
}

func TestDrainStartsMoving(t *testing.T) {
	f := newFakeAPI(t)
	f.on("PATCH /v1/backends/b3", `{"id":"b3","kind":"waypost","state":"draining","weight":100,"users":5}`)
	f.on("POST /v1/plan", planJSON("requested", ""))
	if r := f.run("", "backend", "drain", "b3"); r != (result{exitDone, "b3 is draining, weight 100\n", ""}) {
		t.Errorf("%+v", r)
	}
	if b := f.took()[1].body; !strings.Contains(b, `"goal":"drain"`) || !strings.Contains(b, `"apply":true`) {
		t.Error(b)
	}
	f.refuse("POST /v1/plan", 409, "conflict", "plan p0 is running")
	if r := f.run("", "backend", "drain", "b3"); r.code != exitDone || !strings.Contains(r.stderr, "a plan is under way") {
		t.Errorf("%+v", r)
	}
}

func TestDrainWaits(t *testing.T) {
	f := newFakeAPI(t)
	f.on("PATCH /v1/backends/b3", `{"id":"b3","kind":"waypost","state":"draining","users":5}`)
	var looks, plans atomic.Int32
	f.handle("GET /v1/backends", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, backendsJSON(max(0, 5-int(looks.Add(1)))))
	})
	f.on("GET /v1/moves", "[]")
	f.handle("GET /v1/plan?full=1", func(w http.ResponseWriter, _ *http.Request) {
		if plans.Load() == 0 {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"code":"not_found","text":"there is no plan"}`)
			return
		}
		fmt.Fprint(w, planJSON("running", ""))
	})
	f.handle("POST /v1/plan", func(w http.ResponseWriter, _ *http.Request) { plans.Add(1); fmt.Fprint(w, planJSON("requested", "")) })
	if r := f.run("", "backend", "drain", "b3", "--wait"); r != (result{exitDone, "b3 is empty: safe to switch off\n", ""}) {
		t.Errorf("%+v", r)
	}
	if looks.Load() != 5 || plans.Load() != 1 {
		t.Errorf("%d looks, %d plans", looks.Load(), plans.Load())
	}
}

func TestDrainTellsWhoIsLeft(t *testing.T) {
	f := newFakeAPI(t)
	f.on("PATCH /v1/backends/b3", `{"id":"b3","kind":"waypost","state":"draining","users":2}`)
	f.on("GET /v1/backends", backendsJSON(2))
	f.on("POST /v1/plan", planJSON("requested", ""))
	f.on("GET /v1/plan?full=1", planJSON("done", summaryJSON))
	r := f.run("", "backend", "drain", "b3", "--wait")
	if r.code != exitFailed || !strings.Contains(r.stderr, "2 users left who cannot be moved now") || !strings.Contains(r.stderr, "tags that no active backend has") {
		t.Errorf("%+v", r)
	}
	f.on("GET /v1/backends", strings.Replace(backendsJSON(2), "draining", "active", 1))
	if r := f.run("", "backend", "drain", "b3", "--wait"); r.code != exitFailed || !strings.Contains(r.stderr, "somebody has ended the drain") {
		t.Errorf("%+v", r)
	}
}

func TestTagCommands(t *testing.T) {
	f := newFakeAPI(t)
	f.on("PUT /v1/users/alice@example.test/tags", `{"tags":["eu","ssd"]}`)
	f.on("GET /v1/users/alice@example.test/tags", `{"tags":["eu"]}`)
	f.on("PUT /v1/backends/b1/tags", `{"tags":[]}`)
	f.on("GET /v1/backends/b1/tags", `{"tags":null}`)
	for line, want := range map[string]string{
		"user tag alice@example.test ssd eu": "alice@example.test: tags: eu ssd\n", "user tag alice@example.test": "alice@example.test: tags: eu\n",
		"backend tag b1 --none": "b1: tags: -\n", "backend tag b1": "b1: tags: -\n",
	} {
		if r := f.run("", strings.Fields(line)...); r.stdout != want || r.code != exitDone {
			t.Errorf("waypost %s: %+v", line, r)
		}
	}
	if r := f.run("", "backend", "tag", "b1", "--json"); !strings.Contains(r.stdout, `"tags": []`) {
		t.Errorf("%+v", r)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0s", 40 * time.Second: "40s", 125 * time.Second: "2m", 185 * time.Minute: "3h05m", 52 * time.Hour: "2d04h"} {
		if got := span(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
