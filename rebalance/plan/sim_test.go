package plan

import (
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"waypost/director"
)

// simulated is a large cluster in a few bytes a user: sizes have a heavy tail
// (Pareto), a few users have hundreds of times the mean.
type simulated struct {
	backends int
	size     []int64
	home     []uint16
	moves    []uint8 // how often each was moved
	on       [][]uint32
}

func simulate(backends, users int) *simulated {
	s := &simulated{backends: backends, size: make([]int64, users), home: make([]uint16, users), moves: make([]uint8, users), on: make([][]uint32, backends)}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range s.size {
		// Mean about 300 MB, alpha 1.3, at most 50 GB.
		s.size[i] = int64(min(70e6/math.Pow(1-r.Float64(), 1/1.3), 50e9))
		// Some backends have been filled for longer than others; a tenth is new.
		b := r.IntN(backends)
		if b%10 == 9 || b%7 == 3 && r.IntN(2) == 0 {
			b = r.IntN(backends) / 10 * 10
		}
		s.home[i] = uint16(b)
		s.on[b] = append(s.on[b], uint32(i))
	}
	return s
}

func (s *simulated) input(p director.PlanPolicy, drain int) Input {
	in := Input{Policy: p.WithDefaults(), Now: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)}
	for b := range s.backends {
		x := Backend{ID: backendName(b), State: director.BackendActive, Weight: 100, Capacity: 8e12}
		if b == drain {
			x.State = director.BackendDraining
		}
		for _, i := range s.on[b] {
			x.Use.Users++
			x.Use.Bytes += s.size[i]
			x.Use.Messages += s.size[i] / 50_000
			x.Use.Load += s.load(i)
		}
		in.Backends = append(in.Backends, x)
	}
	in.Users = func(id director.BackendID) iter.Seq2[User, error] {
		return func(yield func(User, error) bool) {
			for _, i := range s.on[backendNumber(id)] {
				u := User{Name: director.User("u" + strconv.Itoa(int(i)) + "@x.test"), Bytes: s.size[i], Messages: s.size[i] / 50_000,
					Load: s.load(i), Active: i%17 == 0, Held: s.moves[i] > 0}
				if !yield(u, nil) {
					return
				}
			}
		}
	}
	return in
}

func (s *simulated) load(i uint32) float64 { return float64(i%13) / 10 }

func backendName(b int) director.BackendID { return director.BackendID(fmt.Sprintf("b%04d", b)) }
func backendNumber(id director.BackendID) int {
	n, _ := strconv.Atoi(string(id[1:]))
	return n
}

func (s *simulated) apply(t testing.TB, out Plan) {
	for _, e := range out.Entries {
		i, err := strconv.Atoi(string(e.User[1 : len(e.User)-len("@x.test")]))
		if err != nil || s.home[i] != uint16(backendNumber(e.From)) {
			t.Fatalf("%+v: %v", e, err)
		}
		s.moves[i]++
		s.home[i] = uint16(backendNumber(e.To))
	}
	for b := range s.on {
		s.on[b] = s.on[b][:0]
	}
	for i, b := range s.home {
		s.on[b] = append(s.on[b], uint32(i))
	}
}

// run plans and carries out until nothing is left to move.
func (s *simulated) run(t testing.TB, p director.PlanPolicy) (rounds int, moves int, bytes int64, slowest time.Duration) {
	for ; rounds < 60; rounds++ {
		in := s.input(p, -1)
		start := time.Now()
		out, err := Make(in)
		if err != nil {
			t.Fatal(err)
		}
		slowest = max(slowest, time.Since(start))
		held := map[director.BackendID]int64{}
		for _, b := range in.Backends {
			held[b.ID] = b.Use.Bytes
		}
		for _, e := range out.Entries {
			if held[e.To] += e.Bytes; held[e.To] > 72e11 {
				t.Fatalf("%s is filled to %d", e.To, held[e.To])
			}
		}
		if p.MaxBytes > 0 && out.Bytes > p.MaxBytes {
			t.Fatalf("%d bytes", out.Bytes)
		}
		if len(out.Entries) == 0 {
			return rounds, moves, bytes, slowest
		}
		moves, bytes = moves+len(out.Entries), bytes+out.Bytes
		s.apply(t, out)
	}
	t.Fatalf("not at an end after %d rounds", rounds)
	return
}

// testSimulated levels the cluster, adds nothing, and levels again; then empties a
// backend.
func testSimulated(t testing.TB, backends, users int) {
	s := simulate(backends, users)
	rounds, moves, bytes, slowest := s.run(t, director.PlanPolicy{})
	in := s.input(director.PlanPolicy{}, -1)
	worst, least := 0.0, int64(0)
	total := int64(0)
	for _, b := range in.Backends {
		total += b.Use.Bytes
	}
	share := float64(total) / float64(backends)
	for _, b := range in.Backends {
		worst = max(worst, math.Abs(float64(b.Use.Bytes)/share-1))
	}
	fresh := simulate(backends, users)
	for _, b := range fresh.input(director.PlanPolicy{}, -1).Backends {
		least += max(0, int64(share*0.9)-b.Use.Bytes)
	}
	t.Logf("%d users on %d backends: %d rounds, %d moves, %.1f TB of %.1f TB (at least %.1f TB had to move), slowest plan %v, imbalance left %.3f",
		users, backends, rounds, moves, float64(bytes)/1e12, float64(total)/1e12, float64(least)/1e12, slowest, worst)
	if worst > 0.1 {
		t.Errorf("a backend is %.3f from its share", worst)
	}
	if float64(bytes) > 1.5*float64(least) {
		t.Errorf("%d bytes moved, %d had to", bytes, least)
	}
	for i, n := range s.moves {
		if n > 1 {
			t.Fatalf("user %d was moved %d times", i, n)
		}
	}
	out, err := Make(s.input(director.PlanPolicy{}, 42))
	if err != nil {
		t.Fatal(err)
	}
	if out.Summary.Reasons["drain"] != len(s.on[42]) {
		t.Errorf("%d of %d leave the backend that drains: %q", out.Summary.Reasons["drain"], len(s.on[42]), out.Summary.Notes)
	}
}

// Plans that are carried out one after the other, 100,000 moves at most each, end
// with a level cluster.
//
// The race detector makes this ten times slower, and the code has no goroutines: under
// it, the cluster is smaller.
func TestSimulatedCluster(t *testing.T) {
	if raceEnabled {
		testSimulated(t, 200, 100_000)
		return
	}
	testSimulated(t, 1000, 1_000_000)
}

// One plan for ten million users; under the race detector, for fewer.
func TestTenMillionUsers(t *testing.T) {
	if raceEnabled {
		testSimulated(t, 100, 100_000)
		return
	}
	s := simulate(1000, 10_000_000)
	in := s.input(director.PlanPolicy{}, -1)
	start := time.Now()
	out, err := Make(in)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d moves planned in %v", len(out.Entries), time.Since(start))
	if len(out.Entries) == 0 || out.Summary.ImbalanceAfter >= out.Summary.ImbalanceBefore {
		t.Errorf("%d moves, %+v", len(out.Entries), out.Summary.Reasons)
	}
}

// A bounded plan a night comes to the same end.
func TestSimulatedBudget(t *testing.T) {
	s := simulate(100, 100_000)
	rounds, _, _, _ := s.run(t, director.PlanPolicy{MaxBytes: 200e9, By: director.ByBytes})
	if rounds < 5 {
		t.Errorf("%d rounds", rounds)
	}
}

func TestSimulatedByOthers(t *testing.T) {
	for _, by := range []string{"users", "messages", "load"} {
		s := simulate(100, 100_000)
		rounds, moves, bytes, _ := s.run(t, director.PlanPolicy{By: by})
		t.Logf("by %s: %d rounds, %d moves, %d GB", by, rounds, moves, bytes/1e9)
	}
}

func BenchmarkMake(b *testing.B) {
	s := simulate(1000, 10_000_000)
	in := s.input(director.PlanPolicy{}, -1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Make(in); err != nil {
			b.Fatal(err)
		}
	}
}
