package maildir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/uidlist"
	"waypost/internal/vfs"
	"waypost/internal/vfs/crashfs"
)

// TestReplayStates puts each state in which a crash can leave a delivery on the
// disk, and replays.
func TestReplayStates(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(s *setup, file string) error
		sub    string // where it is afterwards
	}{
		{"all is there", func(*setup, string) error { return nil }, "new"},
		{"not linked", func(s *setup, file string) error { return os.Remove(s.path("new", file)) }, "new"},
		{"zeros", func(s *setup, file string) error { return os.WriteFile(s.path("new", file), make([]byte, 17), 0o600) }, "new"},
		{"empty", func(s *setup, file string) error { return os.Truncate(s.path("new", file), 0) }, "new"},
		{"read meanwhile", func(s *setup, file string) error {
			return os.Rename(s.path("new", file), s.path("cur", file+":2,"))
		}, "cur"},
		{"under both names", func(s *setup, file string) error {
			return os.Link(s.path("new", file), s.path("cur", file+":2,"))
		}, "cur"},
		{"the id is lost", func(s *setup, _ string) error { return os.Truncate(filepath.Join(s.root, deliveriesName), 0) }, "new"},
		{"no folder", func(s *setup, _ string) error { return os.RemoveAll(s.path("new")) }, "new"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSetup(t, nil)
			s.deliver("id", text(1), "")
			file := s.files("new")[0]
			s.powerless(func() { must(t, c.damage(s, file)) })
			if c.name != "under both names" {
				same(t, "files in "+c.sub, len(s.files(c.sub)), 1)
			}
			s.deliver("id", text(1), "")
			f := s.folder("INBOX")
			snap := s.snapshot(f)
			same(t, "messages", snap.Messages.Len(), 1)
			same(t, "text", s.read(f, 1), text(1))
			s.quotaIsExact()
		})
	}
}

// TestReplayRevivesNothing: what later records removed stays so.
func TestReplayRevivesNothing(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("A", ""))
	for i := range 4 {
		s.deliver(fmt.Sprint(i), text(i), "")
	}
	s.deliver("a", text(9), "A")
	f := s.folder("INBOX")
	s.snapshot(f)
	_, err := f.Expunge([]mailbox.UID{1})
	must(t, err)
	_, err = f.SetFlags([]mailbox.UID{2}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: system(mailbox.Flagged)})
	must(t, err)
	must(t, s.b.RenameFolder("A", "B"))
	_, err = f.Move([]mailbox.UID{3}, "B")
	must(t, err)
	must(t, s.b.CreateFolder("C", ""))
	s.append("C", text(5), mailbox.Flags{})
	must(t, s.b.DeleteFolder("C"))
	want := s.seen()
	s.powerless(func() {})
	sameList(t, "seen", s.seen(), want...)
	sameList(t, "folders", folderNames(s), "INBOX", "B")
	for i := range 4 {
		s.deliver(fmt.Sprint(i), text(i), "")
	}
	s.deliver("a", text(9), "A")
	sameList(t, "seen", s.seen(), want...)
	s.quotaIsExact()
}

// powerless leaves the journal as a crash does, damages the tree, and boots.
func (s *setup) powerless(damage func()) {
	s.t.Helper()
	dir := filepath.Join(s.base, "journal")
	kept := filepath.Join(s.base, "kept")
	for !s.copied(kept, dir) {
		must(s.t, os.RemoveAll(kept))
	}
	s.shut()
	must(s.t, os.RemoveAll(dir))
	must(s.t, os.Rename(kept, dir))
	damage()
	s.boot()
	s.open()
}

// copied copies the segments of a journal at work, and tells whether they are those of
// one moment: a checkpoint may take one away, or name it anew.
func (s *setup) copied(kept, dir string) bool {
	s.t.Helper()
	names := func() string {
		entries, err := os.ReadDir(dir)
		must(s.t, err)
		return fmt.Sprint(entries)
	}
	before := names()
	err := os.CopyFS(kept, os.DirFS(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	must(s.t, err)
	return names() == before
}

// TestAppliedLater: what the journal has and the files could not take is brought
// into them by whatever comes next.
func TestAppliedLater(t *testing.T) {
	for _, c := range []struct {
		name   string
		then   func(s *setup, m mailbox.Staged) error
		folder string
	}{
		{"delivered again", func(s *setup, m mailbox.Staged) error {
			return s.b.Deliver(context.Background(), one("id", m, "A", false))
		}, "A"},
		{"renamed", func(s *setup, _ mailbox.Staged) error { return s.b.RenameFolder("A", "B") }, "B"},
		{"frozen", func(s *setup, _ mailbox.Staged) error { return s.a.Flushed() }, "A"},
		{"read", func(*setup, mailbox.Staged) error { return nil }, "A"},
		{"closed", func(s *setup, _ mailbox.Staged) error { s.reopen(); return nil }, "A"},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := crashfs.New(1)
			s := newSetupOn(t, disk, "/data", nil)
			must(t, s.b.CreateFolder("A", ""))
			m := s.stage(text(1))
			defer m.Discard()
			disk.Fail(func(op crashfs.Op) error {
				if op.Kind == crashfs.LinkTo && strings.Contains(op.Name, "/new/") {
					return syscall.EIO
				}
				return nil
			})
			must(t, s.b.Deliver(context.Background(), one("id", m, "A", false)))
			same(t, "waiting", len(s.a.commits), 1)
			disk.Fail(nil)
			must(t, c.then(s, m))
			same(t, "messages", s.snapshot(s.folder(c.folder)).Messages.Len(), 1)
			same(t, "waiting", len(s.a.commits), 0)
			s.quotaIsExact()
		})
	}
}

// TestFlagsNotSetBack: a STORE fails half way, and what it has done cannot be taken
// back. Clients see that from then on, and a replay does not change it.
func TestFlagsNotSetBack(t *testing.T) {
	disk := crashfs.New(1)
	s := newSetupOn(t, disk, "/data", nil)
	for i := range 2 {
		s.deliver(fmt.Sprint(i), text(i), "")
	}
	f := s.folder("INBOX")
	s.snapshot(f)
	renames := 0
	disk.Fail(func(op crashfs.Op) error {
		if op.Kind != crashfs.Rename || !strings.Contains(op.Name, "/cur/") {
			return nil
		}
		if renames++; renames == 1 {
			return nil
		}
		return syscall.EIO
	})
	_, err := f.SetFlags([]mailbox.UID{1, 2}, mailbox.FlagChange{Op: mailbox.FlagsAdd, Flags: system(mailbox.Flagged)})
	disk.Fail(nil)
	if !errors.Is(err, syscall.EIO) || renames != 3 {
		t.Fatal(renames, err)
	}
	flags := func() (list []mailbox.System) {
		for _, m := range s.snapshot(s.folder("INBOX")).Messages.All() {
			list = append(list, m.Flags.System)
		}
		return list
	}
	sameList(t, "flags", flags(), mailbox.Flagged, 0)
	must(t, disk.SyncAll("/"))
	after := disk.Kill()
	dead := s.journal.Append("x", 0, nil, []byte{0})
	_ = dead.Wait() // the disk is down
	dead.Applied()
	_ = s.a.Close()
	_ = s.journal.Close()
	s.fs = after
	s.boot()
	s.open()
	sameList(t, "flags after a replay", flags(), mailbox.Flagged, 0)
}

func TestFailedDeliveryLeavesNothing(t *testing.T) {
	s := newSetup(t, nil)
	m := s.stage(text(1))
	defer m.Discard()
	// A log that is a folder cannot be appended to.
	must(t, os.Remove(filepath.Join(s.root, deliveriesName)))
	must(t, os.MkdirAll(filepath.Join(s.root, deliveriesName, "x"), 0o700))
	if err := s.b.Deliver(context.Background(), one("1", m, "", false)); err == nil {
		t.Fatal("delivered without its id")
	}
	same(t, "files in new", len(s.files("new")), 0)
	must(t, os.RemoveAll(filepath.Join(s.root, deliveriesName)))
	s.deliver("1", text(1), "")
	// A staged file that is gone.
	lost := s.stage(text(2))
	lost.Discard()
	if err := s.b.Deliver(context.Background(), one("2", lost, "", false)); err == nil {
		t.Fatal("delivered nothing")
	}
	if _, err := appendOne(s.b, "INBOX", lost, mailbox.Flags{}, time.Time{}); err == nil {
		t.Fatal("appended nothing")
	}
	same(t, "messages", s.snapshot(s.folder("INBOX")).Messages.Len(), 1)
	s.quotaIsExact()
}

func TestFullDiskIsTold(t *testing.T) {
	for _, err := range []error{syscall.ENOSPC, &os.PathError{Op: "write", Err: syscall.EDQUOT}} {
		if !errors.Is(outOfSpace(err), mailbox.ErrNoSpace) || !errors.Is(outOfSpace(err), err) {
			t.Errorf("%v became %v", err, outOfSpace(err))
		}
	}
	if errors.Is(outOfSpace(syscall.EIO), mailbox.ErrNoSpace) {
		t.Error("EIO is no full disk")
	}
}

// TestUncertainRefusesWrites: nobody knows what a journal that has failed will
// say after the next start.
func TestUncertainRefusesWrites(t *testing.T) {
	s := newSetup(t, nil)
	s.deliver("1", text(1), "")
	s.snapshot(s.folder("INBOX"))
	s.a.mu.Lock()
	err := s.a.doubt(syscall.EIO)
	s.a.mu.Unlock()
	if !errors.Is(err, ErrUncertain) || !s.a.Broken() {
		t.Fatal(err)
	}
	m := s.stage(text(2))
	defer m.Discard()
	if err := s.b.Deliver(context.Background(), one("2", m, "", false)); !errors.Is(err, ErrUncertain) {
		t.Fatal(err)
	}
	same(t, "messages", s.snapshot(s.folder("INBOX")).Messages.Len(), 1)
	if err := s.a.Flushed(); !errors.Is(err, ErrUncertain) {
		t.Fatal(err)
	}
	if err := s.a.Close(); !errors.Is(err, ErrUncertain) {
		t.Fatal(err)
	}
	s.open()
	s.deliver("2", text(2), "")
}

func TestRemoveLitter(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("A", ""))
	must(t, os.WriteFile(s.path("tmp", "1.litter"), nil, 0o600))
	must(t, os.WriteFile(s.path(".A", "tmp", "2.litter"), nil, 0o600))
	for _, what := range []string{"new.1", "deleted.2"} {
		must(t, os.MkdirAll(s.path(hiddenPrefix+what, "cur"), 0o700))
		must(t, os.WriteFile(s.path(hiddenPrefix+what, "cur", "1.2.h,S=9:2,"), nil, 0o600))
	}
	// A message's date says nothing of how long it has been here.
	must(t, os.Chtimes(s.path("tmp", "1.litter"), time.Unix(1, 0), time.Unix(1, 0)))
	n, err := RemoveLitter(vfs.OS, s.root, time.Now().Add(LitterAge-time.Hour))
	must(t, err)
	same(t, "removed too early", n, 0)
	n, err = RemoveLitter(vfs.OS, s.root, time.Now().Add(LitterAge+time.Hour))
	must(t, err)
	same(t, "removed", n, 4)
	same(t, "left", len(s.files("tmp")), 0)
	sameList(t, "folders", folderNames(s), "INBOX", "A")
	left, err := filepath.Glob(s.path(hiddenPrefix + "*"))
	must(t, err)
	same(t, "hidden folders", len(left), 0)
	s.quotaIsExact()
}

func TestCorruptUIDListRaisesValidity(t *testing.T) {
	s := newSetup(t, nil)
	s.deliver("1", text(1), "")
	before := s.snapshot(s.folder("INBOX"))
	for _, c := range []struct {
		name   string
		damage func(path string) error
	}{
		{"garbage", func(p string) error { return os.WriteFile(p, []byte("3 V4000000000 N3\nfoo\n1 :x\n"), 0o600) }},
		{"missing", os.Remove},
		{"empty", func(p string) error { return os.Truncate(p, 0) }},
	} {
		must(t, c.damage(s.path(uidlist.FileName)))
		after := s.snapshot(s.folder("INBOX"))
		if after.UIDValidity <= before.UIDValidity {
			t.Fatalf("%s: UIDVALIDITY %d after %d", c.name, after.UIDValidity, before.UIDValidity)
		}
		sameList(t, c.name, uids(after), 1)
		before = after
	}
	if before.UIDValidity <= 4000000000 {
		t.Errorf("UIDVALIDITY %d is not over that of the corrupt list", before.UIDValidity)
	}
	s.reopen()
	same(t, "UIDVALIDITY", s.snapshot(s.folder("INBOX")).UIDValidity, before.UIDValidity)
	must(t, s.b.CreateFolder("A", ""))
	if v := s.snapshot(s.folder("A")).UIDValidity; v <= before.UIDValidity {
		t.Errorf("a new folder has UIDVALIDITY %d, another has had %d", v, before.UIDValidity)
	}
}
