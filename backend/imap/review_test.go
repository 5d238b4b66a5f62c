package imap

import (
	"fmt"
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

// hookBox calls hook before each operation that takes UIDs.
type hookBox struct {
	mailbox.Box
	hook func()
}

type hookFolder struct {
	mailbox.Folder
	b *hookBox
}

func (b *hookBox) Folder(name string) (mailbox.Folder, error) {
	f, err := b.Box.Folder(name)
	return &hookFolder{f, b}, err
}

func (f *hookFolder) Expunge(uids []mailbox.UID) ([]mailbox.UID, error) {
	f.b.hook()
	return f.Folder.Expunge(uids)
}

func (f *hookFolder) ExpungeDeleted(uids []mailbox.UID) ([]mailbox.UID, error) {
	f.b.hook()
	return f.Folder.ExpungeDeleted(uids)
}

func (f *hookFolder) Open(uid mailbox.UID) (mailbox.Body, error) {
	f.b.hook()
	return f.Folder.Open(uid)
}

func TestExpungeSparesUndeleted(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	for range 2 {
		r.deliver(b, "INBOX", letter)
	}
	f, err := b.Folder("INBOX")
	if err != nil {
		t.Fatal(err)
	}
	// Another session takes a flag away after EXPUNGE has looked.
	c := r.dial(&hookBox{b, func() {
		if _, err := f.SetFlags([]mailbox.UID{1}, mailbox.FlagChange{Op: mailbox.FlagsRemove, Flags: mailbox.Flags{System: mailbox.Deleted}}); err != nil {
			t.Error(err)
		}
	}})
	c.ok("SELECT INBOX")
	c.ok("STORE 1:2 +FLAGS.SILENT (\\Deleted)")
	c.ok("EXPUNGE")
	snap, err := f.Snapshot()
	if err != nil || snap.Messages.Len() != 1 || snap.Messages.At(0).UID != 1 {
		t.Fatalf("left %+v, %v", snap.Messages, err)
	}
}

func TestRenumberedEndsWithBye(t *testing.T) {
	for _, command := range []string{
		"STORE 1 +FLAGS (\\Deleted)", "COPY 1 Other", "MOVE 1 Other", "FETCH 1 (BODY.PEEK[])", "FETCH 1 (BODY[])",
		"FETCH 1 INTERNALDATE", "SEARCH BODY x", "EXPUNGE", "NOOP",
	} {
		t.Run(command, func(t *testing.T) {
			r := newRig(t, Limits{})
			b := r.box(1)
			r.deliver(b, "INBOX", letter)
			if err := b.CreateFolder("Other", ""); err != nil {
				t.Fatal(err)
			}
			c := r.dial(b)
			c.ok("SELECT INBOX")
			r.store.Renumber(ann, "INBOX")
			c.send("x %s\r\n", command)
			l := c.line()
			if strings.HasPrefix(l, "x OK") { // NOOP is done; the BYE comes behind it
				l = c.line()
			}
			if !strings.HasPrefix(l, "* BYE [UNAVAILABLE] the selected mailbox") {
				t.Errorf("got %q", l)
			}
		})
	}
}

func TestRenameKeepsWatchOverUIDs(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	if err := b.CreateFolder("A", ""); err != nil {
		t.Fatal(err)
	}
	r.deliver(b, "A", letter)
	c := r.dial(b)
	c.ok("SELECT A")
	c.ok("RENAME A B")
	c.want("FETCH 1 UID", "OK", "* 1 FETCH (UID 1)")
	r.store.Renumber(ann, "B")
	c.send("x STORE 1 +FLAGS (\\Deleted)\r\n")
	c.bye("the selected mailbox was deleted or replaced")
}

func TestClosedMailboxEndsWithBye(t *testing.T) {
	for _, command := range []string{"SELECT INBOX", "LIST \"\" *", "CREATE A", "STORE 1 FLAGS ()", "FETCH 1 (BODY[])", "NOOP", "STATUS INBOX (MESSAGES)"} {
		t.Run(command, func(t *testing.T) {
			r := newRig(t, Limits{})
			b := r.box(1)
			r.deliver(b, "INBOX", letter)
			c := r.dial(b)
			c.ok("SELECT INBOX")
			r.store.Fail(ann, fmt.Errorf("%s: %w", ann, mailbox.ErrClosed))
			c.send("x %s\r\n", command)
			l := c.line()
			if strings.HasPrefix(l, "x OK") || strings.HasPrefix(l, "* OK [CLOSED]") {
				l = c.line()
			}
			if !strings.HasPrefix(l, "* BYE [UNAVAILABLE]") {
				t.Errorf("got %q", l)
			}
		})
	}
}

func TestTooManyFolders(t *testing.T) {
	r := newRig(t, Limits{})
	c := r.dial(r.box(1))
	r.store.Fail(ann, mailbox.ErrTooManyFolders)
	c.want("CREATE A", "NO [LIMIT]")
	c.want("RENAME INBOX A", "NO [LIMIT]")
}

func TestLongListPatternsAreRefused(t *testing.T) {
	r := newRig(t, Limits{})
	c := r.dial(r.box(1))
	long := strings.Repeat("*a", maxPattern/4)
	c.ok("LIST \"\" %s", long)
	for _, args := range []string{"\"\" " + long + long + "a", long + " " + long + "a", fmt.Sprintf("\"\" (%s %s a)", long, long)} {
		c.want("LIST "+args, "BAD")
	}
	c.want("LSUB \"\" "+long+long+"a", "BAD")
	c.want("LIST \"\" *", "OK", `* LIST (\HasNoChildren) "/" INBOX`)
}

func TestListStopsMatchingAtTheEnd(t *testing.T) {
	asked := 0
	stop := func() bool { asked++; return asked > 2 }
	names := make([]listed, 10)
	for i := range names {
		names[i].Name = fmt.Sprint("f", i)
	}
	if got := selectNames(names, &listArgs{patterns: []string{"*"}}, stop); len(got) != 2 {
		t.Errorf("%d names matched after the end", len(got))
	}
}
