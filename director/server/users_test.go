package server

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
	"waypost/director/member"
	"waypost/director/memory"
	"waypost/internal/auth"
	"waypost/internal/cluster"
)

func TestUserLife(t *testing.T) {
	w := newWorld(t)
	b1 := w.backend("b1", 0, 10*gib)
	w.domain("example.test")
	ctx := t.Context()
	const secret = "correct horse battery staple"
	got := must(w.client.CreateUser(ctx, admin.CreateUser{User: "Ann@Example.test", Password: secret, QuotaBytes: gib, Services: []string{"pop3", "imap"}}))(t)
	if got.User != "ann@example.test" || got.Home != "b1" || got.Epoch != 1 || got.State != director.Active || !got.HasPassword || got.Disabled ||
		got.QuotaBytes != gib || strings.Join(got.Services, " ") != "imap pop3" {
		t.Fatalf("created %+v", got)
	}
	acct := must(w.dir.Account(ctx, got.User))(t)
	if ok, err := auth.Verify(ctx, acct.Value.Hash, secret); !ok || err != nil {
		t.Fatalf("the password does not verify: %v", err)
	}
	b1.with(func() { b1.usage = control.UsageReply{Bytes: 17, Messages: 3, Sessions: 2} })
	shown := must(w.client.User(ctx, "ann@example.test"))(t)
	if shown.UsedBytes == nil || *shown.UsedBytes != 17 || *shown.UsedMessages != 3 || *shown.Sessions != 2 || shown.UsageError != "" || shown.Move != nil {
		t.Fatalf("shown %+v", shown)
	}
	w.user("bob@example.test", "b1")
	if names := w.users(admin.UserFilter{}); names != "ann@example.test bob@example.test" {
		t.Errorf("list: %s", names)
	}
	if names := w.users(admin.UserFilter{Prefix: "b", Home: "b1", Domain: "example.test"}); names != "bob@example.test" {
		t.Errorf("filtered list: %s", names)
	}
	if names := w.users(admin.UserFilter{Home: "b2"}); names != "" {
		t.Errorf("list of b2: %s", names)
	}

	changed := must(w.client.UpdateUser(ctx, "ann@example.test", admin.UpdateUser{
		Password: ptr("another secret"), QuotaMessages: ptr(int64(9)), Disabled: ptr(true), Services: &[]string{}}))(t)
	if !changed.Disabled || changed.QuotaMessages != 9 || changed.QuotaBytes != gib || len(changed.Services) != 0 {
		t.Errorf("changed %+v", changed)
	}
	acct = must(w.dir.Account(ctx, got.User))(t)
	if ok, _ := auth.Verify(ctx, acct.Value.Hash, "another secret"); !ok {
		t.Error("the new password does not verify")
	}
	if u := must(w.client.UpdateUser(ctx, "ann@example.test", admin.UpdateUser{PasswordHash: ptr("")}))(t); u.HasPassword {
		t.Error("the password was not taken away")
	}

	gone := must(w.client.DeleteUser(ctx, "ann@example.test"))(t)
	if gone.State != director.Deleted || gone.Epoch != 2 {
		t.Errorf("deleted %+v", gone)
	}
	if _, err := w.client.User(ctx, "ann@example.test"); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("show of a deleted user: %v", err)
	}
	if _, err := w.client.DeleteUser(ctx, "ann@example.test"); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("second deletion: %v", err)
	}
	if _, err := w.client.UpdateUser(ctx, "ann@example.test", admin.UpdateUser{Disabled: ptr(true)}); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("change of a deleted user: %v", err)
	}
	if names := w.users(admin.UserFilter{}); names != "bob@example.test" {
		t.Errorf("list after deletion: %s", names)
	}

	// R12: the next of that name goes on from the tombstone.
	if again := w.user("ann@example.test", ""); again.Epoch != 3 {
		t.Errorf("created again %+v", again)
	}
	b1.with(func() {
		if last := b1.prepared[len(b1.prepared)-1]; last.User != "ann@example.test" || last.Epoch != 2 {
			t.Errorf("prepared %+v", last)
		}
	})

	text := w.log.String()
	for _, word := range []string{secret, "another secret", acct.Value.Hash} {
		if strings.Contains(text, word) {
			t.Errorf("the log tells a secret: %s", word)
		}
	}
	for _, want := range []string{`by=admin/root call="POST /v1/users" object=Ann@Example.test status=200`,
		`call="PATCH /v1/users/{user}" object=ann@example.test`, `call="DELETE /v1/users/{user}" object=ann@example.test status=404`} {
		if !strings.Contains(text, want) {
			t.Errorf("no audit line has %s", want)
		}
	}
	if n := w.metric("waypost_director_admin_requests_total", "/v1/users/{user}", "404"); n != 3 {
		t.Errorf("%v requests of 404", n)
	}
	if n := w.metric("waypost_director_backend_users", "b1"); n != 2 {
		t.Errorf("%v users at b1", n)
	}
	if n := w.metric("waypost_director_backend_alive", "b1"); n != 1 {
		t.Error("b1 is not alive")
	}
}

func TestCreateRefusals(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	w.domain("example.test")
	w.user("old@example.test", "")
	ok := "x@example.test"
	for name, c := range map[string]struct {
		req  admin.CreateUser
		want error
		text string
	}{
		"no domain part":  {admin.CreateUser{User: "x"}, director.ErrInvalid, "local@domain"},
		"sub-address":     {admin.CreateUser{User: "x+y@example.test"}, director.ErrInvalid, "character"},
		"foreign domain":  {admin.CreateUser{User: "x@elsewhere.test"}, director.ErrNotFound, "add it first"},
		"exists":          {admin.CreateUser{User: "OLD@example.test"}, director.ErrExists, "already"},
		"two passwords":   {admin.CreateUser{User: ok, Password: "a", PasswordHash: "{PLAIN}a"}, director.ErrInvalid, "not both"},
		"unknown hash":    {admin.CreateUser{User: ok, PasswordHash: "{ROT13}a"}, director.ErrInvalid, "scheme"},
		"bad password":    {admin.CreateUser{User: ok, Password: "a\x00b"}, director.ErrInvalid, "password"},
		"quota":           {admin.CreateUser{User: ok, QuotaBytes: -1}, director.ErrInvalid, "quota"},
		"service":         {admin.CreateUser{User: ok, Services: []string{"ftp"}}, director.ErrInvalid, "ftp"},
		"unknown backend": {admin.CreateUser{User: ok, Home: "b9"}, director.ErrNotFound, "b9"},
		"bad backend":     {admin.CreateUser{User: ok, Home: "B/9"}, director.ErrInvalid, "B/9"},
	} {
		_, err := w.client.CreateUser(t.Context(), c.req)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if names := w.users(admin.UserFilter{}); names != "old@example.test" {
		t.Errorf("there are %s", names)
	}
	if _, err := w.client.UpdateUser(t.Context(), "old@example.test", admin.UpdateUser{Services: &[]string{"ftp"}}); !errors.Is(err, director.ErrInvalid) {
		t.Errorf("change to an unknown service: %v", err)
	}
	if _, err := w.client.UpdateUser(t.Context(), "old@example.test", admin.UpdateUser{QuotaBytes: ptr(int64(-1))}); !errors.Is(err, director.ErrInvalid) {
		t.Errorf("change to a quota below 0: %v", err)
	}
}

// TestFormerHomeLetsGo: who has the name of a deleted user, and another home, is created only
// when the former home has seen the tombstone, or never will.
func TestFormerHomeLetsGo(t *testing.T) {
	w := newWorld(t)
	former := w.backend("b1", 0, 10*gib)
	w.backend("b2", 0, 10*gib)
	w.domain("example.test")
	again := func(home director.BackendID) error {
		_, err := w.client.CreateUser(t.Context(), admin.CreateUser{User: "ann@example.test", Home: home})
		return err
	}
	gone := func() {
		t.Helper()
		must(w.client.DeleteUser(t.Context(), "ann@example.test"))(t)
	}
	w.user("ann@example.test", "b1")
	gone()
	for _, state := range []string{control.FenceServing, "frozen"} {
		former.with(func() { former.fence = control.FenceReply{State: state, Epoch: 1} })
		if err := again("b2"); !errors.Is(err, director.ErrUnavailable) || !strings.Contains(err.Error(), "b1 has not let go yet") {
			t.Errorf("while b1 is %s: %v", state, err)
		}
	}
	if err := again("b1"); err != nil {
		t.Errorf("at the same home, which is told by prepare: %v", err)
	}
	gone()
	former.with(func() { former.fence = control.FenceReply{} })
	if err := again("b2"); err != nil {
		t.Errorf("where b1 has let go: %v", err)
	}
}

// TestTagsPlace: a new user lives on a backend that has all of the user's tags.
func TestTagsPlace(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	w.backend("b2", 9*gib, 10*gib)
	w.domain("example.test")
	must(w.client.PutBackendTags(t.Context(), "b2", []string{"ssd", "eu"}))(t)
	w.until("the tags are known", func() bool { b, _ := w.cache.Backend("b2"); return len(b.Tags) == 2 })
	create := func(u string, home director.BackendID, tags ...string) (admin.User, error) {
		return w.client.CreateUser(t.Context(), admin.CreateUser{User: u, Home: home, Tags: tags})
	}
	for u, want := range map[string]struct {
		home director.BackendID
		tags []string
	}{"ann@example.test": {"b1", nil}, "bob@example.test": {"b2", []string{"ssd"}}, "cy@example.test": {"b2", []string{"ssd", "eu"}}} {
		if got, err := create(u, "", want.tags...); err != nil || got.Home != want.home {
			t.Errorf("%s with %v: %+v, %v", u, want.tags, got, err)
		}
	}
	if got := must(w.client.UserTags(t.Context(), "cy@example.test"))(t).Tags; !slices.Equal(got, []string{"eu", "ssd"}) {
		t.Errorf("tags of cy: %v", got)
	}
	if _, err := create("dora@example.test", "", "us"); !errors.Is(err, admin.ErrNoRoom) || !strings.Contains(err.Error(), "tags us") {
		t.Errorf("with a tag that no backend has: %v", err)
	}
	if _, err := create("dora@example.test", "b1", "eu"); !errors.Is(err, director.ErrIllegal) {
		t.Errorf("at a home without the tag: %v", err)
	}
	if _, err := create("dora@example.test", "", "E U"); !errors.Is(err, director.ErrInvalid) {
		t.Errorf("with no tag: %v", err)
	}
}

func TestConcurrentCreate(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	w.backend("b2", 0, 10*gib)
	w.domain("example.test")
	var made, refused atomic.Int32
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() {
			_, err := w.client.CreateUser(t.Context(), admin.CreateUser{User: "one@example.test"})
			switch {
			case err == nil:
				made.Add(1)
			case errors.Is(err, director.ErrExists):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 || refused.Load() != 11 {
		t.Errorf("made %d times, refused %d times", made.Load(), refused.Load())
	}
}

// TestAccountAgain: a user whom the fences brought back, and nobody's copy, gets an account, keeps the home, and
// is there once.
func TestAccountAgain(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	w.backend("b2", 0, 20*gib)
	w.domain("example.test")
	was, err := w.client.CreateUser(t.Context(), admin.CreateUser{User: "ann@example.test", Home: "b1"})
	if err != nil {
		t.Fatal(err)
	}
	key := director.AccountKey("ann@example.test")
	e, err := w.store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, done, err := w.store.Commit(t.Context(), []director.Guard{{Key: key, Rev: e.Rev}}, []director.Op{{Key: key, Delete: true}}); err != nil || !done {
		t.Fatal(done, err)
	}
	again := admin.CreateUser{User: "ann@example.test", PasswordHash: "{PLAIN}a"}
	for _, bad := range []admin.CreateUser{{User: again.User, Home: "b2"}, {User: again.User, Home: "b1", Maildir: &admin.Maildir{Path: "/srv/old"}}} {
		if _, err := w.client.CreateUser(t.Context(), bad); !errors.Is(err, director.ErrIllegal) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	now, err := w.client.CreateUser(t.Context(), again)
	if err != nil || now.Home != was.Home || now.Epoch != was.Epoch {
		t.Errorf("%+v, before %+v: %v", now, was, err)
	}
	if _, err := w.client.CreateUser(t.Context(), again); !errors.Is(err, director.ErrExists) {
		t.Errorf("once more: %v", err)
	}
}

// TestCreateUnknownResult loses the answer of the store, once for a
// transaction that was done, once for one that was not.
func TestCreateUnknownResult(t *testing.T) {
	for _, outcome := range []memory.Outcome{memory.UnknownDone, memory.UnknownNotDone} {
		w := newWorld(t)
		w.backend("b1", 0, 10*gib)
		w.domain("example.test")
		var lost atomic.Bool
		w.store.SetCommitHook(func([]director.Guard, []director.Op) memory.Outcome {
			if lost.CompareAndSwap(false, true) {
				return outcome
			}
			return memory.Normal
		})
		if u := w.user("ann@example.test", ""); u.Epoch != 1 || !lost.Load() {
			t.Errorf("created %+v", u)
		}
	}
}

func TestHomeAway(t *testing.T) {
	w := newWorld(t)
	best, other := w.backend("b1", 0, 10*gib), w.backend("b2", 0, 5*gib)
	w.domain("example.test")
	best.with(func() { best.refuse = errors.New("no") })
	if u := w.user("ann@example.test", ""); u.Home != "b2" {
		t.Errorf("home is %s", u.Home)
	}
	// Asked for by name there is no other.
	if _, err := w.client.CreateUser(t.Context(), admin.CreateUser{User: "bob@example.test", Home: "b1"}); !errors.Is(err, director.ErrUnavailable) {
		t.Errorf("home that refuses: %v", err)
	}
	other.with(func() { other.refuse = errors.New("no") })
	if _, err := w.client.CreateUser(t.Context(), admin.CreateUser{User: "bob@example.test"}); err == nil {
		t.Error("created without a home")
	}
	w.members.kill(backendPeer("b1"))
	w.members.kill(backendPeer("b2"))
	if _, err := w.client.CreateUser(t.Context(), admin.CreateUser{User: "bob@example.test"}); !errors.Is(err, admin.ErrNoRoom) {
		t.Errorf("nobody alive: %v", err)
	}
	// The usage of a user whose home is away is null, with the reason.
	w.members.put(w.members.all[backendPeer("b2")])
	if err := w.dir.PutBackend(t.Context(), "b2", func(b *director.Backend, _ bool) error { b.Node = "127.0.0.1:1"; return nil }); err != nil {
		t.Fatal(err)
	}
	u := must(w.client.User(t.Context(), "ann@example.test"))(t)
	if u.UsedBytes != nil || u.UsedMessages != nil || !strings.Contains(u.UsageError, "b2") {
		t.Errorf("usage %+v", u)
	}
}

// TestBackendThatStarts has told a load of zeros only.
func TestBackendThatStarts(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 0)
	m, _ := w.members.Member(cluster.RoleBackend, "b1")
	m.Load = &member.Load{}
	w.members.put(m)
	w.domain("example.test")
	if u := w.user("ann@example.test", ""); u.Home != "b1" {
		t.Errorf("created %+v", u)
	}
	if b := must(w.client.Backends(t.Context()))(t)[0]; !*b.Alive || b.UsedBytes != nil || b.CapacityBytes != nil {
		t.Errorf("it tells %+v", b)
	}
}

func TestDovecotHome(t *testing.T) {
	w := newWorld(t)
	w.domain("example.test")
	ctx := t.Context()
	put := admin.PutBackend{Kind: director.KindDovecot, Dovecot: &director.Dovecot{IMAP: "10.0.0.9:143", LMTP: "10.0.0.9:24", TLS: "starttls"}}
	b := must(w.client.PutBackend(ctx, "old1", put))(t)
	if b.State != director.BackendActive || b.Weight != 100 || b.Alive != nil {
		t.Errorf("backend %+v", b)
	}
	if _, err := w.client.CreateUser(ctx, admin.CreateUser{User: "ann@example.test"}); !errors.Is(err, admin.ErrNoRoom) {
		t.Errorf("a foreign backend was chosen: %v", err)
	}
	if u := w.user("ann@example.test", "old1"); u.Home != "old1" {
		t.Errorf("created %+v", u)
	}
	u := must(w.client.User(ctx, "ann@example.test"))(t)
	if u.UsedBytes != nil || !strings.Contains(u.UsageError, "dovecot") {
		t.Errorf("usage %+v", u)
	}
	l := must(w.client.Lookup(ctx, "ann@example.test"))(t)
	if l.Kind != director.KindDovecot || l.Dovecot == nil || l.Dovecot.IMAP != "10.0.0.9:143" || l.Stale {
		t.Errorf("look-up %+v", l)
	}
}

func TestStoreDown(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 3, 10*gib)
	w.domain("example.test")
	w.user("ann@example.test", "")
	w.store.SetDown(true)
	ctx := t.Context()
	if _, err := w.client.CreateUser(ctx, admin.CreateUser{User: "bob@example.test"}); !errors.Is(err, director.ErrUnavailable) {
		t.Errorf("create: %v", err)
	}
	if _, err := w.client.User(ctx, "ann@example.test"); !errors.Is(err, director.ErrUnavailable) {
		t.Errorf("show: %v", err)
	}
	w.until("the cache is stale", w.cache.Stale)
	if names := w.users(admin.UserFilter{}); names != "ann@example.test" {
		t.Errorf("list: %s", names)
	}
	st := must(w.client.Status(ctx))(t)
	if !st.Directory.Stale || st.Domains != nil || st.Users[director.Active] != 1 || len(st.Backends) != 1 {
		t.Errorf("status %+v", st)
	}
	if l := must(w.client.Lookup(ctx, "ann@example.test"))(t); !l.Stale || l.Home != "b1" {
		t.Errorf("look-up %+v", l)
	}
	if _, err := w.client.Lookup(ctx, "who@example.test"); !errors.Is(err, director.ErrUnavailable) {
		t.Errorf("look-up of a stranger: %v", err)
	}
}

func TestUniqueNow(t *testing.T) {
	s := &Server{}
	s.lastTime.Store(time.Now().Add(time.Hour).UnixNano()) // a clock that was set back
	seen := map[time.Time]bool{}
	for range 1000 {
		seen[s.uniqueNow()] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d times of 1000", len(seen))
	}
}

func TestTrust(t *testing.T) {
	w := newWorld(t)
	for _, role := range []cluster.Role{cluster.RoleMX, cluster.RoleProxy, cluster.RoleBackend, cluster.RoleRebalance} {
		if _, err := w.clientOf(role, "x1").Status(t.Context()); err == nil {
			t.Errorf("%s may call", role)
		}
	}
	if _, err := w.clientOf(cluster.RoleDirector, "d2").Status(t.Context()); err != nil {
		t.Errorf("a director may not call: %v", err)
	}
	// The client wants a director, and nobody else.
	_, addr := w.node(cluster.RoleBackend, "b7", nil)
	stranger := admin.NewClient(addr, w.identity(cluster.RoleAdmin, "root"))
	defer stranger.Close()
	if _, err := stranger.Status(t.Context()); err == nil {
		t.Error("a backend was taken for a director")
	}
}
