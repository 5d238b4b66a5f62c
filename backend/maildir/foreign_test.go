package maildir

import (
	"errors"
	"fmt"
	"io"
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

// TestNameWrongAboutSize: every message is served whole, whatever its name says of it. What is
// too large to be counted before fails once, before its end, and is served then. The right size
// stays.
func TestNameWrongAboutSize(t *testing.T) {
	s := newSetup(t, nil)
	large := "Subject: x\n\n" + strings.Repeat("some words\n", checked/8)
	wire := int64(len(large) + strings.Count(large, "\n"))
	texts := []string{"a\nb\nc\n", "a\n", "a\nb\n", "a\nb\n", large, large, large}
	for i, sizes := range []string{
		"S=2,W=3", "S=2,W=9", "S=4,W=4", "S=4,W=5",
		fmt.Sprintf("S=%d,W=%d", len(large), len(large)), fmt.Sprintf("S=%d,W=%d", len(large), wire+1), fmt.Sprintf("S=%d,W=%d", len(large), wire-1),
	} {
		must(t, os.WriteFile(s.path("cur", fmt.Sprintf("%d.M1.h,%s:2,", i+1, sizes)), []byte(texts[i]), 0o600))
	}
	f := s.folder("INBOX")
	s.snapshot(f)
	for i, text := range texts {
		want := strings.ReplaceAll(text, "\n", "\r\n")
		if text == large {
			b, err := f.Open(mailbox.UID(i + 1))
			must(t, err)
			told := b.WireSize()
			got, err := io.ReadAll(b)
			if !errors.Is(err, io.ErrUnexpectedEOF) || int64(len(got)) >= told {
				t.Errorf("%d: %d bytes of %d, %v", i, len(got), told, err)
			}
			if _, err := b.Read(make([]byte, 10)); err == nil {
				t.Errorf("%d: it goes on", i)
			}
			must(t, b.Close())
		}
		if got := s.read(f, mailbox.UID(i+1)); got != want {
			t.Errorf("%d: %d bytes, want %d", i, len(got), len(want))
		}
		if meta, err := f.Meta(mailbox.UID(i + 1)); err != nil || meta.Root.Body.End != int64(len(want)) {
			t.Errorf("%d: %v", i, err)
		}
	}
	look := func(when string) {
		f := s.folder("INBOX")
		snap := s.snapshot(f)
		status, err := f.Status()
		must(t, err)
		var sum int64
		for i, m := range snap.Messages.All() {
			want := int64(len(texts[i]) + strings.Count(texts[i], "\n"))
			same(t, fmt.Sprint(when, ", size of ", i), m.WireSize, want)
			sum += want
		}
		same(t, when+", bytes", status.Bytes, sum)
	}
	look("at once")
	s.snapshot(f) // it writes the uidlist
	s.reopen()
	look("later")
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
