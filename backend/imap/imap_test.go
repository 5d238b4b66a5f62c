package imap

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"waypost/backend/imap/syntax"
	"waypost/backend/mailbox"
)

const letter = "From: Ann <ann@example.test>\r\nTo: bob@example.test\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\n" +
	"Date: Sat, 1 Nov 2025 10:00:00 +0100\r\nMessage-ID: <1@x>\r\n\r\nhello\r\nworld\r\n"

func TestTranscript(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.deliver(b, "INBOX", letter)
	c := r.dial(b)
	c.want("CAPABILITY", "OK", "* CAPABILITY"+always+" APPENDLIMIT=1073741824")
	c.want("NAMESPACE", "OK", `* NAMESPACE (("" "/")) NIL NIL`)
	c.want("FETCH 1 FLAGS", "BAD")
	c.want("SELECT nowhere", "NO [NONEXISTENT]")
	c.want("select inbox", "OK [READ-WRITE]", `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft)`,
		`* OK [PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft \*)] flags that can be set`,
		"* 1 EXISTS", "* 1 RECENT", "* OK [UNSEEN 1] first unseen", "* OK [UIDVALIDITY 1] UIDs valid",
		"* OK [UIDNEXT 2] predicted next UID", "* OK [HIGHESTMODSEQ 2] highest", "* OK [MAILBOXID (f1)] ok")
	c.want("FETCH 1 (UID FLAGS INTERNALDATE RFC822.SIZE)", "OK",
		`* 1 FETCH (UID 1 FLAGS (\Recent) INTERNALDATE " 3-Nov-2025 12:00:00 +0000" RFC822.SIZE 157)`)
	c.want("FETCH 1 ENVELOPE", "OK", `* 1 FETCH (ENVELOPE ("Sat, 1 Nov 2025 10:00:00 +0100" "=?utf-8?q?caf=C3=A9?=" `+
		`(("Ann" NIL "ann" "example.test")) (("Ann" NIL "ann" "example.test")) (("Ann" NIL "ann" "example.test")) `+
		`((NIL NIL "bob" "example.test")) NIL NIL NIL "<1@x>"))`)
	c.want("FETCH 1 (BODY BODYSTRUCTURE)", "OK", `* 1 FETCH (BODY ("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 14 2) `+
		`BODYSTRUCTURE ("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 14 2 NIL NIL NIL NIL))`)
	c.want("FETCH 1 (BODY.PEEK[TEXT]<3.6> BODY.PEEK[1] BODY.PEEK[2])", "OK",
		"* 1 FETCH (BODY[TEXT]<3> {6}lo\r\nwo BODY[1] {14}hello\r\nworld\r\n BODY[2] \"\")")
	c.want("FETCH 1 (BODY.PEEK[HEADER.FIELDS (subject X)])", "OK",
		"* 1 FETCH (BODY[HEADER.FIELDS (subject X)] {34}Subject: =?utf-8?q?caf=C3=A9?=\r\n\r\n)")
	c.want("FETCH 1 BODY[HEADER.FIELDS.NOT (From To Date Subject)]<2.7>", "OK",
		"* 1 FETCH (BODY[HEADER.FIELDS.NOT (From To Date Subject)]<2> {7}ssage-I FLAGS (\\Seen \\Recent))")
	c.want("FETCH 1 (RFC822)", "OK", "* 1 FETCH (RFC822 {157}"+letter+")")
	c.want("FETCH 1 BINARY[1]", "OK", "* 1 FETCH (BINARY[1] {14}hello\r\nworld\r\n)")
	c.want("FETCH 1 BOGUS", "BAD")
	c.want("STORE 1 +FLAGS (\\Deleted $Work)", "OK",
		`* FLAGS (\Answered \Flagged \Deleted \Seen \Draft $Work)`, `* 1 FETCH (FLAGS (\Deleted \Seen $Work \Recent))`)
	c.want("UID STORE 1 -FLAGS ($Work)", "OK", `* 1 FETCH (UID 1 FLAGS (\Deleted \Seen \Recent))`)
	c.want("STORE 1 FLAGS.SILENT (\\Flagged)", "OK")
	c.want("STORE 1 +FLAGS (\\Nonsense)", "NO [CANNOT]")
	c.want("COPY 1 Else", "NO [TRYCREATE]")
	c.want("CREATE Else/", "OK")
	c.want("COPY 1 Else", "OK [COPYUID 2 1 1]")
	c.want("EXAMINE Else", "OK [READ-ONLY]", `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft)`,
		"* OK [PERMANENTFLAGS ()] flags that can be set", "* 1 EXISTS", "* 1 RECENT", "* OK [UNSEEN 1] first unseen",
		"* OK [UIDVALIDITY 2] UIDs valid", "* OK [UIDNEXT 2] predicted next UID", "* OK [HIGHESTMODSEQ 2] highest",
		"* OK [MAILBOXID (f2)] ok")
	c.want("FETCH 1 BODY[1]<0.1>", "OK", "* 1 FETCH (BODY[1]<0> {1}h)")
	c.want("STORE 1 FLAGS ()", "NO")
	c.want("EXPUNGE", "NO")
	c.want("CLOSE", "OK")
	c.want("STATUS Else (MESSAGES UNSEEN UIDNEXT SIZE APPENDLIMIT)", "OK",
		`* STATUS Else (MESSAGES 1 UNSEEN 1 UIDNEXT 2 SIZE 157 APPENDLIMIT 1073741824)`)
	c.want("STATUS Else (DELETED-STORAGE)", "OK", "* STATUS Else (DELETED-STORAGE 0)")
	c.want("STATUS Else (BOGUS)", "BAD")
	c.want("STATUS none (MESSAGES)", "NO [NONEXISTENT]")
	c.want("CREATE inbox", "NO [ALREADYEXISTS]")
	c.want("DELETE INBOX", "NO [CANNOT]")
	c.want("CREATE a//b", "NO [CANNOT]")
	got, st := c.cmd("LOGOUT")
	if !strings.HasPrefix(st, "OK") || len(got) != 1 || c.line() != "EOF" || c.ended() != nil {
		t.Errorf("logout: %q %q", got, st)
	}
}

func TestMoveAndExpunge(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	for range 5 {
		r.deliver(b, "INBOX", letter)
	}
	c := r.dial(b)
	c.ok("CREATE Archive")
	c.ok("SELECT INBOX")
	c.want("UID MOVE 2,4 Archive", "OK", "* OK [COPYUID 2 2,4 1:2] moved", "* 4 EXPUNGE", "* 2 EXPUNGE")
	c.want("MOVE 1 INBOX", "NO [CANNOT]")
	c.ok("STORE 1:* +FLAGS.SILENT (\\Deleted)")
	c.want("UID EXPUNGE 3", "OK", "* 2 EXPUNGE")
	c.want("EXPUNGE", "OK", "* 2 EXPUNGE", "* 1 EXPUNGE")
	c.want("FETCH 1:* FLAGS", "OK")
	c.want("UID FETCH 1:* FLAGS", "OK")
	c.want("SEARCH ALL", "OK", "* SEARCH")
	c.ok("SELECT Archive")
	c.ok("STORE 1 +FLAGS (\\Deleted)")
	c.want("CLOSE", "OK")
	c.want("STATUS Archive (MESSAGES)", "OK", `* STATUS Archive (MESSAGES 1)`)
	c.ok("SELECT Archive")
	c.want("RENAME Archive Old", "OK")
	c.want("FETCH 1 UID", "OK", "* 1 FETCH (UID 2)")
	c.want("DELETE Old", "OK")
	c.want("FETCH 1 UID", "NO [NONEXISTENT]")
	c.want("NOOP", "OK")
}

func TestList(t *testing.T) {
	r := newRig(t, Limits{})
	c := r.dial(r.box(1))
	for _, name := range []string{"a", "a/b", "a/b/c", "x/y", "Gr&APw-n"} {
		c.ok("CREATE %s", name)
	}
	c.ok("SUBSCRIBE a/b")
	c.ok("SUBSCRIBE gone")
	c.ok("SUBSCRIBE x")
	c.ok("UNSUBSCRIBE x")
	c.want(`LIST "" ""`, "OK", `* LIST (\Noselect) "/" ""`)
	c.want(`LIST "" %`, "OK", `* LIST (\HasNoChildren) "/" INBOX`, `* LIST (\HasNoChildren) "/" Gr&APw-n`,
		`* LIST (\HasChildren) "/" a`, `* LIST (\Noselect \HasChildren) "/" x`)
	c.want(`LIST "a/" *`, "OK", `* LIST (\HasChildren) "/" a/b`, `* LIST (\HasNoChildren) "/" a/b/c`)
	c.want(`LIST "" inb%`, "OK", `* LIST (\HasNoChildren) "/" INBOX`)
	c.want(`LIST "" (a%b% x/*) RETURN (SUBSCRIBED)`, "OK", `* LIST (\HasNoChildren) "/" x/y`)
	c.want(`LIST (SUBSCRIBED) "" *`, "OK", `* LIST (\Subscribed \HasChildren) "/" a/b`,
		`* LIST (\NonExistent \Noselect \Subscribed) "/" gone`)
	c.want(`LIST (SUBSCRIBED RECURSIVEMATCH) "" %`, "OK", `* LIST (\HasChildren) "/" a ("CHILDINFO" ("SUBSCRIBED"))`,
		`* LIST (\NonExistent \Noselect \Subscribed) "/" gone`)
	c.want(`LSUB "" %`, "OK", `* LSUB (\Noselect \HasChildren) "/" a`, `* LSUB () "/" gone`)
	c.want(`LIST "" a RETURN (STATUS (MESSAGES))`, "OK", `* LIST (\HasChildren) "/" a`, `* STATUS a (MESSAGES 0)`)
}

func TestMatchName(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "a/b", true}, {"%", "a/b", false}, {"%/%", "a/b", true}, {"a*c", "a/b/c", true},
		{"a%c", "a/b/c", false}, {"a", "ab", false}, {"", "a", false}, {"%b", "ab", true},
		{"inb*", "INBOX/y", true}, {"Inbox/%", "INBOX/y", true}, {"inbox/Y", "INBOX/y", false}, {"inbox", "INBOXES", false}, {"iNbOx", "INBOX", true},
		{strings.Repeat("*a", 2000) + "*", strings.Repeat("a", 1999), false},
	} {
		if got := matchName(c.pattern, c.name); got != c.want {
			t.Errorf("%.20q %.20q: %v", c.pattern, c.name, got)
		}
	}
}

func TestAppend(t *testing.T) {
	r := newRig(t, Limits{AppendBytes: 10000})
	b := r.box(1)
	c := r.dial(b)
	c.ok("SELECT INBOX")
	c.send("a APPEND INBOX (\\Seen $x \\Recent) \"01-Feb-2024 03:04:05 +0600\" {%d}\r\n", len(letter))
	if l := c.line(); !strings.HasPrefix(l, "+ ") {
		t.Fatalf("%q", l)
	}
	c.send("%s\r\n", letter)
	got, st := c.until("a")
	if !strings.HasPrefix(st, "OK [APPENDUID 1 1]") || strings.Join(got, "|") != `* 1 EXISTS|* 1 RECENT|* FLAGS (\Answered \Flagged \Deleted \Seen \Draft $x)` {
		t.Fatalf("%q %q", got, st)
	}
	c.want("FETCH 1 (FLAGS INTERNALDATE)", "OK", `* 1 FETCH (FLAGS (\Seen $x \Recent) INTERNALDATE " 1-Feb-2024 03:04:05 +0600")`)
	c.want("APPEND none {3+}\r\nabc", "NO [TRYCREATE]")
	c.want("APPEND INBOX {10001}", "NO [TOOBIG]")
	c.want("APPEND INBOX {0+}\r\n", "NO")
	r.store.SetLimit(ann, mailbox.Limit{Bytes: 200})
	c.want("APPEND INBOX {1000+}\r\n"+strings.Repeat("x", 1000), "NO [OVERQUOTA]")
	r.store.SetLimit(ann, mailbox.Limit{})
	r.store.Fail(ann, errors.New("disk"))
	c.want("APPEND INBOX {3+}\r\nabc", "NO [UNAVAILABLE]")
	c.want("NOOP", "OK") // a folder that cannot be read expunges nothing
	c.want("FETCH 1 BODY.PEEK[]", "NO [UNAVAILABLE]")
	r.store.Fail(ann, nil)
	c.want("FETCH 1 UID", "OK", "* 1 FETCH (UID 1)")
	c.want("FETCH 1 BODY.PEEK[]", "OK", "* 1 FETCH (BODY[] {157}"+letter+")")

	// A connection that breaks inside of a literal stores nothing.
	c.send("b APPEND INBOX {100+}\r\nabc")
	c.nc.Close()
	if err := c.ended(); err != nil {
		t.Errorf("ended: %v", err)
	}
	f, _ := b.Folder("INBOX")
	if st, _ := f.Status(); st.Messages != 1 {
		t.Errorf("%d messages", st.Messages)
	}
}

// The bytes of a refused literal are never run as commands.
func TestRefusedLiterals(t *testing.T) {
	r := newRig(t, Limits{AppendBytes: 20000, Syntax: syntax.Limits{Drain: 30000}})
	b := r.box(1)
	evil := "x1 CREATE evil\r\n" + strings.Repeat("y", 6000)
	for name, c := range map[string]struct{ input, answer string }{
		"append":             {"a APPEND none {6016+}\r\n" + evil + "\r\n", "NO [TRYCREATE]"},
		"append too big":     {"a APPEND INBOX {20001+}\r\n" + evil + strings.Repeat("z", 20001-len(evil)) + "\r\n", "NO [TOOBIG]"},
		"append far too big": {"a APPEND INBOX {30001+}\r\n" + evil, "BYE"},
		"search":             {"a SEARCH TEXT {40016+}\r\n" + evil, "BYE"},
		"delete":             {"a DELETE {6016+}\r\n" + evil + "\r\n", "NO"},
		"unknown":            {"a FOO {6016+}\r\n" + evil + " {16+}\r\nb CREATE evil\r\n\r\n", "BAD"},
		"unknown, space":     {"a FOO {0015+} \r\nb CREATE evil\r\n\r\n", "BAD"},
		"long line":          {"a NOOP " + strings.Repeat("x", 70000) + "\r\nb CREATE evil\r\n", "BYE"},
		"bare CR":            {"a NOOP x\rb CREATE evil\r\n", "BAD"},
		"open quote":         {"a DELETE \"x\rb CREATE evil\r\n", "BAD"},
	} {
		t.Run(name, func(t *testing.T) {
			c, input, answer := r.dial(b), c.input, c.answer
			c.send("%sz LOGOUT\r\n", input)
			l := c.line()
			if answer == "BYE" {
				for strings.HasPrefix(l, "a ") {
					l = c.line()
				}
				if !strings.HasPrefix(l, "* BYE [TOOBIG]") || c.line() != "EOF" {
					t.Errorf("%q", l)
				}
			} else if next := c.line(); !strings.HasPrefix(l, "a "+answer) || !strings.HasPrefix(next, "* BYE") {
				t.Errorf("%q, %q", l, next)
			}
			if _, err := b.Folder("evil"); !errors.Is(err, mailbox.ErrNoFolder) {
				t.Errorf("a literal's bytes were run as a command")
			}
		})
	}
	// Where the client waits, it is told, and the session goes on.
	c := r.dial(b)
	c.ok("SELECT INBOX")
	c.want("SEARCH TEXT {50000}", "NO [TOOBIG]")
	c.want("APPEND INBOX {20001}", "NO [TOOBIG]")
	c.want("NOOP", "OK")
	c.send("q CREATE {4}\r\n")
	if l := c.line(); !strings.HasPrefix(l, "+") {
		t.Fatalf("%q", l)
	}
	c.send("quux\r\nr NOOP\r\n")
	if _, st := c.until("q"); !strings.HasPrefix(st, "OK") {
		t.Errorf("%q", st)
	}
	if _, st := c.until("r"); !strings.HasPrefix(st, "OK") {
		t.Errorf("%q", st)
	}
}

func TestBye(t *testing.T) {
	t.Run("between commands", func(t *testing.T) {
		r := newRig(t, Limits{})
		c := r.dial(r.box(1))
		c.ok("SELECT INBOX")
		r.store.Freeze(ann)
		c.bye("[UNAVAILABLE] mailbox is moving, please reconnect")
		if err := c.ended(); err != nil {
			t.Errorf("ended: %v", err)
		}
	})
	t.Run("idle", func(t *testing.T) {
		r := newRig(t, Limits{})
		c := r.dial(r.box(1))
		c.ok("SELECT INBOX")
		c.send("i IDLE\r\n")
		c.line()
		r.store.Serve(ann, "b1", 3)
		c.bye("moving")
	})
	t.Run("command after fence", func(t *testing.T) {
		// The handle has gone stale, Done is not closed: no NO.
		r := newRig(t, Limits{})
		for _, command := range []string{"SELECT INBOX", "FETCH 1 BODY[]", "APPEND INBOX {1+}\r\nx", "STORE 1 FLAGS ()",
			"LIST \"\" *", "COPY 1 INBOX", "UID SEARCH BODY x", "CREATE z", "STATUS INBOX (UNSEEN)", "EXPUNGE"} {
			b := r.box(1)
			r.deliver(b, "INBOX", letter)
			c := r.dial(b)
			c.ok("SELECT INBOX")
			r.store.Fail(ann, mailbox.ErrFrozen)
			c.send("z %s\r\n", command)
			l := c.line()
			for strings.HasPrefix(l, "* OK [CLOSED]") || strings.HasPrefix(l, "+ ") {
				l = c.line()
			}
			if !strings.HasPrefix(l, "* BYE ") || c.line() != "EOF" {
				t.Errorf("%s: %q", command, l)
			}
			c.nc.Close()
			r.store.Fail(ann, nil)
		}
	})
	t.Run("idle timeout", func(t *testing.T) {
		r := newRig(t, Limits{Idle: 20 * time.Millisecond})
		c := r.dial(r.box(1))
		c.bye("Autologout")
	})
	t.Run("shutdown", func(t *testing.T) {
		r := newRig(t, Limits{})
		b := r.box(1)
		c := r.dial(b)
		if err := r.srv.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		c.bye("shutting down")
		nc, done := r.serve(t.Context(), Session{Box: b, Store: r.store})
		c = &client{t: t, nc: nc, done: done}
		if err := c.ended(); !errors.Is(err, ErrClosed) {
			t.Errorf("%v", err)
		}
	})
	t.Run("context", func(t *testing.T) {
		r := newRig(t, Limits{})
		ctx, cancel := context.WithCancel(t.Context())
		nc, done := r.serve(ctx, Session{Box: r.box(1), Store: r.store})
		c := newRaw(t, nc, done)
		c.line()
		cancel()
		c.bye("shutting down")
	})
	t.Run("folder deleted", func(t *testing.T) {
		r := newRig(t, Limits{})
		b := r.box(1)
		c := r.dial(b)
		c.ok("CREATE x")
		c.ok("SELECT x")
		if err := b.DeleteFolder("x"); err != nil {
			t.Fatal(err)
		}
		c.ok("NOOP")
		c.bye("deleted")
	})
}
