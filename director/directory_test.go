package director_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/memory"
)

var epoch0 = time.Unix(1_700_000_000, 0).UTC()

const (
	ann = director.User("ann@example.test")
	bob = director.User("bob@example.test")
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// directory is one with a domain, waypost backends b1 and b2, a dovecot d1, and
// ann, active on b1 at epoch 1.
func directory(t *testing.T) (*memory.Store, *director.Directory) {
	t.Helper()
	s := memory.New()
	t.Cleanup(func() { _ = s.Close() })
	d := director.New(s)
	ctx := t.Context()
	must(t, d.Init(ctx, func() string { return "era-1" }))
	must(t, d.CreateDomain(ctx, "example.test", epoch0))
	for id, kind := range map[director.BackendID]string{"b1": director.KindWaypost, "b2": director.KindWaypost, "d1": director.KindDovecot} {
		must(t, d.PutBackend(ctx, id, func(b *director.Backend, _ bool) error { b.Kind = kind; return nil }))
	}
	must(t, d.CreateUser(ctx, ann, active("b1", 1), director.Account{Hash: "h"}))
	return s, d
}

func active(home director.BackendID, e director.Epoch) director.Record {
	return director.Record{Home: home, Epoch: e, State: director.Active}
}

func location(t *testing.T, d *director.Directory, u director.User) director.Record {
	t.Helper()
	v, err := d.Location(t.Context(), u)
	must(t, err)
	return v.Value
}

// operations are all changes, each from a fresh directory. want is checked
// after it; prepare runs before.
var operations = []struct {
	name    string
	prepare func(*testing.T, *director.Directory)
	do      func(*testing.T, *director.Directory) error
	want    func(*testing.T, *director.Directory)
}{
	{"CreateUser", nil,
		func(t *testing.T, d *director.Directory) error {
			return d.CreateUser(t.Context(), bob, active("b2", 1), director.Account{Hash: "x"})
		},
		func(t *testing.T, d *director.Directory) {
			if a, err := d.Account(t.Context(), bob); location(t, d, bob) != active("b2", 1) || err != nil || a.Value.Hash != "x" {
				t.Errorf("%v, %+v, %v", location(t, d, bob), a, err)
			}
		}},
	{"DeleteUser", nil,
		func(t *testing.T, d *director.Directory) error { _, err := d.DeleteUser(t.Context(), ann); return err },
		func(t *testing.T, d *director.Directory) {
			if r := location(t, d, ann); r.State != director.Deleted || r.Epoch != 2 {
				t.Errorf("%v", r)
			}
			if _, err := d.Account(t.Context(), ann); !errors.Is(err, director.ErrNotFound) {
				t.Errorf("account: %v", err)
			}
		}},
	{"Rollback", func(t *testing.T, d *director.Directory) { busy(t, d) },
		func(t *testing.T, d *director.Directory) error {
			_, err := d.Rollback(t.Context(), ann, location(t, d, ann))
			return err
		},
		func(t *testing.T, d *director.Directory) {
			if r := location(t, d, ann); r != active("b1", 3) {
				t.Errorf("%v", r)
			}
		}},
	{"UpdateAccount", nil,
		func(t *testing.T, d *director.Directory) error {
			return d.UpdateAccount(t.Context(), ann, func(a *director.Account) error { a.Disabled = true; return nil })
		},
		func(t *testing.T, d *director.Directory) {
			if a, err := d.Account(t.Context(), ann); err != nil || !a.Value.Disabled || a.Value.Hash != "h" || a.Value.Version != 1 {
				t.Errorf("%+v, %v", a, err)
			}
		}},
	{"PutBackend", nil,
		func(t *testing.T, d *director.Directory) error {
			return d.PutBackend(t.Context(), "b3", func(b *director.Backend, _ bool) error { b.Weight = 5; return nil })
		},
		func(t *testing.T, d *director.Directory) {
			if b, err := d.Backend(t.Context(), "b3"); err != nil || b.Value.Weight != 5 {
				t.Errorf("%+v, %v", b, err)
			}
		}},
	{"PutIncarnation", nil,
		func(t *testing.T, d *director.Directory) error {
			return d.PutIncarnation(t.Context(), "b1", director.Incarnation{Count: 3, Disk: "x"})
		},
		func(t *testing.T, d *director.Directory) {
			if i, err := d.Incarnation(t.Context(), "b1"); err != nil || i.Count != 3 {
				t.Errorf("%+v, %v", i, err)
			}
		}},
	{"CreateDomain", nil,
		func(t *testing.T, d *director.Directory) error {
			return d.CreateDomain(t.Context(), "new.test", epoch0)
		},
		func(t *testing.T, d *director.Directory) {
			if v, err := d.Domain(t.Context(), "new.test"); err != nil || !v.Value.Created.Equal(epoch0) {
				t.Errorf("%+v, %v", v, err)
			}
		}},
	{"DeleteDomain", nil,
		func(t *testing.T, d *director.Directory) error { return d.DeleteDomain(t.Context(), "example.test") },
		func(t *testing.T, d *director.Directory) {
			if _, err := d.Domain(t.Context(), "example.test"); !errors.Is(err, director.ErrNotFound) {
				t.Error(err)
			}
		}},
	{"PutAddress", nil,
		func(t *testing.T, d *director.Directory) error {
			return d.PutAddress(t.Context(), "info", "example.test", director.Address{Members: []string{string(ann)}})
		},
		func(t *testing.T, d *director.Directory) {
			if a, err := d.Address(t.Context(), "info", "example.test"); err != nil || !slices.Equal(a.Value.Members, []string{string(ann)}) {
				t.Errorf("%+v, %v", a, err)
			}
		}},
	{"DeleteAddress", func(t *testing.T, d *director.Directory) {
		must(t, d.PutAddress(t.Context(), "info", "example.test", director.Address{}))
	},
		func(t *testing.T, d *director.Directory) error {
			return d.DeleteAddress(t.Context(), "info", "example.test")
		},
		func(t *testing.T, d *director.Directory) {
			if _, err := d.Address(t.Context(), "info", "example.test"); !errors.Is(err, director.ErrNotFound) {
				t.Error(err)
			}
		}},
	{"PlanMove", nil,
		func(t *testing.T, d *director.Directory) error {
			_, err := d.PlanMove(t.Context(), ann, "b2", "m1", epoch0)
			return err
		},
		func(t *testing.T, d *director.Directory) {
			if m, err := d.Move(t.Context(), ann); err != nil || m.Value.ID != "m1" || m.Value.Phase != director.PhasePlanned || m.Value.Epoch != 1 {
				t.Errorf("%+v, %v", m, err)
			}
		}},
	{"Advance", func(t *testing.T, d *director.Directory) {
		_, err := d.PlanMove(t.Context(), ann, "b2", "m1", epoch0)
		must(t, err)
	},
		func(t *testing.T, d *director.Directory) error {
			m, err := d.Move(t.Context(), ann)
			if err != nil {
				return err
			}
			m.Value.Phase = director.PhaseBusy
			to, _ := active("b1", 1).MarkBusy("b2")
			return d.Advance(t.Context(), m.Value, active("b1", 1), &to)
		},
		func(t *testing.T, d *director.Directory) {
			m, err := d.Move(t.Context(), ann)
			if r := location(t, d, ann); err != nil || m.Value.Phase != director.PhaseBusy || r.State != director.Busy || r.Epoch != 2 {
				t.Errorf("%+v, %v, %v", m, r, err)
			}
		}},
	{"Claim", nil,
		func(t *testing.T, d *director.Directory) error { return claim(t, d) },
		func(t *testing.T, d *director.Directory) {
			if owned, err := d.Owned(t.Context(), ann); err != nil || !owned {
				t.Errorf("owned %v, %v", owned, err)
			}
		}},
}

// busy plans a move of ann to b2 and makes the record busy.
func busy(t *testing.T, d *director.Directory) director.Move {
	t.Helper()
	m, err := d.PlanMove(t.Context(), ann, "b2", "m1", epoch0)
	must(t, err)
	from := location(t, d, ann)
	to, err := from.MarkBusy("b2")
	must(t, err)
	m.Phase = director.PhaseBusy
	must(t, d.Advance(t.Context(), m, from, &to))
	return m
}

func claim(t *testing.T, d *director.Directory) error {
	l, err := d.Store().Grant(t.Context(), time.Hour)
	if err != nil {
		return err
	}
	got, err := d.Claim(t.Context(), ann, "mover", l.ID())
	if err == nil && !got {
		return errors.New("somebody else has the claim")
	}
	return err
}

// TestUnknownResults: each change is made exactly once, whether the commit
// whose result is unknown was done or not.
func TestUnknownResults(t *testing.T) {
	for _, op := range operations {
		for name, first := range map[string]memory.Outcome{"normal": memory.Normal, "unknown, done": memory.UnknownDone, "unknown, not done": memory.UnknownNotDone} {
			t.Run(op.name+"/"+name, func(t *testing.T) {
				s, d := directory(t)
				if op.prepare != nil {
					op.prepare(t, d)
				}
				before := s.Revision()
				var calls atomic.Int64
				s.SetCommitHook(func([]director.Guard, []director.Op) memory.Outcome {
					if calls.Add(1) == 1 {
						return first
					}
					return memory.Normal
				})
				if err := op.do(t, d); err != nil {
					t.Fatal(err)
				}
				op.want(t, d)
				if op.name != "DeleteDomain" && op.name != "DeleteAddress" && s.Revision() != before+1 {
					t.Errorf("changed %d times", s.Revision()-before)
				}
				if first == memory.UnknownDone && calls.Load() != 1 && op.name != "DeleteDomain" && op.name != "DeleteAddress" {
					t.Errorf("%d commits for a change that was made", calls.Load())
				}
			})
		}
	}
}

// TestUnknownAndGone: the result is unknown and cannot be read back.
func TestUnknownAndGone(t *testing.T) {
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			s, d := directory(t)
			if op.prepare != nil {
				op.prepare(t, d)
			}
			s.SetCommitHook(func([]director.Guard, []director.Op) memory.Outcome {
				s.SetDown(true)
				return memory.UnknownNotDone
			})
			if err := op.do(t, d); !errors.Is(err, director.ErrUnknown) {
				t.Fatalf("%v, want ErrUnknown", err)
			}
			s.SetDown(false)
			s.SetCommitHook(func([]director.Guard, []director.Op) memory.Outcome { return memory.Unavailable })
			if err := op.do(t, d); !errors.Is(err, director.ErrUnavailable) || errors.Is(err, director.ErrUnknown) {
				t.Fatalf("%v, want ErrUnavailable alone", err)
			}
			s.SetCommitHook(func([]director.Guard, []director.Op) memory.Outcome { return memory.UnknownNotDone })
			if err := op.do(t, d); !errors.Is(err, director.ErrUnknown) {
				t.Fatalf("always unknown: %v, want ErrUnknown", err)
			}
		})
	}
}

// TestNoEra: without an era (restore, R10) nothing is changed.
func TestNoEra(t *testing.T) {
	for _, op := range operations {
		s, d := directory(t)
		if op.prepare != nil {
			op.prepare(t, d)
		}
		_, _, err := s.Commit(t.Context(), nil, []director.Op{{Key: director.KeyEra, Delete: true}})
		must(t, err)
		before := s.Revision()
		if err := op.do(t, d); !errors.Is(err, director.ErrUnavailable) || s.Revision() != before {
			t.Errorf("%s: %v", op.name, err)
		}
	}
}

// TestEraGuard: a change that began in one era is not made in another.
func TestEraGuard(t *testing.T) {
	s, d := directory(t)
	restored := false
	s.SetCommitHook(func(_ []director.Guard, ops []director.Op) memory.Outcome {
		if restored {
			return memory.Normal
		}
		restored = true // the restore comes between read and commit
		_, _, err := s.Commit(t.Context(), nil, []director.Op{
			{Key: director.KeyEra, Value: []byte("era-2")}, {Key: director.LocationKey(ann), Value: active("b2", 9).Encode()}})
		must(t, err)
		return memory.Normal
	})
	if r, err := d.DeleteUser(t.Context(), ann); !errors.Is(err, director.ErrConflict) {
		t.Fatalf("%v, %v", r, err)
	}
	if r := location(t, d, ann); r != active("b2", 9) {
		t.Fatalf("%v", r)
	}
}

func TestInit(t *testing.T) {
	s := memory.New()
	defer s.Close()
	d := director.New(s)
	eras := 0
	newEra := func() string { eras++; return fmt.Sprint("era-", eras) }
	s.SetCommitHook(func([]director.Guard, []director.Op) memory.Outcome {
		if eras == 1 {
			return memory.UnknownDone
		}
		return memory.Normal
	})
	must(t, d.Init(t.Context(), newEra))
	must(t, d.Init(t.Context(), newEra))
	if e, _ := s.Get(t.Context(), director.KeyEra); string(e.Value) != "era-1" {
		t.Fatalf("era %q", e.Value)
	}
	s.SetCommitHook(nil)
	_, _, err := s.Commit(t.Context(), nil, []director.Op{{Key: "schema", Value: []byte("2")}})
	must(t, err)
	if err := d.Init(t.Context(), newEra); !errors.Is(err, director.ErrInvalid) {
		t.Fatalf("another schema: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	_, d := directory(t)
	ctx := t.Context()
	put := func(local, domain string) error { return d.PutAddress(ctx, local, domain, director.Address{}) }
	plan := func(u director.User, to director.BackendID) error {
		_, err := d.PlanMove(ctx, u, to, "m9", epoch0)
		return err
	}
	del := func(u director.User) error { _, err := d.DeleteUser(ctx, u); return err }
	create := func(u director.User, r director.Record) error { return d.CreateUser(ctx, u, r, director.Account{}) }
	for name, c := range map[string]struct{ err, want error }{
		"user there":           {create(ann, active("b2", 1)), director.ErrExists},
		"user of no domain":    {create("x@other.test", active("b1", 1)), director.ErrNotFound},
		"wrong first epoch":    {create(bob, active("b1", 2)), director.ErrConflict},
		"no such user":         {del(bob), director.ErrNotFound},
		"domain there":         {d.CreateDomain(ctx, "example.test", epoch0.Add(1)), director.ErrExists},
		"bad domain":           {d.CreateDomain(ctx, "exa mple", epoch0), director.ErrInvalid},
		"bad backend":          {d.PutBackend(ctx, "B 1", nil), director.ErrInvalid},
		"address, empty":       {put("", "example.test"), director.ErrInvalid},
		"address, slash":       {put("a/b", "example.test"), director.ErrInvalid},
		"address, upper case":  {put("Info", "example.test"), director.ErrInvalid},
		"address of no domain": {put("info", "other.test"), director.ErrNotFound},
		"no such address":      {d.DeleteAddress(ctx, "info", "example.test"), director.ErrNotFound},
		"no account":           {d.UpdateAccount(ctx, bob, func(*director.Account) error { return nil }), director.ErrNotFound},
		"move of nobody":       {plan(bob, "b2"), director.ErrNotFound},
		"move to nowhere":      {plan(ann, "b9"), director.ErrNotFound},
		"move to home":         {plan(ann, "b1"), director.ErrIllegal},
		"move to dovecot":      {plan(ann, "d1"), director.ErrIllegal},
		"advance no journal":   {d.Advance(ctx, director.Move{User: ann}, active("b1", 1), nil), director.ErrConflict},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
	must(t, put(director.CatchAll, "example.test"))
	if _, err := d.Rollback(ctx, ann, active("b1", 1)); !errors.Is(err, director.ErrIllegal) {
		t.Errorf("rollback of an active record: %v", err)
	}
	gone := director.Record{Home: "b1", Epoch: 2, State: director.Busy, Peer: "b2"}
	if _, err := d.Rollback(ctx, bob, gone); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("rollback of nobody: %v", err)
	}
	if _, err := d.Rollback(ctx, ann, gone); !errors.Is(err, director.ErrConflict) {
		t.Errorf("rollback of another record: %v", err)
	}
}

// TestLifeAfterDelete: a re-created user goes on from the tombstone (R12).
func TestLifeAfterDelete(t *testing.T) {
	_, d := directory(t)
	ctx := t.Context()
	final, err := d.DeleteUser(ctx, ann)
	must(t, err)
	if _, err := d.DeleteUser(ctx, ann); !errors.Is(err, director.ErrNotFound) {
		t.Fatalf("deleted twice: %v", err)
	}
	if err := d.CreateUser(ctx, ann, active("b2", 1), director.Account{}); !errors.Is(err, director.ErrConflict) {
		t.Fatalf("re-created at epoch 1: %v", err)
	}
	next, err := director.Create(&final, "b2")
	must(t, err)
	must(t, d.CreateUser(ctx, ann, next, director.Account{Hash: "other person"}))
	if r := location(t, d, ann); r != active("b2", 3) {
		t.Fatalf("%v", r)
	}
}

// TestDeleteSparesTheNextPerson: the delete's result is unknown, it was made,
// and the name was given to somebody else before it could be read back.
func TestDeleteSparesTheNextPerson(t *testing.T) {
	s, d := directory(t)
	s.SetCommitHook(func(g []director.Guard, ops []director.Op) memory.Outcome {
		s.SetCommitHook(nil)
		_, err := d.DeleteUser(t.Context(), ann)
		must(t, err)
		must(t, d.CreateUser(t.Context(), ann, active("b2", 3), director.Account{}))
		return memory.UnknownNotDone
	})
	if _, err := d.DeleteUser(t.Context(), ann); !errors.Is(err, director.ErrUnknown) || !errors.Is(err, director.ErrConflict) {
		t.Fatal(err)
	}
	if r := location(t, d, ann); r != active("b2", 3) {
		t.Fatalf("%v", r)
	}
}

func TestMoveToItsEnd(t *testing.T) {
	_, d := directory(t)
	ctx := t.Context()
	m := busy(t, d)
	if _, err := d.DeleteUser(ctx, ann); !errors.Is(err, director.ErrConflict) {
		t.Fatalf("delete while busy: %v", err)
	}
	if _, err := d.PlanMove(ctx, ann, "b2", "m2", epoch0); !errors.Is(err, director.ErrConflict) {
		t.Fatalf("second move: %v", err)
	}
	if again, err := d.PlanMove(ctx, ann, "b2", "m1", epoch0); err != nil || again.Phase != director.PhaseBusy {
		t.Fatalf("the same move planned again: %+v, %v", again, err)
	}
	from := location(t, d, ann)
	to, err := from.Flip()
	must(t, err)
	flipped := m
	flipped.Phase = director.PhaseFlipped
	must(t, d.Advance(ctx, flipped, from, &to))
	must(t, d.Advance(ctx, flipped, from, &to)) // the same step again is done already
	undone := m
	undone.Phase = director.PhaseUndone
	back, err := from.Rollback()
	must(t, err)
	if err := d.Advance(ctx, undone, from, &back); !errors.Is(err, director.ErrConflict) {
		t.Fatalf("rolled back after the flip: %v", err)
	}
	done := flipped
	done.Phase = director.PhaseDone
	must(t, d.Advance(ctx, done, to, nil))
	done.Reason = "too late"
	if err := d.Advance(ctx, done, to, nil); !errors.Is(err, director.ErrConflict) {
		t.Fatalf("changed a finished journal: %v", err)
	}
	if r := location(t, d, ann); r != active("b2", 3) {
		t.Fatalf("%v", r)
	}
	_, err = d.DeleteUser(ctx, ann)
	must(t, err)
	if _, err := d.Move(ctx, ann); !errors.Is(err, director.ErrNotFound) {
		t.Fatalf("the journal of a deleted user: %v", err)
	}
}

func TestIncarnationNeverGoesBack(t *testing.T) {
	_, d := directory(t)
	ctx := t.Context()
	must(t, d.PutIncarnation(ctx, "b1", director.Incarnation{Count: 5, Disk: "x"}))
	for _, bad := range []director.Incarnation{{Count: 4, Disk: "x"}, {Count: 9, Disk: "y"}} {
		if err := d.PutIncarnation(ctx, "b1", bad); !errors.Is(err, director.ErrConflict) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	must(t, d.PutIncarnation(ctx, "b1", director.Incarnation{Count: 6, Disk: "x"}))
}

func TestClaims(t *testing.T) {
	s, d := directory(t)
	ctx := t.Context()
	one, err := s.Grant(ctx, time.Hour)
	must(t, err)
	two, err := s.Grant(ctx, time.Hour)
	must(t, err)
	for _, c := range []struct {
		owner string
		lease director.LeaseID
		want  bool
	}{{"m1", one.ID(), true}, {"m1", one.ID(), true}, {"m2", two.ID(), false}, {"m1", two.ID(), false}} {
		if got, err := d.Claim(ctx, ann, c.owner, c.lease); err != nil || got != c.want {
			t.Errorf("claim by %s %d: %v, %v", c.owner, c.lease, got, err)
		}
	}
	must(t, d.Release(ctx, ann, "m2", two.ID()))
	if owned, err := d.Owned(ctx, ann); err != nil || !owned {
		t.Fatalf("released by another: owned %v, %v", owned, err)
	}
	s.ExpireLease(one.ID())
	if got, err := d.Claim(ctx, ann, "m2", two.ID()); err != nil || !got {
		t.Fatalf("after the owner's death: %v, %v", got, err)
	}
	must(t, d.Release(ctx, ann, "m2", two.ID()))
	must(t, d.Release(ctx, ann, "m2", two.ID()))
	if owned, err := d.Owned(ctx, ann); err != nil || owned {
		t.Fatalf("after the release: owned %v, %v", owned, err)
	}
}

// TestRaces: flip, rollback by the home (R7) and delete at once; exactly one
// transition is made from the busy record, whatever the commits' fates.
func TestRaces(t *testing.T) {
	for round := range 40 {
		s, d := directory(t)
		m := busy(t, d)
		from := location(t, d, ann)
		var n atomic.Int64
		s.SetCommitHook(func([]director.Guard, []director.Op) memory.Outcome {
			return memory.Outcome([]memory.Outcome{memory.Normal, memory.UnknownDone, memory.UnknownNotDone}[(int(n.Add(1))+round)%3])
		})
		var flips, rollbacks atomic.Int64
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				flipped, to := m, director.Record{}
				flipped.Phase = director.PhaseFlipped
				to, _ = from.Flip()
				if d.Advance(t.Context(), flipped, from, &to) == nil {
					flips.Add(1)
				}
			})
			wg.Go(func() {
				if _, err := d.Rollback(t.Context(), ann, from); err == nil {
					rollbacks.Add(1)
				}
			})
			wg.Go(func() {
				if _, err := d.DeleteUser(t.Context(), ann); err == nil {
					t.Error("deleted with an unfinished move")
				}
			})
		}
		wg.Wait()
		r := location(t, d, ann)
		if r.Epoch != from.Epoch+1 || r.State != director.Active {
			t.Fatalf("%q came of %q", r, from)
		}
		if r.Home == "b2" && rollbacks.Load() > 0 || r.Home == "b1" && flips.Load() > 0 {
			t.Fatalf("%q, but %d flips and %d rollbacks were told done", r, flips.Load(), rollbacks.Load())
		}
	}
}

// TestConcurrentUpdates: no change of an account is lost.
func TestConcurrentUpdates(t *testing.T) {
	_, d := directory(t)
	var wg sync.WaitGroup
	var made atomic.Int64
	for i := range 8 {
		wg.Go(func() {
			err := d.UpdateAccount(t.Context(), ann, func(a *director.Account) error {
				a.Services = append(a.Services, fmt.Sprint("s", i))
				return nil
			})
			if err == nil {
				made.Add(1)
			} else if !errors.Is(err, director.ErrConflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	a, err := d.Account(t.Context(), ann)
	must(t, err)
	if int64(len(a.Value.Services)) != made.Load() {
		t.Fatalf("%d changes were made, %s are there", made.Load(), strings.Join(a.Value.Services, " "))
	}
}
