package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waypost/director"
)

func TestMembers(t *testing.T) {
	f := newFixture(t)
	for name, group := range map[director.User]string{"ann@example.test": "sales", "bob@example.test": "sales", "cy@example.test": "", "dan@example.test": "it"} {
		must(t, f.dir.CreateUser(f.ctx, name, director.Record{Home: "b1", Epoch: 1, State: director.Active}, director.Account{Group: group}))
	}
	want := func(group string, names ...director.User) {
		t.Helper()
		for deadline := time.Now().Add(patience); !slices.Equal(f.Members(group), names); {
			if time.Now().After(deadline) {
				t.Fatalf("members of %q are %v, want %v", group, f.Members(group), names)
			}
			awaitChange(f.ctx, f.Client)
		}
	}
	want("sales", "ann@example.test", "bob@example.test")
	want("it", "dan@example.test")
	want("")
	// A text that only looks like the key is none.
	must(t, f.dir.UpdateAccount(f.ctx, "cy@example.test", func(a *director.Account) error {
		a.Reply = &director.AutoReply{Kind: director.ReplyAlways, Text: `"group":"sales"`}
		return nil
	}))
	must(t, f.dir.UpdateAccount(f.ctx, "dan@example.test", func(a *director.Account) error { a.Group = "sales"; return nil }))
	want("it")
	want("sales", "ann@example.test", "bob@example.test", "dan@example.test")
	_, err := f.dir.DeleteUser(f.ctx, "ann@example.test")
	must(t, err)
	want("sales", "bob@example.test", "dan@example.test")
	if n := len(f.st.Load().groups.by); n != 1 {
		t.Errorf("%d groups are kept, want one", n)
	}
	if g := f.Group("bob@example.test"); g != "sales" {
		t.Errorf("group %q", g)
	}
}

// awaitChange waits for a change of the memory, for a moment.
func awaitChange(ctx context.Context, c *Client) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	changed := make(chan struct{}, 1)
	defer c.Subscribe(func(director.Change) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})()
	select {
	case <-changed:
	case <-ctx.Done():
	}
}

// TestMembersEqualAccounts: whatever happens to accounts, the watch and the store, the
// index has in the end just what the store has, at any time what the memory's
// accounts have, and a restart from the snapshot finds the same.
func TestMembersEqualAccounts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, 5)
		defer w.close()
		var wg sync.WaitGroup
		for i := range 2 {
			seed := rapid.Int64().Draw(rt, fmt.Sprint("writer", i))
			wg.Go(func() { w.regroup(rand.New(rand.NewSource(seed))) })
		}
		faults := rapid.SliceOfN(rapid.SampledFrom([]string{"pause", "resume", "break", "compact", "down", "up", "restore", "pass"}), 0, 10).Draw(rt, "faults")
		for _, fault := range faults {
			w.fault(fault)
		}
		wg.Wait()
		w.fault("up")
		w.fault("resume")
		w.rest()
		want := map[string][]director.User{}
		for _, u := range w.users {
			e, err := w.store.Get(w.ctx, director.AccountKey(u))
			must(t, err)
			if e.Rev == 0 {
				continue
			}
			a, err := director.DecodeAccount(e.Value)
			must(t, err)
			want[a.Group] = append(want[a.Group], u)
		}
		for _, g := range []string{"g0", "g1", "g2"} {
			for !slices.Equal(w.c.Members(g), want[g]) {
				if w.ctx.Err() != nil {
					rt.Fatalf("members of %s are %v, want %v", g, w.c.Members(g), want[g])
				}
				awaitChange(w.ctx, w.c)
			}
		}
		w.converge()
		path := t.TempDir() + "/snapshot"
		st := w.c.st.Load()
		must(t, writeSnapshot(path, st))
		again, err := readSnapshot(path, newShared())
		must(t, err)
		for _, st := range []*state{st, again} {
			checkIndex(rt, st)
		}
	})
}

// checkIndex compares the index with all accounts of a state that rests.
func checkIndex(t *rapid.T, st *state) {
	want := map[string][]director.User{}
	for i := range st.shards {
		for _, p := range st.shards[i].copy() {
			if g := groupOf(p.entry.acct); g != "" {
				want[g] = append(want[g], p.user)
			}
		}
	}
	if len(st.groups.by) != len(want) {
		t.Fatalf("groups %v, want %v", st.groups.by, want)
	}
	for g, users := range want {
		slices.Sort(users)
		if got := st.groups.members(g); !slices.Equal(got, users) {
			t.Fatalf("members of %s: %v, want %v", g, got, users)
		}
	}
}

// rest waits until the memory has every change of an account so far: they come in the order in which
// they were made, so it has when it knows of one more.
func (w *world) rest() {
	const last director.User = "last@example.test"
	_, _, err := w.store.Commit(w.ctx, nil, []director.Op{{Key: director.AccountKey(last), Value: []byte(`{"v":1}`)}})
	must(w.t, err)
	for {
		if _, version, _ := w.c.Account(last); version != 0 {
			return
		}
		if w.ctx.Err() != nil {
			w.t.Fatal("the memory never has the last account")
		}
		awaitChange(w.ctx, w.c)
	}
}

// regroup puts users into groups, takes them out, and removes their accounts.
func (w *world) regroup(rnd *rand.Rand) {
	for range 40 {
		u := w.users[rnd.Intn(len(w.users))]
		var ops []director.Op
		switch n := rnd.Intn(5); n {
		case 0:
			ops = []director.Op{{Key: director.AccountKey(u), Delete: true}}
		case 1:
			ops = []director.Op{{Key: director.AccountKey(u), Value: []byte(`{"v":1}`)}}
		default:
			ops = []director.Op{{Key: director.AccountKey(u), Value: fmt.Appendf(nil, `{"v":1,"group":"g%d"}`, n-2)}}
		}
		if _, _, err := w.store.Commit(w.ctx, nil, ops); err != nil && !errors.Is(err, director.ErrUnavailable) {
			w.fail("regroup: %v", err)
		}
	}
}
