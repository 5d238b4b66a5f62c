package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"waypost/director/admin"
)

// importer answers POST /v1/import as a director would: a result for each line
// that is not blank, while lines still come. Users in exists are there already.
func importer(t *testing.T, f *fakeAPI, exists ...string) *[]admin.CreateUser {
	var got []admin.CreateUser
	f.handle("POST /v1/import", func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		if err := c.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		lines := bufio.NewScanner(r.Body)
		for n := 1; lines.Scan(); n++ {
			if len(lines.Bytes()) == 0 {
				continue
			}
			var u admin.CreateUser
			if err := json.Unmarshal(lines.Bytes(), &u); err != nil {
				t.Errorf("line %d: %v", n, err)
			}
			got = append(got, u)
			result := admin.ImportResult{Line: n, User: u.User, Result: admin.ImportCreated}
			if slices.Contains(exists, u.User) {
				result.Result = admin.ImportExists
			}
			if u.PasswordHash == "bad" {
				result.Result, result.Code, result.Text = admin.ImportFailed, admin.CodeBad, "no such scheme"
			}
			if err := json.NewEncoder(w).Encode(result); err != nil {
				t.Error(err)
			}
			if err := c.Flush(); err != nil {
				t.Error(err)
			}
		}
	})
	return &got
}

func TestImport(t *testing.T) {
	for _, row := range []struct {
		name, text string
		args       []string
		sent       []admin.CreateUser
		out        string
		failed     []string // "line: user" of those that fail
	}{
		{
			name: "Maildirs",
			text: "user,home,maildir,maildir_mode,pop3_uidl\na@x.test,b1,/var/vmail/a,move,%g\nb@x.test,b2,/var/vmail/b,,\nc@x.test,,/var/vmail/c,,\n" +
				"d@x.test,b1,/d,steal,\ne@x.test,b1,,copy,\n",
			sent: []admin.CreateUser{
				{User: "a@x.test", Home: "b1", Maildir: &admin.Maildir{Path: "/var/vmail/a", Mode: "move", POP3UIDL: "%g"}},
				{User: "b@x.test", Home: "b2", Maildir: &admin.Maildir{Path: "/var/vmail/b"}},
			},
			out:    "2 created, 0 there already, 3 failed\n",
			failed: []string{"line 4: c@x.test", "line 5: d@x.test", "line 6: e@x.test"},
		},
		{
			name: "JSON lines",
			text: `{"user":"a@x.test","hash":"{SHA}1","quota_bytes":5,"quota_messages":6,"services":["imap"],"disabled":true,"home":"b2","forward":["c@x.test"],"forward_only":true,"tags":["eu"]}` + "\n\n" +
				`{"user":"old@x.test","password_hash":"h"}` + "\n" + `{"user":"nobody"}` + "\n" + `{"user":"c@x.test","colour":1}` + "\n" +
				`{"user":"d@x.test","hash":"bad"}` + "\n" + `{"user":"e@x.test"} {}` + "\n" + `{"user":"f@x.test","hash":"1","password_hash":"2"}` + "\n" + `{"user":"z@x.test"}`,
			sent: []admin.CreateUser{
				{User: "a@x.test", PasswordHash: "{SHA}1", QuotaBytes: 5, QuotaMessages: 6, Services: []string{"imap"}, Disabled: true, Home: "b2",
					Forward: []string{"c@x.test"}, ForwardOnly: true, Tags: []string{"eu"}},
				{User: "old@x.test", PasswordHash: "h"}, {User: "d@x.test", PasswordHash: "bad"}, {User: "z@x.test"},
			},
			out:    "2 created, 1 there already, 5 failed\n",
			failed: []string{"line 4: nobody", "line 5: c@x.test", "line 6: d@x.test", "line 7: e@x.test", "line 8: f@x.test"},
		},
		{
			name: "CSV",
			text: "\ufeffuser, Password_Hash,quota_bytes,services,disabled,forward,forward_only,tags\na@x.test,{SHA}1,5,imap pop3,true,b@x.test c@x.test,true,eu ssd\n\nold@x.test,\"h\nh\",,,,,,\nnobody,,,,,,,\nc@x.test,h,much,,,,,\nshort@x.test\nd@x.test,bad,,,,,,\nz@x.test,,,,false,,,\n",
			sent: []admin.CreateUser{
				{User: "a@x.test", PasswordHash: "{SHA}1", QuotaBytes: 5, Services: []string{"imap", "pop3"}, Disabled: true,
					Forward: []string{"b@x.test", "c@x.test"}, ForwardOnly: true, Tags: []string{"eu", "ssd"}},
				{User: "old@x.test", PasswordHash: "h\nh"}, {User: "d@x.test", PasswordHash: "bad"}, {User: "z@x.test"},
			},
			out:    "2 created, 1 there already, 4 failed\n",
			failed: []string{"line 6: nobody", "line 7: c@x.test", "line 8: -", "line 9: d@x.test"},
		},
		{name: "nothing", text: "", out: "0 created, 0 there already, 0 failed\n"},
		{name: "CSV by flag, head only", text: "user\n", args: []string{"--format", "csv"}, out: "0 created, 0 there already, 0 failed\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFakeAPI(t)
			sent := importer(t, f, "old@x.test")
			r := f.run(row.text, append([]string{"user", "import", "-"}, row.args...)...)
			want := exitDone
			if len(row.failed) > 0 {
				want = exitFailed
			}
			if r.code != want || r.stdout != row.out {
				t.Errorf("%+v", r)
			}
			if got, want := asJSON(t, *sent), asJSON(t, row.sent); got != want {
				t.Errorf("sent %s, want %s", got, want)
			}
			told := strings.Split(strings.TrimSpace(r.stderr), "\n")
			slices.Sort(told) // ours and the director's come from two sides
			if len(row.failed) == 0 {
				told = nil
			}
			if len(told) != len(row.failed) {
				t.Fatalf("told %q", told)
			}
			for i, prefix := range row.failed {
				if !strings.HasPrefix(told[i], "waypost: "+prefix+": ") {
					t.Errorf("told %q, want %q", told[i], prefix)
				}
			}
		})
	}
}

func asJSON(t *testing.T, users []admin.CreateUser) string {
	t.Helper()
	b, err := json.Marshal(users)
	if err != nil {
		t.Fatal(err)
	}
	if len(users) == 0 {
		return "[]"
	}
	return string(b)
}

func TestImportJSONOutput(t *testing.T) {
	f := newFakeAPI(t)
	importer(t, f)
	path := filepath.Join(t.TempDir(), "users.csv")
	var text strings.Builder
	text.WriteString("user\ngood@x.test\n")
	for range maxFailuresKept + 5 {
		text.WriteString("nobody\n")
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	r := f.run("", "user", "import", path, "--json")
	var got struct {
		Created, Exists, Failed int
		Failures                []admin.ImportResult
		LeftOut                 int `json:"failures_left_out"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatal(err)
	}
	if r.code != exitFailed || got.Created != 1 || got.Failed != maxFailuresKept+5 || len(got.Failures) != maxFailuresKept || got.LeftOut != 5 {
		t.Errorf("exit code %d, %d created, %d failed, %d told, %d left out", r.code, got.Created, got.Failed, len(got.Failures), got.LeftOut)
	}
}

// An import that breaks off says that it can be run again.
func TestImportBrokenOff(t *testing.T) {
	f := newFakeAPI(t)
	f.handle("POST /v1/import", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, `{"line":1,"user":"a@x.test","result":"created"}`)
		fmt.Fprintln(w, `{"stream_error":{"code":"unavailable","text":"etcd is away"}}`)
	})
	r := f.run(`{"user":"a@x.test"}`, "user", "import", "-")
	if r.code != exitFailed || !strings.Contains(r.stderr, "so far 1 created") || !strings.Contains(r.stderr, "waypost: etcd is away\n") {
		t.Errorf("%+v", r)
	}
}

func TestImportRefusesAWrongFile(t *testing.T) {
	f := newFakeAPI(t)
	importer(t, f)
	for name, text := range map[string]string{
		"no user column": "home\nb1\n", "unknown column": "user,colour\n", "a column twice": "user,user\n",
		"a quote astray": "user,home\na@x.test,\"b1\nb@x.test,b2\n", "an endless line": `{"user":"` + strings.Repeat("x", maxImportLine),
	} {
		if r := f.run(text, "user", "import", "-"); r.code != exitFailed || r.stdout != "" || r.stderr == "" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if r := f.run("", "user", "import", "/nowhere/users.csv"); r.code != exitFailed || !strings.Contains(r.stderr, "/nowhere/users.csv") {
		t.Errorf("no such file: %+v", r)
	}
}

// Whatever a file holds, its lines are counted as the file counts them, and
// what is sent is whole lines of JSON.
func FuzzImportLines(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "user\na@x.test\n", "{\"user\":\"a@x.test\"}\n\n{", "user,hash\n\"a@x.test\",\"x\ny\"\n\nb@x.test,1\n", "user\r\na@x.test\r\n", " \n{}", "\ufeffuser\n\"",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		failed := 0
		next, err := openLines(strings.NewReader(text), "", func(r admin.ImportResult) {
			failed++
			if r.Line < 1 || r.Line > strings.Count(text, "\n")+1 {
				t.Errorf("failure at line %d of %q", r.Line, text)
			}
		})
		if err != nil {
			return
		}
		sent, err := io.ReadAll(&lineReader{next: next})
		if err == nil && len(sent) > 0 && sent[len(sent)-1] != '\n' {
			t.Errorf("sent %q", sent)
		}
		for n, line := range strings.Split(string(sent), "\n") {
			if line == "" {
				continue
			}
			var u admin.CreateUser
			if err := json.Unmarshal([]byte(line), &u); err != nil {
				t.Errorf("sent %q: %v", line, err)
			}
			if n > strings.Count(text, "\n") {
				t.Errorf("line %d sent of %q", n+1, text)
			}
		}
	})
}
