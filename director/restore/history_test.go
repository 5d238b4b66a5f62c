package restore

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"waypost/backend/fence"
	"waypost/director"
)

// model is one user's cluster: backends with fences and trees, which follow the
// real fence.Reconcile, and a record with its history.
type model struct {
	t       *rapid.T
	rec     *director.Record
	history []*director.Record
	nodes   map[director.BackendID]*backendModel
	acked   map[int]bool
	written int
	person  director.Epoch // of the user's creation
}

type backendModel struct {
	fence         fence.Fence
	live, staging map[int]bool // nil: none
	trash         []map[int]bool
	refused       bool
}

func newModel(t *rapid.T) *model {
	m := &model{t: t, nodes: map[director.BackendID]*backendModel{}, acked: map[int]bool{}}
	for _, id := range []director.BackendID{"b1", "b2", "b3"} {
		m.nodes[id] = &backendModel{}
	}
	return m
}

func (m *model) put(r director.Record, err error) {
	if err == nil {
		m.rec = &r
		m.history = append(m.history, &r)
	}
}

func (m *model) node() director.BackendID {
	return rapid.SampledFrom(slices.Sorted(maps.Keys(m.nodes))).Draw(m.t, "backend")
}

// look is a backend that obeys the record (backend.perform).
func (m *model) look(id director.BackendID) {
	n := m.nodes[id]
	d := fence.Reconcile(id, n.fence, m.rec)
	n.refused = d.Action == fence.Refuse
	switch d.Action {
	case fence.Adopt:
		n.live, n.staging = n.staging, nil
	case fence.Trash:
		n.trash, n.live = append(n.trash, n.live), nil
	case fence.Drop:
		n.staging = nil
	}
	n.fence = d.Next
}

// step is one thing that happens in a cluster whose directory is whole.
func (m *model) step(what string) {
	r := m.rec
	switch what {
	case "create":
		id := m.node()
		n := m.nodes[id]
		var at director.Epoch
		if r != nil {
			at = r.Epoch
		}
		if r != nil && r.State != director.Deleted || n.fence.State != fence.Missing && n.fence.State != fence.Gone || n.fence.Epoch > at {
			return
		}
		n.staging, n.fence = map[int]bool{}, fence.Fence{State: fence.Sealed, Epoch: at}
		if rapid.Bool().Draw(m.t, "published") {
			m.acked = map[int]bool{}
			m.put(director.Create(r, id))
			m.person = m.rec.Epoch
		}
	case "delete":
		if r != nil {
			m.put(r.Delete())
		}
	case "write":
		for _, n := range m.nodes {
			// What reaches a home that has not heard of a deletion is the former
			// person's.
			if n.fence.State == fence.Serving && !n.refused && n.fence.Epoch >= m.person {
				m.written++
				n.live[m.written], m.acked[m.written] = true, true
			}
		}
	case "busy":
		id := m.node()
		if r == nil || r.State != director.Active || r.Home == id {
			return
		}
		n := m.nodes[id]
		if (n.fence.State == fence.Missing || n.fence.State == fence.Gone || n.fence.State == fence.Incoming) && n.fence.Epoch <= r.Epoch+1 {
			n.fence, n.staging = fence.Fence{State: fence.Incoming, Epoch: r.Epoch + 1}, map[int]bool{}
		}
		m.put(r.MarkBusy(id))
	case "freeze":
		if r == nil || r.State != director.Busy {
			return
		}
		m.look(r.Home)
		if n := m.nodes[r.Home]; (n.fence.State == fence.Serving || n.fence.State == fence.Frozen) && n.fence.Epoch < r.Epoch {
			n.fence = fence.Fence{State: fence.Frozen, Epoch: r.Epoch}
		}
	case "seal":
		if r == nil || r.State != director.Busy {
			return
		}
		source, n := m.nodes[r.Home], m.nodes[r.Peer]
		if n.fence == (fence.Fence{State: fence.Incoming, Epoch: r.Epoch}) && source.fence == (fence.Fence{State: fence.Frozen, Epoch: r.Epoch}) {
			n.staging, n.fence.State = maps.Clone(source.live), fence.Sealed
		}
	case "flip":
		if r != nil && r.State == director.Busy && m.nodes[r.Peer].fence == (fence.Fence{State: fence.Sealed, Epoch: r.Epoch}) {
			m.put(r.Flip())
		}
	case "rollback":
		if r != nil && r.State == director.Busy {
			m.put(r.Rollback())
		}
	case "look":
		m.look(m.node())
	}
}

// TestHistories: whatever happened, and wherever the directory went back to, a
// restored one has at most one backend that serves the user; that one has all that
// was answered for, if all backends were asked; and nothing is destroyed.
func TestHistories(t *testing.T) {
	verdicts := map[Verdict]int{}
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		// What moves on comes more often than what ends.
		steps := []string{"create", "create", "write", "write", "busy", "busy", "freeze", "freeze", "seal", "seal", "flip", "flip", "rollback", "delete", "look", "look", "look"}
		for _, what := range rapid.SliceOfN(rapid.SampledFrom(steps), 5, 60).Draw(t, "steps") {
			m.step(what)
		}
		alive := m.rec != nil && m.rec.State != director.Deleted
		now := m.rec

		// The directory goes back, or is gone.
		m.rec = nil
		if back := rapid.IntRange(-1, len(m.history)-1).Draw(t, "back to"); back >= 0 {
			m.rec = m.history[back]
		}
		if rapid.Bool().Draw(t, "it is written to") { // by a home that takes a busy user back (R7)
			m.step("rollback")
			for range rapid.IntRange(0, 3).Draw(t, "looks before") {
				m.step("look")
			}
		}
		c := Claims{Record: m.rec, Account: alive, Fences: map[director.BackendID]Fence{}}
		w := World{Silent: map[director.BackendID]bool{}}
		var silent director.BackendID
		if rapid.IntRange(0, 3).Draw(t, "one is away") == 0 {
			silent = m.node()
			w.Silent[silent] = true
		}
		for id, n := range m.nodes {
			if id != silent && n.fence.State != fence.Missing {
				c.Fences[id] = Fence{State: string(n.fence.State), Epoch: n.fence.Epoch}
			}
		}
		// Backends look at what there is, old as it is, also behind the sweep.
		for range rapid.IntRange(0, 4).Draw(t, "looks") {
			if id := m.node(); id != silent {
				m.look(id)
			}
		}
		d := Decide(w, c)
		verdicts[d.Verdict]++
		if d.Verdict != None {
			m.rec = &d.Record
		}
		for range 3 {
			for _, id := range rapid.Permutation(slices.Sorted(maps.Keys(m.nodes))).Draw(t, "order") {
				m.look(id)
			}
		}
		m.check(d, now, alive, silent == "")
	})
	if verdicts[Closed] > 9*verdicts[Decided] {
		t.Errorf("too much is left to the operator: %v", verdicts)
	}
}

func (m *model) check(d Decision, now *director.Record, alive, all bool) {
	t := m.t
	serving := 0
	for id, n := range m.nodes {
		if n.fence.State == fence.Serving && !n.refused {
			serving++
			if d.Verdict != Decided || d.Record.Home != id || n.fence.Epoch != d.Record.Epoch {
				t.Fatalf("%s serves at %s, decided was %s %q", id, n.fence, d.Verdict, d.Record)
			}
		}
	}
	if serving > 1 {
		t.Fatalf("%d backends serve", serving)
	}
	if !alive {
		return
	}
	has := func(tree map[int]bool) bool {
		for id := range m.acked {
			if tree == nil || !tree[id] {
				return false
			}
		}
		return tree != nil
	}
	whole := len(m.acked) == 0 // what was never looked at, and has nothing
	for _, n := range m.nodes {
		whole = whole || has(n.live) || n.fence.State == fence.Sealed && has(n.staging) || slices.ContainsFunc(n.trash, has)
	}
	if !whole {
		t.Fatalf("nobody has all mail any more: decided %s %q, was %q (%s)", d.Verdict, d.Record, now, d.Why)
	}
	if !all || d.Verdict != Decided || d.Record.State != director.Active {
		return
	}
	if home := m.nodes[d.Record.Home]; serving != 1 || !has(home.live) {
		t.Fatalf("the home %s does not serve all mail: fence %s, decided %q, was %q (%s)", d.Record.Home, home.fence, d.Record, now, d.Why)
	}
}
