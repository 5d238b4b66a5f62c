package imap

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/backend/imap/syntax"
)

// fuzzStates bring a session into a state in which it is sent anything.
var fuzzStates = []struct {
	name  string
	enter func(*client)
}{
	{"new", func(*client) {}},
	{"authenticating", func(c *client) {
		c.send("i AUTHENTICATE PLAIN\r\n")
		c.line()
	}},
	{"authenticated", func(*client) {}},
	{"selected", func(c *client) { c.ok("SELECT INBOX") }},
	{"examined", func(c *client) { c.ok("EXAMINE INBOX") }},
	{"unselected", func(c *client) {
		c.ok("SELECT INBOX")
		c.ok("SEARCH RETURN (SAVE) ALL")
		c.ok("UNSELECT")
	}},
	{"saved", func(c *client) {
		c.ok("SELECT INBOX")
		c.ok("SEARCH RETURN (SAVE) ALL")
	}},
	{"updated", func(c *client) {
		c.ok("SELECT INBOX")
		c.ok("SEARCH RETURN (UPDATE) OR SEEN TEXT x")
	}},
	{"all", func(c *client) {
		c.ok("ENABLE QRESYNC UTF8=ACCEPT IMAP4rev2")
		c.ok("SELECT INBOX")
		c.ok("NOTIFY SET (selected (MessageNew (BODY[]) MessageExpunge FlagChange)) (personal (MailboxName MessageNew MessageExpunge))")
	}},
	{"uidonly", func(c *client) {
		c.ok("ENABLE UIDONLY CONDSTORE")
		c.ok("SELECT INBOX")
	}},
	{"idle", func(c *client) {
		c.ok("SELECT INBOX")
		c.send("i IDLE\r\n")
		c.line()
	}},
	{"append", func(c *client) {
		c.send("i APPEND INBOX {20}\r\n")
		c.line()
		c.send("Subject: x\r\n\r\nbody..")
	}},
	{"catenate", func(c *client) {
		c.send("i APPEND INBOX CATENATE (URL \"/INBOX/;UID=1\" TEXT {3}\r\n")
		c.line()
		c.send("abc")
	}},
	{"search", func(c *client) {
		c.ok("SELECT INBOX")
		c.send("i UID SEARCH OR SEEN TEXT {3}\r\n")
		c.line()
		c.send("abc")
	}},
}

// runaway is a command that is sent within literals only.
const runaway = "runaway CREATE runaway-x\r\n"

// ran is its answer.
var ran = regexp.MustCompile(`\nrunaway (OK|NO|BAD)`)

// composed makes what is sent of a fuzzer's bytes: lines and literals in turn, with a zero between
// them, each literal with runaway first. sure: no byte of a literal can be taken for a command, by a
// server that sees each literal.
func composed(input []byte) (sent []byte, sure bool) {
	parts := bytes.Split(input, []byte{0})
	if len(parts) == 1 {
		return input, !bytes.ContainsAny(input, "{") && !bytes.Contains(input, []byte("runaway"))
	}
	sure = true
	for i, p := range parts {
		if sure = sure && !bytes.Contains(p, []byte("runaway")); i%2 == 0 {
			sent = append(sent, bytes.ReplaceAll(p, []byte("{"), nil)...)
		} else {
			sent = fmt.Appendf(sent, "{%d+}\r\n%s%s", len(runaway)+len(p), runaway, p)
		}
	}
	return sent, sure
}

// FuzzSession sends any bytes in any state: the session answers or ends, and never runs what
// was sent as a literal.
func FuzzSession(f *testing.F) {
	for i := range fuzzStates {
		for _, seed := range []string{
			"a NOOP\r\n", "DONE\r\n", "a LOGIN u p\r\n", "a AUTHENTICATE PLAIN\r\n*\r\n", "a FETCH 1:* (FLAGS BODY[])\r\n",
			"a APPEND INBOX (\\Seen) {3+}\r\nabc {2+}\r\nde\r\n", "a NOTIFY SET (selected (MessageNew (UID) MessageExpunge))\r\n",
			"a UID SEARCH RETURN (ALL) OR NOT SEEN TEXT {3+}\r\nabc\r\n", "a STORE 1 +FLAGS (\\Deleted)\r\nb EXPUNGE\r\n",
			"a SELECT INBOX (QRESYNC (1 1 1:5 (1 1)))\r\n", "a LIST (SUBSCRIBED) \"\" (% *) RETURN (STATUS (MESSAGES))\r\n",
			"a SETMETADATA \"\" (/private/x {1+}\r\nx)\r\n", "a X {13+}\r\nz CREATE bad\r\n\r\n", "\r\n", "a", "a NOOP {99999999999}\r\n",
			"a UID REPLACE 1 INBOX {1+}\r\nx\r\n", "a APPEND INBOX CATENATE (URL \"/INBOX/;UID=1\" TEXT {1+}\r\nx)\r\n", "12345678901234567890\r\n",
			"a STARTTLS\r\n", "a ENABLE UIDONLY\r\n", "a THREAD REFS UTF-8 ALL\r\nb SORT (DATE) UTF-8 ALL\r\n", "a IDLE\r\nDONE\r\nb CLOSE\r\n", "a UID SEARCH RETURN (UPDATE) UID 1:*\r\nb STORE 1 -FLAGS (\\Seen)\r\nc CANCELUPDATE \"a\"\r\n",
			"dXNlcgB1c2VyAHNlY3JldA==\r\n", " SEEN)\r\na FETCH $ UID\r\n", " URL \"/INBOX/;UID=9\")\r\n",
			"a LOGIN \x00x\x00 \x00y\x00\r\n", "a FETCH 1 (BODY[HEADER.FIELDS (\x00x\x00)])\r\n", "a \"x\x00y\x00", "DONE \x00x\x00\r\n",
			"a APPEND INBOX ~\x00x\x00 \x00\x00\r\n", "a SEARCH CHARSET x TEXT \x00x\x00 NOT HEADER \x00x\x00 \x00x\x00\r\n", "a APPEND INBOX UTF8 (~\x00x\x00)\r\n",
		} {
			f.Add(uint8(i), []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, in uint8, input []byte) {
		state := fuzzStates[int(in)%len(fuzzStates)]
		r := newRig(t, Limits{AppendBytes: 1000, Syntax: syntax.Limits{Drain: 2000}})
		b := r.box(1)
		r.deliver(b, "INBOX", letter)
		r.srv.opt.PlainLogin = true
		r.srv.opt.Login = func(context.Context, Credentials) (Session, error) { return Session{}, ErrLogin }
		session := Session{Box: b, Store: r.store}
		if state.name == "new" || state.name == "authenticating" {
			session.Box = nil
		}
		nc, done := r.serve(t.Context(), session)
		c := newRaw(t, nc, done)
		c.line()
		state.enter(c)
		sent, sure := composed(input)
		// What is no command line there announces no literal.
		if first, _, _ := bytes.Cut(sent, []byte("\n")); (state.name == "idle" || state.name == "authenticating") && bytes.ContainsAny(first, "{") {
			sure = false
		}
		// A literal of a command that nobody knows: its bytes must not run, whatever was before
		// it.
		go func() {
			// The session may have ended; that is its answer.
			_, _ = nc.Write(slices.Concat(sent, fmt.Appendf(nil, "\r\nq BOGUS {%d+}\r\n%s\r\n", len(runaway), runaway)))
			_ = nc.(interface{ CloseWrite() error }).CloseWrite()
		}()
		c.nc.SetReadDeadline(time.Now().Add(timeout))
		answers, err := io.ReadAll(c.br)
		if err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%v", err)
		}
		if err := c.ended(); err != nil {
			t.Errorf("%v", err)
		}
		if sure && ran.Match(answers) {
			t.Errorf("a literal's bytes were run: %q", answers)
		}
	})
}
