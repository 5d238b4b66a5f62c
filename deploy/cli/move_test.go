package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const watchAlice = "GET /v1/moves/alice@example.test?watch=1"

// moveJSON is a journal of the move m1 as the admin API tells it.
func moveJSON(phase, reason string) string {
	result := ""
	if phase == "done" || phase == "undone" {
		result = phase
	}
	return fmt.Sprintf(`{"id":"m1","user":"alice@example.test","from":"b1","to":"b2","phase":%q,"result":%q,"reason":%q,"messages":12,"bytes":3456,"copied_bytes":3456,"passes":2,"busy_ms":85,"receipt":"abcd"}`,
		phase, result, reason)
}

func journal(phases ...string) string {
	var b strings.Builder
	for _, p := range phases {
		b.WriteString(moveJSON(p, "") + "\n")
	}
	return b.String()
}

func TestMoveShowsEachPhaseOnce(t *testing.T) {
	f := newFakeAPI(t)
	f.on("POST /v1/moves", moveJSON("planned", ""))
	f.on(watchAlice, journal("planned", "copying", "copying", "busy", "frozen", "sealed", "flipped", "done"))
	r := f.run("", "move", "alice@example.test", "--to", "b2")
	var phases []string
	for _, line := range strings.Split(strings.TrimSpace(r.stdout), "\n") {
		phase, _, _ := strings.Cut(strings.TrimPrefix(line, "alice@example.test: "), ",")
		phases = append(phases, phase)
	}
	if want := []string{"planned", "copying", "busy", "frozen", "sealed", "flipped", "done"}; r.code != exitDone || !slices.Equal(phases, want) {
		t.Errorf("exit code %d, %v, %s", r.code, phases, r.stderr)
	}
	if !strings.HasSuffix(r.stdout, "done, b1 to b2: 12 messages, 3.4 KiB, busy for 85 ms, receipt abcd\n") {
		t.Errorf("the last line tells too little:\n%s", r.stdout)
	}
}

func TestMoveJSONIsOneObject(t *testing.T) {
	for result, code := range map[string]int{"done": exitDone, "undone": exitFailed} {
		f := newFakeAPI(t)
		f.on("POST /v1/moves", moveJSON("planned", ""))
		f.on(watchAlice, journal("planned", "copying", result))
		r := f.run("", "move", "alice@example.test", "--to", "b2", "--json")
		var object map[string]any
		if err := json.Unmarshal([]byte(r.stdout), &object); err != nil || r.code != code || strings.Count(r.stdout, "\n") != 1 {
			t.Errorf("%s: %v, %+v", result, err, r)
			continue
		}
		for _, name := range []string{"user", "from", "to", "result", "messages", "bytes", "busy_ms", "receipt"} {
			if _, ok := object[name]; !ok {
				t.Errorf("no %s in %v", name, object)
			}
		}
		if object["result"] != result {
			t.Errorf("result is %v", object["result"])
		}
	}
}

func TestMoveUndoneTellsWhy(t *testing.T) {
	f := newFakeAPI(t)
	f.on("POST /v1/moves", moveJSON("planned", ""))
	f.on(watchAlice, moveJSON("undone", "over the busy budget")+"\n")
	r := f.run("", "move", "alice@example.test", "--to", "b2")
	if r.code != exitFailed || !strings.Contains(r.stdout, "undone, still at b1: over the busy budget") {
		t.Errorf("%+v", r)
	}
}

// Directors come and go while a move is followed.
func TestMoveOutlivesItsDirector(t *testing.T) {
	f := newFakeAPI(t)
	f.on("POST /v1/moves", moveJSON("planned", ""))
	var tries atomic.Int32
	f.handle(watchAlice, func(w http.ResponseWriter, _ *http.Request) {
		switch tries.Add(1) {
		case 1: // breaks off
			fmt.Fprint(w, journal("planned", "copying"))
			panic(http.ErrAbortHandler)
		case 2: // another director that is starting
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `{"code":"unavailable","text":"not yet"}`)
		case 3: // ends in order, without an end of the move
			fmt.Fprint(w, journal("busy"))
		default:
			fmt.Fprint(w, journal("done"))
		}
	})
	r := f.run("", "move", "alice@example.test", "--to", "b2")
	if r.code != exitDone || tries.Load() != 4 {
		t.Errorf("after %d tries: %+v", tries.Load(), r)
	}
}

func TestMoveThatCannotBeFollowed(t *testing.T) {
	for name, set := range map[string]func(*fakeAPI){
		"refused":     func(f *fakeAPI) { f.refuse(watchAlice, 404, "not_found", "no such move") },
		"unavailable": func(f *fakeAPI) { f.refuse(watchAlice, 503, "unavailable", "etcd is away") },
		"replaced":    func(f *fakeAPI) { f.on(watchAlice, strings.Replace(journal("planned"), "m1", "m2", 1)) },
	} {
		f := newFakeAPI(t)
		f.on("POST /v1/moves", moveJSON("planned", ""))
		set(f)
		r := f.run("", "move", "alice@example.test", "--to", "b2")
		if r.code != exitFailed || strings.Contains(r.stdout, "done") || !strings.HasPrefix(r.stderr, "waypost: ") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestMoveRefused(t *testing.T) {
	f := newFakeAPI(t)
	f.refuse("POST /v1/moves", 409, "conflict", "a move to b3 is busy already")
	r := f.run("", "move", "alice@example.test", "--to", "b2", "--json")
	if want := (result{exitFailed, "", "waypost: a move to b3 is busy already\n"}); r != want {
		t.Errorf("got %+v", r)
	}
}

// Ctrl-C stops the waiting and says that the move goes on.
func TestMoveInterrupted(t *testing.T) {
	f := newFakeAPI(t)
	f.on("POST /v1/moves", moveJSON("planned", ""))
	ctx, interrupt := context.WithTimeout(t.Context(), 30*time.Second)
	defer interrupt()
	f.handle(watchAlice, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, journal("copying"))
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		interrupt()
		<-r.Context().Done()
	})
	a, stdout, stderr := newTest("")
	code := a.main(ctx, []string{"move", "alice@example.test", "--to", "b2", "--data", f.data})
	if code != exitFailed || !strings.Contains(stderr.String(), "the move of alice@example.test goes on by itself") {
		t.Errorf("exit code %d, %s%s", code, stdout, stderr)
	}
}

func TestBar(t *testing.T) {
	for _, row := range []struct {
		done, total int64
		want        string
	}{
		{0, 0, ""}, {5, 0, ""}, {0, 10, "[....................] "}, {5, 10, "[##########..........] "}, {20, 10, "[####################] "},
	} {
		if got := bar(row.done, row.total); got != row.want {
			t.Errorf("bar(%d, %d) = %q, want %q", row.done, row.total, got, row.want)
		}
	}
}

// The other members of a sharing group are followed, too, and told with the user.
func TestMoveGroup(t *testing.T) {
	of := func(user, phase string) string {
		return strings.ReplaceAll(strings.ReplaceAll(moveJSON(phase, "why"), "alice@", user+"@"), "m1", "m-"+user)
	}
	for result, code := range map[string]int{"done": exitDone, "undone": exitFailed} {
		f := newFakeAPI(t)
		planned := strings.TrimSuffix(of("alice", "planned"), "}") + `,"others":[` + of("bob", "planned") + "," + of("cy", "planned") + "]}"
		f.on("POST /v1/moves", planned)
		f.on(watchAlice, of("alice", "done")+"\n")
		f.on(strings.Replace(watchAlice, "alice@", "bob@", 1), of("bob", "copying")+"\n"+of("bob", result)+"\n")
		f.on(strings.Replace(watchAlice, "alice@", "cy@", 1), of("cy", "done")+"\n")
		r := f.run("", "move", "alice@example.test", "--to", "b2", "--json")
		var object struct {
			User, Result string
			Others       []struct{ User, Result string }
		}
		if err := json.Unmarshal([]byte(r.stdout), &object); err != nil || r.code != code || strings.Count(r.stdout, "\n") != 1 {
			t.Fatalf("%s: %v, %+v", result, err, r)
		}
		if object.User != "alice@example.test" || object.Result != "done" || len(object.Others) != 2 ||
			object.Others[0].User != "bob@example.test" || object.Others[0].Result != result || object.Others[1].Result != "done" {
			t.Errorf("%+v", object)
		}
		r = f.run("", "move", "alice@example.test", "--to", "b2")
		if lines := strings.Count(r.stdout, "bob@example.test: "+result); r.code != code || lines != 1 {
			t.Errorf("%s: %+v", result, r)
		}
	}
}
