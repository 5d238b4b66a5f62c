package cli

import (
	"encoding/json"
	"strings"
	"testing"
)

const verifyAlice = "GET /v1/moves/alice@example.test/verify"

func TestMoveVerify(t *testing.T) {
	result := func(missing string) string {
		return `{"verified":{"user":"alice@example.test","from":"b1","to":"b2","digest":"abcd","messages":12,"same":9,"changed":1,"expunged":1,"missing":` + missing + "}}\n"
	}
	for name, c := range map[string]struct {
		answer string
		code   int
		says   string
	}{
		"complete": {result("0"), exitDone, "12 messages: 9 as they were, 1 with other flags or elsewhere, 1 expunged since, 0 missing; receipt abcd"},
		"missing":  {`{"finding":{"what":"cur/1 is not there"}}` + "\n" + result("1"), exitFailed, "MISSING cur/1 is not there\n"},
	} {
		f := newFakeAPI(t)
		f.on(verifyAlice, c.answer)
		r := f.run("", "move", "verify", "alice@example.test")
		if r.code != c.code || !strings.Contains(r.stdout, c.says) || r.stderr != "" {
			t.Errorf("%s: %+v", name, r)
		}
		r = f.run("", "move", "verify", "alice@example.test", "--json")
		var object struct {
			User, From, To, Digest string
			Messages, Missing      *int
			Findings               []string
		}
		if err := json.Unmarshal([]byte(r.stdout), &object); err != nil || r.code != c.code || object.User != "alice@example.test" ||
			object.From != "b1" || object.Messages == nil || object.Missing == nil || len(object.Findings) != *object.Missing || object.Findings == nil {
			t.Errorf("%s: %v, %+v", name, err, r)
		}
	}
}

func TestMoveVerifyProvesNothing(t *testing.T) {
	f := newFakeAPI(t)
	f.on(verifyAlice, "")
	if r := f.run("", "move", "verify", "alice@example.test"); r.code != exitFailed || !strings.Contains(r.stderr, "nothing is verified") {
		t.Errorf("without a result: %+v", r)
	}
	f.on(verifyAlice, `{"stream_error":{"code":"conflict","text":"the receipt here is 1, the directory's 2"}}`+"\n")
	if r := f.run("", "move", "verify", "alice@example.test"); r.code != exitFailed || !strings.Contains(r.stderr, "the receipt here") {
		t.Errorf("refused: %+v", r)
	}
	f.refuse(verifyAlice, 404, "not_found", "no move brought alice to b1")
	if r := f.run("", "move", "verify", "alice@example.test"); r.code != exitFailed || !strings.Contains(r.stderr, "no move brought") {
		t.Errorf("never moved: %+v", r)
	}
}

func TestMoveUndo(t *testing.T) {
	f := newFakeAPI(t)
	f.on("POST /v1/moves/alice@example.test/undo", moveJSON("planned", ""))
	f.on(watchAlice, journal("planned", "copying", "done"))
	if r := f.run("", "move", "undo", "alice@example.test"); r.code != exitDone || !strings.Contains(r.stdout, ": done, b1 to b2") {
		t.Errorf("%+v", r)
	}
	if r := f.run("", "move", "undo", "alice@example.test", "--no-wait", "--json"); r.code != exitDone || !strings.Contains(r.stdout, `"phase":"planned"`) {
		t.Errorf("%+v", r)
	}
}

// A move that waits says why, once for each reason.
func TestMoveTellsWhyItWaits(t *testing.T) {
	waits := func(why string) string {
		return strings.Replace(moveJSON("copying", ""), `"messages"`, `"waiting":"`+why+`","messages"`, 1) + "\n"
	}
	f := newFakeAPI(t)
	f.on("POST /v1/moves", moveJSON("planned", ""))
	f.on(watchAlice, journal("planned", "copying")+waits("paused: b1: deliveries take 900 ms")+waits("paused: b1: deliveries take 950 ms")+
		waits("slowed to 500 kB/s: b2: commands take 300 ms")+journal("copying", "done"))
	r := f.run("", "move", "alice@example.test", "--to", "b2")
	if r.code != exitDone || strings.Count(r.stdout, "paused: b1") != 1 || strings.Count(r.stdout, "; waiting: slowed") != 1 {
		t.Errorf("%+v", r)
	}
	f.refuse("GET /v1/plan", 404, "not_found", "there is no plan")
	f.on("GET /v1/moves", "["+strings.TrimSpace(waits("for its turn: no more than 4 moves at once"))+"]")
	if r := f.run("", "rebalance", "status"); !strings.Contains(r.stdout, "WAITING") || !strings.Contains(r.stdout, "for its turn") {
		t.Errorf("%+v", r)
	}
}

func TestRebalanceLimits(t *testing.T) {
	const set = `{"bytes_per_second":200000000,"moves":0,"backends":[{"backend":"b3","bytes_per_second":0,"moves":4}]}`
	f := newFakeAPI(t)
	f.on("GET /v1/limits", set)
	f.on("PATCH /v1/limits", set)
	r := f.run("", "rebalance", "limits")
	if r.code != exitDone || !strings.Contains(r.stdout, "191 MiB/s") || !strings.Contains(r.stdout, "b3") || !strings.Contains(r.stdout, "unlimited") {
		t.Errorf("%+v", r)
	}
	if r := f.run("", "rebalance", "limits", "--json"); !strings.Contains(r.stdout, `"bytes_per_second": 200000000`) {
		t.Errorf("%+v", r)
	}
	for args, body := range map[string]string{
		"--backend b3 --rate 50M --moves 4": `{"backend":"b3","bytes_per_second":50000000,"moves":4}`,
		"--rate 0":                          `{"bytes_per_second":0}`,
		"--moves 0":                         `{"moves":0}`,
	} {
		f.forget()
		f.on("PATCH /v1/limits", set)
		r := f.run("", append([]string{"rebalance", "limits"}, strings.Fields(args)...)...)
		if took := f.took(); r.code != exitDone || len(took) != 1 || took[0].body != body {
			t.Errorf("%s: %+v, %+v", args, r, took)
		}
	}
	for _, args := range []string{"--moves -1", "--backend b3", "--rate x", "--backend B/3 --moves 1", "extra"} {
		if r := f.run("", append([]string{"rebalance", "limits"}, strings.Fields(args)...)...); r.code != exitUsage {
			t.Errorf("%s: %+v", args, r)
		}
	}
}
