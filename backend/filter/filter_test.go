package filter

import (
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"waypost/backend/lmtp"
	"waypost/backend/mailbox"
)

func TestScripts(t *testing.T) {
	for name, c := range map[string]struct {
		script, folder, text string
		from                 string
		accepted             bool
		holds, sent, reject  string
	}{
		"none":                {holds: "INBOX"},
		"none, subaddress":    {folder: "Work", holds: "Work"},
		"no such subaddress":  {folder: "Nowhere", holds: "INBOX"},
		"keep":                {script: `keep;`, holds: "INBOX"},
		"keep, subaddress":    {script: `keep;`, folder: "Work", holds: "Work"},
		"flags":               {script: `require "imap4flags"; setflag ["\\Seen", "\\flagged", "b", "a", "\\Nonsense"]; keep;`, holds: `INBOX \flagged \seen a b`},
		"discard":             {script: `discard;`},
		"fileinto":            {script: `require "fileinto"; fileinto "Work";`, holds: "Work"},
		"fileinto missing":    {script: `require "fileinto"; fileinto "Nowhere";`, holds: "INBOX"},
		"fileinto create":     {script: `require ["fileinto", "mailbox"]; fileinto :create "Lists/Go";`, holds: "Lists/Go"},
		"fileinto bad name":   {script: `require ["fileinto", "mailbox"]; fileinto :create "a/../b";`, holds: "INBOX"},
		"fileinto and keep":   {script: `require "fileinto"; fileinto "Work"; keep;`, holds: "INBOX; Work"},
		"one copy a folder":   {script: `require "fileinto"; fileinto "Work"; keep;`, folder: "Work", holds: "Work"},
		"inbox by subaddress": {script: `require ["fileinto", "copy"]; fileinto :copy "INBOX"; keep;`, folder: "inbox", holds: "INBOX"},
		"mailboxexists":       {script: `require ["fileinto", "mailbox"]; if mailboxexists "Work" { fileinto "Work"; }`, holds: "Work"},
		"special use":         {script: `require ["fileinto", "special-use"]; fileinto :specialuse "\\Junk" "Nowhere";`, holds: "Spam"},
		"redirect":            {script: `redirect "eve@other.test";`, sent: "redirect <bob@far.test> eve@other.test"},
		"redirect copy":       {script: `require "copy"; redirect :copy "eve@other.test";`, holds: "INBOX", sent: "redirect <bob@far.test> eve@other.test"},
		"redirect null":       {script: `redirect "eve@other.test";`, from: "<>", sent: "redirect <> eve@other.test"},
		"redirect quoted":     {script: `redirect "\"e, \\\"v\\\\e\"@other.test";`, sent: `redirect <bob@far.test> e, "v\e@other.test`},
		"redirected before":   {script: `redirect "eve@other.test";`, text: "X-Waypost-Loop: Ann@example.test\n" + letter, holds: "INBOX"},
		"twice before":        {script: `redirect "eve@other.test"; redirect "ed@other.test";`, text: "x-waypost-loop:ann@example.test\n" + letter, holds: "INBOX"},
		"before, and filed":   {script: `require ["fileinto", "copy"]; fileinto "Work"; redirect :copy "eve@other.test";`, text: "X-Waypost-Loop: ann@example.test\n" + letter, holds: "Work"},
		"another's mark":      {script: `redirect "eve@other.test";`, text: "X-Waypost-Loop: bea@example.test\n" + letter, sent: "redirect <bob@far.test> eve@other.test"},
		"reject":              {script: `require "reject"; reject "go away";`, reject: "go away"},
		"ereject":             {script: `require "ereject"; ereject " ";`, reject: "the recipient refuses this message"},
		"reject too late":     {script: `require "reject"; reject "go away";`, accepted: true, holds: "INBOX"},
		"notify": {script: `require "enotify"; notify :message "mail!" "mailto:phone@other.test?cc=b@other.test";`, holds: "INBOX",
			sent: "notify <ann@example.test> phone@other.test b@other.test"},
		"notify, null": {script: `require "enotify"; notify "mailto:phone@other.test";`, from: "<>", holds: "INBOX", sent: "notify <> phone@other.test"},
		"notify from": {script: `require "enotify"; notify :from "Ann <a@example.test>" "mailto:phone@other.test";`, holds: "INBOX",
			sent: "notify <a@example.test> phone@other.test"},
		"stop":              {script: `stop; discard;`, holds: "INBOX"},
		"subaddress test":   {script: `require ["subaddress", "envelope", "fileinto"]; if envelope :detail "to" "work" { fileinto "Work"; }`, folder: "work", holds: "Work"},
		"domain and host":   {script: `require ["environment", "fileinto"]; if environment "domain" "example.test" { fileinto "Work"; }`, holds: "Work"},
		"vacation":          {script: `require "vacation"; vacation "gone";`, holds: "INBOX", sent: "vacation <> bob@far.test"},
		"vacation to null":  {script: `require "vacation"; vacation "gone";`, from: "<>", holds: "INBOX"},
		"vacation to list":  {script: `require "vacation"; vacation "gone";`, text: "List-Id: <l.far.test>\n" + letter, holds: "INBOX"},
		"vacation, not to":  {script: `require "vacation"; vacation "gone";`, text: strings.Replace(letter, "To: ann@", "To: all@", 1), holds: "INBOX"},
		"vacation, machine": {script: `require "vacation"; vacation "gone";`, text: "Auto-Submitted: auto-replied\n" + letter, holds: "INBOX"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, c.script)
			for folder, use := range map[string]string{"Work": "", "Spam": `\Junk`} {
				if err := r.box.CreateFolder(folder, use); err != nil {
					t.Fatal(err)
				}
			}
			if c.text == "" {
				c.text = letter
			}
			in := r.incoming(c.text)
			in.Folder, in.Accepted = c.folder, c.accepted
			if c.folder != "" {
				in.To = "ann+" + c.folder + "@example.test"
			}
			if c.from != "" {
				in.From = strings.Trim(c.from, "<>")
			}
			plan := r.deliver(in)
			if got := r.holds(r.box); got != c.holds {
				t.Errorf("holds %q, want %q\n%s", got, c.holds, &r.log)
			}
			if got := r.sent(ann); got != c.sent {
				t.Errorf("sent %q, want %q\n%s", got, c.sent, &r.log)
			}
			if plan.Reject != c.reject {
				t.Errorf("rejected with %q, want %q", plan.Reject, c.reject)
			}
		})
	}
}

func TestWhatIsKeptIsByteForByte(t *testing.T) {
	r := newRig(t, `require "copy"; redirect :copy "eve@other.test";`)
	r.deliver(r.incoming(letter))
	if got := r.texts("INBOX"); len(got) != 1 || got[0] != crlf(letter) {
		t.Errorf("%q", got)
	}
	if got := r.sentText(0); got != crlf(letter) {
		t.Errorf("%q", got)
	}
}

func TestEditedHeader(t *testing.T) {
	r := newRig(t, `require ["editheader", "fileinto", "copy", "mailbox"];
		fileinto :copy :create "Asis";
		addheader "X-Filed" "grün"; deleteheader "Subject";
		fileinto :create "Edited"; redirect :copy "eve@other.test";`)
	r.deliver(r.incoming(letter))
	want := crlf("X-Filed: =?utf-8?q?gr=C3=BCn?=\n" + strings.Replace(letter, "Subject: lunch\n", "", 1))
	if got := r.texts("Edited"); len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := r.sentText(0); got != want {
		t.Errorf("sent %q", got)
	}
	if got := r.texts("Asis"); len(got) != 1 || got[0] != crlf(letter) {
		t.Errorf("%q", got)
	}
}

// Two users who redirect to each other under many addresses must not multiply a
// message, whatever their scripts take out of it.
func TestLoopMarksStay(t *testing.T) {
	r := newRig(t, `require "editheader"; deleteheader "X-Waypost-Loop"; redirect "bea+1@example.test"; redirect "bea+2@example.test";`)
	r.deliver(r.incoming("X-Waypost-Loop: bea@example.test\n" + letter))
	if got := r.sent(ann); strings.Count(got, "redirect") != 2 {
		t.Fatalf("sent %q", got)
	}
	if got := r.sentText(0); got != "X-Waypost-Loop: bea@example.test\r\n"+crlf(letter) {
		t.Errorf("%q", got)
	}
}

// What is sent has the same ids when a delivery is repeated, and others for
// another user: the mx take an id once.
func TestOutboundIDs(t *testing.T) {
	const script = `require ["vacation", "enotify"]; vacation "gone"; redirect "eve@other.test"; redirect "ed@other.test"; notify "mailto:p@other.test"; keep;`
	r := newRig(t, script)
	r.account.Forward = []string{"far@other.test"}
	r.scripts.active["bea@example.test"] = script
	ids := func(in lmtp.Incoming) (list []string) {
		plan, err := r.filter.Run(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		defer plan.Discard()
		for _, o := range plan.Outbound {
			if len(o.ID) > 200 {
				t.Errorf("an id of %d bytes", len(o.ID))
			}
			list = append(list, o.ID)
		}
		return list
	}
	in := r.incoming(strings.Replace(letter, "To: ", "To: bea@example.test, ", 1))
	in.ID = strings.Repeat("i", 128)
	first := ids(in)
	if again := ids(in); len(first) != 5 || strings.Join(first, " ") != strings.Join(again, " ") {
		t.Errorf("%v, then %v", first, again)
	}
	in.Box, in.To = r.user("bea@example.test"), "bea@example.test"
	seen := map[string]bool{}
	for _, id := range append(first, ids(in)...) {
		seen[id] = true
	}
	if len(seen) != 10 {
		t.Errorf("%d ids: %v", len(seen), seen)
	}
}

func TestVacationRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, `require "vacation"; vacation :days 3 "gone";`)
		mail := func(from string) int {
			before := len(r.Outbound(ann))
			in := r.incoming(letter)
			in.From = from
			r.deliver(in)
			return len(r.Outbound(ann)) - before
		}
		for i, step := range []struct {
			wait time.Duration
			from string
			want int
		}{
			{0, "bob@far.test", 1}, {0, "Bob@far.test", 0}, {0, "eve@far.test", 1}, {71 * time.Hour, "bob@far.test", 0}, {2 * time.Hour, "bob@far.test", 1},
		} {
			<-time.After(step.wait)
			if got := mail(step.from); got != step.want {
				t.Errorf("step %d: %d replies, want %d", i, got, step.want)
			}
		}
	})
}

func TestDuplicates(t *testing.T) {
	r := newRig(t, `require "duplicate"; if duplicate { discard; }`)
	r.deliver(r.incoming(letter))
	r.deliver(r.incoming(letter))
	if got := r.holds(r.box); got != "INBOX" {
		t.Errorf("holds %q", got)
	}
}

func TestSiteScripts(t *testing.T) {
	const junk = `require ["fileinto", "mailbox"]; if header :contains "subject" "lunch" { fileinto :create "Junk"; }`
	for name, c := range map[string]struct {
		before, script, after string
		holds, sent, reject   string
	}{
		"before decides":     {before: junk, script: `redirect "eve@other.test";`, holds: "Junk"},
		"before lets it in":  {before: `keep;`, script: `redirect "eve@other.test";`, sent: "redirect <bob@far.test> eve@other.test"},
		"after decides":      {after: junk, holds: "Junk"},
		"after a keep":       {script: `keep;`, after: junk, holds: "Junk"},
		"not after a filing": {script: `require ["fileinto", "mailbox"]; fileinto :create "Work";`, after: junk, holds: "Work"},
		"copy before":        {before: `require "copy"; redirect :copy "log@other.test";`, script: `discard;`, sent: "redirect <bob@far.test> log@other.test"},
		"before rejects":     {before: `require "reject"; reject "virus";`, reject: "virus"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, c.script, func(o *Options) {
				if c.before != "" {
					o.Before = []string{file(t, "b.sieve", c.before)}
				}
				if c.after != "" {
					o.After = []string{file(t, "a.sieve", c.after)}
				}
			})
			plan := r.deliver(r.incoming(letter))
			if holds, sent := r.holds(r.box), r.sent(ann); holds != c.holds || sent != c.sent || plan.Reject != c.reject {
				t.Errorf("holds %q, sent %q, rejected %q\n%s", holds, sent, plan.Reject, &r.log)
			}
		})
	}
	for name, files := range map[string][]string{"no file": {"/nowhere/x.sieve"}, "bad": {file(t, "x.sieve", "nonsense;")}} {
		if _, err := New(Options{After: files}); err == nil || !strings.Contains(err.Error(), "x.sieve") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInclude(t *testing.T) {
	global := filepath.Dir(file(t, "lists.sieve", `require ["fileinto", "mailbox"]; fileinto :create "Lists";`))
	r := newRig(t, `require "include"; include :global "lists"; include "mine"; include :optional "nowhere"; include :global :optional "nowhere";`,
		func(o *Options) { o.Global = global })
	r.scripts.others["mine"] = `require ["fileinto", "mailbox"]; fileinto :create "Mine";`
	r.deliver(r.incoming(letter))
	if got := r.holds(r.box); got != "Lists; Mine" {
		t.Errorf("holds %q\n%s", got, &r.log)
	}
}

func TestMayReject(t *testing.T) {
	for script, want := range map[string]bool{
		"": false, `keep;`: false, `require "reject"; reject "no";`: true, `require "ereject"; ereject "no";`: true,
		`require "include"; include "x";`: true, `nonsense`: false,
	} {
		r := newRig(t, script)
		if got := r.filter.MayReject(r.box); got != want {
			t.Errorf("%s: %v", script, got)
		}
		r = newRig(t, "keep;", func(o *Options) {
			o.Before = []string{file(t, "b.sieve", `require "reject"; if size :over 1G { reject "big"; }`)}
		})
		if !r.filter.MayReject(r.box) {
			t.Error("a script of the site may reject")
		}
		r = newRig(t, `require "reject"; reject "no";`)
		r.scripts.err = mailbox.ErrStale
		if r.filter.MayReject(r.box) {
			t.Error("a script that cannot be read may reject")
		}
	}
}

func TestBare(t *testing.T) {
	for in, want := range map[string]string{
		"a@b": "a@b", `"a"@b`: "a@b", `"a\"b\\"@c`: `a"b\@c`, `"a@b"@c`: "a@b@c", `"@c`: `"@c`, `""@c`: `@c`, `"`: `"`, "": "", `a"b"@c`: `a"b"@c`,
	} {
		if got := bare(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestCompileCache(t *testing.T) {
	r := newRig(t, "")
	c := r.filter.cache
	get := func(name, src string) compiled { return c.compile(name, []byte(src), [32]byte{byte(len(src))}) }
	if a, b := get("a", "keep;"), get("a", "keep;"); a.script == nil || a.script != b.script {
		t.Error("compiled twice")
	}
	if a, b := get("a", "keep;"), get("b", "keep;"); a.script == b.script || b.script.Name() != "b" {
		t.Error("one user's script bears the other's name")
	}
	if a, b := get("c", "nonsense;;;;"), get("c", "nonsense;;;;"); a.err == nil || a.err.Error() != b.err.Error() {
		t.Errorf("%v, %v", a.err, b.err)
	}
	for i := range 2*maxCompiledBytes>>20 + 1 {
		src := strings.Repeat("#", 1<<20-100) + strings.Repeat("\n", i%50)
		c.compile(string(rune('a'+i)), []byte(src), [32]byte{1, byte(i)})
	}
	total := 0
	for _, one := range c.all {
		total += one.size
	}
	if total != c.bytes || total > maxCompiledBytes || len(c.all) > maxCompiled {
		t.Errorf("%d scripts of %d bytes are kept, %d are counted", len(c.all), total, c.bytes)
	}
}

func TestVacationForAnAlias(t *testing.T) {
	r := newRig(t, `require "vacation"; vacation "gone";`)
	in := r.incoming(strings.Replace(letter, "To: ann@", "To: sales@", 1))
	in.To = "sales@example.test" // an alias: an address of the user's, too
	r.deliver(in)
	if got := r.sent(ann); got != "vacation <> bob@far.test" {
		t.Errorf("sent %q", got)
	}
	if text := r.sentText(0); !strings.Contains(text, "From: "+string(ann)+"\r\n") {
		t.Errorf("%s", text)
	}
}

// TestSpecialUse: the folder that has a use gets what is filed for it, and a folder that is
// made for one has it.
func TestSpecialUse(t *testing.T) {
	r := newRig(t, `require ["fileinto", "special-use", "mailbox", "copy"];
		fileinto :copy :specialuse "\\junk" "Nowhere";
		fileinto :copy :specialuse "\\Archive" :create "Kept";
		fileinto :specialuse "\\All" :create "Everything";`)
	for folder, use := range map[string]string{"Spam": "", "Rubbish": `\Junk`} {
		if err := r.box.CreateFolder(folder, use); err != nil {
			t.Fatal(err)
		}
	}
	r.deliver(r.incoming(letter))
	if got, want := r.holds(r.box), "Everything; Kept; Rubbish"; got != want {
		t.Errorf("holds %q, want %q\n%s", got, want, &r.log)
	}
	list, err := r.box.Folders()
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, info := range list {
		got += info.Name + info.SpecialUse + " "
	}
	if want := `INBOX Everything Kept\Archive Rubbish\Junk Spam `; got != want {
		t.Errorf("folders %q, want %q", got, want)
	}
}

// TestNaming: scripts and subaddresses call folders as clients do.
func TestNaming(t *testing.T) {
	r := newRig(t, `require ["fileinto", "special-use", "mailbox", "copy"];
		if mailboxexists "INBOX.Lists.Go" { fileinto :copy "INBOX.Lists.Go"; }
		if mailboxexists "INBOX.Lists/Go" { fileinto :copy :create "wrong"; }
		fileinto :copy "Lists.Rust";
		fileinto :copy :create "INBOX.New.One";
		fileinto :copy :specialuse "\\Junk" "INBOX.Nowhere";
		keep;`, func(o *Options) { o.Naming = mailbox.Naming{Separator: '.', Inbox: true} })
	for folder, use := range map[string]string{"Lists/Go": "", "Lists/Rust": "", "Mail/Spam": `\Junk`, "Work/Now": ""} {
		if err := r.box.CreateFolder(folder, use); err != nil {
			t.Fatal(err)
		}
	}
	in := r.incoming(letter)
	in.Folder = "INBOX.Work.Now"
	r.deliver(in)
	if got, want := r.holds(r.box), "Lists/Go; Lists/Rust; Mail/Spam; New/One; Work/Now"; got != want {
		t.Errorf("holds %q, want %q\n%s", got, want, &r.log)
	}
}
