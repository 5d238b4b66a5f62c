package server

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/cluster"
)

// checkNode answers checks with what a test has put there.
type checkNode struct {
	mu    sync.Mutex
	found []control.Finding
	steps []control.Step
	fail  error
	asked []string
}

func (n *checkNode) set(found []control.Finding, steps []control.Step, fail error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.found, n.steps, n.fail, n.asked = found, steps, fail, nil
}

func (n *checkNode) took() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.asked)
}

func (n *checkNode) serve(w http.ResponseWriter, what string, found []control.Finding, steps []control.Step) {
	n.mu.Lock()
	n.asked = append(n.asked, what)
	fail := n.fail
	n.mu.Unlock()
	out := control.NewCheckWriter(w)
	out.Progress(3, 3)
	for _, f := range found {
		out.Finding(f)
	}
	for _, s := range steps {
		out.Step(s)
	}
	out.End(fail)
}

func (n *checkNode) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(control.PathCheck, func(w http.ResponseWriter, r *http.Request) {
		_, req, err := control.Decode[control.CheckRequest](r, cluster.RoleDirector)
		if err != nil {
			control.WriteError(w, err)
			return
		}
		n.mu.Lock()
		found := n.found
		n.mu.Unlock()
		what := "check " + string(req.User)
		if req.Deep {
			what += " deep"
		}
		n.serve(w, what, found, nil)
	})
	mux.HandleFunc(control.PathRepair, func(w http.ResponseWriter, r *http.Request) {
		_, req, err := control.Decode[control.RepairRequest](r, cluster.RoleDirector)
		if err != nil {
			control.WriteError(w, err)
			return
		}
		n.mu.Lock()
		steps := n.steps
		n.mu.Unlock()
		n.serve(w, "repair "+string(req.User), nil, steps)
	})
	return mux
}

// checkNode starts one as a backend of the directory.
func (w *world) checkNode(id director.BackendID) *checkNode {
	w.t.Helper()
	n := &checkNode{}
	w.serveBackend(id, n.handler())
	return n
}

// serveBackend starts a backend of the directory that answers control calls by h.
func (w *world) serveBackend(id director.BackendID, h http.Handler) {
	w.t.Helper()
	mux, err := w.identity(cluster.RoleBackend, string(id)).Listen("127.0.0.1:0", w.server.log)
	if err != nil {
		w.t.Fatal(err)
	}
	mux.HandleHTTP(cluster.ProtoControl, []cluster.Role{cluster.RoleDirector}, h)
	served := make(chan error, 1)
	go func() { served <- mux.Serve(w.t.Context()) }()
	w.t.Cleanup(func() { _ = mux.Close(); <-served })
	err = w.dir.PutBackend(w.t.Context(), id, func(b *director.Backend, _ bool) error {
		*b = director.Backend{Kind: director.KindWaypost, State: director.BackendActive, Weight: 100, Node: mux.Addr().String()}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.until("the cache has "+string(id), func() bool { _, ok := w.cache.Backend(id); return ok })
}

// homeOf publishes a user without asking its home.
func (w *world) homeOf(u director.User, home director.BackendID) {
	w.t.Helper()
	rec, err := director.Create(nil, home)
	if err == nil {
		err = w.dir.CreateUser(w.t.Context(), u, rec, director.Account{Created: w.server.uniqueNow()})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.until("the cache has "+string(u), func() bool { _, known, _ := w.cache.Location(u); return known })
}

// checkLines collects lines but for progress.
type checkLines struct {
	lines []string
	users int64
}

func (c *checkLines) line(l admin.CheckLine) error {
	switch {
	case l.Finding != nil:
		c.lines = append(c.lines, string(l.Finding.Backend)+" "+l.Finding.Kind)
	case l.Step != nil:
		c.lines = append(c.lines, "step "+l.Step.Text)
	case l.Missing != nil:
		c.lines = append(c.lines, "missing "+l.Missing.Node)
	case l.Progress != nil && l.Progress.Done:
		c.users += l.Progress.Checked
	}
	slices.Sort(c.lines)
	return nil
}

func TestCheckAndRepair(t *testing.T) {
	w := newWorld(t)
	w.domain("example.test")
	b1, b2 := w.checkNode("b1"), w.checkNode("b2")
	const alice = director.User("alice@example.test")
	w.homeOf(alice, "b1")
	w.homeOf("lost@example.test", "b9")
	check := func(f admin.CheckFilter, want string) {
		t.Helper()
		var got checkLines
		if err := w.client.Check(t.Context(), f, got.line); err != nil || strings.Join(got.lines, ", ") != want {
			t.Errorf("check %+v: %v, %v, want %s", f, got.lines, err, want)
		}
	}
	quota := []control.Finding{{User: alice, Kind: control.KindQuota, Level: control.LevelProblem, What: "it is wrong"}}
	b1.set(quota, nil, nil)
	check(admin.CheckFilter{}, " tree, b1 quota")
	check(admin.CheckFilter{User: alice, Deep: true}, "b1 quota")
	check(admin.CheckFilter{Backend: "b2"}, "")
	if got := append(b1.took(), b2.took()...); !slices.Equal(got, []string{"check ", "check alice@example.test deep", "check ", "check alice@example.test deep", "check "}) {
		t.Errorf("asked %q", got)
	}
	b2.set(nil, nil, errors.New("out of order"))
	check(admin.CheckFilter{User: alice}, "b1 quota, missing backend/b2")
	none := func(admin.CheckLine) error { return nil }
	if err := w.client.Check(t.Context(), admin.CheckFilter{Backend: "b7"}, none); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("no such backend: %v", err)
	}
	b1.set(nil, nil, nil)
	b2.set(nil, nil, nil)
	if err := w.client.Check(t.Context(), admin.CheckFilter{User: "nobody@example.test"}, none); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("no such user: %v", err)
	}

	repair := func(want string, wantErr error) {
		t.Helper()
		var got checkLines
		if err := w.client.Repair(t.Context(), alice, false, got.line); !errors.Is(err, wantErr) || strings.Join(got.lines, ", ") != want {
			t.Errorf("repair: %v, %v, want %s", got.lines, err, want)
		}
	}
	b1.set(nil, []control.Step{{Text: "counted"}}, nil)
	repair("step counted", nil)
	b2.set(nil, nil, errors.New("out of order"))
	repair("missing backend/b2, step counted", nil)
	b2.set([]control.Finding{{User: alice, Kind: control.KindTwoHomes, Level: control.LevelProblem, What: "served here"}}, nil, nil)
	before := len(b1.took())
	repair("", director.ErrConflict)
	if len(b1.took()) != before {
		t.Error("repaired, though another backend has the user")
	}
	b2.set(nil, nil, nil)
	b1.set(nil, nil, &control.Error{Code: control.CodeFence, Text: "fence and directory contradict each other"})
	repair("", director.ErrConflict)
}
