package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
	"waypost/director/cache"
	"waypost/director/member"
	"waypost/director/memory"
	"waypost/internal/cluster"
	"waypost/internal/spoolapi"
)

const (
	testTimeout = 30 * time.Second
	gib         = int64(1) << 30
)

// fakeMembers is a membership that does as it is told.
type fakeMembers struct {
	mu  sync.Mutex
	all map[cluster.Peer]member.Member
}

func (f *fakeMembers) put(m member.Member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all[m.Peer()] = m
}

func (f *fakeMembers) kill(p cluster.Peer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.all[p]
	m.Alive = false
	f.all[p] = m
}

func (f *fakeMembers) Members() []member.Member {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ms []member.Member
	for _, m := range f.all {
		ms = append(ms, m)
	}
	slices.SortFunc(ms, func(a, b member.Member) int { return strings.Compare(a.Peer().String(), b.Peer().String()) })
	return ms
}

func (f *fakeMembers) Member(role cluster.Role, id string) (member.Member, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, ok := f.all[cluster.Peer{Role: role, ID: id}]
	return m, ok
}

// logText collects the log.
type logText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// world is a cluster of one director, a directory in memory, and fake nodes.
type world struct {
	t       *testing.T
	pki     string
	ca      *cluster.Authority
	store   *memory.Store
	dir     *director.Directory
	cache   *cache.Client
	members *fakeMembers
	log     *logText
	reg     *prometheus.Registry
	server  *Server
	client  *admin.Client
	stop    func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, pki: t.TempDir(), store: memory.New(), members: &fakeMembers{all: map[cluster.Peer]member.Member{}},
		log: &logText{}, reg: prometheus.NewRegistry()}
	var err error
	if w.ca, err = cluster.CreateAuthority(w.pki, "prod"); err != nil {
		t.Fatal(err)
	}
	w.dir = director.New(w.store)
	if err := w.dir.Init(t.Context(), func() string { return "era1" }); err != nil {
		t.Fatal(err)
	}
	if w.cache, err = cache.Open(context.Background(), cache.Options{Store: w.store}); err != nil {
		t.Fatal(err)
	}
	if err := w.cache.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.server, err = New(Config{ID: "d1", Listen: "127.0.0.1:0", Admin: "127.0.0.1:0"}, Deps{
		Identity: w.identity(cluster.RoleDirector, "d1"), Directory: w.dir, Cache: w.cache, Members: w.members, Log: log, Metrics: w.reg,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		w.stop()
		_ = w.cache.Close()
		_ = w.store.Close()
	})
	w.client = w.clientOf(cluster.RoleAdmin, "root")
	return w
}

func (w *world) identity(role cluster.Role, id string) *cluster.Identity {
	w.t.Helper()
	p := cluster.Peer{Role: role, ID: id}
	if err := w.ca.IssueTo(w.pki, p, []string{"127.0.0.1"}); err != nil {
		w.t.Fatal(err)
	}
	got, err := cluster.LoadIdentity(filepath.Join(w.pki, cluster.AuthorityCert), cluster.CertPath(w.pki, p), cluster.KeyPath(w.pki, p))
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

func (w *world) clientOf(role cluster.Role, id string) *admin.Client {
	c := admin.NewClient(w.server.AdminAddr(), w.identity(role, id))
	w.t.Cleanup(c.Close)
	return c
}

// fakeNode answers control calls and remembers preparations.
type fakeNode struct {
	mu       sync.Mutex
	prepared []control.PrepareRequest
	refuse   error // of prepare and adopt
	adopted  []control.AdoptRequest
	fence    control.FenceReply // of every user; gone, where it says nothing
	usage    control.UsageReply
	sessions []control.Session
	spool    []spoolapi.Entry
	retried  []spoolapi.RetryRequest
}

func (n *fakeNode) with(fn func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	fn()
}

func (n *fakeNode) handler() http.Handler {
	mux, ours := http.NewServeMux(), []cluster.Role{cluster.RoleDirector}
	mux.Handle(control.PathPrepare, control.Handle(func(_ context.Context, _ cluster.Peer, req control.PrepareRequest) (r control.FenceReply, err error) {
		n.with(func() {
			if err = n.refuse; err == nil {
				n.prepared = append(n.prepared, req)
			}
		})
		return control.FenceReply{State: "sealed", Epoch: req.Epoch}, err
	}, ours...))
	mux.Handle(control.PathLook, control.Handle(func(context.Context, cluster.Peer, control.LookRequest) (r control.FenceReply, err error) {
		n.with(func() { r = n.fence })
		r.State = cmp.Or(r.State, control.FenceGone)
		return r, nil
	}, ours...))
	mux.HandleFunc(control.PathAdopt, n.adopt)
	mux.Handle(control.PathUsage, control.Handle(func(context.Context, cluster.Peer, control.UserRequest) (r control.UsageReply, err error) {
		n.with(func() { r = n.usage })
		return r, nil
	}, ours...))
	mux.Handle(control.PathSessions, control.Handle(func(_ context.Context, _ cluster.Peer, req control.SessionsRequest) (list []control.Session, err error) {
		n.with(func() {
			for _, s := range n.sessions {
				if req.User == "" || s.User == req.User {
					list = append(list, s)
				}
			}
		})
		return list, nil
	}, ours...))
	mux.Handle(control.PathKick, control.Handle(func(_ context.Context, _ cluster.Peer, req control.KickRequest) (r control.KickReply, err error) {
		n.with(func() {
			before := len(n.sessions)
			n.sessions = slices.DeleteFunc(n.sessions, func(s control.Session) bool { return s.ID == req.ID || s.User == req.User })
			r.Kicked = before - len(n.sessions)
		})
		return r, nil
	}, ours...))
	mux.HandleFunc("GET "+spoolapi.PathList, func(w http.ResponseWriter, _ *http.Request) {
		n.with(func() { writeJSON(w, http.StatusOK, spoolapi.List{Entries: n.spool}) })
	})
	mux.HandleFunc("POST "+spoolapi.PathRetry, func(w http.ResponseWriter, r *http.Request) {
		var req spoolapi.RetryRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		n.with(func() {
			n.retried = append(n.retried, req)
			if req.ID != "" && !slices.ContainsFunc(n.spool, func(e spoolapi.Entry) bool { return e.ID == req.ID }) {
				writeJSON(w, http.StatusNotFound, spoolapi.Error{Code: spoolapi.CodeNotFound})
				return
			}
			writeJSON(w, http.StatusOK, spoolapi.RetryReply{Retried: len(n.spool)})
		})
	})
	mux.HandleFunc("POST "+spoolapi.PathDrop, func(w http.ResponseWriter, r *http.Request) {
		var req spoolapi.DropRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		n.with(func() {
			before := len(n.spool)
			n.spool = slices.DeleteFunc(n.spool, func(e spoolapi.Entry) bool { return e.ID == req.ID })
			if before == len(n.spool) {
				writeJSON(w, http.StatusNotFound, spoolapi.Error{Code: spoolapi.CodeNotFound})
				return
			}
			writeJSON(w, http.StatusOK, spoolapi.DropReply{Dropped: 1})
		})
	})
	return mux
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// node starts a fake node that is alive.
func (w *world) node(role cluster.Role, id string, load *member.Load) (*fakeNode, string) {
	w.t.Helper()
	mux, err := w.identity(role, id).Listen("127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	n := &fakeNode{}
	mux.HandleHTTP(cluster.ProtoControl, []cluster.Role{cluster.RoleDirector}, n.handler())
	served := make(chan error, 1)
	go func() { served <- mux.Serve(context.Background()) }()
	w.t.Cleanup(func() {
		_ = mux.Close()
		<-served
	})
	addr := mux.Addr().String()
	w.members.put(member.Member{Role: role, ID: id, Node: addr, Load: load, Alive: true, Since: time.Now()})
	return n, addr
}

// backend starts a fake backend of the directory.
func (w *world) backend(id director.BackendID, used, capacity int64) *fakeNode {
	w.t.Helper()
	n, addr := w.node(cluster.RoleBackend, string(id), &member.Load{UsedBytes: used, CapacityBytes: capacity, Sessions: 4})
	err := w.dir.PutBackend(w.t.Context(), id, func(b *director.Backend, _ bool) error {
		*b = director.Backend{Kind: director.KindWaypost, State: director.BackendActive, Weight: 100, Node: addr}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.until("the cache has "+string(id), func() bool { _, ok := w.cache.Backend(id); return ok })
	return n
}

func (w *world) domain(name string) {
	w.t.Helper()
	if _, err := w.client.CreateDomain(w.t.Context(), name); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) user(name string, home director.BackendID) admin.User {
	w.t.Helper()
	u, err := w.client.CreateUser(w.t.Context(), admin.CreateUser{User: name, Home: home})
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

// until waits for what the directory's changes bring about.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.After(testTimeout)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("never: %s", what)
		}
	}
}

func (w *world) users(f admin.UserFilter) string {
	w.t.Helper()
	var names []string
	err := w.client.Users(w.t.Context(), f, func(u admin.User) error {
		names = append(names, string(u.User))
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// metric reads one value of the registry.
func (w *world) metric(name string, labels ...string) float64 {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			have := ""
			for _, l := range m.GetLabel() {
				have += l.GetValue() + " "
			}
			if f.GetName() == name && have == strings.Join(append(labels, ""), " ") {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	w.t.Fatalf("no metric %s%v", name, labels)
	return 0
}

func ptr[T any](v T) *T { return &v }

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func nameOf(i int) string { return fmt.Sprintf("u%03d@example.test", i) }
