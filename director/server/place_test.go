package server

import (
	"sync"
	"testing"

	"waypost/director"
	"waypost/director/admin"
)

func TestChoose(t *testing.T) {
	c := func(id director.BackendID, weight int, used, capacity int64, users int) candidate {
		return candidate{id: id, weight: weight, used: used * gib, capacity: capacity * gib, known: true, users: users}
	}
	dark := func(id director.BackendID, users int) candidate { return candidate{id: id, weight: 100, users: users} }
	for name, row := range map[string]struct {
		cs   []candidate
		want director.BackendID
	}{
		"none":                        {nil, ""},
		"the only one":                {[]candidate{c("b1", 100, 5, 10, 1)}, "b1"},
		"most room":                   {[]candidate{c("b1", 100, 5, 10, 5), c("b2", 100, 2, 10, 5), c("b3", 100, 9, 10, 5)}, "b2"},
		"weight counts":               {[]candidate{c("b1", 50, 0, 10, 0), c("b2", 100, 4, 10, 4)}, "b2"},
		"no weight":                   {[]candidate{c("b1", 0, 0, 10, 0), c("b2", 1, 0, 1, 0)}, "b2"},
		"full":                        {[]candidate{c("b1", 100, 10, 10, 0)}, ""},
		"over full":                   {[]candidate{c("b1", 100, 12, 10, 0), c("b2", 1, 0, 1, 0)}, "b2"},
		"tie by users":                {[]candidate{c("b1", 100, 0, 10, 2), c("b2", 100, 0, 10, 1), c("b3", 100, 0, 10, 3)}, "b2"},
		"tie by name":                 {[]candidate{c("b2", 100, 0, 10, 0), c("b1", 100, 0, 10, 0)}, "b1"},
		"tie within a hundredth":      {[]candidate{c("b1", 100, 0, 1000, 2), c("b2", 100, 1, 1000, 1)}, "b2"},
		"tie by users of the weight":  {[]candidate{c("b1", 50, 0, 20, 2), c("b2", 100, 0, 10, 3)}, "b2"},
		"imported users count":        {[]candidate{c("b1", 100, 10, 1000, 1000), c("b2", 100, 90, 1000, 10)}, "b2"},
		"unknown room last":           {[]candidate{dark("b1", 0), c("b2", 100, 9, 10, 50)}, "b2"},
		"unknown room when no other":  {[]candidate{dark("b1", 3), dark("b2", 1), c("b3", 100, 10, 10, 0)}, "b2"},
		"averages alone fill nothing": {[]candidate{c("b1", 100, 1, 10, 1), c("b2", 100, 1, 2, 90)}, "b1"},
	} {
		got, ok := choose(row.cs)
		if got != row.want || ok != (row.want != "") {
			t.Errorf("%s: %q, want %q", name, got, row.want)
		}
	}
}

func TestAllBeyondTheirAverageStillServe(t *testing.T) {
	cs := []candidate{
		{id: "b1", weight: 100, used: 1, capacity: 2, known: true, users: 1000},
		{id: "b2", weight: 100, used: 4000, capacity: 4001, known: true, users: 1000},
	}
	if id, ok := choose(cs); !ok {
		t.Errorf("nobody was chosen, though both have room: %q", id)
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
