package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"waypost/director"
)

// until reads batches until enough says so; it checks what holds of each.
func (s *store) until(ch <-chan director.Batch, enough func(got []director.Change, revision int64) bool) []director.Change {
	s.t.Helper()
	var got []director.Change
	var revision int64
	for {
		if enough(got, revision) {
			return got
		}
		select {
		case <-s.ctx.Done():
			s.t.Fatalf("waited in vain; got %d changes up to revision %d", len(got), revision)
		case b, ok := <-ch:
			if !ok || b.Err != nil {
				s.t.Fatalf("the watch ended: %v", b.Err)
			}
			if b.Revision < revision {
				s.t.Fatalf("revision %d after %d", b.Revision, revision)
			}
			for _, c := range b.Changes {
				if c.Rev <= revision || c.Rev > b.Revision {
					s.t.Fatalf("change %+v in a batch of revisions %d to %d", c, revision+1, b.Revision)
				}
				if c.Deleted != (c.Value == nil) {
					s.t.Fatalf("change %+v: value and deletion", c)
				}
				if n := len(got); n > 0 && got[n-1].Rev > c.Rev {
					s.t.Fatalf("change %+v after %+v", c, got[n-1])
				}
				got = append(got, c)
			}
			revision = b.Revision
		}
	}
}

func has(n int) func([]director.Change, int64) bool {
	return func(got []director.Change, _ int64) bool { return len(got) >= n }
}

func testWatchFromThePast(t *testing.T, s *store) {
	r1 := s.put("a", "1")
	r2 := s.put("a", "2")
	r3, _ := s.commit(nil, director.Op{Key: "a", Delete: true})
	got := s.until(s.Watch(s.ctx, "a", r2), has(2))
	if len(got) != 2 || got[0].Rev != r2 || string(got[0].Value) != "2" || !got[1].Deleted || got[1].Rev != r3 {
		t.Fatalf("watch from %d (not %d): %+v", r2, r1, got)
	}
}

func testWatchOrderAndPrefix(t *testing.T, s *store) {
	rev := s.put("p/start", "")
	one := s.Watch(s.ctx, "p/", rev+1)
	all := s.Watch(s.ctx, "", rev+1)
	const n = 60
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			for i := range 2 * n {
				op := director.Op{Key: fmt.Sprintf("%c/%d", "pq"[i%2], w), Value: fmt.Append(nil, i/2)}
				if _, _, err := s.Commit(s.ctx, nil, []director.Op{op}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for name, got := range map[string][]director.Change{"p/": s.until(one, has(3*n)), "all": s.until(all, has(6*n))} {
		next := map[string]int{}
		for _, c := range got {
			if name == "p/" && c.Key[:2] != "p/" {
				t.Fatalf("%s is not under p/", c.Key)
			}
			if string(c.Value) != fmt.Sprint(next[c.Key]) {
				t.Fatalf("watch %s: %s is %q, want %d", name, c.Key, c.Value, next[c.Key])
			}
			next[c.Key]++
		}
	}
}

// testListThenWatch: a list and a watch from its revision + 1, started while
// others write, miss nothing.
func testListThenWatch(t *testing.T, s *store) {
	const n = 100
	started, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := range n {
			if _, _, err := s.Commit(s.ctx, nil, []director.Op{{Key: fmt.Sprint("p/", i), Value: []byte("v")}}); err != nil {
				t.Error(err)
			}
			if i == n/4 {
				close(started)
			}
		}
	}()
	s.wait(started, "the writer")
	m, rev := s.list("p/")
	s.until(s.Watch(s.ctx, "p/", rev+1), func(got []director.Change, _ int64) bool {
		for _, c := range got {
			if e, there := m[c.Key]; there && e.Rev == c.Rev {
				t.Fatalf("%s is in the list and in the watch", c.Key)
			}
		}
		return len(m)+len(got) == n
	})
	s.wait(ended, "the writer's end")
}

// testWatchProgress: a watch whose prefix sees no changes still learns that it
// is current.
func testWatchProgress(t *testing.T, s *store) {
	rev := s.put("p/a", "1")
	w := s.Watch(s.ctx, "p/", rev+1)
	other := s.put("q/a", "1")
	got := s.until(w, func(_ []director.Change, revision int64) bool { return revision >= other })
	if len(got) != 0 {
		t.Fatalf("changes of another prefix: %+v", got)
	}
}

func testWatchEndsWithContext(t *testing.T, s *store) {
	ctx, cancel := context.WithCancel(s.ctx)
	w := s.Watch(ctx, "", 0)
	cancel()
	for b := range w {
		if b.Err != nil && !errors.Is(b.Err, context.Canceled) {
			t.Fatalf("batch %+v", b)
		}
	}
}

func (s *store) grant(ctx context.Context, ttl time.Duration) director.Lease {
	s.t.Helper()
	l, err := s.Grant(ctx, ttl)
	if err != nil {
		s.t.Fatalf("Grant: %v", err)
	}
	if l.ID() == 0 {
		s.t.Fatal("a lease with ID 0")
	}
	return l
}

// leased puts a key under l and gives the watch that will see it deleted.
func (s *store) leased(key string, l director.Lease) <-chan director.Batch {
	s.t.Helper()
	rev, done := s.commit([]director.Guard{{Key: key}}, director.Op{Key: key, Value: []byte("alive"), Lease: l.ID()})
	if e := s.get(key); !done || !e.Leased {
		s.t.Fatalf("leased put: done %v, %+v", done, e)
	}
	return s.Watch(s.ctx, key, rev+1)
}

func testLeaseRevoke(t *testing.T, s *store) {
	l := s.grant(s.ctx, time.Minute)
	w := s.leased("owner", l)
	if err := l.Revoke(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.wait(l.Done(), "Done after Revoke")
	if e := s.get("owner"); e.Rev != 0 {
		t.Fatalf("after Revoke: %+v", e)
	}
	if got := s.until(w, has(1)); !got[0].Deleted {
		t.Fatalf("watch: %+v", got)
	}
	if err := l.Revoke(s.ctx); err != nil {
		t.Fatalf("second Revoke: %v", err)
	}
}

func testLeaseExpiry(t *testing.T, s *store) {
	ctx, gone := context.WithCancel(s.ctx)
	l := s.grant(ctx, time.Second)
	w := s.leased("owner", l)
	gone()
	s.wait(l.Done(), "Done after the keeper's end")
	if got := s.until(w, has(1)); !got[0].Deleted || got[0].Key != "owner" {
		t.Fatalf("watch: %+v", got)
	}
}

// testLeaseKeptAlive waits for another lease, granted later and not kept, to
// expire three times over: a kept one is there still.
func testLeaseKeptAlive(t *testing.T, s *store) {
	kept := s.grant(s.ctx, time.Second)
	s.leased("kept", kept)
	for i := range 3 {
		ctx, gone := context.WithCancel(s.ctx)
		l := s.grant(ctx, time.Second)
		w := s.leased(fmt.Sprint("short", i), l)
		gone()
		s.until(w, has(1))
	}
	select {
	case <-kept.Done():
		t.Fatal("a kept lease is done")
	default:
	}
	if e := s.get("kept"); e.Rev == 0 {
		t.Fatal("a kept lease's key is gone")
	}
}

func testLeaseUnknown(t *testing.T, s *store) {
	l := s.grant(s.ctx, time.Minute)
	if err := l.Revoke(s.ctx); err != nil {
		t.Fatal(err)
	}
	_, done, err := s.Commit(s.ctx, nil, []director.Op{{Key: "a", Value: []byte("v"), Lease: l.ID()}})
	if done || !errors.Is(err, director.ErrNotFound) {
		t.Fatalf("put with a revoked lease: %v, %v", done, err)
	}
	if e := s.get("a"); e.Rev != 0 {
		t.Fatalf("it was done: %+v", e)
	}
}

// testLeaseOverwritten: a later put without lease frees the key from it.
func testLeaseOverwritten(t *testing.T, s *store) {
	l := s.grant(s.ctx, time.Minute)
	s.leased("a", l)
	s.put("a", "free")
	if err := l.Revoke(s.ctx); err != nil {
		t.Fatal(err)
	}
	if e := s.get("a"); e.Rev == 0 || e.Leased || string(e.Value) != "free" {
		t.Fatalf("after Revoke: %+v", e)
	}
}
