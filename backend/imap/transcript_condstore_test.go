package imap

import (
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

// RFC 7162, Section 3.1.
func TestTranscriptCondstore(t *testing.T) {
	r, b, c := rigWith(t, 3) // mod-sequences 2 to 4
	c.want("SELECT INBOX (CONDSTORE)", "OK [READ-WRITE]", `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft)`,
		`* OK [PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft \*)] flags that can be set`,
		"* 3 EXISTS", "* 3 RECENT", "* OK [UNSEEN 1] first unseen", "* OK [UIDVALIDITY 1] UIDs valid",
		"* OK [UIDNEXT 4] predicted next UID", "* OK [HIGHESTMODSEQ 4] highest", "* OK [MAILBOXID (f1)] ok")
	c.transcript(
		says("FETCH 1 (MODSEQ)", "OK", "* 1 FETCH (MODSEQ (2))"),
		says("FETCH 1:* (FLAGS) (CHANGEDSINCE 3)", "OK", `* 3 FETCH (MODSEQ (4) FLAGS (\Recent))`), // Section 3.1.4.1
		says("UID FETCH 1:* (FLAGS) (CHANGEDSINCE 4)", "OK"),
		// STORE is told with its MODSEQ (Section 3.1.3), silent ones, too.
		says(`STORE 1 +FLAGS (\Seen)`, "OK", `* 1 FETCH (FLAGS (\Seen \Recent) MODSEQ (5))`),
		says(`STORE 2 +FLAGS.SILENT (\Seen)`, "OK", `* 2 FETCH (MODSEQ (6))`),
		// What stays as it is has no new one.
		says(`STORE 2 +FLAGS (\Seen)`, "OK", `* 2 FETCH (FLAGS (\Seen \Recent) MODSEQ (6))`),
		// Conditional STORE: those that have changed are told apart.
		says(`STORE 1:3 (UNCHANGEDSINCE 4) +FLAGS (\Flagged)`, "OK [MODIFIED 1:2]", `* 3 FETCH (FLAGS (\Flagged \Recent) MODSEQ (7))`),
		says(`UID STORE 2,3 (UNCHANGEDSINCE 6) -FLAGS.SILENT (\Seen)`, "OK [MODIFIED 3]", `* 2 FETCH (UID 2 MODSEQ (8))`),
		says(`STORE 1 (UNCHANGEDSINCE 0) FLAGS ()`, "OK [MODIFIED 1]"),
		says("STATUS INBOX (HIGHESTMODSEQ)", "OK", "* STATUS INBOX (HIGHESTMODSEQ 8)"),
		says("SEARCH MODSEQ 7", "OK", "* SEARCH 2 3 (MODSEQ 8)"), // Section 3.1.5
		says("SEARCH MODSEQ \"/flags/\\\\seen\" all 9", "OK", "* SEARCH"),
		says("UID SEARCH RETURN (ALL) MODSEQ 8", "OK", `* ESEARCH (TAG "t14") UID ALL 2 MODSEQ 8`),
	)
	c.errorPaths("BAD", "FETCH 1 FLAGS (CHANGEDSINCE)", "FETCH 1 FLAGS (CHANGEDSINCE x)", "STORE 1 (UNCHANGEDSINCE) FLAGS ()",
		"STORE 1 (UNCHANGEDSINCE 9223372036854775808) FLAGS ()", "FETCH 1 FLAGS (CHANGEDSINCE 1 VANISHED)",
		"UID FETCH 1 FLAGS (CHANGEDSINCE 1 VANISHED)", "SELECT INBOX (QRESYNC (1 1))")
	// Others' changes come with MODSEQ, too.
	r.flag(b, "INBOX", 1, mailbox.Draft)
	c.want("NOOP", "OK", `* 1 FETCH (UID 1 FLAGS (\Seen \Draft \Recent) MODSEQ (9))`)
	// What enables CONDSTORE (Section 3.1): before it, no MODSEQ.
	for _, command := range []string{"ENABLE CONDSTORE", "STATUS INBOX (HIGHESTMODSEQ)", "FETCH 1 MODSEQ", "FETCH 1 FLAGS (CHANGEDSINCE 99)",
		"STORE 1 (UNCHANGEDSINCE 0) FLAGS ()", "SEARCH MODSEQ 99", "SELECT INBOX (CONDSTORE)"} {
		d := r.dial(b)
		d.ok("SELECT INBOX")
		if got := d.ok(`STORE 1 FLAGS (\Seen \Draft)`); strings.Contains(strings.Join(got, ""), "MODSEQ") {
			t.Errorf("not enabled: %q", got)
		}
		d.ok("%s", command)
		if got := d.ok(`STORE 1 FLAGS (\Seen \Draft)`); len(got) != 1 || !strings.Contains(got[0], "MODSEQ (9)") {
			t.Errorf("%s: %q", command, got)
		}
	}
}

// RFC 7162, Section 3.2.
func TestTranscriptQresync(t *testing.T) {
	r, b, c := rigWith(t, 6) // mod-sequences 2 to 7
	c.want("ENABLE QRESYNC", "OK", "* ENABLED QRESYNC")
	c.ok("SELECT INBOX")
	c.transcript(
		says(`STORE 2,4 +FLAGS.SILENT (\Deleted)`, "OK", "* 2 FETCH (UID 2 MODSEQ (8))", "* 4 FETCH (UID 4 MODSEQ (8))"),
		says("EXPUNGE", "OK [HIGHESTMODSEQ 9]", "* VANISHED 2,4"), // Section 3.2.7
		says(`STORE 3 +FLAGS (\Seen)`, "OK", `* 3 FETCH (UID 5 FLAGS (\Seen \Recent) MODSEQ (10))`),
		says("UID EXPUNGE 1:*", "OK"),
		says("UID FETCH 1:6 (FLAGS) (CHANGEDSINCE 7 VANISHED)", "OK", "* VANISHED (EARLIER) 2,4", `* 3 FETCH (UID 5 MODSEQ (10) FLAGS (\Seen \Recent))`),
		says("UID FETCH 3:6 (FLAGS) (CHANGEDSINCE 9 VANISHED)", "OK", `* 3 FETCH (UID 5 MODSEQ (10) FLAGS (\Seen \Recent))`),
		says("UID FETCH 4 (FLAGS) (VANISHED CHANGEDSINCE 1)", "OK", "* VANISHED (EARLIER) 4"),
	)
	selected := []string{"* OK [CLOSED] the previous mailbox is closed", `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft)`,
		`* OK [PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft \*)] flags that can be set`,
		"* 4 EXISTS", "* 0 RECENT", "* OK [UNSEEN 1] first unseen", "* OK [UIDVALIDITY 1] UIDs valid",
		"* OK [UIDNEXT 7] predicted next UID", "* OK [HIGHESTMODSEQ 10] highest", "* OK [MAILBOXID (f1)] ok"}
	for _, x := range []struct {
		name, params string
		more         []string
	}{
		{"nothing new", "1 10", nil},
		{"all", "1 7", []string{"* VANISHED (EARLIER) 2,4", `* 3 FETCH (UID 5 FLAGS (\Seen) MODSEQ (10))`}},
		{"another UIDVALIDITY", "2 7", nil},
		{"known UIDs", "1 7 1:4", []string{"* VANISHED (EARLIER) 2,4"}},
		{"known UIDs, some", "1 7 4:9", []string{"* VANISHED (EARLIER) 4", `* 3 FETCH (UID 5 FLAGS (\Seen) MODSEQ (10))`}},
		{"pairs", "1 7 1:6 (1,2 1,3)", []string{"* VANISHED (EARLIER) 2,4", `* 3 FETCH (UID 5 FLAGS (\Seen) MODSEQ (10))`}},
		{"pairs only", "1 9 (1 1)", []string{`* 3 FETCH (UID 5 FLAGS (\Seen) MODSEQ (10))`}},
	} {
		t.Run(x.name, func(t *testing.T) {
			c.t = t
			c.want("SELECT INBOX (QRESYNC ("+x.params+"))", "OK [READ-WRITE]", append(selected, x.more...)...)
		})
	}
	c.t = t
	c.errorPaths("BAD", "SELECT INBOX (QRESYNC)", "SELECT INBOX (QRESYNC ())", "SELECT INBOX (QRESYNC (0 1))",
		"SELECT INBOX (QRESYNC (1 1 1:*))", "SELECT INBOX (QRESYNC (1 1 $))", "SELECT INBOX (QRESYNC (1 1 1 2))", "SELECT INBOX (QRESYNC (1 1 (1)))",
		"FETCH 1 FLAGS (CHANGEDSINCE 1 VANISHED)", "UID FETCH 1 FLAGS (VANISHED)")
	// What is gone, and not told yet, is not told as EARLIER.
	c.ok("SELECT INBOX")
	_, err := r.folder(b, "INBOX").Expunge([]mailbox.UID{1})
	must(t, err)
	c.want("UID FETCH 1:* (UID) (CHANGEDSINCE 10 VANISHED)", "OK", "* VANISHED 1")
	c.ok(`STORE 1 +FLAGS.SILENT (\Deleted)`)
	c.want("CLOSE", "OK CLOSE") // it could only tell of what the client was not told
	c.ok("CREATE x")
	c.ok("SELECT INBOX")
	c.want("MOVE 1 x", "OK [HIGHESTMODSEQ 14]", "* OK [COPYUID 2 5 1] moved", "* VANISHED 5")
}

// RFC 9586.
func TestTranscriptUIDOnly(t *testing.T) {
	r, b, c := rigWith(t, 3)
	c.want("ENABLE UIDONLY", "OK", "* ENABLED UIDONLY")
	c.want("SELECT INBOX", "OK [READ-WRITE]", `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft)`,
		`* OK [PERMANENTFLAGS (\Answered \Flagged \Deleted \Seen \Draft \*)] flags that can be set`,
		"* 3 EXISTS", "* 3 RECENT", "* OK [UIDVALIDITY 1] UIDs valid",
		"* OK [UIDNEXT 4] predicted next UID", "* OK [HIGHESTMODSEQ 4] highest", "* OK [MAILBOXID (f1)] ok")
	c.transcript(
		says("UID FETCH 1 (UID FLAGS)", "OK", `* 1 UIDFETCH (FLAGS (\Recent))`), // Section 3.3
		says(`UID STORE 2 +FLAGS (\Deleted)`, "OK", `* 2 UIDFETCH (FLAGS (\Deleted \Recent))`),
		says("UID SEARCH ALL", "OK", "* SEARCH 1 2 3"),
		says("UID SORT (ARRIVAL) UTF-8 ALL", "OK", "* SORT 1 2 3"),
		says("UID EXPUNGE 1:*", "OK", "* VANISHED 2"), // Section 3.4
		says(`UID STORE 3 +FLAGS.SILENT (\Deleted)`, "OK"),
		says("EXPUNGE", "OK", "* VANISHED 3"), // it has no numbers
	)
	// Section 3.1.
	c.errorPaths("BAD [UIDREQUIRED]", "FETCH 1 UID", "STORE 1 FLAGS ()", "COPY 1 INBOX", "MOVE 1 INBOX", "SEARCH ALL", "SORT (DATE) UTF-8 ALL",
		"THREAD REFS UTF-8 ALL", "UID SEARCH 1", "UID SEARCH NOT 1:*", "REPLACE 1 INBOX {1+}\r\nx")
	r.flag(b, "INBOX", 1, mailbox.Seen)
	c.want("NOOP", "OK", `* 1 UIDFETCH (FLAGS (\Seen \Recent))`)
	c.want("UID REPLACE 1 INBOX {1+}\r\nx", "OK UID REPLACE", "* OK [APPENDUID 1 4] replaced", "* VANISHED 1", "* 1 EXISTS", "* 1 RECENT")
}

// RFC 9394.
func TestTranscriptPartial(t *testing.T) {
	_, _, c := rigWith(t, 10)
	c.ok("SELECT INBOX")
	c.ok(`STORE 1,3,5,7,9 +FLAGS.SILENT (\Seen)`)
	c.transcript(
		says("UID SEARCH RETURN (PARTIAL 1:2) SEEN", "OK", `* ESEARCH (TAG "t3") UID PARTIAL (1:2 1,3)`),
		says("UID SEARCH RETURN (PARTIAL -1:-2) SEEN", "OK", `* ESEARCH (TAG "t4") UID PARTIAL (-1:-2 7,9)`),
		says("SEARCH RETURN (PARTIAL 6:9 COUNT) SEEN", "OK", `* ESEARCH (TAG "t5") COUNT 5 PARTIAL (6:9 NIL)`),
		says("UID FETCH 1:* (UID) (PARTIAL 2:3)", "OK", "* 2 FETCH (UID 2)", "* 3 FETCH (UID 3)"),
		says("UID FETCH 1:* (UID) (PARTIAL -1:-2)", "OK", "* 9 FETCH (UID 9)", "* 10 FETCH (UID 10)"),
		says("UID FETCH 1:4 (UID) (PARTIAL -2:-100)", "OK", "* 1 FETCH (UID 1)", "* 2 FETCH (UID 2)", "* 3 FETCH (UID 3)"),
		says("UID FETCH 1:4 (UID) (PARTIAL 9:12)", "OK"),
	)
	c.errorPaths("BAD", "UID SEARCH RETURN (PARTIAL 0:1) ALL", "UID SEARCH RETURN (PARTIAL -1:2) ALL", "UID SEARCH RETURN (ALL PARTIAL 1:2) ALL",
		"UID FETCH 1 UID (PARTIAL 1)", "UID FETCH 1 UID (PARTIAL 0:1)", "FETCH 1 UID (PARTIAL 1:2)")
}
