package maildir

import (
	"os"
	"strings"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/uidlist"
)

// TestDovecotTree reads what Dovecot and Courier leave.
func TestDovecotTree(t *testing.T) {
	s := newSetup(t, nil)
	s.b.Close()
	must(t, s.a.Close())
	put := func(data string, parts ...string) {
		t.Helper()
		must(t, os.WriteFile(s.path(parts...), []byte(data), 0o600))
	}
	put("a\nb\n", "cur", "1.M1P1.h,S=4,W=6:2,PSZa")
	put("a\r\nb\n", "cur", "2.M1P1.h:2,")
	put("abc\n", "new", "3.M1P1.h,S=4,W=5")
	put("x", "cur", ".hidden")
	must(t, os.Mkdir(s.path("cur", "folder"), 0o700))
	put("3 V1234 N9 G0123456789abcdef0123456789abcdef\n4 Polduidl O2 :1.M1P1.h,S=4,W=6\n6 Gguid1 :2.M1P1.h\n7 :gone\n", uidlist.FileName)
	put("0 $Forwarded\n", keywordsName)
	put("INBOX\nA.B\n", subscriptionsName)
	must(t, os.MkdirAll(s.path(".A.B"), 0o700))
	must(t, os.MkdirAll(s.path(".Entwürfe", "cur"), 0o700))
	must(t, os.MkdirAll(s.path(".&AOQ-"), 0o700))
	must(t, os.Remove(s.path(quotaName)))
	s.open()

	f := s.folder("INBOX")
	snap := s.snapshot(f)
	same(t, "UIDVALIDITY", snap.UIDValidity, 1234)
	sameList(t, "UIDs", uids(snap), 4, 6, 9)
	one, two, three := snap.Messages.At(0), snap.Messages.At(1), snap.Messages.At(2)
	if !one.Flags.Equal(mailbox.Flags{System: mailbox.Seen, Keywords: []string{"$Forwarded"}}) || one.GUID != "olduidl" {
		t.Errorf("first %+v", one)
	}
	if two.GUID != "guid1" || two.Size != 5 || two.WireSize != 6 {
		t.Errorf("second %+v", two)
	}
	same(t, "third", three.GUID, "3.M1P1.h")
	same(t, "text", s.read(f, 6), "a\r\nb\r\n")
	_, err := f.SetFlags([]mailbox.UID{4}, mailbox.FlagChange{Op: mailbox.FlagsSet, Flags: system(mailbox.Flagged)})
	must(t, err)
	sameList(t, "files", s.files("cur"), "1.M1P1.h,S=4,W=6:2,FPZ", "2.M1P1.h:2,", "3.M1P1.h,S=4,W=5:2,")
	r, err := f.Move([]mailbox.UID{4}, "Entwürfe")
	must(t, err)
	g := s.folder("Entwürfe")
	same(t, "GUID after the move", s.snapshot(g).Messages.At(0).GUID, "olduidl")
	data, err := os.ReadFile(s.path(".Entwürfe", uidlist.FileName))
	must(t, err)
	if len(r.Dest) != 1 || !strings.Contains(string(data), "1 Polduidl O2 :1.M1P1.h,S=4,W=6\n") {
		t.Errorf("uidlist %q", data)
	}
	list, err := s.b.Folders()
	must(t, err)
	var names []string
	for _, x := range list {
		names = append(names, x.Name)
		same(t, x.Name+" is only a parent", x.NoSelect, x.Name == "A")
		same(t, x.Name+" has children", x.HasChildren, x.Name == "A")
		same(t, x.Name+" subscribed", x.Subscribed, x.Name == "INBOX" || x.Name == "A/B")
	}
	sameList(t, "folders", names, "INBOX", "A", "A/B", "Entwürfe", "ä")
	s.deliver("1", text(1), "A/B")
	same(t, "messages", s.snapshot(s.folder("A/B")).Messages.Len(), 1)
	s.quotaIsExact()
}

func TestForeignRenamesAndRemovals(t *testing.T) {
	s := newSetup(t, nil)
	for i := range 3 {
		s.deliver(text(i), text(i), "")
	}
	f := s.folder("INBOX")
	s.snapshot(f)
	files := s.files("cur")
	must(t, os.Rename(s.path("cur", files[0]), s.path("cur", files[0]+"FS")))
	must(t, os.Remove(s.path("cur", files[1])))
	// Reading follows a rename, and sees a removal.
	same(t, "text", s.read(f, 1), text(0))
	snap := s.snapshot(f)
	sameList(t, "UIDs", uids(snap), 1, 3)
	same(t, "flags", snap.Messages.At(0).Flags.System, mailbox.Seen|mailbox.Flagged)
	must(t, os.Rename(s.path("cur", files[2]), s.path("cur", files[2]+"T")))
	got, err := f.SetFlags([]mailbox.UID{1, 2, 3}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: system(mailbox.Answered)})
	must(t, err)
	same(t, "changed", len(got.Changed), 2)
	same(t, "flags", got.Changed[1].Flags.System, mailbox.Deleted|mailbox.Answered)
	// What comes back under its old name is a new message.
	must(t, os.WriteFile(s.path("cur", files[1]), []byte("x"), 0o600))
	sameList(t, "UIDs", uids(s.snapshot(f)), 1, 3, 4)
	s.reopen()
	sameList(t, "UIDs", uids(s.snapshot(s.folder("INBOX"))), 1, 3, 4)
}

func TestTwoFilesOfOneName(t *testing.T) {
	s := newSetup(t, nil)
	must(t, os.WriteFile(s.path("cur", "1.M1.h,S=1,W=1:2,S"), []byte("a"), 0o600))
	must(t, os.WriteFile(s.path("new", "1.M1.h,S=1,W=1"), []byte("b"), 0o600))
	must(t, os.WriteFile(s.path("cur", "2.M1.h,S=1,W=1:2,"), []byte("c"), 0o600))
	must(t, os.Link(s.path("cur", "2.M1.h,S=1,W=1:2,"), s.path("cur", "2.M1.h,S=1,W=1:2,F")))
	f := s.folder("INBOX")
	snap := s.snapshot(f)
	all := ""
	for _, m := range snap.Messages.All() {
		all += s.read(f, m.UID)
	}
	if len(all) != 3 || !strings.Contains(all, "a") || !strings.Contains(all, "b") || !strings.Contains(all, "c") {
		t.Errorf("messages %q", all)
	}
	same(t, "files", len(s.files("cur")), 3)
}

func TestNameWrongAboutSize(t *testing.T) {
	s := newSetup(t, nil)
	must(t, os.WriteFile(s.path("cur", "1.M1.h,S=2,W=3:2,"), []byte("a\nb\nc\n"), 0o600))
	must(t, os.WriteFile(s.path("cur", "2.M1.h,S=2,W=9:2,"), []byte("a\n"), 0o600))
	f := s.folder("INBOX")
	s.snapshot(f)
	same(t, "text", s.read(f, 1), "a\r\nb\r\nc\r\n")
	b, err := f.Open(2)
	must(t, err)
	defer b.Close()
	// Nine bytes were announced: it must not end quietly after three.
	n := 0
	for {
		k, err := b.Read(make([]byte, 4))
		n += k
		if err != nil {
			if n != 3 || !strings.Contains(err.Error(), "shorter") {
				t.Errorf("%d bytes, %v", n, err)
			}
			break
		}
	}
}

// TestConfirmation: a foreign change that the modification times hide is found
// by the scan that confirms them.
func TestConfirmation(t *testing.T) {
	clock := time.Now()
	s := newSetup(t, func(o *Options) { o.Now = func() time.Time { return clock } })
	f := s.folder("INBOX")
	s.snapshot(f)
	shared := s.a.folders[""]
	must(t, os.WriteFile(s.path("new", "1.M1.h,S=1,W=1"), []byte("a"), 0o600))
	// As if the change had left the times as they were.
	var err error
	shared.seen.stamps, err = shared.stamps()
	must(t, err)
	same(t, "hidden", s.snapshot(f).Messages.Len(), 0)
	clock = clock.Add(granularity + time.Second)
	same(t, "found", s.snapshot(f).Messages.Len(), 1)
	same(t, "still unconfirmed", shared.seen.unconfirmed, true)
	clock = clock.Add(granularity + time.Second)
	s.snapshot(f)
	clock = clock.Add(granularity + time.Second)
	s.snapshot(f)
	same(t, "unconfirmed", shared.seen.unconfirmed, false)
}
