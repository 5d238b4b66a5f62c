package cache

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"waypost/director"
)

// counting counts the linearizable reads.
type counting struct {
	director.Store
	reads atomic.Int64
}

func (s *counting) GetAll(ctx context.Context, keys []string) ([]director.Entry, error) {
	s.reads.Add(1)
	return s.Store.GetAll(ctx, keys)
}

func TestResolve(t *testing.T) {
	f := newFixture(t)
	must(t, f.dir.CreateDomain(f.ctx, "all.test", time.Unix(1, 0)))
	for _, u := range []director.User{"ann@example.test", "bob@example.test", "info@example.test", "dead@example.test", "ann@all.test"} {
		addUser(t, f.dir, u)
	}
	if _, err := f.dir.DeleteUser(f.ctx, "dead@example.test"); err != nil {
		t.Fatal(err)
	}
	alias := func(local, domain string, members ...string) {
		t.Helper()
		must(t, f.dir.PutAddress(f.ctx, local, domain, director.Address{Members: members}))
	}
	alias("both", "example.test", "ann@example.test", "Bob+Lists@Example.TEST")
	alias("nested", "example.test", "both@example.test", "ann@example.test", "info@example.test")
	alias("info", "example.test", "info@example.test", "bob@example.test")
	alias("loop1", "example.test", "loop2@example.test")
	alias("loop2", "example.test", "loop1@example.test")
	alias("gone", "example.test", "dead@example.test", "x@elsewhere.test", "nobody@example.test")
	alias("half", "example.test", "x@elsewhere.test", "ann@example.test", "no domain")
	alias("bob", "all.test", "bob@example.test")
	alias(director.CatchAll, "all.test", "ann@all.test")
	alias("postmaster", "all.test", "bob@example.test")
	for i := range 12 {
		alias(fmt.Sprint("deep", i), "example.test", fmt.Sprintf("deep%d@example.test", i+1))
	}
	alias("deep12", "example.test", "ann@example.test")
	f.settle()

	for _, c := range []struct {
		address string
		want    string // user/folder ..., "!" unresolved
		err     error
	}{
		{"ann@example.test", "ann@example.test", nil},
		{"ANN@Example.Test", "ann@example.test", nil},
		{"ann+Work/2026@example.test", "ann@example.test/Work/2026", nil},
		{"both@example.test", "ann@example.test bob@example.test/Lists", nil},
		{"both+folder@example.test", "ann@example.test bob@example.test/Lists", nil},
		{"nested@example.test", "ann@example.test bob@example.test/Lists info@example.test", nil},
		{"info@example.test", "info@example.test bob@example.test", nil},
		{"loop1@example.test", "", ErrUnknownUser},
		{"gone@example.test", "!dead@example.test !x@elsewhere.test !nobody@example.test", ErrUnknownUser},
		{"half@example.test", "ann@example.test !x@elsewhere.test !no domain", nil},
		{"dead@example.test", "", ErrUnknownUser},
		{"nobody@example.test", "", ErrUnknownUser},
		{"no body@example.test", "", ErrUnknownUser},
		{"", "", ErrUnknownUser},
		{"ann", "", ErrUnknownUser},
		{"@example.test", "", ErrUnknownUser},
		{strings.Repeat("a", 600) + "@example.test", "", ErrUnknownUser},
		{"ann@elsewhere.test", "", ErrUnknownDomain},
		{"ann@[192.0.2.1]", "", ErrUnknownDomain},
		{"ann@all.test", "ann@all.test", nil},
		{"bob+x@all.test", "bob@example.test", nil},
		{"anybody+x@all.test", "ann@all.test", nil},
		{"strange name@all.test", "ann@all.test", nil},
		{"*@all.test", "ann@all.test", nil},
		{"postmaster@all.test", "bob@example.test", nil},
		{"Postmaster", "bob@example.test", nil}, // all.test is the first domain
		{"postmaster@example.test", "", ErrUnknownUser},
		{"deep3@example.test", "ann@example.test", nil}, // ten aliases
		{"deep2@example.test", "", ErrExpansion},
	} {
		for range 2 { // the second time what was learnt is in memory
			r, err := f.Resolve(f.ctx, c.address)
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Errorf("%q: error %v, want %v", c.address, err, c.err)
				continue
			}
			var got []string
			for _, rc := range r.Recipients {
				if rc.Address != c.address {
					t.Errorf("%q: recipient for %q", c.address, rc.Address)
				}
				got = append(got, strings.TrimSuffix(string(rc.User)+"/"+rc.Folder, "/"))
			}
			for _, m := range r.Unresolved {
				got = append(got, "!"+m)
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("%q: %q, want %q", c.address, s, c.want)
			}
		}
	}
}

func TestResolveLimit(t *testing.T) {
	f := newFixture(t)
	var members []string
	for i := range maxRecipients + 1 {
		u := director.User(fmt.Sprintf("u%d@example.test", i))
		addUser(t, f.dir, u)
		members = append(members, string(u))
	}
	must(t, f.dir.PutAddress(f.ctx, "most", "example.test", director.Address{Members: members[:maxRecipients]}))
	must(t, f.dir.PutAddress(f.ctx, "more", "example.test", director.Address{Members: members}))
	f.settle()
	if r, err := f.Resolve(f.ctx, "most@example.test"); err != nil || len(r.Recipients) != maxRecipients {
		t.Fatalf("%d recipients, %v", len(r.Recipients), err)
	}
	if _, err := f.Resolve(f.ctx, "more@example.test"); !errors.Is(err, ErrExpansion) {
		t.Fatal(err)
	}
}

// TestResolveReadsWhatTheWatchHasNotBrought: nothing is unknown only because
// the memory lags.
func TestResolveReadsWhatTheWatchHasNotBrought(t *testing.T) {
	f := newFixture(t)
	f.store.PauseWatches(true)
	must(t, f.dir.CreateDomain(f.ctx, "new.test", time.Unix(1, 0)))
	addUser(t, f.dir, "ann@new.test")
	must(t, f.dir.PutAddress(f.ctx, "alias", "new.test", director.Address{Members: []string{"ann@new.test"}}))
	must(t, f.dir.PutAddress(f.ctx, "*", "new.test", director.Address{Members: []string{"alias@new.test"}}))
	for _, a := range []string{"ann@new.test", "alias@new.test", "other@new.test"} {
		r, err := f.Resolve(f.ctx, a)
		if err != nil || len(r.Recipients) != 1 || r.Recipients[0].User != "ann@new.test" {
			t.Fatalf("%s: %+v, %v", a, r, err)
		}
	}
}

func TestResolveWithTheStoreAway(t *testing.T) {
	f := newFixture(t)
	addUser(t, f.dir, "ann@example.test")
	must(t, f.dir.PutAddress(f.ctx, "info", "example.test", director.Address{Members: []string{"ann@example.test", "bob@example.test"}}))
	f.settle()
	if _, err := f.Resolve(f.ctx, "nobody@example.test"); !errors.Is(err, ErrUnknownUser) {
		t.Fatal(err)
	}
	f.store.SetDown(true)
	if _, err := f.Fresh(f.ctx, "ann@example.test"); err == nil || !f.Stale() {
		t.Fatalf("%v, stale %v", err, f.Stale())
	}
	if r, err := f.Resolve(f.ctx, "ann+x@example.test"); err != nil || len(r.Recipients) != 1 {
		t.Fatalf("a known user: %+v, %v", r, err)
	}
	for _, a := range []string{"nobody@example.test", "else@example.test", "ann@elsewhere.test", "info@example.test"} {
		_, err := f.Resolve(f.ctx, a)
		if !errors.Is(err, director.ErrUnavailable) || errors.Is(err, ErrUnknownUser) || errors.Is(err, ErrUnknownDomain) {
			t.Fatalf("%s: %v", a, err)
		}
	}
}

func TestNegativeCache(t *testing.T) {
	s, d := newDirectory(t)
	store := &counting{Store: s}
	var clock atomic.Int64
	clock.Store(time.Now().UnixNano())
	c := open(t, store, Options{Now: func() time.Time { return time.Unix(0, clock.Load()) }})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	resolve := func(address string, want error, reads int64) {
		t.Helper()
		before := store.reads.Load()
		_, err := c.Resolve(ctx, address)
		if !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Fatalf("%s: %v, want %v", address, err, want)
		}
		if n := store.reads.Load() - before; n != reads {
			t.Fatalf("%s: %d reads, want %d", address, n, reads)
		}
	}
	resolve("ann@example.test", ErrUnknownUser, 1)
	resolve("ann+x@example.test", ErrUnknownUser, 0)
	resolve("x@foreign.test", ErrUnknownDomain, 1)
	resolve("y@foreign.test", ErrUnknownDomain, 0)
	resolve("two words@example.test", ErrUnknownUser, 1)
	resolve("three more words@example.test", ErrUnknownUser, 0)
	clock.Add(int64(negativeFor))
	settle(t, ctx, c, d) // a sign of life at the new time: not stale
	resolve("ann@example.test", ErrUnknownUser, 1)
	resolve("x@foreign.test", ErrUnknownDomain, 1)
	must(t, d.CreateDomain(ctx, "foreign.test", time.Unix(1, 0)))
	addUser(t, d, "ann@example.test")
	settle(t, ctx, c, d)
	resolve("ann@example.test", nil, 0)
	resolve("x@foreign.test", ErrUnknownUser, 1)
	must(t, d.PutAddress(ctx, director.CatchAll, "foreign.test", director.Address{Members: []string{"ann@example.test"}}))
	settle(t, ctx, c, d)
	resolve("x@foreign.test", nil, 0)
	if _, err := d.DeleteUser(ctx, "ann@example.test"); err != nil {
		t.Fatal(err)
	}
	settle(t, ctx, c, d)
	resolve("ann@example.test", ErrUnknownUser, 1)
	resolve("ann@example.test", ErrUnknownUser, 0)
	if !c.neg.has("ann@example.test", c.opts.Now()) {
		t.Fatal("the tombstone is not remembered")
	}
	restore(t, s, "era-2", nil)
	if _, err := c.Fresh(ctx, "ann@example.test"); err != nil || c.neg.has("ann@example.test", c.opts.Now()) {
		t.Fatalf("another era: %v", err)
	}
}

func TestNegativeCacheIsBounded(t *testing.T) {
	n := newNegatives()
	now := time.Unix(1, 0)
	for i := range 3 * negativeLimit {
		name := fmt.Sprint(i)
		n.add(name, n.begin(name), now)
	}
	if len(n.new)+len(n.old) > negativeLimit {
		t.Fatalf("%d entries", len(n.new)+len(n.old))
	}
	if !n.has(fmt.Sprint(3*negativeLimit-1), now) {
		t.Fatal("the newest is not there")
	}
}

// TestNegativeOvertaken: a slow read does not hide what came since it began.
func TestNegativeOvertaken(t *testing.T) {
	n := newNegatives()
	now := time.Unix(1, 0)
	slow := n.begin("u@d")
	n.forget("u@d")
	if n.add("u@d", slow, now); n.has("u@d", now) {
		t.Fatal("remembered though it was found meanwhile")
	}
	slow = n.begin("u@d")
	n.clear()
	if n.add("u@d", slow, now); n.has("u@d", now) {
		t.Fatal("remembered though the era changed meanwhile")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"ann@example.test", "a+b@c.d", "+@x.y", "@", "postmaster", "a@b@c.test", "\xff@x.test"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parse(s)
		if err != nil {
			if !errors.Is(err, ErrUnknownUser) && !errors.Is(err, ErrUnknownDomain) {
				t.Fatal(err)
			}
			return
		}
		if n.base != n.local+"@"+n.domain || director.ValidDomain(n.domain) != nil {
			t.Fatalf("%q: %+v", s, n)
		}
		if n.user != "" && strings.ContainsAny(n.addressKey(), "\n \x00") {
			t.Fatalf("%q: key %q", s, n.addressKey())
		}
		if again, err := parse(n.base); n.user != "" && (err != nil || !reflect.DeepEqual(again, name{n.base, n.local, n.domain, "", n.user})) {
			t.Fatalf("%q: %+v, then %+v, %v", s, n, again, err)
		}
	})
}
