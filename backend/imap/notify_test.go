package imap

import (
	"fmt"
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

// next wants these responses, which come unasked.
func (c *client) next(want ...string) {
	c.t.Helper()
	for _, w := range want {
		if l := c.line(); l != w {
			c.t.Fatalf("got %q, want %q", l, w)
		}
	}
}

func (r *rig) folder(b mailbox.Box, name string) mailbox.Folder {
	r.t.Helper()
	f, err := b.Folder(name)
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

func (r *rig) flag(b mailbox.Box, name string, uid mailbox.UID, s mailbox.System) {
	r.t.Helper()
	if _, err := r.folder(b, name).SetFlags([]mailbox.UID{uid}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: s}}); err != nil {
		r.t.Fatal(err)
	}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// RFC 5465, Sections 3.1, 5, 6.1 and 8.
func TestNotifySyntax(t *testing.T) {
	r := newRig(t, Limits{})
	c := r.dial(r.box(1))
	var many strings.Builder
	for i := range maxNames + 1 {
		fmt.Fprintf(&many, " f%d", i)
	}
	for _, x := range [][2]string{
		{"NOTIFY", "BAD"}, {"NOTIFY NONE x", "BAD"}, {"NOTIFY ALL", "BAD"}, {"NOTIFY SET", "BAD"}, {"NOTIFY SET STATUS", "BAD"},
		{"NOTIFY SET ()", "BAD"}, {"NOTIFY SET (selected)", "BAD"}, {"NOTIFY SET (selected ())", "BAD"},
		{"NOTIFY SET (elsewhere (MessageNew MessageExpunge))", "BAD"},
		{"NOTIFY NONE", "OK"}, {"NOTIFY SET (selected NONE)", "OK"}, {"notify set (personal none)", "OK"},
		{"NOTIFY SET (selected (MessageNew))", "BAD"}, {"NOTIFY SET (selected (MessageExpunge))", "BAD"},
		{"NOTIFY SET (personal (FlagChange))", "BAD"}, {"NOTIFY SET (personal (MessageNew FlagChange))", "BAD"},
		{"NOTIFY SET (selected (AnnotationChange))", "BAD"},
		{"NOTIFY SET (selected (MessageNew MessageExpunge AnnotationChange))", "NO [" + badEvent + "]"},
		{"NOTIFY SET (personal (Unheard))", "NO [" + badEvent + "]"},
		{"NOTIFY SET (selected (MailboxName))", "BAD"}, {"NOTIFY SET (selected-delayed (ServerMetadataChange))", "BAD"},
		{"NOTIFY SET (selected NONE) (selected-delayed NONE)", "BAD"},
		{"NOTIFY SET (personal (MessageNew (UID) MessageExpunge))", "BAD"},
		{"NOTIFY SET (selected (MessageNew (BOGUS) MessageExpunge))", "BAD"},
		{"NOTIFY SET (selected (MessageNew (UID BODY.PEEK[HEADER.FIELDS (From)]) MessageExpunge FlagChange)) (subtree (a b) (MailboxName))", "OK"},
		{"NOTIFY SET (mailboxes {1+}\r\nx (MessageNew MessageExpunge)) (subscribed (SubscriptionChange))", "OK"},
		{"NOTIFY SET STATUS (selected MessageNew (uid body.peek[header.fields (from to subject)]) MessageExpunge) (inboxes MessageNew MessageExpunge)", "OK"},
		{"NOTIFY SET" + strings.Repeat(" (personal NONE)", maxGroups+1), "NO [NOTIFICATIONOVERFLOW]"},
		{"NOTIFY SET (mailboxes (" + many.String()[1:] + ") (MailboxName)) (personal NONE)", "NO [NOTIFICATIONOVERFLOW]"},
	} {
		if _, st := c.cmd("%s", x[0]); !strings.HasPrefix(st, x[1]) {
			t.Errorf("%.100s: %s, want %s", x[0], st, x[1])
		}
	}
}

// RFC 5465, Sections 5.1 to 5.3 and 6.1.1.
func TestNotifySelected(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.deliver(b, "INBOX", letter)
	c := r.dial(b)
	c.ok("NOTIFY SET (selected (MessageNew (FLAGS BODY.PEEK[HEADER.FIELDS (To)]) MessageExpunge FlagChange))")
	c.ok("SELECT INBOX")
	r.deliver(b, "INBOX", letter)
	c.next("* 2 EXISTS", "* 2 RECENT", "* 2 FETCH (UID 2 FLAGS (\\Recent) BODY[HEADER.FIELDS (To)] {24}To: bob@example.test\r\n\r\n)")
	r.flag(b, "INBOX", 1, mailbox.Flagged)
	c.next(`* 1 FETCH (UID 1 FLAGS (\Flagged \Recent))`)
	_, err := r.folder(b, "INBOX").Expunge([]mailbox.UID{1})
	must(t, err)
	c.next("* 1 EXPUNGE")
	// What the session itself puts there is not fetched for it.
	c.want("COPY 1 INBOX", "OK [COPYUID 1 2 3]", "* 2 EXISTS", "* 2 RECENT")
	c.want("APPEND INBOX {1+}\r\nx", "OK [APPENDUID 1 4]", "* 3 EXISTS", "* 3 RECENT")
	// IDLE: the same (RFC 5465, Section 4).
	c.send("i IDLE\r\n")
	c.next("+ idling")
	r.flag(b, "INBOX", 3, mailbox.Seen)
	c.next(`* 2 FETCH (UID 3 FLAGS (\Seen \Recent))`)
	c.send("DONE\r\n")
	c.next("i OK IDLE completed")
	// EXAMINE, UNSELECT: the events are of what is selected at the moment.
	c.ok("CREATE Else")
	c.ok("EXAMINE Else")
	r.deliver(b, "INBOX", letter)
	r.deliver(b, "Else", "To: carl@x\r\n\r\nx\r\n")
	c.next("* 1 EXISTS", "* 1 RECENT", "* 1 FETCH (UID 1 FLAGS (\\Recent) BODY[HEADER.FIELDS (To)] {14}To: carl@x\r\n\r\n)")
	c.want("UNSELECT", "OK")
	r.deliver(b, "Else", letter)
	c.want("NOOP", "OK")
}

// Expunges wait for a command that may tell them (RFC 5465, Section 6.1.2).
func TestNotifyDelayed(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	for range 3 {
		r.deliver(b, "INBOX", letter)
	}
	c := r.dial(b)
	c.ok("SELECT INBOX")
	c.ok("NOTIFY SET (selected-delayed (MessageNew MessageExpunge FlagChange))")
	f := r.folder(b, "INBOX")
	_, err := f.Expunge([]mailbox.UID{1})
	must(t, err)
	r.flag(b, "INBOX", 3, mailbox.Seen)
	c.next(`* 3 FETCH (UID 3 FLAGS (\Seen \Recent))`)
	c.want("FETCH 3 UID", "OK", "* 3 FETCH (UID 3)")
	c.want("NOOP", "OK", "* 1 EXPUNGE")
	_, err = f.Expunge([]mailbox.UID{3})
	must(t, err)
	c.send("i IDLE\r\n")
	c.next("+ idling", "* 2 EXPUNGE")
	c.send("DONE\r\n")
	c.next("i OK IDLE completed")
	c.want("FETCH 1 UID", "OK", "* 1 FETCH (UID 2)")
}

// What is not asked for is not told, not even in a command, until it is asked for again: then
// all of it is (RFC 5465, Section 3.1).
func TestNotifyWithholds(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	for range 3 {
		r.deliver(b, "INBOX", letter)
	}
	c := r.dial(b)
	c.ok("SELECT INBOX")
	f := r.folder(b, "INBOX")
	t.Run("flags", func(t *testing.T) {
		c.ok("NOTIFY SET (selected-delayed (MessageNew MessageExpunge))")
		r.flag(b, "INBOX", 2, mailbox.Flagged)
		r.flag(b, "INBOX", 3, mailbox.Flagged)
		_, err := f.Expunge([]mailbox.UID{1})
		must(t, err)
		c.want("NOOP", "OK", "* 1 EXPUNGE")
		c.want("FETCH 1 FLAGS", "OK", `* 1 FETCH (FLAGS (\Flagged \Recent))`)
		c.want("NOTIFY SET (selected-delayed (MessageNew MessageExpunge FlagChange))", "OK",
			`* 1 FETCH (UID 2 FLAGS (\Flagged \Recent))`, `* 2 FETCH (UID 3 FLAGS (\Flagged \Recent))`)
		c.want("NOOP", "OK")
	})
	t.Run("all", func(t *testing.T) {
		c.ok("NOTIFY NONE")
		r.flag(b, "INBOX", 2, mailbox.Deleted)
		r.flag(b, "INBOX", 3, mailbox.Seen)
		r.deliver(b, "INBOX", letter)
		c.want("NOOP", "OK")
		c.want("FETCH 1:* UID", "OK", "* 1 FETCH (UID 2)", "* 2 FETCH (UID 3)")
		c.want("EXPUNGE", "OK", "* 1 EXPUNGE")
		c.want("FETCH 1:* UID", "OK", "* 1 FETCH (UID 3)")
		c.want("STORE 1 +FLAGS.SILENT (\\Answered)", "OK")
		c.want("NOTIFY SET (selected (MessageNew (UID) MessageExpunge FlagChange))", "OK",
			"* 2 EXISTS", "* 2 RECENT", `* 1 FETCH (UID 3 FLAGS (\Answered \Flagged \Seen \Recent))`)
	})
}

// RFC 5465, Sections 3.1, 5.1 to 5.3: other mailboxes by STATUS.
func TestNotifyStatus(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	for _, name := range []string{"a", "a/b", "ab", "c"} {
		must(t, b.CreateFolder(name, ""))
	}
	must(t, b.Subscribe("c", true))
	r.deliver(b, "a/b", letter)
	c := r.dial(b)
	c.ok("SELECT INBOX")
	c.want("NOTIFY SET STATUS (selected NONE) (subtree a (MessageNew MessageExpunge)) (subscribed (MessageNew MessageExpunge FlagChange)) (mailboxes (INBOX nowhere) (MessageNew MessageExpunge))",
		"OK", "* STATUS a (UIDVALIDITY 2 UIDNEXT 1 MESSAGES 0)", "* STATUS a/b (UIDVALIDITY 3 UIDNEXT 2 MESSAGES 1)",
		"* STATUS c (UIDVALIDITY 5 UIDNEXT 1 MESSAGES 0 UNSEEN 0 HIGHESTMODSEQ 1)")
	r.deliver(b, "INBOX", letter) // selected: told by nobody
	r.deliver(b, "ab", letter)
	r.flag(b, "a/b", 1, mailbox.Seen) // flags of it are not asked for
	r.deliver(b, "c", letter)
	c.next("* STATUS c (UIDVALIDITY 5 UIDNEXT 2 MESSAGES 1 UNSEEN 1)")
	r.flag(b, "c", 1, mailbox.Flagged) // without CONDSTORE this has no form
	r.flag(b, "c", 1, mailbox.Seen)
	c.next("* STATUS c (UIDVALIDITY 5 UNSEEN 0)")
	_, err := r.folder(b, "a/b").Expunge([]mailbox.UID{1})
	must(t, err)
	c.next("* STATUS a/b (UIDVALIDITY 3 UIDNEXT 2 MESSAGES 0)")
	c.ok("ENABLE CONDSTORE")
	r.flag(b, "c", 1, mailbox.Answered)
	c.next("* STATUS c (UIDVALIDITY 5 UNSEEN 0 HIGHESTMODSEQ 5)")
	r.store.Renumber(ann, "c")
	c.next("* STATUS c (UIDVALIDITY 6 UIDNEXT 2 MESSAGES 1 UNSEEN 0 HIGHESTMODSEQ 6)")
	// Its own messages a session knows of.
	c.want("APPEND a {1+}\r\nx", "OK [APPENDUID 2 1]")
	c.want("NOOP", "OK")
	// A folder that was selected is one of the others from then on, with what was not told.
	c.ok("SELECT a")
	c.next("* STATUS INBOX (UIDVALIDITY 1 UIDNEXT 2 MESSAGES 1 HIGHESTMODSEQ 2)")
	r.deliver(b, "INBOX", letter)
	c.next("* STATUS INBOX (UIDVALIDITY 1 UIDNEXT 3 MESSAGES 2 HIGHESTMODSEQ 3)")
	r.deliver(b, "a", letter)
	c.want("NOOP", "OK")
	c.want("UNSELECT", "OK")
	c.next("* STATUS a (UIDVALIDITY 2 UIDNEXT 3 MESSAGES 2 HIGHESTMODSEQ 3)")
	// The subscriptions are looked at again when they change (Section 6.4).
	c.ok("SUBSCRIBE ab")
	r.deliver(b, "ab", letter)
	c.next("* STATUS ab (UIDVALIDITY 4 UIDNEXT 3 MESSAGES 2 UNSEEN 2 HIGHESTMODSEQ 3)")
}

// RFC 5465, Sections 5.4 and 5.5.
func TestNotifyNames(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	must(t, b.CreateFolder("a", ""), b.CreateFolder("a/b", ""))
	c := r.dial(b)
	c.ok("NOTIFY SET (personal (MailboxName SubscriptionChange))")
	must(t, b.CreateFolder("new", ""))
	c.next(`* LIST (\HasNoChildren) "/" new`)
	must(t, b.CreateFolder("a/c", ""))
	c.next(`* LIST (\HasNoChildren) "/" a/c`, `* LIST (\HasChildren) "/" a`)
	must(t, b.RenameFolder("a", "x"))
	c.next(`* LIST (\HasChildren) "/" x ("OLDNAME" (a))`)
	must(t, b.RenameFolder("x/b", "x/d"))
	c.next(`* LIST (\HasNoChildren) "/" x/d ("OLDNAME" (x/b))`)
	must(t, b.DeleteFolder("x/d"))
	c.next(`* LIST (\NonExistent \Noselect) "/" x/d`, `* LIST (\HasChildren) "/" x`)
	must(t, b.DeleteFolder("x"))
	c.next(`* LIST (\NonExistent \Noselect \HasChildren) "/" x`)
	must(t, b.Subscribe("new", true))
	c.next(`* LIST (\Subscribed \HasNoChildren) "/" new`)
	must(t, b.Subscribe("new", false), b.Subscribe("ghost", true))
	for range 2 { // in one look or two
		if l := c.line(); l != `* LIST (\HasNoChildren) "/" new` && l != `* LIST (\NonExistent \Noselect \Subscribed) "/" ghost` {
			t.Fatalf("%q", l)
		}
	}
	must(t, b.RenameFolder("INBOX", "old"))
	c.next(`* LIST (\HasNoChildren) "/" old`)
	// Nothing of what the session itself does (Section 5).
	for _, command := range []string{"CREATE m", "CREATE m/n", "SUBSCRIBE m", "RENAME m p", "UNSUBSCRIBE m", "DELETE p/n", "DELETE p", "RENAME INBOX q"} {
		c.want(command, "OK"+map[bool]string{true: " [MAILBOXID"}[strings.HasPrefix(command, "CREATE")])
	}
	must(t, b.CreateFolder("last", ""))
	c.next(`* LIST (\HasNoChildren) "/" last`)
}

// RFC 5465, Sections 5.6 and 5.7.
func TestNotifyMetadata(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	must(t, b.CreateFolder("a", ""), b.CreateFolder("z", ""))
	set := func(folder, entry, value string) {
		t.Helper()
		v := &value
		if value == "" {
			v = nil
		}
		must(t, b.SetMetadata(folder, map[string]*string{entry: v}))
	}
	set("a", "/private/comment", "one")
	c := r.dial(b)
	c.ok("NOTIFY SET (subtree a (MailboxMetadataChange ServerMetadataChange))")
	set("z", "/private/comment", "x")
	set("a", "/private/comment", "two")
	c.next("* METADATA a /private/comment")
	set("a", "/shared/comment", "three")
	c.next("* METADATA a /shared/comment")
	set("a", "/private/comment", "")
	c.next("* METADATA a /private/comment")
	set("", "/shared/admin", "mailto:x")
	c.next(`* METADATA "" /shared/admin`)
	c.ok(`SETMETADATA a (/private/comment "own" /shared/comment NIL)`)
	c.ok(`SETMETADATA "" (/private/comment "own")`)
	c.want("NOOP", "OK")
	set("", "/shared/admin", "")
	c.next(`* METADATA "" /shared/admin`)
}

// rightsBox has folders of others, whose rights change.
type rightsBox struct {
	mailbox.Box
	rights func(name string) mailbox.Rights
}

func (b *rightsBox) Namespaces() []mailbox.Namespace {
	return append(b.Box.Namespaces(), mailbox.Namespace{Kind: mailbox.Shared, Prefix: "s/"})
}

func (b *rightsBox) Rights(name string) (mailbox.Rights, error) {
	if strings.HasPrefix(name, "s/") {
		return b.rights(name), nil
	}
	return b.Box.Rights(name)
}

// RFC 5465, Sections 3.1 and 5.9.
func TestNotifyRights(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	for _, name := range []string{"s/lr", "s/l", "s/none", "s/turns"} {
		must(t, b.CreateFolder(name, ""))
	}
	turns := make(chan mailbox.Rights, 1)
	turns <- "lr"
	c := r.dial(&rightsBox{b, func(name string) mailbox.Rights {
		switch name {
		case "s/lr":
			return "lr"
		case "s/l":
			return "l"
		case "s/turns":
			now := <-turns
			turns <- now
			return now
		}
		return ""
	}})
	turn := func(rights mailbox.Rights) {
		<-turns
		turns <- rights
		// The account tells that something changed in its rights.
		must(t, b.SetACL("INBOX", "x", rights))
	}
	c.want("NOTIFY SET STATUS (mailboxes (s/lr s/l s/none s/turns) (MessageNew MessageExpunge))", "OK",
		`* LIST (\HasNoChildren \NoAccess) "/" s/l`, "* STATUS s/lr (UIDVALIDITY 2 UIDNEXT 1 MESSAGES 0)",
		"* STATUS s/turns (UIDVALIDITY 5 UIDNEXT 1 MESSAGES 0)")
	turn("l")
	c.next(`* LIST (\HasNoChildren \NoAccess) "/" s/turns`)
	for _, name := range []string{"s/turns", "s/l", "s/none", "s/lr"} {
		r.deliver(b, name, letter)
	}
	c.next("* STATUS s/lr (UIDVALIDITY 2 UIDNEXT 2 MESSAGES 1)")
	turn("lr")
	c.next(`* LIST (\HasNoChildren) "/" s/turns`)
	r.deliver(b, "s/turns", letter)
	c.next("* STATUS s/turns (UIDVALIDITY 5 UIDNEXT 3 MESSAGES 2)")
	// For names, a right that is taken away is a folder that is gone (Section 5.4).
	c.want("NOTIFY SET (subtree s (MailboxName))", "OK", `* LIST (\HasNoChildren \NoAccess) "/" s/l`)
	turn("")
	c.next(`* LIST (\NonExistent \Noselect) "/" s/turns`)
}

// RFC 7162 and RFC 9586 beside RFC 5465.
func TestNotifyForms(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.deliver(b, "INBOX", letter)
	c := r.dial(b)
	c.ok("ENABLE QRESYNC UIDONLY")
	c.ok("SELECT INBOX")
	c.ok("NOTIFY SET (selected (MessageNew (FLAGS) MessageExpunge FlagChange))")
	r.deliver(b, "INBOX", letter)
	c.next("* 2 EXISTS", "* 2 RECENT", `* 2 UIDFETCH (MODSEQ (3) FLAGS (\Recent))`)
	r.flag(b, "INBOX", 1, mailbox.Seen)
	c.next(`* 1 UIDFETCH (FLAGS (\Seen \Recent) MODSEQ (4))`)
	_, err := r.folder(b, "INBOX").Expunge([]mailbox.UID{1})
	must(t, err)
	c.next("* VANISHED 1")
	// A FETCH that was asked for in the one form is of no use in the other.
	d := r.dial(b)
	d.ok("NOTIFY SET (selected (MessageNew (FLAGS) MessageExpunge))")
	d.want("ENABLE UIDONLY", "OK", "* ENABLED UIDONLY", "* OK [NOTIFICATIONOVERFLOW] too much to notify of")
}

// Ten thousand folders: one that changes costs what one costs.
func TestNotifyManyFolders(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	const many = 2000 // the memory store lists them in quadratic time
	for i := range many {
		must(t, b.CreateFolder(fmt.Sprintf("f%05d", i), ""))
	}
	c := r.dial(b)
	if got := c.ok("NOTIFY SET STATUS (personal (MessageNew MessageExpunge MailboxName))"); len(got) != many+1 {
		t.Errorf("%d lines", len(got))
	}
	r.deliver(b, "f01234", letter)
	c.next("* STATUS f01234 (UIDVALIDITY 1236 UIDNEXT 2 MESSAGES 1)")
	// More than the feed remembers: all are looked at.
	for i := range mailbox.MaxUpdates + 10 {
		r.deliver(b, fmt.Sprintf("f%05d", i), letter)
	}
	told := make(map[string]bool)
	for len(told) < mailbox.MaxUpdates+10 {
		told[strings.Fields(c.line())[2]] = true
	}
	c.want("NOTIFY SET (personal (MailboxMetadataChange))", "NO [NOTIFICATIONOVERFLOW]")
}

// A session that ends, or whose mailbox moves, has its watcher end.
func TestNotifyEnds(t *testing.T) {
	r := newRig(t, Limits{})
	c := r.dial(r.box(1))
	c.ok("NOTIFY SET (selected (MessageNew MessageExpunge)) (personal (MessageNew MessageExpunge))")
	c.nc.Close()
	must(t, c.ended())
	c = r.dial(r.box(1))
	c.ok("SELECT INBOX")
	c.ok("NOTIFY SET (selected (MessageNew MessageExpunge)) (personal (MessageNew MessageExpunge))")
	r.store.Freeze(ann)
	c.bye("moving")
	must(t, c.ended())
}
