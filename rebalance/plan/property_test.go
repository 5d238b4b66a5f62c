package plan

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"waypost/director"
)

// drawCluster makes a small cluster with everything that plans know of.
func drawCluster(t *rapid.T) *cluster {
	c := &cluster{backends: map[director.BackendID]*Backend{}, users: map[director.BackendID][]User{}}
	tags := [][]string{nil, nil, nil, {"eu"}, {"eu", "ssd"}}
	n := rapid.IntRange(2, 6).Draw(t, "backends")
	name := 0
	for i := range n {
		b := &Backend{ID: director.BackendID(fmt.Sprintf("b%d", i)), State: director.BackendActive,
			Weight: rapid.SampledFrom([]int{0, 50, 100, 200}).Draw(t, "weight"), Tags: rapid.SampledFrom(tags).Draw(t, "tags")}
		b.State = rapid.SampledFrom([]director.BackendState{"active", "active", "active", "draining", "offline"}).Draw(t, "state")
		b.Away = rapid.IntRange(0, 9).Draw(t, "away") == 0
		b.Capacity = rapid.SampledFrom([]int64{0, 2000, 20_000, 200_000}).Draw(t, "capacity")
		c.backends[b.ID] = b
		for range rapid.IntRange(0, 40).Draw(t, "users") {
			name++
			u := User{Name: director.User(fmt.Sprintf("u%04d@x.test", name)), Bytes: rapid.Int64Range(0, 1000).Draw(t, "bytes"), Messages: 3,
				Load: float64(rapid.IntRange(0, 50).Draw(t, "load")), Tags: rapid.SampledFrom(tags).Draw(t, "user tags")}
			u.Active, u.Held, u.Moving = rapid.IntRange(0, 5).Draw(t, "active") == 0, rapid.IntRange(0, 9).Draw(t, "held") == 0, rapid.IntRange(0, 19).Draw(t, "moving") == 0
			if g := rapid.IntRange(0, 20).Draw(t, "group"); g < 3 {
				u.Group = fmt.Sprintf("g%d-%d", i, g)
				if g == 2 {
					u.Group = "everywhere"
				}
			}
			c.users[b.ID] = append(c.users[b.ID], u)
		}
	}
	return c
}

func drawPolicy(t *rapid.T) director.PlanPolicy {
	p := director.PlanPolicy{
		By:   rapid.SampledFrom([]string{"bytes", "users", "messages", "load"}).Draw(t, "by"),
		Goal: rapid.SampledFrom([]string{"level", "level", "drain"}).Draw(t, "goal"),
		Band: rapid.Float64Range(0.01, 0.5).Draw(t, "band"), Headroom: rapid.Float64Range(0, 0.3).Draw(t, "headroom"),
	}
	if rapid.Bool().Draw(t, "limited") {
		p.MaxBytes, p.MaxMoves = rapid.Int64Range(1, 10_000).Draw(t, "max bytes"), rapid.IntRange(1, 30).Draw(t, "max moves")
	}
	return p.WithDefaults()
}

// TestPromises holds what the package promises of every plan.
func TestPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCluster(t)
		in := c.input(drawPolicy(t))
		out, err := Make(in)
		if err != nil {
			t.Fatal(err)
		}
		checkPromises(t, c, in, out)
		again, err := Make(in)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(out) {
			t.Fatalf("the same input gives another plan: %v", err)
		}
	})
}

func checkPromises(t *rapid.T, c *cluster, in Input, out Plan) {
	users, home := map[director.User]User{}, map[director.User]director.BackendID{}
	for id, us := range c.users {
		for _, u := range us {
			users[u.Name], home[u.Name] = u, id
		}
	}
	held := map[director.BackendID]int64{}
	for _, b := range in.Backends {
		held[b.ID] = b.Use.Bytes
	}
	groupTo := map[string]director.BackendID{}
	groupN := map[string]int{}
	var bytes int64
	moved := map[director.User]bool{}
	class := 0
	for _, e := range out.Entries {
		u, to, from := users[e.User], c.backends[e.To], c.backends[e.From]
		switch {
		case moved[e.User]:
			t.Fatalf("%s moves twice", e.User)
		case home[e.User] != e.From || e.From == e.To:
			t.Fatalf("%+v, but the home is %s", e, home[e.User])
		case to.State != director.BackendActive || to.Away || to.Weight == 0 || from.Away || from.State == director.BackendOffline:
			t.Fatalf("%+v: target %+v, source %+v", e, to, from)
		case u.Moving, u.Held && e.Why != "drain" && e.Why != "tags":
			t.Fatalf("%+v moves: %+v", e, u)
		case u.Group == "" && !director.MayLive(u.Tags, to.Tags):
			t.Fatalf("%+v: tags %v", e, u.Tags)
		}
		moved[e.User] = true
		bytes += e.Bytes
		// Nothing that leaves is taken off: this holds in any order.
		held[e.To] += e.Bytes
		if to.Capacity > 0 && float64(held[e.To]) > float64(to.Capacity)*(1-in.Policy.Headroom) {
			t.Fatalf("%s is filled to %d of %d", e.To, held[e.To], to.Capacity)
		}
		if u.Group != "" {
			if at, ok := groupTo[u.Group]; ok && at != e.To {
				t.Fatalf("group %s goes to %s and %s", u.Group, at, e.To)
			}
			groupTo[u.Group] = e.To
			groupN[u.Group]++
		}
		now := map[string]int{"": 0, "hot": 1, "active": 2}[e.When]
		if now < class {
			t.Fatalf("%+v comes after those that are %d", e, class)
		}
		class = now
	}
	for g, n := range groupN {
		if n != in.Groups[g] {
			t.Fatalf("%d of the %d of group %s move", n, in.Groups[g], g)
		}
	}
	if in.Policy.MaxBytes > 0 && bytes > in.Policy.MaxBytes || len(out.Entries) > in.Policy.MaxMoves || bytes != out.Bytes {
		t.Fatalf("%d moves, %d bytes (told %d)", len(out.Entries), bytes, out.Bytes)
	}
	if (out.Reason == "") != (len(out.Entries) > 0) {
		t.Fatalf("%d moves, reason %q", len(out.Entries), out.Reason)
	}
	// What is predicted is what comes about.
	for _, b := range out.Summary.Backends {
		want := b.Before.Bytes
		for _, e := range out.Entries {
			if e.To == b.ID {
				want += e.Bytes
			}
			if e.From == b.ID {
				want -= e.Bytes
			}
		}
		if b.After.Bytes != want {
			t.Fatalf("%s: predicted %d, comes to %d", b.ID, b.After.Bytes, want)
		}
	}
}

// TestNeverThrashes: plans that are carried out come to an end, nobody moves again
// within the cool-down, and what was levelled is not levelled again.
func TestNeverThrashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCluster(t)
		p := drawPolicy(t)
		p.Goal = director.GoalLevel
		moves := map[director.User]int{}
		for round := 0; ; round++ {
			out, err := Make(c.input(p))
			if err != nil {
				t.Fatal(err)
			}
			if len(out.Entries) == 0 {
				return
			}
			if round > 200 {
				t.Fatalf("still %d moves after %d rounds: %v", len(out.Entries), round, out.Summary.Reasons)
			}
			for _, e := range out.Entries {
				if moves[e.User]++; moves[e.User] > 1 && e.Why != "drain" && e.Why != "tags" {
					t.Fatalf("%s is moved again: %+v", e.User, e)
				}
			}
			carryOut(c, out)
		}
	})
}

func carryOut(c *cluster, out Plan) {
	to := map[director.User]director.BackendID{}
	for _, e := range out.Entries {
		to[e.User] = e.To
	}
	next := map[director.BackendID][]User{}
	for id, us := range c.users {
		for _, u := range us {
			at := id
			if b, moves := to[u.Name]; moves {
				at, u.Held = b, true
			}
			next[at] = append(next[at], u)
		}
	}
	c.users = next
}

// TestAgainstBruteForce compares what is copied with the least that any plan as good
// would copy: at most twice that and one more user.
func TestAgainstBruteForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 3).Draw(t, "backends")
		c := &cluster{backends: map[director.BackendID]*Backend{}, users: map[director.BackendID][]User{}}
		var ids []director.BackendID
		var sizes []int64
		var homes []int
		total, largest := int64(0), int64(0)
		for i := range n {
			id := director.BackendID(fmt.Sprintf("b%d", i))
			ids = append(ids, id)
			c.backends[id] = &Backend{ID: id, State: director.BackendActive, Weight: 100}
		}
		for i := range rapid.IntRange(1, 9).Draw(t, "users") {
			size, home := rapid.Int64Range(1, 100).Draw(t, "size"), rapid.IntRange(0, n-1).Draw(t, "home")
			sizes, homes = append(sizes, size), append(homes, home)
			total, largest = total+size, max(largest, size)
			c.add(ids[home], User{Name: director.User(fmt.Sprintf("u%d@x.test", i)), Bytes: size})
		}
		p := director.PlanPolicy{Band: rapid.Float64Range(0.02, 0.3).Draw(t, "band"), MinGain: 0.0001}
		out, err := Make(c.input(p))
		if err != nil {
			t.Fatal(err)
		}
		if out.Summary.ImbalanceAfter > out.Summary.ImbalanceBefore+1e-9 {
			t.Fatalf("worse than before: %+v", out.Summary)
		}
		least := bruteForce(sizes, homes, n, float64(total)/float64(n)*(1+out.Summary.ImbalanceAfter+1e-9), float64(total)/float64(n)*(1-out.Summary.ImbalanceAfter-1e-9))
		if out.Bytes > 2*least+largest {
			t.Fatalf("copies %d, %d would do for imbalance %v (before %v)", out.Bytes, least, out.Summary.ImbalanceAfter, out.Summary.ImbalanceBefore)
		}
	})
}

// bruteForce gives the fewest bytes that bring every backend between low and high.
func bruteForce(sizes []int64, homes []int, n int, high, low float64) int64 {
	best := int64(math.MaxInt64 / 4)
	at := make([]int64, n)
	var try func(i int, moved int64)
	try = func(i int, moved int64) {
		if moved >= best {
			return
		}
		if i == len(sizes) {
			for _, x := range at {
				if float64(x) > high || float64(x) < low {
					return
				}
			}
			best = moved
			return
		}
		for b := range n {
			at[b] += sizes[i]
			if b == homes[i] {
				try(i+1, moved)
			} else {
				try(i+1, moved+sizes[i])
			}
			at[b] -= sizes[i]
		}
	}
	try(0, 0)
	return best
}
