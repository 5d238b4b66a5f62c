package maildir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"waypost/backend/journal"
)

// written is how many deliveries are in the log of ids.
func (s *setup) written() int {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.root, deliveriesName))
	must(s.t, err)
	return strings.Count(string(data), "\n")
}

// passed tells whether a checkpoint has passed all that there is.
func (s *setup) passed() bool {
	s.t.Helper()
	_ = s.journal.Checkpoint()
	stats := s.journal.Stats()
	return stats.Checkpoint == stats.LastLSN
}

// TestLateIsWritten: the ids and the quota of deliveries come into their files with
// the next checkpoint, or when they are many, and count from the beginning.
func TestLateIsWritten(t *testing.T) {
	s := newSetup(t, nil)
	for i := range 3 {
		s.deliver(fmt.Sprint(i), text(i), "")
	}
	same(t, "ids before a checkpoint", s.written(), 0)
	s.deliver("1", text(1), "")
	same(t, "messages", len(s.files("new")), 3)
	same(t, "all passed", s.passed(), true)
	same(t, "ids", s.written(), 3)
	s.quotaIsExact()
	for i := range maxLate {
		s.deliver(fmt.Sprint("more ", i), text(i), "")
	}
	same(t, "ids when they are many", s.written(), 3+maxLate)
	s.deliver("last", text(9), "")
	s.reopen()
	same(t, "ids when it was closed", s.written(), 4+maxLate)
	same(t, "all passed when it was closed", s.passed(), true)
	s.quotaIsExact()
}

// TestLateIsReplayed: a crash before they are written loses nothing.
func TestLateIsReplayed(t *testing.T) {
	s := newSetup(t, nil)
	s.deliver("early", text(1), "")
	same(t, "all passed", s.passed(), true)
	s.deliver("late", text(2), "")
	log := filepath.Join(s.root, deliveriesName)
	before, err := os.ReadFile(log)
	must(t, err)
	s.powerless(func() { must(t, os.WriteFile(log, before, 0o600)) })
	for _, id := range []string{"early", "late"} {
		s.deliver(id, text(3), "")
	}
	same(t, "messages", len(s.files("new")), 2)
	s.quotaIsExact()
}

// TestLateFails: as long as ids cannot be written no checkpoint passes their
// deliveries, and there are no more.
func TestLateFails(t *testing.T) {
	s := newSetup(t, nil)
	s.deliver("early", text(1), "")
	same(t, "all passed", s.passed(), true)
	log := filepath.Join(s.root, deliveriesName)
	whole, err := os.ReadFile(log)
	must(t, err)
	must(t, os.Truncate(log, 0))
	s.deliver("late", text(2), "")
	same(t, "passed what is not written", s.passed(), false)
	m := s.stage(text(3))
	if err := s.b.Deliver(t.Context(), one("no more", m, "", false)); err == nil {
		t.Error("a delivery whose id cannot be written")
	}
	must(t, os.WriteFile(log, whole, 0o600))
	must(t, s.b.Deliver(t.Context(), one("no more", m, "", false)))
	m.Discard()
	same(t, "all passed in the end", s.passed(), true)
	same(t, "ids", s.written(), 3)
	same(t, "messages", len(s.files("new")), 3)
}

// TestFoldersBesideLate: folders are renamed and deleted though ids cannot be written, but the
// user is not handed on.
func TestFoldersBesideLate(t *testing.T) {
	s := newSetup(t, nil)
	must(t, s.b.CreateFolder("A", ""))
	s.deliver("early", text(1), "A")
	same(t, "all passed", s.passed(), true)
	log := filepath.Join(s.root, deliveriesName)
	whole, err := os.ReadFile(log)
	must(t, err)
	s.deliver("put off", text(2), "A")
	must(t, s.b.RenameFolder("A", "B"))
	must(t, os.Truncate(log, 0))
	must(t, s.b.RenameFolder("B", "C"))
	must(t, s.b.DeleteFolder("C"))
	if err := s.a.Flushed(); err == nil || s.a.Broken() {
		t.Errorf("flushed, and the id is in the journal alone: %v, %v", err, s.a.Broken())
	}
	must(t, os.WriteFile(log, whole, 0o600))
	must(t, s.a.Flushed())
	same(t, "ids", s.written(), 2)
}

// TestUnappliedIsNotHandedOn: an Account was closed for its doubts and left what it had
// journaled to the next replay. The backend ends, so that the user is not handed on before: the
// records would be of an epoch that is over.
func TestUnappliedIsNotHandedOn(t *testing.T) {
	s := newSetup(t, nil)
	s.deliver("early", text(1), "")
	same(t, "all passed", s.passed(), true)
	log := filepath.Join(s.root, deliveriesName)
	whole, err := os.ReadFile(log)
	must(t, err)
	must(t, os.Truncate(log, 0))
	s.deliver("late", text(2), "")
	s.a.mu.Lock()
	_ = s.a.doubt(syscall.EIO)
	s.a.mu.Unlock()
	if err := s.a.Close(); err == nil || !s.a.Closed() {
		t.Fatal(err)
	}
	must(t, os.WriteFile(log, whole, 0o600))
	if err := s.journal.Flush(testUser); !errors.Is(err, journal.ErrFailed) {
		t.Errorf("handed on: %v", err)
	}
	if err := s.journal.Close(); !errors.Is(err, journal.ErrFailed) {
		t.Fatal(err)
	}
	s.boot()
	s.open()
	must(t, s.a.Flushed())
	same(t, "ids", s.written(), 2)
	same(t, "messages", len(s.files("new")), 2)
}

// TestCheckpointWaitsForNobody: an operation that holds the mailbox, and may wait
// for the journal itself, does not keep a checkpoint from ending.
func TestCheckpointWaitsForNobody(t *testing.T) {
	s := newSetup(t, nil)
	s.deliver("id", text(1), "")
	s.a.mu.Lock()
	same(t, "passed beside an operation", s.passed(), false)
	s.a.mu.Unlock()
	same(t, "passed after it", s.passed(), true)
}
