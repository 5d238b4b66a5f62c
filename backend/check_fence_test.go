package backend

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/director"
	"waypost/internal/cluster"
)

// TestFencesChecked contradicts the directory in each way.
func TestFencesChecked(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d", "Subject: x\r\n\r\ny\r\n"))
	b2 := r.nodes["b2"]
	setFence := func(f fence.Fence) {
		u := b2.use(alice)
		defer b2.release(u)
		u.mu.Lock()
		defer u.mu.Unlock()
		r.must(u.setFence(f))
	}
	want := func(id director.BackendID, user director.User, kinds ...string) {
		t.Helper()
		found := r.check(id, user, false)
		if got := problems(found); !slices.Equal(got, kinds) {
			t.Errorf("%s %s: %v, want %v: %+v", id, user, got, kinds, found)
		}
	}
	want("b1", alice)
	want("b2", alice)
	want("b2", "")

	r.must(os.MkdirAll(b2.disk.staging(alice), 0o700))
	want("b2", alice, control.KindStaging)
	want("b2", "", control.KindStaging)
	r.must(os.RemoveAll(b2.disk.staging(alice)))

	r.must(os.MkdirAll(b2.disk.live(alice), 0o700))
	want("b2", alice, control.KindTree)
	r.must(os.RemoveAll(b2.disk.live(alice)))

	r.must(os.MkdirAll(filepath.Join(b2.disk.trash(alice, 1), "tree"), 0o700))
	want("b2", alice, control.KindTrash)
	r.must(os.RemoveAll(b2.disk.trash(alice, 1)))

	r.must(os.WriteFile(filepath.Join(b2.disk.outbox(), "k.json.refused"), []byte(`{"id":"1","user":"alice@example.test","kind":"reply"}`), 0o600))
	want("b2", "", control.KindOutbox)
	r.must(os.Remove(filepath.Join(b2.disk.outbox(), "k.json.refused")))

	setFence(fence.Fence{State: fence.Serving, Epoch: rec.Epoch})
	want("b2", alice, control.KindTwoHomes, control.KindTree)
	want("b2", "", control.KindTwoHomes, control.KindTree)
	if _, err := r.repair("b2", false); !control.IsCode(err, control.CodeFence) {
		t.Errorf("repair where the home is not: %v", err)
	}
	setFence(fence.Fence{State: fence.Gone, Epoch: rec.Epoch})
	want("b2", alice)

	b1 := r.nodes["b1"]
	u := b1.use(alice)
	defer b1.release(u)
	u.mu.Lock()
	r.must(u.setFence(fence.Fence{State: fence.Serving, Epoch: rec.Epoch + 7}))
	u.mu.Unlock()
	want("b1", alice, control.KindFence)
	if _, err := r.repair("b1", false); !control.IsCode(err, control.CodeFence) {
		t.Errorf("repair of a contradiction: %v", err)
	}
}

// TestMoveChecked: a move leaves nothing to find, at any step.
func TestMoveChecked(t *testing.T) {
	r := newRig(t, "b1", "b2")
	rec := r.create("b1")
	r.must(r.deliver("b1", rec.Epoch, "d", "Subject: x\r\n\r\ny\r\n"))
	silent := func(when string) {
		t.Helper()
		for _, id := range []director.BackendID{"b1", "b2"} {
			if found := append(r.check(id, alice, true), r.check(id, "", false)...); len(found) > 0 {
				t.Errorf("%s, %s: %+v", when, id, found)
			}
		}
	}
	m, busy := r.toSealed("b2", "m1")
	silent("sealed")
	if _, err := r.repair("b1", false); !control.IsCode(err, control.CodeUnavailable) {
		t.Errorf("repair of a frozen user: %v", err)
	}
	to := r.flip(m, busy)
	silent("flipped")
	r.fenceIs("b2", fence.Fence{State: fence.Serving, Epoch: to.Epoch})
	r.fenceIs("b1", fence.Fence{State: fence.Gone, Epoch: to.Epoch})
	r.finish(m, to)
	silent("done")
	if steps, err := r.repair("b2", true); err != nil || len(steps) != 1 || steps[0].Text != "nothing to mend" {
		t.Errorf("repair at the new home: %+v, %v", steps, err)
	}
}

// TestNobodysFences: records without fences, and fences without records.
func TestNobodysFences(t *testing.T) {
	r := newRig(t, "b1")
	b1 := r.nodes["b1"]
	const bob, carol = director.User("bob@example.test"), director.User("carol@example.test")
	rec, err := director.Create(nil, "b1")
	r.must(err)
	r.must(r.dir.CreateUser(t.Context(), bob, rec, director.Account{Created: time.Now()}))
	u := b1.use(carol)
	u.mu.Lock()
	err = u.setFence(fence.Fence{State: fence.Serving, Epoch: 3})
	u.mu.Unlock()
	b1.release(u)
	r.must(err)
	eventually(t, "the cache has bob", func() error {
		if _, known, _ := b1.cache.Location(bob); !known {
			return errors.New("it has not")
		}
		return nil
	})
	var got []string
	for _, f := range r.check("b1", "", false) {
		got = append(got, string(f.User)+" "+f.Kind)
	}
	if want := []string{"bob@example.test fence", "carol@example.test fence", "carol@example.test tree"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestCheckInterrupted: whoever goes away ends the check, and the next may begin.
func TestCheckInterrupted(t *testing.T) {
	r := newRig(t, "b1")
	r.furnish("b1")
	enough := errors.New("enough")
	err := r.controlOf("b1").Check(t.Context(), control.CheckRequest{}, func(control.CheckLine) error { return enough })
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	eventually(t, "the next check of all", func() error {
		return r.controlOf("b1").Check(t.Context(), control.CheckRequest{}, func(control.CheckLine) error { return nil })
	})
	for _, bad := range []control.CheckRequest{{User: "no user"}} {
		if err := r.controlOf("b1").Check(t.Context(), bad, nil); !control.IsCode(err, control.CodeBad) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	mover := control.NewClient(r.mover, r.nodes["b1"].Addr(), cluster.Peer{Role: cluster.RoleBackend, ID: "b1"})
	if err := mover.Repair(t.Context(), control.RepairRequest{User: alice}, nil); !control.IsCode(err, control.CodeForbidden) {
		t.Errorf("a mover may repair: %v", err)
	}
}

// TestPeekEvictsNobody: a check of all users leaves the open mailboxes open.
func TestPeekEvictsNobody(t *testing.T) {
	r := newRig(t, "b1")
	r.furnish("b1")
	b := r.nodes["b1"]
	b.users.mu.Lock()
	b.users.maxIdle = 1
	b.users.mu.Unlock()
	for i := range 50 {
		_, end := b.peek(director.User(fmt.Sprintf("u%d@example.test", i)))
		end()
	}
	b.users.mu.Lock()
	defer b.users.mu.Unlock()
	if u := b.users.open[alice]; u == nil || u.acct == nil || len(b.users.open) != 1 {
		t.Errorf("%d open, %+v", len(b.users.open), u)
	}
}
