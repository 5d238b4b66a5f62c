package maildir

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"waypost/backend/mailbox"
)

func folderNames(s *setup) []string {
	s.t.Helper()
	list, err := s.b.Folders()
	must(s.t, err)
	var names []string
	for _, f := range list {
		name := f.Name
		if f.NoSelect {
			name = "(" + name + ")"
		}
		names = append(names, name)
	}
	return names
}

func TestFolderNames(t *testing.T) {
	s := newSetup(t, nil)
	for _, bad := range []string{
		"", "/", "A/", "/A", "A//B", "a.b", "..", "a\x00b", "a\nb", "a\u0085b", "~root", "\xff",
		strings.Repeat("x", 201), strings.Repeat("ä", 100),
	} {
		if err := s.b.CreateFolder(bad, ""); !errors.Is(err, mailbox.ErrBadName) {
			t.Errorf("create %.20q: %v", bad, err)
		}
		if err := s.b.Subscribe(bad, true); !errors.Is(err, mailbox.ErrBadName) {
			t.Errorf("subscribe %.20q: %v", bad, err)
		}
		if _, err := s.b.Folder(bad); !errors.Is(err, mailbox.ErrBadName) {
			t.Errorf("open %.20q: %v", bad, err)
		}
		s.deliver("to "+bad, text(1), bad) // to INBOX
	}
	for _, good := range []string{"R&D", "inbox/Sub", "Entwürfe", "日本語/台北", "a b", "user@host", "cur", strings.Repeat("x", 199)} {
		must(t, s.b.CreateFolder(good, ""))
		s.folder(good)
		if err := s.b.CreateFolder(good, ""); !errors.Is(err, mailbox.ErrFolderExists) {
			t.Errorf("create %q again: %v", good, err)
		}
	}
	sameList(t, "folders", folderNames(s), "INBOX", "Entwürfe", "INBOX/Sub", "R&D", "a b", "cur", "user@host",
		strings.Repeat("x", 199), "(日本語)", "日本語/台北")
	if err := s.b.CreateFolder("inbox", ""); !errors.Is(err, mailbox.ErrFolderExists) {
		t.Error(err)
	}
}

func FuzzFolderName(f *testing.F) {
	for _, seed := range []string{".A.B", ".Entw&APw-rfe", ".Entwürfe", ".R&D", "..x", ".a..b", ".INBOX.x", ".&AOQ"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, rel string) {
		if strings.Contains(rel, "/") {
			return // no file has such a name
		}
		folder, ok := folderOf(rel)
		if !ok {
			return
		}
		same, err := canonical(folder)
		if err != nil || same != folder {
			t.Fatalf("%q is %q, canonically %q, %v", rel, folder, same, err)
		}
		dir, err := directoryOf(folder)
		if err != nil {
			return // too long for us to make
		}
		if back, ok := folderOf(dir); !ok || back != folder {
			t.Fatalf("%q is %q, whose directory %q is %q", rel, folder, dir, back)
		}
		raw := "." + strings.ReplaceAll(folder, "/", ".")
		if rel != dir && rel != raw {
			t.Fatalf("%q is %q, which is not found there", rel, folder)
		}
	})
}

func TestFolderGoneForeign(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("A", ""))
	f := s.folder("A")
	s.snapshot(f)
	must(t, os.RemoveAll(s.path(".A")))
	if _, err := f.Snapshot(); !errors.Is(err, mailbox.ErrNoFolder) {
		t.Error(err)
	}
	if _, err := f.Status(); !errors.Is(err, mailbox.ErrNoFolder) {
		t.Error(err)
	}
	// A missing part of INBOX is trouble, and no empty mailbox.
	in := s.folder("INBOX")
	must(t, os.Remove(s.path("cur")))
	if snap, err := in.Snapshot(); err == nil || errors.Is(err, mailbox.ErrNoFolder) {
		t.Error(snap, err)
	}
}

func TestDeleteFolder(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("A", ""))
	must(t, s.b.CreateFolder("A/B", ""))
	s.append("A", text(1), mailbox.Flags{})
	s.append("A/B", text(2), mailbox.Flags{})
	f := s.folder("A")
	snap := s.snapshot(f)
	wait := f.Changed(snap.Version)
	must(t, s.b.DeleteFolder("A"))
	arrives(t, wait)
	if _, err := f.Snapshot(); !errors.Is(err, mailbox.ErrNoFolder) {
		t.Error(err)
	}
	s.quotaIsExact()
	sameList(t, "folders", folderNames(s), "INBOX", "(A)", "A/B")
	for _, c := range []struct {
		folder string
		want   error
	}{{"A", mailbox.ErrNoFolder}, {"INBOX", mailbox.ErrBadName}, {"None", mailbox.ErrNoFolder}} {
		if err := s.b.DeleteFolder(c.folder); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.folder, err)
		}
	}
	must(t, s.b.CreateFolder("A", ""))
	again := s.snapshot(s.folder("A"))
	if again.UIDValidity <= snap.UIDValidity || again.Messages.Len() != 0 {
		t.Errorf("%+v after %+v", again, snap)
	}
	if _, err := f.Expunge([]mailbox.UID{1}); !errors.Is(err, mailbox.ErrNoFolder) {
		t.Error("an old handle works on the new folder:", err)
	}
}

func TestRenameFolder(t *testing.T) {
	s := newSetup(t, nil)
	for _, f := range []string{"A", "A/B", "A/B/C", "AA", "X"} {
		must(t, s.b.CreateFolder(f, ""))
	}
	s.append("A/B", text(1), mailbox.Flags{})
	f := s.folder("A/B")
	before := s.snapshot(f)
	for _, c := range []struct {
		from, to string
		want     error
	}{
		{"A", "X", mailbox.ErrFolderExists}, {"A", "A/Y", mailbox.ErrBadName}, {"None", "Y", mailbox.ErrNoFolder},
		{"A", "inbox", mailbox.ErrFolderExists}, {"A", "Y.Z", mailbox.ErrBadName}, {"INBOX", "X", mailbox.ErrFolderExists},
		{"A", strings.Repeat("x", 198), mailbox.ErrBadName},
	} {
		if err := s.b.RenameFolder(c.from, c.to); !errors.Is(err, c.want) {
			t.Errorf("%s to %.9s: %v", c.from, c.to, err)
		}
	}
	must(t, s.b.RenameFolder("A", "Ü/A"))
	sameList(t, "folders", folderNames(s), "INBOX", "AA", "X", "(Ü)", "Ü/A", "Ü/A/B", "Ü/A/B/C")
	after := s.snapshot(s.folder("Ü/A/B"))
	same(t, "UIDVALIDITY", after.UIDValidity, before.UIDValidity)
	sameList(t, "UIDs", uids(after), 1)
	// A handle that was open goes on.
	_, err := f.SetFlags([]mailbox.UID{1}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: system(mailbox.Seen)})
	must(t, err)
	s.append("Ü/A/B", text(2), mailbox.Flags{})
	sameList(t, "UIDs", uids(s.snapshot(f)), 1, 2)
	s.quotaIsExact()
}

func TestRenameInbox(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("INBOX/Sub", ""))
	s.deliver("1", text(1), "")
	s.append("INBOX", text(2), system(mailbox.Seen))
	must(t, s.b.RenameFolder("INBOX", "Old"))
	same(t, "in INBOX", s.snapshot(s.folder("INBOX")).Messages.Len(), 0)
	same(t, "in Old", s.snapshot(s.folder("Old")).Messages.Len(), 2)
	sameList(t, "folders", folderNames(s), "INBOX", "INBOX/Sub", "Old")
	s.quotaIsExact()
}

func TestSubscriptions(t *testing.T) {
	s := newSetup(t, nil)
	must(t, os.WriteFile(s.path(subscriptionsName), []byte("V\t2\n\nINBOX\nold.name\n"), 0o600))
	must(t, s.b.Subscribe("Not/There", true))
	must(t, s.b.Subscribe("Not/There", true))
	must(t, s.b.Subscribe("Inbox", true))
	must(t, s.b.Subscribe("old.name", false)) // cannot be stored, and must go
	must(t, s.b.Subscribe("Never", false))
	list, err := s.b.Subscriptions()
	must(t, err)
	sameList(t, "subscriptions", list, "INBOX", "Not/There")
}

func TestCreateFolderOnDelivery(t *testing.T) {
	s := newSetup(t, func(o *Options) { o.CreateFolderOnDelivery = true })
	s.deliver("1", text(1), "inbox/Lists/go")
	s.deliver("2", text(2), "bad.name")
	same(t, "in the folder", s.snapshot(s.folder("INBOX/Lists/go")).Messages.Len(), 1)
	same(t, "in INBOX", s.snapshot(s.folder("INBOX")).Messages.Len(), 1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	m := s.stage(text(3))
	defer m.Discard()
	if err := s.b.Deliver(ctx, one("3", m, "", false)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
