package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
	"waypost/director/member"
	"waypost/internal/cluster"
)

// restorer is a backend that has sealed whatever is restored there, follows the
// record, and exchanges as it is told.
type restorer struct {
	w  *world
	id director.BackendID
	// sealed is what the fence says before the record names this backend.
	sealed   control.FenceReply
	exchange func(director.Record) error
}

func (b *restorer) look(ctx context.Context, _ cluster.Peer, req control.LookRequest) (control.FenceReply, error) {
	v, err := b.w.dir.Location(ctx, req.User)
	if err == nil && v.Value.Home == b.id && v.Value.State == director.Active {
		return control.FenceReply{State: control.FenceServing, Epoch: v.Value.Epoch}, nil
	}
	return b.sealed, nil
}

func (b *restorer) swap(ctx context.Context, _ cluster.Peer, req control.RestoreExchangeRequest) (control.RestoreExchanged, error) {
	v, err := b.w.dir.Location(ctx, req.User)
	if err == nil {
		err = b.exchange(v.Value)
	}
	return control.RestoreExchanged{Kept: 3}, err
}

func (w *world) restorer(id director.BackendID) *restorer {
	w.t.Helper()
	mux, err := w.identity(cluster.RoleBackend, string(id)).Listen("127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	b := &restorer{w: w, id: id}
	calls := http.NewServeMux()
	calls.Handle(control.PathLook, control.Handle(b.look, cluster.RoleDirector))
	calls.Handle(control.PathRestoreExchange, control.Handle(b.swap, cluster.RoleDirector))
	calls.Handle(control.PathPrepare, control.Handle(func(_ context.Context, _ cluster.Peer, req control.PrepareRequest) (control.FenceReply, error) {
		return control.FenceReply{State: "sealed", Epoch: req.Epoch}, nil
	}, cluster.RoleDirector))
	mux.HandleHTTP(cluster.ProtoControl, []cluster.Role{cluster.RoleDirector}, calls)
	served := make(chan error, 1)
	go func() { served <- mux.Serve(context.Background()) }()
	w.t.Cleanup(func() { _ = mux.Close(); <-served })
	addr := mux.Addr().String()
	w.members.put(member.Member{Role: cluster.RoleBackend, ID: string(id), Node: addr, Load: &member.Load{CapacityBytes: gib}, Alive: true, Since: time.Now()})
	err = w.dir.PutBackend(w.t.Context(), id, func(x *director.Backend, _ bool) error {
		*x = director.Backend{Kind: director.KindWaypost, State: director.BackendActive, Weight: 100, Node: addr}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.until("the cache has "+string(id), func() bool { _, ok := w.cache.Backend(id); return ok })
	return b
}

func (w *world) record(u director.User) string {
	w.t.Helper()
	v, err := w.dir.Location(w.t.Context(), u)
	if err != nil {
		w.t.Fatal(err)
	}
	return v.Value.String()
}

const wrecked = director.User("ann@example.test")

// TestLostAndRestored: a backend that is alive is not lost; the user of one that is
// goes where a restored tree is sealed, for exactly the right epoch, and nowhere else.
func TestLostAndRestored(t *testing.T) {
	w := newWorld(t)
	w.domain("example.test")
	w.restorer("b1")
	b2 := w.restorer("b2")
	w.user(string(wrecked), "b1")
	ctx := t.Context()
	restore := func(to director.BackendID) error {
		_, err := w.client.RestoredUser(ctx, wrecked, admin.RestoredUser{To: to})
		return err
	}
	if _, err := w.client.DeclareLost(ctx, "b1", admin.DeclareLost{}); !errors.Is(err, admin.ErrInUse) {
		t.Errorf("alive: %v", err)
	}
	if _, err := w.client.DeclareLost(ctx, "b9", admin.DeclareLost{}); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
	b2.sealed = control.FenceReply{State: "sealed", Epoch: 2}
	if err := restore("b2"); !errors.Is(err, director.ErrIllegal) {
		t.Errorf("the home is not lost: %v", err)
	}
	w.members.kill(backendPeer("b1"))
	got, err := w.client.DeclareLost(ctx, "b1", admin.DeclareLost{})
	if err != nil || got.State != director.BackendLost {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, f := range []control.FenceReply{{State: "gone", Epoch: 2}, {State: "sealed", Epoch: 1}, {State: "sealed", Epoch: 3}} {
		b2.sealed = f
		if err := restore("b2"); !errors.Is(err, director.ErrIllegal) || w.record(wrecked) != "1 b1 1 active" {
			t.Errorf("fence %+v: %v, %s", f, err, w.record(wrecked))
		}
	}
	b2.sealed = control.FenceReply{State: "sealed", Epoch: 2}
	for range 2 { // a lost answer is asked for again
		if err := restore("b2"); err != nil || w.record(wrecked) != "1 b2 3 active" {
			t.Errorf("%v, %s", err, w.record(wrecked))
		}
	}
}

// TestRestoredAnew: a user who is not there needs an account, and goes on from the
// tombstone.
func TestRestoredAnew(t *testing.T) {
	w := newWorld(t)
	w.domain("example.test")
	b1 := w.restorer("b1")
	w.user(string(wrecked), "b1")
	ctx := t.Context()
	if _, err := w.client.DeleteUser(ctx, wrecked); err != nil {
		t.Fatal(err)
	}
	b1.sealed = control.FenceReply{State: "sealed", Epoch: 2}
	if _, err := w.client.RestoredUser(ctx, wrecked, admin.RestoredUser{To: "b1"}); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("without an account: %v", err)
	}
	acct := &director.Account{Version: 1, QuotaBytes: 7, Created: time.Unix(5, 0)}
	u, err := w.client.RestoredUser(ctx, wrecked, admin.RestoredUser{To: "b1", Account: acct})
	if err != nil || u.Epoch != 3 || u.QuotaBytes != 7 || u.Home != "b1" {
		t.Errorf("%+v, %v", u, err)
	}
}

// TestExchangeUser: the user is held while the home exchanges, and let go whatever
// comes of it.
func TestExchangeUser(t *testing.T) {
	w := newWorld(t)
	w.domain("example.test")
	b1 := w.restorer("b1")
	w.user(string(wrecked), "b1")
	ctx := t.Context()
	if _, err := w.client.ExchangeUser(ctx, wrecked, admin.ExchangeUser{Digest: "d"}); !errors.Is(err, director.ErrIllegal) {
		t.Errorf("with one backend: %v", err)
	}
	w.restorer("b2")
	var during string
	b1.exchange = func(r director.Record) error { during = r.String(); return nil }
	did, err := w.client.ExchangeUser(ctx, wrecked, admin.ExchangeUser{Digest: "d"})
	if err != nil || did.Kept != 3 || did.Epoch != 3 || during != "1 b1 2 busy b2" || w.record(wrecked) != "1 b1 3 active" {
		t.Errorf("%+v, %v; during it %s, now %s", did, err, during, w.record(wrecked))
	}
	b1.exchange = func(director.Record) error { return &control.Error{Code: control.CodeDiffers, Text: "no"} }
	if _, err := w.client.ExchangeUser(ctx, wrecked, admin.ExchangeUser{Digest: "d"}); err == nil || w.record(wrecked) != "1 b1 5 active" {
		t.Errorf("a refusal: %v, %s", err, w.record(wrecked))
	}
	// The home has taken the user back meanwhile (R7): nothing is rolled back twice.
	b1.exchange = func(r director.Record) error { _, err := w.dir.Rollback(ctx, wrecked, r); return err }
	if _, err := w.client.ExchangeUser(ctx, wrecked, admin.ExchangeUser{Digest: "d"}); err != nil || w.record(wrecked) != "1 b1 7 active" {
		t.Errorf("taken back: %v, %s", err, w.record(wrecked))
	}
}
