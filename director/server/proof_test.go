package server

import (
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/cluster"
)

// movedUser is ann, moved from b1 to b2 with the receipt "abc".
func movedUser(w *world) {
	w.t.Helper()
	ctx := w.t.Context()
	w.domain("example.test")
	w.user("ann@example.test", "b1")
	must(w.client.CreateMove(ctx, "ann@example.test", "b2"))(w.t)
	rec := must(w.dir.Location(ctx, "ann@example.test"))(w.t).Value
	m := must(w.dir.Move(ctx, "ann@example.test"))(w.t).Value
	busy := must(rec.MarkBusy("b2"))(w.t)
	m = w.advance(m, director.PhaseBusy, rec, &busy)
	flipped := must(busy.Flip())(w.t)
	m = w.advance(m, director.PhaseFlipped, busy, &flipped)
	w.advance(m, director.PhaseDone, flipped, nil)
}

func TestUndoMove(t *testing.T) {
	w := newWorld(t)
	for _, id := range []director.BackendID{"b1", "b2"} {
		w.backend(id, 0, 10*gib)
	}
	ctx := t.Context()
	movedUser(w)
	w.user("bob@example.test", "b1")
	if _, err := w.client.UndoMove(ctx, "bob@example.test"); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("bob was never moved: %v", err)
	}
	must(w.client.UpdateBackend(ctx, "b1", admin.UpdateBackend{State: ptr(director.BackendDraining)}))(t)
	if _, err := w.client.UndoMove(ctx, "ann@example.test"); !errors.Is(err, director.ErrIllegal) {
		t.Errorf("back to a backend that is drained: %v", err)
	}
	must(w.client.UpdateBackend(ctx, "b1", admin.UpdateBackend{State: ptr(director.BackendActive)}))(t)
	m := must(w.client.UndoMove(ctx, "ann@example.test"))(t)
	if m.From != "b2" || m.To != "b1" || m.Phase != director.PhasePlanned {
		t.Errorf("%+v", m)
	}
	if _, err := w.client.UndoMove(ctx, "ann@example.test"); !errors.Is(err, director.ErrConflict) {
		t.Errorf("twice: %v", err)
	}
	err := w.client.VerifyMove(ctx, "ann@example.test", func(admin.VerifyLine) error { return nil })
	if !errors.Is(err, director.ErrConflict) {
		t.Errorf("verified in the middle of a move: %v", err)
	}
}

// verifyNode is a backend that verifies as a test says.
type verifyNode struct {
	mu   sync.Mutex
	req  control.VerifyRequest
	fail error
}

func (n *verifyNode) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(control.PathVerify, func(w http.ResponseWriter, r *http.Request) {
		_, req, err := control.Decode[control.VerifyRequest](r, cluster.RoleDirector)
		if err != nil {
			control.WriteError(w, err)
			return
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.req = req
		out := control.NewCheckWriter(w)
		if n.fail == nil {
			out.Progress(0, 1)
			out.Finding(control.Finding{User: req.User, Kind: control.KindMissing, What: "one is missing"})
			out.Verified(control.Verified{Digest: req.Digest, Messages: 3, Same: 1, Changed: 1, Missing: 1})
		}
		out.End(n.fail)
	})
	return mux
}

func TestVerifyMove(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	n := &verifyNode{}
	w.serveBackend("b2", n.handler())
	movedUser(w)
	ctx := t.Context()
	var found []string
	var got admin.Verified
	err := w.client.VerifyMove(ctx, "ann@example.test", func(l admin.VerifyLine) error {
		if l.Finding != nil {
			found = append(found, l.Finding.What)
		}
		if l.Verified != nil {
			got = *l.Verified
		}
		return nil
	})
	if err != nil || len(found) != 1 || got.User != "ann@example.test" || got.From != "b1" || got.To != "b2" || got.Missing != 1 || got.Digest != "abc" {
		t.Errorf("%+v, %v, %v", got, found, err)
	}
	if n.req.Epoch != 2 {
		t.Errorf("asked for %+v", n.req)
	}
	for code, want := range map[string]error{control.CodeBad: director.ErrNotFound, control.CodeDiffers: director.ErrConflict, control.CodeUnavailable: director.ErrUnavailable} {
		n.mu.Lock()
		n.fail = &control.Error{Code: code, Text: "so"}
		n.mu.Unlock()
		if err := w.client.VerifyMove(ctx, "ann@example.test", func(admin.VerifyLine) error { return nil }); !errors.Is(err, want) {
			t.Errorf("%s: %v", code, err)
		}
	}
}

func TestLimits(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	ctx := t.Context()
	if l := must(w.client.Limits(ctx))(t); l.Moves != 0 || l.BytesPerSecond != 0 || l.Backends == nil || len(l.Backends) != 0 {
		t.Errorf("none set: %+v", l)
	}
	must(w.client.SetLimit(ctx, admin.SetLimit{Moves: ptr(7)}))(t)
	must(w.client.SetLimit(ctx, admin.SetLimit{Backend: "b1", BytesPerSecond: ptr(int64(50_000_000))}))(t)
	l := must(w.client.SetLimit(ctx, admin.SetLimit{Backend: "b1", Moves: ptr(2)}))(t)
	if l.Moves != 7 || len(l.Backends) != 1 || l.Backends[0] != (admin.BackendLimit{Backend: "b1", Limit: admin.Limit{BytesPerSecond: 50_000_000, Moves: 2}}) {
		t.Errorf("%+v", l)
	}
	for name, c := range map[string]struct {
		req  admin.SetLimit
		want error
	}{
		"unknown": {admin.SetLimit{Backend: "b9", Moves: ptr(1)}, director.ErrNotFound},
		"bad id":  {admin.SetLimit{Backend: "B 9", Moves: ptr(1)}, director.ErrInvalid},
		"below 0": {admin.SetLimit{BytesPerSecond: ptr(int64(-1))}, director.ErrInvalid},
	} {
		if _, err := w.client.SetLimit(ctx, c.req); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMoveTellsWhyItWaits: what movers note is told to who asks.
func TestMoveTellsWhyItWaits(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	w.backend("b2", 0, 10*gib)
	w.domain("example.test")
	ctx := t.Context()
	w.user("ann@example.test", "b1")
	must(w.client.CreateMove(ctx, "ann@example.test", "b2"))(t)
	m := must(w.dir.Move(ctx, "ann@example.test"))(t).Value
	next := m
	next.Tries, next.NotBefore = 1, time.Now().Add(time.Minute)
	if err := w.dir.Advance(ctx, next, must(w.dir.Location(ctx, "ann@example.test"))(t).Value, nil); err != nil {
		t.Fatal(err)
	}
	next = must(w.dir.Move(ctx, "ann@example.test"))(t).Value
	for _, stale := range []director.Move{m, next} { // the first is not noted any more
		if err := w.dir.NoteWaiting(ctx, stale, "for its turn"); err != nil {
			t.Fatal(err)
		}
	}
	got := must(w.client.Moves(ctx, false))(t)
	if len(got) != 1 || got[0].Waiting != "for its turn" || got[0].Tries != 1 || got[0].NotBefore.IsZero() {
		t.Errorf("%+v", got)
	}
}
