package imap

import (
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

// exchange is a command and its answer: how the tagged response begins, and all untagged ones.
type exchange struct {
	command, status string
	untagged        []string
}

// says makes an exchange.
func says(command, status string, untagged ...string) exchange {
	return exchange{command, status, untagged}
}

// transcript runs a table.
func (c *client) transcript(all ...exchange) {
	c.t.Helper()
	for _, x := range all {
		c.want(x.command, x.status, x.untagged...)
	}
}

// errorPaths wants that commands are refused, and that the session goes on.
func (c *client) errorPaths(kind string, commands ...string) {
	c.t.Helper()
	for _, command := range commands {
		if got, st := c.cmd("%s", command); !strings.HasPrefix(st, kind) || len(got) > 0 {
			c.t.Errorf("%.200s: %s %q, want %s", command, st, got, kind)
		}
		c.want("NOOP", "OK")
	}
}

// rigWith has INBOX with n letters.
func rigWith(t testing.TB, n int) (*rig, mailbox.Box, *client) {
	t.Helper()
	r := newRig(t, Limits{})
	b := r.box(1)
	for range n {
		r.deliver(b, "INBOX", letter)
	}
	return r, b, r.dial(b)
}

// Commands that no state allows, or not this one, and arguments that there must be (RFC 9051,
// Section 6 and 9).
func TestTranscriptErrors(t *testing.T) {
	_, _, c := rigWith(t, 1)
	c.errorPaths("BAD",
		"", "FOO", "UID", "UID NOOP", "UID FOO 1", "NOOP x", "LOGOUT now", "CAPABILITY x", "LOGIN a b", "STARTTLS", "AUTHENTICATE PLAIN",
		"SELECT", "SELECT INBOX x", "SELECT INBOX (FOO)", "EXAMINE", "CREATE", "DELETE", "RENAME a", "RENAME a b c", "SUBSCRIBE",
		"LIST", "LIST \"\"", "LSUB \"\"", "STATUS INBOX", "STATUS INBOX ()", "STATUS INBOX MESSAGES", "APPEND", "APPEND INBOX",
		"IDLE x", "ENABLE", "ID", "ID (\"a\")", "NAMESPACE x", "GETQUOTA", "GETQUOTAROOT", "COMPRESS", "COMPRESS LZW",
		"GETMETADATA INBOX", "SETMETADATA INBOX (/private/x)", "GETACL", "SETACL INBOX x", "MYRIGHTS",
		"CHECK", "CLOSE", "UNSELECT", "EXPUNGE", "FETCH 1 FLAGS", "STORE 1 FLAGS ()", "SEARCH ALL", "SORT (DATE) UTF-8 ALL")
	c.ok("SELECT INBOX")
	c.errorPaths("BAD",
		"FETCH", "FETCH 1", "FETCH 0 FLAGS", "FETCH 2 FLAGS", "FETCH 1 ()", "FETCH 1 (FLAGS", "FETCH 1 FLAGS x", "FETCH a FLAGS",
		"FETCH 1:2 FLAGS", "FETCH 1 BODY[", "FETCH 1 BODY[]<0>", "FETCH 1 (FLAGS) (FOO)", "FETCH 1 (FLAGS) (PARTIAL 1:2)",
		"STORE 1", "STORE 1 FLAGS", "STORE 1 *FLAGS ()", "STORE 1 (FOO 1) FLAGS ()", "STORE 9 FLAGS ()", "COPY 1", "COPY 1 a b", "COPY 3 INBOX",
		"MOVE 1", "SEARCH", "SEARCH FOO", "SEARCH 1:", "SEARCH OR ALL", "SEARCH RETURN (FOO) ALL", "SORT DATE UTF-8 ALL", "THREAD FOO UTF-8 ALL",
		"UID EXPUNGE", "EXPUNGE 1", "UID CLOSE", "REPLACE", "REPLACE 0 INBOX {1+}\r\nx", "CLOSE x")
	c.errorPaths("NO", "COPY 1 nowhere", "MOVE 1 nowhere", "REPLACE 7 INBOX {1+}\r\nx", "SEARCH CHARSET x-none ALL")
	// A SELECT that fails leaves no mailbox selected (RFC 9051, Section 6.3.2).
	c.want("SELECT nowhere", "NO [NONEXISTENT]")
	c.want("FETCH 1 FLAGS", "BAD")
}

// Fifty malformed commands in a row are a client that is broken.
func TestTranscriptClientBug(t *testing.T) {
	_, _, c := rigWith(t, 0)
	for range maxBad - 1 {
		c.cmd("FOO")
	}
	c.send("x FOO\r\n")
	if l := c.line(); !strings.HasPrefix(l, "x BAD") {
		t.Errorf("%q", l)
	}
	c.bye("[CLIENTBUG]")
}
