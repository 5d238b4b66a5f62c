package clustertest

import (
	"context"
	"fmt"
	"net"
	"net/mail"
	"net/textproto"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/admin"
)

// filters is the state of TestFilters.
type filters struct {
	*testCluster
	world                 *smarthost
	ann, bob, carol, dave director.User
}

// TestFilters: scripts come by ManageSieve through a proxy, mail by SMTP through
// both mx, and leaves by a smarthost. What becomes of it is read by IMAP.
func TestFilters(t *testing.T) {
	beside(t)
	f := &filters{testCluster: newCluster(t), world: newSmarthost(t)}
	f.relayBy(t, f.world)
	f.withUsers(0)
	f.ann = f.user(t, "ann@example.test", "b1")
	f.bob = f.user(t, "bob@example.test", "b2")
	f.carol = f.user(t, "carol@example.test", "b1")
	f.dave = f.user(t, "dave@example.test", "b3")
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"ManageSieve", f.manageSieve}, {"sieve-connect", f.sieveConnect}, {"a script's actions", f.actions}, {"at once", f.atOnce}, {"reject", f.reject},
		{"submission", f.submission}, {"forwards", f.forwards}, {"loops", f.loops}, {"no relay", f.noRelay},
		{"smarthost down", f.smarthostDown}, {"failures", f.failures}, {"a move", f.moved},
	} {
		t.Run(step.name, step.run)
	}
	f.quiet(t)
	f.nothingElse(t)
}

func note(from, to, subject, more string) []byte {
	return []byte("From: " + from + "\r\nTo: " + to + "\r\nSubject: " + subject + "\r\nDate: Mon, 02 Jun 2025 10:00:00 +0000\r\nMessage-ID: <" +
		strings.ReplaceAll(subject, " ", ".") + "@sender.example>\r\n" + more + "\r\nThe text of " + subject + ".\r\n")
}

// sends delivers from outside; port is that of an mx.
func (f *filters) sends(t *testing.T, port int, from, subject string, to ...string) {
	t.Helper()
	if err := send(f.addr(port), from, to, note(from, to[0], subject, "")); err != nil {
		t.Errorf("%s: %v", subject, err)
	}
}

// folder gives the messages of a folder by subject.
func (c *testCluster) folder(u director.User, name string) (map[string][]seenMsg, error) {
	s, err := readIMAP(c.addr(1143), u, name, true)
	got := map[string][]seenMsg{}
	for _, m := range s.msgs {
		p, err := mail.ReadMessage(strings.NewReader(string(m.body)))
		if err != nil {
			return nil, err
		}
		got[p.Header.Get("Subject")] = append(got[p.Header.Get("Subject")], m)
	}
	return got, err
}

// has waits until a folder has so many messages of a subject, and gives one.
func (f *filters) has(t *testing.T, u director.User, name, subject string, n int) (m seenMsg) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d of %q in %s of %s", n, subject, name, u), 20*time.Second, func() error {
		got, err := f.folder(u, name)
		if err == nil && len(got[subject]) != n {
			err = fmt.Errorf("%d are there", len(got[subject]))
		}
		if err == nil && n > 0 {
			m = got[subject][0]
		}
		return err
	})
	return m
}

const annsScript = `require ["fileinto", "mailbox", "imap4flags", "reject", "vacation", "enotify"];
if header :contains "subject" "spam" { reject "No spam for me, thanks."; stop; }
if header :contains "subject" "flags" { addflag ["\\Flagged", "$Work"]; fileinto :create "Projects/Red"; stop; }
if header :contains "subject" "redirect" { redirect "friend@outside.example"; stop; }
if header :contains "subject" "notify" { notify :message "You have mail" "mailto:pager@outside.example"; }
if header :contains "subject" "holiday" { vacation :days 7 :subject "Away" "I am at the sea."; }
`

func (f *filters) manageSieve(t *testing.T) {
	s := f.sieve(t, f.ann)
	s.must(`HAVESPACE "main" 2000`)
	s.no(script("CHECKSCRIPT", "", `fileinto "x";`), "NO")
	s.must(script("CHECKSCRIPT", "", annsScript))
	s.must(script("PUTSCRIPT", "main", annsScript))
	s.no(script("PUTSCRIPT", "main", `require "nonsense"; nonsense;`), "NO")
	s.no(`SETACTIVE "none"`, "NO (NONEXISTENT)")
	s.must(`SETACTIVE "main"`)
	s.no(`DELETESCRIPT "main"`, "NO (ACTIVE)")
	s.must(script("PUTSCRIPT", "other", "keep;\r\n"))
	s.must(`RENAMESCRIPT "other" "spare"`)
	if got := s.must("LISTSCRIPTS"); !strings.Contains(got, `"main" ACTIVE`) || !strings.Contains(got, `"spare"`) {
		t.Errorf("LISTSCRIPTS: %q", got)
	}
	s.must(`DELETESCRIPT "spare"`)
	if got := s.must(`GETSCRIPT "main"`); strings.TrimSpace(got) != strings.TrimSpace(annsScript) {
		t.Errorf("GETSCRIPT: %q", got)
	}
	s.must("LOGOUT")
}

func (f *filters) sieveConnect(t *testing.T) {
	if _, err := exec.LookPath("sieve-connect"); err != nil {
		t.Log("sieve-connect is not installed: our own client has to do")
		return
	}
	dir := t.TempDir()
	file := put(t, dir, "dave.sieve", "require \"fileinto\";\nfileinto \"Trash\";\n", 0o600)
	login := []string{"-s", "localhost", "-p", fmt.Sprint(14190 + f.offset), "-u", string(f.dave), "--passwordfd", "0", "--tlscafile", f.ca}
	for _, args := range [][]string{{"--upload", "--localsieve", file, "--remotesieve", "dave"}, {"--activate", "--remotesieve", "dave"}, {"--list"}, {"--deactivate"}} {
		path, _ := lookTool("sieve-connect")
		cmd := exec.Command(path, append(login, args...)...)
		cmd.Stdin = strings.NewReader(password + "\n")
		cmd.Env = []string{"HOME=" + dir, "PATH=/usr/bin:/bin", "LC_ALL=C"}
		out, err := cmd.CombinedOutput()
		if err != nil || args[0] == "--list" && !strings.Contains(string(out), `"dave" ACTIVE`) {
			t.Errorf("sieve-connect %s: %v: %s", args[0], err, out)
		}
	}
}

func (f *filters) actions(t *testing.T) {
	ann := string(f.ann)
	for i, port := range []int{2525, 2526} {
		n := fmt.Sprint(" ", i)
		from := fmt.Sprintf("out%d@sender.example", i)
		for _, what := range []string{"plain", "flags", "redirect", "notify", "holiday"} {
			f.sends(t, port, from, what+n, ann)
		}
		f.has(t, f.ann, "INBOX", "plain"+n, 1)
		if m := f.has(t, f.ann, "Projects/Red", "flags"+n, 1); !strings.Contains(m.flags, `\flagged`) || !strings.Contains(m.flags, "$work") {
			t.Errorf("flags: %q", m.flags)
		}
		f.has(t, f.ann, "INBOX", "notify"+n, 1)
		f.has(t, f.ann, "INBOX", "holiday"+n, 1)
		f.has(t, f.ann, "INBOX", "redirect"+n, 0)

		m := f.world.one(t, "redirect"+n, "friend@outside.example")
		if m.from != from || m.head.Get("X-Waypost-Loop") != ann || m.head.Get("From") != from || m.body != "The text of redirect"+n+".\n" {
			t.Errorf("redirect: %+v", m)
		}
		m = f.world.one(t, "Away", from)
		if m.from != "" || !strings.HasPrefix(m.head.Get("Auto-Submitted"), "auto-replied") || !strings.Contains(m.body, "I am at the sea.") ||
			m.head.Get("In-Reply-To") != "<holiday."+fmt.Sprint(i)+"@sender.example>" || len(m.to) != 1 {
			t.Errorf("vacation: %+v", m)
		}
	}
	f.quiet(t)
	got := f.world.mails("You have mail", "pager@outside.example")
	if len(got) != 2 || !strings.HasPrefix(got[0].head.Get("Auto-Submitted"), "auto-notified") {
		t.Errorf("notify: %d, %+v", len(got), got)
	}
	f.sends(t, 2526, "out0@sender.example", "holiday again", ann)
	f.quiet(t)
	if got := f.world.mails("Away", "out0@sender.example"); len(got) != 1 {
		t.Errorf("%d vacation replies to one sender", len(got))
	}
}

// atOnce: messages that come at the same time by both mx meet the same memories.
func (f *filters) atOnce(t *testing.T) {
	fay := f.user(t, "fay@example.test", "b3")
	f.activate(t, fay, `require ["vacation", "duplicate", "fileinto", "mailbox"];
if duplicate { fileinto :create "Twice"; stop; }
vacation :subject "Away of fay" "gone";
`)
	const n = 24
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f.sends(t, 2525+i%2, "hasty@sender.example", "the same", string(fay)) })
		wg.Go(func() { f.sends(t, 2525+i%2, "hasty@sender.example", fmt.Sprint("another ", i), string(fay)) })
	}
	wg.Wait()
	f.quiet(t)
	inbox, err := f.folder(fay, "INBOX")
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.folder(fay, "Twice")
	if err != nil {
		t.Fatal(err)
	}
	if len(inbox["the same"]) != 1 || len(again["the same"]) != n-1 {
		t.Errorf("of %d that are the same, %d are in INBOX and %d where duplicates go", n, len(inbox["the same"]), len(again["the same"]))
	}
	if got := f.world.mails("Away of fay", ""); len(got) != 1 {
		t.Errorf("%d vacation replies to one sender", len(got))
	}
}

// smtpTalk is a session whose every answer counts.
type smtpTalk struct {
	t *testing.T
	c *textproto.Conn
}

func (f *filters) smtp(t *testing.T, port int, lines ...string) *smtpTalk {
	t.Helper()
	conn, err := net.Dial("tcp", f.addr(port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience)) // a socket's cannot fail
	s := &smtpTalk{t, textproto.NewConn(conn)}
	s.says("220", "")
	s.says("250", "EHLO client.example.org")
	for _, l := range lines {
		s.says("250", l)
	}
	return s
}

// says sends a line and checks how the answer begins.
func (s *smtpTalk) says(want, line string) {
	s.t.Helper()
	if line != "" {
		_ = s.c.PrintfLine("%s", line) // the answer tells
	}
	code, text, err := s.c.ReadResponse(0)
	if got := fmt.Sprintf("%d %s", code, text); err != nil || !strings.HasPrefix(got, want) {
		s.t.Errorf("%q: %q, %v; want %q", line, got, err, want)
	}
}

func (s *smtpTalk) data(want string, text []byte) {
	s.t.Helper()
	s.says("354", "DATA")
	w := s.c.DotWriter()
	_, _ = w.Write(text) // the answer tells
	_ = w.Close()
	s.says(want, "")
}

func (f *filters) reject(t *testing.T) {
	ann, bob, carol := string(f.ann), string(f.bob), string(f.carol)
	if _, err := f.admin.PutAddress(t.Context(), "team@example.test", []string{ann, bob}); err != nil {
		t.Fatal(err)
	}
	for i, port := range []int{2525, 2526} {
		n := fmt.Sprint(" ", i)
		from := "MAIL FROM:<spammer@sender.example>"
		s := f.smtp(t, port, from, "RCPT TO:<"+ann+">")
		s.says("452 4.5.3", "RCPT TO:<"+bob+">")
		s.says("452 4.5.3", "RCPT TO:<"+carol+">")
		s.data("550 5.7.1 No spam for me, thanks.", note("spammer@sender.example", ann, "spam alone"+n, ""))
		for _, l := range []string{from, "RCPT TO:<" + bob + ">"} {
			s.says("250", l)
		}
		s.says("452 4.5.3", "RCPT TO:<"+ann+">")
		s.says("250", "RCPT TO:<"+carol+">")
		s.data("250", note("spammer@sender.example", bob, "spam for two"+n, ""))

		eventually(t, "the alias is known", patience, func() error {
			return send(f.addr(port), "spammer@sender.example", []string{"team@example.test", carol}, note("spammer@sender.example", "team@example.test", "spam for a team"+n, ""))
		})
		for _, u := range []director.User{f.ann, f.bob, f.carol} {
			f.has(t, u, "INBOX", "spam for a team"+n, 1)
		}
		f.has(t, f.ann, "INBOX", "spam alone"+n, 0)
		f.has(t, f.ann, "INBOX", "spam for two"+n, 0)
		f.has(t, f.bob, "INBOX", "spam for two"+n, 1)
		f.has(t, f.carol, "INBOX", "spam for two"+n, 1)
	}
	if err := f.submitAs(t, bob, bob, []string{ann}, note(bob, ann, "spam from within", "")); err == nil || !strings.Contains(err.Error(), "No spam for me") {
		t.Errorf("rejected at submission: %v", err)
	}
}

func (f *filters) submission(t *testing.T) {
	bob := string(f.bob)
	if err := f.submitAs(t, bob, bob, []string{"friend@outside.example", "other@outside.example", string(f.carol)}, note(bob, "friend@outside.example", "submitted", "")); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"friend@outside.example", "other@outside.example"} {
		if m := f.world.one(t, "submitted", to); m.from != bob || m.body != "The text of submitted.\n" {
			t.Errorf("submitted: %+v", m)
		}
	}
	f.has(t, f.carol, "INBOX", "submitted", 1)
	for _, from := range []string{string(f.carol), "friend@outside.example"} {
		if err := f.submitAs(t, bob, from, []string{"friend@outside.example"}, note(from, "friend@outside.example", "forged", "")); err == nil || !strings.HasPrefix(err.Error(), "550") {
			t.Errorf("bob sends as %s: %v", from, err)
		}
	}
}

// sets changes an account.
func (f *filters) sets(t *testing.T, u director.User, req admin.UpdateUser) {
	t.Helper()
	if _, err := f.admin.UpdateUser(t.Context(), u, req); err != nil {
		t.Fatal(err)
	}
}

func (f *filters) forwards(t *testing.T) {
	only := true
	f.sets(t, f.carol, admin.UpdateUser{Forward: &[]string{"mobile@outside.example"}})
	f.sets(t, f.dave, admin.UpdateUser{Forward: &[]string{"new@outside.example", string(f.bob)}, ForwardOnly: &only})
	if _, err := f.admin.PutAddress(t.Context(), "club@example.test", []string{string(f.bob), "member@outside.example"}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.admin.PutAddress(t.Context(), "far@example.test", []string{"only@outside.example"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was set counts", patience, func() error {
		for i, to := range []string{string(f.carol), string(f.dave), "club@example.test", "far@example.test"} {
			subject := fmt.Sprint("probe ", i, " ", time.Now().UnixNano())
			if err := send(f.addr(2525+i%2), "probe@sender.example", []string{to}, note("probe@sender.example", to, subject, "")); err != nil {
				return err
			}
			f.quiet(t)
			if len(f.world.mails(subject, "")) == 0 {
				return fmt.Errorf("%s leads not outside", to)
			}
		}
		return nil
	})
	for i, port := range []int{2525, 2526} {
		n := fmt.Sprint(" ", i)
		from := "writer@sender.example"
		f.sends(t, port, from, "to carol"+n, string(f.carol))
		f.sends(t, port, from, "to dave"+n, string(f.dave))
		f.sends(t, port, from, "to club"+n, "club@example.test")
		f.sends(t, port, from, "to far"+n, "far@example.test")
		f.has(t, f.carol, "INBOX", "to carol"+n, 1)
		f.has(t, f.bob, "INBOX", "to dave"+n, 1)
		f.has(t, f.bob, "INBOX", "to club"+n, 1)
		f.has(t, f.dave, "INBOX", "to dave"+n, 0)
		for subject, to := range map[string]string{"to carol": "mobile@outside.example", "to dave": "new@outside.example", "to club": "member@outside.example", "to far": "only@outside.example"} {
			if m := f.world.one(t, subject+n, to); m.from != from || len(m.to) != 1 {
				t.Errorf("%s: %+v", subject, m)
			}
		}
	}
	// A message that comes back is not sent on for ever.
	carol := string(f.carol)
	if err := send(f.addr(2525), "writer@sender.example", []string{carol}, note("writer@sender.example", carol, "came back", "X-Waypost-Loop: "+carol+"\r\n")); err != nil {
		t.Error(err)
	}
	f.has(t, f.carol, "INBOX", "came back", 1)
	f.quiet(t)
	if got := f.world.mails("came back", ""); len(got) != 0 {
		t.Errorf("a loop: %+v", got[0])
	}
}

// loops: two who forward all to each other have each message once, with one of
// them.
func (f *filters) loops(t *testing.T) {
	only := true
	ping, pong := f.user(t, "ping@example.test", "b1"), f.user(t, "pong@example.test", "b2")
	f.sets(t, ping, admin.UpdateUser{Forward: &[]string{string(pong)}, ForwardOnly: &only})
	f.activate(t, pong, `require "editheader"; deleteheader "X-Waypost-Loop"; redirect "ping@example.test";`)
	for i, u := range []director.User{ping, pong} {
		f.sends(t, 2525+i, "writer@sender.example", fmt.Sprint("round and round ", i), string(u))
	}
	f.quiet(t)
	for i := range 2 {
		subject := fmt.Sprint("round and round ", i)
		n := 0
		for _, u := range []director.User{ping, pong} {
			got, err := f.folder(u, "INBOX")
			if err != nil {
				t.Fatal(err)
			}
			n += len(got[subject])
		}
		if n != 1 {
			t.Errorf("%s: %d times", subject, n)
		}
	}
}

func (f *filters) noRelay(t *testing.T) {
	for _, port := range []int{2525, 2526} {
		for _, from := range []string{"spammer@sender.example", string(f.bob), ""} {
			s := f.smtp(t, port, "MAIL FROM:<"+from+">")
			for _, to := range []string{"victim@outside.example", "@example.test:victim@outside.example", "victim%outside.example@example.test", `"victim@outside.example"@example.test`,
				"outside.example!victim@example.test", "victim@[127.0.0.1]", "victim@outside.example.", "victim@sub.example.test"} {
				s.says("55", "RCPT TO:<"+to+">")
			}
			s.says("50", "AUTH PLAIN AGFubgBzZWNyZXQ=")
		}
		s := f.smtp(t, port, "MAIL FROM:<"+string(f.bob)+">", "RCPT TO:<"+string(f.bob)+">")
		s.says("550 5.7.1", "RCPT TO:<victim@outside.example>")
		s.data("250", note("x@sender.example", "victim@outside.example", "no relay", "Cc: victim@outside.example\r\n"))
	}
	s := f.smtp(t, 1587)
	s.says("530", "MAIL FROM:<"+string(f.bob)+">")
}

func (f *filters) smarthostDown(t *testing.T) {
	f.world.down()
	bob := string(f.bob)
	for i := range 6 {
		f.sends(t, 2525+i%2, fmt.Sprintf("patient%d@sender.example", i), fmt.Sprint("redirect while down ", i), string(f.ann))
		f.sends(t, 2525+i%2, fmt.Sprintf("patient%d@sender.example", i), fmt.Sprint("holiday while down ", i), string(f.ann))
		if err := f.submitAs(t, bob, bob, []string{"friend@outside.example"}, note(bob, "friend@outside.example", fmt.Sprint("submitted while down ", i), "")); err != nil {
			t.Errorf("submission while down: %v", err)
		}
	}
	eventually(t, "all wait in the queues", patience, func() error {
		s, err := f.admin.Spool(t.Context(), "", "")
		n := 0
		for _, e := range s.Entries {
			if e.Queue == "out" && e.State != "dead" {
				n++
			}
		}
		if err != nil || n != 18 {
			return fmt.Errorf("%d wait: %w", n, err)
		}
		return nil
	})
	f.world.up(t)
	for i := range 6 { // with nobody's help
		f.world.one(t, fmt.Sprint("redirect while down ", i), "friend@outside.example")
		f.world.one(t, fmt.Sprint("submitted while down ", i), "friend@outside.example")
		f.world.one(t, "Away", fmt.Sprintf("patient%d@sender.example", i))
	}
}

func (f *filters) failures(t *testing.T) {
	bob := string(f.bob)
	f.world.answers("gone@outside.example", "550 5.1.1 never heard of")
	f.world.answers("from broken@sender.example", "554 5.6.0 what is that")
	before := f.deadLetters(t)
	if err := f.submitAs(t, bob, bob, []string{"gone@outside.example", "friend@outside.example"}, note(bob, "gone@outside.example", "half fails", "")); err != nil {
		t.Fatal(err)
	}
	m := f.has(t, f.bob, "INBOX", "Your message could not be delivered", 1)
	for _, want := range []string{"gone@outside.example", "never heard of", "Status: 5.1.1", "Action: failed", "Subject: half fails", "multipart/report"} {
		if !strings.Contains(string(m.body), want) {
			t.Errorf("no %q in the DSN:\n%s", want, m.body)
		}
	}
	if strings.Contains(string(m.body), "friend@outside.example\r\nAction") {
		t.Errorf("the DSN names who has got it:\n%s", m.body)
	}
	f.world.one(t, "half fails", "friend@outside.example")

	// From outside: by a script, an alias, an account's forward.
	f.activate(t, f.bob, `redirect "gone@outside.example";`)
	if _, err := f.admin.PutAddress(t.Context(), "lost@example.test", []string{"gone@outside.example"}); err != nil {
		t.Fatal(err)
	}
	f.sends(t, 2525, "stranger@sender.example", "will fail by script", bob)
	f.sends(t, 2526, "broken@sender.example", "redirect will fail at data", string(f.ann))
	eventually(t, "the alias is known", patience, func() error {
		return send(f.addr(2525), "stranger@sender.example", []string{"lost@example.test"}, note("stranger@sender.example", "lost@example.test", "will fail by alias", ""))
	})
	f.quiet(t)
	if n := f.deadLetters(t) - before; n != 3 {
		t.Errorf("%d dead letters, want 3", n)
	}
	f.activate(t, f.bob, "keep;")
}

// nothingElse: outsiders got vacation replies, and nothing that says that mail
// has failed.
func (f *filters) nothingElse(t *testing.T) {
	for _, m := range f.world.mails("", "") {
		for _, to := range m.to {
			outsider := strings.HasSuffix(to, "@sender.example")
			if outsider && !strings.HasPrefix(m.head.Get("Subject"), "Away") || strings.HasPrefix(to, "victim") || strings.HasSuffix(to, "@example.test") {
				t.Errorf("sent to %s: %+v", to, m)
			}
			if m.from == "" && !outsider && m.head.Get("Subject") != "You have mail" {
				t.Errorf("a null sender to %s: %+v", to, m)
			}
		}
	}
}

func (f *filters) moved(t *testing.T) {
	const text = `require ["vacation", "duplicate", "fileinto", "mailbox"];
vacation :days 7 :subject "Away of eve" "gone";
if duplicate { fileinto :create "Twice"; }
`
	eve := f.user(t, "eve@example.test", "b1")
	s := f.sieve(t, eve)
	s.must(script("PUTSCRIPT", "spare", "discard;"))
	s.must(script("PUTSCRIPT", "main", text))
	s.must(`SETACTIVE "main"`)
	f.sends(t, 2525, "known@sender.example", "first", string(eve))
	f.world.one(t, "Away of eve", "known@sender.example")

	for i, to := range []director.BackendID{"b2", "b3", "b1"} {
		f.move(t, eve, to)
		if got, err := f.admin.User(context.Background(), eve); err != nil || got.Home != to {
			t.Fatalf("%+v, %v", got, err)
		}
		// The session goes on, or says that it cannot.
		got, err := s.cmd("LISTSCRIPTS")
		if err != nil {
			t.Logf("the ManageSieve session ended: %v", err)
			s = f.sieve(t, eve)
			got = s.must("LISTSCRIPTS")
		}
		if !strings.Contains(got, `"main" ACTIVE`) || !strings.Contains(got, `"spare"`) {
			t.Errorf("scripts on %s: %q", to, got)
		}
		if got := s.must(`GETSCRIPT "main"`); strings.TrimSpace(got) != strings.TrimSpace(text) {
			t.Errorf("the script on %s: %q", to, got)
		}
		n := fmt.Sprint(" ", i)
		f.sends(t, 2526, "known@sender.example", "first", string(eve)) // the same Message-ID
		f.sends(t, 2526, "known@sender.example", "another"+n, string(eve))
		f.sends(t, 2525, "new"+fmt.Sprint(i)+"@sender.example", "from another"+n, string(eve))
		f.has(t, eve, "Twice", "first", i+1)
		f.has(t, eve, "INBOX", "first", 1)
		f.has(t, eve, "INBOX", "another"+n, 1)
		f.world.one(t, "Away of eve", "new"+fmt.Sprint(i)+"@sender.example")
		f.quiet(t)
		if got := f.world.mails("Away of eve", "known@sender.example"); len(got) != 1 {
			t.Errorf("%d vacation replies after the move to %s", len(got), to)
		}
	}
}
