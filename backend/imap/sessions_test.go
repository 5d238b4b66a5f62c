package imap

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
	"pgregory.net/rapid"

	"waypost/backend/mailbox"
)

func TestTwoSessions(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	for range 3 {
		r.deliver(b, "INBOX", letter)
	}
	c, d := r.dial(b), r.dial(b)
	c.ok("SELECT INBOX")
	d.ok("SELECT INBOX")
	d.ok("STORE 2 +FLAGS.SILENT (\\Deleted $k)")
	c.want("NOOP", "OK", `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft $k)`, `* 2 FETCH (UID 2 FLAGS (\Deleted $k \Recent))`)
	d.ok("EXPUNGE")
	r.deliver(b, "INBOX", letter)
	// No EXPUNGE in the answer to FETCH; the numbers are still the old ones.
	c.want("FETCH 3 UID", "OK", "* 3 FETCH (UID 3)", "* 4 EXISTS", "* 4 RECENT")
	c.want("FETCH 1:3 BODY.PEEK[]<0.4>", "NO [EXPUNGEISSUED]", "* 1 FETCH (BODY[]<0> {4}From)", "* 3 FETCH (BODY[]<0> {4}From)")
	d.want("NOOP", "OK", "* 3 EXISTS", "* 0 RECENT")
	d.ok("STORE 3 FLAGS (\\Seen)")
	c.want("FETCH 4 UID", "OK", "* 4 FETCH (UID 4)", `* 4 FETCH (UID 4 FLAGS (\Seen \Recent))`)
	c.want("STORE 2:3 +FLAGS.SILENT (\\Flagged)", "OK")
	c.want("NOOP", "OK", "* 2 EXPUNGE")
	c.want("FETCH 2 (UID FLAGS)", "OK", `* 2 FETCH (UID 3 FLAGS (\Flagged \Recent))`)
	d.want("NOOP", "OK", `* 2 FETCH (UID 3 FLAGS (\Flagged))`)
}

// A silent STORE keeps quiet about what the client asked for, not about what
// somebody else did to the same message.
func TestSilentStore(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.deliver(b, "INBOX", letter)
	c, d := r.dial(b), r.dial(b)
	c.ok("SELECT INBOX")
	d.ok("EXAMINE INBOX")
	f, err := b.Folder("INBOX")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.SetFlags([]mailbox.UID{1}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Answered}}); err != nil {
		t.Fatal(err)
	}
	c.want("STORE 1 +FLAGS.SILENT (\\Seen)", "OK", `* 1 FETCH (UID 1 FLAGS (\Answered \Seen \Recent))`)
	c.want("STORE 1 -FLAGS.SILENT (\\Seen)", "OK")
	c.want("NOOP", "OK")
}

func TestIdle(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.deliver(b, "INBOX", letter)
	c := r.dial(b)
	c.ok("SELECT INBOX")
	c.send("i IDLE\r\n")
	if l := c.line(); !strings.HasPrefix(l, "+ ") {
		t.Fatalf("%q", l)
	}
	r.deliver(b, "INBOX", letter)
	for _, want := range []string{"* 2 EXISTS", "* 2 RECENT"} {
		if l := c.line(); l != want {
			t.Fatalf("got %q, want %q", l, want)
		}
	}
	f, err := b.Folder("INBOX")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Expunge([]mailbox.UID{1}); err != nil {
		t.Fatal(err)
	}
	if l := c.line(); l != "* 1 EXPUNGE" {
		t.Fatalf("%q", l)
	}
	c.send("DONE\r\n")
	if got, st := c.until("i"); len(got) > 0 || !strings.HasPrefix(st, "OK") {
		t.Fatalf("%q %q", got, st)
	}
	// IDLE that ends with anything else is an error and no more.
	c.send("j IDLE\r\n")
	c.line()
	c.send("STOP\r\n")
	if _, st := c.until("j"); !strings.HasPrefix(st, "BAD") {
		t.Fatalf("%q", st)
	}
	c.want("FETCH 1 UID", "OK", "* 1 FETCH (UID 2)")
	// Without a folder, and with the client gone in the middle.
	c.ok("UNSELECT")
	c.send("k IDLE\r\n")
	c.line()
	c.nc.Close()
	if err := c.ended(); err != nil {
		t.Error(err)
	}
}

// The client library as judge of what is written.
func TestClientLibrary(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	nested := "Subject: x\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b\r\n" +
		"Content-Type: message/rfc822\r\n\r\nSubject: in\r\nFrom: A B <a@b>\r\n\r\ninner\r\n--b--\r\n"
	r.deliver(b, "INBOX", nested)
	nc, done := r.serve(t.Context(), Session{Box: b, Store: r.store, Client: "c", ID: "s"})
	c := imapclient.New(nc, nil)
	if err := c.WaitGreeting(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	part := &imap.FetchItemBodySection{Part: []int{2, 1}, Peek: true}
	msgs, err := c.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{
		UID: true, Envelope: true, BodySection: []*imap.FetchItemBodySection{part},
		BodyStructure: &imap.FetchItemBodyStructure{Extended: true},
	}).Collect()
	if err != nil || len(msgs) != 1 {
		t.Fatalf("%v %v", msgs, err)
	}
	if got := string(msgs[0].FindBodySection(part)); got != "inner" {
		t.Errorf("part %q", got)
	}
	inner := msgs[0].BodyStructure.(*imap.BodyStructureMultiPart).Children[1].(*imap.BodyStructureSinglePart)
	if inner.MessageRFC822 == nil || inner.MessageRFC822.Envelope.From[0].Name != "A B" {
		t.Errorf("inner %+v", inner)
	}
	ap := c.Append("INBOX", int64(len(letter)), &imap.AppendOptions{Flags: []imap.Flag{imap.FlagSeen}})
	if _, err := io.WriteString(ap, letter); err != nil {
		t.Fatal(err)
	}
	if err := ap.Close(); err != nil {
		t.Fatal(err)
	}
	if data, err := ap.Wait(); err != nil || data.UID != 2 {
		t.Fatalf("%+v %v", data, err)
	}
	found, err := c.UIDSearch(&imap.SearchCriteria{Body: []string{"WORLD"}}, &imap.SearchOptions{ReturnAll: true}).Wait()
	if err != nil || !slices.Equal(found.AllUIDs(), []imap.UID{2}) {
		t.Errorf("%+v %v", found, err)
	}
	if err := c.Logout().Wait(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	c.Close()
}

// seen is what a client knows of a message.
type seen struct {
	uid   uint32 // 0: not known yet
	flags string
	known bool // the flags are
	found bool // by the search that is kept up to date
}

// picture is what a client knows of a folder from untagged responses.
type picture struct {
	c    *client
	msgs []seen
	live liveSearch
}

func (p *picture) take(t tb, lines []string, expunges bool) {
	for _, l := range lines {
		if strings.HasPrefix(l, "* ESEARCH ") {
			p.watched(t, l)
			continue
		}
		var n int
		var word string
		if _, err := fmt.Sscanf(l, "* %d %s", &n, &word); err != nil {
			continue
		}
		switch word {
		case "EXISTS":
			if n < len(p.msgs) {
				t.Fatalf("%d EXISTS of %d", n, len(p.msgs))
			}
			p.msgs = append(p.msgs, make([]seen, n-len(p.msgs))...)
		case "EXPUNGE":
			if !expunges || n < 1 || n > len(p.msgs) || p.msgs[n-1].found { // RFC 5267, Section 4.3.4
				t.Fatalf("%q of %v", l, p.msgs)
			}
			p.msgs = slices.Delete(p.msgs, n-1, n)
		case "FETCH":
			if n < 1 || n > len(p.msgs) {
				t.Fatalf("%q of %d", l, len(p.msgs))
			}
			m := &p.msgs[n-1]
			if _, list, ok := strings.Cut(l, "FLAGS ("); ok {
				list, _, _ = strings.Cut(list, ")")
				m.flags, m.known = strings.TrimSpace(strings.ReplaceAll(list, `\Recent`, "")), true
			}
			_, rest, ok := strings.Cut(l, "UID ")
			var uid uint32
			if !ok {
				continue
			}
			if _, err := fmt.Sscanf(rest, "%d", &uid); err != nil || m.uid != 0 && m.uid != uid {
				t.Fatalf("%q, but %d is %d", l, n, m.uid)
			}
			m.uid = uid
		}
	}
}

// watch begins the search in the folder that was just selected.
func (p *picture) watch(t tb) {
	p.c.send("live SEARCH RETURN (UPDATE ALL) %s\r\n", p.live.keys)
	lines, st := p.c.until("live")
	if !strings.HasPrefix(st, "OK") {
		t.Fatalf("%s", st)
	}
	p.take(t, lines, false)
}

// watched takes what an ESEARCH says of the search.
func (p *picture) watched(t tb, l string) {
	for n, added := range updated(t, l, `* ESEARCH (TAG "live")`) {
		if int(n) > len(p.msgs) || p.msgs[n-1].found == added {
			t.Fatalf("%q of %v", l, p.msgs)
		}
		p.msgs[n-1].found = added
	}
}

// learn asks for the flags of messages that are new to the client.
func (p *picture) learn(t tb) {
	if len(p.msgs) > 50 {
		p.fetch(t, "1:* (UID FLAGS)")
	}
	for i, m := range p.msgs {
		if !m.known {
			p.fetch(t, fmt.Sprintf("%d (UID FLAGS)", i+1))
		}
	}
}

// fetch asks for flags. Of a message that was expunged while the session went from one place to the
// other they are not known.
func (p *picture) fetch(t tb, what string) {
	lines, st := p.c.cmd("FETCH %s", what)
	if !strings.HasPrefix(st, "OK") && !strings.HasPrefix(st, "NO [EXPUNGEISSUED]") {
		t.Fatalf("FETCH %s: %s", what, st)
	}
	p.take(t, lines, false)
}

// TestViewsModel lets two sessions and a delivery agent work on one folder in
// any order: each view, built from untagged responses alone, is the truth after each command, but
// for expunges that this one may not tell, and a message number never names another message than
// the view says.
func TestViewsModel(t *testing.T) {
	modelled(t, func(rt *rapid.T, r *rig, w world) {
		b := w.box()
		folder := folderOf(r.t, b, "INBOX")
		must(r.t, b.CreateFolder("Else", ""))
		defer func() { b.Close() }()
		ends := cleanups{}
		defer ends.run()
		// Enough for some chunks, or few, so that the same ones are met often.
		away := 1
		if rapid.Bool().Draw(rt, "large") {
			r.fill(b, 600)
			away = 150
		}
		var views []*picture
		var all []*traveller
		tp := &trap{spring: w.freeze}
		b.Close()
		for range 2 {
			tr := travelOn(r.t, w, r.srv, ends.add)
			tr.t = rt
			p := &picture{c: tr.client, live: rapid.SampledFrom(liveSearches()).Draw(rt, "search")}
			p.take(rt, tr.ok("SELECT INBOX"), false)
			p.watch(rt)
			views, all = append(views, p), append(all, tr)
			tr.wrap = func(b mailbox.Box) mailbox.Box { return trapBox{b, tp} }
		}
		hopAll(w, all, nil) // behind the trap
		b = w.box()
		folder = folderOf(r.t, b, "INBOX")
		truth := func() mailbox.Messages {
			snap, err := folder.Snapshot()
			if err != nil {
				rt.Fatalf("%v", err)
			}
			return snap.Messages
		}
		settle := func(p *picture) {
			p.take(rt, p.c.ok("NOOP"), true)
			p.take(rt, p.c.ok("FETCH 1:* (UID)"), false)
			p.learn(rt)
			msgs := truth()
			if msgs.Len() != len(p.msgs) {
				rt.Fatalf("%d messages, view %v", msgs.Len(), p.msgs)
			}
			for i, m := range msgs.All() {
				want := words(m.Flags)
				if got := p.msgs[i]; uint32(m.UID) != got.uid || got.flags != want {
					rt.Fatalf("message %d: uid %d %q, view %+v", i+1, m.UID, want, got)
				}
				if got, want := p.msgs[i].found, p.live.has(m, i == msgs.Len()-1); got != want {
					rt.Fatalf("%s: message %d, uid %d %q: %v", p.live.keys, i+1, m.UID, words(m.Flags), got)
				}
			}
		}
		// told compares with the truth what the view has after a command. all: it may tell
		// expunges, and so it must.
		told := func(p *picture, all bool) {
			msgs := truth()
			if n := msgs.Len(); len(p.msgs) < n || all && len(p.msgs) != n {
				rt.Fatalf("%d messages, view %v", n, p.msgs)
			}
			for _, got := range p.msgs {
				m := msgs.Get(mailbox.UID(got.uid))
				if m == nil && all && got.uid != 0 || m != nil && got.known && got.flags != words(m.Flags) {
					rt.Fatalf("%+v, view %+v", m, got)
				}
				if m != nil && !p.live.last && got.found != p.live.has(m, false) {
					rt.Fatalf("%s: %+v, view %+v", p.live.keys, m, got)
				}
			}
		}
		// try runs a command that may tell expunges, and is refused for a message that was expunged
		// and the client not told yet.
		try := func(p *picture, what string) {
			lines, st := p.c.cmd("%s", what)
			if !strings.HasPrefix(st, "OK") && !strings.HasPrefix(st, "NO [EXPUNGEISSUED]") {
				rt.Fatalf("%s: %s", what, st)
			}
			p.take(rt, lines, true)
			told(p, true)
		}
		pick := func(p *picture) int { return rapid.IntRange(1, len(p.msgs)).Draw(rt, "n") }
		flag := rapid.SampledFrom([]string{`\Seen`, `\Deleted`, "kw"})
		op := rapid.SampledFrom([]string{"+FLAGS", "-FLAGS", "FLAGS"})
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			p := views[rapid.IntRange(0, len(views)-1).Draw(rt, "session")]
			action := rapid.SampledFrom([]string{"deliver", "store", "silent", "expunge", "fetch", "noop", "away", "idle", "search", "uid", "copy", "append", "hop", "cut", "cut"}).Draw(rt, "action")
			if len(p.msgs) == 0 && slices.Contains([]string{"store", "silent", "fetch", "uid", "copy", "cut"}, action) {
				action = "deliver"
			}
			switch action {
			case "deliver":
				r.deliver(b, "INBOX", letter)
			case "store":
				p.take(rt, p.c.ok("STORE %d %s (%s)", pick(p), op.Draw(rt, "op"), flag.Draw(rt, "flag")), false)
				told(p, false)
			case "silent":
				p.silent(rt, pick(p), op.Draw(rt, "op"), flag.Draw(rt, "flag"))
				told(p, false)
			case "expunge":
				p.take(rt, p.c.ok("EXPUNGE"), true)
				told(p, true)
			case "fetch":
				p.fetch(rt, fmt.Sprintf("%d (UID FLAGS)", pick(p)))
				told(p, false)
			case "search":
				p.take(rt, p.c.ok("SEARCH SEEN"), false)
				told(p, false)
			case "uid":
				p.fetch(rt, "1:* (UID)")
				uid := p.msgs[pick(p)-1].uid
				if uid == 0 { // it was expunged before it was known
					break
				}
				what := rapid.SampledFrom([]string{
					fmt.Sprintf("FETCH %d (FLAGS)", uid), fmt.Sprintf("STORE %d %s (%s)", uid, op.Draw(rt, "op"), flag.Draw(rt, "flag")), "SEARCH SEEN",
					fmt.Sprintf("EXPUNGE %d", uid), fmt.Sprintf("COPY %d Else", uid), fmt.Sprintf("COPY %d INBOX", uid), fmt.Sprintf("MOVE %d Else", uid),
				}).Draw(rt, "UID command")
				try(p, "UID "+what)
			case "copy":
				try(p, fmt.Sprintf(rapid.SampledFrom([]string{"COPY %d Else", "COPY %d INBOX", "MOVE %d Else"}).Draw(rt, "command"), pick(p)))
			case "append":
				p.take(rt, p.c.ok("APPEND INBOX (kw) {1+}\r\nx"), true)
				told(p, true)
			case "noop":
				settle(p)
			case "away":
				msgs := truth()
				if msgs.Len() == 0 {
					break
				}
				var uids []mailbox.UID
				for _, m := range msgs.From(rapid.IntRange(0, msgs.Len()-1).Draw(rt, "i")) {
					if uids = append(uids, m.UID); len(uids) == away {
						break
					}
				}
				if _, err := folder.Expunge(uids); err != nil {
					rt.Fatalf("%v", err)
				}
			case "idle":
				p.c.send("i IDLE\r\nDONE\r\n")
				lines, st := p.c.until("i")
				if !strings.HasPrefix(st, "OK") {
					rt.Fatalf("%s", st)
				}
				p.take(rt, lines, true)
				told(p, true)
			case "cut":
				// In the middle of a command.
				p.learn(rt)
				what := rapid.SampledFrom([]string{
					fmt.Sprintf("STORE %d:* %s (%s)", pick(p), op.Draw(rt, "op"), flag.Draw(rt, "flag")), "EXPUNGE", "NOOP",
					fmt.Sprintf("FETCH %d:* (UID FLAGS BODY[]<0.5>)", pick(p)), "SEARCH TEXT world", fmt.Sprintf("COPY %d INBOX", pick(p)),
				}).Draw(rt, "command")
				b.Close()
				tp.left.Store(rapid.Int64Range(1, 8).Draw(rt, "operation"))
				moved := followAll(r.t, w, all)
				lines, st := p.c.cmd("%s", what)
				if tp.left.Swap(-1) > 0 {
					w.freeze() // it was not reached
				}
				<-moved
				if !strings.HasPrefix(st, "OK") && !strings.HasPrefix(st, "NO [EXPUNGEISSUED]") {
					rt.Fatalf("%s: %s", what, st)
				}
				p.take(rt, lines, what == "EXPUNGE" || what == "NOOP" || strings.HasPrefix(what, "COPY"))
				b = w.box()
				folder = folderOf(r.t, b, "INBOX")
			case "hop":
				// In the middle of an IDLE, or at rest; and meanwhile others work.
				idles := rapid.Bool().Draw(rt, "idles")
				if idles {
					p.c.send("h IDLE\r\n")
					for l := p.c.line(); l != "+ idling"; l = p.c.line() {
						p.take(rt, []string{l}, true)
					}
				}
				others := rapid.SliceOfN(rapid.SampledFrom([]string{"deliver", "flag", "expunge", "first"}), 0, 4).Draw(rt, "meanwhile")
				b.Close()
				hopAll(w, all, func(b mailbox.Box) { meanwhile(rt, r, b, others) })
				b = w.box()
				folder = folderOf(r.t, b, "INBOX")
				if idles {
					p.c.send("DONE\r\n")
					lines, st := p.c.until("h")
					if !strings.HasPrefix(st, "OK") {
						rt.Fatalf("%s", st)
					}
					p.take(rt, lines, true)
				}
			}
		}
		for _, p := range views {
			settle(p)
		}
	})
}

// words writes flags as the server does.
func words(f mailbox.Flags) string {
	return strings.Join(wireFlags(nil, f, false), " ")
}

// silent changes flags without an answer; the client works out the result.
func (p *picture) silent(t tb, n int, op, flag string) {
	p.learn(t)
	m := &p.msgs[n-1]
	var in []string
	for _, word := range strings.Fields(m.flags) {
		in = append(in, string(word))
	}
	old, err := parseFlags(in)
	change, err2 := parseFlags([]string{string(flag)})
	if err != nil || err2 != nil {
		t.Fatalf("%v %v", err, err2)
	}
	ops := map[string]mailbox.FlagOp{"+FLAGS": mailbox.FlagsAdd, "-FLAGS": mailbox.FlagsRemove, "FLAGS": mailbox.FlagsSet}
	m.flags = words(applyFlags(old, ops[op], change))
	p.take(t, p.c.ok("STORE %d %s.SILENT (%s)", n, op, flag), false)
}

func TestSearch(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.deliver(b, "INBOX", letter) // 1
	r.deliver(b, "INBOX", "Subject: two\r\nCC: Carl <c@d>\r\nDate: Mon, 3 Nov 2025 23:30:00 -0500\r\n"+
		"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: base64\r\n\r\nY2Fm6SBub2ly\r\n") // café noir
	r.deliver(b, "INBOX", "Subject: three\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"+
		"Content-Transfer-Encoding: quoted-printable\r\n\r\nlong =\r\nword\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: buried\r\n\r\nx\r\n--b--\r\n"+
		strings.Repeat("pad\r\n", 100))
	c := r.dial(b)
	c.ok("SELECT INBOX")
	c.ok("STORE 2 FLAGS.SILENT (\\Seen $Kw)")
	for query, want := range map[string]string{
		"ALL":                               "1 2 3",
		"1,3":                               "1 3",
		"UID 2:*":                           "2 3",
		"*":                                 "3",
		"SEEN":                              "2",
		"UNSEEN":                            "1 3",
		"KEYWORD $kw":                       "2",
		"UNKEYWORD $Kw":                     "1 3",
		"NEW":                               "1 3",
		"SUBJECT \"caf\xc3\xa9\"":           "1",
		"FROM ann":                          "1",
		"CC c@d":                            "2",
		"HEADER Message-ID \"\"":            "1",
		"HEADER X \"\"":                     "",
		"SENTON 3-Nov-2025":                 "2",
		"SENTBEFORE 2-Nov-2025":             "1",
		"ON 3-Nov-2025":                     "1 2 3",
		"SINCE 4-Nov-2025":                  "",
		"BEFORE 4-Nov-2025 SEEN":            "2",
		"LARGER 400":                        "3",
		"SMALLER 400":                       "1 2",
		"SMALLER 400 SINCE 1-Nov-2025":      "1 2", // the library loses this SMALLER
		"LARGER 160 SMALLER 250":            "2",
		"BODY \"long word\"":                "3",
		"BODY hello TEXT subject":           "1",
		"BODY buried":                       "", // as Dovecot: the header of an enclosed message is none of its body
		"TEXT buried NOT BODY hello":        "3",
		"TEXT message-id":                   "1",
		"BODY message-id":                   "",
		"OR BODY hello BODY word":           "1 3",
		"NOT 1":                             "2 3",
		"(OR 1 2) UNSEEN":                   "1",
		"OR (BODY hello 1) NOT TEXT o":      "1",
		"CHARSET UTF-8 BODY \"NOIR\"":       "2",
		"TEXT \"\"":                         "1 2 3",
		"OR SMALLER 1 LARGER 400 SUBJECT":   "BAD",
		"SMALLER 9 OR 1 2 SINCE 1-Nov-2025": "",
		"BOGUS":                             "BAD",
	} {
		got, st := c.cmd("SEARCH %s", query)
		res := strings.TrimSpace(strings.TrimPrefix(strings.Join(got, "|"), "* SEARCH"))
		if !strings.HasPrefix(st, "OK") {
			res, _, _ = strings.Cut(st, " ")
		}
		if res != want && !(want == "" && res == "") {
			t.Errorf("%s: %q, want %q", query, res, want)
		}
	}
	c.want("SEARCH CHARSET UTF-8 BODY {5+}\r\ncaf\xc3\xa9", "OK", "* SEARCH 2")
	c.want("SEARCH SUBJECT {5+}\r\nCAF\xc3\x89", "OK", "* SEARCH 1")
	c.want("UID SEARCH RETURN (MIN MAX COUNT) ALL", "OK", `* ESEARCH (TAG "t43") UID MIN 1 MAX 3 COUNT 3`)
	c.want("SEARCH RETURN (SAVE) UNSEEN", "OK")
	c.want("FETCH $ UID", "OK", "* 1 FETCH (UID 1)", "* 3 FETCH (UID 3)")
	c.want("SEARCH $ 2:3", "OK", "* SEARCH 3")
	c.want("SEARCH RETURN (COUNT) SMALLER 300 SINCE 1-Nov-2025", "OK", `* ESEARCH (TAG "t47") COUNT 2`)
}

// Every line of 100,000 is not a write of its own.
func TestHundredThousand(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	const n = 100_000
	r.fill(b, n)
	c := r.dial(b)
	c.ok("SELECT INBOX")
	began := time.Now()
	if got := c.ok("FETCH 1:* (FLAGS)"); len(got) != n {
		t.Errorf("%d lines", len(got))
	}
	t.Logf("FETCH of %d took %v", n, time.Since(began))
	if got := c.ok("UID SEARCH UNSEEN"); len(got) != 1 || strings.Count(got[0], " ") != n+1 {
		t.Errorf("search: %d lines", len(got))
	}
	c.ok("STORE 1:* +FLAGS.SILENT (\\Seen)")
	if got := c.ok("NOOP"); len(got) != 0 {
		t.Errorf("noop: %d lines", len(got))
	}
}
