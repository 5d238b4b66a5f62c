package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"waypost/director"
	"waypost/director/cache"
	"waypost/director/etcd/embedded"
	"waypost/director/storetest"
)

const patience = 30 * time.Second

func start(t *testing.T, o embedded.EmbedOptions) *embedded.Embedded {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m, err := embedded.StartEmbedded(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func open(t *testing.T, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t *testing.T, s *Store, key, value string) int64 {
	t.Helper()
	rev, done, err := s.Commit(t.Context(), nil, []director.Op{{Key: key, Value: []byte(value)}})
	if err != nil || !done {
		t.Fatalf("put %s: %v, %v", key, done, err)
	}
	return rev
}

func TestConformance(t *testing.T) {
	m := start(t, embedded.EmbedOptions{Dir: t.TempDir()})
	n := 0
	storetest.Run(t, func(t *testing.T) director.Store {
		n++
		return open(t, Options{Endpoints: []string{m.Endpoint()}, Prefix: fmt.Sprintf("/test-%d/", n)})
	})
}

// TestOneMember has what needs a member, but not one of its own.
func TestOneMember(t *testing.T) {
	m := start(t, embedded.EmbedOptions{Dir: t.TempDir()})
	t.Run("ListByPages", func(t *testing.T) { testListByPages(t, m.Endpoint()) })
	t.Run("CompactedWatch", func(t *testing.T) { testCompactedWatch(t, m.Endpoint()) })
	t.Run("UnknownCommit", func(t *testing.T) { testUnknownCommit(t, m.Endpoint()) })
	t.Run("CacheOverEtcd", func(t *testing.T) { testCache(t, m.Endpoint()) })
}

// testListByPages: members before 3.7 are read in pages of ranges cut up.
func testListByPages(t *testing.T, endpoint string) {
	s := open(t, Options{Endpoints: []string{endpoint}, Prefix: "/pages/"})
	want := map[string]int64{}
	var ops []director.Op
	add := func(key string) { ops = append(ops, director.Op{Key: key, Value: []byte(key)}) }
	for i := range 1500 {
		add(fmt.Sprintf("location/user%05d@example.test", i))
		add(fmt.Sprintf("location/%c%d", 'a'+i%26, i))
	}
	add("location/")
	add("location/u")
	add("location/\xff\xff")
	for len(ops) > 0 {
		n := min(len(ops), 100)
		rev, _, err := s.Commit(t.Context(), nil, ops[:n])
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range ops[:n] {
			want[op.Key] = rev
		}
		ops = ops[n:]
	}
	put(t, s, "locatioo", "not under the prefix")
	s.pages = paging{always: true, page: 20, wide: 100}
	got := map[string]int64{}
	late := false
	rev, err := s.List(t.Context(), "location/", func(e director.Entry) error {
		if _, twice := got[e.Key]; twice || string(e.Value) != e.Key {
			return fmt.Errorf("%+v, listed before: %v", e, twice)
		}
		if !late { // a change during the listing is not in it
			put(t, s, "location/zz-late", "location/zz-late")
			late = true
		}
		got[e.Key] = e.Rev
		return nil
	})
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d entries, want %d; %v", len(got), len(want), err)
	}
	for k, r := range want {
		if got[k] != r || r > rev {
			t.Fatalf("%s at revision %d, want %d; listed at %d", k, got[k], r, rev)
		}
	}
}

func testCompactedWatch(t *testing.T, endpoint string) {
	s := open(t, Options{Endpoints: []string{endpoint}, Prefix: "/compacted/"})
	first := put(t, s, "a", "1")
	last := put(t, s, "a", "2")
	if _, err := s.client.Load().Compact(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	var b director.Batch
	for b = range s.Watch(t.Context(), "a", first) {
	}
	if !errors.Is(b.Err, errCompacted) {
		t.Fatalf("watch from a compacted revision: %+v", b)
	}
}

// link passes connections on to a target, and can swallow the answers.
type link struct {
	net.Listener
	target string
	mute   atomic.Bool
	wg     sync.WaitGroup
	mu     sync.Mutex
	conns  []net.Conn
}

func newLink(t *testing.T, target string) *link {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{Listener: ln, target: target}
	l.wg.Go(l.serve)
	t.Cleanup(func() { _ = ln.Close(); l.cut(); l.wg.Wait() })
	return l
}

func (l *link) serve() {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", l.target)
		if err != nil {
			_ = in.Close()
			continue
		}
		l.mu.Lock()
		l.conns = append(l.conns, in, out)
		l.mu.Unlock()
		l.wg.Go(func() { l.pass(out, in, nil) })
		l.wg.Go(func() { l.pass(in, out, &l.mute) })
	}
}

func (l *link) pass(to, from net.Conn, mute *atomic.Bool) {
	defer to.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if mute != nil && mute.Load() {
			continue
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}

// testUnknownCommit: the answer to a transaction is lost after it was sent.
func testUnknownCommit(t *testing.T, endpoint string) {
	l := newLink(t, endpoint[len("http://"):])
	s := open(t, Options{Endpoints: []string{l.Addr().String()}, Prefix: "/unknown/"})
	put(t, s, "a", "before")
	l.mute.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, done, err := s.Commit(ctx, nil, []director.Op{{Key: "a", Value: []byte("after")}})
	if done || !errors.Is(err, director.ErrUnknown) || errors.Is(err, director.ErrUnavailable) {
		t.Fatalf("%v, %v", done, err)
	}
	l.mute.Store(false)
	l.cut()
	ctx, cancel = context.WithTimeout(t.Context(), patience)
	defer cancel()
	var e director.Entry
	for e, err = s.Get(ctx, "a"); err != nil && ctx.Err() == nil; e, err = s.Get(ctx, "a") {
	}
	if err != nil || string(e.Value) != "after" {
		t.Fatalf("%+v, %v", e, err)
	}
}

func testCache(t *testing.T, endpoint string) {
	s := open(t, Options{Endpoints: []string{endpoint}, Prefix: "/cache/"})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d := director.New(s)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(d.Init(ctx, func() string { return "era-1" }))
	check(d.CreateDomain(ctx, "example.test", time.Unix(1, 0)))
	c, err := cache.Open(t.Context(), cache.Options{Store: s})
	check(err)
	defer c.Close()
	check(c.WaitReady(ctx))
	check(d.CreateUser(ctx, "ann@example.test", director.Record{Home: "b1", Epoch: 1, State: director.Active}, director.Account{}))
	if r, err := c.WaitChange(ctx, "ann@example.test", 0); err != nil || r.Home != "b1" {
		t.Fatalf("%v, %v", r, err)
	}
	if r, err := c.Resolve(ctx, "ann+x@example.test"); err != nil || r.Recipients[0].Folder != "x" {
		t.Fatalf("%+v, %v", r, err)
	}
	if c.Stale() || c.Lag() > 5*time.Second {
		t.Fatalf("stale %v, lag %v", c.Stale(), c.Lag())
	}
}

// TestAwayAndBack: a store is opened while etcd is away, works when it comes,
// and its watch goes on after a restart, missing nothing.
func TestAwayAndBack(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	_ = free.Close()
	s := open(t, Options{Endpoints: []string{addr}})
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, done, err := s.Commit(short, nil, []director.Op{{Key: "a", Value: []byte("v")}}); done || !errors.Is(err, director.ErrUnavailable) || errors.Is(err, director.ErrUnknown) {
		t.Fatalf("nothing was sent: %v, %v", done, err)
	}
	if _, err := s.List(t.Context(), "a", func(director.Entry) error { return nil }); !errors.Is(err, director.ErrUnavailable) {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	var rev int64
	for round := range 2 {
		m, err := embedded.StartEmbedded(ctx, embedded.EmbedOptions{Dir: dir, ClientAddr: addr})
		if err != nil {
			t.Fatal(err)
		}
		w := s.Watch(ctx, "", rev+1)
		op := director.Op{Key: fmt.Sprint("round", round), Value: []byte("v")}
		done := false
		for rev, done, err = s.Commit(ctx, nil, []director.Op{op}); !done && ctx.Err() == nil; rev, done, err = s.Commit(ctx, nil, []director.Op{op}) {
		}
		if err != nil {
			t.Fatal(err)
		}
		for b := range w {
			if b.Err != nil {
				t.Fatal(b.Err)
			}
			if len(b.Changes) > 0 && b.Changes[0].Key != op.Key {
				t.Fatalf("%+v", b)
			}
			if b.Revision >= rev {
				break
			}
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPassword(t *testing.T) {
	m := start(t, embedded.EmbedOptions{Dir: t.TempDir()})
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{m.Endpoint()}, DialTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err1 := admin.UserAdd(ctx, "root", "secret")
	_, err2 := admin.UserGrantRole(ctx, "root", "root")
	_, err3 := admin.AuthEnable(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, Options{Endpoints: []string{m.Endpoint()}, Username: "root", Password: "wrong"}); err == nil || errors.Is(err, director.ErrUnavailable) {
		t.Fatalf("wrong password: %v", err)
	}
	s := open(t, Options{Endpoints: []string{m.Endpoint()}, Username: "root", Password: "secret"})
	rev := put(t, s, "a", "v")
	for b := range s.Watch(ctx, "a", rev) {
		if len(b.Changes) == 1 {
			break
		}
		if b.Err != nil {
			t.Fatal(b.Err)
		}
	}
	anon := open(t, Options{Endpoints: []string{m.Endpoint()}})
	if _, _, err := anon.Commit(ctx, nil, []director.Op{{Key: "a", Value: []byte("w")}}); !errors.Is(err, director.ErrUnavailable) {
		t.Fatalf("without password: %v", err) // refused, so nothing was done
	}
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	away, err := Open(short, Options{Endpoints: []string{"127.0.0.1:1"}, Username: "root", Password: "secret"})
	if err != nil {
		t.Fatalf("etcd away: %v", err)
	}
	defer away.Close()
	if _, err := away.Get(short, "a"); !errors.Is(err, director.ErrUnavailable) {
		t.Fatalf("etcd away: %v", err)
	}
}
