package plan

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/director"
)

// cluster is a small cluster whose plans can be carried out.
type cluster struct {
	backends map[director.BackendID]*Backend
	users    map[director.BackendID][]User
}

func newCluster(ids ...director.BackendID) *cluster {
	c := &cluster{backends: map[director.BackendID]*Backend{}, users: map[director.BackendID][]User{}}
	for _, id := range ids {
		c.backends[id] = &Backend{ID: id, State: director.BackendActive, Weight: 100, Capacity: 1 << 40}
	}
	return c
}

func (c *cluster) add(home director.BackendID, us ...User) *cluster {
	c.users[home] = append(c.users[home], us...)
	return c
}

func (c *cluster) input(p director.PlanPolicy) Input {
	in := Input{Policy: p.WithDefaults(), Groups: map[string]int{}, Now: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)}
	for id, b := range c.backends {
		x := *b
		x.Use, x.Misplaced = director.PlanUse{}, false
		for _, u := range c.users[id] {
			x.Use = sum(x.Use, director.PlanUse{Users: 1, Bytes: u.Bytes, Messages: u.Messages, Load: u.Load})
			x.Misplaced = x.Misplaced || !director.MayLive(u.Tags, b.Tags)
			if u.Group != "" {
				in.Groups[u.Group]++
			}
		}
		in.Backends = append(in.Backends, x)
	}
	in.Users = func(id director.BackendID) iter.Seq2[User, error] {
		return func(yield func(User, error) bool) {
			for _, u := range c.users[id] {
				if !yield(u, nil) {
					return
				}
			}
		}
	}
	return in
}

func (c *cluster) plan(t testing.TB, p director.PlanPolicy) Plan {
	t.Helper()
	out, err := Make(c.input(p))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// apply carries a plan out.
func (c *cluster) apply(t testing.TB, out Plan, hold bool) {
	t.Helper()
	for _, e := range out.Entries {
		i := slices.IndexFunc(c.users[e.From], func(u User) bool { return u.Name == e.User })
		if i < 0 {
			t.Fatalf("%s does not live on %s", e.User, e.From)
		}
		u := c.users[e.From][i]
		u.Held = hold
		c.users[e.From] = slices.Delete(c.users[e.From], i, i+1)
		c.users[e.To] = append(c.users[e.To], u)
	}
}

func some(n int, prefix string, bytes int64) []User {
	var us []User
	for i := range n {
		us = append(us, User{Name: director.User(fmt.Sprintf("%s%03d@x.test", prefix, i)), Bytes: bytes, Messages: bytes / 10, Load: 1})
	}
	return us
}

func TestNothingToDo(t *testing.T) {
	c := newCluster("b1", "b2").add("b1", some(20, "a", 100)...).add("b2", some(19, "b", 100)...)
	for _, by := range []string{"bytes", "users", "messages", "load"} {
		if out := c.plan(t, director.PlanPolicy{By: by}); len(out.Entries) != 0 || !strings.Contains(out.Reason, "within") {
			t.Errorf("%s: %d moves, %q", by, len(out.Entries), out.Reason)
		}
	}
}

func TestLevelsByEachMeasure(t *testing.T) {
	for _, by := range []string{"bytes", "users", "messages", "load"} {
		c := newCluster("b1", "b2", "b3").add("b1", some(300, "a", 100)...).add("b2", some(60, "b", 100)...)
		out := c.plan(t, director.PlanPolicy{By: by})
		if out.Summary.ImbalanceAfter > 0.1 || out.Summary.ImbalanceBefore < 1 || len(out.Entries) == 0 {
			t.Errorf("%s: %d moves, %+v", by, len(out.Entries), out.Summary)
		}
		c.apply(t, out, false)
		if again := c.plan(t, director.PlanPolicy{By: by}); len(again.Entries) != 0 {
			t.Errorf("%s: the next plan moves %d more", by, len(again.Entries))
		}
	}
}

func TestWeightsAndCapacities(t *testing.T) {
	c := newCluster("b1", "b2", "b3").add("b1", some(800, "a", 100)...)
	c.backends["b2"].Weight, c.backends["b3"].Capacity = 200, 1<<39
	out := c.plan(t, director.PlanPolicy{Band: 0.02})
	want := map[director.BackendID]float64{"b1": 2. / 7, "b2": 4. / 7, "b3": 1. / 7}
	for _, b := range out.Summary.Backends {
		if got := float64(b.After.Bytes) / 80000; math.Abs(got-want[b.ID]) > 0.02*want[b.ID]+0.002 {
			t.Errorf("%s holds %.3f, wants %.3f", b.ID, got, want[b.ID])
		}
	}
	// By users capacities do not count, but a full disk does.
	c.backends["b3"].Capacity = 5000
	for _, b := range c.plan(t, director.PlanPolicy{By: "users", Band: 0.02}).Summary.Backends {
		if b.ID == "b3" && (b.After.Bytes > 4500 || b.After.Bytes < 4000) {
			t.Errorf("b3 holds %d", b.After.Bytes)
		}
	}
}

func TestDrain(t *testing.T) {
	c := newCluster("b1", "b2", "b3").add("b1", some(50, "a", 100)...).add("b2", some(70, "b", 100)...).add("b3", some(50, "c", 100)...)
	c.users["b1"][7].Held, c.users["b1"][8].Active, c.users["b1"][9].Load = true, true, 99
	c.backends["b1"].State = director.BackendDraining
	out := c.plan(t, director.PlanPolicy{Goal: director.GoalDrain})
	if len(out.Entries) != 50 || out.Summary.Reasons["drain"] != 50 {
		t.Fatalf("%d moves: %+v", len(out.Entries), out.Summary.Reasons)
	}
	last := out.Entries[48:]
	if last[0].User != "a009@x.test" || last[0].When != "hot" || last[1].User != "a008@x.test" || last[1].When != "active" {
		t.Errorf("last are %+v", last)
	}
	in := map[director.BackendID]int{}
	for _, e := range out.Entries {
		in[e.To]++
	}
	if in["b3"] != 35 || in["b2"] != 15 {
		t.Errorf("%v: want both at 85", in)
	}
}

func TestDrainWithoutRoom(t *testing.T) {
	c := newCluster("b1", "b2").add("b1", some(10, "a", 100)...)
	c.backends["b1"].State, c.backends["b2"].Capacity = director.BackendDraining, 500
	out := c.plan(t, director.PlanPolicy{})
	if len(out.Entries) != 4 || len(out.Summary.Notes) != 1 || !strings.Contains(out.Summary.Notes[0], "6 users must leave") {
		t.Errorf("%d moves, %q", len(out.Entries), out.Summary.Notes)
	}
}

func TestFill(t *testing.T) {
	c := newCluster("b1", "b2", "b3", "b4").add("b1", some(100, "a", 100)...).add("b2", some(160, "b", 100)...).add("b3", some(100, "c", 100)...)
	out := c.plan(t, director.PlanPolicy{Goal: director.GoalFill, Fill: "b4"})
	for _, e := range out.Entries {
		if e.To != "b4" {
			t.Fatalf("%+v", e)
		}
	}
	if n := len(out.Entries); n < 85 || n > 90 {
		t.Errorf("%d moves: want b4 at half of the band below 90", n)
	}
	c.backends["b4"].Weight = 0
	if _, err := Make(c.input(director.PlanPolicy{Goal: director.GoalFill, Fill: "b4"})); !errors.Is(err, director.ErrIllegal) {
		t.Error(err)
	}
}

func TestNewBackendIsFilledByLevelling(t *testing.T) {
	ids := []director.BackendID{"n"}
	for i := range 30 {
		ids = append(ids, director.BackendID(fmt.Sprintf("b%02d", i)))
	}
	c := newCluster(ids...)
	for _, id := range ids[1:] {
		c.add(id, some(100, string(id)+"-", 100)...)
	}
	out := c.plan(t, director.PlanPolicy{})
	if n := len(out.Entries); n < 80 || n > 97 || out.Summary.ImbalanceAfter > 0.1 {
		t.Errorf("%d moves, imbalance %v", n, out.Summary.ImbalanceAfter)
	}
	if out.Summary.Reasons["fill"] != len(out.Entries) {
		t.Errorf("%v", out.Summary.Reasons)
	}
}

func TestTags(t *testing.T) {
	c := newCluster("b1", "b2", "b3").add("b1", some(30, "a", 100)...)
	c.backends["b2"].Tags = []string{"eu", "ssd"}
	for i := range 5 {
		c.users["b1"][i].Tags = []string{"eu"}
	}
	c.users["b1"][5].Tags = []string{"mars"}
	out := c.plan(t, director.PlanPolicy{})
	at := map[director.User]director.PlanEntry{}
	for _, e := range out.Entries {
		at[e.User] = e
	}
	for i := range 5 {
		if e := at[c.users["b1"][i].Name]; e.To != "b2" || e.Why != "tags" {
			t.Errorf("user %d: %+v", i, e)
		}
	}
	if e, moves := at[c.users["b1"][5].Name]; moves {
		t.Errorf("%+v", e)
	}
	if !strings.Contains(strings.Join(out.Summary.Notes, "\n"), "1 users have tags") {
		t.Errorf("%q", out.Summary.Notes)
	}
}

func TestGroupsStayTogether(t *testing.T) {
	c := newCluster("b1", "b2").add("b1", some(40, "a", 100)...)
	for i := range 6 {
		c.users["b1"][i].Group = "whole"
		c.users["b1"][10+i].Group = "apart"
	}
	c.add("b2", User{Name: "far@x.test", Bytes: 100, Group: "apart"})
	out := c.plan(t, director.PlanPolicy{})
	whole := 0
	for i, e := range out.Entries {
		switch e.Group {
		case "apart":
			t.Errorf("%+v", e)
		case "whole":
			whole++
			if whole > 1 && out.Entries[i-1].Group != "whole" {
				t.Error("a group's entries do not follow each other")
			}
		}
	}
	if whole != 0 && whole != 6 {
		t.Errorf("%d of a group of 6 move", whole)
	}
}

func TestLimits(t *testing.T) {
	c := newCluster("b1", "b2").add("b1", some(1000, "a", 100)...)
	for _, p := range []director.PlanPolicy{{MaxBytes: 1234}, {MaxMoves: 12}} {
		out := c.plan(t, p)
		if len(out.Entries) != 12 || out.Bytes != 1200 || !strings.Contains(out.Summary.Notes[0], "left for a further plan") {
			t.Errorf("%+v: %d moves, %d bytes, %q", p, len(out.Entries), out.Bytes, out.Summary.Notes)
		}
	}
	if out := c.plan(t, director.PlanPolicy{MaxBytes: 99}); len(out.Entries) != 0 || !strings.Contains(out.Reason, "limits") {
		t.Errorf("%d moves, %q", len(out.Entries), out.Reason)
	}
}

func TestHeldAndMovingStay(t *testing.T) {
	c := newCluster("b1", "b2").add("b1", some(10, "a", 100)...)
	for i := range c.users["b1"] {
		c.users["b1"][i].Held, c.users["b1"][i].Moving = i < 5, i >= 5
	}
	if out := c.plan(t, director.PlanPolicy{}); len(out.Entries) != 0 || !strings.Contains(out.Reason, "nobody can be moved now") {
		t.Errorf("%d moves, %q", len(out.Entries), out.Reason)
	}
	c.backends["b1"].State = director.BackendDraining
	if out := c.plan(t, director.PlanPolicy{}); len(out.Entries) != 5 {
		t.Errorf("%d moves", len(out.Entries))
	}
}

func TestAwayBackendsAreLeftAlone(t *testing.T) {
	c := newCluster("b1", "b2", "b3", "b4").add("b1", some(90, "a", 100)...).add("b4", some(90, "d", 100)...)
	c.backends["b3"].Away, c.backends["b4"].State = true, director.BackendOffline
	out := c.plan(t, director.PlanPolicy{})
	for _, e := range out.Entries {
		if e.From != "b1" || e.To != "b2" {
			t.Fatalf("%+v", e)
		}
	}
	if n := len(out.Entries); n < 42 || n > 48 {
		t.Errorf("%d moves", n)
	}
}

func TestSmallGainIsNotWorthIt(t *testing.T) {
	c := newCluster("b1", "b2").add("b1", some(112, "a", 100)...).add("b2", some(88, "b", 100)...)
	if out := c.plan(t, director.PlanPolicy{MinGain: 0.2}); len(out.Entries) != 0 || !strings.Contains(out.Reason, "would gain") || out.Summary.ImbalanceAfter != out.Summary.ImbalanceBefore {
		t.Errorf("%d moves, %q, %+v", len(out.Entries), out.Reason, out.Summary)
	}
	if out := c.plan(t, director.PlanPolicy{MinGain: 0.05}); len(out.Entries) == 0 {
		t.Error(out.Reason)
	}
}

func TestErrors(t *testing.T) {
	c := newCluster("b1", "b2").add("b1", some(3, "a", 1)...)
	in := c.input(director.PlanPolicy{})
	in.Users = func(director.BackendID) iter.Seq2[User, error] {
		return func(yield func(User, error) bool) { yield(User{}, director.ErrUnavailable) }
	}
	if _, err := Make(in); !errors.Is(err, director.ErrUnavailable) {
		t.Error(err)
	}
	in.Policy.By = "colour"
	if _, err := Make(in); !errors.Is(err, director.ErrInvalid) {
		t.Error(err)
	}
}

func TestWaits(t *testing.T) {
	at := func(s string) time.Time {
		x, err := time.Parse("15:04", s)
		if err != nil {
			t.Fatal(err)
		}
		return x.AddDate(2026, 4, 4)
	}
	for _, c := range []struct {
		window, now string
		work, want  time.Duration
	}{
		{"", "12:00", 100 * time.Hour, 0},
		{"01:00-05:00", "23:00", time.Hour, 2 * time.Hour},
		{"01:00-05:00", "02:00", 3 * time.Hour, 0},
		{"01:00-05:00", "02:00", 4 * time.Hour, 20 * time.Hour},
		{"22:00-02:00", "23:00", 3 * time.Hour, 0},
		{"22:00-02:00", "03:00", 9 * time.Hour, (19 + 20 + 20) * time.Hour},
	} {
		if got := Waits(c.window, at(c.now), c.work); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// Empty mailboxes are spread, too, though by bytes they weigh nothing.
func TestDrainOfEmptyMailboxes(t *testing.T) {
	c := newCluster("b1", "b2", "b3").add("b1", some(20, "a", 0)...)
	c.backends["b1"].State = director.BackendDraining
	out := c.plan(t, director.PlanPolicy{})
	in := map[director.BackendID]int{}
	for _, e := range out.Entries {
		in[e.To]++
	}
	if in["b2"] != 10 || in["b3"] != 10 {
		t.Errorf("%v", in)
	}
}

func TestCalm(t *testing.T) {
	calm := func(c *cluster, p director.PlanPolicy) bool {
		t.Helper()
		in := c.input(p)
		got, err := Calm(in.Policy, in.Backends)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	c := newCluster("b1", "b2").add("b1", some(20, "a", 100)...).add("b2", some(19, "b", 100)...)
	if !calm(c, director.PlanPolicy{}) || calm(c, director.PlanPolicy{Band: 0.01}) || !calm(c, director.PlanPolicy{Band: 0.01, Goal: director.GoalDrain}) {
		t.Error("levelling")
	}
	c.backends["b1"].State = director.BackendDraining
	if calm(c, director.PlanPolicy{Goal: director.GoalDrain}) {
		t.Error("a backend drains")
	}
}
