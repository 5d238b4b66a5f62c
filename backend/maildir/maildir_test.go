package maildir

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/internal/vfs"
)

func TestOpenNeverCreates(t *testing.T) {
	root := filepath.Join(t.TempDir(), "nobody")
	o := Options{FS: vfs.OS, Root: root, Limit: func() mailbox.Limit { return mailbox.Limit{} }, Now: time.Now}
	if _, err := Open(o); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("opened: %v", err)
	}
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("made something")
	}
}

func TestCreateIsIdempotent(t *testing.T) {
	s := newSetup(t, nil)
	s.deliver("1", text(1), "")
	before := s.snapshot(s.folder("INBOX"))
	s.b.Close()
	must(t, s.a.Close())
	must(t, Create(vfs.OS, s.root))
	s.open()
	after := s.snapshot(s.folder("inbox"))
	same(t, "UIDVALIDITY", after.UIDValidity, before.UIDValidity)
	sameList(t, "UIDs", uids(after), 1)
}

func TestDeliverAndRead(t *testing.T) {
	s := newSetup(t, nil)
	in := "A: b\r\n\r\nx\r\nlone\rcr\r\n"
	s.deliver("id-1", in, "")
	s.deliver("id-1", in, "")
	s.deliver("id-2", text(2), "No/Such")
	f := s.folder("INBOX")
	st, err := f.Status()
	must(t, err)
	same(t, "messages", st.Messages, 2)
	same(t, "recent", st.Recent, 2)
	same(t, "UIDNEXT", st.UIDNext, mailbox.UID(3))
	snap := s.snapshot(f)
	sameList(t, "UIDs", uids(snap), 1, 2)
	same(t, "size", snap.Messages.At(0).Size, int64(len(in)-4))
	same(t, "wire size", snap.Messages.At(0).WireSize, int64(len(in)))
	sameList(t, "recent", snap.Recent, 1, 2)
	same(t, "unseen", snap.Unseen, 2)
	same(t, "text", s.read(f, 1), in)
	same(t, "recent for another", len(s.snapshot(s.folder("INBOX")).Recent), 0)
	same(t, "files in new", len(s.files("new")), 0)
	same(t, "files in tmp", len(s.files("tmp")), 0)
	s.quotaIsExact()
	// The id is remembered by the next process as well.
	s.reopen()
	s.deliver("id-1", in, "")
	sameList(t, "UIDs", uids(s.snapshot(s.folder("INBOX"))), 1, 2)
}

func TestBodyOutlivesExpunge(t *testing.T) {
	s := newSetup(t, nil)
	s.deliver("1", text(1), "")
	f := s.folder("INBOX")
	s.snapshot(f)
	b, err := f.Open(1)
	must(t, err)
	defer b.Close()
	if _, err := io.ReadFull(b, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	gone, err := f.Expunge([]mailbox.UID{1, 7})
	must(t, err)
	sameList(t, "expunged", gone, 1)
	_, err = b.Seek(0, io.SeekStart)
	must(t, err)
	data, err := io.ReadAll(b)
	must(t, err)
	same(t, "text", string(data), text(1))
	if _, err := f.Open(1); !errors.Is(err, mailbox.ErrNoMessage) {
		t.Fatal(err)
	}
	if _, err := f.InternalDate(1); !errors.Is(err, mailbox.ErrNoMessage) {
		t.Fatal(err)
	}
	s.quotaIsExact()
}

func TestAppendKeepsDateAndFlags(t *testing.T) {
	s := newSetup(t, nil)
	date := time.Unix(1000000000, 0)
	m := s.stage(text(1))
	flags := mailbox.Flags{System: mailbox.Seen | mailbox.Flagged, Keywords: []string{"$Forwarded", "Work"}}
	uid, err := appendOne(s.b, "INBOX", m, flags, date)
	must(t, err)
	m.Discard()
	s.reopen()
	f := s.folder("INBOX")
	snap := s.snapshot(f)
	if snap.Messages.Len() != 1 || !snap.Messages.At(0).Flags.Equal(flags) || snap.Messages.At(0).UID != uid {
		t.Fatalf("%+v", snap)
	}
	got, err := f.InternalDate(uid)
	must(t, err)
	same(t, "date", got.Unix(), date.Unix())
	m = s.stage(text(2))
	defer m.Discard()
	if _, err := appendOne(s.b, "None", m, mailbox.Flags{}, time.Time{}); !errors.Is(err, mailbox.ErrNoFolder) {
		t.Fatal(err)
	}
}

func TestQuota(t *testing.T) {
	s := newSetup(t, nil)
	s.deliver("1", text(1), "")
	s.limit = mailbox.Limit{Messages: 2}
	must(t, s.b.Fits(10))
	s.append("INBOX", text(2), mailbox.Flags{})
	if err := s.b.Fits(1); !errors.Is(err, mailbox.ErrOverQuota) {
		t.Fatal(err)
	}
	m := s.stage(text(3))
	defer m.Discard()
	if err := s.b.Deliver(context.Background(), one("3", m, "", false)); !errors.Is(err, mailbox.ErrOverQuota) {
		t.Fatal(err)
	}
	if _, err := appendOne(s.b, "INBOX", m, mailbox.Flags{}, time.Time{}); !errors.Is(err, mailbox.ErrOverQuota) {
		t.Fatal(err)
	}
	f := s.folder("INBOX")
	if _, err := f.Copy(uids(s.snapshot(f)), "INBOX"); !errors.Is(err, mailbox.ErrOverQuota) {
		t.Fatal(err)
	}
	must(t, s.b.Deliver(context.Background(), one("3", m, "", true)))
	// Delivered already: nothing to refuse.
	must(t, s.b.Deliver(context.Background(), one("3", m, "", false)))
	u, err := s.b.Usage()
	must(t, err)
	same(t, "messages", u.Messages, 3)
	data, err := os.ReadFile(s.path(quotaName))
	must(t, err)
	if !strings.HasPrefix(string(data), "2C\n") && !strings.Contains(strings.SplitN(string(data), "\n", 2)[0], "2C") {
		t.Errorf("limit not written: %q", data)
	}
	s.quotaIsExact()
}

func TestStaleEpoch(t *testing.T) {
	s := newSetup(t, nil)
	f := s.folder("INBOX")
	s.guard.epoch.Store(5)
	if _, err := f.Snapshot(); err != mailbox.ErrStale {
		t.Fatalf("not as it was given: %v", err)
	}
	m := s.stage(text(1))
	defer m.Discard()
	if err := s.b.Deliver(context.Background(), one("1", m, "", false)); err != mailbox.ErrStale {
		t.Fatal(err)
	}
	s.guard.epoch.Store(0)
	s.b.Close()
	if _, err := f.Snapshot(); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestStageBounds(t *testing.T) {
	s := newSetup(t, nil)
	ctx := context.Background()
	if _, err := s.stager.Stage(ctx, "H: 1\n", strings.NewReader("12345\r\n"), 10); !errors.Is(err, mailbox.ErrTooLarge) {
		t.Fatal(err)
	}
	m, err := s.stager.Stage(ctx, "H: 1\n", strings.NewReader("12345\r\n"), 11)
	must(t, err)
	same(t, "size", m.Size(), 11)
	same(t, "wire size", m.WireSize(), 13)
	broken := errors.New("line cut")
	if _, err := s.stager.Stage(ctx, "", io.MultiReader(strings.NewReader("x"), errReader{broken}), 0); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	m.Discard()
	// A long message has a name, which it loses when nobody needs it.
	files := func() int {
		entries, err := os.ReadDir(s.stager.dir)
		must(t, err)
		return len(entries)
	}
	long := s.stage(strings.Repeat("x", maxInline+1))
	same(t, "staged files", files(), 1)
	long.Discard()
	same(t, "staged files", files(), 0)
	s.stage(strings.Repeat("x", maxInline+1)) // and the process ends
	_, err = NewStager(vfs.OS, s.journal, s.stager.dir)
	must(t, err)
	same(t, "staged files", files(), 0)
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

func TestChangedTellsOwnChanges(t *testing.T) {
	s := newSetup(t, nil)
	f, g := s.folder("INBOX"), s.folder("INBOX")
	v := s.snapshot(f).Version
	wait := f.Changed(v)
	s.deliver("1", text(1), "")
	arrives(t, wait)
	arrives(t, f.Changed(v))
	v = s.snapshot(f).Version
	s.snapshot(g)
	wait = f.Changed(v)
	_, err := g.SetFlags([]mailbox.UID{1}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: system(mailbox.Seen)})
	must(t, err)
	arrives(t, wait)
	same(t, "seen", s.snapshot(f).Messages.At(0).Flags.Has(mailbox.Seen), true)
}

func TestChangedTellsForeignChanges(t *testing.T) {
	s := newSetup(t, nil)
	f := s.folder("INBOX")
	wait := f.Changed(s.snapshot(f).Version)
	must(t, os.WriteFile(s.path("new", "1700000000.1.foreign"), []byte("A: b\n\nc\n"), 0o600))
	arrives(t, wait)
	snap := s.snapshot(f)
	same(t, "messages", snap.Messages.Len(), 1)
	same(t, "size", snap.Messages.At(0).Size, 8)
	same(t, "wire size", snap.Messages.At(0).WireSize, 11)
}

func arrives(t *testing.T, wait <-chan struct{}) {
	t.Helper()
	select {
	case <-wait:
	case <-time.After(20 * time.Second):
		t.Fatal("no change told")
	}
}
