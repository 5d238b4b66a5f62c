package sieve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"
)

// sequence runs several scripts one after another.
func sequence(t *testing.T, env *Environment, scripts ...string) (Result, error) {
	t.Helper()
	var list []*Script
	for _, s := range scripts {
		list = append(list, mustCompile(t, s))
	}
	return Run(t.Context(), list, bytesMessage(crlf(letter)), env, Limits{})
}

func TestSequence(t *testing.T) {
	const copyTo = `require ["fileinto", "copy"]; fileinto :copy "Archive";`
	for _, c := range []struct {
		scripts []string
		want    string
	}{
		{nil, "keep"},
		{[]string{copyTo, `redirect "a@b.example";`}, "fileinto Archive; redirect a@b.example"},
		{[]string{`discard;`, `keep;`}, "discard"},
		{[]string{`require "fileinto"; fileinto "A";`, `keep;`}, "fileinto A"},
		{[]string{`stop;`, `discard;`}, "discard"},
		{[]string{`keep;`, `discard;`}, "discard"},
		{[]string{`require "imap4flags"; keep :flags "x";`, ``}, "keep (x)"},
		{[]string{`require "imap4flags"; addflag "x";`, `require "imap4flags"; addflag "y";`}, "keep (x y)"},
		{[]string{copyTo, `require "reject"; reject "no";`}, "fileinto Archive; reject no"},
		{[]string{copyTo, `require "ihave"; error "x";`, `discard;`}, "fileinto Archive; keep; failed"},
		{[]string{`require "vacation"; vacation "a";`, `require "vacation"; vacation "b";`}, "vacation to coyote@desert.example.org: Auto: I have a present for you; keep"},
		{[]string{`require "variables"; set "a" "x";`, `require "variables"; if string "${a}" "x" { discard; }`}, "keep"},
		{[]string{`require "editheader"; deleteheader "subject";`, `if not exists "subject" { discard; }`}, "discard"},
	} {
		r, _ := sequence(t, testEnv(), c.scripts...)
		if got := describe(r); got != c.want {
			t.Errorf("%q: %s, want %s", c.scripts, got, c.want)
		}
	}
}

func TestFailureTells(t *testing.T) {
	r, err := run(t, "require [\"ihave\", \"editheader\"];\naddheader \"a\" \"b\";\nif true {\n error \"because\";\n}", letter, testEnv())
	var e *RunError
	if !errors.As(err, &e) || e.Line != 4 || e.Script != "test" || !strings.Contains(err.Error(), "because") {
		t.Errorf("%v", err)
	}
	if k := r.Actions[0].(*Keep); !r.Failed || k.Header != nil {
		t.Errorf("%+v", r)
	}
}

func included(scripts map[string]string, t *testing.T) *Environment {
	env := testEnv()
	env.Include = func(_ context.Context, where IncludeLocation, name string) (*Script, error) {
		src, ok := scripts[where.String()+" "+name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return Compile(name, []byte(src), Limits{})
	}
	return env
}

func TestInclude(t *testing.T) {
	env := included(map[string]string{
		"personal sub":    `require ["include", "variables"]; global ["test", "box"]; if header :contains "subject" "${test}" { set "box" "spam-${test}"; }`,
		"personal loop":   `require "include"; include "loop";`,
		"personal once":   `require "include"; include :once "once"; include :once "other";`,
		"personal other":  `require ["include", "imap4flags"]; include :once "once"; addflag "other";`,
		"personal ret":    `require ["include", "imap4flags"]; addflag "a"; return; addflag "b";`,
		"personal stop":   `stop;`,
		"global stop":     `discard;`,
		"personal local":  `require ["variables"]; set "x" "inner"; if header :matches "subject" "*" { keep; }`,
		"personal broken": "keep;\nfrob;",
	}, t)
	for script, want := range map[string]string{
		`require ["fileinto", "include", "variables", "relational"]; global "test"; global "box"; set "test" "present"; include "sub";
		 set "test" "money"; include "sub"; if string :count "eq" "${box}" "1" { fileinto "${box}"; stop; }`: "fileinto spam-present",
		`require ["include"]; include "loop";`:                              "keep; failed",
		`require ["include"]; include :once "once"; include :once "other";`: "keep (other)",
		`require ["include", "imap4flags"]; include "ret"; addflag "c";`:    "keep (a c)",
		`require ["include"]; include "stop"; discard;`:                     "keep",
		`require ["include"]; include :global "stop";`:                      "discard",
		`require ["include"]; include "missing";`:                           "keep; failed",
		`require ["include"]; include :optional "missing"; discard;`:        "discard",
		`require ["include"]; include :optional "broken"; discard;`:         "keep; failed",
		`require ["include", "variables", "fileinto"]; set "x" "outer"; if header :matches "to" "*" { include "local"; } fileinto "${x}";`: "keep; fileinto outer",
		`require ["include"]; return; discard;`:                                                                      "keep",
		`require ["include", "variables", "fileinto"]; global "v"; set "global.v" "1"; fileinto "${v}";`:             "fileinto 1",
		`require ["include", "variables", "fileinto"]; set "v" "l"; set "global.v" "g"; fileinto "${v}${global.v}";`: "fileinto lg",
	} {
		r, err := run(t, script, letter, env)
		if got := describe(r); got != want {
			t.Errorf("%s\n got %s, want %s (%v)", script, got, want, err)
		}
	}
}

// memory is a store of memories with a clock.
type memory map[string]time.Time

func (s memory) run(t *testing.T, script, msg string, env *Environment) string {
	t.Helper()
	env.Remembered = func(_ context.Context, key string) (bool, error) { return s[key].After(env.Now), nil }
	r, err := run(t, script, msg, env)
	if err != nil {
		t.Error(err)
	}
	for _, m := range r.Memories {
		if len(m.Key) > 80 {
			t.Errorf("key %q", m.Key)
		}
		s[m.Key] = m.Until
	}
	return describe(r)
}

func TestDuplicate(t *testing.T) {
	const script = `require "duplicate"; if duplicate { discard; }`
	other := strings.Replace(letter, "<1234@", "<5678@", 1)
	s, env := memory{}, testEnv()
	for i, c := range []struct{ script, msg, want string }{
		{script, letter, "keep"}, {script, letter, "discard"}, {script, other, "keep"},
		{`require "duplicate"; if duplicate :header "message-id" { discard; }`, letter, "discard"},
		{`require ["duplicate", "variables"]; if header :matches "message-id" "*" { if duplicate :uniqueid "${0}" { discard; } }`, letter, "discard"},
		{`require "duplicate"; if duplicate :handle "h" { discard; }`, letter, "keep"},
		{`require "duplicate"; if duplicate :handle "h" { discard; }`, letter, "discard"},
		{`require "duplicate"; if duplicate :seconds 0 { discard; }`, letter, "keep"},
		{`require "duplicate"; if duplicate :header "x-nope" { discard; }`, letter, "keep"},
		{`require "duplicate"; if duplicate :header "no name" { discard; }`, letter, "keep"},
		{`require "duplicate"; if anyof(duplicate :uniqueid "u", duplicate :uniqueid "u") { discard; }`, letter, "keep"},
	} {
		if got := s.run(t, c.script, c.msg, env); got != c.want {
			t.Errorf("%d: %s: %s, want %s", i, c.script, got, c.want)
		}
	}
	// Without :last the time runs from the first message; with it from the latest.
	for _, c := range []struct{ tag, want string }{{"", "keep"}, {":last", "discard"}} {
		s, env := memory{}, testEnv()
		script := `require "duplicate"; if duplicate :seconds 100 ` + c.tag + ` { discard; }`
		for _, want := range []string{"keep", "discard", c.want} {
			if got := s.run(t, script, letter, env); got != want {
				t.Errorf("%s: %s, want %s", script, got, want)
			}
			env.Now = env.Now.Add(60 * time.Second)
		}
	}
}

func TestVacationMemory(t *testing.T) {
	s, env := memory{}, testEnv()
	const sent = "vacation to coyote@desert.example.org: Auto: I have a present for you; keep"
	step := func(after time.Duration, script, want string) {
		t.Helper()
		env.Now = env.Now.Add(after)
		if got := s.run(t, `require ["vacation", "vacation-seconds", "variables"]; `+script, letter, env); got != want {
			t.Errorf("%s: %s, want %s", script, got, want)
		}
	}
	step(0, `vacation "gone";`, sent)
	step(time.Hour, `vacation "gone";`, "keep")
	step(0, `vacation "another";`, sent)
	step(7*day, `vacation "gone";`, sent)
	step(0, `vacation :handle "h" "a";`, sent)
	step(0, `vacation :handle "h" "b";`, "keep")
	step(0, `if header :matches "subject" "*" { vacation "gone: ${1}"; }`, sent)
	env = testEnv()
	env.From = "other@example.org"
	step(0, `vacation "gone";`, strings.Replace(sent, "coyote@desert.example.org", "other@example.org", 1))
	// The site's minimum holds for :seconds too.
	s, env = memory{}, testEnv()
	env.VacationMin = time.Hour
	step(0, `vacation :seconds 1 "x";`, sent)
	step(30*time.Minute, `vacation :seconds 1 "x";`, "keep")
	step(30*time.Minute, `vacation :seconds 1 "x";`, sent)
	s, env = memory{}, testEnv()
	step(0, `vacation :days 5000 "x";`, sent)
	step(61*day, `vacation :days 5000 "x";`, sent)
}

// To whom vacation does not answer (RFC 5230, Sections 4.5 and 4.6).
func TestVacationSilence(t *testing.T) {
	with := func(field string) string { return field + "\n" + letter }
	for _, c := range []struct {
		name, from, msg, script string
		reply                   bool
	}{
		{"plain", "a@b.example", letter, "", true},
		{"null", "", letter, "", false},
		{"owner", "owner-list@b.example", letter, "", false},
		{"request", "list-request@b.example", letter, "", false},
		{"daemon", "Mailer-Daemon@b.example", letter, "", false},
		{"listserv", "LISTSERV@b.example", letter, "", false},
		{"self", "roadrunner@acme.example.com", letter, "", false},
		{"list id", "a@b.example", with("List-Id: <x.example>"), "", false},
		{"list post", "a@b.example", with("List-Post: NO"), "", false},
		{"auto", "a@b.example", with("Auto-Submitted: auto-generated; x=y"), "", false},
		{"not auto", "a@b.example", with("Auto-Submitted: No"), "", true},
		{"bulk", "a@b.example", with("Precedence: Bulk"), "", false},
		{"first class", "a@b.example", with("Precedence: first-class"), "", true},
		{"exchange", "a@b.example", with("X-Auto-Response-Suppress: OOF, DR"), "", false},
		{"not named", "a@b.example", strings.Replace(letter, "To: roadrunner+acme@", "To: somebody@", 1), "", false},
		{"named by script", "a@b.example", strings.Replace(letter, "To: roadrunner+acme@", "To: somebody@", 1), `:addresses ["Bunny@HOLE.example"]`, true},
		{"resent", "a@b.example", "Resent-To: roadrunner@acme.example.com\n" + strings.Replace(letter, "To: roadrunner+acme@", "To: somebody@", 1), "", true},
	} {
		env := testEnv()
		env.From = c.from
		r, err := run(t, `require "vacation"; vacation `+c.script+` "gone";`, c.msg, env)
		if err != nil || (len(r.Actions) == 2) != c.reply {
			t.Errorf("%s: %s %v", c.name, describe(r), err)
		}
		if !c.reply && len(r.Memories) > 0 {
			t.Errorf("%s: a reply not sent is remembered", c.name)
		}
	}
}

func TestVacationReply(t *testing.T) {
	r, err := run(t, `require "vacation"; vacation :from "Me <me@acme.example.com>" "text";`,
		"References: <a@b> <c@d>\n"+letter, testEnv())
	if err != nil {
		t.Fatal(err)
	}
	v := r.Actions[0].(*Vacation)
	if v.From != "Me <me@acme.example.com>" || v.InReplyTo != "<1234@desert.example.org>" || v.References != "<a@b> <c@d> <1234@desert.example.org>" {
		t.Errorf("%+v", v)
	}
}

func TestNotifySilence(t *testing.T) {
	r, err := run(t, `require "enotify"; notify "mailto:a@b.example";`, "Auto-Submitted: auto-notified\n"+letter, testEnv())
	if got := describe(r); err != nil || got != "keep" {
		t.Errorf("%s %v", got, err)
	}
	env := testEnv()
	env.From = ""
	r, _ = run(t, `require "enotify"; notify :importance "1" :from "x@y.example" "mailto:a@b.example?x-foo=bar&from=evil@x.example&body=hi%0D%0Athere";`, letter, env)
	n := r.Actions[0].(*Notify)
	if !n.NullSender || n.Importance != '1' || n.From != "x@y.example" || n.Body != "hi\r\nthere" || len(n.Fields) != 1 || n.Fields[0].Name != "x-foo" {
		t.Errorf("%+v", n)
	}
}

func TestEditedHeader(t *testing.T) {
	r, err := run(t, `require ["editheader", "fileinto", "copy"]; fileinto :copy "Before"; addheader "X-Top" "Grüße
Evil: yes"; addheader :last "X-Last" "z"; deleteheader "X-Multi"; fileinto "After";`, letter, testEnv())
	if err != nil {
		t.Fatal(err)
	}
	if f := r.Actions[0].(*FileInto); f.Header != nil {
		t.Error("the copy before the edit is edited")
	}
	h := r.Actions[1].(*FileInto).Header
	text := string(h.Bytes())
	want := string(crlf(letter[:strings.Index(letter, "\n\n")+2]))
	if h.Length() != int64(len(want)) {
		t.Errorf("length %d, want %d", h.Length(), len(want))
	}
	want = strings.Replace(want, "X-Multi: one\r\nX-Multi: two\r\nX-Multi: three\r\n\r\n", "X-Last: z\r\n\r\n", 1)
	want = "X-Top: =?utf-8?q?Gr=C3=BC=C3=9Fe_Evil:_yes?=\r\n" + want
	if text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}

func TestScores(t *testing.T) {
	for _, c := range []struct {
		score *Score
		want  string
	}{
		{nil, "0"}, {&Score{Header: "X-Nope", Max: 1}, "0"}, {&Score{Header: "X-Spam-Score", Max: 10}, "7"},
		{&Score{Header: "X-Stars", Stars: true, Max: 4}, "10"}, {&Score{Header: "Subject", Max: 4}, "0"},
		{&Score{Header: "X-Number", Max: 1000}, "1"},
	} {
		env := testEnv()
		env.Spam = c.score
		r, err := run(t, `require "spamtest"; if spamtest "`+c.want+`" { discard; }`, letter, env)
		if describe(r) != "discard" {
			t.Errorf("%+v: not %s (%v)", c.score, c.want, err)
		}
	}
}

// brokenMessage fails to be read.
type brokenMessage struct{ Message }

func (brokenMessage) Open() (io.ReadSeekCloser, error) { return nil, errors.New("disk") }

func TestErrorsOfEnvironment(t *testing.T) {
	r, err := Run(t.Context(), []*Script{mustCompile(t, `require "body"; if body :contains "x" { discard; }`)},
		brokenMessage{bytesMessage(crlf(letter))}, testEnv(), Limits{})
	if describe(r) != "keep; failed" || err == nil || !strings.Contains(err.Error(), "disk") {
		t.Errorf("%s %v", describe(r), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := Run(ctx, nil, bytesMessage(nil), nil, Limits{}); describe(r) != "keep; failed" || !errors.Is(err, context.Canceled) {
		t.Errorf("%s %v", describe(r), err)
	}
	broken := NewMessage(1, func() (io.ReadSeekCloser, error) { return nil, fs.ErrPermission })
	if r, err := Run(t.Context(), nil, broken, nil, Limits{}); describe(r) != "keep; failed" || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%s %v", describe(r), err)
	}
}

// A script and a message are shared by all who use them at once.
func TestConcurrent(t *testing.T) {
	scripts := []*Script{mustCompile(t, everything)}
	msg := bytesMessage(crlf(parts))
	results := make(chan string)
	for range 8 {
		go func() {
			r, err := Run(t.Context(), scripts, msg, testEnv(), Limits{})
			results <- describe(r) + fmt.Sprint(err)
		}()
	}
	first := <-results
	for range 7 {
		if again := <-results; again != first {
			t.Errorf("%s, then %s", first, again)
		}
	}
}
