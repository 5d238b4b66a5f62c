package memory

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"waypost/director"
	"waypost/director/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) director.Store { return New() })
}

func put(t *testing.T, s *Store, key, value string) int64 {
	t.Helper()
	rev, done, err := s.Commit(t.Context(), nil, []director.Op{{Key: key, Value: []byte(value)}})
	if err != nil || !done {
		t.Fatalf("put %s: %v, %v", key, done, err)
	}
	return rev
}

func TestCommitHook(t *testing.T) {
	for _, c := range []struct {
		outcome Outcome
		err     error
		made    bool
	}{
		{Normal, nil, true},
		{Unavailable, director.ErrUnavailable, false},
		{UnknownDone, director.ErrUnknown, true},
		{UnknownNotDone, director.ErrUnknown, false},
	} {
		s := New()
		s.SetCommitHook(func(g []director.Guard, ops []director.Op) Outcome { return c.outcome })
		_, done, err := s.Commit(t.Context(), nil, []director.Op{{Key: "a", Value: []byte("v")}})
		if !errors.Is(err, c.err) || done != (err == nil) {
			t.Errorf("outcome %d: done %v, %v", c.outcome, done, err)
		}
		if e, _ := s.Get(t.Context(), "a"); (e.Rev != 0) != c.made {
			t.Errorf("outcome %d: %+v", c.outcome, e)
		}
		_ = s.Close()
	}
}

func TestDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		defer s.Close()
		w := s.Watch(t.Context(), "", 0)
		<-w // the first progress
		put(t, s, "a", "1")
		if b := <-w; len(b.Changes) != 1 {
			t.Fatalf("batch %+v", b)
		}
		l, err := s.Grant(t.Context(), 9*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		s.SetDown(true)
		if _, err := s.Get(t.Context(), "a"); !errors.Is(err, director.ErrUnavailable) {
			t.Fatalf("Get: %v", err)
		}
		if _, _, err := s.Commit(t.Context(), nil, nil); !errors.Is(err, director.ErrUnavailable) {
			t.Fatalf("Commit: %v", err)
		}
		<-l.Done() // a lease does not outlive a long outage
		select {
		case b := <-w:
			t.Fatalf("a watch of a store that is down gave %+v", b)
		default:
		}
		s.SetDown(false)
		if b := <-w; b.Err != nil {
			t.Fatalf("batch %+v", b)
		}
	})
}

func TestPausedWatchCatchesUp(t *testing.T) {
	s := New()
	defer s.Close()
	w := s.Watch(t.Context(), "", s.Revision()+1)
	<-w
	s.PauseWatches(true)
	for i := range 3 * batchLimit {
		put(t, s, fmt.Sprint(i), "v")
	}
	s.PauseWatches(false)
	var last int64
	for n := 0; n < 3*batchLimit; {
		b := <-w
		n += len(b.Changes)
		for _, c := range b.Changes {
			if c.Rev != last+1 && last != 0 {
				t.Fatalf("revision %d after %d", c.Rev, last)
			}
			last = c.Rev
		}
	}
}

func TestCompactedAndBrokenWatches(t *testing.T) {
	s := New()
	defer s.Close()
	rev := put(t, s, "a", "1")
	put(t, s, "a", "2")
	current := s.Watch(t.Context(), "", 0)
	s.Compact()
	var err error
	for b := range s.Watch(t.Context(), "", rev) {
		err = b.Err
	}
	if err == nil {
		t.Fatal("a watch from a compacted revision ended without error")
	}
	put(t, s, "a", "3")
	for b := range current { // is not behind, so it goes on
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		if len(b.Changes) > 0 {
			break
		}
	}
	s.BreakWatches()
	for b := range current {
		err = b.Err
	}
	if err == nil {
		t.Fatal("BreakWatches: no error")
	}
}

func TestHistoryIsBounded(t *testing.T) {
	s := New()
	defer s.Close()
	s.PauseWatches(true)
	w := s.Watch(t.Context(), "", 0)
	ops := make([]director.Op, maxOps)
	for i := range ops {
		ops[i] = director.Op{Key: fmt.Sprint(i), Value: []byte("v")}
	}
	for range 2 * historyLimit / maxOps {
		if _, _, err := s.Commit(t.Context(), nil, ops); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.history); n > historyLimit*5/4 {
		t.Fatalf("history of %d changes", n)
	}
	if s.history[0].Rev == s.compacted {
		t.Fatal("half a revision was kept")
	}
	s.PauseWatches(false)
	var err error
	for b := range w {
		err = b.Err
	}
	if err == nil {
		t.Fatal("a watch that fell out of the history ended without error")
	}
}

func TestExpireLease(t *testing.T) {
	s := New()
	defer s.Close()
	l, err := s.Grant(context.Background(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Commit(t.Context(), nil, []director.Op{{Key: "a", Value: []byte("v"), Lease: l.ID()}}); err != nil {
		t.Fatal(err)
	}
	if !s.ExpireLease(l.ID()) || s.ExpireLease(l.ID()) {
		t.Fatal("a lease expires once")
	}
	<-l.Done()
	if e, _ := s.Get(t.Context(), "a"); e.Rev != 0 {
		t.Fatalf("leased key: %+v", e)
	}
}

// TestFailedRevoke: a lease that could not be revoked expires all the same.
func TestFailedRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		defer s.Close()
		l, err := s.Grant(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		s.SetDown(true)
		if err := l.Revoke(t.Context()); !errors.Is(err, director.ErrUnavailable) {
			t.Fatal(err)
		}
		s.SetDown(false)
		<-l.Done()
		<-time.After(2 * time.Minute) // of the bubble's clock
		synctest.Wait()
		if s.ExpireLease(l.ID()) {
			t.Fatal("the lease is still there")
		}
	})
}
