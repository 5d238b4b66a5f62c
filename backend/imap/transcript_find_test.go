package imap

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

// rigToFind has INBOX with four messages, two threads; 2 is seen.
func rigToFind(t *testing.T) (*rig, *client) {
	t.Helper()
	r := newRig(t, Limits{})
	b := r.box(1)
	for _, text := range []string{
		"From: Zoe <z@example.test>\r\nTo: ann@example.test\r\nSubject: Alpha\r\nDate: Mon, 3 Nov 2025 10:00:00 +0000\r\n" +
			"Message-ID: <1@x>\r\n\r\nThe first   text,\r\nwith two lines.\r\n",
		"From: bob@example.test\r\nCc: cy@example.test\r\nSubject: beta\r\nDate: Sun, 2 Nov 2025 10:00:00 +0000\r\nMessage-ID: <2@x>\r\n\r\nSecond.\r\n",
		"From: ann@example.test\r\nTo: Zoe <z@example.test>\r\nSubject: Re: Alpha\r\nDate: Tue, 4 Nov 2025 10:00:00 +0000\r\n" +
			"Message-ID: <3@x>\r\nReferences: <1@x>\r\n\r\nAnswer.\r\n",
		"Subject: Re: [list] beta (fwd)\r\nDate: Wed, 5 Nov 2025 10:00:00 +0000\r\nMessage-ID: <4@x>\r\nIn-Reply-To: <2@x>\r\n\r\n" +
			strings.Repeat("long ", 60) + "\r\n",
	} {
		r.deliver(b, "INBOX", text)
	}
	r.flag(b, "INBOX", 2, mailbox.Seen)
	c := r.dial(b)
	c.ok("SELECT INBOX")
	return r, c
}

// RFC 9051, Section 6.4.4; RFC 5032 (WITHIN); RFC 8514 (SAVEDATE). All were delivered on 3 Nov 2025, and saved now.
func TestTranscriptSearch(t *testing.T) {
	_, c := rigToFind(t)
	for keys, want := range map[string]string{
		"ALL": " 1 2 3 4", "2,4": " 2 4", "UID 2:3": " 2 3", "NOT 2": " 1 3 4", "3:*": " 3 4",
		"SUBJECT alpha": " 1 3", "NOT SEEN FROM zoe": " 1", "OR TO ann CC cy": " 1 2", "BCC x": "", "(UNSEEN SUBJECT re) 1:3": " 3",
		"BODY second": " 2", "TEXT example": " 1 2 3", "HEADER Message-ID 3@x": " 3", `HEADER References ""`: " 3",
		"SENTON 3-Nov-2025": " 1", "SENTBEFORE 3-Nov-2025": " 2", "SENTSINCE 4-Nov-2025": " 3 4",
		"ON 3-Nov-2025": " 1 2 3 4", "BEFORE 3-Nov-2025": "", "SINCE 3-Nov-2025": " 1 2 3 4",
		"LARGER 300": " 4", "SMALLER 130": " 2", "KEYWORD x": "", "UNKEYWORD x": " 1 2 3 4", "NEW": " 1 3 4", "OLD": "", "RECENT SEEN": " 2",
		"YOUNGER 60": "", "OLDER 60": " 1 2 3 4",
		"SAVEDSINCE 1-Jan-2026": " 1 2 3 4", "SAVEDBEFORE 1-Jan-2026": "", "SAVEDON 3-Nov-2025": "", "SAVEDATESUPPORTED": " 1 2 3 4",
		"EMAILID 0000000000000002": " 2", "EMAILID x": "", "THREADID T1": "",
	} {
		c.want("SEARCH "+keys, "OK", "* SEARCH"+want)
	}
	c.errorPaths("BAD", "SEARCH YOUNGER x", "SEARCH YOUNGER 0", "SEARCH ON 31-Foo-2025", "SEARCH LARGER -1", "SEARCH HEADER x", "SEARCH EMAILID", "SEARCH NOT")
}

// RFC 4731 (ESEARCH), RFC 5182 (SEARCHRES), RFC 9394 (PARTIAL).
func TestTranscriptESearch(t *testing.T) {
	_, c := rigToFind(t)
	for _, x := range [][2]string{
		{"SEARCH RETURN () SUBJECT beta", " ALL 2,4"},
		{"SEARCH RETURN (MIN MAX COUNT ALL) ALL", " MIN 1 MAX 4 ALL 1:4 COUNT 4"},
		{"SEARCH RETURN (MIN) FROM nobody", ""},
		{"SEARCH RETURN (COUNT) FROM nobody", " COUNT 0"},
		{"UID SEARCH RETURN (COUNT MAX) SUBJECT Alpha", " UID MAX 3 COUNT 2"},
		{"SEARCH RETURN (PARTIAL 1:2) ALL", " PARTIAL (1:2 1:2)"},
		{"SEARCH RETURN (PARTIAL -1:-2) ALL", " PARTIAL (-1:-2 3:4)"},
		{"SEARCH RETURN (PARTIAL 9:10) ALL", " PARTIAL (9:10 NIL)"},
	} {
		got, st := c.cmd("%s", x[0])
		if want := fmt.Sprintf(`* ESEARCH (TAG "t%d")%s`, c.n, x[1]); !strings.HasPrefix(st, "OK") || len(got) != 1 || got[0] != want {
			t.Errorf("%s: %s %q, want %q", x[0], st, got, want)
		}
	}
	c.transcript(
		says("SEARCH RETURN (SAVE) SUBJECT Alpha", "OK"),
		says("FETCH $ UID", "OK", "* 1 FETCH (UID 1)", "* 3 FETCH (UID 3)"),
		says(`UID STORE $ +FLAGS.SILENT (\Flagged)`, "OK"),
		says("SEARCH $ FLAGGED", "OK", "* SEARCH 1 3"),
		// A BAD leaves it as it is, a NO empties it (RFC 5182, Section 2.1).
		says("SEARCH RETURN (SAVE) FOO", "BAD"),
		says("FETCH $ UID", "OK", "* 1 FETCH (UID 1)", "* 3 FETCH (UID 3)"),
		says("SEARCH RETURN (SAVE) CHARSET x-none ALL", "NO [BADCHARSET"),
		says("FETCH $ UID", "OK"),
		says("UID FETCH 1:* UID (PARTIAL -1:-2)", "OK", "* 3 FETCH (UID 3)", "* 4 FETCH (UID 4)"),
	)
	c.errorPaths("BAD", "SEARCH RETURN (PARTIAL 0:1) ALL", "SEARCH RETURN (PARTIAL 1:-1) ALL", "SEARCH RETURN (PARTIAL 1:2 PARTIAL 3:4) ALL",
		"SEARCH RETURN (ALL PARTIAL 1:2) ALL", "SEARCH RETURN MIN ALL", "UID FETCH 1:* UID (PARTIAL 1)")
}

// RFC 5256, RFC 5957 (SORT=DISPLAY), RFC 5267 (ESORT); THREAD=REFS is draft-ietf-morg-inthread.
func TestTranscriptSortThread(t *testing.T) {
	_, c := rigToFind(t)
	c.transcript(
		says("SORT (SUBJECT) UTF-8 ALL", "OK", "* SORT 1 3 2 4"),
		says("SORT (REVERSE SUBJECT DATE) UTF-8 ALL", "OK", "* SORT 2 4 1 3"),
		says("SORT (FROM) UTF-8 ALL", "OK", "* SORT 4 3 2 1"),
		says("SORT (DISPLAYFROM) UTF-8 ALL", "OK", "* SORT 4 3 2 1"),
		says("SORT (TO) UTF-8 ALL", "OK", "* SORT 2 4 1 3"),
		says("SORT (DISPLAYTO) UTF-8 ALL", "OK", "* SORT 2 4 1 3"),
		says("SORT (CC) UTF-8 ALL", "OK", "* SORT 1 3 4 2"),
		says("SORT (DATE) UTF-8 ALL", "OK", "* SORT 2 1 3 4"),
		says("SORT (SIZE) UTF-8 ALL", "OK", "* SORT 2 3 1 4"),
		says("SORT (REVERSE ARRIVAL) US-ASCII 3:*", "OK", "* SORT 3 4"), // delivered at once: by number (Section 3)
		says("UID SORT (REVERSE DATE) UTF-8 UNSEEN", "OK", "* SORT 4 3 1"),
		says("SORT (DATE) UTF-8 FROM nobody", "OK", "* SORT"),
		says("SORT RETURN (MIN MAX COUNT ALL) (DATE) UTF-8 ALL", "OK", `* ESEARCH (TAG "t14") MIN 2 MAX 4 ALL 2,1,3:4 COUNT 4`),
		says("UID SORT RETURN (PARTIAL 2:3) (DATE) UTF-8 ALL", "OK", `* ESEARCH (TAG "t15") UID PARTIAL (2:3 1,3)`),
		// By the root's date; by the latest date.
		says("THREAD ORDEREDSUBJECT UTF-8 ALL", "OK", "* THREAD (2 4)(1 3)"),
		says("THREAD REFERENCES UTF-8 ALL", "OK", "* THREAD (2 4)(1 3)"),
		says("THREAD REFS UTF-8 ALL", "OK", "* THREAD (1 3)(2 4)"),
		says("UID THREAD REFERENCES UTF-8 SUBJECT Alpha", "OK", "* THREAD (1 3)"),
		says("THREAD REFERENCES UTF-8 FROM nobody", "OK", "* THREAD"),
	)
	c.errorPaths("BAD", "SORT () UTF-8 ALL", "SORT (REVERSE) UTF-8 ALL", "SORT (FOO) UTF-8 ALL", "SORT (DATE) UTF-8", "THREAD REFERENCES UTF-8", "THREAD UTF-8 ALL")
	c.errorPaths("NO", "SORT (DATE) x-none ALL", "THREAD REFS x-none ALL")
}

// RFC 8970 (PREVIEW), RFC 8514 (SAVEDATE), RFC 8474 (OBJECTID).
func TestTranscriptWhatIsKnownOfAMessage(t *testing.T) {
	_, c := rigToFind(t)
	c.transcript(
		says("FETCH 1:2 PREVIEW", "OK", `* 1 FETCH (PREVIEW "The first text, with two lines.")`, `* 2 FETCH (PREVIEW "Second.")`),
		says("FETCH 2 (PREVIEW (LAZY) UID)", "OK", `* 2 FETCH (PREVIEW "Second." UID 2)`),
		says("FETCH 4 PREVIEW", "OK", `* 4 FETCH (PREVIEW "`+strings.TrimSpace(strings.Repeat("long ", 40))+`")`), // 200 characters at most
		says("FETCH 2 FLAGS", "OK", `* 2 FETCH (FLAGS (\Seen \Recent))`),
		says("FETCH 1:2 (EMAILID THREADID)", "OK", "* 1 FETCH (EMAILID (0000000000000001) THREADID NIL)", "* 2 FETCH (EMAILID (0000000000000002) THREADID NIL)"),
		says("STATUS INBOX (MAILBOXID)", "OK", "* STATUS INBOX (MAILBOXID (f1))"),
		says("CREATE Old", "OK [MAILBOXID (f2)]"),
		says("RENAME Old Older", "OK"),
		says("STATUS Older (MAILBOXID)", "OK", "* STATUS Older (MAILBOXID (f2))"),
		says("COPY 2 Older", "OK [COPYUID 2 2 1]"),
	)
	got := c.ok("FETCH 1 SAVEDATE")
	if len(got) != 1 || !regexp.MustCompile(`^\* 1 FETCH \(SAVEDATE "[ 0-9]\d-[A-Z][a-z]{2}-\d{4} \d\d:\d\d:\d\d [+-]\d{4}"\)$`).MatchString(got[0]) {
		t.Errorf("SAVEDATE: %q", got)
	}
	c.errorPaths("BAD", "FETCH 1 (PREVIEW (FOO))", "FETCH 1 (PREVIEW ())", "FETCH 1 EMAIL", "STATUS INBOX (MAILBOXID x")
}

// RFC 6154, Section 3 (CREATE-SPECIAL-USE).
func TestTranscriptCreateSpecialUse(t *testing.T) {
	_, _, c := rigWith(t, 0)
	c.transcript(
		says(`CREATE Old (USE (\Archive))`, "OK"),
		says(`CREATE Old2 (USE (\Archive))`, "NO [USEATTR]"),
		says(`CREATE Odd (USE (\Strange))`, "NO [USEATTR]"),
		says(`LIST (SPECIAL-USE) "" * RETURN (SPECIAL-USE)`, "OK", `* LIST (\HasNoChildren \Archive) "/" Old`),
	)
	c.errorPaths("BAD", "CREATE x (USE)", `CREATE x (USE \Archive)`, "CREATE x (FOO (x))")
}

// RFC 9585 (INPROGRESS).
func TestTranscriptInProgress(t *testing.T) {
	r, _, c := rigWith(t, 40)
	r.srv.progressAfter = -1
	c.ok("SELECT INBOX")
	c.want("SEARCH BODY nothing", "OK", `* OK [INPROGRESS ("t2" 16 40)] still working`, `* OK [INPROGRESS ("t2" 32 40)] still working`, "* SEARCH")
}
