package benchmark

import (
	"strings"
	"testing"
	"time"

	"waypost/internal/bench"
	"waypost/internal/bench/access"
)

func TestAccess(t *testing.T) {
	s := access.Suite{Dir: t.TempDir(), Sizes: []int{60}, Batch: 20, Singles: 5, Sessions: 3, Rounds: 1, Duration: time.Millisecond, Pause: time.Millisecond,
		Peers: []bench.Peer{Peer(Options{Settle: time.Millisecond})}}
	rep, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	states := make(map[access.State]bool)
	for _, r := range rep.Rows {
		states[r.State] = true
		if r.WallMS <= 0 || r.Times < 1 {
			t.Errorf("%+v", r)
		}
	}
	if !states[access.NoIndex] || !states[access.Warm] || len(states) != 3 {
		t.Errorf("states: %v", states)
	}
	if len(rep.Idle) != 2 || rep.Idle[0].Part != "backend" {
		t.Errorf("idle sessions: %+v", rep.Idle)
	}
}

// Single rows are measured without the rest.
func TestAccessOnly(t *testing.T) {
	s := access.Suite{Dir: t.TempDir(), Sizes: []int{60}, Batch: 20, Singles: 5, Sessions: 3, Rounds: 1, Duration: time.Millisecond, Pause: time.Millisecond,
		Only: []string{"warm:pop3-retr", "cold:fetch-preview", "login-alone", "append", "move", "resync"}, Peers: []bench.Peer{Peer(Options{Settle: time.Millisecond})}}
	rep, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, r := range rep.Rows {
		rows = append(rows, string(r.State)+", "+r.Operation)
	}
	want := "warm, POP3 RETR of 20; warm, login+SELECT+LOGOUT, alone; restarted, FETCH PREVIEW; warm, APPEND of 20; warm, MOVE of 20; warm, resync of 60 changes"
	if got := strings.Join(rows, "; "); got != want || len(rep.Idle) != 0 {
		t.Errorf("%s; %d idle rows", got, len(rep.Idle))
	}
}

func TestGauge(t *testing.T) {
	text := []byte("# HELP a b\na 1.5e+03\nb{x=\"y\"} 7\nb 500\nc x\n")
	for name, want := range map[string]int64{"a": 1500, "b": 500} {
		if n, err := gauge(text, name); n != want || err != nil {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
	for _, name := range []string{"c", "d"} {
		if _, err := gauge(text, name); err == nil {
			t.Errorf("%s: a metric that is none", name)
		}
	}
}
