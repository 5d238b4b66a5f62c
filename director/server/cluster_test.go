package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
	"waypost/director/member"
	"waypost/internal/cluster"
	"waypost/internal/spoolapi"
)

func TestDomainsAndAddresses(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 0, 10*gib)
	ctx := t.Context()
	w.domain("Example.test")
	w.domain("empty.test")
	if _, err := w.client.CreateDomain(ctx, "example.test"); !errors.Is(err, director.ErrExists) {
		t.Errorf("second creation: %v", err)
	}
	if _, err := w.client.CreateDomain(ctx, "-bad-"); !errors.Is(err, director.ErrInvalid) {
		t.Errorf("bad name: %v", err)
	}
	w.user("ann@example.test", "")

	a := must(w.client.PutAddress(ctx, "Sales@example.test", []string{"Ann@example.test", " ann+Orders@example.test", "ann@example.test", "sales@example.test", "info@empty.test"}))(t)
	if a.Address != "sales@example.test" || strings.Join(a.Members, " ") != "ann@example.test ann+Orders@example.test sales@example.test info@empty.test" {
		t.Errorf("address %+v", a)
	}
	if got := must(w.cache.Resolve(ctx, "sales@example.test"))(t); len(got.Recipients) != 1 {
		t.Errorf("a loop resolves to %+v", got)
	}
	must(w.client.PutAddress(ctx, "*@example.test", []string{"ann@example.test"}))(t)
	// A forward to the outside keeps what its domain may tell apart.
	if a := must(w.client.PutAddress(ctx, "sales@example.test", []string{"ann@example.test", "Bob/x+y@Gmail.test"}))(t); strings.Join(a.Members, " ") != "ann@example.test Bob/x+y@gmail.test" {
		t.Errorf("address %+v", a)
	}
	for name, c := range map[string]struct {
		address string
		members []string
		want    error
		text    string
	}{
		"outside, no dot": {"x@example.test", []string{"ann@example.test", "bob@gmail"}, director.ErrInvalid, "no domain of mail"},
		"outside, number": {"x@example.test", []string{"bob@[127.0.0.1]"}, director.ErrInvalid, "no domain of mail"},
		"outside, odd":    {"x@example.test", []string{"b\x01b@gmail.test"}, director.ErrInvalid, "local@domain"},
		"outside, nobody": {"x@example.test", []string{"@gmail.test"}, director.ErrInvalid, "local@domain"},
		"no members":      {"x@example.test", nil, director.ErrInvalid, "0 members"},
		"bad member":      {"x@example.test", []string{"ann"}, director.ErrInvalid, "local@domain"},
		"foreign domain":  {"x@elsewhere.test", []string{"ann@example.test"}, director.ErrNotFound, "elsewhere.test"},
		"sub-address":     {"x+y@example.test", []string{"ann@example.test"}, director.ErrInvalid, "character"},
	} {
		_, err := w.client.PutAddress(ctx, c.address, c.members)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	list := must(w.client.Addresses(ctx, "example.test"))(t)
	if len(list) != 2 || list[0].Address != "*@example.test" || list[1].Address != "sales@example.test" {
		t.Errorf("addresses %+v", list)
	}
	if list := must(w.client.Addresses(ctx, "empty.test"))(t); len(list) != 0 {
		t.Errorf("addresses of empty.test: %+v", list)
	}
	domains := must(w.client.Domains(ctx))(t)
	if len(domains) != 2 || domains[0].Domain != "empty.test" || domains[1].Users != 1 || domains[1].Addresses != 2 || domains[1].Created.IsZero() {
		t.Errorf("domains %+v", domains)
	}

	for _, name := range []string{"example.test"} {
		if err := w.client.DeleteDomain(ctx, name); !errors.Is(err, admin.ErrInUse) || !strings.Contains(err.Error(), "1 users and 2 addresses") {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	for _, address := range []string{"sales@example.test", "*@example.test"} {
		if err := w.client.DeleteAddress(ctx, address); err != nil {
			t.Error(err)
		}
	}
	if err := w.client.DeleteAddress(ctx, "sales@example.test"); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("second deletion: %v", err)
	}
	must(w.client.DeleteUser(ctx, "ann@example.test"))(t)
	for _, name := range []string{"example.test", "empty.test"} {
		if err := w.client.DeleteDomain(ctx, name); err != nil {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	if err := w.client.DeleteDomain(ctx, "empty.test"); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("second deletion: %v", err)
	}
}

func TestBackends(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 3*gib, 10*gib)
	w.backend("b2", 0, 5*gib)
	w.domain("example.test")
	ctx := t.Context()
	w.user("ann@example.test", "b1")
	bs := must(w.client.Backends(ctx))(t)
	if len(bs) != 2 || bs[0].ID != "b1" || bs[0].Users != 1 || *bs[0].UsedBytes != 3*gib || *bs[0].CapacityBytes != 10*gib ||
		*bs[0].FreeBytes != 7*gib || *bs[0].Sessions != 4 || !*bs[0].Alive || bs[0].Weight != 100 {
		t.Fatalf("backends %+v", bs)
	}

	if b := must(w.client.UpdateBackend(ctx, "b1", admin.UpdateBackend{State: ptr(director.BackendDraining), CapacityBytes: ptr(4 * gib)}))(t); b.State != director.BackendDraining || *b.FreeBytes != gib {
		t.Errorf("drained %+v", b)
	}
	w.until("the cache knows", func() bool { b, _ := w.cache.Backend("b1"); return b.State == director.BackendDraining })
	if u := w.user("bob@example.test", ""); u.Home != "b2" {
		t.Errorf("a draining backend got %+v", u)
	}
	if _, err := w.client.CreateUser(ctx, admin.CreateUser{User: "eve@example.test", Home: "b1"}); !errors.Is(err, director.ErrIllegal) {
		t.Errorf("home that is draining: %v", err)
	}
	for name, req := range map[string]admin.UpdateBackend{
		"state":    {State: ptr(director.BackendState("lazy"))},
		"weight":   {Weight: ptr(-1)},
		"capacity": {CapacityBytes: ptr(int64(-1))},
	} {
		if _, err := w.client.UpdateBackend(ctx, "b1", req); !errors.Is(err, director.ErrInvalid) {
			t.Errorf("bad %s: %v", name, err)
		}
	}
	if _, err := w.client.UpdateBackend(ctx, "b9", admin.UpdateBackend{Weight: ptr(1)}); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("unknown backend: %v", err)
	}

	if err := w.client.RemoveBackend(ctx, "b2"); !errors.Is(err, admin.ErrInUse) || !strings.Contains(err.Error(), "drain") {
		t.Errorf("remove an active one: %v", err)
	}
	if err := w.client.RemoveBackend(ctx, "b1"); !errors.Is(err, admin.ErrInUse) || !strings.Contains(err.Error(), "1 users") {
		t.Errorf("remove a home: %v", err)
	}
	must(w.client.DeleteUser(ctx, "ann@example.test"))(t)
	if err := w.dir.PutIncarnation(ctx, "b1", director.Incarnation{Count: 4, Disk: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := w.client.RemoveBackend(ctx, "b1"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.dir.Incarnation(ctx, "b1"); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("its incarnation: %v", err)
	}
	if err := w.client.RemoveBackend(ctx, "b1"); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("second removal: %v", err)
	}

	dove := &director.Dovecot{IMAP: "h:143", LMTP: "h:24", TLS: "none"}
	for name, c := range map[string]struct {
		req  admin.PutBackend
		want error
	}{
		"waypost adds itself": {admin.PutBackend{Kind: director.KindWaypost}, director.ErrIllegal},
		"kind":                {admin.PutBackend{Kind: "courier"}, director.ErrInvalid},
		"no addresses":        {admin.PutBackend{Kind: director.KindDovecot}, director.ErrInvalid},
		"no lmtp":             {admin.PutBackend{Kind: director.KindDovecot, Dovecot: &director.Dovecot{IMAP: "h:143", TLS: "none"}}, director.ErrInvalid},
		"nobody logs in":      {admin.PutBackend{Kind: director.KindDovecot, Dovecot: &director.Dovecot{LMTP: "h:24", TLS: "none"}}, director.ErrInvalid},
		"tls":                 {admin.PutBackend{Kind: director.KindDovecot, Dovecot: &director.Dovecot{IMAP: "h:143", LMTP: "h:24"}}, director.ErrInvalid},
		"port":                {admin.PutBackend{Kind: director.KindDovecot, Dovecot: &director.Dovecot{IMAP: "h", LMTP: "h:24", TLS: "none"}}, director.ErrInvalid},
		"half a master":       {admin.PutBackend{Kind: director.KindDovecot, Dovecot: &director.Dovecot{IMAP: "h:1", LMTP: "h:24", TLS: "none", MasterUser: "m"}}, director.ErrInvalid},
		"weight":              {admin.PutBackend{Kind: director.KindDovecot, Weight: -4, Dovecot: dove}, director.ErrInvalid},
	} {
		if _, err := w.client.PutBackend(ctx, "old1", c.req); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.client.PutBackend(ctx, "b2", admin.PutBackend{Kind: director.KindDovecot, Dovecot: dove}); !errors.Is(err, director.ErrIllegal) {
		t.Errorf("another kind: %v", err)
	}
	if b := must(w.client.PutBackend(ctx, "b2", admin.PutBackend{Kind: director.KindWaypost, Weight: 50}))(t); b.Weight != 50 || b.Node == "" {
		t.Errorf("altered %+v", b)
	}
	w.members.kill(backendPeer("b2"))
	w.until("b2 shows as dead", func() bool { return !*must(w.client.Backends(ctx))(t)[0].Alive })
	if b := must(w.client.Backends(ctx))(t)[0]; b.UsedBytes != nil || b.Sessions != nil || b.FreeBytes != nil {
		t.Errorf("a dead backend tells %+v", b)
	}
}

func TestSessions(t *testing.T) {
	w := newWorld(t)
	ann, bob := director.User("ann@example.test"), director.User("bob@example.test")
	p1, _ := w.node(cluster.RoleProxy, "p1", nil)
	p2, _ := w.node(cluster.RoleProxy, "p2", nil)
	b1, _ := w.node(cluster.RoleBackend, "b1", nil)
	p1.with(func() {
		p1.sessions = []control.Session{{ID: "s1", User: ann, Node: "p1"}, {ID: "s3", User: bob, Node: "p1"}}
	})
	p2.with(func() { p2.sessions = []control.Session{{ID: "s2", User: ann, Node: "p2"}} })
	b1.with(func() { b1.sessions = []control.Session{{ID: "s9", User: ann}} })
	w.members.put(member.Member{Role: cluster.RoleProxy, ID: "p3", Node: "127.0.0.1:1", Alive: true})
	w.members.put(member.Member{Role: cluster.RoleProxy, ID: "p4", Node: "127.0.0.1:1"}) // dead: not asked
	ctx := t.Context()
	ids := func(s admin.Sessions) string {
		var list []string
		for _, one := range s.Sessions {
			list = append(list, one.ID)
		}
		return strings.Join(list, " ")
	}
	all := must(w.client.Sessions(ctx, ""))(t)
	if ids(all) != "s1 s2 s3" || len(all.Errors) != 1 || all.Errors[0].Node != "proxy/p3" {
		t.Errorf("sessions %+v", all)
	}
	if got := must(w.client.Sessions(ctx, ann))(t); ids(got) != "s1 s2" {
		t.Errorf("sessions of ann %+v", got)
	}
	if _, err := w.client.Sessions(ctx, "nobody"); !errors.Is(err, director.ErrInvalid) {
		t.Errorf("sessions of nobody: %v", err)
	}
	if _, err := w.client.Kick(ctx, control.KickRequest{}); !errors.Is(err, director.ErrInvalid) {
		t.Errorf("kick nobody: %v", err)
	}
	if got := must(w.client.Kick(ctx, control.KickRequest{User: ann}))(t); got.Kicked != 2 || len(got.Errors) != 1 {
		t.Errorf("kicked %+v", got)
	}
	b1.with(func() {
		if len(b1.sessions) != 0 {
			t.Error("the backend was not asked to kick")
		}
	})
	if got := must(w.client.Kick(ctx, control.KickRequest{ID: "s3"}))(t); got.Kicked != 1 {
		t.Errorf("kicked %+v", got)
	}
}

func TestSpool(t *testing.T) {
	w := newWorld(t)
	mx1, _ := w.node(cluster.RoleMX, "mx1", nil)
	mx2, _ := w.node(cluster.RoleMX, "mx2", nil)
	now := time.Now()
	mx1.with(func() {
		mx1.spool = []spoolapi.Entry{{ID: "e2", Received: now, Recipients: []spoolapi.Recipient{{User: "ann@example.test"}}}}
	})
	mx2.with(func() {
		mx2.spool = []spoolapi.Entry{{ID: "e1", Received: now.Add(-time.Hour), Recipients: []spoolapi.Recipient{{User: "bob@example.test"}}}}
	})
	ctx := t.Context()
	list := must(w.client.Spool(ctx, "", ""))(t)
	if len(list.Entries) != 2 || list.Entries[0].ID != "e1" || list.Entries[0].Node != "mx2" || len(list.Errors) != 0 {
		t.Errorf("spool %+v", list)
	}
	if got := must(w.client.Spool(ctx, "ann@example.test", ""))(t); len(got.Entries) != 1 || got.Entries[0].ID != "e2" {
		t.Errorf("spool of ann %+v", got)
	}
	if got := must(w.client.Spool(ctx, "", "mx2"))(t); len(got.Entries) != 1 || got.Entries[0].ID != "e1" {
		t.Errorf("spool of mx2 %+v", got)
	}
	if _, err := w.client.Spool(ctx, "", "mx7"); !errors.Is(err, director.ErrUnavailable) {
		t.Errorf("spool of nobody: %v", err)
	}
	if got := must(w.client.SpoolRetry(ctx, admin.SpoolRequest{All: true}))(t); got.Entries != 2 {
		t.Errorf("retried %+v", got)
	}
	if got := must(w.client.SpoolRetry(ctx, admin.SpoolRequest{ID: "e1"}))(t); got.Entries != 1 || len(got.Errors) != 0 {
		t.Errorf("retried %+v", got)
	}
	must(w.client.SpoolRetry(ctx, admin.SpoolRequest{User: "Ann@example.test", Node: "mx1"}))(t)
	mx1.with(func() {
		if last := mx1.retried[len(mx1.retried)-1]; last.User != "ann@example.test" || last.All {
			t.Errorf("asked to retry %+v", last)
		}
	})
	for _, req := range []admin.SpoolRequest{{}, {ID: "e1", All: true}, {User: "x"}} {
		if _, err := w.client.SpoolRetry(ctx, req); !errors.Is(err, director.ErrInvalid) {
			t.Errorf("retry %+v: %v", req, err)
		}
	}
	if _, err := w.client.SpoolDrop(ctx, admin.SpoolRequest{All: true}); !errors.Is(err, director.ErrInvalid) {
		t.Errorf("drop all: %v", err)
	}
	if got := must(w.client.SpoolDrop(ctx, admin.SpoolRequest{ID: "e2"}))(t); got.Entries != 1 {
		t.Errorf("dropped %+v", got)
	}
	if _, err := w.client.SpoolDrop(ctx, admin.SpoolRequest{ID: "e2"}); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("second drop: %v", err)
	}
}

// browser makes plain HTTPS requests with a certificate.
func (w *world) browser(role cluster.Role, id string) *http.Client {
	return w.identity(role, id).HTTPClient(cluster.Peer{Role: cluster.RoleDirector}, "http/1.1")
}

func TestPageAndLookups(t *testing.T) {
	w := newWorld(t)
	w.backend("b1", 3*gib, 10*gib)
	w.domain("example.test")
	w.user("ann@example.test", "")
	w.members.put(member.Member{Role: cluster.RoleProxy, ID: "p1", Node: `"><script>alert(1)</script>`, Since: time.Now()})
	b := w.browser(cluster.RoleAdmin, "root")
	defer b.CloseIdleConnections()
	get := func(method, path string, h http.Header) (int, string, http.Header) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "https://"+w.server.AdminAddr()+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = h
		resp, err := b.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body), resp.Header
	}
	status, page, h := get("GET", "/", http.Header{})
	if status != 200 || !strings.HasPrefix(h.Get("Content-Type"), "text/html") || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("%d %v", status, h)
	}
	for _, want := range []string{"<h1>prod</h1>", "<td>b1</td>", "7.0 GiB", "&lt;script&gt;", `<span class="bad">no</span>`} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if strings.Contains(page, "<script>") {
		t.Error("the page does not escape")
	}
	json := http.Header{"Content-Type": {"application/json"}}
	for name, c := range map[string]struct {
		method, path string
		header       http.Header
		want         int
	}{
		"unknown path":       {"GET", "/v2/x", http.Header{}, 404},
		"unknown method":     {"PUT", "/v1/users", json, 404},
		"form of a web page": {"POST", "/v1/domains", http.Header{"Content-Type": {"text/plain"}}, 400},
		"another site":       {"POST", "/v1/domains", http.Header{"Content-Type": {"application/json"}, "Sec-Fetch-Site": {"cross-site"}}, 403},
		"import as a form":   {"POST", "/v1/import", http.Header{"Content-Type": {"text/plain"}}, 400},
		"empty domain":       {"POST", "/v1/domains", json, 400},
	} {
		if status, body, _ := get(c.method, c.path, c.header); status != c.want {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}

	ctx := t.Context()
	l := must(w.client.Lookup(ctx, "Ann@example.test"))(t)
	if l.Home != "b1" || l.Epoch != 1 || l.State != director.Active || l.Node == "" || l.Kind != director.KindWaypost {
		t.Errorf("look-up %+v", l)
	}
	for user, want := range map[string]error{"who@example.test": director.ErrNotFound, "": director.ErrInvalid, "x": director.ErrInvalid} {
		if _, err := w.client.Lookup(ctx, user); !errors.Is(err, want) {
			t.Errorf("look-up of %q: %v", user, err)
		}
	}
	// The node listener answers look-ups, and nothing else.
	node := w.identity(cluster.RoleAdmin, "root").HTTPClient(cluster.Peer{Role: cluster.RoleDirector, ID: "d1"}, cluster.ProtoControl)
	defer node.CloseIdleConnections()
	for path, want := range map[string]int{"/v1/lookup?user=ann@example.test": 200, "/v1/status": 404} {
		r, err := http.NewRequestWithContext(ctx, "GET", "https://"+w.server.NodeAddr()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := node.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s at the node listener: %d", path, resp.StatusCode)
		}
	}

	st := must(w.client.Status(ctx))(t)
	if st.Cluster != "prod" || st.Director != "d1" || len(st.Nodes) != 2 || st.Nodes[0].Load == nil || st.Nodes[1].Alive || *st.Domains != 1 ||
		st.Users[director.Active] != 1 || st.Directory.Stale || st.Directory.Era != "era1" {
		t.Errorf("status %+v", st)
	}
}

func TestNoCertificate(t *testing.T) {
	w := newWorld(t)
	c, err := tls.Dial("tcp", w.server.AdminAddr(), &tls.Config{InsecureSkipVerify: true})
	if err == nil {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(testTimeout))
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("answered with %d bytes", n)
		}
	}
}

func TestConfig(t *testing.T) {
	good := Config{ID: "d1", Listen: "127.0.0.1:0", Admin: ":8080"}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	err := Config{MaxHashes: -1, NodeTimeout: -1}.Validate()
	for _, want := range []string{"id:", "listen", "admin", "max_hashes", "node_timeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing said of %s: %v", want, err)
		}
	}
	w := newWorld(t)
	deps := Deps{Identity: w.identity(cluster.RoleDirector, "d2"), Directory: w.dir, Cache: w.cache, Members: w.members, Log: w.server.log, Metrics: w.reg}
	if _, err := New(good, deps); err == nil || !strings.Contains(err.Error(), "d2") {
		t.Errorf("another's certificate: %v", err)
	}
	deps.Identity = w.identity(cluster.RoleDirector, "d1")
	if _, err := New(good, deps); err == nil {
		t.Error("one registry took two directors")
	}
	w.stop() // which gives the metrics back
	taken := good
	taken.Admin = "256.0.0.1:1"
	if _, err := New(taken, deps); err == nil || !strings.Contains(err.Error(), "admin") {
		t.Errorf("bad address: %v", err)
	}
	good.Admin = "127.0.0.1:0"
	s, err := New(good, deps)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestServeEndsAtOnce(t *testing.T) {
	w := newWorld(t)
	w.stop()
	deps := Deps{Identity: w.identity(cluster.RoleDirector, "d1"), Directory: w.dir, Cache: w.cache, Members: w.members, Log: w.server.log, Metrics: w.reg}
	s, err := New(Config{ID: "d1", Listen: "127.0.0.1:0", Admin: "127.0.0.1:0"}, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Serve(ctx); err != nil {
		t.Error(err)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 * gib / 2: "2.5 GiB"} {
		if got := size(&n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
	if size(nil) != "–" {
		t.Error("null")
	}
}

func TestErrorsKeepTheirMeaning(t *testing.T) {
	for _, want := range []error{director.ErrNotFound, director.ErrExists, director.ErrIllegal, director.ErrConflict, director.ErrUnavailable,
		director.ErrUnknown, director.ErrInvalid, admin.ErrInUse, admin.ErrNoRoom} {
		e := admin.AsError(want)
		if !errors.Is(e, want) || e.Status() < 400 {
			t.Errorf("%v became %+v of %d", want, e, e.Status())
		}
		others := slices.DeleteFunc([]error{director.ErrNotFound, director.ErrExists, director.ErrConflict, director.ErrUnavailable},
			func(o error) bool { return o == want })
		for _, o := range others {
			if errors.Is(e, o) {
				t.Errorf("%v is also %v", want, o)
			}
		}
	}
}
