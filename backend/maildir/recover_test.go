package maildir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/uidlist"
)

// TestDeliveryStates puts each state of a delivery of the package comment on
// the disk, as a crash leaves it, and recovers.
func TestDeliveryStates(t *testing.T) {
	const file = "1700000000.M1P1Q1.test,S=5,W=7"
	logged := "1700000000 id . " + file + "\n"
	for _, c := range []struct {
		name, log  string
		in         string // where the file is, with its flags
		finished   bool   // by recovery alone
		finalCount int    // after delivering the id again
	}{
		{"linked", "", "tmp", false, 1},
		{"log torn", strings.TrimSuffix(logged, "\n"), "tmp", false, 1},
		{"logged", logged, "tmp", true, 1},
		{"renamed", logged, "new", true, 1},
		{"expunged since", logged, "", false, 0},
		// What a file system without atomic renames shows after a power failure.
		{"under both names", logged, "tmp new", true, 1},
		{"read under both names", logged, "tmp cur:2,S", true, 1},
	} {
		for _, recovering := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%v", c.name, recovering), func(t *testing.T) {
				s := newSetup(t, nil)
				must(t, s.a.Close())
				must(t, os.WriteFile(filepath.Join(s.root, deliveriesName), []byte(c.log), 0o600))
				first := ""
				for where := range strings.FieldsSeq(c.in) {
					sub, info, _ := strings.Cut(where, ":")
					path := s.path(sub, file)
					if info != "" {
						path += ":" + info
					}
					if first == "" {
						must(t, os.WriteFile(path, []byte("a\nb\nc"), 0o600))
						first = path
					} else {
						must(t, os.Link(first, path))
					}
				}
				s.open(recovering)
				want := 0
				if c.finished && (recovering || c.in != "tmp") {
					want = 1
				}
				same(t, "messages", len(s.snapshot(s.folder("INBOX")).Messages), want)
				s.deliver("id", "a\r\nb\r\nc", "")
				same(t, "messages after all", len(s.snapshot(s.folder("INBOX")).Messages), c.finalCount)
				same(t, "files in tmp", len(pendingFiles(s)), 0)
				if recovering {
					s.quotaIsExact()
				}
			})
		}
	}
}

// TestPendingDelivery: a rename that failed after the id was logged is made up
// for by whatever comes first.
func TestPendingDelivery(t *testing.T) {
	for _, c := range []struct {
		name   string
		then   func(s *setup, m mailbox.Staged) error
		folder string
	}{
		{"delivered again", func(s *setup, m mailbox.Staged) error {
			return s.b.Deliver(context.Background(), "id", m, "A", false)
		}, "A"},
		{"renamed", func(s *setup, _ mailbox.Staged) error { return s.b.RenameFolder("A", "B") }, "B"},
		{"frozen", func(s *setup, _ mailbox.Staged) error { return s.a.Flushed() }, "A"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSetup(t, nil)
			must(t, s.b.CreateFolder("A"))
			m := s.stage(text(1))
			defer m.Discard()
			must(t, s.b.Deliver(context.Background(), "id", m, "A", false))
			// Back to the state that publish leaves when its rename fails.
			e, found, err := s.a.log.Find("id")
			if err != nil || !found {
				t.Fatal(found, err)
			}
			must(t, os.Rename(s.path(".A", "new", e.File), s.path(".A", "tmp", e.File)))
			s.a.pending[e.File] = ".A"
			s.a.addUsage(-m.Size(), -1)
			must(t, c.then(s, m))
			same(t, "messages", len(s.snapshot(s.folder(c.folder)).Messages), 1)
			same(t, "pending", len(s.a.pending), 0)
			s.quotaIsExact()
		})
	}
}

func TestFailedDeliveryLeavesNothing(t *testing.T) {
	s := newSetup(t, nil)
	m := s.stage(text(1))
	defer m.Discard()
	// A log that is a folder cannot be appended to.
	must(t, os.Remove(filepath.Join(s.root, deliveriesName)))
	must(t, os.MkdirAll(filepath.Join(s.root, deliveriesName, "x"), 0o700))
	if err := s.b.Deliver(context.Background(), "1", m, "", false); err == nil {
		t.Fatal("delivered without its id")
	}
	same(t, "files in tmp", len(s.files("tmp")), 0)
	must(t, os.RemoveAll(filepath.Join(s.root, deliveriesName)))
	s.deliver("1", text(1), "")
	// A staged file that is gone.
	lost := s.stage(text(2))
	lost.Discard()
	if err := s.b.Deliver(context.Background(), "2", lost, "", false); err == nil {
		t.Fatal("delivered nothing")
	}
	if _, _, err := s.b.Append("INBOX", lost, mailbox.Flags{}, time.Time{}); err == nil {
		t.Fatal("appended nothing")
	}
	same(t, "messages", len(s.snapshot(s.folder("INBOX")).Messages), 1)
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

func TestUncertainRefusesWrites(t *testing.T) {
	s := newSetup(t, nil)
	s.deliver("1", text(1), "")
	d, err := s.a.openDirectory(s.path("cur"))
	must(t, err)
	d.close() // so that the sync fails
	if err := d.sync(); !errors.Is(err, ErrUncertain) {
		t.Fatal(err)
	}
	m := s.stage(text(2))
	defer m.Discard()
	if err := s.b.Deliver(context.Background(), "2", m, "", false); !errors.Is(err, ErrUncertain) {
		t.Fatal(err)
	}
	same(t, "messages", len(s.snapshot(s.folder("INBOX")).Messages), 1)
	if err := s.a.Flushed(); !errors.Is(err, ErrUncertain) {
		t.Fatal(err)
	}
	if err := s.a.Close(); !errors.Is(err, ErrUncertain) {
		t.Fatal(err)
	}
	s.open(true)
	s.deliver("2", text(2), "")
}

func TestRecoveryRemovesHalfFolders(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.a.Close())
	for _, what := range []string{"new.1", "deleted.2"} {
		must(t, os.MkdirAll(s.path(hiddenPrefix+what, "cur"), 0o700))
		must(t, os.WriteFile(s.path(hiddenPrefix+what, "cur", "1.2.h,S=9:2,"), nil, 0o600))
	}
	s.open(true)
	list, err := s.b.Folders()
	must(t, err)
	same(t, "folders", len(list), 1)
	left, err := filepath.Glob(s.path(hiddenPrefix + "*"))
	must(t, err)
	same(t, "hidden folders", len(left), 0)
	s.quotaIsExact()
}

func TestRemoveLitter(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("A"))
	must(t, os.WriteFile(s.path("tmp", "1.litter"), nil, 0o600))
	must(t, os.WriteFile(s.path(".A", "tmp", "2.litter"), nil, 0o600))
	must(t, os.WriteFile(s.path("tmp", "3.logged"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(s.root, deliveriesName), []byte("1 id . 3.logged\n"), 0o600))
	// A message's date says nothing of how long it has been here.
	must(t, os.Chtimes(s.path("tmp", "1.litter"), time.Unix(1, 0), time.Unix(1, 0)))
	n, err := RemoveLitter(s.root, time.Now().Add(LitterAge-time.Hour))
	must(t, err)
	same(t, "removed too early", n, 0)
	n, err = RemoveLitter(s.root, time.Now().Add(LitterAge+time.Hour))
	must(t, err)
	same(t, "removed", n, 2)
	sameList(t, "left", s.files("tmp"), "3.logged")
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
	must(t, s.b.CreateFolder("A"))
	if v := s.snapshot(s.folder("A")).UIDValidity; v <= before.UIDValidity {
		t.Errorf("a new folder has UIDVALIDITY %d, another has had %d", v, before.UIDValidity)
	}
}
