package server

import (
	"errors"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/admin"
	"waypost/director/member"
	"waypost/internal/cluster"
)

// advance writes the next phase of a move, as a mover would.
func (w *world) advance(m director.Move, phase director.MovePhase, from director.Record, to *director.Record) director.Move {
	w.t.Helper()
	m.Phase = phase
	if phase.Finished() {
		m.Finished, m.Receipt, m.Messages, m.Bytes, m.BusyMS = time.Now(), "abc", 3, 30, 12
	}
	if err := w.dir.Advance(w.t.Context(), m, from, to); err != nil {
		w.t.Fatal(err)
	}
	return m
}

func TestMoves(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	w.backend("b2", 0, 10*gib)
	w.backend("b3", 0, 10*gib)
	w.domain("example.test")
	ctx := t.Context()
	w.user("ann@example.test", "b1")
	must(w.client.UpdateBackend(ctx, "b3", admin.UpdateBackend{State: ptr(director.BackendDraining)}))(t)
	for name, c := range map[string]struct {
		user string
		to   director.BackendID
		want error
	}{
		"nobody":   {"who@example.test", "b2", director.ErrNotFound},
		"nowhere":  {"ann@example.test", "b9", director.ErrNotFound},
		"at home":  {"ann@example.test", "b1", director.ErrIllegal},
		"draining": {"ann@example.test", "b3", director.ErrIllegal},
		"bad user": {"ann", "b2", director.ErrInvalid},
		"bad id":   {"ann@example.test", "B 2", director.ErrInvalid},
	} {
		if _, err := w.client.CreateMove(ctx, c.user, c.to); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.client.Move(ctx, "ann@example.test"); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("no move yet: %v", err)
	}
	m := must(w.client.CreateMove(ctx, "Ann@example.test", "b2"))(t)
	if m.From != "b1" || m.To != "b2" || m.Phase != director.PhasePlanned || m.Result != "" || m.ID == "" {
		t.Fatalf("move %+v", m)
	}
	if _, err := w.client.CreateMove(ctx, "ann@example.test", "b2"); !errors.Is(err, director.ErrConflict) {
		t.Errorf("second move: %v", err)
	}
	if _, err := w.client.DeleteUser(ctx, "ann@example.test"); !errors.Is(err, director.ErrConflict) {
		t.Errorf("deletion during a move: %v", err)
	}
	if u := must(w.client.User(ctx, "ann@example.test"))(t); u.Move == nil || u.Move.ID != m.ID {
		t.Errorf("user %+v", u)
	}
	w.until("the move is counted", func() bool { return w.metric("waypost_director_moves_in_flight") == 1 })

	seen := make(chan admin.Move, 20)
	ended := make(chan admin.Move, 1)
	go func() {
		last, err := w.client.WatchMove(ctx, "ann@example.test", func(m admin.Move) { seen <- m })
		if err != nil {
			t.Error(err)
		}
		ended <- last
	}()
	expect := func(want director.MovePhase) {
		t.Helper()
		select {
		case got := <-seen:
			if got.Phase != want {
				t.Fatalf("watched %s, want %s", got.Phase, want)
			}
		case <-time.After(testTimeout):
			t.Fatalf("%s was not seen", want)
		}
	}
	expect(director.PhasePlanned)
	rec := must(w.dir.Location(ctx, "ann@example.test"))(t).Value
	j := must(w.dir.Move(ctx, "ann@example.test"))(t).Value
	j = w.advance(j, director.PhaseCopying, rec, nil)
	expect(director.PhaseCopying)
	busy := must(rec.MarkBusy("b2"))(t)
	j = w.advance(j, director.PhaseBusy, rec, &busy)
	expect(director.PhaseBusy)
	if u := must(w.client.User(ctx, "ann@example.test"))(t); u.State != director.Busy {
		t.Errorf("user %+v", u)
	}
	flipped := must(busy.Flip())(t)
	j = w.advance(j, director.PhaseFlipped, busy, &flipped)
	expect(director.PhaseFlipped)
	w.advance(j, director.PhaseDone, flipped, nil)
	expect(director.PhaseDone)
	if last := <-ended; last.Result != "done" || last.Receipt != "abc" || last.Messages != 3 || last.BusyMS != 12 {
		t.Errorf("ended as %+v", last)
	}
	if list := must(w.client.Moves(ctx, false))(t); len(list) != 0 {
		t.Errorf("still on their way: %+v", list)
	}
	if list := must(w.client.Moves(ctx, true))(t); len(list) != 1 || list[0].Result != "done" {
		t.Errorf("all moves: %+v", list)
	}
	if u := must(w.client.User(ctx, "ann@example.test"))(t); u.Home != "b2" || u.Move != nil || u.Epoch != 3 {
		t.Errorf("user %+v", u)
	}
	w.until("no move is counted", func() bool { return w.metric("waypost_director_moves_in_flight") == 0 })

	// A director that stops ends its watches in order, and says so.
	must(w.client.CreateMove(ctx, "ann@example.test", "b1"))(t)
	w.members.put(member.Member{Role: cluster.RoleProxy, ID: "p1"})
	stopped := make(chan error, 1)
	go func() {
		_, err := w.client.WatchMove(ctx, "ann@example.test", func(m admin.Move) { seen <- m })
		stopped <- err
	}()
	expect(director.PhasePlanned)
	w.stop()
	if err := <-stopped; !errors.Is(err, director.ErrUnavailable) {
		t.Errorf("the watch ended with %v", err)
	}
}

// TestMovesCountedAfterStart counts moves that are older than the director, and
// what happens while they are read.
func TestMovesCountedAfterStart(t *testing.T) {
	tracker := newMoveTracker(nil, nil)
	entry := func(u director.User, phase director.MovePhase, deleted bool) director.Change {
		return director.Change{Entry: director.Entry{Key: director.MoveKey(u), Value: []byte(`{"v":1,"phase":"` + string(phase) + `"}`)}, Deleted: deleted}
	}
	tracker.note(entry("a@x.test", director.PhaseCopying, false))
	tracker.note(entry("b@x.test", director.PhaseBusy, false))
	tracker.note(director.Change{Entry: director.Entry{Key: director.MoveOwnerKey("c@x.test")}})
	if n := tracker.count(); n != 2 {
		t.Errorf("%d in flight", n)
	}
	tracker.note(entry("a@x.test", director.PhaseUndone, false))
	tracker.note(entry("b@x.test", "", true))
	if n := tracker.count(); n != 0 {
		t.Errorf("%d in flight", n)
	}
}
