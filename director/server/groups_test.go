package server

import (
	"errors"
	"strings"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/telemetry"
)

func TestGroups(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	w.backend("b2", 0, 10*gib)
	w.domain("example.test")
	ctx := t.Context()
	create := func(name, group string, home director.BackendID) (admin.User, error) {
		return w.client.CreateUser(ctx, admin.CreateUser{User: name, Group: group, Home: home})
	}
	if u := must(create("ann@example.test", "sales", "b2"))(t); u.Group != "sales" || u.Home != "b2" {
		t.Errorf("%+v", u)
	}
	// Who comes next lives where the others do.
	for _, name := range []string{"bob@example.test", "cy@example.test", "dan@example.test"} {
		if u := must(create(name, "sales", ""))(t); u.Home != "b2" {
			t.Errorf("%s lives on %s", name, u.Home)
		}
	}
	_, err := create("eve@example.test", "sales", "b1")
	if !errors.Is(err, director.ErrIllegal) || !strings.Contains(err.Error(), "live on b2") {
		t.Errorf("elsewhere: %v", err)
	}
	w.user("eve@example.test", "b1")
	_, err = w.client.UpdateUser(ctx, "eve@example.test", admin.UpdateUser{Group: ptr("sales")})
	if !errors.Is(err, director.ErrIllegal) || !strings.Contains(err.Error(), "waypost move eve@example.test --to b2") {
		t.Errorf("joins from elsewhere: %v", err)
	}
	if _, err = w.client.UpdateUser(ctx, "eve@example.test", admin.UpdateUser{Group: ptr("No Group")}); !errors.Is(err, director.ErrInvalid) {
		t.Errorf("a bad name: %v", err)
	}
	if u := must(w.client.UpdateUser(ctx, "eve@example.test", admin.UpdateUser{Group: ptr("it")}))(t); u.Group != "it" {
		t.Errorf("%+v", u)
	}
	if u := must(w.client.User(ctx, "eve@example.test"))(t); u.Group != "it" {
		t.Errorf("%+v", u)
	}
	if u := must(w.client.UpdateUser(ctx, "dan@example.test", admin.UpdateUser{Group: ptr("")}))(t); u.Group != "" {
		t.Errorf("%+v", u)
	}

	// They move together, once each.
	m := must(w.client.CreateMove(ctx, "bob@example.test", "b1"))(t)
	var others []string
	for _, o := range m.Others {
		if o.To != "b1" || o.From != "b2" || o.Phase != director.PhasePlanned || o.Result != "" {
			t.Errorf("%+v", o)
		}
		others = append(others, string(o.User))
	}
	if m.User != "bob@example.test" || strings.Join(others, " ") != "ann@example.test cy@example.test" {
		t.Errorf("%+v", m)
	}
	if moves := must(w.client.Moves(ctx, false))(t); len(moves) != 3 {
		t.Errorf("%d journals", len(moves))
	}
	if _, err := create("fay@example.test", "sales", ""); !errors.Is(err, director.ErrConflict) {
		t.Errorf("joins a group that is being moved: %v", err)
	}
	if _, err := w.client.UpdateUser(ctx, "ann@example.test", admin.UpdateUser{Group: ptr("it")}); !errors.Is(err, director.ErrConflict) {
		t.Errorf("leaves for another while being moved: %v", err)
	}
}

// Whoever is left behind is moved by the next command, and nobody is moved who is on
// the way elsewhere.
func TestGroupApart(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	w.backend("b2", 0, 10*gib)
	w.backend("b3", 0, 10*gib)
	w.domain("example.test")
	ctx := t.Context()
	for _, name := range []string{"ann@example.test", "bob@example.test"} {
		must(w.client.CreateUser(ctx, admin.CreateUser{User: name, Group: "sales", Home: "b1"}))(t)
	}
	m := must(w.dir.PlanMove(ctx, "ann@example.test", "b3", telemetry.NewID(), time.Now()))(t)
	if _, err := w.client.CreateMove(ctx, "bob@example.test", "b2"); !errors.Is(err, director.ErrConflict) || !strings.Contains(err.Error(), "ann@example.test") {
		t.Errorf("%v", err)
	}
	from := director.Record{Home: "b1", Epoch: 1, State: director.Active}
	busy := must(from.MarkBusy("b3"))(t)
	m = w.advance(m, director.PhaseBusy, from, &busy)
	flipped := must(busy.Flip())(t)
	m = w.advance(m, director.PhaseFlipped, busy, &flipped)
	w.advance(m, director.PhaseDone, flipped, nil)
	w.until("the memory has ann on b3", func() bool {
		r, _, _ := w.cache.Location("ann@example.test")
		return r.Home == "b3"
	})
	if _, err := w.client.CreateUser(ctx, admin.CreateUser{User: "cy@example.test", Group: "sales"}); !errors.Is(err, director.ErrIllegal) || !strings.Contains(err.Error(), "apart") {
		t.Errorf("%v", err)
	}
	if m := must(w.client.CreateMove(ctx, "bob@example.test", "b3"))(t); len(m.Others) != 0 {
		t.Errorf("%+v", m)
	}
}
