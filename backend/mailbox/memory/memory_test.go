package memory

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"waypost/backend/mailbox"
	"waypost/director"
)

const user1 = director.User("ann@example.test")

func open(t *testing.T, s *Store, epoch director.Epoch) mailbox.Box {
	t.Helper()
	b, err := s.Open(t.Context(), user1, "b1", epoch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func stage(t *testing.T, s *Store, text string) mailbox.Staged {
	t.Helper()
	m, err := s.Stage(t.Context(), "", strings.NewReader(text), 0)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// one is a delivery into INBOX.
func one(id string, m mailbox.Staged) mailbox.Delivery {
	return mailbox.Delivery{ID: id, Message: m, Places: []mailbox.Place{{}}}
}

func TestFence(t *testing.T) {
	s := New()
	if _, err := s.Open(t.Context(), user1, "b1", 1); !errors.Is(err, mailbox.ErrRefused) {
		t.Fatalf("unknown user: %v", err)
	}
	s.Serve(user1, "b1", 1)
	if _, err := s.Open(t.Context(), user1, "b2", 1); !errors.Is(err, mailbox.ErrStale) {
		t.Fatalf("other home: %v", err)
	}
	b := open(t, s, 1)
	s.Freeze(user1)
	<-b.Done()
	if _, err := b.Folders(); !errors.Is(err, mailbox.ErrFrozen) {
		t.Fatalf("frozen: %v", err)
	}
	s.Serve(user1, "b1", 3)
	if _, err := b.Folders(); !errors.Is(err, mailbox.ErrStale) {
		t.Fatalf("stale: %v", err)
	}
	open(t, s, 3)
}

func TestMessages(t *testing.T) {
	s := New()
	s.Serve(user1, "b1", 1)
	b := open(t, s, 1)
	for range 2 { // the same id twice is one message
		if err := b.Deliver(t.Context(), one("id1", stage(t, s, "A: b\r\n\r\none\n"))); err != nil {
			t.Fatal(err)
		}
	}
	uid, err := appendOne(b, "INBOX", stage(t, s, "x"), mailbox.Flags{System: mailbox.Seen}, time.Time{})
	if err != nil || uid != 2 {
		t.Fatalf("append: %d %v", uid, err)
	}
	f, _ := b.Folder("INBOX")
	snap, err := f.Snapshot()
	if err != nil || snap.Messages.Len() != 2 || snap.Unseen != 1 || len(snap.Recent) != 2 {
		t.Fatalf("snapshot %+v %v", snap, err)
	}
	body, err := f.Open(1)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(iotest.OneByteReader(body))
	if string(got) != "A: b\r\n\r\none\r\n" || int64(len(got)) != body.WireSize() {
		t.Fatalf("body %q", got)
	}
	ch := f.Changed(snap.Version)
	if _, err := f.SetFlags([]mailbox.UID{1, 9}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{Keywords: []string{"b", "a", "a"}}}); err != nil {
		t.Fatal(err)
	}
	<-ch
	if err := b.CreateFolder("Sub/Two", ""); err != nil {
		t.Fatal(err)
	}
	r, err := f.Move([]mailbox.UID{1}, "Sub/Two")
	if err != nil || len(r.Dest) != 1 {
		t.Fatalf("move %+v %v", r, err)
	}
	if _, err := f.Open(1); !errors.Is(err, mailbox.ErrNoMessage) {
		t.Fatalf("moved message: %v", err)
	}
	infos, _ := b.Folders()
	if len(infos) != 3 || infos[0].Name != "INBOX" || !infos[1].NoSelect || !infos[1].HasChildren {
		t.Fatalf("folders %+v", infos)
	}
}

func TestLimits(t *testing.T) {
	s := New()
	s.Serve(user1, "b1", 1)
	s.SetLimit(user1, mailbox.Limit{Messages: 1})
	b := open(t, s, 1)
	if _, err := appendOne(b, "INBOX", stage(t, s, "x"), mailbox.Flags{}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := b.Fits(1); !errors.Is(err, mailbox.ErrOverQuota) {
		t.Fatalf("fits: %v", err)
	}
	if err := b.Deliver(t.Context(), mailbox.Delivery{ID: "f", Message: stage(t, s, "x"), Places: []mailbox.Place{{}}, Force: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stage(context.Background(), "", strings.NewReader("abcdef"), 5); !errors.Is(err, mailbox.ErrTooLarge) {
		t.Fatalf("stage: %v", err)
	}
}

func TestExpungeDeletedAndRenumber(t *testing.T) {
	s := New()
	s.Serve(user1, "b1", 1)
	b := open(t, s, 1)
	for range 3 {
		if _, err := appendOne(b, "INBOX", stage(t, s, "x"), mailbox.Flags{System: mailbox.Deleted}, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	f, _ := b.Folder("INBOX")
	if _, err := f.Snapshot(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.SetFlags([]mailbox.UID{2}, mailbox.FlagChange{Op: mailbox.FlagsRemove, Flags: mailbox.Flags{System: mailbox.Deleted}}); err != nil {
		t.Fatal(err)
	}
	gone, err := f.ExpungeDeleted([]mailbox.UID{1, 2})
	if err != nil || len(gone) != 1 || gone[0] != 1 {
		t.Fatalf("expunged %v %v", gone, err)
	}
	s.Renumber(user1, "INBOX")
	if _, err := f.Expunge([]mailbox.UID{2}); !errors.Is(err, mailbox.ErrRenumbered) {
		t.Fatal(err)
	}
	snap, err := f.Snapshot()
	if err != nil || snap.Messages.Len() != 2 || snap.Messages.At(0).UID != 1 {
		t.Fatalf("%+v %v", snap, err)
	}
	if _, err := f.Open(1); err != nil {
		t.Fatal(err)
	}
}

func TestDelivery(t *testing.T) {
	s := New()
	s.Serve(user1, "b1", 1)
	s.SetLimit(user1, mailbox.Limit{Messages: 3})
	b := open(t, s, 1)
	d := mailbox.Delivery{
		ID: "id", Message: stage(t, s, "Subject: a\n\nplain\n"),
		Places: []mailbox.Place{
			{}, {Folder: "none"}, {Folder: "a//b", Create: true},
			{Folder: "Made", Create: true, Flags: mailbox.Flags{System: mailbox.Seen}, Message: stage(t, s, "Subject: b\n\nfiltered\n")},
		},
		Outbound: []mailbox.Outbound{{ID: "o", Kind: "redirect", To: []string{"x@y"}, Message: stage(t, s, "out")}},
		Memories: []mailbox.Memory{{Key: "k", Until: time.Now().Add(time.Hour)}, {Key: "old", Until: time.Now().Add(-time.Hour)}},
	}
	if err := b.Deliver(t.Context(), d); !errors.Is(err, mailbox.ErrOverQuota) {
		t.Fatalf("four of three: %v", err)
	}
	s.SetLimit(user1, mailbox.Limit{})
	for range 2 {
		if err := b.Deliver(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	for key, want := range map[string]bool{"k": true, "old": false, "none": false} {
		if got, err := b.Remembers(key); got != want || err != nil {
			t.Errorf("%s: %v %v", key, got, err)
		}
	}
	out := s.Outbound(user1)
	if len(out) != 1 || out[0].ID != "o" || read(t, out[0].Message.Open) != "out" {
		t.Errorf("out: %+v", out)
	}
	inbox, _ := b.Folder("INBOX")
	if st, err := inbox.Status(); err != nil || st.Messages != 3 || st.Unseen != 3 || st.Recent != 3 {
		t.Errorf("INBOX %+v %v", st, err)
	}
	made, err := b.Folder("Made")
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, func() (mailbox.Body, error) { return made.Open(1) }); got != "Subject: b\r\n\r\nfiltered\r\n" {
		t.Errorf("Made has %q", got)
	}
}

func read(t *testing.T, open func() (mailbox.Body, error)) string {
	t.Helper()
	body, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestModSeqRecentAndMeta(t *testing.T) {
	s := New()
	s.Serve(user1, "b1", 1)
	b := open(t, s, 1)
	for i := range 2 {
		if err := b.Deliver(t.Context(), one(string(rune('a'+i)), stage(t, s, "Subject: a\n\nb\n"))); err != nil {
			t.Fatal(err)
		}
	}
	f, _ := b.Folder("INBOX")
	other, _ := b.Folder("INBOX")
	first, err := f.Snapshot()
	if err != nil || len(first.Recent) != 2 {
		t.Fatalf("%+v %v", first, err)
	}
	if again, err := other.Snapshot(); err != nil || again.Recent != nil || again.Version != first.Version {
		t.Errorf("%+v %v", again, err)
	}
	for range 2 { // the second time nothing changes
		if _, err := f.SetFlags([]mailbox.UID{2}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: mailbox.Flags{System: mailbox.Seen}}); err != nil {
			t.Fatal(err)
		}
	}
	now, err := f.Snapshot()
	if err != nil || now.Unseen != 1 || now.HighestModSeq != first.HighestModSeq+1 ||
		now.Messages.At(1).ModSeq != now.HighestModSeq || now.Messages.At(0).ModSeq > first.HighestModSeq {
		t.Errorf("%+v %v", now, err)
	}
	if first.Messages.At(1).Flags.Has(mailbox.Seen) {
		t.Error("an old snapshot changed")
	}
	meta, err := f.Meta(1)
	if err != nil || meta.Root.Envelope.Subject != "a" || meta.Arrived.IsZero() || len(meta.Fields) != 1 {
		t.Errorf("%+v %v", meta, err)
	}
	if _, err := f.Meta(3); !errors.Is(err, mailbox.ErrNoMessage) {
		t.Error(err)
	}
	body, _ := f.Open(1)
	if _, err := body.Seek(14, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(body); string(rest) != "b\r\n" {
		t.Errorf("%q", rest)
	}
}

// appendOne appends one message and gives its UID.
func appendOne(b mailbox.Box, folder string, m mailbox.Staged, flags mailbox.Flags, date time.Time) (mailbox.UID, error) {
	r, err := b.Append(folder, []mailbox.NewMessage{{Message: m, Flags: flags, Date: date}})
	if err != nil {
		return 0, err
	}
	return r.UIDs[0], nil
}
