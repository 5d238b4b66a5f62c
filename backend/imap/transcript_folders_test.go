package imap

import (
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

// RFC 5464.
func TestTranscriptMetadata(t *testing.T) {
	_, b, c := rigWith(t, 0)
	c.ok("CREATE a")
	c.transcript(
		says("GETMETADATA INBOX /private/comment", "OK", "* METADATA INBOX (/private/comment NIL)"),
		says(`SETMETADATA INBOX (/private/comment "My own" /shared/Comment {3+}`+"\r\nall)", "OK"),
		says("GETMETADATA INBOX /PRIVATE/comment", "OK", `* METADATA INBOX (/private/comment "My own")`),
		says("GETMETADATA INBOX (/private/comment /shared/comment)", "OK", `* METADATA INBOX (/private/comment "My own" /shared/comment "all")`),
		says("GETMETADATA INBOX (/shared/comment /shared/none)", "OK", `* METADATA INBOX (/shared/comment "all" /shared/none NIL)`),
		// Section 4.2.1: MAXSIZE; as in the RFC's text, and as clients send it.
		says("GETMETADATA (MAXSIZE 3) INBOX (/private/comment /shared/comment)", "OK [METADATA LONGENTRIES 6]", `* METADATA INBOX (/shared/comment "all")`),
		says("GETMETADATA INBOX (MAXSIZE 3) (/private/comment /shared/comment)", "OK [METADATA LONGENTRIES 6]", `* METADATA INBOX (/shared/comment "all")`),
		// Section 4.2.2: DEPTH.
		says(`SETMETADATA a (/shared/f/a "1" /shared/f/a/b "2" /shared/f "0" /shared/fa "3")`, "OK"),
		says("GETMETADATA (DEPTH 0) a /shared/f", "OK", `* METADATA a (/shared/f "0")`),
		says("GETMETADATA (DEPTH 1) a /shared/f", "OK", `* METADATA a (/shared/f "0" /shared/f/a "1")`),
		says("GETMETADATA (DEPTH infinity) a /shared/f", "OK", `* METADATA a (/shared/f "0" /shared/f/a "1" /shared/f/a/b "2")`),
		says("GETMETADATA (DEPTH 1) a /shared/none", "OK"),
		// The account's (Section 4.2), and values with any bytes.
		says(`SETMETADATA "" (/shared/vendor/x ~{4+}`+"\r\na\x00\r\n)", "OK"),
		says(`GETMETADATA "" /shared/vendor/x`, "OK", `* METADATA "" (/shared/vendor/x ~{4}`+"a\x00\r\n)"),
		says(`SETMETADATA "" (/shared/vendor/x NIL)`, "OK"),
		says(`GETMETADATA "" /shared/vendor/x`, "OK", `* METADATA "" (/shared/vendor/x NIL)`),
		says(`SETMETADATA nowhere (/private/comment "x")`, "NO [NONEXISTENT]"),
		says(`GETMETADATA nowhere /private/comment`, "NO [NONEXISTENT]"),
		// RFC 6154, Section 4.
		says(`SETMETADATA a (/private/specialuse "\\Drafts")`, "OK"),
		says(`LIST "" a`, "OK", `* LIST (\HasNoChildren \Drafts) "/" a`),
		says(`SETMETADATA INBOX (/private/specialuse "\\Trash")`, "NO [USEATTR]"),
		says(`SETMETADATA a (/private/specialuse NIL)`, "OK"),
		says(`SETMETADATA a (/shared/long {70000+}`+"\r\n"+strings.Repeat("x", 70000)+")", "NO"),
	)
	c.errorPaths("BAD", "GETMETADATA INBOX ()", "GETMETADATA INBOX comment", "GETMETADATA INBOX /private//x", "GETMETADATA INBOX /private/x/",
		"GETMETADATA INBOX /private/*", "GETMETADATA (MAXSIZE x) INBOX /private/a", "GETMETADATA (DEPTH 2) INBOX /private/a", "GETMETADATA (FOO 1) INBOX /private/a",
		"SETMETADATA INBOX ()", "SETMETADATA INBOX (/private/a)", "SETMETADATA INBOX (/public/a \"x\")", "SETMETADATA INBOX /private/a \"x\"")
	if all, err := b.Metadata("a"); err != nil || len(all) != 4 {
		t.Errorf("%v %v", all, err)
	}
}

// RFC 4314.
func TestTranscriptACL(t *testing.T) {
	r, b, c := rigWith(t, 0)
	c.transcript(
		says("MYRIGHTS INBOX", "OK", "* MYRIGHTS INBOX lrswipkxtea"),
		says("GETACL INBOX", "OK", "* ACL INBOX ann@example.test lrswipkxtea"),
		says("SETACL INBOX bob lrs", "OK"),
		says("SETACL INBOX bob +wi", "OK"),
		says("SETACL INBOX bob -r", "OK"),
		says("SETACL INBOX anyone cd", "OK"), // the obsolete ones (Section 2.1.1)
		says("GETACL INBOX", "OK", "* ACL INBOX ann@example.test lrswipkxtea anyone kxte bob lswi"),
		says("LISTRIGHTS INBOX bob", "OK", `* LISTRIGHTS INBOX bob "" l r s w i p k x t e a`),
		says("LISTRIGHTS INBOX ann@example.test", "OK", "* LISTRIGHTS INBOX ann@example.test lrswipkxtea"),
		says("DELETEACL INBOX bob", "OK"), says("DELETEACL INBOX anyone", "OK"),
		says("GETACL INBOX", "OK", "* ACL INBOX ann@example.test lrswipkxtea"),
		says("SETACL INBOX ann@example.test l", "NO [CANNOT]"), says("DELETEACL INBOX ann@example.test", "NO [CANNOT]"),
		says("GETACL nowhere", "NO [NONEXISTENT]"), says("MYRIGHTS nowhere", "NO [NONEXISTENT]"), says("SETACL nowhere bob l", "NO [NONEXISTENT]"),
	)
	c.errorPaths("BAD", "SETACL INBOX bob Q", "SETACL INBOX bob L", "SETACL INBOX bob", "SETACL INBOX \"\" l", "LISTRIGHTS INBOX", "DELETEACL INBOX", "GETACL INBOX x")
	// What each right allows, in folders of others (Section 4).
	const all = "lrswipkxtea"
	must(t, b.CreateFolder("s/f", ""), b.CreateFolder("else", ""))
	for _, x := range []struct{ right, command string }{
		{"r", "EXAMINE s/f"}, {"r", "STATUS s/f (MESSAGES)"}, {"w", `STORE 1 +FLAGS (kw)`}, {"s", `STORE 1 +FLAGS (\Seen)`},
		{"t", `STORE 1 +FLAGS (\Deleted)`}, {"e", "EXPUNGE"}, {"i", "APPEND s/f {1+}\r\nx"}, {"i", "COPY 1 s/f"}, {"e", "MOVE 1 else"}, {"t", "MOVE 1 else"},
		{"k", "CREATE s/f/g"}, {"x", "RENAME s/f s/h"}, {"x", "DELETE s/f"}, {"a", "GETACL s/f"}, {"a", "SETACL s/f bob l"},
		{"a", "DELETEACL s/f bob"}, {"a", "LISTRIGHTS s/f bob"}, {"w", `SETMETADATA s/f (/private/comment "x")`}, {"r", "GETQUOTAROOT s/f"},
		{"e", "REPLACE 1 else {1+}\r\nx"}, {"t", "REPLACE 1 else {1+}\r\nx"},
	} {
		t.Run(x.right+" "+x.command, func(t *testing.T) {
			r.deliver(b, "s/f", letter)
			rights := mailbox.Rights(all)
			box := &rightsBox{b, func(string) mailbox.Rights { return rights }}
			d := r.dial(box)
			d.t = t
			defer d.nc.Close()
			d.ok("SELECT s/f")
			d.ok("NOOP")
			rights = mailbox.Rights(strings.ReplaceAll(all, x.right, ""))
			if _, st := d.cmd("%s", x.command); !strings.HasPrefix(st, "NO [NOPERM]") {
				t.Errorf("without %q: %s", x.right, st)
			}
		})
	}
	// Without any right to write a SELECT is read-only (Section 5.2).
	d := r.dial(&rightsBox{b, func(string) mailbox.Rights { return "lr" }})
	if _, st := d.cmd("SELECT s/f"); !strings.HasPrefix(st, "OK [READ-ONLY]") {
		t.Errorf("%s", st)
	}
	e := r.dial(&rightsBox{b, func(string) mailbox.Rights { return "" }})
	e.want("MYRIGHTS s/f", "NO [NONEXISTENT]")
	e.want("SELECT s/f", "NO")
}

// RFC 9208.
func TestTranscriptQuota(t *testing.T) {
	r, _, c := rigWith(t, 3)
	c.transcript(
		says("GETQUOTAROOT INBOX", "OK", `* QUOTAROOT INBOX "User quota"`, `* QUOTA "User quota" ()`),
	)
	r.store.SetLimit(ann, mailbox.Limit{Bytes: 10 << 20, Messages: 100})
	c.transcript(
		says(`GETQUOTA "User quota"`, "OK", `* QUOTA "User quota" (STORAGE 1 10240 MESSAGE 3 100)`),
		says(`GETQUOTAROOT nowhere`, "NO [NONEXISTENT]"), says(`GETQUOTA ""`, "NO [NONEXISTENT]"),
		says(`SETQUOTA "User quota" (STORAGE 5)`, "NO [NOPERM]"), says(`SETQUOTA "User quota" ()`, "NO [NOPERM]"),
		says("STATUS INBOX (DELETED DELETED-STORAGE)", "OK", "* STATUS INBOX (DELETED 0 DELETED-STORAGE 0)"),
	)
	r.store.SetLimit(ann, mailbox.Limit{Messages: 3})
	c.ok("SELECT INBOX")
	c.transcript(
		says("APPEND INBOX {1+}\r\nx", "NO [OVERQUOTA]"), says("COPY 1 INBOX", "NO [OVERQUOTA]"),
		says(`STORE 1 +FLAGS (\Deleted)`, "OK", `* 1 FETCH (FLAGS (\Deleted \Recent))`),
		says("STATUS INBOX (DELETED DELETED-STORAGE)", "OK", "* STATUS INBOX (DELETED 1 DELETED-STORAGE 1)"),
	)
	c.errorPaths("BAD", "GETQUOTA", "GETQUOTA a b", "GETQUOTAROOT", `SETQUOTA "User quota"`, `SETQUOTA "User quota" (STORAGE)`, `SETQUOTA "User quota" (STORAGE x)`)
}

// RFC 5258, RFC 5819, RFC 6154, RFC 8440, RFC 9051, Section 6.3.9.
func TestTranscriptList(t *testing.T) {
	_, _, c := rigWith(t, 1)
	c.transcript(
		says(`CREATE Sent (USE (\Sent))`, "OK [MAILBOXID (f2)]"), says(`CREATE Other (USE (\Sent))`, "NO [USEATTR]"),
		says(`CREATE Other (USE (\All))`, "NO [USEATTR]"), says(`CREATE Other (USE (\Trash \Junk))`, "NO [USEATTR]"),
		says("CREATE a/b/c", "OK"), says("SUBSCRIBE a/b/c", "OK"), says("SUBSCRIBE a/gone", "OK"), says("UNSUBSCRIBE never", "OK"),
		says(`LIST "" "*"`, "OK", `* LIST (\HasNoChildren) "/" INBOX`, `* LIST (\HasNoChildren \Sent) "/" Sent`,
			`* LIST (\Noselect \HasChildren) "/" a`, `* LIST (\Noselect \HasChildren) "/" a/b`, `* LIST (\HasNoChildren) "/" a/b/c`),
		says(`LIST (SPECIAL-USE) "" "*"`, "OK", `* LIST (\HasNoChildren \Sent) "/" Sent`),
		says(`LIST (SUBSCRIBED RECURSIVEMATCH) "" "%"`, "OK", `* LIST (\Noselect \HasChildren) "/" a ("CHILDINFO" ("SUBSCRIBED"))`),
		says(`LIST (SPECIAL-USE RECURSIVEMATCH) "" "%"`, "OK", `* LIST (\HasNoChildren \Sent) "/" Sent`),
		says(`LIST () "" (INBOX "a/%") RETURN (CHILDREN SUBSCRIBED SPECIAL-USE)`, "OK", `* LIST (\HasNoChildren) "/" INBOX`, `* LIST (\Noselect \HasChildren) "/" a/b`),
		says(`LIST "" INBOX RETURN (MYRIGHTS STATUS (MESSAGES UIDNEXT))`, "OK", `* LIST (\HasNoChildren) "/" INBOX`,
			"* MYRIGHTS INBOX lrswipkxtea", "* STATUS INBOX (MESSAGES 1 UIDNEXT 2)"),
		says(`LIST "a/" "b%" RETURN (STATUS (MESSAGES))`, "OK", `* LIST (\Noselect \HasChildren) "/" a/b`),
		says(`LIST "nowhere/" "%"`, "OK"),
		says("RENAME no/such x/y", "NO [NONEXISTENT]"), says("RENAME Sent a/b/c", "NO [ALREADYEXISTS]"), says("RENAME a/b/c a/b/c/d", "NO [CANNOT]"),
		says("RENAME a/b/c n", "OK"), says("DELETE a/b/c", "NO [NONEXISTENT]"), says("DELETE inbox", "NO [CANNOT]"), says("SUBSCRIBE a//b", "NO [CANNOT]"),
		// INBOX's messages go into the new folder; it stays (RFC 9051, Section 6.3.6).
		says("RENAME InBox old", "OK"), says("STATUS old (MESSAGES)", "OK", "* STATUS old (MESSAGES 1)"), says("STATUS INBOX (MESSAGES)", "OK", "* STATUS INBOX (MESSAGES 0)"),
		says(`LSUB "" "*"`, "OK", `* LSUB () "/" a/b/c`, `* LSUB () "/" a/gone`),
	)
	c.errorPaths("BAD", `LIST (FOO) "" *`, `LIST "" * RETURN (FOO)`, `LIST "" * RETURN`, `LIST "" () `, `LIST (RECURSIVEMATCH) "" *`,
		`LIST "" * RETURN (STATUS)`, `LIST "" * RETURN (STATUS ())`, `CREATE x (FOO)`, `CREATE x (USE \Sent)`)
}

// Names in other scripts: modified UTF-7, and UTF-8 once it is accepted (RFC 3501, Section
// 5.1.3; RFC 6855, Section 3; RFC 9051, Section 5.1).
func TestTranscriptNames(t *testing.T) {
	_, b, c := rigWith(t, 0)
	c.transcript(
		says("CREATE Entw&APw-rfe", "OK"), says("CREATE \"R&-D\"", "OK"),
		says(`LIST "" "E*"`, "OK", `* LIST (\HasNoChildren) "/" Entw&APw-rfe`),
		says(`LIST "" "Entw&APw-%"`, "OK", `* LIST (\HasNoChildren) "/" Entw&APw-rfe`),
		says("STATUS Entw&APw-rfe (MESSAGES)", "OK", "* STATUS Entw&APw-rfe (MESSAGES 0)"),
		says("ENABLE UTF8=ACCEPT", "OK", "* ENABLED UTF8=ACCEPT"),
		says(`LIST "" "E*"`, "OK", "* LIST (\\HasNoChildren) \"/\" \"Entw\u00fcrfe\""),
		says(`LIST "" "R*"`, "OK", `* LIST (\HasNoChildren) "/" R&D`),
		says("STATUS \"Entw\u00fcrfe\" (MESSAGES)", "OK", "* STATUS \"Entw\u00fcrfe\" (MESSAGES 0)"),
		says("STATUS \"\xff\" (MESSAGES)", "BAD"),
	)
	if _, err := b.Folder("Entw\u00fcrfe"); err != nil {
		t.Error(err)
	}
}

// A name that is only a parent of others is renamed with them (RFC 9051, Section 6.3.6).
func TestRenameOfParentOnly(t *testing.T) {
	r := newRig(t, Limits{})
	c := r.dial(r.box(1))
	c.ok("CREATE old/child")
	c.want("RENAME old new", "OK")
	c.want(`LIST "" *`, "OK", `* LIST (\HasNoChildren) "/" INBOX`, `* LIST (\Noselect \HasChildren) "/" new`,
		`* LIST (\HasNoChildren) "/" new/child`)
	c.want("RENAME old other", "NO [NONEXISTENT]")
}

// RFC 3501, Section 6.3.2: EXAMINE does not take \Recent from the next session, and neither does
// what is told while it lasts.
func TestTranscriptExamine(t *testing.T) {
	r, b, c := rigWith(t, 1)
	c.want("EXAMINE INBOX", "OK [READ-ONLY]", `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft)`, "* OK [PERMANENTFLAGS ()] flags that can be set",
		"* 1 EXISTS", "* 1 RECENT", "* OK [UNSEEN 1] first unseen", "* OK [UIDVALIDITY 1] UIDs valid", "* OK [UIDNEXT 2] predicted next UID",
		"* OK [HIGHESTMODSEQ 2] highest", "* OK [MAILBOXID (f1)] ok")
	c.want("FETCH 1 FLAGS", "OK", `* 1 FETCH (FLAGS (\Recent))`)
	r.deliver(b, "INBOX", letter)
	c.want("NOOP", "OK", "* 2 EXISTS", "* 2 RECENT")
	c.want("NOOP", "OK")
	c.want("STATUS INBOX (RECENT)", "OK", "* STATUS INBOX (RECENT 2)")
	d := r.dial(b)
	d.ok("SELECT INBOX")
	d.want("FETCH 1:2 FLAGS", "OK", `* 1 FETCH (FLAGS (\Recent))`, `* 2 FETCH (FLAGS (\Recent))`)
	c.want("EXAMINE INBOX", "OK [READ-ONLY]", `* FLAGS (\Answered \Flagged \Deleted \Seen \Draft)`, "* OK [PERMANENTFLAGS ()] flags that can be set",
		"* 2 EXISTS", "* 0 RECENT", "* OK [UNSEEN 1] first unseen", "* OK [UIDVALIDITY 1] UIDs valid", "* OK [UIDNEXT 3] predicted next UID",
		"* OK [HIGHESTMODSEQ 3] highest", "* OK [MAILBOXID (f1)] ok")
}
