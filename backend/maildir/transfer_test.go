package maildir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/internal/vfs"
)

func TestSetFlags(t *testing.T) {
	s := newSetup(t, nil)
	s.append("INBOX", text(1), mailbox.Flags{System: mailbox.Seen, Keywords: []string{"Work"}})
	s.append("INBOX", text(2), mailbox.Flags{})
	f := s.folder("INBOX")
	for _, c := range []struct {
		op    mailbox.FlagOp
		flags mailbox.Flags
		want  mailbox.Flags
	}{
		{mailbox.FlagsAdd, words("work", "$Junk"), mailbox.Flags{System: mailbox.Seen, Keywords: []string{"$Junk", "Work"}}},
		{mailbox.FlagsRemove, mailbox.Flags{System: mailbox.Seen | mailbox.Draft, Keywords: []string{"WORK", "Unknown"}}, words("$Junk")},
		{mailbox.FlagsAdd, system(mailbox.Draft | mailbox.Deleted), mailbox.Flags{System: mailbox.Draft | mailbox.Deleted, Keywords: []string{"$Junk"}}},
		{mailbox.FlagsSet, system(mailbox.Answered), system(mailbox.Answered)},
		{mailbox.FlagsSet, mailbox.Flags{}, mailbox.Flags{}},
	} {
		got, err := f.SetFlags([]mailbox.UID{1, 1, 99}, mailbox.FlagChange{Op: c.op, Flags: c.flags})
		must(t, err)
		if len(got.Changed) != 1 || !got.Changed[0].Flags.Equal(c.want) {
			t.Fatalf("%v %+v: got %+v, want %+v", c.op, c.flags, got, c.want)
		}
		snap := s.snapshot(f)
		if !snap.Messages.At(0).Flags.Equal(c.want) || !snap.Messages.At(1).Flags.Equal(mailbox.Flags{}) {
			t.Fatalf("snapshot %+v", snap)
		}
	}
	if _, err := f.SetFlags([]mailbox.UID{1}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: words("two words")}); err == nil {
		t.Error("took a keyword that is none")
	}
}

func TestTooManyKeywords(t *testing.T) {
	s := newSetup(t, nil)
	s.append("INBOX", text(1), mailbox.Flags{})
	f := s.folder("INBOX")
	all := mailbox.Flags{}
	for i := range 26 + maxWords {
		all.Keywords = append(all.Keywords, fmt.Sprintf("k%03d", i))
	}
	got, err := f.SetFlags([]mailbox.UID{1}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: all})
	must(t, err)
	sameList(t, "keywords", got.Changed[0].Flags.Keywords, all.Keywords...)
	more := mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: words("more")}
	if _, err := f.SetFlags([]mailbox.UID{1}, more); !errors.Is(err, ErrTooManyKeywords) {
		t.Fatal(err)
	}
	sameList(t, "keywords", s.snapshot(f).Messages.At(0).Flags.Keywords, all.Keywords...)
	// One that no message has any more makes room.
	_, err = f.SetFlags([]mailbox.UID{1}, mailbox.FlagChange{Op: mailbox.FlagsRemove, Flags: words("K003", "K100")})
	must(t, err)
	_, err = f.SetFlags([]mailbox.UID{1}, more)
	must(t, err)
	want := slices.DeleteFunc(append(all.Keywords, "more"), func(w string) bool { return w == "k003" || w == "k100" })
	for range 2 {
		sameList(t, "keywords", s.snapshot(f).Messages.At(0).Flags.Keywords, want...)
		s.reopen()
		f = s.folder("INBOX")
	}
}

func TestSetFlagsIsUndone(t *testing.T) {
	s := newSetup(t, nil)
	for i := range 3 {
		s.append("INBOX", text(i), mailbox.Flags{})
	}
	f := s.folder("INBOX")
	before := s.snapshot(f)
	// The second rename fails: its target is a folder.
	files := s.files("cur")
	must(t, os.MkdirAll(s.path("cur", files[1]+"S", "x"), 0o700))
	if _, err := f.SetFlags([]mailbox.UID{1, 2, 3}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: system(mailbox.Seen)}); err == nil {
		t.Fatal("no error")
	}
	after := s.snapshot(f)
	sameList(t, "UIDs", uids(after), uids(before)...)
	same(t, "unseen", after.Unseen, 3)
}

func TestCopyAndMove(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("A", ""))
	s.append("A", text(0), words("Other")) // so that letters differ
	s.deliver("1", text(1), "")
	s.append("INBOX", text(2), mailbox.Flags{System: mailbox.Seen, Keywords: []string{"Work"}})
	f, g := s.folder("INBOX"), s.folder("A")
	before := s.snapshot(f)
	r, err := f.Copy([]mailbox.UID{2, 9, 1}, "A")
	must(t, err)
	sameList(t, "source", r.Source, 1, 2)
	sameList(t, "dest", r.Dest, 2, 3)
	in := s.snapshot(g)
	same(t, "UIDVALIDITY", r.UIDValidity, in.UIDValidity)
	if !in.Messages.At(2).Flags.Equal(mailbox.Flags{System: mailbox.Seen, Keywords: []string{"Work"}}) {
		t.Errorf("copy has %+v", in.Messages.At(2))
	}
	if in.Messages.At(1).GUID == before.Messages.At(0).GUID {
		t.Error("a copy has the GUID of its original")
	}
	date, err := f.InternalDate(1)
	must(t, err)
	copied, err := g.InternalDate(2)
	must(t, err)
	same(t, "date", copied.Equal(date), true)
	s.quotaIsExact()
	r, err = f.Move([]mailbox.UID{1}, "A")
	must(t, err)
	sameList(t, "dest", r.Dest, 4)
	sameList(t, "left", uids(s.snapshot(f)), 2)
	same(t, "GUID", s.snapshot(g).Messages.At(3).GUID, before.Messages.At(0).GUID)
	same(t, "text", s.read(g, 4), text(1))
	// Back again: the old UID is not given twice.
	r, err = g.Move([]mailbox.UID{4}, "INBOX")
	must(t, err)
	sameList(t, "dest", r.Dest, 3)
	r, err = f.Move([]mailbox.UID{2}, "INBOX")
	must(t, err)
	sameList(t, "same folder", r.Dest, 4)
	r, err = f.Copy([]mailbox.UID{3}, "INBOX")
	must(t, err)
	sameList(t, "same folder", r.Dest, 5)
	sameList(t, "in the end", uids(s.snapshot(f)), 3, 4, 5)
	s.quotaIsExact()
	s.reopen()
	sameList(t, "after opening", uids(s.snapshot(s.folder("INBOX"))), 3, 4, 5)
	sameList(t, "after opening", uids(s.snapshot(s.folder("A"))), 1, 2, 3)
	if _, err := s.folder("INBOX").Copy([]mailbox.UID{3}, "None"); !errors.Is(err, mailbox.ErrNoFolder) {
		t.Error(err)
	}
}

// TestMoveIsFinished: a move that the journal has is done, whenever the files
// can take it.
func TestMoveIsFinished(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("A", ""))
	for i := range 3 {
		s.append("INBOX", text(i), mailbox.Flags{})
	}
	f, g := s.folder("INBOX"), s.folder("A")
	s.snapshot(g)
	// The second cannot get its name: there is a folder.
	block := s.path(".A", "cur", s.files("cur")[1])
	must(t, os.MkdirAll(filepath.Join(block, "x"), 0o700))
	r, err := f.Move([]mailbox.UID{1, 2, 3}, "A")
	must(t, err)
	// Who looks sees what was before, and who writes is put off.
	sameList(t, "in INBOX", uids(s.snapshot(f)), 1, 2, 3)
	same(t, "in A", s.snapshot(g).Messages.Len(), 0)
	if _, err := f.Expunge([]mailbox.UID{3}); err == nil {
		t.Fatal("expunged what was on its way")
	}
	must(t, os.RemoveAll(block))
	same(t, "in INBOX", s.snapshot(f).Messages.Len(), 0)
	sameList(t, "in A", uids(s.snapshot(g)), r.Dest...)
	s.reopen()
	sameList(t, "in A", uids(s.snapshot(s.folder("A"))), r.Dest...)
	s.quotaIsExact()
}

func TestCopyFile(t *testing.T) {
	s := newSetup(t, nil)
	date := time.Unix(1e9, 0)
	must(t, os.WriteFile(s.path("tmp", "a"), []byte("text"), 0o600))
	must(t, os.Chtimes(s.path("tmp", "a"), date, date))
	must(t, copyFile(vfs.OS, s.path("tmp", "a"), s.path("tmp", "b")))
	data, err := os.ReadFile(s.path("tmp", "b"))
	must(t, err)
	same(t, "text", string(data), "text")
	info, err := os.Stat(s.path("tmp", "b"))
	must(t, err)
	same(t, "date", info.ModTime().Equal(date), true)
	if err := copyFile(vfs.OS, s.path("tmp", "a"), s.path("tmp", "b")); !errors.Is(err, fs.ErrExist) {
		t.Error("replaced a file:", err)
	}
}

func TestCopyIsAllOrNone(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("A", ""))
	for i := range 3 {
		s.append("INBOX", text(i), mailbox.Flags{})
	}
	f := s.folder("INBOX")
	s.limit = mailbox.Limit{Messages: 5}
	if _, err := f.Copy([]mailbox.UID{1, 2, 3}, "A"); !errors.Is(err, mailbox.ErrOverQuota) {
		t.Fatal(err)
	}
	s.limit = mailbox.Limit{}
	g := s.folder("A")
	same(t, "copied", s.snapshot(g).Messages.Len(), 0)
	_, err := f.Copy([]mailbox.UID{1, 2, 3}, "A")
	must(t, err)
	same(t, "copied", s.snapshot(g).Messages.Len(), 3)
	s.quotaIsExact()
}
