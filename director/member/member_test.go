package member

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"

	"waypost/internal/cluster"
)

const testTimeout = 60 * time.Second

func testKey(b byte) []byte { return bytes.Repeat([]byte{b}, KeyBytes) }

// watched is a node and what its subscription told.
type watched struct {
	*Node
	t      *testing.T
	events chan Event
}

func join(t *testing.T, name string, key []byte, load func() Load, seeds ...string) *watched {
	t.Helper()
	n, err := Join(t.Context(), Options{Name: name, Node: "10.0.0.1:7400", Bind: "127.0.0.1:0", Seeds: seeds, Key: key, Load: load})
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{n, t, make(chan Event, 1000)}
	n.Subscribe(func(e Event) { w.events <- e })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), leaveWait)
		defer cancel()
		if err := n.Leave(ctx); err != nil {
			t.Errorf("leave: %v", err)
		}
	})
	return w
}

// until waits for events until ok.
func (w *watched) until(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.After(testTimeout)
	// Members there before the subscription are not told.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-w.events:
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("never: %s; members %+v", what, w.Members())
		}
	}
}

func (w *watched) alive() int {
	n := 0
	for _, m := range w.Members() {
		if m.Alive {
			n++
		}
	}
	return n
}

func TestFiveNodes(t *testing.T) {
	key := testKey(1)
	var used atomic.Int64
	used.Store(10)
	first := join(t, "director/d1", key, nil)
	nodes := []*watched{first}
	for _, name := range []string{"backend/b1", "backend/b2", "mx/mx1", "proxy/p1"} {
		var load func() Load
		if name == "backend/b1" {
			load = func() Load { return Load{Users: 3, Sessions: 2, UsedBytes: used.Load(), CapacityBytes: 1000} }
		}
		nodes = append(nodes, join(t, name, key, load, first.Addr()))
	}
	for _, n := range nodes {
		n.until("all five are alive", func() bool { return n.alive() == 5 })
	}
	last := nodes[4]
	m, ok := last.Member(cluster.RoleBackend, "b1")
	if !ok || m.Node != "10.0.0.1:7400" || m.Load == nil || *m.Load != (Load{3, 2, 10, 1000}) {
		t.Fatalf("b1 as p1 sees it: %+v %v", m, ok)
	}
	if m, _ := last.Member(cluster.RoleBackend, "b2"); m.Load != nil {
		t.Errorf("b2 tells no load, but has %+v", m.Load)
	}
	names := ""
	for _, m := range last.Members() {
		names += m.Peer().String() + " "
	}
	if names != "backend/b1 backend/b2 director/d1 mx/mx1 proxy/p1 " {
		t.Errorf("members are %s", names)
	}

	used.Store(777)
	last.until("b1's new load is told", func() bool {
		m, _ := last.Member(cluster.RoleBackend, "b1")
		return m.Load != nil && m.Load.UsedBytes == 777
	})

	// A crash is seen without a word of the crashed.
	crashed := nodes[2]
	crashed.leaving.Do(func() { crashed.leftErr = crashed.end() })
	start := time.Now()
	last.until("b2's crash is seen", func() bool {
		alive, known := last.Alive(cluster.RoleBackend, "b2")
		return known && !alive
	})
	t.Logf("crash seen after %v", time.Since(start))

	// The name comes back at another port.
	again := join(t, "backend/b2", key, nil, first.Addr())
	if again.Addr() == crashed.Addr() {
		t.Fatal("the same port was given again")
	}
	last.until("b2 is back", func() bool {
		alive, _ := last.Alive(cluster.RoleBackend, "b2")
		return alive
	})

	// Leaving is told at once, and remembered.
	if err := again.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	last.until("b2 has left", func() bool {
		alive, known := last.Alive(cluster.RoleBackend, "b2")
		return known && !alive
	})
	if _, known := last.Alive(cluster.RoleBackend, "b9"); known {
		t.Error("b9 was never there, but is known")
	}
}

func TestWrongKey(t *testing.T) {
	first := join(t, "director/d1", testKey(1), nil)
	stranger := join(t, "proxy/p9", testKey(2), nil, first.Addr())
	// The stranger's knock is answered or not before this one's is.
	friend := join(t, "proxy/p1", testKey(1), nil, first.Addr())
	friend.until("the friend is in", func() bool { return friend.alive() == 2 })
	if n, err := stranger.askSeeds(t.Context()); n != 0 || err == nil {
		t.Errorf("a stranger reached %d seeds: %v", n, err)
	}
	if stranger.alive() != 1 {
		t.Errorf("the stranger sees %+v", stranger.Members())
	}
	if _, known := first.Alive(cluster.RoleProxy, "p9"); known {
		t.Error("the stranger is known")
	}
}

// TestSeedComesLater starts before its seed, as after a power failure.
func TestSeedComesLater(t *testing.T) {
	spare := join(t, "mx/mx9", testKey(1), nil)
	addr := spare.Addr()
	if err := spare.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	early := join(t, "mx/mx1", testKey(1), nil, addr)
	n, err := Join(t.Context(), Options{Name: "director/d1", Bind: addr, Key: testKey(1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Leave(context.Background()) })
	early.until("the late seed is seen", func() bool {
		alive, _ := early.Alive(cluster.RoleDirector, "d1")
		return alive
	})
}

func TestLeaveEndsEverything(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	n, err := Join(t.Context(), Options{Name: "backend/b1", Bind: "127.0.0.1:0", Key: testKey(1), Seeds: []string{"127.0.0.1:1"},
		Load: func() Load { return Load{} }})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	goleak.VerifyNone(t, ignore)
}

func TestJoinRefuses(t *testing.T) {
	good := Options{Name: "backend/b1", Bind: "127.0.0.1:0", Key: testKey(1)}
	for what, change := range map[string]func(*Options){
		"member name":  func(o *Options) { o.Name = "b1" },
		"unknown role": func(o *Options) { o.Name = "king/b1" },
		"gossip key":   func(o *Options) { o.Key = o.Key[:16] },
		"bind address": func(o *Options) { o.Bind = "127.0.0.1" },
		"advertised":   func(o *Options) { o.Advertise = "x" },
		"seed":         func(o *Options) { o.Seeds = []string{"127.0.0.1:99999"} },
		"too long":     func(o *Options) { o.Node = strings.Repeat("h", 500) + ":1" },
	} {
		o := good
		change(&o)
		if _, err := Join(t.Context(), o); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestMetaFits takes the longest names and loads that are let through.
func TestMetaFits(t *testing.T) {
	longest := &metaBox{node: strings.Repeat("h", 253) + ":65535"}
	if err := longest.fits(); err != nil {
		t.Fatal(err)
	}
	longest.set(Load{1 << 62, 1 << 62, 1 << 62, 1 << 62})
	if n := len(longest.bytes()); n > memberlist.MetaMaxSize {
		t.Errorf("%d bytes", n)
	}
	if longest.set(Load{1 << 62, 1 << 62, 1 << 62, 1 << 62}) {
		t.Error("an equal load counts as changed")
	}
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add([]byte(`{"n":"10.0.0.1:7400","l":{"u":1,"s":2,"b":3,"c":4}}`))
	f.Add([]byte(`{"l":null}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		if again, err := decodeMeta(encodeMeta(m)); err != nil || again.Node != m.Node || (again.Load == nil) != (m.Load == nil) {
			t.Errorf("%+v became %+v: %v", m, again, err)
		}
	})
}

func TestEventsOfAnEntry(t *testing.T) {
	for _, c := range []struct {
		wasAlive, alive bool
		came            int
		want            string
	}{
		{false, true, 1, "[up]"}, {true, true, 0, "[update]"}, {true, false, 0, "[down]"},
		{true, true, 1, "[down up]"}, {false, false, 1, "[up down]"}, {true, false, 1, "[down]"}, {false, false, 0, "[]"},
	} {
		e := entry{now: Member{Alive: c.alive}, wasAlive: c.wasAlive, ups: c.came}
		kinds := []EventKind{}
		for _, ev := range e.events() {
			kinds = append(kinds, ev.Kind)
			if ev.Member.Alive != (ev.Kind != Down) {
				t.Errorf("%+v: %v of a member that is alive: %v", c, ev.Kind, ev.Member.Alive)
			}
		}
		if got := fmt.Sprint(kinds); got != c.want {
			t.Errorf("%+v: %s, want %s", c, got, c.want)
		}
	}
}

func TestTableIsBounded(t *testing.T) {
	tb := newTable(slog.New(slog.DiscardHandler))
	for i := range maxMembers + 10 {
		tb.NotifyJoin(&memberlist.Node{Name: fmt.Sprintf("mx/m%d", i), Meta: []byte("{}")})
	}
	tb.NotifyJoin(&memberlist.Node{Name: "nonsense"})
	if n := len(tb.members()); n != maxMembers {
		t.Errorf("%d members", n)
	}
}

func TestKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret", "gossip.key")
	if _, err := LoadKey(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("no key: %v", err)
	}
	key, err := LoadOrCreateKey(path)
	if err != nil || len(key) != KeyBytes {
		t.Fatalf("%d bytes, %v", len(key), err)
	}
	again, err := LoadOrCreateKey(path)
	if err != nil || !bytes.Equal(key, again) {
		t.Fatalf("second load: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path); err == nil {
		t.Error("a key that everybody may read was taken")
	}
	if err := os.WriteFile(path, []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path); err == nil {
		t.Error("half a key was taken")
	}
}
