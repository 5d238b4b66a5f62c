// Package storetest is the conformance test of director.Store: every
// implementation runs it, so that callers may rely on the contract and not on
// the implementation they were written with.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waypost/director"
)

// patience bounds each wait for something that must happen.
const patience = 20 * time.Second

// Run tests the stores that open gives: each call an empty one of its own,
// closed by the test that asked for it.
func Run(t *testing.T, open func(t *testing.T) director.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *store)
	}{
		{"GetAbsent", testGetAbsent},
		{"PutGetDelete", testPutGetDelete},
		{"EmptyValue", testEmptyValue},
		{"NoSharedMemory", testNoSharedMemory},
		{"GetAllOneRevision", testGetAllOneRevision},
		{"Guards", testGuards},
		{"InvalidTransactions", testInvalidTransactions},
		{"OneWriterWins", testOneWriterWins},
		{"List", testList},
		{"ListThenWatch", testListThenWatch},
		{"ListStopsOnError", testListStopsOnError},
		{"WatchFromThePast", testWatchFromThePast},
		{"WatchOrderAndPrefix", testWatchOrderAndPrefix},
		{"WatchProgress", testWatchProgress},
		{"WatchEndsWithContext", testWatchEndsWithContext},
		{"LeaseRevoke", testLeaseRevoke},
		{"LeaseExpiry", testLeaseExpiry},
		{"LeaseKeptAlive", testLeaseKeptAlive},
		{"LeaseUnknown", testLeaseUnknown},
		{"LeaseOverwritten", testLeaseOverwritten},
		{"EndedContext", testEndedContext},
		{"Close", testClose},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() { _ = s.Close() })
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			c.test(t, &store{Store: s, t: t, ctx: ctx})
		})
	}
}

// store adds calls that fail the test.
type store struct {
	director.Store
	t   *testing.T
	ctx context.Context
}

func (s *store) get(key string) director.Entry {
	s.t.Helper()
	e, err := s.Get(s.ctx, key)
	if err != nil {
		s.t.Fatalf("Get(%q): %v", key, err)
	}
	return e
}

func (s *store) commit(guards []director.Guard, ops ...director.Op) (int64, bool) {
	s.t.Helper()
	rev, done, err := s.Commit(s.ctx, guards, ops)
	if err != nil {
		s.t.Fatalf("Commit(%v, %v): %v", guards, ops, err)
	}
	return rev, done
}

func (s *store) put(key, value string) int64 {
	s.t.Helper()
	rev, done := s.commit(nil, director.Op{Key: key, Value: []byte(value)})
	if !done {
		s.t.Fatalf("unguarded put of %q was not done", key)
	}
	return rev
}

func (s *store) list(prefix string) (map[string]director.Entry, int64) {
	s.t.Helper()
	m := map[string]director.Entry{}
	rev, err := s.List(s.ctx, prefix, func(e director.Entry) error {
		if _, twice := m[e.Key]; twice {
			return fmt.Errorf("%q was listed twice", e.Key)
		}
		m[e.Key] = e
		return nil
	})
	if err != nil {
		s.t.Fatalf("List(%q): %v", prefix, err)
	}
	return m, rev
}

func testGetAbsent(t *testing.T, s *store) {
	if e := s.get("a"); e.Key != "a" || e.Rev != 0 || e.Value != nil {
		t.Fatalf("absent key: %+v", e)
	}
}

func testPutGetDelete(t *testing.T, s *store) {
	r1 := s.put("a", "1")
	if e := s.get("a"); e.Key != "a" || e.Rev != r1 || string(e.Value) != "1" || e.Leased {
		t.Fatalf("after put at %d: %+v", r1, e)
	}
	r2 := s.put("a", "2")
	if e := s.get("a"); r2 <= r1 || e.Rev != r2 || string(e.Value) != "2" {
		t.Fatalf("after second put at %d: %+v", r2, e)
	}
	r3, done := s.commit(nil, director.Op{Key: "a", Delete: true}, director.Op{Key: "never", Delete: true})
	if !done || r3 <= r2 || s.get("a").Rev != 0 {
		t.Fatalf("delete: revision %d after %d, done %v, then %+v", r3, r2, done, s.get("a"))
	}
	r4, done := s.commit(nil, director.Op{Key: "a", Delete: true})
	if !done || r4 != r3 {
		t.Fatalf("delete of an absent key: revision %d, want %d; done %v", r4, r3, done)
	}
}

func testEmptyValue(t *testing.T, s *store) {
	s.put("empty", "")
	if e := s.get("empty"); e.Rev == 0 || e.Value == nil || len(e.Value) != 0 {
		t.Fatalf("empty value: %+v", e)
	}
	m, _ := s.list("empty")
	if m["empty"].Value == nil {
		t.Fatalf("empty value in List: %+v", m)
	}
}

func testNoSharedMemory(t *testing.T, s *store) {
	v := []byte("mine")
	s.commit(nil, director.Op{Key: "a", Value: v})
	v[0] = 'X'
	s.get("a").Value[0] = 'Y'
	if e := s.get("a"); string(e.Value) != "mine" {
		t.Fatalf("a caller changed the stored value: %q", e.Value)
	}
}

func testGetAllOneRevision(t *testing.T, s *store) {
	var stop atomic.Bool
	var wg sync.WaitGroup
	s.put("a", "0")
	s.put("b", "0")
	wg.Go(func() {
		for i := 0; !stop.Load(); i++ {
			v := fmt.Appendf(nil, "%d", i)
			_, _, err := s.Commit(s.ctx, nil, []director.Op{{Key: "a", Value: v}, {Key: "b", Value: v}})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 50 {
		es, err := s.GetAll(s.ctx, []string{"b", "absent", "a"})
		if err != nil || len(es) != 3 {
			t.Fatalf("GetAll: %v, %v", es, err)
		}
		if es[0].Key != "b" || es[1].Key != "absent" || es[1].Rev != 0 || es[2].Key != "a" {
			t.Fatalf("GetAll keeps no order: %+v", es)
		}
		if a, b := es[2], es[0]; string(a.Value) != string(b.Value) {
			t.Fatalf("GetAll mixes revisions: %+v", es)
		}
	}
	stop.Store(true)
	wg.Wait()
	if es, err := s.GetAll(s.ctx, nil); err != nil || len(es) != 0 {
		t.Fatalf("GetAll of nothing: %v, %v", es, err)
	}
	if _, err := s.GetAll(s.ctx, make([]string, 101)); !errors.Is(err, director.ErrInvalid) {
		t.Fatalf("GetAll of 101 keys: %v", err)
	}
}

func testGuards(t *testing.T, s *store) {
	put := func(k string) director.Op { return director.Op{Key: k, Value: []byte("new")} }
	r1, done := s.commit([]director.Guard{{Key: "a"}}, put("a"))
	if !done {
		t.Fatal("guard on an absent key does not hold")
	}
	if rev, done := s.commit([]director.Guard{{Key: "a"}}, put("x")); done || rev < r1 {
		t.Fatalf("guard 'absent' holds on a key that is there: revision %d", rev)
	}
	if _, done := s.commit([]director.Guard{{Key: "a", Rev: r1}, {Key: "b", Rev: 7}}, put("x"), put("y")); done {
		t.Fatal("one guard of two fails, and it was done")
	}
	if s.get("x").Rev != 0 || s.get("y").Rev != 0 {
		t.Fatal("a refused transaction changed something")
	}
	r2, done := s.commit([]director.Guard{{Key: "a", Rev: r1}, {Key: "b"}}, put("a"), put("b"), director.Op{Key: "c", Delete: true})
	if !done || s.get("a").Rev != r2 || s.get("b").Rev != r2 {
		t.Fatalf("guards hold: revision %d done %v, a %+v b %+v", r2, done, s.get("a"), s.get("b"))
	}
	if _, done := s.commit([]director.Guard{{Key: "a", Rev: r1}}, put("a")); done {
		t.Fatal("guard on an old revision holds")
	}
	s.commit(nil, director.Op{Key: "a", Delete: true})
	if _, done := s.commit([]director.Guard{{Key: "a", Rev: r2}}, put("a")); done {
		t.Fatal("guard on a deleted key's revision holds")
	}
	if _, done := s.commit([]director.Guard{{Key: "a"}}); !done {
		t.Fatal("a transaction of guards only is not done")
	}
}

func testInvalidTransactions(t *testing.T, s *store) {
	twice := []director.Op{{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte("2")}}
	if _, done, err := s.Commit(s.ctx, nil, twice); done || !errors.Is(err, director.ErrInvalid) {
		t.Fatalf("a key twice: %v, %v", done, err)
	}
	many := make([]director.Op, 129)
	for i := range many {
		many[i] = director.Op{Key: fmt.Sprint("k", i), Value: []byte("v")}
	}
	if _, done, err := s.Commit(s.ctx, nil, many); done || !errors.Is(err, director.ErrInvalid) {
		t.Fatalf("129 operations: %v, %v", done, err)
	}
	if _, done, err := s.Commit(s.ctx, nil, many[:128]); !done || err != nil {
		t.Fatalf("128 operations: %v, %v", done, err)
	}
}

func testOneWriterWins(t *testing.T, s *store) {
	const writers, rounds = 8, 10
	var wins atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for won := 0; won < rounds; {
				e, err := s.Get(s.ctx, "n")
				if err != nil {
					t.Error(err)
					return
				}
				next := append(e.Value, 'x')
				_, done, err := s.Commit(s.ctx, []director.Guard{{Key: "n", Rev: e.Rev}}, []director.Op{{Key: "n", Value: next}})
				if err != nil {
					t.Error(err)
					return
				}
				if done {
					won++
					wins.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if e := s.get("n"); int64(len(e.Value)) != wins.Load() || wins.Load() != writers*rounds {
		t.Fatalf("%d transactions were done, %d are visible", wins.Load(), len(e.Value))
	}
}

func testList(t *testing.T, s *store) {
	if m, _ := s.list("p/"); len(m) != 0 {
		t.Fatalf("empty store lists %v", m)
	}
	const n = 2500 // more than a page of any implementation
	var ops []director.Op
	for i := range n {
		ops = append(ops, director.Op{Key: fmt.Sprintf("p/%d@example.test", i*i), Value: fmt.Append(nil, i)})
	}
	ops = append(ops, director.Op{Key: "p", Value: []byte("no")}, director.Op{Key: "p0", Value: []byte("no")},
		director.Op{Key: "p/", Value: []byte("yes")}, director.Op{Key: "p/\xff\xfe", Value: []byte("yes")})
	var last int64
	for c := range slices.Chunk(ops, 128) {
		last, _ = s.commit(nil, c...)
	}
	m, rev := s.list("p/")
	if len(m) != n+2 || rev < last {
		t.Fatalf("%d entries at revision %d; want %d at %d or later", len(m), rev, n+2, last)
	}
	for i := range n {
		k := fmt.Sprintf("p/%d@example.test", i*i)
		if e := m[k]; string(e.Value) != fmt.Sprint(i) || e.Rev == 0 || e.Rev > rev {
			t.Fatalf("%s: %+v", k, e)
		}
	}
	if all, _ := s.list(""); len(all) != n+4 {
		t.Fatalf("the empty prefix lists %d entries, want %d", len(all), n+4)
	}
}

func testListStopsOnError(t *testing.T, s *store) {
	s.put("p/1", "1")
	s.put("p/2", "2")
	stop := errors.New("stop")
	calls := 0
	_, err := s.List(s.ctx, "p/", func(director.Entry) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Fatalf("List after %d calls: %v", calls, err)
	}
	s.put("p/3", "3") // and the store goes on
}

func testEndedContext(t *testing.T, s *store) {
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	if _, err := s.Get(ctx, "a"); !errors.Is(err, director.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Fatalf("Get: %v", err)
	}
	if _, err := s.GetAll(ctx, []string{"a"}); !errors.Is(err, director.ErrUnavailable) {
		t.Fatalf("GetAll: %v", err)
	}
	if _, err := s.List(ctx, "a", func(director.Entry) error { return nil }); !errors.Is(err, director.ErrUnavailable) {
		t.Fatalf("List: %v", err)
	}
	_, done, err := s.Commit(ctx, nil, []director.Op{{Key: "a", Value: []byte("v")}})
	if done || !errors.Is(err, director.ErrUnavailable) {
		t.Fatalf("Commit: %v, %v", done, err)
	}
	if e := s.get("a"); e.Rev != 0 {
		t.Fatalf("ErrUnavailable, and it was done: %+v", e)
	}
	if _, err := s.Grant(ctx, time.Minute); !errors.Is(err, director.ErrUnavailable) {
		t.Fatalf("Grant: %v", err)
	}
}

func testClose(t *testing.T, s *store) {
	l, err := s.Grant(s.ctx, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	w := s.Watch(s.ctx, "", 0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range w { // ends
	}
	s.wait(l.Done(), "the lease's end")
	if _, err := s.Get(s.ctx, "a"); !errors.Is(err, director.ErrUnavailable) {
		t.Fatalf("Get after Close: %v", err)
	}
	for b := range s.Watch(s.ctx, "", 0) {
		if b.Err == nil {
			t.Fatalf("Watch after Close: %+v", b)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
}

func (s *store) wait(ch <-chan struct{}, what string) {
	s.t.Helper()
	select {
	case <-ch:
	case <-s.ctx.Done():
		s.t.Fatalf("waited in vain for %s", what)
	}
}
