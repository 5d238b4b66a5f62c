package spool_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"waypost/mx/spool"
)

// TestReservation: it counts, it is durable, it is seen from Commit on, and
// Cancel leaves nothing.
func TestReservation(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, spool.Options{MaxEntries: 1})
	reserve := func(id string) (*spool.Reservation, error) {
		d := s.Draft()
		io.WriteString(d, "x")
		return s.Reserve(d, envelope(id, "u@x.test"))
	}
	r, err := reserve("a1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reserve("a2"); !errors.Is(err, spool.ErrFull) {
		t.Errorf("over the limit: %v", err)
	}
	if len(s.List()) != 0 || len(files(t, dir)) != 2 {
		t.Errorf("%q", files(t, dir))
	}
	if err := r.Cancel(); err != nil || len(files(t, dir)) != 0 {
		t.Errorf("%v, %q", err, files(t, dir))
	}
	if r, err = reserve("a3"); err != nil {
		t.Fatal(err)
	}
	if err := r.Commit(envelope("a3", "v@x.test").Recipients, time.Hour); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir, spool.Options{})
	if l := s.List(); len(l) != 1 || len(l[0].Recipients) != 2 || message(t, s, "a3") != "x" {
		t.Errorf("%+v", l)
	}
}
