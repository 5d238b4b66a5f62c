package imap

import (
	"fmt"
	"strings"
	"testing"

	"waypost/backend/imap/carried"
	"waypost/backend/mailbox"
)

// as is want with a tag of one's own.
func (c *client) as(t *testing.T, tag, command, status string, untagged ...string) {
	t.Helper()
	c.send("%s %s\r\n", tag, command)
	got, st := c.until(tag)
	if !strings.HasPrefix(st, status) || strings.Join(got, "\n") != strings.Join(untagged, "\n") {
		t.Errorf("%.200s\n got: %s\n%s\nwant: %s\n%s", command, st, strings.Join(got, "\n"), status, strings.Join(untagged, "\n"))
	}
}

// CONTEXT=SEARCH (RFC 5267, Section 4): what changes in results is told, numbers as they are at that
// moment.
func TestTranscriptUpdate(t *testing.T) {
	r, c := rigToFind(t)
	b := r.box(1)
	c.as(t, "x1", "SEARCH RETURN (UPDATE) UNSEEN", "OK", `* ESEARCH (TAG "x1")`)
	c.as(t, "x2", "UID SEARCH RETURN (UPDATE CONTEXT COUNT) FLAGGED", "OK", `* ESEARCH (TAG "x2") UID COUNT 0`)
	c.as(t, "x3", "SEARCH RETURN (CONTEXT) BODY answer", "OK", `* ESEARCH (TAG "x3") ALL 3`)
	c.as(t, "x4", "UID SEARCH RETURN (UPDATE PARTIAL 1:1) BODY news", "OK", `* ESEARCH (TAG "x4") UID PARTIAL (1:1 NIL)`)
	c.as(t, "x5", "UID SEARCH RETURN (UPDATE MAX) UID 4:*", "OK", `* ESEARCH (TAG "x5") UID MAX 4`)
	c.as(t, "x6", "UID SEARCH RETURN (SAVE UPDATE) 2:3 SEEN", "OK", `* ESEARCH (TAG "x6") UID`)
	c.as(t, "x7", "UID SEARCH RETURN (UPDATE) $ DELETED", "OK", `* ESEARCH (TAG "x7") UID`)
	c.as(t, "x8", "UID SEARCH RETURN (UPDATE ALL) UID *", "OK", `* ESEARCH (TAG "x8") UID ALL 4`)

	// Numbers and "$" name what they named.
	c.want("STORE 3 +FLAGS.SILENT (\\Flagged \\Seen)", "OK",
		`* ESEARCH (TAG "x1") REMOVEFROM (0 3)`, `* ESEARCH (TAG "x2") UID ADDTO (0 3)`, `* ESEARCH (TAG "x6") UID ADDTO (0 3)`)
	c.ok("UID SEARCH RETURN (SAVE) 1")
	r.flag(b, "INBOX", 2, mailbox.Deleted)
	c.want("NOOP", "OK", `* 2 FETCH (UID 2 FLAGS (\Deleted \Seen \Recent))`, `* ESEARCH (TAG "x7") UID ADDTO (0 2)`)

	// What is gone is told of before it goes, new messages after they are there; not while numbers
	// must stay.
	expunge(t, b, "INBOX", 2)
	r.deliver(b, "INBOX", "Subject: x\r\n\r\nThe news.\r\n")
	c.want("FETCH 1 UID", "OK", "* 1 FETCH (UID 1)", "* 5 EXISTS", "* 5 RECENT", `* ESEARCH (TAG "x1") ADDTO (0 5)`,
		`* ESEARCH (TAG "x4") UID ADDTO (0 5)`, `* ESEARCH (TAG "x5") UID ADDTO (0 5)`, `* ESEARCH (TAG "x8") UID REMOVEFROM (0 4) ADDTO (0 5)`)
	c.want("NOOP", "OK", `* ESEARCH (TAG "x6") UID REMOVEFROM (0 2)`, `* ESEARCH (TAG "x7") UID REMOVEFROM (0 2)`, "* 2 EXPUNGE")
	expunge(t, b, "INBOX", 5)
	c.want("NOOP", "OK", `* ESEARCH (TAG "x1") REMOVEFROM (0 4)`, `* ESEARCH (TAG "x4") UID REMOVEFROM (0 5)`, `* ESEARCH (TAG "x5") UID REMOVEFROM (0 5)`,
		`* ESEARCH (TAG "x8") UID REMOVEFROM (0 5)`, "* 4 EXPUNGE", `* ESEARCH (TAG "x8") UID ADDTO (0 4)`)

	// Who idles is told, too.
	c.send("i IDLE\r\n")
	c.line()
	r.flag(b, "INBOX", 1, mailbox.Flagged|mailbox.Seen)
	c.next(`* 1 FETCH (UID 1 FLAGS (\Flagged \Seen \Recent))`, `* ESEARCH (TAG "x1") REMOVEFROM (0 1)`, `* ESEARCH (TAG "x2") UID ADDTO (0 1)`)
	c.send("DONE\r\n")
	c.until("i")

	c.want(`CANCELUPDATE "x1" {2+}`+"\r\nx2", "OK")
	c.want(`CANCELUPDATE "x9" "x7"`, "NO")
	c.want("STORE 1 +FLAGS.SILENT (\\Deleted)", "OK")
	c.as(t, "x2", "SEARCH RETURN (UPDATE COUNT) SEEN", "OK", `* ESEARCH (TAG "x2") COUNT 2`)
	c.as(t, "x2", "SEARCH RETURN (COUNT) SEEN", "OK", `* ESEARCH (TAG "x2") COUNT 2`)
	c.as(t, "x2", "SEARCH RETURN (UPDATE) SEEN", "BAD")
	c.as(t, "x2", "SORT RETURN (UPDATE) (ARRIVAL) UTF-8 ALL", "BAD")
	c.errorPaths("BAD", "CANCELUPDATE", "CANCELUPDATE x2", `CANCELUPDATE "x2" `, `CANCELUPDATE "x2"x`)

	// With message numbers forbidden UIDs are told.
	c.ok("ENABLE UIDONLY")
	c.want("UID STORE 1 -FLAGS.SILENT (\\Seen)", "OK", `* ESEARCH (TAG "x2") UID REMOVEFROM (0 1)`)

	c.ok("UNSELECT")
	c.errorPaths("BAD", `CANCELUPDATE "x2"`)
	c.ok("SELECT INBOX")
	c.want(`CANCELUPDATE "x2"`, "NO")
}

// What is not kept up to date is said to be not, and the search is done all the same (RFC 5267, Section
// 4.3.1).
func TestTranscriptNoUpdate(t *testing.T) {
	_, c := rigToFind(t)
	c.as(t, "s", "SORT RETURN (UPDATE COUNT) (ARRIVAL) UTF-8 ALL", "OK", `* ESEARCH (TAG "s") COUNT 4`, `* NO [NOUPDATE "s"] no updates: not of what is sorted`)
	c.as(t, "s", "SEARCH RETURN (UPDATE COUNT)"+strings.Repeat(" BODY "+strings.Repeat("x", 1000), 17), "OK", `* ESEARCH (TAG "s") COUNT 0`, `* NO [NOUPDATE "s"] no updates: too long a search`)
	for i := range maxUpdates {
		c.as(t, fmt.Sprintf("u%d", i), "SEARCH RETURN (UPDATE COUNT) SEEN", "OK", fmt.Sprintf(`* ESEARCH (TAG "u%d") COUNT 1`, i))
	}
	c.as(t, "s", "SEARCH RETURN (UPDATE COUNT) SEEN", "OK", `* ESEARCH (TAG "s") COUNT 1`, `* NO [NOUPDATE "s"] no updates: too many searches`)
	c.ok(`CANCELUPDATE "u3"`)
	c.as(t, "s", "SEARCH RETURN (UPDATE COUNT) SEEN", "OK", `* ESEARCH (TAG "s") COUNT 1`)
}

// A result may become one that takes too much to keep.
func TestUpdateTooLarge(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.fill(b, 4)
	c := r.dial(b)
	c.ok("SELECT INBOX")
	c.as(t, "u", "SEARCH RETURN (UPDATE COUNT) SEEN", "OK", `* ESEARCH (TAG "u") COUNT 0`)
	r.srv.watches.mu.Lock()
	for ss := range r.srv.watches.live {
		ss.mu.Lock()
		for i := range mailbox.UID(maxUpdateRanges - 1) {
			up := ss.updates.all[0]
			up.hits = append(up.hits, mailbox.UIDRange{First: 1000 + 2*i, Last: 1000 + 2*i})
		}
		ss.mu.Unlock()
	}
	r.srv.watches.mu.Unlock()
	c.want("STORE 2 +FLAGS.SILENT (\\Seen)", "OK", `* ESEARCH (TAG "u") ADDTO (0 2)`)
	c.want("STORE 4 +FLAGS.SILENT (\\Seen)", "OK", `* ESEARCH (TAG "u") ADDTO (0 4)`, `* NO [NOUPDATE "u"] no updates: too large results`)
	c.want("STORE 4 -FLAGS.SILENT (\\Seen)", "OK")
	c.want(`CANCELUPDATE "u"`, "NO")
}

// Searches are kept up to date where the session goes on, of what happened meanwhile, too; those that
// are not understood there are said to be over.
func TestHandOffUpdates(t *testing.T) {
	worlds(t, func(t *testing.T, w world) {
		five(t, w)
		tr := travel(t, w, Limits{})
		tr.ok("SELECT INBOX")
		tr.as(t, "u1", "UID SEARCH RETURN (UPDATE ALL) UNFLAGGED", "OK", `* ESEARCH (TAG "u1") UID ALL 1:5`)
		tr.as(t, "u2", "SEARCH RETURN (UPDATE) 1:2 BODY {2+}\r\na\"", "OK", `* ESEARCH (TAG "u2")`)
		tr.hop(somebody(t, w))
		tr.told("NOOP", "OK", `* ESEARCH (TAG "u1") UID REMOVEFROM (0 1,4)`, "* 4 EXPUNGE", "* 1 EXPUNGE", "* 4 EXISTS", `* 1 FETCH (UID 2 FLAGS (\Flagged))`,
			`* ESEARCH (TAG "u1") UID REMOVEFROM (0 2) ADDTO (0 6)`)
		tr.hop(nil)
		tr.want(`CANCELUPDATE "u2"`, "OK")
		w.freeze()
		state := changedState(t, tr.state(), func(s *carried.State) { s.Updates.All[0].Keys = "BODY" })
		w.move()
		tr.arrive(state, nil)
		tr.next(`* NO [NOUPDATE "u1"] no updates: not understood here`)
		tr.ok("NOOP")
	})
}
