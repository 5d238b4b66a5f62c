package fence

import (
	"strings"
	"testing"

	"waypost/director"
)

const (
	me    = director.BackendID("b1")
	other = director.BackendID("b2")
	third = director.BackendID("b3")
)

var states = []State{Missing, Serving, Frozen, Incoming, Sealed, Gone, Unreadable}

// table is R4: what a fence at epoch 10 does on seeing a record. The epoch
// column is the record's, compared with the fence's: below (every epoch under
// it), equal, or above (every epoch over it). After serve, adopt, trash and
// drop stands the epoch of the fence that follows: = the record's, -1 the one
// before it.
const table = `
home   record   epoch | missing serving  frozen   incoming sealed    gone    unreadable
me     active   below | refuse  refuse   refuse   refuse   refuse    refuse  refuse
me     active   equal | refuse  keep     refuse   refuse   refuse    refuse  refuse
me     active   above | refuse  serve=   serve=   refuse   adopt=    refuse  refuse
me     busy     below | refuse  refuse   refuse   refuse   refuse    refuse  refuse
me     busy     equal | refuse  keep     keep     refuse   refuse    refuse  refuse
me     busy     above | refuse  keep     keep     refuse   adopt-1   refuse  refuse
me     deleted  below | keep    refuse   refuse   keep     keep      keep    refuse
me     deleted  equal | keep    refuse   refuse   drop=    keep      keep    refuse
me     deleted  above | keep    trash=   trash=   drop=    drop=     keep    refuse
other  active   below | keep    refuse   refuse   keep     keep      keep    refuse
other  active   equal | keep    refuse   refuse   drop=    drop=     keep    refuse
other  active   above | keep    refuse   trash=   drop=    drop=     keep    refuse
other  busy     below | keep    refuse   refuse   keep     keep      keep    refuse
other  busy     equal | keep    refuse   refuse   keep     keep      keep    refuse
other  busy     above | keep    refuse   trash=   drop=    drop=     keep    refuse
other  deleted  below | keep    refuse   refuse   keep     keep      keep    refuse
other  deleted  equal | keep    refuse   refuse   drop=    keep      keep    refuse
other  deleted  above | keep    refuse   trash=   drop=    drop=     keep    refuse
`

func TestReconcileTable(t *testing.T) {
	const at = director.Epoch(10)
	epochs := map[string][]director.Epoch{"below": {1, 8, 9}, "equal": {10}, "above": {11, 12, 15}}
	rows := 0
	for _, line := range strings.Split(strings.TrimSpace(table), "\n")[1:] {
		key, cells, _ := strings.Cut(line, "|")
		k, want := strings.Fields(key), strings.Fields(cells)
		if len(k) != 3 || len(want) != len(states) {
			t.Fatalf("malformed row %q", line)
		}
		rows++
		for _, e := range epochs[k[2]] {
			rec := director.Record{Home: me, Epoch: e, State: director.State(k[1])}
			if k[0] == "other" {
				rec.Home = other
			}
			if rec.State == director.Busy {
				rec.Peer = third
			}
			for i, s := range states {
				f := Fence{State: s, Epoch: at}
				d := Reconcile(me, f, &rec)
				if got := shown(d, f, rec); got != want[i] {
					t.Errorf("%s, record %q: got %s (%s %s), want %s", f, rec, got, d.Next, d.Why, want[i])
				}
				if (d.Action == Refuse) != (d.Why != "") {
					t.Errorf("%s, record %q: %s with why %q", f, rec, d.Action, d.Why)
				}
			}
		}
	}
	if rows != 2*3*3 {
		t.Fatalf("the table has %d rows", rows)
	}
}

// shown writes a decision as the table does; a next fence that no table entry
// means shows as itself.
func shown(d Decision, f Fence, rec director.Record) string {
	end := map[Action]State{Serve: Serving, Adopt: Serving, Trash: Gone, Drop: Gone}
	switch {
	case (d.Action == Keep || d.Action == Refuse) && d.Next == f:
		return string(d.Action)
	case d.Next == Fence{State: end[d.Action], Epoch: rec.Epoch}:
		return string(d.Action) + "="
	case d.Next == Fence{State: end[d.Action], Epoch: rec.Epoch - 1}:
		return string(d.Action) + "-1"
	}
	return string(d.Action) + " to " + d.Next.String()
}

func mustRefuse(t *testing.T, f Fence, rec *director.Record) {
	t.Helper()
	if d := Reconcile(me, f, rec); d.Action != Refuse {
		t.Errorf("%s with %v: got %s, want refuse", f, rec, d.Action)
	}
}

// TestReconcileWithoutRecord: a directory that has lost a user must not cost
// the user's mail, and a missing fence never makes a mailbox.
func TestReconcileWithoutRecord(t *testing.T) {
	for _, f := range []Fence{{}, {State: Gone, Epoch: 7}, {State: Sealed, Epoch: 0}} {
		if d := Reconcile(me, f, nil); d.Action != Keep || d.Next != f {
			t.Errorf("%s: got %s %s", f, d.Action, d.Next)
		}
	}
	for _, f := range []Fence{{State: Serving, Epoch: 7}, {State: Frozen, Epoch: 7}, {State: Incoming, Epoch: 7}, {State: Sealed, Epoch: 7}, {State: Unreadable}} {
		mustRefuse(t, f, nil)
	}
}

// TestAbandon: staging of a move that was undone before busy goes, and that of
// one that may still flip stays.
func TestAbandon(t *testing.T) {
	f := Fence{State: Incoming, Epoch: 7}
	active := &director.Record{Home: other, Epoch: 6, State: director.Active}
	mine := director.Move{Target: me, Epoch: 6, Phase: director.PhaseCopying}
	with := func(change func(*director.Move)) *director.Move { m := mine; change(&m); return &m }
	for name, c := range map[string]struct {
		f    Fence
		rec  *director.Record
		mv   *director.Move
		want Action
	}{
		"under way":    {f, active, &mine, Keep},
		"no journal":   {f, active, nil, Drop},
		"undone":       {f, active, with(func(m *director.Move) { m.Phase = director.PhaseUndone }), Drop},
		"other target": {f, active, with(func(m *director.Move) { m.Target = third }), Drop},
		"other epoch":  {f, active, with(func(m *director.Move) { m.Epoch = 4 }), Drop},
		"busy":         {f, &director.Record{Home: other, Epoch: 7, State: director.Busy, Peer: me}, nil, Keep},
		"sealed":       {Fence{State: Sealed, Epoch: 7}, active, nil, Keep},
		"no record":    {f, nil, nil, Keep},
		"home is mine": {f, &director.Record{Home: me, Epoch: 6, State: director.Active}, nil, Keep},
	} {
		d := Abandon(me, c.f, c.rec, c.mv)
		if d.Action != c.want || d.Action == Drop && d.Next != (Fence{State: Gone, Epoch: 7}) {
			t.Errorf("%s: got %s to %s, want %s", name, d.Action, d.Next, c.want)
		}
	}
}

// TestReconcileIsStable: obeying a record twice changes nothing more, but for
// a user that was adopted while busy for the next move.
func TestReconcileIsStable(t *testing.T) {
	for _, s := range states {
		for e := director.Epoch(1); e < 12; e++ {
			for _, home := range []director.BackendID{me, other} {
				for _, st := range []director.State{director.Active, director.Busy, director.Deleted} {
					rec := director.Record{Home: home, Epoch: e, State: st}
					first := Reconcile(me, Fence{State: s, Epoch: 6}, &rec)
					if first.Action == Refuse {
						continue
					}
					if second := Reconcile(me, first.Next, &rec); second.Action != Keep {
						t.Errorf("%s %d, record %s: %s to %s, then %s (%s)", s, 6, rec, first.Action, first.Next, second.Action, second.Why)
					}
				}
			}
		}
	}
}

// TestNoActionLowersAnEpoch: epochs of fences only rise.
func TestNoActionLowersAnEpoch(t *testing.T) {
	for _, s := range states {
		for e := director.Epoch(1); e < 12; e++ {
			for _, home := range []director.BackendID{me, other} {
				for _, st := range []director.State{director.Active, director.Busy, director.Deleted} {
					rec := director.Record{Home: home, Epoch: e, State: st}
					f := Fence{State: s, Epoch: 6}
					if d := Reconcile(me, f, &rec); d.Next.Epoch < f.Epoch {
						t.Errorf("%s with %s: %s lowers to %s", f, rec, d.Action, d.Next)
					}
				}
			}
		}
	}
}
