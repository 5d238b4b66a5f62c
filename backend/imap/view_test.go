package imap

import (
	"testing"

	"waypost/backend/mailbox"
)

// What the index knows is answered without opening a message.
func TestIndexSparesOpening(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	r.deliver(b, "INBOX", letter)
	opened := 0
	c := r.dial(&hookBox{b, func() { opened++ }})
	c.ok("SELECT INBOX")
	for _, command := range []string{
		"FETCH 1 (UID FLAGS INTERNALDATE RFC822.SIZE)",
		"FETCH 1 (ENVELOPE BODYSTRUCTURE BODY INTERNALDATE)",
		"FETCH 1 (BODY.PEEK[HEADER.FIELDS (From SUBJECT References)] BODY.PEEK[HEADER.FIELDS (Date)]<0.4>)",
		"SEARCH SUBJECT {5+}\r\ncaf\xc3\xa9 FROM ann SENTON 1-Nov-2025 SINCE 1-Jan-2020",
		"SEARCH HEADER List-Id \"\"",
	} {
		if c.ok("%s", command); opened != 0 {
			t.Errorf("%s: opened", command)
			opened = 0
		}
	}
	c.want("FETCH 1 (BODY.PEEK[HEADER.FIELDS (from)])", "OK",
		"* 1 FETCH (BODY[HEADER.FIELDS (from)] {32}From: Ann <ann@example.test>\r\n\r\n)")
	c.want("SEARCH FROM ann SENTON 1-Nov-2025", "OK", "* SEARCH 1")
	for _, command := range []string{
		"FETCH 1 (BODY.PEEK[HEADER.FIELDS (From X-Odd)])", "SEARCH HEADER X-Odd \"\"", "SEARCH TEXT x", "FETCH 1 (BODY.PEEK[1])",
	} {
		c.ok("UNSELECT") // the message last read stays open
		c.ok("SELECT INBOX")
		if c.ok("%s", command); opened != 1 {
			t.Errorf("%s: opened %d times", command, opened)
		}
		opened = 0
	}
}

// EXPUNGE looks at the folder on its own account, before the client is told:
// what is recent stays recent.
func TestRecentSurvivesExpunge(t *testing.T) {
	r := newRig(t, Limits{})
	b := r.box(1)
	c := r.dial(b)
	c.ok("SELECT INBOX")
	r.deliver(b, "INBOX", letter)
	c.want("EXPUNGE", "OK", "* 1 EXISTS", "* 1 RECENT")
	c.want("FETCH 1 FLAGS", "OK", `* 1 FETCH (FLAGS (\Recent))`)
	c.want("SEARCH RECENT", "OK", "* SEARCH 1")
	r.deliver(b, "INBOX", letter)
	c.want("NOOP", "OK", "* 2 EXISTS", "* 2 RECENT")
	c.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
	c.want("EXPUNGE", "OK", "* 1 EXPUNGE")
	r.deliver(b, "INBOX", letter)
	c.want("NOOP", "OK", "* 2 EXISTS", "* 2 RECENT")
}

// backFolder shows messages again that were gone: what software does that
// moves files away and back.
type backFolder struct {
	mailbox.Folder
	shown mailbox.Snapshot
}

func (f *backFolder) Snapshot() (mailbox.Snapshot, error) { return f.shown, nil }

func TestMessageComesBack(t *testing.T) {
	three := mailbox.NewMessages([]mailbox.Message{{UID: 1}, {UID: 2}, {UID: 3}})
	e := three.Edit()
	e.Delete(2)
	two := e.Done()
	for _, told := range []bool{false, true} {
		f := &backFolder{shown: mailbox.Snapshot{UIDValidity: 1, Version: 1, Messages: three}}
		v := newView("x", f, false, f.shown)
		step := func(m mailbox.Messages, version uint64, allow bool) error {
			f.shown.Messages, f.shown.Version = m, version
			d, err := v.compare(m, false, true)
			if err == nil {
				v.take(f.shown, d, telling{true, true, allow})
			}
			return err
		}
		if err := step(two, 2, told); err != nil {
			t.Fatal(err)
		}
		if n := v.told.Len(); n != 3 && !told || n != 2 && told {
			t.Fatalf("%d messages", n)
		}
		// The client that was told cannot be told otherwise.
		if err := step(three, 3, false); (err != nil) != told {
			t.Errorf("told %v: %v", told, err)
		}
		if !told && (v.told.Len() != 3 || len(v.leftovers) != 0) {
			t.Errorf("left %v of %d", v.leftovers, v.told.Len())
		}
	}
}
