package sieve

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"waypost/internal/testmail"
)

func TestCompileLimits(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"size":      {strings.Repeat("#\n", 600_000), "at most 1048576"},
		"blocks":    {strings.Repeat("if true {", 5000) + strings.Repeat("}", 5000), "nested too deep"},
		"tests":     {"if " + strings.Repeat("not ", 5000) + "true { stop; }", "nested too deep"},
		"lists":     {"if " + strings.Repeat("anyof(", 5000) + "true" + strings.Repeat(")", 5000) + "{}", "nested too deep"},
		"commands":  {strings.Repeat("keep;", 30_000), "too long"},
		"errors":    {strings.Repeat("frob;\n", 1000), "20:1:"},
		"variables": {`require "variables";` + many(300, `set "a%d" "";`), "more than 256 variables"},
		"regex":     {`require "regex"; if header :regex "a" "` + strings.Repeat("a", 2000) + `" {}`, "more than 1024 bytes"},
		"program":   {`require "regex"; if header :regex "a" "(a{200}){5}(b{200}){5}c{200}" {}`, "too large"},
		"brackets":  {"keep " + strings.Repeat("[", 100_000), "expected a string"},
	} {
		start := time.Now()
		_, err := Compile("s", []byte(c.script), Limits{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %.200v", name, err)
		}
		if len(strings.Split(fmt.Sprint(err), "\n")) > 20 {
			t.Errorf("%s: too many errors", name)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%s took %v", name, d)
		}
	}
}

func many(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

func TestRunLimits(t *testing.T) {
	big := "Subject: " + strings.Repeat("a", 200_000) + "\nTo: " + strings.Repeat("a@b.example, ", 20_000) + "c@d\n\nbody\n"
	for name, c := range map[string]struct{ script, want string }{
		"actions":       {`require "fileinto";` + many(10_000, `fileinto "f%d";`), "more than 64 actions"},
		"redirects":     {many(5, `redirect "a%d@b.example";`), "more than 4 redirects"},
		"notices":       {`require "enotify";` + many(5, `notify "mailto:a%d@b.example";`), "more than 4 notifications"},
		"edits":         {`require "editheader";` + many(65, `addheader "x%d" "y";`), "more than 64 changes"},
		"added":         {`require ["editheader"];` + many(10, `addheader "x%d" "`+strings.Repeat("y ", 5000)+`";`), "bytes of header added"},
		"memories":      {`require "duplicate"; if anyof(` + many(70, `duplicate :uniqueid "%d",`) + `false) {}`, "things to remember"},
		"regex":         {`require "regex"; if header :regex "subject" "^(a|aa)+(a{0,200})$b" {}`, "more work than is allowed"},
		"globs":         {`if anyof(` + many(50, `header :matches "subject" "*`+strings.Repeat("a", 3000)+`b%d*",`) + `false) {}`, "more work than is allowed"},
		"contains":      {`if anyof(` + many(5000, `header :contains "subject" "aaab%d",`) + `false) {}`, "more work than is allowed"},
		"string":        {`require ["variables", "fileinto"]; if header :matches "subject" "*" { fileinto "` + strings.Repeat("${1}", 100) + `"; }`, "more than 262144 bytes"},
		"long folder":   {`require ["variables", "fileinto"]; if header :matches "subject" "*" { fileinto "${1}"; }`, "longer than 1024"},
		"own addresses": {`require "vacation"; vacation :addresses [` + many(5000, `"x%d@y.example",`) + `"x@y.example"] "gone";`, ""},
	} {
		start := time.Now()
		r, err := run(t, c.script, big, testEnv())
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || describe(r) != "keep; failed") {
			t.Errorf("%s: %s, %.300v", name, describe(r), err)
		}
		if d := time.Since(start); d > 20*time.Second {
			t.Errorf("%s took %v", name, d)
		}
	}
}

// A variable that grows without end stays as large as a variable may be.
func TestHugeVariable(t *testing.T) {
	script := `require ["variables", "fileinto"]; set "a" "0123456789";` + strings.Repeat(`set "a" "${a}${a}${a}ü";`, 500) +
		`set :length "n" "${a}"; fileinto "${n}";`
	r, err := run(t, script, letter, testEnv())
	var n int
	if _, scanErr := fmt.Sscanf(describe(r), "fileinto %d", &n); err != nil || scanErr != nil || n < 3000 || n > 4096 {
		t.Errorf("%s %v %v", describe(r), err, scanErr)
	}
}

// The context ends a run.
func TestContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	env := testEnv()
	env.MailboxExists = func(context.Context, string) (bool, error) { cancel(); return true, nil }
	script := mustCompile(t, `require "mailbox"; if mailboxexists "x" {}`+strings.Repeat("if true {}", 5000)+"discard;")
	r, err := Run(ctx, []*Script{script}, bytesMessage(crlf(letter)), env, Limits{})
	if !errors.Is(err, context.Canceled) || describe(r) != "keep; failed" {
		t.Errorf("%s %v", describe(r), err)
	}
}

// everything is a script that looks at a message in all ways.
const everything = `require ["fileinto", "body", "variables", "regex", "date", "relational", "subaddress", "envelope", "editheader",
 "vacation", "enotify", "imap4flags", "duplicate", "index", "copy", "comparator-i;ascii-numeric", "comparator-i;unicode-casemap"];
if header :matches "subject" "*[*]*" { set "list" "${2}"; addflag "list"; }
if header :regex ["subject", "from"] "([a-z]+) ([0-9]+)" { set "x" "${1}${2}"; }
if address :count "gt" :comparator "i;ascii-numeric" ["to", "cc"] "5" { addflag "many"; }
if address :user :contains ["from", "to", "cc", "sender"] "list" { addflag "l"; }
if date :value "lt" "date" "year" "2003" { addflag "old"; }
if date :index 1 :last :value "ge" :originalzone "received" "hour" "12" { addflag "noon"; }
if body :text :contains ["money", "free"] { addflag "money"; }
if body :content ["text/html", "multipart"] :matches "*click*" { addflag "click"; }
if body :raw :contains "unsubscribe" { addflag "bulk"; }
if header :contains :comparator "i;unicode-casemap" "subject" "ß" { addflag "sz"; }
if duplicate { addflag "dup"; }
deleteheader :matches "received" "*";
addheader "X-List" "${list}";
if header :is "x-list" "" { deleteheader "x-list"; }
vacation :addresses "somebody@example.test" "gone";
notify :message "${list}" "mailto:a@b.example";
if size :over 4K { fileinto :copy "big"; }
`

// Every message of the corpus goes through without failing.
func TestCorpus(t *testing.T) {
	msgs, real, err := testmail.Load(t.TempDir(), 400)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d messages, from the corpus: %v", len(msgs), real)
	script := mustCompile(t, everything)
	flags := map[string]int{}
	for _, m := range msgs {
		msg := bytesMessage(m.Body)
		r, err := Run(t.Context(), []*Script{script}, msg, testEnv(), Limits{})
		if err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
		h, err := msg.Header()
		if err != nil {
			t.Fatal(err)
		}
		if whole := string(h.Bytes()) + string(m.Body[h.Length():]); whole != string(m.Body) {
			t.Errorf("%s: header and body are not the message", m.Name)
		}
		if k, ok := r.Actions[len(r.Actions)-1].(*Keep); ok {
			for _, f := range k.Flags {
				flags[f]++
			}
		}
	}
	t.Logf("flags %v", flags)
}

func FuzzCompile(f *testing.F) {
	for _, c := range scriptCases {
		f.Add([]byte(c.script))
	}
	for _, c := range compileCases {
		f.Add([]byte(c.script))
	}
	f.Add([]byte(everything))
	f.Fuzz(func(t *testing.T, src []byte) {
		script, err := Compile("fuzz", src, Limits{})
		if (script == nil) == (err == nil) {
			t.Fatal("neither script nor error, or both")
		}
		if err != nil {
			return
		}
		r, err := Run(t.Context(), []*Script{script, script}, bytesMessage(crlf(parts)), testEnv(), Limits{Steps: 100_000})
		if (err != nil) != r.Failed || len(r.Actions) == 0 {
			t.Errorf("%v %+v", err, r)
		}
	})
}

func FuzzMessage(f *testing.F) {
	script, err := Compile("fuzz", []byte(everything), Limits{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(letter), "a@b.example")
	f.Add(crlf(parts), "")
	f.Add([]byte("no header at all"), "<>")
	f.Add([]byte("\xff: \xfe\r\n x\r\n\r\n"), "\xff")
	f.Fuzz(func(t *testing.T, msg []byte, from string) {
		env := testEnv()
		env.From = from
		r, err := Run(t.Context(), []*Script{script}, bytesMessage(msg), env, Limits{})
		if errors.Is(err, ErrLimit) {
			return
		}
		if err != nil || len(r.Actions) == 0 {
			t.Errorf("%v %+v", err, r)
		}
		for _, a := range r.Actions {
			if v, ok := a.(*Vacation); ok && (strings.ContainsAny(v.Subject+v.From+v.InReplyTo+v.References, "\r\n") || strings.ContainsAny(v.To, "\r\n")) {
				t.Errorf("%+v", v)
			}
		}
	})
}

// twentyRules is a script as people have it: only headers are looked at.
func twentyRules() string {
	var b strings.Builder
	b.WriteString(`require ["fileinto", "imap4flags", "variables"];` + "\n")
	for i := range 20 {
		switch i % 4 {
		case 0:
			fmt.Fprintf(&b, "if header :contains \"List-Id\" \"<list%d.example.org>\" { fileinto \"Lists.l%d\"; stop; }\n", i, i)
		case 1:
			fmt.Fprintf(&b, "if address :is :domain [\"From\", \"Sender\"] [\"shop%d.example\", \"store%d.example\"] { fileinto \"Shopping\"; stop; }\n", i, i)
		case 2:
			fmt.Fprintf(&b, "if anyof(header :contains \"Subject\" [\"invoice %d\", \"offer %d\"], address :is \"From\" \"boss%d@example.org\") { addflag \"\\\\Flagged\"; }\n", i, i, i)
		case 3:
			fmt.Fprintf(&b, "if header :matches \"Subject\" \"[project%d*] *\" { set \"p\" \"${1}\"; fileinto \"P.${p}\"; stop; }\n", i)
		}
	}
	return b.String()
}

func BenchmarkTwentyRules(b *testing.B) {
	script := mustCompile(b, twentyRules())
	body := crlf(letter)
	scripts := []*Script{script}
	env := testEnv()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Run(b.Context(), scripts, bytesMessage(body), env, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSecondRecipient shares the message, and so its parsed header.
func BenchmarkSecondRecipient(b *testing.B) {
	scripts := []*Script{mustCompile(b, twentyRules())}
	msg, env := bytesMessage(crlf(letter)), testEnv()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Run(b.Context(), scripts, msg, env, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	src := []byte(twentyRules())
	for b.Loop() {
		if _, err := Compile("bench", src, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}
