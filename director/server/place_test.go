package server

import (
	"sync"
	"testing"
	"time"

	"waypost/director"
	"waypost/director/admin"
)

func TestChoose(t *testing.T) {
	c := func(id director.BackendID, weight int, used, capacity int64, users int) candidate {
		return candidate{id: id, weight: weight, used: used * gib, capacity: capacity * gib, known: true, users: users}
	}
	promised := func(c candidate, n int) candidate { c.promised = n; return c }
	dark := func(id director.BackendID, users int) candidate { return candidate{id: id, weight: 100, users: users} }
	for name, row := range map[string]struct {
		cs   []candidate
		want director.BackendID
	}{
		"none":                       {nil, ""},
		"the only one":               {[]candidate{c("b1", 100, 5, 10, 1)}, "b1"},
		"most room":                  {[]candidate{c("b1", 100, 5, 10, 5), c("b2", 100, 2, 10, 5), c("b3", 100, 9, 10, 5)}, "b2"},
		"weight counts":              {[]candidate{c("b1", 50, 0, 10, 0), c("b2", 100, 4, 10, 4)}, "b2"},
		"no weight":                  {[]candidate{c("b1", 0, 0, 10, 0), c("b2", 1, 0, 1, 0)}, "b2"},
		"full":                       {[]candidate{c("b1", 100, 10, 10, 0)}, ""},
		"over full":                  {[]candidate{c("b1", 100, 12, 10, 0), c("b2", 1, 0, 1, 0)}, "b2"},
		"tie by users":               {[]candidate{c("b1", 100, 0, 10, 2), c("b2", 100, 0, 10, 1), c("b3", 100, 0, 10, 3)}, "b2"},
		"tie by name":                {[]candidate{c("b2", 100, 0, 10, 0), c("b1", 100, 0, 10, 0)}, "b1"},
		"tie within a hundredth":     {[]candidate{c("b1", 100, 0, 1000, 2), c("b2", 100, 1, 1000, 1)}, "b2"},
		"tie by users of the weight": {[]candidate{c("b1", 50, 0, 20, 2), c("b2", 100, 0, 10, 3)}, "b2"},
		"promises count":             {[]candidate{promised(c("b1", 100, 10, 100, 100), 400), c("b2", 100, 30, 100, 100)}, "b2"},
		"promises beyond all room":   {[]candidate{promised(c("b1", 100, 5, 10, 5), 50), promised(c("b2", 100, 5, 10, 5), 20)}, "b2"},
		"unknown room last":          {[]candidate{dark("b1", 0), c("b2", 100, 9, 10, 50)}, "b2"},
		"unknown room when no other": {[]candidate{dark("b1", 3), dark("b2", 1), c("b3", 100, 10, 10, 0)}, "b2"},
	} {
		got, ok := choose(row.cs)
		if got != row.want || ok != (row.want != "") {
			t.Errorf("%s: %q, want %q", name, got, row.want)
		}
	}
}

func TestPromisesAreForgotten(t *testing.T) {
	p := newPlacer(&census{users: func(func(director.User, director.Record) bool) {}})
	one := func(*tally) []candidate { return []candidate{{id: "b1", weight: 100, known: true, capacity: 1}} }
	promises := func() int { return p.promised[0]["b1"] + p.promised[1]["b1"] }
	for range 3 {
		r, err := p.place(one, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.end(true)
	}
	r, err := p.place(one, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.end(false)
	if promises() != 3 {
		t.Errorf("%d promises", promises())
	}
	start := p.turned
	for _, row := range []struct{ age, want int }{{0, 3}, {1, 3}, {2, 0}} {
		p.turn(start.Add(promiseTime * time.Duration(row.age)))
		if promises() != row.want {
			t.Errorf("after %d times: %d promises", row.age, promises())
		}
	}
	if _, err := p.place(one, map[director.BackendID]bool{"b1": true}); err == nil {
		t.Error("a backend that was left out was chosen")
	}
}

func TestEvenSpread(t *testing.T) {
	w := newWorld(t)
	// As on one disk: told at different moments, the rooms differ a little.
	w.backend("b1", 1000, 10*gib)
	w.backend("b2", 2000, 10*gib)
	w.backend("b3", 3000, 10*gib)
	w.domain("example.test")
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			if _, err := w.client.CreateUser(t.Context(), admin.CreateUser{User: nameOf(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, b := range must(w.client.Backends(t.Context()))(t) {
		if b.Users < 9 || b.Users > 11 {
			t.Errorf("%s has %d users of 30", b.ID, b.Users)
		}
	}
	if len(w.server.placer.flying) != 0 {
		t.Errorf("still flying: %v", w.server.placer.flying)
	}
}
