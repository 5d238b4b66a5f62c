package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"waypost/internal/cluster"
)

// A wrong command line exits 2 with one line that names the help, and calls
// nobody.
func TestWrongUsage(t *testing.T) {
	f := newFakeAPI(t)
	for _, line := range []string{
		"", "nonsense", "user", "user nonsense", "user add", "user add alice", "user add alice@example.test bob@example.test",
		"user add a@example.test --quota-bytes much", "user add a@example.test --quota-messages -1", "user add a@example.test --services smoke",
		"user add a@example.test --home B/1", "user add a@example.test --password secret", "user delete a@example.test",
		"user forward", "user forward alice", "user forward a@example.test bob", "user forward a@example.test b@example.test --off",
		"user forward a@example.test --off --only", "user reply", "user reply alice", "user reply a@example.test b@example.test", "user reply a@example.test --kind smoke --text x",
		"user reply a@example.test --text x", "user reply a@example.test --kind always --text x --days 3", "user reply a@example.test --kind vacation --text x --days 0",
		"user reply a@example.test --kind vacation --text x --days 366", "user reply a@example.test --kind echo --text x", "user reply a@example.test --kind echo --from soon",
		"user reply a@example.test --kind echo --from 2026-08-02 --until 2026-08-01", "user reply a@example.test --off --kind echo",
		"user set a@example.test", "user set a@example.test --services smoke", "user import", "user import - --format xml", "user list all",
		"domain add", "domain add -- -x.example", "address add team@example.test", "address add team alice@example.test", "address delete team",
		"backend", "backend nonsense", "backend drain", "backend drain B!", "backend set b1", "backend set b1 --weight -1", "backend remove b1",
		"backend add-dovecot d1", "backend add-dovecot d1 --imap a:1 --pop3 a:2 --lmtp a:3 --tls maybe",
		"backend add-dovecot d1 --imap a:1 --pop3 a:2 --lmtp a:3 --master-user m",
		"user group", "user group alice", "user group a@example.test b c", "user group a@example.test Sales", "user group a@example.test sales --none",
		"user add a@example.test --group S!", "move alice@example.test --to b2 --alone",
		"move", "move alice@example.test", "move alice --to b2", "move alice@example.test --to B2!",
		"session kick", "session kick 1 --user a@example.test", "session kick 1 2", "session list --user alice",
		"spool retry", "spool retry 1 --all", "spool drop 1", "spool drop", "status now", "status --nonsense", "rebalance", "rebalance nonsense",
		"director", "mx --check-config", "proxy nonsense", "up --offset -1", "up --offset 60000", "up --log-format xml", "up --log-level loud", "up now",
		"init", "init --dir x", "init --dir x --cluster c --host b1", "init --dir x --cluster c --host backend/b9=h",
		"init --dir x --cluster c --host backend/b1=h --host backend/b1=i", "init --dir x --cluster c --etcd nowhere", "init --dir x --cluster c --directors 0",
		"init node", "init node b4 --dir x", "init node backend/b4", "init renew", "completion", "completion tcsh", "version now",
	} {
		r := f.run("", strings.Fields(line)...)
		if r.code != exitUsage || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 ||
			!strings.HasPrefix(r.stderr, "waypost: ") || !strings.Contains(r.stderr, "--help\n") {
			t.Errorf("waypost %s: %+v", line, r)
		}
	}
	if calls := f.took(); len(calls) > 0 {
		t.Errorf("calls were made: %v", calls)
	}
	if _, err := os.Stat("x"); err == nil {
		t.Error("init made a folder for a wrong command line")
	}
}

const (
	aliceJSON = `{"user":"alice@example.test","home":"b1","state":"active","epoch":3,"used_bytes":2048,"used_messages":2,"sessions":1,` +
		`"quota_bytes":1073741824,"quota_messages":0,"disabled":false,"has_password":true,"services":[],"created":"2026-01-02T03:04:05Z"}`
	rulesJSON = `{"user":"alice@example.test","home":"b1","state":"active","epoch":3,"forward":["bob@far.test","eve@far.test"],"forward_only":true,` +
		`"reply":{"kind":"vacation","subject":"Away","text":"I am away.\nAsk Bob.\n","until":"2026-08-15T00:00:00Z"}}`
	groupJSON = `{"user":"alice@example.test","home":"b1","state":"active","epoch":1,"group":"sales"}`
	b1JSON    = `{"id":"b1","kind":"waypost","state":"active","weight":100,"users":7,"used_bytes":1024,"capacity_bytes":4096,"free_bytes":3072,"sessions":2,"node":"h:1","alive":true}`
	b2JSON    = `{"id":"b2","kind":"dovecot","state":"draining","weight":100,"users":0,"used_bytes":null,"capacity_bytes":null,"free_bytes":null,"sessions":null,"alive":null}`
)

// Each row is one command line: what it sends, and what it prints.
func TestCommands(t *testing.T) {
	const alice = "/v1/users/alice@example.test"
	f := newFakeAPI(t)
	for _, row := range []struct {
		line, stdin string
		on, answer  string // the call that is expected, and its answer
		body        string // what must be sent
		stdout      string // what must be printed, in part
	}{
		{line: "user add alice@example.test --home b1 --quota-bytes 1GiB --quota-messages 5 --services imap,pop3", stdin: "secret\n", on: "POST /v1/users", answer: aliceJSON,
			body:   `{"user":"alice@example.test","password":"secret","quota_bytes":1073741824,"quota_messages":5,"services":["imap","pop3"],"home":"b1"}`,
			stdout: "added alice@example.test at b1\n"},
		{line: "user add Alice@Example.test --no-password", on: "POST /v1/users", answer: aliceJSON, body: `{"user":"alice@example.test"}`, stdout: "added"},
		{line: "user passwd alice@example.test", stdin: " with spaces \r\nnot this\n", on: "PATCH " + alice, answer: aliceJSON, body: `{"password":" with spaces "}`, stdout: "password set"},
		{line: "user passwd alice@example.test", stdin: "no newline", on: "PATCH " + alice, answer: aliceJSON, body: `{"password":"no newline"}`, stdout: "password set"},
		{line: "user set alice@example.test --quota-bytes 0 --services imap", on: "PATCH " + alice, answer: aliceJSON, body: `{"quota_bytes":0,"services":["imap"]}`, stdout: "changed"},
		{line: "user set alice@example.test --quota-messages 9", on: "PATCH " + alice, answer: aliceJSON, body: `{"quota_messages":9}`, stdout: "changed"},
		{line: "user disable alice@example.test", on: "PATCH " + alice, answer: aliceJSON, body: `{"disabled":true}`, stdout: "disabled"},
		{line: "user enable alice@example.test", on: "PATCH " + alice, answer: aliceJSON, body: `{"disabled":false}`, stdout: "enabled"},
		{line: "user forward alice@example.test", on: "GET " + alice, answer: aliceJSON, stdout: "alice@example.test: forward: none\n"},
		{line: "user forward alice@example.test", on: "GET " + alice, answer: rulesJSON, stdout: "alice@example.test: forward: bob@far.test, eve@far.test; no copy is kept\n"},
		{line: "user forward alice@example.test bob@far.test eve@far.test", on: "PATCH " + alice, answer: aliceJSON, body: `{"forward":["bob@far.test","eve@far.test"],"forward_only":false}`, stdout: "forward:"},
		{line: "user forward alice@example.test bob@far.test --only", on: "PATCH " + alice, answer: rulesJSON, body: `{"forward":["bob@far.test"],"forward_only":true}`, stdout: "no copy"},
		{line: "user forward alice@example.test --only=false", on: "PATCH " + alice, answer: aliceJSON, body: `{"forward_only":false}`, stdout: "forward:"},
		{line: "user forward alice@example.test --off", on: "PATCH " + alice, answer: aliceJSON, body: `{"forward":[],"forward_only":false}`, stdout: "none"},
		{line: "user reply alice@example.test", on: "GET " + alice, answer: aliceJSON, stdout: "alice@example.test: reply: none\n"},
		{line: "user reply alice@example.test", on: "GET " + alice, answer: rulesJSON, stdout: "reply: vacation, once in 7 days, until "},
		{line: "user reply alice@example.test", on: "GET " + alice, answer: rulesJSON, stdout: "\nSubject: Away\n\nI am away.\nAsk Bob.\n"},
		{line: "user reply alice@example.test --kind always", stdin: "Two\nlines\n", on: "PATCH " + alice, answer: rulesJSON, body: `{"reply":{"kind":"always","text":"Two\nlines\n"}}`, stdout: "reply:"},
		{line: "user reply alice@example.test --kind vacation --subject s --text t --from 2026-08-01T00:00:00Z --until 2026-08-02T06:00:00Z --days 3", on: "PATCH " + alice, answer: rulesJSON, stdout: "reply:",
			body: `{"reply":{"kind":"vacation","subject":"s","text":"t","from":"2026-08-01T00:00:00Z","until":"2026-08-02T06:00:00Z","days":3}}`},
		{line: "user reply alice@example.test --kind echo", stdin: "not read", on: "PATCH " + alice, answer: rulesJSON, body: `{"reply":{"kind":"echo"}}`, stdout: "reply:"},
		{line: "user reply alice@example.test --off", on: "PATCH " + alice, answer: aliceJSON, body: `{"reply":{"kind":""}}`, stdout: "reply: none\n"},
		{line: "user show alice@example.test", on: "GET " + alice, answer: rulesJSON, stdout: "forward    bob@far.test, eve@far.test; no copy is kept\nreply      vacation, once in 7 days, until"},
		{line: "user add alice@example.test --no-password --group sales", on: "POST /v1/users", answer: aliceJSON, body: `{"user":"alice@example.test","group":"sales"}`, stdout: "added"},
		{line: "user group alice@example.test", on: "GET " + alice, answer: aliceJSON, stdout: "alice@example.test: group: none\n"},
		{line: "user group alice@example.test sales", on: "PATCH " + alice, answer: groupJSON, body: `{"group":"sales"}`, stdout: "alice@example.test: group: sales\n"},
		{line: "user group alice@example.test --none", on: "PATCH " + alice, answer: aliceJSON, body: `{"group":""}`, stdout: "group: none\n"},
		{line: "user group alice@example.test --json", on: "GET " + alice, answer: groupJSON, stdout: `"group": "sales"`},
		{line: "user show alice@example.test", on: "GET " + alice, answer: groupJSON, stdout: "group      sales\n"},
		{line: "user show alice@example.test", on: "GET " + alice, answer: aliceJSON, stdout: "2.0 KiB of 1.0 GiB"},
		{line: "user delete alice@example.test --yes", on: "DELETE " + alice, answer: aliceJSON, stdout: "deleted alice@example.test\n"},
		{line: "user list --domain example.test --home b1 --prefix a", on: "GET /v1/users?domain=example.test&home=b1&prefix=a", answer: aliceJSON + "\n", stdout: "alice@example.test  b1"},
		{line: "domain add Example.net", on: "POST /v1/domains", answer: `{"domain":"example.net"}`, body: `{"domain":"example.net"}`, stdout: "added example.net\n"},
		{line: "domain list", on: "GET /v1/domains", answer: `[{"domain":"example.test","users":4,"addresses":1}]`, stdout: "example.test  4"},
		{line: "domain delete example.net", on: "DELETE /v1/domains/example.net", answer: `{"done":true}`, stdout: "deleted example.net\n"},
		{line: "address add *@example.test alice@example.test bob@example.test", on: "PUT /v1/addresses/%2A@example.test",
			answer: `{"address":"*@example.test","members":["alice@example.test","bob@example.test"]}`,
			body:   `{"members":["alice@example.test","bob@example.test"]}`, stdout: "*@example.test: alice@example.test bob@example.test\n"},
		{line: "address list --domain example.test", on: "GET /v1/addresses?domain=example.test", answer: `[{"address":"x@example.test","members":["a@example.test"]}]`, stdout: "x@example.test  a@example.test"},
		{line: "address delete x@example.test", on: "DELETE /v1/addresses/x@example.test", answer: `{"done":true}`, stdout: "deleted x@example.test\n"},
		{line: "backend list", on: "GET /v1/backends", answer: "[" + b1JSON + "," + b2JSON + "]", stdout: "b2  dovecot  draining  ?"},
		{line: "backend drain b1 --no-move", on: "PATCH /v1/backends/b1", answer: b1JSON, body: `{"state":"draining"}`, stdout: "b1 is"},
		{line: "backend activate b1", on: "PATCH /v1/backends/b1", answer: b1JSON, body: `{"state":"active"}`, stdout: "b1 is active"},
		{line: "backend offline b1", on: "PATCH /v1/backends/b1", answer: b1JSON, body: `{"state":"offline"}`, stdout: "b1 is"},
		{line: "backend set b1 --weight 0 --capacity-bytes 4096", on: "PATCH /v1/backends/b1", answer: b1JSON, body: `{"weight":0,"capacity_bytes":4096}`, stdout: "b1 is"},
		{line: "backend remove b1 --yes", on: "DELETE /v1/backends/b1", answer: `{"done":true}`, stdout: "removed b1\n"},
		{line: "backend add-dovecot dove --imap h:143 --pop3 h:110 --lmtp h:24 --tls tls --ca-file /ca --master-user m --master-password-file /f --trusted --weight 10",
			on: "PUT /v1/backends/dove", answer: b2JSON, stdout: "of kind dovecot",
			body: `{"kind":"dovecot","weight":10,"dovecot":{"imap":"h:143","pop3":"h:110","lmtp":"h:24","tls":"tls","ca_file":"/ca","master_user":"m","master_password_file":"/f","trusted":true}}`},
		{line: "status", on: "GET /v1/status", answer: `{"cluster":"fake","director":"d1","nodes":[{"role":"mx","id":"mx1","node":"h:2","alive":false}],"backends":[` + b1JSON + `],"users":{"active":3,"busy":1},"domains":2}`,
			stdout: "3 active, 1 busy; domains: 2"},
		{line: "session list --user alice@example.test", on: "GET /v1/sessions?user=alice%40example.test", answer: `{"sessions":[{"id":"s1","user":"alice@example.test","protocol":"imap","bytes_in":2048}]}`, stdout: "2.0 KiB"},
		{line: "session kick s1", on: "POST /v1/sessions/kick", answer: `{"kicked":1}`, body: `{"id":"s1"}`, stdout: "1 ended\n"},
		{line: "session kick --user alice@example.test", on: "POST /v1/sessions/kick", answer: `{"kicked":2}`, body: `{"user":"alice@example.test"}`, stdout: "2 ended\n"},
		{line: "spool list --user alice@example.test --node mx1", on: "GET /v1/spool?node=mx1&user=alice%40example.test",
			answer: `{"entries":[{"id":"e1","node":"mx1","state":"queued","sender":"x@y","age_seconds":61,"size_bytes":10,"recipients":[{"user":"alice@example.test","error":"busy"}]}]}`, stdout: "1m1s"},
		{line: "spool retry --all", on: "POST /v1/spool/retry", answer: `{"entries":3}`, body: `{"all":true}`, stdout: "3 tried now\n"},
		{line: "spool retry e1 --node mx1", on: "POST /v1/spool/retry", answer: `{"entries":1}`, body: `{"node":"mx1","id":"e1"}`, stdout: "1 tried now\n"},
		{line: "spool retry --user alice@example.test", on: "POST /v1/spool/retry", answer: `{"entries":1}`, body: `{"user":"alice@example.test"}`, stdout: "1 tried now\n"},
		{line: "spool drop e1 --yes", on: "POST /v1/spool/drop", answer: `{"entries":1}`, body: `{"id":"e1"}`, stdout: "1 dropped\n"},
		{line: "rebalance status --json", on: "GET /v1/moves", answer: `[` + moveJSON("copying", "") + `]`, stdout: "copying"},
		{line: "rebalance status --all --json", on: "GET /v1/moves?all=1", answer: `[` + moveJSON("undone", "the disk is full") + `]`, stdout: "the disk is full"},
		{line: "move alice@example.test --to b2 --no-wait", on: "POST /v1/moves", answer: moveJSON("planned", ""), body: `{"user":"alice@example.test","to":"b2"}`, stdout: "planned, b1 to b2"},
	} {
		f.forget()
		f.on(row.on, row.answer)
		// "%2A" is how a client writes the star of a path that is given here.
		f.on(strings.ReplaceAll(row.on, "%2A", "*"), row.answer)
		r := f.run(row.stdin, strings.Fields(row.line)...)
		if r.code != exitDone || r.stderr != "" || !strings.Contains(r.stdout, row.stdout) {
			t.Errorf("waypost %s: %+v\nwant %q", row.line, r, row.stdout)
		}
		if calls := f.took(); len(calls) != 1 || calls[0].body != row.body {
			t.Errorf("waypost %s: sent %v, want one call with %s", row.line, calls, row.body)
		}
		// The same with --json prints JSON, and only that.
		if r = f.run(row.stdin, append(strings.Fields(row.line), "--json")...); r.code != exitDone || !json.Valid([]byte(r.stdout)) {
			t.Errorf("waypost %s --json: %+v", row.line, r)
		}
	}
}

// Other tools rely on these names.
func TestJSONNames(t *testing.T) {
	f := newFakeAPI(t)
	f.on("GET /v1/users/alice@example.test", aliceJSON)
	f.on("GET /v1/backends", "["+b1JSON+","+b2JSON+"]")
	f.on("GET /v1/users", aliceJSON+"\n"+aliceJSON+"\n")
	for _, row := range []struct {
		line  string
		list  bool
		names string
	}{
		{"user show alice@example.test --json", false, "user home state epoch used_bytes used_messages quota_bytes forward forward_only reply"},
		{"backend list --json", true, "id state users used_bytes capacity_bytes sessions"},
		{"user list --json", true, "user home state epoch quota_bytes"},
		{"version --json", false, "version revision go"},
	} {
		r := f.run("", strings.Fields(row.line)...)
		list := []map[string]any{{}}
		var err error
		if row.list {
			err = json.Unmarshal([]byte(r.stdout), &list)
		} else {
			err = json.Unmarshal([]byte(r.stdout), &list[0])
		}
		if err != nil || r.code != exitDone || row.list && len(list) != 2 {
			t.Errorf("waypost %s: %v, %+v", row.line, err, r)
			continue
		}
		for _, object := range list {
			for _, name := range strings.Fields(row.names) {
				if _, ok := object[name]; !ok {
					t.Errorf("waypost %s: no %s in %v", row.line, name, object)
				}
			}
		}
	}
}

func TestEmptyListsAreLists(t *testing.T) {
	f := newFakeAPI(t)
	for what, line := range map[string]string{
		"GET /v1/users": "user list", "GET /v1/domains": "domain list", "GET /v1/addresses": "address list",
		"GET /v1/backends": "backend list", "GET /v1/moves": "rebalance status",
	} {
		body := "null"
		if line == "user list" {
			body = ""
		}
		f.on(what, body)
		if r := f.run("", append(strings.Fields(line), "--json")...); r.code != exitDone || r.stdout != "[]\n" {
			t.Errorf("waypost %s: %+v", line, r)
		}
	}
}

// What the director refuses is one line on stderr and exit code 1.
func TestRefusals(t *testing.T) {
	f := newFakeAPI(t)
	f.refuse("GET /v1/users/alice@example.test", 404, "not_found", "user alice@example.test: not in the directory")
	r := f.run("", "user", "show", "alice@example.test", "--json")
	if want := (result{exitFailed, "", "waypost: user alice@example.test: not in the directory\n"}); r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
	f.on("GET /v1/users", aliceJSON+"\n"+`{"stream_error":{"code":"unavailable","text":"etcd is away"}}`+"\n")
	if r = f.run("", "user", "list"); r.code != exitFailed || !strings.Contains(r.stderr, "not complete: etcd is away") {
		t.Errorf("a list that broke off: %+v", r)
	}
}

// A part that is missing is told, and what there is is printed.
func TestMissingParts(t *testing.T) {
	f := newFakeAPI(t)
	f.on("GET /v1/sessions", `{"sessions":[{"id":"s1","user":"alice@example.test"}],"errors":[{"node":"proxy/p2","text":"timeout"}]}`)
	r := f.run("", "session", "list")
	if r.code != exitFailed || !strings.Contains(r.stdout, "s1") || r.stderr != "waypost: proxy/p2 did not answer: timeout\n" {
		t.Errorf("%+v", r)
	}
}

func TestFindingTheCluster(t *testing.T) {
	f := newFakeAPI(t)
	f.on("GET /v1/domains", "[]")
	cert := func(p cluster.Peer) []string {
		return []string{"--ca", filepath.Join(f.data, cluster.AuthorityCert), "--cert", cluster.CertPath(f.data, p), "--key", cluster.KeyPath(f.data, p)}
	}
	operator, proxy := cluster.Peer{Role: cluster.RoleAdmin, ID: "cli"}, cluster.Peer{Role: cluster.RoleProxy, ID: "p1"}
	for _, row := range []struct {
		name   string
		args   []string
		code   int
		stderr string
	}{
		{"no cluster", nil, exitFailed, "no cluster found: there is no cli.json in ./waypost-data; start one with `waypost up`"},
		{"--data", []string{"--data", f.data}, exitDone, ""},
		{"wrong --data", []string{"--data", filepath.Join(f.data, "nowhere")}, exitFailed, "no cluster found"},
		{"all flags", append(cert(operator), "--admin", f.addr), exitDone, ""},
		{"--admin beside --data", []string{"--data", f.data, "--admin", "127.0.0.1:1"}, exitFailed, "does the cluster run, and is its admin API at 127.0.0.1:1?"},
		{"--admin without port", append(cert(operator), "--admin", "localhost"), exitUsage, "host:port"},
		{"a proxy's certificate", append(cert(proxy), "--admin", f.addr), exitFailed, "wants an admin's"},
		{"no such file", []string{"--data", f.data, "--cert", "/nowhere"}, exitFailed, "/nowhere"},
	} {
		a, stdout, stderr := newTest("")
		code := a.main(t.Context(), append([]string{"domain", "list"}, row.args...))
		if code != row.code || !strings.Contains(stderr.String(), row.stderr) || strings.Count(stderr.String(), "\n") > 1 {
			t.Errorf("%s: exit code %d, %s%s", row.name, code, stdout, stderr)
		}
	}
}

func TestPasswords(t *testing.T) {
	f := newFakeAPI(t)
	for name, stdin := range map[string]string{
		"none": "", "empty line": "\nsecond\n", "too long": strings.Repeat("x", maxPassword+1) + "\n", "zero byte": "a\x00b\n",
	} {
		r := f.run(stdin, "user", "passwd", "alice@example.test")
		if r.code != exitFailed || !strings.Contains(r.stderr, "password") || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if calls := f.took(); len(calls) > 0 {
		t.Errorf("calls were made: %v", calls)
	}
}

func TestLongTablesAndListsAreWhole(t *testing.T) {
	f := newFakeAPI(t)
	var lines strings.Builder
	for i := range 2500 {
		fmt.Fprintf(&lines, "{\"user\":\"u%d@example.test\",\"home\":\"b1\",\"state\":\"active\",\"epoch\":1}\n", i)
	}
	f.on("GET /v1/users", lines.String())
	if r := f.run("", "user", "list"); strings.Count(r.stdout, "\n") != 2501 {
		t.Errorf("%d lines", strings.Count(r.stdout, "\n"))
	}
	var users []struct{ User string }
	if err := json.Unmarshal([]byte(f.run("", "user", "list", "--json").stdout), &users); err != nil || len(users) != 2500 {
		t.Errorf("%d users, %v", len(users), err)
	}
	if !slices.ContainsFunc(users, func(u struct{ User string }) bool { return u.User == "u2499@example.test" }) {
		t.Error("the last one is missing")
	}
}
