package imap

import (
	"fmt"
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

// texts wants the bodies of the messages of the selected folder, from the first on.
func (c *client) texts(want ...string) {
	c.t.Helper()
	var lines []string
	for i, w := range want {
		lines = append(lines, fmt.Sprintf("* %d FETCH (BODY[] {%d}%s)", i+1, len(w), w))
	}
	c.want("FETCH 1:* BODY.PEEK[]", "OK", lines...)
}

// RFC 3502: all of a MULTIAPPEND or none.
func TestTranscriptMultiappend(t *testing.T) {
	r, _, c := rigWith(t, 0)
	c.ok("SELECT INBOX")
	c.transcript(
		says(`APPEND INBOX (\Seen) {2+}`+"\r\nab"+` "01-Feb-2024 03:04:05 +0600" {3+}`+"\r\ncde"+` {1+}`+"\r\nf", "OK [APPENDUID 1 1:3]", "* 3 EXISTS", "* 3 RECENT"),
		says("FETCH 1:2 FLAGS", "OK", `* 1 FETCH (FLAGS (\Seen \Recent))`, `* 2 FETCH (FLAGS (\Recent))`),
		says("FETCH 2 INTERNALDATE", "OK", `* 2 FETCH (INTERNALDATE " 1-Feb-2024 03:04:05 +0600")`),
		says("APPEND INBOX {1+}\r\na {0+}\r\n", "NO [CANNOT]"),
		says("APPEND INBOX {1+}\r\na (bogus", "BAD"), says("APPEND INBOX {1+}\r\na ", "BAD"), says("APPEND INBOX {1+}\r\nax", "BAD"),
		says("APPEND INBOX {1+}\r\na (\\Foo) {1+}\r\nb", "NO [CANNOT]"),
	)
	r.store.SetLimit(ann, mailbox.Limit{Messages: 4})
	c.want("APPEND INBOX {1+}\r\na {1+}\r\nb", "NO [OVERQUOTA]")
	c.texts("ab", "cde", "f")
	// A client that waits for each literal, and breaks off with an empty line's worth.
	c.send("m APPEND INBOX {1}\r\n")
	c.next("+ OK")
	c.send("x {99999999999}\r\n")
	if got, st := c.until("m"); len(got) > 0 || !strings.HasPrefix(st, "NO [TOOBIG]") {
		t.Errorf("%q %s", got, st)
	}
	c.texts("ab", "cde", "f")
}

// RFC 4469, RFC 5092.
func TestTranscriptCatenate(t *testing.T) {
	r := newRig(t, Limits{AppendBytes: 1000})
	b := r.box(1)
	r.deliver(b, "INBOX", letter)
	r.deliver(b, "INBOX", "Subject: m\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--\r\n")
	c := r.dial(b)
	c.ok("CREATE out")
	c.transcript(
		says("APPEND out CATENATE (TEXT {3+}\r\nab\n URL \"/INBOX/;UID=2/;SECTION=1\" TEXT {1+}\r\nc)", "OK [APPENDUID 2 1]"),
		says("APPEND out (\\Seen) CATENATE (URL \"/INBOX;UIDVALIDITY=1/;UID=1/;SECTION=TEXT\") {1+}\r\nz", "OK [APPENDUID 2 2:3]"),
		says("APPEND out CATENATE (URL \"/INBOX;UIDVALIDITY=9/;UID=1\")", "NO [BADURL"),
		says("APPEND out CATENATE (URL \"/INBOX/;UID=77\")", "NO [BADURL"),
		says("APPEND out CATENATE (URL \"/nowhere/;UID=1\")", "NO [BADURL"),
		says("APPEND out CATENATE (URL \"imap://other.test/INBOX/;UID=1\")", "NO [BADURL"),
		says("APPEND out CATENATE (URL \"/INBOX/;UID=1/;SECTION=9\")", "NO [BADURL"),
		says("APPEND out CATENATE (URL \"nonsense\")", "NO [BADURL"),
		says("APPEND nowhere CATENATE (TEXT {1+}\r\nx)", "NO [TRYCREATE]"),
		says("APPEND out CATENATE (TEXT {900+}\r\n"+strings.Repeat("x", 900)+" TEXT {900+}\r\n"+strings.Repeat("y", 900)+")", "NO [TOOBIG]"),
		says("APPEND out CATENATE ()", "BAD"), says("APPEND out CATENATE (FOO {1+}\r\nx)", "BAD"), says("APPEND out CATENATE (TEXT \"x\")", "BAD"),
		says("APPEND out CATENATE (TEXT {1+}\r\nx", "BAD"), says("APPEND out CATENATE (TEXT {1+}\r\nx) x", "BAD"),
	)
	c.ok("SELECT out")
	c.texts("ab\r\nonec", "hello\r\nworld\r\n", "z")
	// A URL of the selected mailbox.
	c.want("APPEND out CATENATE (URL \"/;UID=3\")", "OK [APPENDUID 2 4]", "* 4 EXISTS", "* 4 RECENT")
	// URL-PARTIAL (RFC 5550; RFC 5092, Section 6): octets from one on, so many or all.
	c.want("APPEND out CATENATE (URL \"/;UID=1/;PARTIAL=1.2\" URL \"/INBOX/;UID=1/;SECTION=TEXT/;PARTIAL=7.900\" URL \"/;UID=1/;PARTIAL=5\")",
		"OK [APPENDUID 2 5]", "* 5 EXISTS", "* 5 RECENT")
	c.want("APPEND out CATENATE (URL \"/;UID=1/;PARTIAL=x\")", "NO [BADURL")
	c.texts("ab\r\nonec", "hello\r\nworld\r\n", "z", "z", "b\rworld\r\nnec")
}

// RFC 8508.
func TestTranscriptReplace(t *testing.T) {
	_, _, c := rigWith(t, 3)
	c.ok("CREATE drafts")
	c.ok("SELECT INBOX")
	c.transcript(
		says(`REPLACE 2 INBOX (\Draft) {3+}`+"\r\nnew", "OK", "* OK [APPENDUID 1 4] replaced", "* 2 EXPUNGE", "* 3 EXISTS", "* 3 RECENT"),
		says("UID REPLACE 1 drafts {1+}\r\nx", "OK", "* OK [APPENDUID 2 1] replaced", "* 1 EXPUNGE"),
		says("UID REPLACE 1 drafts {1+}\r\nx", "NO [NONEXISTENT]"), says("REPLACE 3 drafts {1+}\r\nx", "NO [NONEXISTENT]"),
		says("REPLACE 1 nowhere {1+}\r\nx", "NO [TRYCREATE]"),
		says("REPLACE 1 INBOX {1+}\r\nx {1+}\r\ny", "BAD"), says("REPLACE 1:2 INBOX {1+}\r\nx", "BAD"), says("REPLACE 1 INBOX", "BAD"),
		says("FETCH 1:* (UID FLAGS)", "OK", `* 1 FETCH (UID 3 FLAGS (\Recent))`, `* 2 FETCH (UID 4 FLAGS (\Draft \Recent))`),
		says("EXAMINE INBOX", "OK [READ-ONLY]", `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft)`, "* OK [PERMANENTFLAGS ()] flags that can be set",
			"* 2 EXISTS", "* 0 RECENT", "* OK [UNSEEN 1] first unseen", "* OK [UIDVALIDITY 1] UIDs valid", "* OK [UIDNEXT 5] predicted next UID",
			"* OK [HIGHESTMODSEQ 7] highest", "* OK [MAILBOXID (f1)] ok"),
		says("REPLACE 1 INBOX {1+}\r\nx", "NO [NOPERM]"),
	)
}

// RFC 6855, Section 4: messages with UTF-8 in their headers.
func TestTranscriptUTF8(t *testing.T) {
	_, _, c := rigWith(t, 0)
	c.ok("ENABLE UTF8=ACCEPT")
	c.ok("SELECT INBOX")
	text := "Subject: caf\u00e9\r\n\r\nx"
	c.transcript(
		says(fmt.Sprintf("APPEND INBOX UTF8 (~{%d+}\r\n%s)", len(text), text), "OK [APPENDUID 1 1]", "* 1 EXISTS", "* 1 RECENT"),
		says("FETCH 1 ENVELOPE", "OK", "* 1 FETCH (ENVELOPE (NIL {5}caf\u00e9 NIL NIL NIL NIL NIL NIL NIL NIL))"),
		says("SEARCH SUBJECT \"CAF\u00c9\"", "OK", "* SEARCH 1"),
		says("SEARCH CHARSET UTF-8 SUBJECT x", "BAD"), // RFC 6855, Section 3
	)
	c.errorPaths("BAD", "APPEND INBOX UTF8 {1+}\r\nx", "APPEND INBOX UTF8 (~{1+}\r\nx", "APPEND INBOX UTF8 (\"x\")")
}
