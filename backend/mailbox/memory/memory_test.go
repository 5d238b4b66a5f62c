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
		if err := b.Deliver(t.Context(), "id1", stage(t, s, "A: b\r\n\r\none\n"), "", false); err != nil {
			t.Fatal(err)
		}
	}
	_, uid, err := b.Append("INBOX", stage(t, s, "x"), mailbox.Flags{System: mailbox.Seen}, time.Time{})
	if err != nil || uid != 2 {
		t.Fatalf("append: %d %v", uid, err)
	}
	f, _ := b.Folder("INBOX")
	snap, err := f.Snapshot()
	if err != nil || len(snap.Messages) != 2 || snap.Unseen != 1 || !snap.Messages[0].Recent {
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
	if _, err := f.SetFlags([]mailbox.UID{1, 9}, mailbox.FlagsAdd, mailbox.Flags{Keywords: []string{"b", "a", "a"}}); err != nil {
		t.Fatal(err)
	}
	<-ch
	if err := b.CreateFolder("Sub/Two"); err != nil {
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
	if _, _, err := b.Append("INBOX", stage(t, s, "x"), mailbox.Flags{}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if err := b.Fits(1); !errors.Is(err, mailbox.ErrOverQuota) {
		t.Fatalf("fits: %v", err)
	}
	if err := b.Deliver(t.Context(), "f", stage(t, s, "x"), "", true); err != nil {
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
		if _, _, err := b.Append("INBOX", stage(t, s, "x"), mailbox.Flags{System: mailbox.Deleted}, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	f, _ := b.Folder("INBOX")
	if _, err := f.Snapshot(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.SetFlags([]mailbox.UID{2}, mailbox.FlagsRemove, mailbox.Flags{System: mailbox.Deleted}); err != nil {
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
	if err != nil || len(snap.Messages) != 2 || snap.Messages[0].UID != 1 {
		t.Fatalf("%+v %v", snap, err)
	}
	if _, err := f.Open(1); err != nil {
		t.Fatal(err)
	}
}
