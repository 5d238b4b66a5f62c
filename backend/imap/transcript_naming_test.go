package imap

import (
	"log/slog"
	"slices"
	"testing"

	"waypost/backend/mailbox/mount"
)

// The separator of others (RFC 9051, Section 5.1.1), wherever a name stands.
func TestTranscriptSeparator(t *testing.T) {
	r := newRigWith(t, Options{Separator: '.'})
	b := r.box(1)
	r.deliver(b, "INBOX", letter)
	c := r.dial(b)
	c.transcript(
		says("NAMESPACE", "OK", `* NAMESPACE (("" ".")) NIL NIL`),
		says(`LIST "" ""`, "OK", `* LIST (\Noselect) "." ""`),
		says("CREATE a.b.", "OK"), says("CREATE INBOX.sub", "OK"), says("CREATE &AOQ-.&APY-", "OK"),
		says(`LIST "" %`, "OK", `* LIST (\HasChildren) "." INBOX`, `* LIST (\Noselect \HasChildren) "." a`, `* LIST (\Noselect \HasChildren) "." &AOQ-`),
		says(`LIST "" a.%`, "OK", `* LIST (\HasNoChildren) "." a.b`), says("LIST a. %", "OK", `* LIST (\HasNoChildren) "." a.b`),
		says(`LIST "" inbox.%`, "OK", `* LIST (\HasNoChildren) "." INBOX.sub`),
		says(`LIST "" &AOQ-.*`, "OK", `* LIST (\HasNoChildren) "." &AOQ-.&APY-`),
		says("SUBSCRIBE a.b", "OK"), says(`LSUB "" %`, "OK", `* LSUB (\Noselect \HasChildren) "." a`), says(`LSUB "" *`, "OK", `* LSUB (\HasNoChildren) "." a.b`),
		says("RENAME a.b a.c.d", "OK"), says("STATUS a.c.d (MESSAGES)", "OK", "* STATUS a.c.d (MESSAGES 0)"),
		says(`SETMETADATA a.c.d (/private/comment "x")`, "OK"), says("GETMETADATA a.c.d /private/comment", "OK", `* METADATA a.c.d (/private/comment "x")`),
		says("MYRIGHTS a.c.d", "OK", "* MYRIGHTS a.c.d lrswipkxtea"),
		says("GETQUOTAROOT a.c.d", "OK", `* QUOTAROOT a.c.d "User quota"`, `* QUOTA "User quota" ()`),
		says("SELECT nowhere.x", "NO [NONEXISTENT]"),
	)
	c.ok("SELECT INBOX")
	c.ok("COPY 1 a.c.d")
	c.want(`APPEND a.c.d CATENATE (URL "/INBOX/sub/;UID=1")`, "NO [BADURL")
	c.ok("COPY 1 INBOX.sub")
	c.ok(`APPEND a.c.d CATENATE (URL "/INBOX.sub/;UID=1")`)
	c.want("STATUS a.c.d (MESSAGES)", "OK", "* STATUS a.c.d (MESSAGES 2)")
	c.ok("ENABLE IMAP4rev2")
	if untagged := c.ok("SELECT a.c.d"); !slices.Contains(untagged, `* LIST () "." a.c.d`) {
		t.Errorf("%q", untagged)
	}
	c.want("DELETE a.c.d", "OK")
}

// Courier's names: all but INBOX are below it.
func TestTranscriptInboxPrefix(t *testing.T) {
	r := newRigWith(t, Options{Separator: '.'})
	c := r.dial(mount.New(r.box(1), mount.Options{Stage: r.store.Stage, Log: slog.New(slog.DiscardHandler), Inbox: true}))
	c.transcript(
		says("NAMESPACE", "OK", `* NAMESPACE (("INBOX." ".")) NIL NIL`),
		says("CREATE Sent", "NO [CANNOT]"), says("CREATE INBOX.Sent", "OK"), says("CREATE INBOX.a.b", "OK"),
		says(`LIST "" %`, "OK", `* LIST (\HasChildren) "." INBOX`),
		says(`LIST "" INBOX.%`, "OK", `* LIST (\HasNoChildren) "." INBOX.Sent`, `* LIST (\Noselect \HasChildren) "." INBOX.a`),
		says("LIST INBOX. *", "OK", `* LIST (\HasNoChildren) "." INBOX.Sent`, `* LIST (\Noselect \HasChildren) "." INBOX.a`, `* LIST (\HasNoChildren) "." INBOX.a.b`),
		says("SUBSCRIBE INBOX.Sent", "OK"), says(`LSUB "" *`, "OK", `* LSUB (\HasNoChildren) "." INBOX.Sent`),
		says("SELECT Sent", "NO [NONEXISTENT]"), says("STATUS INBOX.Sent (MESSAGES)", "OK", "* STATUS INBOX.Sent (MESSAGES 0)"),
		says("DELETE INBOX.Sent", "OK"), says("DELETE INBOX", "NO [CANNOT]"),
	)
}
